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
from trainer_classification.exporting.int8 import Int8Report, export_int8
from trainer_classification.exporting.metadata import note_depth
from trainer_classification.inference.command import newest_run
from trainer_classification.inference.image_paths import find_images
from trainer_classification.inference.run_dataset import list_prepared_folders
from trainer_classification.output_paths import OutputFile, check_output_files

_CALIBRATION_IMAGES = 200
_LABELED_IMAGES = 1000
# With predict.py: an unsure model changes its mind where JPEGs are resized otherwise.
_LEAST_AGREEMENT = 0.9


def run_export(config: ExportConfig) -> None:
    """Export the model that the options name.

    Raises:
        ValueError: see `export`; also if there is no model or no such image.
    """
    suffix = FORMATS[config.format].suffix
    check_output_files([OutputFile("--output", config.output, suffix)], (config.model,))
    model = load_model(config.model or newest_run())
    target = Path(config.output) if config.output else _default_path(model, config)
    if config.int8:
        print("\n".join(_int8_table(_export_int8(config, model, target))))
        print("".join(f"Note: {note}\n" for note in note_depth(model)), end="")
        return
    images = _choose_images(config, model)
    report = export(model, target, config.format, images)

    print("\n".join(_table(report, bool(images))))
    if images:
        print(_compare_files(model, images))


def _default_path(model: Model, config: ExportConfig) -> Path:
    path = model.source.with_suffix(FORMATS[config.format].suffix)
    return path.with_stem(f"{path.stem}-int8") if config.int8 else path


def _export_int8(config: ExportConfig, model: Model, target: Path) -> Int8Report:
    """Export in 8 bits, calibrated on training images and measured on test images.

    Raises:
        ValueError: see `export_int8`; or the dataset is not there, or has no labels.
    """
    labeled = find_originals(model, config.prepared, _LABELED_IMAGES)
    calibration = find_originals(model, config.prepared, _CALIBRATION_IMAGES, ("train",))
    if not labeled.paths or not calibration.paths or labeled.labels.min() < 0:
        raise ValueError(
            f"--int8 measures on labeled images of the dataset {model.dataset}, on which the model was trained, and "
            f"they were not found in {_list_folders(config, model)}: prepare it, or name the folder of prepared "
            f"datasets with --prepared."
        )
    log(
        f"Choosing ranges on {len(calibration.paths)} training images, measuring on {len(labeled.paths)} others"
    )
    return export_int8(
        model,
        target,
        calibration.paths,
        labeled,
        format=config.format,
        largest_loss=config.largest_loss,
    )


def _list_folders(config: ExportConfig, model: Model) -> str:
    """Return where the prepared dataset was looked for."""
    return ", ".join(map(str, list_prepared_folders(model, config.prepared)))


def _choose_images(config: ExportConfig, model: Model) -> list[str]:
    """Return the images to compare on; none where there are none but made ones."""
    if config.images:
        return list(find_images([config.images], []))[: config.check_images]
    found = find_originals(model, config.prepared, config.check_images).paths
    if not found:
        log(
            f"The images that the model was trained on were not found in {_list_folders(config, model)}: comparing on "
            f"images made from a seed. --images names others."
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


def _int8_table(report: Int8Report) -> Iterator[str]:
    """Yield the lines of the table that people read."""
    plain = report.plain
    quantized = report.quantized
    yield f"{report.path}: in {report.runtime} on this machine, {report.images:,} labeled images"
    yield ""
    yield "            float32      int8"
    yield (
        f"accuracy  {plain.accuracy:9.2%} {quantized.accuracy:9.2%}   {quantized.accuracy - plain.accuracy:+.2%}"
    )
    yield f"images/s  {plain.rate:9,.0f} {quantized.rate:9,.0f}   {quantized.rate / plain.rate:.2f}x"
    yield f"MB        {plain.megabytes:9.2f} {quantized.megabytes:9.2f}"


def _compare_files(model: Model, paths: list[str]) -> str:
    """Say how far the answers to decoded pixels are from those of `predict.py` to the files themselves."""
    pixels = read_images(paths, model.channels, model.gray_shift)
    decoded = predict_with_checkpoint(model, pixels)
    direct = predict_with_checkpoint(model, paths)
    agreement = (decoded.argmax(1) == direct.argmax(1)).mean()
    if agreement < _LEAST_AGREEMENT:
        log(
            f"Warning: on {1 - agreement:.0%} of these images predict.py names another class than the file does of "
            f"their decoded pixels. Measure the file on images whose classes you know before you use it."
        )
    return (
        f"predict.py on the files, whose JPEGs it resizes before they become RGB: "
        f"largest difference {abs(decoded - direct).max():.2e}, top-1 agreement {agreement:.1%}"
    )
