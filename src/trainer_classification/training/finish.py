"""The end of a training: the best weights are tested once, and everything is written."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch

from trainer_classification.loaders.select import open_loader
from trainer_classification.outputs.finish import write_outputs
from trainer_classification.training import checkpoint
from trainer_classification.training.evaluate import Evaluation, evaluate
from trainer_classification.training.run import Run, configuration
from trainer_classification.training.saving import save_model


def finish(run: Run, folder: Path, started: float) -> dict[str, Any]:
    """Test the best weights once, and write model, summary, metrics and report."""
    best, meta = checkpoint.load(run.tracker.checkpoint_dir / "best.pth", run.device)
    run.evaluated.load_state_dict(best["model"])
    save_model(run, run.tracker.model_dir / "model.pth")
    tested = None
    if "test" in run.manifest.splits:
        loader, _ = open_loader(
            folder,
            run.manifest,
            "test",
            loader=run.config.loader,
            plan=None,
            batch_size=run.recipe.batch_size,
            image_size=run.recipe.image_size,
            device=run.device,
            threads=run.config.num_workers,
        )
        with loader:
            tested = evaluate(run.evaluated, loader, run.normalise, len(run.manifest.class_names), run.dtype)
    summary = summarise(run, meta, tested, started)
    write_outputs(run.tracker, run.manifest, configuration(run), run.state.history, summary, tested)
    return summary


def summarise(run: Run, meta: dict[str, Any], tested: Evaluation | None, started: float) -> dict[str, Any]:
    """What `summary.json` says; null where there was nothing to measure.

    seconds_training is the time of the steps and of waiting for their batches, without evaluation, checkpoints and
    tracking, which seconds_total includes.
    """
    state, best_epoch = run.state, meta["state"]["epoch"]
    row = state.history[best_epoch - 1]
    return {
        "dataset": run.manifest.dataset,
        "loader": run.loader_reason,
        "epochs": state.epoch,
        "best_epoch": best_epoch,
        "seconds_training": state.seconds_training,
        "seconds_total": time.time() - started,
        "seconds_first_step": state.seconds_first_step,
        "images_per_second": state.images / state.seconds_training,
        "data_wait_fraction": state.seconds_waiting / state.seconds_training,
        "accuracy_test": tested.accuracy if tested else None,
        "accuracy_validation": row.get("accuracy_validation"),
        "loss_test": tested.loss if tested and math.isfinite(tested.loss) else None,
        "seed": run.config.seed,
        "device": torch.cuda.get_device_name() if run.device.type == "cuda" else "cpu",
        "precision": str(run.dtype or torch.float32).removeprefix("torch."),
        "world_size": 1,
        "manifest_fingerprint": run.manifest.fingerprint,
    }
