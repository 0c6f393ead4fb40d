"""`--preflight`: find what would stop a run before it starts, and estimate how long it will take."""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.config import TrainConfig
from trainer_classification.console import duration, is_main_process, log
from trainer_classification.environment import total_memory
from trainer_classification.names import printable
from trainer_classification.outputs.tracking import NullTracker
from trainer_classification.storage import is_url
from trainer_classification.training.budget_trial import apply_budget
from trainer_classification.training.dataset import prepare_dataset
from trainer_classification.training.distributed import World
from trainer_classification.training.features import time_features
from trainer_classification.training.progressive import image_size
from trainer_classification.training.resolve import Resolved
from trainer_classification.training.resume import start_state
from trainer_classification.training.resume_options import restore_options
from trainer_classification.training.save import collect_tensors, describe
from trainer_classification.training.setup import Inputs, Setup, build_setup, log_setup
from trainer_classification.training.start_checkpoint import output_folder
from trainer_classification.training.state import State
from trainer_classification.training.step_times import CLOSING_SECONDS, estimate_evaluation, measure
from trainer_classification.training.train import join_run

_SAMPLE = 16  # images that are decoded
_TIMED_SECONDS = 3.0
_MAX_MEMORY = 0.95  # fraction of all memory
_CHECKPOINTS = 3  # that must fit on the disk


def would_work(config: TrainConfig, started: float) -> bool:
    """Return True if a run of this config would work; the dataset is prepared if necessary, and kept.

    Each of several processes returns its own answer, because the others may wait
    for one that ran out of memory.
    """
    try:
        config = restore_options(config)
        with join_run(config, started, _check_sample_and_prepare) as inputs:
            if not preflight(inputs):
                raise _FailedCheckError  # skips the end of `join_run`, which waits for the other processes
    except _FailedCheckError:
        return False
    except (ValueError, torch.OutOfMemoryError) as error:
        log(f"preflight: no, {_format_error(error)}")
        return False
    return True


class _FailedCheckError(Exception):
    """A check found what would stop a run; it has been logged."""


def _check_sample_and_prepare(config: TrainConfig, world: World) -> tuple[Path, Resolved]:
    if not is_url(config.prepared):  # nothing will be decoded
        log(f"preflight sample: yes, {decode_sample(config)}")
    return prepare_dataset(config, world)


def decode_sample(config: TrainConfig) -> str:
    """Decode some images from all over the dataset, and return what to tell the user.

    Raises:
        ValueError: more of them are bad than `--on-bad-image` accepts in the
            whole dataset; names all that are.
    """
    from trainer_classification.data.decode import decode
    from trainer_classification.data.source import find_dataset, read_options
    from trainer_classification.preparation.problems import count_accepted

    source = find_dataset(config.dataset, config.task, read_options(config))
    rows = np.unique(np.linspace(0, len(source.files) - 1, _SAMPLE).astype(int))
    bad = []
    started = time.perf_counter()
    for row in rows:
        path = source.root / source.files[row]
        try:
            decode(path.read_bytes())
        except (ValueError, OSError) as error:
            bad.append(f"{printable(str(path))}: {error}")
    milliseconds = 1000 * (time.perf_counter() - started) / len(rows)

    sample = f"{len(rows)} of {len(source.files):,} images of {source.name}"
    if len(bad) > count_accepted(len(source.files), config.on_bad_image):
        raise ValueError(
            f"{len(bad)} of a sample of {sample} cannot be read, which is more than --on-bad-image "
            f"{config.on_bad_image} accepts: {'; '.join(bad)}. Repair them, or leave them out with --on-bad-image skip."
        )
    left_out = f"; {len(bad)} of them bad and left out: {'; '.join(bad)}" if bad else ""

    return f"{sample}, {milliseconds:.1f} ms each{left_out}"


def preflight(inputs: Inputs) -> bool:
    """Try everything that a run does, log each finding in a line, and return True if the run would work."""
    with tempfile.TemporaryDirectory(prefix="preflight-") as folder:
        inputs, progress = apply_budget(inputs)
        setup = build_setup(inputs, lambda: NullTracker(Path(folder)))
        log_setup(setup)
        state = start_state(setup, progress)
    seconds_before = time.monotonic() - inputs.started
    times: list[float] = []
    freezes = setup.recipe.freeze == "backbone"
    checks: list[tuple[str, Callable[[], str]]] = [
        ("features", lambda: _check_features(setup, times))
        if freezes
        else ("step", lambda: _check_steps(setup, state, times)),
        ("memory", lambda: _check_memory(setup)),
        ("checkpoint", lambda: _check_checkpoint(setup, state)),
        ("time", lambda: _estimate_features(setup, times, seconds_before))
        if freezes
        else ("time", lambda: _estimate_time(setup, state, times, seconds_before)),
    ]
    try:
        return all(run_check(name, check) for name, check in checks)
    finally:
        state.close()
        setup.close()


def run_check(name: str, check: Callable[[], str]) -> bool:
    """Run a check, log what it found, and return False if that would stop a run."""
    try:
        log(f"preflight {name}: yes, {check()}")
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        process = "" if is_main_process() else f" on process {os.environ['RANK']}"
        log(f"preflight {name}{process}: no, {_format_error(error)}", every_process=True)
        return False
    return True


def _format_error(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError):
        return f"{text}; try a smaller --batch-size, or --accumulate"
    return text


def _check_steps(setup: Setup, state: State, times: list[float]) -> str:
    """Take steps on real batches of full size, the most expensive ones.

    Args:
        setup: of the run.
        state: of the run.
        times: gets the seconds of a step and of an evaluated batch.

    Raises:
        ValueError: the loss is not finite.
    """
    state.reopen_loader(setup, setup.recipe.image_size)
    seconds, seconds_evaluated = measure(setup, state, _TIMED_SECONDS)
    times.extend((seconds, seconds_evaluated))
    loss, _, images, _ = state.metrics.read()
    if not np.isfinite(loss):
        raise ValueError(
            f"the loss is {loss} after {images} images: try --amp off or a lower --learning-rate"
        )
    return f"{1000 * seconds:.1f} ms, {setup.recipe.batch_size / seconds:,.0f} img/s"


def _check_features(setup: Setup, times: list[float]) -> str:
    """Compute the features of some images; `times` gets the seconds of one."""
    seconds = time_features(setup, _TIMED_SECONDS)
    times.append(seconds)
    return f"{1000 * seconds:.1f} ms an image, {1 / seconds:,.0f} img/s"


def _check_memory(setup: Setup) -> str:
    """Return the peak memory of the steps, and all there is.

    Raises:
        ValueError: a run would soon exceed it.
    """
    if setup.device.type == "cuda":
        used = torch.cuda.max_memory_reserved(setup.device)
        total = torch.cuda.mem_get_info(setup.device)[1]
    else:
        used = _peak_resident_memory() * setup.world.local_size
        total = total_memory()
    text = f"{used / 1e9:.2f} of {total / 1e9:.1f} GB with batches of {setup.recipe.batch_size}"
    if used > _MAX_MEMORY * total:
        raise ValueError(f"{text}: use a smaller --batch-size, or --accumulate 2")
    return text


def _peak_resident_memory() -> int:
    """Return the most memory that this process has had, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _check_checkpoint(setup: Setup, state: State) -> str:
    """Save, load and compare a checkpoint where the run would save it.

    Raises:
        ValueError: what was loaded is not what was saved, or there is no room for
            three checkpoints.
    """
    tensors = collect_tensors(
        setup, state, state.metrics.sums[None], state.metrics.not_finite[None]
    )
    if not setup.world.main:
        return ""
    outputs = output_folder(setup.config).absolute()
    existing = next(path for path in (outputs, *outputs.parents) if path.is_dir())
    with tempfile.TemporaryDirectory(dir=existing, prefix=".preflight-") as folder:
        path = Path(folder) / "try.pth"
        checkpoint.save(path, tensors, describe(setup, state))
        loaded, _ = checkpoint.load(path, setup.device)
        size = path.stat().st_size
        free = shutil.disk_usage(folder).free
    if not are_equal(tensors, loaded):
        raise ValueError(f"what was loaded from {outputs} is not what was saved: check the disk")
    if free < _CHECKPOINTS * size:
        raise ValueError(
            f"{_CHECKPOINTS} checkpoints of {size / 1e6:,.0f} MB do not fit in the {free / 1e6:,.0f} MB free in "
            f"{outputs}"
        )
    return f"{size / 1e6:,.1f} MB saved, loaded and equal in {outputs}"


def are_equal(one: Any, other: Any) -> bool:
    """Compare nested dicts and lists of tensors and numbers; NaN equals NaN."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(
            one.nan_to_num(1e30), other.nan_to_num(1e30)
        )
    if isinstance(one, dict):
        same_keys = isinstance(other, dict) and one.keys() == other.keys()
        return same_keys and all(are_equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(are_equal, one, other))
    return bool(one == other)


def _estimate_features(setup: Setup, times: list[float], seconds_before: float) -> str:
    """Estimate the run of a frozen backbone: the features of all splits, and the time so far."""
    counts = {name: split.count for name, split in setup.manifest.splits.items()}
    training = times[0] * counts["train"] * setup.config.feature_views
    rest = times[0] * sum(count for name, count in counts.items() if name != "train")
    total = training + rest + CLOSING_SECONDS + seconds_before

    return f"about {duration(total)} for the features of all images, {duration(training)} of them training"


def _estimate_time(setup: Setup, state: State, times: list[float], seconds_before: float) -> str:
    """Estimate the run: steps by the area of their images, an evaluation after each epoch, and the time so far."""
    step, batch = times
    recipe = setup.recipe
    epochs = setup.epochs(state)
    steps = setup.steps_per_epoch(state)
    areas = [
        image_size(epoch, epochs, recipe.progressive, recipe.image_size) ** 2 / recipe.image_size**2
        for epoch in range(state.epoch, epochs)
    ]
    training = step * steps * sum(areas)
    validation, final = estimate_evaluation(setup, batch)
    rest = validation * len(areas) + final + CLOSING_SECONDS + seconds_before
    sooner = ", or less if --early-stop ends it" if setup.config.early_stop else ""

    return (
        f"about {duration(training + rest)} for {len(areas)} epochs of {steps} steps, "
        f"{duration(training)} of them training{sooner}"
    )
