"""Fit the temperature of the kept weights on validation, and measure on test what it does to their confidence."""

from __future__ import annotations

import numpy as np

from trainer_classification.arrays import Float32, Int64
from trainer_classification.console import log
from trainer_classification.loaders.collect_logits import collect_logits
from trainer_classification.metrics.calibration import calibration_error, fit_temperature
from trainer_classification.metrics.image_scores import ImageScores
from trainer_classification.training.linear_head import collect_frozen_split
from trainer_classification.training.setup import Setup


def fit_on_validation(logits: Float32, labels: Int64) -> float | None:
    """Return the temperature with the lowest cross entropy on validation; never on test.

    Args:
        logits: float32 [N, K], of `collect_split`.
        labels: int64 [N].

    Returns:
        None without images.
    """
    if not len(logits):
        return None

    fit = fit_temperature(logits, labels)
    log(
        f"Temperature: {fit.temperature:.3f}, fitted on {len(labels):,} validation images; their loss is "
        f"{fit.loss_after:.4f} with it, {fit.loss_before:.4f} without."
    )
    if fit.note:
        log(fit.note)
    return fit.temperature


def measure_calibration(
    scores: ImageScores | None, temperature: float | None
) -> dict[str, float | None]:
    """Return the temperature and the expected calibration error on test without and with it.

    Args:
        scores: of the test images; None: there are none.
        temperature: None: not fitted.

    Returns:
        Entries of `summary.json`; None where there was nothing to measure.
    """
    before = None
    after = None
    if scores is not None:
        before = calibration_error(scores.plain_confidences, scores.correct)
        if temperature:
            after = calibration_error(scores.confidences, scores.correct)

    return {
        "temperature": temperature,
        "calibration_error_test_before": before,
        "calibration_error_test_after": after,
    }


def collect_split(setup: Setup, split: str) -> tuple[Float32, Int64]:
    """Compute the logits of the kept weights for all images of a split, on this rank alone.

    Returns:
        (logits, labels): float32 [N, K] and int64 [N]; N is 0 if there is no such
        split, or if outputs are not finite.
    """
    if split in setup.manifest.splits and setup.recipe.freeze == "backbone":
        return collect_frozen_split(setup, split)
    nothing = np.zeros((0, setup.num_classes), np.float32), np.zeros(0, np.int64)
    if split not in setup.manifest.splits:
        return nothing

    with setup.open_whole_split(split) as loader:
        logits, labels = collect_logits(setup.step.kept_model, loader, setup.normalize)
    if not np.isfinite(logits).all():
        log(
            f"The outputs for the {split} split are not finite: no confidence can be computed from them."
        )
        return nothing
    return logits, labels
