"""End a training: test the best weights once, and write everything that the run leaves."""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any, cast

import torch

from trainer_classification.checkpoint import archive
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.checkpoint.model_id import model_id
from trainer_classification.console import log
from trainer_classification.faster_precision import name_precision
from trainer_classification.metrics.classification import accuracy_interval, platform_scalars
from trainer_classification.metrics.image_scores import ImageScores, score_images
from trainer_classification.outputs.class_tables import write_class_table, write_confusion
from trainer_classification.outputs.model_card import write_outputs
from trainer_classification.training.best_epoch import describe_choice
from trainer_classification.training.divergence import advise_on_divergence, check_weights
from trainer_classification.training.evaluate import Evaluation, evaluate, evaluate_logits
from trainer_classification.training.run_report import write_run_report
from trainer_classification.training.save import save_final, save_model
from trainer_classification.training.setup import Setup, describe_configuration
from trainer_classification.training.state import State
from trainer_classification.training.temperature import (
    collect_split,
    fit_on_validation,
    measure_calibration,
)
from trainer_classification.training.torch_compile import TORCH_COMPILE_MODES
from trainer_classification.training.tta import Views
from trainer_classification.training.unlabeled import predict_unlabeled


def finish_run(setup: Setup, state: State) -> dict[str, Any]:
    """Test the best weights once, on all ranks, write model, summary, metrics and report, and return the summary."""
    best_epoch = _load_best(setup, state)
    temperature = None
    readers = ""
    judged: list[ImageScores] = []
    if setup.world.main:
        temperature, judged = _judge_validation(setup, state)
        readers = archive.describe_readers(save_final(setup, state, temperature))

    tested = _test(setup, "none")
    summary = build_summary(setup, state, best_epoch, tested)
    views = setup.config.tta
    if views != "none" and tested is not None:
        summary |= _test_views(setup, views)
    if setup.world.main:
        scores = _score_test(setup, temperature)
        summary |= measure_calibration(scores, temperature)
        summary |= {
            "archive_readers": readers,
            "model_id": model_id(setup.step.kept_model.state_dict()),
        }
        _write_all(setup, state, summary, tested, [*judged, *filter(None, [scores])])
    return summary


def _load_best(setup: Setup, state: State) -> int:
    """Give the kept model the best weights, on all ranks, and return the number of their epoch."""
    best = setup.tracker.checkpoint_dir / "best.pth"
    # The last checkpoint of a finished training may have been copied without it.
    if not best.is_file():
        _check_last_loss(setup, state)
        save_model(setup, state, best)
    tensors, meta = setup.world.broadcast_object(lambda: checkpoint.load(best))
    check_weights(setup, tensors["model"])
    log(describe_choice(state.history, meta.progress.epoch, setup.config.best_by))
    setup.step.kept_model.load_state_dict(tensors["model"])

    return int(meta.progress.epoch)


def _write_all(
    setup: Setup,
    state: State,
    summary: dict[str, Any],
    tested: Evaluation | None,
    judged: list[ImageScores],
) -> None:
    """Write what the run leaves beside its model, as `write_run_report` takes it."""
    if tested is not None:
        _write_test(setup, tested)
    predict_unlabeled(setup, summary["temperature"], summary["model_id"])
    write_outputs(
        setup.tracker,
        setup.manifest,
        describe_configuration(setup),
        state.history,
        summary,
        partial(write_run_report, setup, state, summary, tested, judged),
    )


def _judge_validation(setup: Setup, state: State) -> tuple[float | None, list[ImageScores]]:
    """Return the temperature of validation, and the scores of its images unless the model was trained on them.

    A frozen backbone's head was: validation images that were cut from train join
    it in the end.
    """
    split = setup.manifest.splits.get("validation")
    is_frozen = setup.recipe.freeze == "backbone"
    temperature = state.history[-1].get("temperature")
    if split is None or (is_frozen and split.origin != "dataset"):
        return temperature, []
    logits, labels = collect_split(setup, "validation")
    if not is_frozen:
        temperature = fit_on_validation(logits, labels)

    scores = score_images("validation", logits, labels, temperature)
    return temperature, [scores] if len(labels) else []


def _score_test(setup: Setup, temperature: float | None) -> ImageScores | None:
    """Return the scores of the test images; None where there is nothing to score."""
    logits, labels = collect_split(setup, "test")
    return score_images("test", logits, labels, temperature) if len(labels) else None


def _check_last_loss(setup: Setup, state: State) -> None:
    """Raise ValueError if the last epoch had no finite validation loss."""
    if state.history[-1].get("loss_validation", 0.0) is None:
        raise ValueError(f"No epoch has a finite validation loss. {advise_on_divergence(setup)}")


def _test(setup: Setup, views: Views) -> Evaluation | None:
    """Evaluate the kept weights on the test split; None without one."""
    if "test" not in setup.manifest.splits:
        return None
    if setup.recipe.freeze == "backbone" and views == "none":
        return cast(Evaluation, setup.world.broadcast_object(lambda: _test_features(setup)))
    with setup.open_test_loader() as loader:
        return evaluate(
            setup.step.kept_model,
            loader,
            setup.normalize,
            setup.num_classes,
            dtype=setup.dtype,
            world=setup.world,
            views=views,
        )


def _test_features(setup: Setup) -> Evaluation:
    """Evaluate the kept head on the features of the test split."""
    logits, labels = collect_split(setup, "test")
    return evaluate_logits(logits, labels, setup.num_classes)


def _write_test(setup: Setup, tested: Evaluation) -> None:
    """Log the scalars that the platform compares, and write the metrics of each class and the confusion matrix."""
    tracker = setup.tracker
    for name, value in platform_scalars(tested.confusion, tested.loss, setup.manifest.task).items():
        tracker.metric(name, value)
    class_names = setup.manifest.class_names
    write_class_table(tracker.artifact_dir / "classes.csv", tested.confusion, class_names)
    write_confusion(tracker.artifact_dir / "confusion.csv", tested.confusion, class_names)


def _test_views(setup: Setup, views: Views) -> dict[str, Any]:
    """Test again with test-time augmentation, log the accuracy, and return the metrics under names of their own."""
    tested = _test(setup, views)
    assert tested is not None
    log(f"Test accuracy with --tta {views}: {tested.accuracy:.2%}.")
    return {"tta": views, "accuracy_test_tta": tested.accuracy, "loss_test_tta": tested.loss}


def _final_step_mode(setup: Setup) -> str:
    """Return how the steps ran in the end."""
    if setup.step.is_recorded:
        return "graph"
    return setup.step_mode if setup.step_mode in TORCH_COMPILE_MODES else "off"


def build_summary(
    setup: Setup, state: State, best_epoch: int, tested: Evaluation | None
) -> dict[str, Any]:
    """Return the content of `summary.json`; None where there was nothing to measure.

    seconds_training is the time of the steps and of waiting for their batches; with
    a frozen backbone that of the features, and seconds_head of the head's solver.
    Evaluation, checkpoints and tracking are only part of seconds_total.

    Args:
        setup: of the run.
        state: at the end of the run.
        best_epoch: number of the epoch whose weights are kept, from 1.
        tested: result on the test split.
    """
    best_row = state.history[best_epoch - 1]
    not_finite, overflowed = state.metrics.failed_steps.tolist()

    return {
        "dataset": setup.manifest.dataset,
        "model": setup.recipe.model,
        "loader": setup.inputs.resolved.engine.reason,
        "epochs": state.epoch,
        "epochs_planned": setup.epochs(state),
        "stopped_early": state.epoch < setup.epochs(state),
        "best_epoch": best_epoch,
        "best_by": setup.config.best_by,
        "seconds_training": state.seconds_training,
        "seconds_head": best_row.get("seconds_head"),
        "seconds_total": time.monotonic() - setup.inputs.started,
        "seconds_first_step": state.seconds_first_step,
        "seconds_in_first_step": state.seconds_in_first_step,
        "images_per_second": state.images / state.seconds_training,
        "data_wait_fraction": state.seconds_waiting / state.seconds_training,
        "accuracy_test": tested.accuracy if tested else None,
        "accuracy_test_interval": list(accuracy_interval(tested.confusion)) if tested else None,
        "balanced_accuracy_test": tested.balanced_accuracy if tested else None,
        "accuracy_validation": best_row.get("accuracy_validation"),
        "loss_test": tested.loss if tested and math.isfinite(tested.loss) else None,
        "seed": setup.config.seed,
        "device": torch.cuda.get_device_name() if setup.device.type == "cuda" else "cpu",
        "precision": name_precision(setup.dtype),
        "world_size": setup.world.size,
        "manifest_fingerprint": setup.manifest.fingerprint,
        "steps_not_finite": not_finite,
        "steps_overflowed": overflowed,
        "compile": _final_step_mode(setup),
    }
