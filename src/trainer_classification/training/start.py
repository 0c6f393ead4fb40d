"""Do what `train.py` does: start the processes, or be one of them. Each way it can end has an exit code."""

from __future__ import annotations

import faulthandler
import os
import sys
import time

import torch

from trainer_classification.config import TrainConfig
from trainer_classification.console import log
from trainer_classification.environment import launched
from trainer_classification.training.distributed import is_lost_peer
from trainer_classification.training.launcher import count_processes, end_with_launcher, launch
from trainer_classification.training.preflight import would_work
from trainer_classification.training.resume_options import restore_options
from trainer_classification.training.signals import Stopped
from trainer_classification.training.train import train

_LOST_PEER = 1
_NOTICE_SECONDS = (
    2.0  # the launcher notices the rank that died first in this time, and so names the right one
)
_EXIT_SECONDS = 5.0


def start(config: TrainConfig, started: float) -> int:
    """Train as the config asks, and return the exit code.

    Args:
        config: what the user asked for.
        started: `time.monotonic()` at which the command started.
    """
    if not config.preflight:  # which says itself what is wrong
        config = restore_options(config)
    if not launched():
        count, reason = count_processes(config)
        if count > 1:
            log(f"Starting {count} processes ({reason}).")
            return launch(count, sys.argv, started, quiet=config.preflight)
        return _train(config, started)

    end_with_launcher()
    try:
        return _train(config, float(os.environ.get("TRAINER_STARTED", started)))
    except BaseException as error:
        _exit_soon()
        if not is_lost_peer(error):
            raise
        log("Another process died; this one ends with it.")
        time.sleep(_NOTICE_SECONDS)
        return _LOST_PEER


def _exit_soon() -> None:
    """End this process in some seconds even if it hangs.

    NCCL's threads may wait for peers forever when Python shuts down, and the
    other ranks wait for this one.
    """
    faulthandler.dump_traceback_later(_EXIT_SECONDS, exit=True)


def _train(config: TrainConfig, started: float) -> int:
    if config.preflight:
        if would_work(config, started):
            return 0
        if launched():
            _exit_soon()
        return 1

    try:
        train(config, started)
    except Stopped as stop:
        log(str(stop))
        return stop.code
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"The GPU has too little memory for this batch: use a smaller --batch-size, or --accumulate 2 "
            f"({str(error).split('. GPU')[0]})."
        ) from error
    return 0
