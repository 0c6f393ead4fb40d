"""Show that two commits prepare the same bytes and train to the same bits.

`python tests/compare_commits.py BASE [HEAD]` runs scripts/prepare.py and scripts/train.py of both commits on the
bundled samples and compares what they write. Without HEAD, BASE is compared with the working tree. A table says for
each part whether it is equal, or where it first differs. The exit code is 1 if anything differs.

A change without new maths must pass this. Only the command lines are used, so modules may be moved and renamed freely,
as long as the options below keep working. Results of commits are kept in .cache/compare; those of the working tree are
not. All runs use the CPU and one thread a process, since a sum over several threads has no fixed order.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache/compare"
AT_ONCE = 2
TIMEOUT_SECONDS = 600

DATASETS = ("caltech-101", "cifar100", "mnist")
PREPARE_OPTIONS = ("--formats", "array,beton,tar", "--workers", "1")
TRAIN_OPTIONS = ("--device", "cpu", "--seed", "3", "--epochs", "2")
# Names of settings that would lead a run to the cloud, to a tracker or into another group of processes.
FOREIGN_SETTINGS = ("HAFNIA", "MDI", "MLFLOW", "RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_")

# Where a manifest names a folder of the machine.
PATH_NAMES = frozenset({"root"})
# Parts of the names of figures that must repeat; times and rates need not.
FIGURES = ("epoch", "loss", "accuracy", "learning_rate")


@dataclass(frozen=True)
class Training:
    """One run of scripts/train.py: its name in the table, a dataset of DATASETS, and its options."""

    name: str
    dataset: str
    options: str


# The longest come first, so that the last two end together.
TRAININGS = (
    Training(
        "mnist, two processes",
        "mnist",
        "--processes 2 --max-steps-per-epoch 8 --clip-norm 1 --cutout 8",
    ),
    Training(
        "cifar100, speednet, speed, flip views",
        "cifar100",
        "--model speednet --recipe speed --batch-size 32 --max-steps-per-epoch 2 --tta flip",
    ),
    Training(
        "caltech-101, resnet18, mixup, ema, adamw",
        "caltech-101",
        "--model resnet18 --recipe standard --resize 64 --batch-size 16 --max-steps-per-epoch 2"
        " --optimizer adamw --learning-rate 0.001 --mixup 0.2 --cutmix 1 --ema 0.9 --progressive 0",
    ),
    Training(
        "caltech-101, progressive",
        "caltech-101",
        "--model resnet-small --recipe standard --progressive 64 --batch-size 16 --max-steps-per-epoch 3",
    ),
    Training(
        "cifar100, torch loader, half batches",
        "cifar100",
        "--model resnet-small --recipe standard --loader torch --num-workers 1 --batch-size 64"
        " --max-steps-per-epoch 3 --accumulate 2 --schedule cosine --label-smoothing 0.1",
    ),
    Training("mnist, defaults", "mnist", "--max-steps-per-epoch 12"),
)


@dataclass(frozen=True)
class Row:
    """One line of the table; `difference` is empty where both are equal."""

    what: str
    difference: str = ""


# --- Running a commit ---


def run_script(tree: Path, folder: Path, script: str, *options: str) -> None:
    """Run a script of a source tree in `folder`; where it fails, leave the end of its output in `failed.txt`."""
    folder.mkdir(parents=True)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN_SETTINGS)}
    environment |= {
        "PYTHONPATH": str(tree / "src"),
        "OMP_NUM_THREADS": "1",
        "MKL_NUM_THREADS": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        "CUDA_VISIBLE_DEVICES": "",
    }
    try:
        done = subprocess.run(
            [sys.executable, str(tree / "scripts" / script), *options],
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
    except subprocess.TimeoutExpired:
        (folder / "failed.txt").write_text(f"did not end within {TIMEOUT_SECONDS} s")
        return

    if done.returncode:
        (folder / "failed.txt").write_text(f"exit code {done.returncode}\n{done.stdout[-2000:]}")


def prepare_dataset(tree: Path, results: Path, dataset: str) -> None:
    """Prepare one bundled sample into `results`/prepare/`dataset`."""
    source = str(tree / "samples" / dataset)
    run_script(tree, results / "prepare" / dataset, "prepare.py", "--dataset", source, "--out", ".", *PREPARE_OPTIONS)


def train(tree: Path, results: Path, training: Training) -> None:
    """Train once into `results`/train/NAME, from a copy of the prepared dataset, and keep only what is compared."""
    folder = results / "train" / training.name
    with tempfile.TemporaryDirectory() as prepared:
        shutil.copytree(results / "prepare" / training.dataset, prepared, dirs_exist_ok=True)
        options = (*TRAIN_OPTIONS, *training.options.split(), "--prepared", prepared)
        run_script(tree, folder, "train.py", "--dataset", str(tree / "samples" / training.dataset), *options)

    for path in sorted(folder.rglob("*")):
        if path.name in ("metrics.jsonl", "summary.json", "model.pth"):
            path.rename(folder / path.name)
    shutil.rmtree(folder / ".data", ignore_errors=True)


def run_tree(tree: Path, results: Path) -> None:
    """Run all cases of a source tree, two at a time."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda dataset: prepare_dataset(tree, results, dataset), DATASETS))
        list(pool.map(lambda training: train(tree, results, training), TRAININGS))


# --- Commits and their results ---


def git(*arguments: str) -> str:
    """Return what git prints."""
    return subprocess.run(
        ["git", "-C", str(ROOT), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


@contextmanager
def check_out(commit: str) -> Iterator[Path]:
    """Give a worktree of a commit in a temporary folder, and remove it at the end."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        git("-c", "core.hooksPath=/dev/null", "worktree", "add", "--quiet", "--detach", str(tree), commit)
        try:
            yield tree
        finally:
            git("worktree", "remove", "--force", str(tree))


def name_results(commit: str) -> str:
    """Return the name of a commit's results: other cases, or another environment, have another name."""
    cases = (DATASETS, PREPARE_OPTIONS, TRAIN_OPTIONS, TRAININGS)
    environment = (sys.executable, sys.version, torch.__version__, torch.backends.cpu.get_cpu_capability())
    digest = hashlib.sha256(repr((cases, environment)).encode()).hexdigest()
    return f"{commit[:12]}-{digest[:8]}"


def find_commit(name: str) -> str:
    """Return the hash of a commit.

    Raises:
        ValueError: There is no such commit.
    """
    try:
        return git("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")
    except subprocess.CalledProcessError:
        raise ValueError(f"{name} is no commit of this repository: name a hash, a branch or a tag.") from None


def load_results(commit: str) -> Path:
    """Return the results of a commit from the cache, after running it where they are not there yet.

    Raises:
        ValueError: A script of the commit fails.
    """
    kept = CACHE / name_results(commit)
    if kept.is_dir():
        return kept

    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as folder, check_out(commit) as tree:
        results = Path(folder) / "results"
        run_tree(tree, results)
        failures = sorted(results.rglob("failed.txt"))
        if failures:
            texts = [f"{path.parent.relative_to(results)}: {path.read_text()}" for path in failures]
            raise ValueError(f"Commit {commit[:12]} cannot be compared, as it fails:\n" + "\n".join(texts))
        results.rename(kept)
    return kept


# --- Comparing results ---


def compare_results(base: Path, head: Path, ignored: Iterable[str] = ()) -> list[Row]:
    """Compare the results of two trees.

    Args:
        base: Folder that `run_tree` has filled.
        head: Another one.
        ignored: Names in manifests, and files of prepared datasets, that may differ.
    """
    rows = []
    for dataset in sorted(folder.name for folder in (base / "prepare").iterdir()):
        parts = base / "prepare" / dataset, head / "prepare" / dataset
        rows += report_failure(f"prepare {dataset}", parts[1]) or compare_prepared(dataset, *parts, frozenset(ignored))

    for name in sorted(folder.name for folder in (base / "train").iterdir()):
        parts = base / "train" / name, head / "train" / name
        rows += report_failure(f"train {name}", parts[1]) or compare_trainings(name, *parts)
    return rows


def report_failure(what: str, folder: Path) -> list[Row]:
    """Return a row that says why there is nothing to compare, if so."""
    failed = folder / "failed.txt"
    if failed.is_file():
        return [Row(what, f"fails: {failed.read_text()}")]
    return [] if folder.is_dir() else [Row(what, "was not run")]


def compare_prepared(dataset: str, base: Path, head: Path, ignored: frozenset[str]) -> list[Row]:
    """Compare two prepared datasets file by file: one row for the manifest, and one for each folder of files."""
    base = find_prepared(base)
    head = find_prepared(head)
    files = {
        path.relative_to(folder).as_posix() for folder in (base, head) for path in folder.rglob("*") if path.is_file()
    }
    groups: dict[str, list[str]] = {}
    for name in sorted(files - ignored):
        groups.setdefault(name.split("/")[0], []).append(name)

    rows = []
    for group, names in groups.items():
        size = sum((base / name).stat().st_size for name in names if (base / name).is_file())
        compare = compare_manifests if group == "manifest.json" else compare_files
        differences = (compare(base / name, head / name, ignored) for name in names)
        first = next((f"{name}: {text}" for name, text in zip(names, differences, strict=True) if text), "")
        rows.append(Row(f"prepare {dataset}: {group}, {len(names)} files, {size:,} bytes", first))
    return rows


def find_prepared(folder: Path) -> Path:
    """Return the one prepared dataset in a folder."""
    manifests = sorted(folder.glob("*/manifest.json"))
    if len(manifests) != 1:
        raise ValueError(f"{folder} holds {len(manifests)} prepared datasets instead of one.")
    return manifests[0].parent


def compare_files(base: Path, head: Path, ignored: frozenset[str] = frozenset()) -> str:
    """Return the first difference of two files, empty where there is none."""
    missing = name_missing(base, head)
    if missing:
        return missing

    old = base.read_bytes()
    new = head.read_bytes()
    if old == new:
        return ""

    pairs = enumerate(zip(old, new, strict=False))
    place = next((index for index, (one, other) in pairs if one != other), min(len(old), len(new)))
    return f"byte {place:,} differs, {len(old):,} bytes before and {len(new):,} now"


def compare_manifests(base: Path, head: Path, ignored: frozenset[str]) -> str:
    """Return the first difference of two manifests, leaving out paths and the ignored names."""
    missing = name_missing(base, head)
    if missing:
        return missing

    left_out = ignored | PATH_NAMES
    return compare_values(json.loads(base.read_text()), json.loads(head.read_text()), left_out)


def name_missing(base: Path, head: Path) -> str:
    """Return which of two files is missing, empty where both are there."""
    if not base.is_file():
        return "is new"
    return "" if head.is_file() else "is missing"


def compare_values(base: Any, head: Any, ignored: frozenset[str] = frozenset(), name: str = "") -> str:
    """Return the first difference of two JSON values, as "name: old before and new now"."""
    if isinstance(base, dict) and isinstance(head, dict):
        for key in [key for key in base | head if key not in ignored]:
            path = f"{name}.{key}".lstrip(".")
            if key not in head or key not in base:
                return f"{path} {'is missing' if key in base else 'is new'}"
            difference = compare_values(base[key], head[key], ignored, path)
            if difference:
                return difference
        return ""

    if isinstance(base, list) and isinstance(head, list) and len(base) == len(head):
        differences = (
            compare_values(old, new, ignored, f"{name}[{place}]")
            for place, (old, new) in enumerate(zip(base, head, strict=True))
        )
        return next(filter(None, differences), "")

    # As text, so that a NaN equals itself and 1 differs from 1.0.
    old = json.dumps(base)
    new = json.dumps(head)
    return "" if old == new else f"{name}: {old[:80]} before and {new[:80]} now"


def compare_trainings(name: str, base: Path, head: Path) -> list[Row]:
    """Compare the figures of each epoch, those of the summary, and the weights."""
    comparisons = {"metrics.jsonl": compare_figures, "summary.json": compare_figures, "model.pth": compare_weights}
    return [
        Row(f"train {name}: {file}", name_missing(base / file, head / file) or compare(base / file, head / file))
        for file, compare in comparisons.items()
    ]


def compare_figures(base: Path, head: Path) -> str:
    """Return the first difference of losses, accuracies and learning rates; other figures and new ones do not count."""
    old = read_figures(base)
    new = read_figures(head)
    if len(old) != len(new):
        return f"{len(old)} lines before and {len(new)} now"

    for place, (one, other) in enumerate(zip(old, new, strict=True)):
        repeated = {name: value for name, value in other.items() if name in one}
        difference = compare_values(one, repeated, name=f"line {place + 1}")
        if difference:
            return difference
    return ""


def read_figures(path: Path) -> list[dict[str, Any]]:
    """Return the figures of each line of a .jsonl, or of a whole .json, that must repeat."""
    text = path.read_text()
    rows = text.splitlines() if path.suffix == ".jsonl" else [text]
    return [
        {name: value for name, value in json.loads(row).items() if any(part in name for part in FIGURES)}
        for row in rows
    ]


def compare_weights(base: Path, head: Path) -> str:
    """Return the first difference of two files of weights, to the bit."""
    old = load_tensors(base)
    new = load_tensors(head)
    names = [name for name in old if name not in new] + [name for name in new if name not in old]
    if names:
        return f"{names[0]} {'is missing' if names[0] in old else 'is new'}, {len(names)} in all"

    for name, tensor in old.items():
        other = new[name]
        if (tensor.dtype, tensor.shape) != (other.dtype, other.shape):
            return f"{name}: {tensor.dtype} {list(tensor.shape)} before and {other.dtype} {list(other.shape)} now"
        if not torch.equal(as_bytes(tensor), as_bytes(other)):
            largest = (tensor.double() - other.double()).abs().max().item()
            return f"{name}: values differ by up to {largest:.3g}"
    return ""


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the bytes of a tensor, in which a NaN equals itself and 0 differs from -0."""
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a file by their dotted names, without what all names begin with."""
    tensors = dict(walk_tensors(torch.load(path, map_location="cpu", weights_only=True)))
    parts = [name.split(".")[:-1] for name in tensors]
    same = takewhile(lambda column: len(set(column)) == 1, zip(*parts, strict=False))
    shared = len(list(same))
    return {".".join(name.split(".")[shared:]): tensor for name, tensor in tensors.items()}


def walk_tensors(value: Any, name: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the tensors in nested dictionaries with their dotted names."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from walk_tensors(part, f"{name}.{key}".lstrip("."))


def main() -> int:
    """Compare as the command line asks, print the table, and return the exit code."""
    parser = argparse.ArgumentParser(description="Compare what two commits write.")
    parser.add_argument("base", help="a commit")
    parser.add_argument("head", nargs="?", help="another one; without it, the working tree")
    parser.add_argument(
        "--ignore", nargs="*", default=[], help="names in manifests, or files of prepared datasets, that may differ"
    )
    options = parser.parse_args()

    base = load_results(find_commit(options.base))
    if options.head:
        rows = compare_results(base, load_results(find_commit(options.head)), options.ignore)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run_tree(ROOT, Path(folder))
            rows = compare_results(base, Path(folder), options.ignore)

    for row in rows:
        print(f"{row.what:<72} {row.difference or 'equal'}")
    different = sum(bool(row.difference) for row in rows)
    print(f"{different} of {len(rows)} differ." if different else f"All {len(rows)} are equal.")
    return int(bool(different))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ValueError as error:
        sys.exit(str(error))
