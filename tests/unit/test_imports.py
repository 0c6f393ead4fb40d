"""Imports point one way, heavy ones stay where they belong, and a bare machine can train."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src/trainer_classification"
# A module may import its own layer and those before it.
LAYERS = [
    {"config"},
    {"kernels"},
    {"plan"},
    {"recipes"},
    {"data"},
    {"augment"},
    {"loaders"},
    {"models", "outputs"},
    {"training"},
    {"bench", "cli", "forms"},
]
HEAVY = {
    "hafnia": set(),
    "polars": set(),
    "matplotlib": set(),
    "jinja2": set(),
    "torchvision": set(),
    "nvidia": set(),
    "ffcv": set(),
    "numba": {
        "augment/cpu.py",
        *(f"kernels/{name}.py" for name in ("vector", "resize", "planes", "jpeg", "crops", "turbojpeg")),
    },
    "cyclopts": {"cli.py"},
    "PIL": {"data/images.py"},
    "rich": {"data/prepare.py", "data/report.py", "data/pool.py"},
    "simplejpeg": {"data/warm_resize.py", "data/images.py"},
}
FILES = [path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py" and path.parent != PACKAGE / "bench"]


def imports(nodes):
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "trainer_classification":
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def layer(name):
    return next(level for level, names in enumerate(LAYERS) if name in names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_import_points_back(path):
    relative = path.relative_to(PACKAGE)
    mine = layer(relative.parts[0].removesuffix(".py"))
    for name in imports(ast.walk(ast.parse(path.read_text()))):
        if name.startswith("trainer_classification."):
            assert layer(name.split(".")[1]) <= mine, f"{relative} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_heavy_modules_are_imported_at_the_top_only_where_they_belong(path):
    relative = str(path.relative_to(PACKAGE))
    for name in imports(ast.parse(path.read_text()).body):
        allowed = HEAVY.get(name.split(".")[0])
        assert allowed is None or relative in allowed, f"{relative} imports {name} at its top"


BARE = """
import sys
for name in "hafnia numba polars PIL cyclopts rich torchvision matplotlib jinja2 xxhash psutil".split():
    sys.modules[name] = None
import time
from pathlib import Path
from trainer_classification.config import TrainConfig
from trainer_classification.data import manifest
from trainer_classification.training.train import train_prepared
folder = Path(sys.argv[1])
config = TrainConfig(model="resnet-small", batch_size=8, epochs=1, device="cpu", output_dir=sys.argv[2])
summary = train_prepared(config, folder, manifest.read(folder), time.time())
assert summary["accuracy_test"] is not None
"""


def test_a_prepared_array_trains_with_torch_and_numpy_alone(tmp_path):
    from helpers import rows, write_dataset
    from trainer_classification.config import PrepareConfig
    from trainer_classification.preparation.pipeline import prepare

    dataset = write_dataset(tmp_path / "d", rows(40) + rows(9, "test", seed=90), ["a", "b"])
    folder = prepare(PrepareConfig(dataset=str(dataset), out=str(tmp_path / "out"), workers=1)).folder
    command = [sys.executable, "-c", BARE, str(folder), str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "with torch only" in done.stderr
