"""Put together what a finished run reports: scores of single images, likely wrong labels, pictures, and the page."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Any

from trainer_classification.data.table import open_table
from trainer_classification.environment import in_cloud
from trainer_classification.metrics.calibration import bin_confidences
from trainer_classification.metrics.confusion import list_cells
from trainer_classification.metrics.image_scores import ImageScores, find_label_errors
from trainer_classification.outputs.class_tables import LabelError, write_label_errors
from trainer_classification.outputs.report import ReportContent, write_report
from trainer_classification.training.evaluate import Evaluation
from trainer_classification.training.report_images import collect_galleries
from trainer_classification.training.setup import Setup, describe_configuration
from trainer_classification.training.state import State


def write_run_report(
    setup: Setup,
    state: State,
    summary: dict[str, Any],
    tested: Evaluation | None,
    judged: list[ImageScores],
) -> Path:
    """Write report.html, and likely_wrong_labels.csv beside it; return the path of the page.

    Args:
        setup: of the run, with the kept weights.
        state: at the end of the run.
        summary: of the run.
        tested: result on test.
        judged: scores of the splits that the model was not trained on.
    """
    folder = setup.tracker.artifact_dir
    no_images = explain_no_images(setup.config.report_images)
    suspects = find_label_errors(judged)
    if judged:
        errors = _describe_label_errors(setup, suspects, with_files=not no_images)
        write_label_errors(folder / "likely_wrong_labels.csv", errors)
    content = ReportContent(
        manifest=setup.manifest,
        configuration=describe_configuration(setup),
        history=state.history,
        summary=summary,
        confusion=None if tested is None else list_cells(tested.confusion),
        reliability=_bin_test(judged, summary["temperature"]),
        galleries=() if no_images else collect_galleries(setup, state, judged, suspects),
        label_errors=len(suspects) if judged else None,
        no_images=no_images,
    )

    return write_report(folder, content)


def explain_no_images(choice: str) -> str:
    """Return why a report has no images, in a sentence; "" where it has some.

    Args:
        choice: of --report-images.
    """
    if choice == "on" or (choice == "auto" and not in_cloud()):
        return ""
    reason = "--report-images off" if choice == "off" else "--report-images auto, in the cloud"
    return (
        f"Images of the dataset, and the names of their files, are left out ({reason}); likely_wrong_labels.csv names "
        f"samples by their number."
    )


def _describe_label_errors(
    setup: Setup, suspects: list[tuple[ImageScores, int]], with_files: bool
) -> list[LabelError]:
    names = setup.manifest.class_names
    files = {
        split: open_table(setup.inputs.folder, setup.manifest, split).files
        for split in {scores.split for scores, _ in suspects}
        if with_files
    }
    return [
        LabelError(
            split=scores.split,
            index=row,
            file=_portable(files[scores.split][row]) if with_files else "",
            label=names[int(scores.labels[row])],
            suggested=names[int(scores.predictions[row])],
            confidence=float(scores.confidences[row]),
            label_probability=float(scores.label_probabilities[row]),
        )
        for scores, row in suspects
    ]


def _portable(file: str) -> str:
    """Return a path as outputs may have it: of one outside of the dataset's folder only the last part."""
    path = PurePath(file)
    return path.name if path.is_absolute() or ".." in path.parts else file


def _bin_test(judged: list[ImageScores], temperature: float | None) -> Any:
    """Return the reliability of the test images without and with the temperature; None without test images."""
    for scores in judged:
        if scores.split == "test" and len(scores.labels):
            after = bin_confidences(scores.confidences, scores.correct) if temperature else None
            return bin_confidences(scores.plain_confidences, scores.correct), after
    return None
