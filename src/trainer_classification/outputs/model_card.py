"""Write the outputs of a finished run: summary, metrics, model card and report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainer_classification.console import log
from trainer_classification.data.manifest import Manifest
from trainer_classification.files import is_disk_full, write_atomically
from trainer_classification.names import escape_markdown
from trainer_classification.outputs.summary import write_metrics, write_summary
from trainer_classification.outputs.tracking import Tracker
from trainer_classification.plan import describe_view

_CARD = """# {dataset} classifier

`model.pth` holds the weights of a {model} for {image_size} px images with {channels} channel(s) and {classes} classes,
trained by trainer-classification on the Hafnia dataset {dataset} {version}.

- started from {origin}
- validation and test saw {view}
- accuracy on test: {accuracy_test}; mean over the classes: {balanced_accuracy_test}
- accuracy on validation: {accuracy_validation}
- epochs: {epochs}, seed: {seed}, device: {device}, precision: {precision}
- dataset fingerprint: {manifest_fingerprint}

Load it with `torch.load("model.pth", weights_only=True)`: `state["model"]` are the weights, `meta` is JSON with class
names, image size, mean and std.

`model.zip` is the same model as an archive. It is read right by {archive_readers}.
"""


_TRACKED = (
    "accuracy_test",
    "accuracy_validation",
    "loss_test",
    "images_per_second",
    "seconds_training",
)


def write_outputs(
    tracker: Tracker,
    manifest: Manifest,
    configuration: dict[str, Any],
    history: list[dict[str, Any]],
    summary: dict[str, Any],
    make_report: Callable[[], Path],
) -> None:
    """Write the results of a run, the summary last, and log where they are.

    Args:
        tracker: the experiment, whose folders get the files.
        manifest: of the dataset.
        configuration: options and recipe.
        history: one row for each epoch.
        summary: of the run.
        make_report: writes the report, and returns its path.
    """
    write_metrics(tracker.artifact_dir, history)
    _write_card(tracker, manifest, configuration, summary)
    for name in _TRACKED:
        if summary[name] is not None:
            tracker.metric(name, summary[name])
    tracker.flush()

    _write_report(make_report)
    write_summary(tracker.artifact_dir, summary)

    accuracy = "no test split"
    if summary["accuracy_test"] is not None:
        accuracy = f"test accuracy {summary['accuracy_test']:.2%}"
    log(
        f"Done: {accuracy} (best epoch {summary['best_epoch']}), {summary['seconds_training']:.1f} s of training, "
        f"{summary['images_per_second']:,.0f} img/s, data-wait {summary['data_wait_fraction']:.2%}.\n"
        f"Model: {tracker.model_dir / 'model.pth'}\nSummary: {tracker.artifact_dir / 'summary.json'}"
    )


def _write_card(
    tracker: Tracker, manifest: Manifest, configuration: dict[str, Any], summary: dict[str, Any]
) -> None:
    """Write README.md beside the model."""
    values = summary | {
        "model": configuration["recipe_model"],
        "image_size": configuration["recipe_image_size"],
        "origin": configuration["start_weights"],
        "view": describe_view(configuration["recipe_eval_crop"]),
        "channels": manifest.channels,
        "classes": len(manifest.class_names),
        "version": manifest.version,
    }
    shown = {key: "none" if value is None else value for key, value in values.items()}
    shown |= {key: escape_markdown(str(shown[key])) for key in ("dataset", "version")}
    write_atomically(tracker.model_dir / "README.md", _CARD.format(**shown))


def _write_report(make_report: Callable[[], Path]) -> None:
    """Write the report. A run does not fail without it, unless that is for want of room: it can be resumed."""
    try:
        log(f"Report: {make_report()}")
    except Exception as error:  # jinja2 or Pillow may be missing, or an image be damaged
        if is_disk_full(error):
            raise
        log(f"No report ({type(error).__name__}: {error}).")
