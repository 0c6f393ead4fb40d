"""`--preflight`: what would stop a run, found before it begins, and how long it will take."""

from __future__ import annotations

import os
import shutil
import sys
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
from trainer_classification.data import manifest
from trainer_classification.data.manifest import Manifest
from trainer_classification.outputs.tracking import NullTracker
from trainer_classification.training import distributed
from trainer_classification.training.distributed import World
from trainer_classification.training.loop import prepared_folder
from trainer_classification.training.progressive import image_size
from trainer_classification.training.run import Run
from trainer_classification.training.save import tensors_of
from trainer_classification.training.start_run import start_run
from trainer_classification.training.step_times import measure

_SAMPLE = 16  # images decoded
_SECONDS = 3.0  # of timed steps
_MOST_MEMORY = 0.95  # of what there is
_CLOSING = 3.0  # seconds of report and exit


def would_work(config: TrainConfig, started: float) -> bool:
    """Whether a run of this config would work; prepares the dataset where that is not done, which is kept.

    Of several processes each answers for itself, as the others may wait for one that ran out of memory.
    """
    try:
        with distributed.joined(config, lambda: _decoded_and_prepared(config)) as (world, folder):
            if not preflight(config, folder, manifest.read(folder), started, world):
                raise _Refused  # past the end of `joined`, which waits for the others
    except _Refused:
        return False
    except (ValueError, torch.OutOfMemoryError) as error:
        log(f"preflight: no, {_reason(error)}")
        return False
    return True


class _Refused(Exception):  # noqa: N818  (an answer)
    """A check found what would stop a run."""


def _decoded_and_prepared(config: TrainConfig) -> Path:
    log(f"preflight sample: yes, {decode_sample(config)}")
    return prepared_folder(config)


def decode_sample(config: TrainConfig) -> str:
    """Decode some images from all over the dataset.

    Raises:
        ValueError: one of them cannot be read.
    """
    from trainer_classification.data.decode import decode
    from trainer_classification.data.source import find_dataset, read_options

    source = find_dataset(config.dataset, config.task, read_options(config))
    rows = np.unique(np.linspace(0, len(source.files) - 1, _SAMPLE).astype(int))
    started = time.perf_counter()
    for row in rows:
        path = source.root / source.files[row]
        try:
            decode(path.read_bytes(), path.suffix.lower())
        except (ValueError, OSError) as error:
            raise ValueError(f"{path} cannot be read: {error}") from error
    each = (time.perf_counter() - started) / len(rows)
    return f"{len(rows)} of {len(source.files):,} images of {source.name}, {1000 * each:.1f} ms each"


def preflight(config: TrainConfig, folder: Path, prepared: Manifest, started: float, world: World) -> bool:
    """Try everything a run of this config does; says each finding in a line, and returns whether it would work."""
    with tempfile.TemporaryDirectory(prefix="preflight-") as written:
        run = start_run(config, folder, prepared, started, world, lambda: NullTracker(Path(written)))
    before, times = time.time() - started, list[float]()
    checks: list[tuple[str, Callable[[], str]]] = [
        ("step", lambda: _try_steps(run, times)),
        ("memory", lambda: _memory(run)),
        ("checkpoint", lambda: _checkpoint(run, config)),
        ("time", lambda: _whole_time(run, times, before)),
    ]
    try:
        return all(passes(name, check) for name, check in checks)
    finally:
        run.close()


def passes(name: str, check: Callable[[], str]) -> bool:
    """Run a check, and say what came out; False where it found what would stop a run."""
    try:
        log(f"preflight {name}: yes, {check()}")
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        of = "" if is_main_process() else f" on process {os.environ['RANK']}"
        print(f"preflight {name}{of}: no, {_reason(error)}", file=sys.stderr, flush=True)
        return False
    return True


def _reason(error: Exception) -> str:
    hint = "; try a smaller --batch-size, or --accumulate" if isinstance(error, torch.OutOfMemoryError) else ""
    return " ".join(str(error).split()) + hint


def _try_steps(run: Run, times: list[float]) -> str:
    """Steps on real batches at the full size, the costliest."""
    if run.opened_size != run.recipe.image_size:
        run.train_loader.close()
        run.train_loader, run.opened_size = run.open_train(run.recipe.image_size)[0], run.recipe.image_size
    times.extend(measure(run, _SECONDS))
    loss, _, images, _ = run.totals.read()
    if not np.isfinite(loss):
        raise ValueError(f"the loss is {loss} after {images} images: try --amp off or a lower --learning-rate")
    return f"{1000 * times[0]:.1f} ms, {run.recipe.batch_size / times[0]:,.0f} img/s"


def _memory(run: Run) -> str:
    """The most that the steps took, of what there is.

    Raises:
        ValueError: so much that a run would soon meet its end.
    """
    if run.device.type == "cuda":
        used, there = torch.cuda.max_memory_reserved(run.device), torch.cuda.mem_get_info(run.device)[1]
    else:
        used, there = _resident() * run.world.local_size, _host_memory()
    text = f"{used / 1e9:.2f} of {there / 1e9:.1f} GB with batches of {run.recipe.batch_size}"
    if used > _MOST_MEMORY * there:
        raise ValueError(f"{text}: give a smaller --batch-size, or --accumulate 2")
    return text


def _resident() -> int:
    """Most memory in bytes that this process has had."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _host_memory() -> int:
    """Bytes of memory of the machine, or of the container where that is less."""
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for name in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        limit = Path(name).read_text().strip() if Path(name).is_file() else ""
        there = min(there, int(limit)) if limit.isdigit() else there
    return there


def _checkpoint(run: Run, config: TrainConfig) -> str:
    """Save, load, compare, where the run would save.

    Raises:
        ValueError: what came back is not what was written, or there is no room for three of it.
    """
    state = tensors_of(run, run.totals.sums[None], run.totals.not_finite[None])
    if not run.world.main:
        return ""
    where = Path(config.output_dir or ".data")
    where.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=where, prefix=".preflight-") as folder:
        path = Path(folder) / "try.pth"
        checkpoint.save(path, state, {})
        loaded, _ = checkpoint.load(path, run.device)
        size, free = path.stat().st_size, shutil.disk_usage(folder).free
    if not same(state, loaded):
        raise ValueError(f"what was loaded from {where} is not what was saved: the disk is at fault")
    if free < 3 * size:
        raise ValueError(
            f"three checkpoints of {size / 1e6:,.0f} MB do not fit the {free / 1e6:,.0f} MB free in {where}"
        )
    return f"{size / 1e6:,.1f} MB saved, loaded and equal in {where}"


def same(one: Any, other: Any) -> bool:
    """Whether nested dicts and lists of tensors and numbers are equal, NaN to NaN."""
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one.nan_to_num(1e30), other.nan_to_num(1e30))
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def _whole_time(run: Run, times: list[float], before: float) -> str:
    """An estimate: steps by the area of their images, an evaluation after each epoch, and what was needed to begin."""
    step, batch = times
    recipe = run.recipe
    areas = [
        image_size(epoch, run.epochs, recipe.progressive, recipe.image_size) ** 2 / recipe.image_size**2
        for epoch in range(run.state.epoch, run.epochs)
    ]
    training = step * run.steps * sum(areas)
    batches = {name: -(-info.count // recipe.batch_size) for name, info in run.manifest.splits.items()}
    rest = batch * (batches.get("validation", 0) * len(areas) + batches.get("test", 0)) + _CLOSING + before
    return (
        f"about {duration(training + rest)} for {len(areas)} epochs of {run.steps} steps, "
        f"{duration(training)} of them training"
    )
