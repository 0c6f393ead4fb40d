"""The end of a training: the best weights are tested once, and everything is written."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.console import log
from trainer_classification.loaders.registry import open_loader
from trainer_classification.outputs.model_card import write_outputs
from trainer_classification.training.evaluate import Evaluation, evaluate
from trainer_classification.training.run import Run, configuration
from trainer_classification.training.save import save_model
from trainer_classification.training.torch_compile import BY_COMPILER
from trainer_classification.training.tta import Views


def finish(run: Run, folder: Path, started: float) -> dict[str, Any]:
    """Test the best weights once, on all ranks, and write model, summary, metrics and report."""
    best = run.tracker.checkpoint_dir / "best.pth"
    if not best.is_file():  # of a finished training, whose last checkpoint was copied alone
        save_model(run, best)
    weights, meta = run.world.broadcast_object(lambda: checkpoint.load(best))
    run.evaluated.load_state_dict(weights["model"])
    save_model(run, run.tracker.model_dir / "model.pth")
    tested = _test(run, folder, "none")
    summary = build_summary(run, meta, tested, started)
    if run.config.tta != "none" and tested is not None:
        summary |= _with_views(_test(run, folder, run.config.tta), run.config.tta)
    if run.world.main:
        write_outputs(run.tracker, run.manifest, configuration(run), run.state.history, summary, tested)
    return summary


def _test(run: Run, folder: Path, views: Views) -> Evaluation | None:
    """The kept weights on the test split, where there is one."""
    if "test" not in run.manifest.splits:
        return None
    loader, _ = open_loader(
        folder,
        run.manifest,
        "test",
        loader=run.config.loader,
        plan=None,
        batch_size=run.recipe.batch_size,
        image_size=run.recipe.image_size,
        device=run.device,
        threads=run.config.num_workers or run.world.threads,
        rank=run.world.rank,
        world_size=run.world.size,
    )
    with loader:
        classes = len(run.manifest.class_names)
        return evaluate(run.evaluated, loader, run.normalize, classes, run.dtype, run.world, views)


def _with_views(tested: Evaluation | None, views: Views) -> dict[str, Any]:
    """What test-time augmentation gives, apart from the single view's figures; said in a line."""
    assert tested is not None
    log(f"Test accuracy with --tta {views}: {tested.accuracy:.2%}.")
    return {"tta": views, "accuracy_test_tta": tested.accuracy, "loss_test_tta": tested.loss}


def _mode(run: Run) -> str:
    """How the steps ran in the end."""
    if run.step.recorded:
        return "graph"
    return run.config.compile if run.config.compile in BY_COMPILER else "off"


def build_summary(run: Run, meta: dict[str, Any], tested: Evaluation | None, started: float) -> dict[str, Any]:
    """What `summary.json` says; null where there was nothing to measure.

    seconds_training is the time of the steps and of waiting for their batches, without evaluation, checkpoints and
    tracking, which seconds_total includes.
    """
    state, best_epoch = run.state, meta["state"]["epoch"]
    row = state.history[best_epoch - 1]
    not_finite, overflowed = run.totals.wrong.tolist()
    return {
        "dataset": run.manifest.dataset,
        "loader": run.loader_reason,
        "epochs": state.epoch,
        "best_epoch": best_epoch,
        "seconds_training": state.seconds_training,
        "seconds_total": time.time() - started,
        "seconds_first_step": state.seconds_first_step,
        "seconds_in_first_step": state.seconds_in_first_step,
        "images_per_second": state.images / state.seconds_training,
        "data_wait_fraction": state.seconds_waiting / state.seconds_training,
        "accuracy_test": tested.accuracy if tested else None,
        "balanced_accuracy_test": tested.balanced_accuracy if tested else None,
        "accuracy_validation": row.get("accuracy_validation"),
        "loss_test": tested.loss if tested and math.isfinite(tested.loss) else None,
        "seed": run.config.seed,
        "device": torch.cuda.get_device_name() if run.device.type == "cuda" else "cpu",
        "precision": str(run.dtype or torch.float32).removeprefix("torch."),
        "world_size": run.world.size,
        "manifest_fingerprint": run.manifest.fingerprint,
        "steps_not_finite": not_finite,
        "steps_overflowed": overflowed,
        "compile": _mode(run),
    }
