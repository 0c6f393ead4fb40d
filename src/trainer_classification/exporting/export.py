"""Export a trained model: write the file, compare it with the checkpoint, and keep it only if both agree."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainer_classification.arrays import Uint8
from trainer_classification.checkpoint.load_model import Model, load_model
from trainer_classification.exporting.check_images import make_photographs, read_images
from trainer_classification.exporting.classifier import capture
from trainer_classification.exporting.comparison import (
    LARGEST,
    MEAN,
    Difference,
    compare,
    predict_with_checkpoint,
)
from trainer_classification.exporting.formats import FORMATS
from trainer_classification.exporting.metadata import describe, note_depth
from trainer_classification.exporting.runtimes import RUNTIMES
from trainer_classification.files import flush


@dataclass(frozen=True)
class ExportReport:
    """What was written, and how far each runtime's answers are from the checkpoint's.

    Attributes:
        path: of the file.
        megabytes: size of the file, and of those beside it that belong to it.
        images: number of images that were compared.
        differences: of each runtime, on the same decoded pixels.
        notes: what the user should know, a sentence each.
    """

    path: Path
    megabytes: float
    images: int
    differences: tuple[Difference, ...]
    notes: tuple[str, ...]


def export(
    model: Model | str | Path,
    path: str | Path,
    format: str = "onnx",  # noqa: A002, as the option
    images: Sequence[str] = (),
) -> ExportReport:
    """Write a trained model for other runtimes, decoded images in and probabilities out, and check the file.

    Its input `images` is uint8 [batch, height, width, C] of any size, upright and
    as it is decoded; its output `probabilities` is float32 [batch, K], of the
    temperature. The evaluation's view and the normalization are within.

    Args:
        model: a loaded model, or a path for `load_model`.
        path: of the file to write; of the format openvino, the weights are beside
            it with the suffix .bin.
        format: "onnx", "openvino" or "torch-export".
        images: paths of images to compare on; none: images made from a seed.

    Raises:
        ValueError: the format is unknown, the extra `export` is not installed, an
            image cannot be read, or a runtime's answers differ from the
            checkpoint's by more than `comparison.LARGEST` or, on average,
            `comparison.MEAN`. Then no file is left.
    """
    if format not in FORMATS:
        raise ValueError(f"There is no format {format!r}; there are: {', '.join(FORMATS)}.")
    target = Path(path)
    if target.suffix != FORMATS[format].suffix:
        raise ValueError(
            f"{target.name} is to be of the format {format}: give it the suffix {FORMATS[format].suffix}."
        )
    loaded = model if isinstance(model, Model) else load_model(model)
    pixels = read_images(images, loaded.channels, loaded.gray_shift) or make_photographs(
        loaded.array_size, loaded.channels
    )

    with replace_atomically(target, FORMATS[format].companions) as temporary:
        FORMATS[format].write(capture(loaded), describe(loaded), temporary)
        differences = _compare(loaded, temporary, format, pixels)
        _check(differences)

    written = [target.with_suffix(suffix) for suffix in _suffixes(format)]
    return ExportReport(
        target,
        sum(file.stat().st_size for file in written) / 1e6,
        len(pixels),
        tuple(differences),
        (
            *note_depth(loaded),
            *(_advise(difference) for difference in differences if not difference.is_within),
        ),
    )


def _suffixes(format: str) -> tuple[str, ...]:  # noqa: A002
    return (FORMATS[format].suffix, *FORMATS[format].companions)


@contextmanager
def replace_atomically(target: Path, companions: tuple[str, ...] = ()) -> Iterator[Path]:
    """Yield a path in a temporary folder beside the target, and rename what is written there once all went well.

    Several files cannot be renamed at once: an older target is deleted before its
    companions are replaced, so that it never lies beside those of another model.

    Args:
        target: the file.
        companions: suffixes of the files beside it that belong to it.
    """
    if not target.parent.is_dir():
        raise ValueError(
            f"There is no folder {target.parent} to write {target.name} into: create it."
        )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as folder:
        temporary = Path(folder) / target.name
        yield temporary
        if companions:
            target.unlink(missing_ok=True)
        for suffix in (*companions, target.suffix):
            flush(temporary.with_suffix(suffix))
            temporary.with_suffix(suffix).replace(target.with_suffix(suffix))
    flush(target.parent)


def _compare(model: Model, path: Path, format: str, images: Sequence[Uint8]) -> list[Difference]:  # noqa: A002
    expected = predict_with_checkpoint(model, images)
    return [
        compare(runtime, images, expected)
        for name in FORMATS[format].runtimes
        for runtime in RUNTIMES[name](path)
    ]


def _check(differences: Sequence[Difference]) -> None:
    """Raise ValueError if a runtime is too far off and no setting of it helps."""
    for found in differences:
        if not found.is_within and not found.remedy:
            raise ValueError(
                f"{found.name} differs from the checkpoint by up to {found.largest:.4g} (at most {LARGEST} is allowed) "
                f"and by {found.mean:.4g} on average (at most {MEAN}): the file was not kept. Report this, with "
                f"the network and its image size."
            )


def _advise(difference: Difference) -> str:
    return (
        f"{difference.name} differs by up to {difference.largest:.4g}, which is more than {LARGEST}, or by "
        f"more than {MEAN} on average: open the file with {difference.remedy}."
    )
