"""Export a model in 8-bit integers, and keep the file only if it is as accurate and faster."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from trainer_classification.arrays import Uint8
from trainer_classification.checkpoint.load_model import Model
from trainer_classification.exporting.check_images import LabeledFiles, read_images
from trainer_classification.exporting.comparison import run_in_batches, time_in_turns
from trainer_classification.exporting.export import ExportReport, export, replace_atomically
from trainer_classification.exporting.formats import FORMATS, convert_to_openvino, import_extra
from trainer_classification.exporting.quantize import quantize
from trainer_classification.exporting.runtimes import RUNTIMES, Runtime

_ROUNDS = 7  # in which both files take turns
_TIMED = 32  # images of a round
_LEAST_SPEEDUP = 1.05  # less may be noise


@dataclass(frozen=True)
class Measured:
    """What a file does in a runtime.

    Attributes:
        accuracy: fraction of the labeled images that are classified correctly.
        rate: images a second.
        megabytes: size of the ONNX file.
    """

    accuracy: float
    rate: float
    megabytes: float


@dataclass(frozen=True)
class Int8Report:
    """What 8 bits cost and bring, on this machine.

    Attributes:
        path: of the file.
        runtime: that both files ran in.
        images: number of labeled images that both files classified.
        plain: the file in float32.
        quantized: the file in 8 bits.
        exported: about the file in float32.
    """

    path: Path
    runtime: str
    images: int
    plain: Measured
    quantized: Measured
    exported: ExportReport


def export_int8(
    model: Model,
    path: Path,
    calibration: Sequence[str],
    labeled: LabeledFiles,
    *,
    format: str = "onnx",  # noqa: A002, as the option
    largest_loss: float = 0.01,
) -> Int8Report:
    """Write a model with its convolutions in 8 bits.

    The file is made from the one that `export` writes and checks.

    Args:
        model: of `load_model`.
        path: of the file to write.
        calibration: paths of training images, by which the ranges are chosen.
        labeled: images that accuracy and speed are measured on.
        format: "onnx" or "openvino".
        largest_loss: of accuracy, as a fraction of the labeled images.

    Raises:
        ValueError: see `export`; the format has no integers; or the file is less
            accurate than in float32 by more than `largest_loss`, or hardly faster.
            Then no file is left.
    """
    if format not in ("onnx", "openvino"):
        raise ValueError(f"--int8 writes the formats onnx and openvino, not {format}.")
    images = read_images(labeled.paths, model.channels, model.gray_shift)

    with replace_atomically(path, FORMATS[format].companions) as temporary:
        plain_path = temporary.with_name("float32.onnx")
        quantized_path = temporary.with_name("quantized.onnx")
        exported = export(model, plain_path, "onnx", labeled.paths[:_TIMED])
        pixels = read_images(calibration, model.channels, model.gray_shift)
        quantize(plain_path, quantized_path, pixels)
        plain = _open(plain_path, format)
        quantized = _open(quantized_path, format)
        rates = time_in_turns((plain, quantized), images[:_TIMED], _ROUNDS)
        report = Int8Report(
            path,
            plain.name,
            len(images),
            Measured(_accuracy(plain, images, labeled), rates[0], _megabytes(plain_path)),
            Measured(_accuracy(quantized, images, labeled), rates[1], _megabytes(quantized_path)),
            exported,
        )
        _check(report, largest_loss)
        if format == "openvino":
            convert_to_openvino(import_extra("onnx").load(quantized_path), temporary)
        else:
            quantized_path.replace(temporary)

    return report


def _open(path: Path, format: str) -> Runtime:  # noqa: A002
    """Open an ONNX file as users of a format do: in the runtime's default settings."""
    *_, default = RUNTIMES[FORMATS[format].runtimes[0]](path)
    return default


def _accuracy(runtime: Runtime, images: Sequence[Uint8], labeled: LabeledFiles) -> float:
    return float(np.mean(run_in_batches(runtime, images).argmax(1) == labeled.labels))


def _megabytes(path: Path) -> float:
    return path.stat().st_size / 1e6


def _check(report: Int8Report, largest_loss: float) -> None:
    """Raise ValueError for a file that is not worth keeping."""
    plain = report.plain
    quantized = report.quantized
    if plain.accuracy - quantized.accuracy > largest_loss:
        raise ValueError(
            f"8 bits cost too much accuracy: {quantized.accuracy:.2%} on {report.images:,} images instead of "
            f"{plain.accuracy:.2%}; --largest-loss allows {largest_loss:.2%}. The file was not kept: export without "
            f"--int8."
        )
    if quantized.rate < _LEAST_SPEEDUP * plain.rate:
        raise ValueError(
            f"8 bits are pointless here: {quantized.rate:,.0f} images/s instead of {plain.rate:,.0f} in float32, in "
            f"{report.runtime} on this CPU. The file was not kept: export without --int8."
        )
