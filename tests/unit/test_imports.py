"""Imports point one way, heavy ones stay where they belong, and a bare machine can train."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "src/trainer_classification"
NAME = "trainer_classification"
# Files at the top of the package that any other may import.
BASE = {"options", "environment", "files", "names", "arrays", "console", "stop_signals", "streams", "extras"} | {
    *("storage", "output_paths"),
}
# What each part of the package may import, beside itself and BASE. An arrow that is not here points back.
ALLOWED = {
    "options": set(),
    "environment": set(),
    "files": set(),
    "output_paths": set(),
    "names": set(),
    "arrays": set(),
    "console": set(),
    "stop_signals": set(),
    "streams": set(),
    "extras": set(),
    "storage": set(),
    "device": set(),
    "faster_precision": {"device"},
    "config": set(),
    "metrics": set(),
    "kernels": set(),
    "crop_boxes": {"kernels"},
    "plan": {"crop_boxes"},
    "recipes": {"config", "plan"},
    "data": {"config", "plan", "kernels"},
    "augment": {"plan", "kernels"},
    "preparation": {"config", "plan", "kernels", "recipes", "data"},
    "loaders": {"config", "plan", "crop_boxes", "kernels", "data", "augment"},
    "models": {"config"},
    "optim": {"config", "recipes", "models"},
    "checkpoint": {"config", "plan", "recipes", "models"},
    "outputs": {"config", "data", "plan", "metrics"},
    "training": {
        *("config", "plan", "recipes", "device", "faster_precision", "data", "augment", "preparation", "loaders"),
        *("models", "optim", "checkpoint", "outputs", "metrics"),
    },
    "inference": {
        *("config", "plan", "recipes", "device", "faster_precision", "data", "augment", "preparation", "loaders"),
        *("models", "checkpoint", "outputs", "metrics"),
    },
    "exporting": {"config", "data", "models", "checkpoint", "metrics", "inference"},
    "serving": {"config", "checkpoint", "inference"},
    "forms": {"config"},
    "option_hints": set(),
    "option_file": set(),
    "cli_help": set(),
    "cli": {"config", "option_hints", "option_file", "cli_help"},
    "__init__": {"config", "preparation", "training", "checkpoint", "inference", "exporting"},
}
HEAVY = {
    "hafnia": {"inference/inference_model.py"},
    "polars": set(),
    "matplotlib": set(),
    "jinja2": set(),
    "torchvision": set(),
    "nvidia": set(),
    "ffcv": set(),
    "numba": {
        "augment/cpu.py",
        *(f"kernels/{name}.py" for name in ("entry", "vector", "resize", "planes", "jpeg", "crops")),
        *(f"kernels/{name}.py" for name in ("draws", "turbojpeg", "png")),
    },
    "cyclopts": {"cli.py"},
    "PIL": {"data/decode.py"},
    "rich": {"preparation/pipeline.py", "preparation/summary.py", "preparation/workers.py"},
    "starlette": {f"serving/{name}.py" for name in ("app", "images", "server")},
    "uvicorn": {"serving/server.py"},
    "python_multipart": set(),
    "onnx": set(),
    "onnxruntime": set(),
    "openvino": set(),
    "simplejpeg": {"preparation/preload_resize.py", "data/decode.py"},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def module_of(path):
    parts = (NAME, *path.relative_to(PACKAGE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


MODULES = {module_of(path): path for path in FILES}


def imports(nodes):
    """Full names of the modules that are imported; `from a import b` means `a.b` where that is a module."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in MODULES else node.module


# Imports within functions and under TYPE_CHECKING count: `ast.walk` sees every node.
GRAPH = {
    module: {name for name in imports(ast.walk(ast.parse(path.read_text()))) if name in MODULES and name != module}
    for module, path in MODULES.items()
}


def part_of(module):
    return module.split(".")[1] if "." in module else "__init__"


@pytest.mark.parametrize("module", GRAPH)
def test_no_import_points_back(module):
    mine = part_of(module)
    for name in GRAPH[module] - {NAME}:
        assert part_of(name) in {mine} | BASE | ALLOWED[mine], f"{module} imports {name}"


def test_no_files_import_each_other_in_a_circle():
    """A file comes after all that it imports; `graphlib` names the circle where that cannot be."""
    list(graphlib.TopologicalSorter(GRAPH).static_order())


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
summary = train_prepared(config, folder, manifest.read(folder), time.monotonic())
assert summary["accuracy_test"] is not None
"""


def test_a_prepared_array_trains_with_torch_and_numpy_alone(tmp_path):
    from helpers import rows, write_dataset
    from trainer_classification.config import PrepareConfig
    from trainer_classification.preparation.pipeline import prepare

    dataset = write_dataset(tmp_path / "d", rows(40) + rows(9, "test", seed=90), ["a", "b"])
    folder = prepare(PrepareConfig(dataset=str(dataset), prepared=str(tmp_path / "out"), workers=1)).folder
    command = [sys.executable, "-c", BARE, str(folder), str(tmp_path / "runs")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "with torch only" in done.stderr
