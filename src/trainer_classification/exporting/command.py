"""Run `export.py`: choose the images to compare on, export, and print a table."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from trainer_classification.checkpoint.load_model import Model, load_model
from trainer_classification.config import ExportConfig
from trainer_classification.console import log
from trainer_classification.exporting.check_images import find_originals, read_images
from trainer_classification.exporting.comparison import predict_with_checkpoint
from trainer_classification.exporting.export import ExportReport, export
from trainer_classification.exporting.formats import FORMATS
from trainer_classification.inference.command import newest_run
from trainer_classification.inference.image_paths import find_images

_PREPARED = Path(".data/prepared")


def run_export(config: ExportConfig) -> None:
    """Export the model that the options name.

    Raises:
        ValueError: see `export`; also if there is no model or no such image.
    """
    model = load_model(config.model or newest_run())
    target = Path(config.output) if config.output else _default_path(model, config)
    images = _choose_images(config, model)
    report = export(model, target, config.format, images)

    print("\n".join(_table(report, bool(images))))
    if images:
        print(_compare_files(model, images))


def _default_path(model: Model, config: ExportConfig) -> Path:
    return model.source.with_suffix(FORMATS[config.format].suffix)


def _choose_images(config: ExportConfig, model: Model) -> list[str]:
    """Return the images to compare on; none where there are none but made ones."""
    if config.images:
        return list(find_images([config.images], []))[: config.check_images]
    prepared = Path(config.prepared) if config.prepared else _PREPARED
    found = find_originals(model, prepared, config.check_images)
    if not found:
        log(
            f"The images that the model was trained on were not found in {prepared}: comparing on images made from a "
            f"seed. --images names others."
        )
    return found


def _table(report: ExportReport, are_real: bool) -> Iterator[str]:
    """Yield the lines of the table that people read."""
    kind = "images" if are_real else "made images"
    yield f"{report.path}: {report.megabytes:.1f} MB, compared with the checkpoint on {report.images} {kind}"
    yield ""
    width = max(len(found.name) for found in report.differences)
    yield f"{'probabilities in':{width}}  largest difference      mean  top-1 agreement"
    for found in report.differences:
        yield (
            f"{found.name:{width}}  {found.largest:18.2e}  {found.mean:8.2e}  {found.agreement:15.1%}"
        )
    for note in report.notes:
        yield f"Note: {note}"


def _compare_files(model: Model, paths: list[str]) -> str:
    """Say how far the answers to decoded pixels are from those of `predict.py` to the files themselves."""
    decoded = predict_with_checkpoint(model, read_images(paths, model.channels))
    direct = predict_with_checkpoint(model, paths)
    agreement = (decoded.argmax(1) == direct.argmax(1)).mean()
    return (
        f"predict.py on the files, whose JPEGs it resizes before they become RGB: "
        f"largest difference {abs(decoded - direct).max():.2e}, top-1 agreement {agreement:.1%}"
    )
