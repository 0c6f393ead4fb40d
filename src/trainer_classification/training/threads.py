"""Fix the number of torch's threads for a run: with another number, losses differ in their last bits."""

from __future__ import annotations

import os

import torch

from trainer_classification.console import log
from trainer_classification.environment import plan_threads
from trainer_classification.training.distributed import World
from trainer_classification.training.start_checkpoint import StartCheckpoint


def fix_threads(start: StartCheckpoint, world: World, device: torch.device) -> None:
    """Set the number of torch's threads; call it before anything is computed.

    It is that of the run that is resumed, unless this machine has fewer CPUs or the
    user has set OMP_NUM_THREADS; else as many as affinity and quota give each
    process of this machine.

    Args:
        start: what the training starts from.
        world: the processes that train.
        device: that trains.
    """
    planned = plan_threads(world.local_size).compute
    given = os.environ.get("OMP_NUM_THREADS", "")
    own = min(planned, torch.get_num_threads()) if given else planned
    kept = _kept_threads(start) if device.type == "cpu" else 0
    is_kept = 0 < kept <= planned and not given
    threads = kept if is_kept else own
    if threads != torch.get_num_threads():
        torch.set_num_threads(threads)
    if kept in (0, own) or not world.main:
        return
    if is_kept:
        log(
            f"Threads: {kept}, as the checkpoint's run, so that losses are the same to the bit; "
            f"OMP_NUM_THREADS={planned} takes all of this machine."
        )
    else:
        log(
            f"Threads: {own}, where the checkpoint's run had {kept}: losses may differ in their last digits."
        )


def _kept_threads(start: StartCheckpoint) -> int:
    """Return the threads of the run that this one goes on with; 0: there is none, or it is not known."""
    return 0 if start.kept_meta is None else start.kept_meta.cpu_threads
