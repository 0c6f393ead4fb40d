"""The package as a user makes it: the real hafnia CLI over a copy of this repository full of what must not leak."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {".git", ".venv", ".tools", ".data", "samples", "shared"}  # not copied; small stand-ins are planted
CHANGING = {".cache", ".hypothesis", ".pytest_cache", "__pycache__"}  # other tests write them now
PRIVATE = (
    ".data/datasets/mnist/data/a.png",
    ".data/trainers/old.zip",
    ".env",
    ".git/config",
    ".github/workflows/test.yml",
    ".hafnia/config.json",
    ".venv/lib/python3/site.py",
    "benchmarks/results/a.json",
    "id_rsa",
    "model.pth",
    "my.pem",
    "notebook.ipynb",
    "samples/mnist/data/a.png",
    "scripts/.env.production",
    "scripts/state.json",
    "src/.data/experiments/1/model/model.pth",
    "src/trainer_classification/__pycache__/config.cpython-311.pyc",
    "src/trainer_classification/secret.key",
    "src/trainer_classification/weights.pth",
    "src/trainer_classification/.DS_Store",
    "state.json",
    "tests/unit/test_a.py",
    "trainer.zip",
)


class Hafnia:
    """The CLI of this environment, in a folder and a home of its own."""

    def __init__(self, folder: Path, home: Path) -> None:
        self.folder = folder
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("HAFNIA", "MDI", "MLFLOW", "PYTHONPATH"))}
        self.environment = clean | {"HOME": str(home), "PYTHONUTF8": "1", "COLUMNS": "200"}

    def __call__(
        self,
        *arguments: str,
        code: int | None = 0,
        timeout: float = 120,
        folder: Path | None = None,
        **environment: str,
    ) -> str:
        """Run the command; returns what it printed. Its exit code has to be `code`, or with None any error's."""
        done = subprocess.run(
            [str(Path(sys.executable).with_name("hafnia")), *arguments],
            cwd=folder or self.folder,
            env=self.environment | environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )
        fits = done.returncode == code or (code is None and done.returncode != 0)
        assert fits, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout + done.stderr


def leave_out(folder: str, names: list[str]) -> set[str]:
    """What is not copied of a folder of the repository."""
    return set(names) & (CHANGING | HEAVY if Path(folder) == ROOT else CHANGING)


@pytest.fixture(scope="session")
def clone(tmp_path_factory):
    """A copy of the repository as it looks after some work in it: caches, keys, results, datasets, an earlier zip."""
    folder = tmp_path_factory.mktemp("package") / "trainer-classification"
    shutil.copytree(ROOT, folder, ignore=leave_out)
    for name in PRIVATE:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"ApiKey not-to-be-seen")
    return folder


@pytest.fixture(scope="session")
def hafnia(clone, tmp_path_factory):
    return Hafnia(clone, tmp_path_factory.mktemp("home"))
