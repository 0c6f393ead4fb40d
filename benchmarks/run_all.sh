#!/usr/bin/env bash
# Run all benchmarks on the real datasets, then write the README's tables: bash benchmarks/run_all.sh FOLDER
# FOLDER holds the folders mnist, cifar100 and caltech-101. This takes about an hour on two quiet cores.
set -euo pipefail
cd "$(dirname "$0")/.."
data=${1:?"give the folder of the datasets"}
python=${PYTHON:-.venv/bin/python}
machine=${MACHINE:-$(nproc)core}
out=benchmarks/results
for name in mnist cifar100 caltech-101; do
  "$python" benchmarks/loader_bench.py --dataset "$data/$name" --cold --seconds 3 \
    --json "$out/loader-$name-$machine.json" --markdown "$out/loader-$name-$machine.md" \
    --chart "$out/loader-$name-$machine.png"
done
"$python" benchmarks/prepare_bench.py --dataset "$data/caltech-101" --turns 7 \
  --json "$out/prepare-caltech-101-$machine.json" --markdown "$out/prepare-caltech-101-$machine.md"
"$python" benchmarks/train_bench.py --dataset "$data/mnist" --loaders resident,ffcv,dali,torch \
  --accuracy 0.99 --epochs 1.25 --limit 1900 \
  --json "$out/train-mnist-$machine.json" --markdown "$out/train-mnist-$machine.md"
for name in cifar100 caltech-101; do
  "$python" benchmarks/train_bench.py --dataset "$data/$name" --loaders resident,torch \
    --json "$out/train-$name-$machine.json" --markdown "$out/train-$name-$machine.md"
done
"$python" benchmarks/make_tables.py
