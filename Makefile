# `make train` and `make test` do all the set-up themselves; `make help` lists the rest.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell command -v python3.11 || command -v python3)
UV := $(shell command -v uv || echo .tools/uv/bin/uv)
RUN := .venv/bin/python
# The environment is made from these; while they stay, nothing asks the network.
STAMP := .venv/.synced
export UV_PYTHON_PREFERENCE ?= only-system
# Once here, instead of at every start where Python may not write it (PYTHONDONTWRITEBYTECODE): 4 s for torch alone.
export UV_COMPILE_BYTECODE ?= 1
export UV_COMPILE_BYTECODE_TIMEOUT ?= 900
ARGS ?=
# Unless ARGS names a dataset, or a file of options that may.
SAMPLE := $(if $(findstring --dataset,$(ARGS))$(findstring --config,$(ARGS)),,--dataset samples/mnist)
GPU_PYTHON ?= python3
# torch for CUDA, DALI and the lock are for Linux x86-64.
OTHER_SYSTEM := $(filter-out Linux x86_64,$(shell uname -sm))
# What was added by hand stays.
EXTRAS := --extra pretrained --extra export --extra serve --extra tensorboard $(if $(wildcard .venv/lib/python*/site-packages/ffcv),--extra ffcv)
# What the tests of several machines need beside that.
CLUSTER := --extra dask --extra ray --extra storage
REFUSE_OTHER_SYSTEM = $(if $(OTHER_SYSTEM),$(error This runs on Linux x86-64 alone, and this is $(OTHER_SYSTEM): \
  use WSL2 on Windows, a Linux machine or container on macOS))

.PHONY: help ffcv train test test-slow hardening cases lint format forms samples bench bench-all bench-check gpu-check compare clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

train: $(STAMP) ## train on the bundled MNIST sample (ARGS="--epochs 3" for more options)
	$(RUN) scripts/train.py $(SAMPLE) $(ARGS)

ffcv: | $(UV) ## add the FFCV engine, which is built from source
	@pkg-config --exists libturbojpeg opencv4 && command -v g++ > /dev/null \
	  || { echo "FFCV needs: apt-get install libturbojpeg0-dev libopencv-dev pkg-config g++"; exit 1; }
	$(UV) sync --locked --python $(PYTHON) --extra pretrained --extra export --extra serve --extra tensorboard --extra ffcv
	@touch $(STAMP)

# Idle threads of two test processes would spin on the cores that the other needs: four fifths of the time.
test: export OMP_WAIT_POLICY ?= PASSIVE
test: $(STAMP) ## all tests that take seconds
	$(RUN) -m pytest -n auto -m "not slow" $(ARGS)

test-slow: $(STAMP) ## the tests that take minutes
	$(UV) sync --locked --inexact --quiet --python $(PYTHON) $(EXTRAS) $(CLUSTER)
	$(RUN) -m pytest -m slow $(ARGS)

hardening: export HARDENING_SEED ?= 34
hardening: export HARDENING_COUNT ?= 0.2
hardening: export OMP_WAIT_POLICY ?= PASSIVE
hardening: $(STAMP) ## stop, kill and starve it at random moments, with a seed (docs/reliability.md)
	$(RUN) -m pytest tests/hardening -n auto --dist loadfile $(ARGS)

cases: $(STAMP) ## every input of ../shared/cases against its right value
	$(RUN) tests/cases/run.py $(ARGS)

lint: $(STAMP) ## style and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

format: $(STAMP) ## bring the style in order
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

forms: $(STAMP) ## make the launch forms scripts/*.schema.json anew
	$(RUN) -m trainer_classification.forms

bench: $(STAMP) ## measure the loaders on the bundled samples
	$(RUN) benchmarks/loader_bench.py $(ARGS)

bench-all: $(STAMP) ## measure everything on the real datasets in DATASETS, and write results and README tables
	bash benchmarks/run_all.sh $(DATASETS)

bench-check: $(STAMP) ## ratios between loaders against their floors
	$(RUN) benchmarks/check_ratios.py

gpu-check: ## tests/gpu and the benches on a CUDA machine that has python3, torch and numpy alone
	PYTHONPATH=src $(GPU_PYTHON) benchmarks/gpu_check.py $(ARGS)

compare: $(STAMP) ## show that the working tree prepares and trains as commit BASE does, to the bit
	$(RUN) tests/compare_commits.py $(BASE) $(ARGS)

samples: $(STAMP) ## make the bundled samples anew from whole datasets in DATASETS
	$(RUN) samples/build_samples.py --datasets $(DATASETS)

clean: ## remove the environment and all that runs have made
	rm -rf .venv .tools .data .cache .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml uv.lock | $(UV)
	$(REFUSE_OTHER_SYSTEM)
	@[ -d .venv/lib ] || echo "Installing the packages into .venv: 9.5 GB, once (docs/training-aas.md has leaner ways)"
	$(UV) sync --locked --python $(PYTHON) $(EXTRAS)
	@touch $@

# Fresh Debian has python3 without venv: pip alone does it then.
.tools/uv/bin/uv:
	$(REFUSE_OTHER_SYSTEM)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: apt-get install python3"; exit 1; }
	@echo "Installing uv into .tools"
	@$(PYTHON) -m venv .tools/uv 2>/dev/null && .tools/uv/bin/python -m pip install --quiet uv \
	  || { rm -rf .tools/uv; $(PYTHON) -m pip install --quiet --target .tools/uv uv; } \
	  || { rm -rf .tools/uv; echo "Neither venv nor pip is there: apt-get install python3-venv"; exit 1; }
