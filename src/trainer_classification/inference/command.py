"""What `predict.py` does: its two doors, and every way it can end."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from trainer_classification.arrays import Float32
from trainer_classification.checkpoint.load_model import load_model
from trainer_classification.config import PredictConfig
from trainer_classification.console import log
from trainer_classification.files import write_atomically
from trainer_classification.inference.image_paths import find_images
from trainer_classification.inference.output import Format, PredictionWriter
from trainer_classification.inference.predictor import Prediction, Predictor
from trainer_classification.output_paths import OutputFile, check_output_files

_EXPERIMENTS = Path(".data/experiments")
_NONE_CLASSIFIED = 1
_PROGRESS_SECONDS = 0.5


def run(config: PredictConfig) -> int:
    """Classify what the config names; returns the exit code: 0, or 1 where no image could be classified.

    Raises:
        ValueError: the model, the images or the device are not there.
    """
    if config.is_benchmark:
        from trainer_classification.inference.predictions import run_benchmark_job

        return run_benchmark_job(config)
    named = config.paths.split("\n") if config.paths else []
    embeddings_file = OutputFile("--embeddings", config.embeddings, ".npy")
    check_output_files([embeddings_file], inputs=(*named, config.model))
    paths = find_images(named, sys.stdin)
    model = load_model(config.model or newest_run())
    embeddings = _Embeddings(Path(config.embeddings)) if config.embeddings else None
    predictor = Predictor(
        model,
        config.device,
        config.batch_size,
        config.workers,
        embeddings=embeddings is not None,
        amp=config.amp,
    )
    writer = PredictionWriter(sys.stdout, _format(config), model.class_names, config.top_k)
    failed = 0
    count = 0
    try:
        for prediction in with_progress(predictor.predict(paths, config.top_k)):
            writer.write(prediction)
            if embeddings is not None:
                embeddings.add(prediction)
            count += 1
            failed += bool(prediction.error)
    except BrokenPipeError:
        # Whoever read has seen enough, as `head` does; else Python would complain
        # when it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0

    if not count:
        raise ValueError("The list on stdin names no images: give one path a line.")
    if embeddings is not None:
        embeddings.write()
    return _NONE_CLASSIFIED if failed == count else 0


class _Embeddings:
    """The embeddings of all images, in their order, for a file.

    Args:
        path: of the `.npy` file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._rows: list[Float32 | None] = []

    def add(self, prediction: Prediction) -> None:
        """Take the embedding of the next image; that of a bad one will be NaN."""
        self._rows.append(prediction.embedding)

    def write(self) -> None:
        """Write float32 [N, F], row n for the n-th line of the predictions."""
        width = next((len(row) for row in self._rows if row is not None), 0)
        missing = np.full(width, np.nan, np.float32)
        rows = np.stack([missing if row is None else row for row in self._rows])
        write_atomically(self._path, lambda file: np.save(file, rows))
        log(f"Embeddings: {self._path}, {rows.shape[0]:,} x {rows.shape[1]:,}.")


def with_progress(predictions: Iterator[Prediction]) -> Iterator[Prediction]:
    """Pass predictions on, with a live line on a terminal, and at the end of several a line that sums up."""
    started = time.perf_counter()
    shown = started
    is_live = sys.stderr.isatty() and not sys.stdout.isatty()
    count = 0
    failed = 0
    for prediction in predictions:
        count += 1
        failed += bool(prediction.error)
        now = time.perf_counter()
        if is_live and now - shown > _PROGRESS_SECONDS:
            sys.stderr.write(f"\r\x1b[K{count:,} images, {count / (now - started):,.0f}/s")
            sys.stderr.flush()
            shown = now
        yield prediction
    if count > 1:
        seconds = time.perf_counter() - started
        bad = f" {failed:,} could not be classified." if failed else ""
        log(f"{count:,} images in {seconds:.1f} s ({count / seconds:,.0f}/s).{bad}")


def _format(config: PredictConfig) -> Format:
    if config.format != "auto":
        return config.format
    return "table" if sys.stdout.isatty() else "json"


def newest_run() -> Path:
    """Return the folder of the newest run that has a model.

    Raises:
        ValueError: there is none.
    """
    models = sorted(
        _EXPERIMENTS.glob("*/model/model.pth"), key=lambda path: path.stat().st_mtime_ns
    )
    if not models:
        raise ValueError(
            f"There is no trained model below {_EXPERIMENTS}: train one, or name it with --model."
        )
    folder = models[-1].parents[1]
    log(f"Model: {folder}, the newest run.")
    return folder
