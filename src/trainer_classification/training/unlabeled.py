"""Predict the splits without labels at the end of a training, for people and for the platform."""

from __future__ import annotations

from collections.abc import Sequence

from trainer_classification.console import log
from trainer_classification.data.table import Table, open_table
from trainer_classification.outputs.hafnia_predictions import (
    Predicted,
    rows_of_split,
    write_with_predictions,
)
from trainer_classification.outputs.predictions import name_classes, write_predictions
from trainer_classification.training.setup import Setup
from trainer_classification.training.temperature import collect_split


def predict_unlabeled(setup: Setup, temperature: float | None, model: str) -> None:
    """Write the kept weights' predictions for each split without labels into the artifacts. Rank 0 calls this alone.

    Args:
        setup: of the run, with the kept weights.
        temperature: fitted on validation; None: not fitted.
        model: id of the kept weights.
    """
    for split in setup.manifest.unlabeled_splits:
        logits, _ = collect_split(setup, split)
        if not len(logits):
            continue

        predictions = name_classes(logits, setup.manifest.class_names, temperature)
        table = open_table(setup.inputs.folder, setup.manifest, split)
        path = setup.tracker.artifact_dir / f"predictions-{split}.jsonl"
        write_predictions(path, table.files, predictions, model=model)
        log(f"Predictions of {split}: {path}")
        _write_for_platform(setup, split, table, predictions, model)


def _write_for_platform(
    setup: Setup, split: str, table: Table, predictions: Sequence[Predicted], model: str
) -> None:
    """Write a split's rows with their predictions as a Hafnia dataset; log the reason where the SDK cannot."""
    manifest = setup.manifest
    folder = setup.tracker.artifact_dir / f"predictions-{split}"
    try:
        dataset, is_prepared = rows_of_split(manifest, split, table)
        given = iter(predictions)
        aligned = [next(given) if prepared else None for prepared in is_prepared]
        write_with_predictions(
            dataset,
            manifest.task,
            manifest.class_names,
            aligned,
            folder,
            origin={"model": model, "manifest_fingerprint": manifest.fingerprint},
        )
    except (
        Exception
    ) as error:  # not installed, or stricter than our reader: no reason to fail a finished run
        reason = " ".join(str(error).split())[:200]
        log(
            f"The SDK cannot write {folder} ({type(error).__name__}: {reason}); the JSON lines are there."
        )
        return

    log(f"Predictions of {split} for the platform: {folder}")
