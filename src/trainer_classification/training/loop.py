"""From a config to a trained model: build, fit, evaluate, write."""

from __future__ import annotations

import dataclasses
import math
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainer_classification import recipes
from trainer_classification.config import PrepareConfig, TrainConfig
from trainer_classification.data import array
from trainer_classification.data.manifest import Manifest
from trainer_classification.loaders.base import Loader
from trainer_classification.loaders.select import open_loader
from trainer_classification.models import build
from trainer_classification.outputs.tracking import Tracker
from trainer_classification.plan import Plan
from trainer_classification.recipes import Recipe
from trainer_classification.training import checkpoint
from trainer_classification.training.ema import Average
from trainer_classification.training.evaluate import Evaluation, evaluate
from trainer_classification.training.live import Clock, duration, say
from trainer_classification.training.optimizers import build_optimizer, set_learning_rate
from trainer_classification.training.schedule import factor
from trainer_classification.training.step import Normalise, Step, Totals, choose_device, precision

SAVE_SECONDS = 120.0  # a killed run loses at most this much
_DRY_STEPS = 2
_NOT_FINITE = 20  # steps in a row before a run is given up
_TRACKED = 200  # training scalars of a run


class Stopped(Exception):  # noqa: N818  (a request, no error)
    """SIGTERM or SIGINT came; the checkpoint is written."""

    def __init__(self, code: int, path: Path) -> None:
        super().__init__(f"Stopped; everything is kept. Go on with the same command and --resume {path}")
        self.code = code


@dataclass
class Run:
    """All that a training consists of."""

    config: TrainConfig
    recipe: Recipe
    manifest: Manifest
    device: torch.device
    dtype: torch.dtype | None
    tracker: Tracker
    train_loader: Loader
    validation_loader: Loader | None
    step: Step
    normalise: Normalise
    state: State
    totals: Totals
    clock: Clock = field(default_factory=Clock)
    loader_reason: str = ""

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        limit = _DRY_STEPS if self.config.stop_early else self.config.max_steps_per_epoch
        return min(self.train_loader.steps, limit) if limit else self.train_loader.steps

    @property
    def epochs(self) -> int:
        """Epochs of the run."""
        return 1 if self.config.stop_early else self.recipe.epochs

    @property
    def evaluated(self) -> torch.nn.Module:
        """The model that is evaluated and kept: the average where there is one."""
        return self.step.average.model if self.step.average is not None else self.step.model


@dataclass
class State:
    """Where a run stands, as checkpoints keep it beside the tensors."""

    epoch: int = 0
    step: int = 0
    best: float = -1.0
    finished: bool = False
    seconds_training: float = 0.0
    seconds_waiting: float = 0.0
    images: int = 0
    seconds_first_step: float = 0.0
    history: list[dict[str, Any]] = field(default_factory=list)


def build_run(config: TrainConfig, folder: Path, manifest: Manifest, tracker: Tracker) -> Run:
    """Choose device, precision and recipe, and build loaders, model and optimizer; says each choice in a line."""
    device, device_reason = choose_device(config.device)
    dtype, precision_reason = precision(device, config.amp)
    count = manifest.splits["train"].count
    recipe, recipe_reason = recipes.recipe_for(
        manifest.dataset, manifest.train_size, manifest.channels, count, manifest.resized
    )
    recipe = recipes.resolve(config, recipe)
    say(f"Device: {device} ({device_reason}); {precision_reason}.")
    say(f"Recipe: {recipe_reason}; {recipe.model}, {recipe.image_size} px, {recipe.epochs} epochs of {count:,} images.")
    plan = Plan(count, config.seed, recipe.policy, array.open_array(folder, manifest, "train").sizes)
    common: dict[str, Any] = {
        "loader": config.loader,
        "batch_size": recipe.batch_size,
        "image_size": recipe.image_size,
        "device": device,
        "threads": config.num_workers,
    }
    train_loader, loader_reason = open_loader(folder, manifest, "train", plan=plan, **common)
    say(f"Loader: {loader_reason}.")
    validation = "validation" in manifest.splits
    validation_loader = open_loader(folder, manifest, "validation", plan=None, **common)[0] if validation else None
    torch.manual_seed(config.seed)
    torch.backends.cudnn.benchmark = True
    model = build(recipe.model, len(manifest.class_names), manifest.channels, recipe.image_size, recipe.width)
    model = model.to(device)
    normalise = Normalise(manifest.mean, manifest.std, device)
    average = Average(model, recipe.ema) if recipe.ema else None
    optimizer = build_optimizer(model, recipe)
    return Run(
        config,
        recipe,
        manifest,
        device,
        dtype,
        tracker,
        train_loader,
        validation_loader,
        Step(model, optimizer, normalise, recipe.label_smoothing, dtype, average),
        normalise,
        State(),
        Totals(device),
        loader_reason=loader_reason,
    )


def train(config: TrainConfig, process_started: float | None = None) -> dict[str, Any]:
    """Train, and return the summary.

    Args:
        config: what the user asked for.
        process_started: `time.time()` at which the process began, for seconds_first_step.

    Raises:
        ValueError: something that the user can mend.
        Stopped: a signal came; the checkpoint is written.
    """
    from trainer_classification.data.prepare import prepare  # decoders and polars: not needed on a prepared array

    started = process_started or time.time()
    prepared = prepare(
        PrepareConfig(
            dataset=config.dataset,
            task=config.task,
            out=config.prepared,
            image_size=config.resize,
            validation_fraction=config.validation_fraction,
            on_bad_image=config.on_bad_image,
            workers=config.num_workers,
        )
    )
    return train_prepared(config, prepared.folder, prepared.manifest, started)


def train_prepared(config: TrainConfig, folder: Path, manifest: Manifest, started: float) -> dict[str, Any]:
    """Train on a prepared dataset; needs torch and numpy alone. As `train`."""
    log_dir = Path(config.output_dir or ".data")
    resume, reason = checkpoint_to_resume(config, log_dir)
    tracker = Tracker(config.project_name, log_dir)
    run = build_run(config, folder, manifest, tracker)
    say(reason) if reason else None
    if resume is not None:
        restore(run, resume)
    tracker.configuration(configuration(run))
    with signals() as received:
        try:
            fit(run, received, started)
            return finish(run, folder, started)
        finally:
            run.train_loader.close()
            if run.validation_loader is not None:
                run.validation_loader.close()
            tracker.close()


def checkpoint_to_resume(config: TrainConfig, log_dir: Path) -> tuple[Path | None, str]:
    """The checkpoint that --resume means, and why; looked for before the new experiment's folder is there."""
    if config.resume == "auto":
        folders = [log_dir / "experiments", Path(os.environ.get("MDI_CHECKPOINT_DIR", "/opt/ml/checkpoints"))]
        return checkpoint.newest(folders, config.project_name)
    return (Path(config.resume), f"Resume {config.resume}.") if config.resume else (None, "")


def configuration(run: Run) -> dict[str, Any]:
    """The options, and what the recipe made of them, as JSON types."""
    recipe = dataclasses.asdict(run.recipe)
    policy = {f"augment_{name}": value for name, value in recipe.pop("policy").items()}
    chosen = {f"recipe_{name}": value for name, value in (recipe | policy).items()}
    return dataclasses.asdict(run.config) | chosen | {"manifest_fingerprint": run.manifest.fingerprint}


@contextmanager
def signals() -> Iterator[list[int]]:
    """A list that gets the numbers of the signals SIGTERM and SIGINT; the second SIGINT is an interrupt as ever."""
    received: list[int] = []

    def note(number: int, _: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def fit(run: Run, received: list[int], started: float) -> None:
    """Train the epochs that are left; evaluate, track and save after each."""
    state = run.state
    saved = time.monotonic()
    for epoch in range(state.epoch, run.epochs):
        points = []
        before = state.seconds_training, state.seconds_waiting, state.images
        run.clock = Clock()
        run.clock.start()
        looked = time.monotonic()
        for loss in _steps(run, epoch):
            if state.seconds_first_step == 0:
                loss.item()
                state.seconds_first_step = time.time() - started
            global_step = epoch * run.steps + state.step - 1
            if global_step % max(1, run.epochs * run.steps // _TRACKED) == 0:
                points.append((global_step, loss))
            if _due(run, looked):
                looked = time.monotonic()
                _look(run, epoch)
            if received or time.monotonic() - saved > SAVE_SECONDS:
                _pause(run)
                save(run, "last.pth")
                run.clock.start()
                saved = time.monotonic()
                if received:
                    raise Stopped(128 + received[0], run.tracker.checkpoint_dir / "last.pth")
        trained = run.totals.read()  # waits for the device, so the clock stops after it
        _pause(run)
        _check_finite(run)
        row = _epoch_row(run, epoch, before, trained)
        _close_epoch(run, row, points)
        saved = time.monotonic()
    state.finished = True


def _steps(run: Run, epoch: int) -> Iterator[torch.Tensor]:
    """Run the steps of an epoch that are left; yields the loss of each."""
    batches = run.train_loader.epoch(epoch, run.state.step)
    total = run.epochs * run.steps
    while run.state.step < run.steps:
        run.clock.ask()
        batch = next(batches)
        run.clock.got()
        step = epoch * run.steps + run.state.step
        share = factor(step, total, run.recipe.schedule, run.recipe.warmup_fraction)
        set_learning_rate(run.step.optimizer, run.recipe.learning_rate * share)
        loss = run.step(batch, step, run.totals)
        run.state.step += 1
        run.state.images += len(batch.labels)
        yield loss


def _due(run: Run, looked: float) -> bool:
    """Whether the live line is to be drawn: every log_interval steps, or about once a second."""
    if run.config.log_interval:
        return run.state.step % run.config.log_interval == 0
    return time.monotonic() - looked > 1


def _look(run: Run, epoch: int) -> None:
    """The one place within an epoch that waits for the device: the live line, and whether the loss is finite."""
    import sys

    _check_finite(run)
    if not sys.stderr.isatty():
        return
    loss, accuracy, images, _ = run.totals.read()
    seconds = run.clock.now
    done = epoch * run.steps + run.state.step
    left = (run.epochs * run.steps - done) * seconds / max(1, images / run.train_loader.share.rows)
    sys.stderr.write(
        f"\r\x1b[Kepoch {epoch + 1}/{run.epochs} step {run.state.step}/{run.steps}  loss {loss:.4f}  "
        f"accuracy {accuracy:.2%}  {images / seconds:,.0f} img/s  data-wait {run.clock.waiting / seconds:.1%}  "
        f"{duration(left)} left"
    )
    sys.stderr.flush()


def _check_finite(run: Run) -> None:
    if int(run.totals.not_finite) >= _NOT_FINITE:
        raise ValueError(
            f"The loss was not finite in {int(run.totals.not_finite)} steps in a row. Try a lower --learning-rate (it "
            f"is {run.recipe.learning_rate:g}), a longer --warmup-fraction, or --amp off."
        )


def _pause(run: Run) -> None:
    """Stop the clock and add its seconds to the state."""
    run.clock.stop()
    run.state.seconds_training += run.clock.training
    run.state.seconds_waiting += run.clock.waiting
    run.clock = Clock()


def _epoch_row(
    run: Run, epoch: int, before: tuple[float, float, int], trained: tuple[float, float, int, int]
) -> dict[str, Any]:
    """The figures of an epoch, a line of metrics.jsonl."""
    state = run.state
    seconds = state.seconds_training - before[0]
    row: dict[str, Any] = {
        "epoch": epoch + 1,
        "loss_train": trained[0],
        "accuracy_train": trained[1],
        "images_per_second": (state.images - before[2]) / seconds,
        "data_wait_fraction": (state.seconds_waiting - before[1]) / seconds,
        "learning_rate": float(run.step.optimizer.param_groups[0]["lr"]),
        "seconds": seconds,
    }
    if run.validation_loader is not None:
        result = _evaluate(run, run.validation_loader)
        row |= {"loss_validation": result.loss, "accuracy_validation": result.accuracy}
    return row


def _evaluate(run: Run, loader: Loader) -> Evaluation:
    return evaluate(run.evaluated, loader, run.normalise, len(run.manifest.class_names), run.dtype)


def _close_epoch(run: Run, row: dict[str, Any], points: list[tuple[int, torch.Tensor]]) -> None:
    """Print and track the epoch, keep the best weights, and save."""
    state = run.state
    state.history.append(row)
    say(_line(run, row))
    for step, loss in points:
        run.tracker.scalar("train/loss_step", loss.item(), step)
    for name, value in row.items():
        if name != "epoch":
            kind, _, split = name.partition("_")
            run.tracker.scalar(f"{split}/{kind}" if kind in ("loss", "accuracy") else name, value, row["epoch"])
    score = row.get("accuracy_validation", float(row["epoch"]))  # without validation the last epoch is the best
    state.epoch, state.step = row["epoch"], 0
    run.totals.reset()
    if score > state.best:
        state.best = score
        save_model(run, run.tracker.checkpoint_dir / "best.pth")
    state.finished = state.epoch == run.epochs
    save(run, "last.pth")


def _line(run: Run, row: dict[str, Any]) -> str:
    text = f"epoch {row['epoch']}/{run.epochs}  loss {row['loss_train']:.4f}  accuracy {row['accuracy_train']:.2%}"
    if "accuracy_validation" in row:
        text += f"  validation loss {row['loss_validation']:.4f}  accuracy {row['accuracy_validation']:.2%}"
    left = (run.epochs - row["epoch"]) * row["seconds"]
    return text + (
        f"  {row['images_per_second']:,.0f} img/s  data-wait {row['data_wait_fraction']:.2%}  "
        f"{duration(row['seconds'])}" + (f", {duration(left)} left" if left else "")
    )


def _meta(run: Run) -> dict[str, Any]:
    manifest = run.manifest
    return {
        "config": dataclasses.asdict(run.config),
        "recipe": dataclasses.asdict(run.recipe),
        "dataset": manifest.dataset,
        "class_names": manifest.class_names,
        "channels": manifest.channels,
        "image_size": run.recipe.image_size,
        "mean": manifest.mean,
        "std": manifest.std,
        "manifest_fingerprint": manifest.fingerprint,
        "finished": run.state.finished,
        "state": dataclasses.asdict(run.state),
    }


def save_model(run: Run, path: Path) -> None:
    """The weights that are kept, with all that is needed to use them."""
    checkpoint.save(path, {"model": run.evaluated.state_dict()}, _meta(run))


def save(run: Run, name: str) -> None:
    """Everything that a run needs to go on."""
    step = run.step
    tensors: dict[str, Any] = {
        "model": step.model.state_dict(),
        "optimizer": step.optimizer.state_dict(),
        "scaler": step.scaler.state_dict(),
        "totals": {"sums": run.totals.sums, "not_finite": run.totals.not_finite},
    }
    if step.average is not None:
        tensors["average"] = step.average.model.state_dict()
    checkpoint.save(run.tracker.checkpoint_dir / name, tensors, _meta(run))


_SAME = ("class_names", "manifest_fingerprint", "recipe")


def restore(run: Run, path: Path) -> None:
    """Go on from a checkpoint.

    Raises:
        ValueError: it is of another dataset, of other classes or of another recipe.
    """
    tensors, meta = checkpoint.load(path, run.device)
    mine = _plain(_meta(run))
    for name in _SAME:
        if meta[name] != mine[name]:
            raise ValueError(
                f"{path} cannot be resumed: its {name} differs ({_difference(meta[name], mine[name])}). Give the "
                f"options and the dataset it was trained with, or train anew without --resume."
            )
    run.step.model.load_state_dict(tensors["model"])
    run.step.optimizer.load_state_dict(tensors["optimizer"])
    run.step.scaler.load_state_dict(tensors["scaler"])
    if run.step.average is not None:
        run.step.average.model.load_state_dict(tensors["average"])
    run.totals.sums.copy_(tensors["totals"]["sums"])
    run.totals.not_finite.copy_(tensors["totals"]["not_finite"])
    run.state = State(**meta["state"])
    best = path.with_name("best.pth")
    if best.is_file() and best.parent != run.tracker.checkpoint_dir:
        kept, kept_meta = checkpoint.load(best)
        checkpoint.save(run.tracker.checkpoint_dir / "best.pth", kept, kept_meta)


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    """As it comes back from JSON."""
    import json

    return dict(json.loads(json.dumps(value)))


def _difference(theirs: Any, ours: Any) -> str:
    if isinstance(theirs, dict) and isinstance(ours, dict):
        return ", ".join(f"{k} {theirs.get(k)} / {ours.get(k)}" for k in theirs | ours if theirs.get(k) != ours.get(k))
    return f"{str(theirs)[:60]} / {str(ours)[:60]}"


def finish(run: Run, folder: Path, started: float) -> dict[str, Any]:
    """Test the best weights once, and write model, summary, metrics and report."""
    from trainer_classification.outputs.finish import write_outputs

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
            tested = _evaluate(run, loader)
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
