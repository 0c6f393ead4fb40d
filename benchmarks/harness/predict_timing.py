"""The contestants of `predict_bench.py`: predict, a plain loop, and the network alone on batches in memory."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from harness.measure import Turn
from harness.resources import usage
from trainer_classification.checkpoint.load_model import Model
from trainer_classification.environment import cpu_count
from trainer_classification.inference.predictor import Predictor

BATCH = 32  # of the plain loop
_SCRIPTS = Path(__file__).parents[2] / "scripts"
_PHOTOS = _SCRIPTS.parent / "samples/caltech-101"


def train_briefly(network: str, image_size: int, folder: Path, dataset: Path = _PHOTOS) -> Path:
    """Return the folder of a run of two steps on a bundled sample, made where it is not there."""
    found = sorted(folder.glob("experiments/*/model/model.pth"))
    if not found:
        options = {
            "--dataset": str(dataset),
            "--prepared": str(folder / "prepared"),
            "--output-dir": str(folder),
            "--model": network,
            "--resize": str(image_size),
            "--loader": "resident",
            "--device": "cpu",
        }
        pairs = [text for pair in options.items() for text in pair]
        command = [sys.executable, str(_SCRIPTS / "train.py"), *pairs, "--stop-early"]
        subprocess.run(command, check=True, capture_output=True)
        found = sorted(folder.glob("experiments/*/model/model.pth"))
    return found[-1].parents[1]


def contestants(model: Model, paths: Sequence[str]) -> dict[str, Callable[[], Turn]]:
    """Return what takes the turns; each classifies all files, or as many images in memory."""
    predictor = Predictor(model, "cpu")
    plain_batches = list(_plain_batches(model, paths, BATCH))
    small_batches = [
        small for batch in plain_batches for small in torch.split(batch, predictor.batch_size)
    ]
    calls: dict[str, Callable[[], int]] = {
        "plain-loop": lambda: sum(
            map(len, map(partial(_logits, model), _plain_batches(model, paths, BATCH)))
        ),
        "predict": lambda: sum(not prediction.error for prediction in predictor.predict(paths)),
        "network-plain": lambda: sum(map(len, map(partial(_logits, model), plain_batches))),
        "network-threads": lambda: _in_threads(model, small_batches),
    }
    return {name: partial(_timed, call, len(paths)) for name, call in calls.items()}


def first_answers(run: Path, photo: str) -> dict[str, Callable[[], Turn]]:
    """Return the first answer for one photo, and what torch alone takes to be imported."""
    script = [str(_SCRIPTS / "predict.py"), "--model", str(run), "--device", "cpu", photo]
    commands = {"first-answer": script, "import-torch": ["-c", "import torch"]}

    def call(arguments: list[str]) -> int:
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        return 1

    return {
        name: partial(_timed, partial(call, arguments), 1) for name, arguments in commands.items()
    }


def _timed(call: Callable[[], int], expected: int) -> Turn:
    before = usage(os.getpid())
    started = time.perf_counter()
    count = call()
    seconds = time.perf_counter() - started
    if count != expected:
        raise RuntimeError(f"{count} of {expected} images were classified")
    return Turn(count, seconds, usage(os.getpid()) - before)


def _plain_batches(model: Model, paths: Sequence[str], size: int) -> Iterator[Tensor]:
    """Yield float [B, C, H, W] as a script of the usual kind makes them: one image after the other."""
    from PIL import Image
    from torchvision.transforms import v2

    side = model.image_size
    transform: Any = v2.Compose(
        [
            v2.Resize((side, side), antialias=True),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(model.mean, model.std),
        ]
    )
    for start in range(0, len(paths), size):
        images = [
            transform(Image.open(path).convert("RGB")) for path in paths[start : start + size]
        ]
        yield torch.stack(images)


def _logits(model: Model, batch: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model.network(batch).softmax(1)
        return logits


def _in_threads(model: Model, batches: Sequence[Tensor]) -> int:
    """Run the network as predict does: a thread for each core, with a batch of its own."""
    before = torch.get_num_threads()
    with ThreadPoolExecutor(cpu_count(), initializer=partial(torch.set_num_threads, 1)) as pool:
        count = sum(map(len, pool.map(partial(_logits, model), batches)))
    torch.set_num_threads(before)
    return count
