"""What `train.py` does: start the processes, or be one of them; every way it can end has an exit code."""

from __future__ import annotations

import faulthandler
import os
import sys
import time

import torch

from trainer_classification.config import TrainConfig
from trainer_classification.console import log
from trainer_classification.environment import launched
from trainer_classification.training import distributed
from trainer_classification.training.loop import Stopped, train
from trainer_classification.training.preflight import would_work

_LOST_PEER = 1
_PATIENCE = 2.0  # seconds in which the launcher hears of the dead rank first, so that it names the right one
_EXIT_SECONDS = 5.0


def start(config: TrainConfig, started: float) -> int:
    """Train as the config says; returns the exit code.

    Args:
        config: what the user asked for.
        started: `time.time()` at which the command began.
    """
    if not launched():
        count, reason = distributed.processes(config)
        if count > 1:
            log(f"Starting {count} processes ({reason}).")
            return distributed.launch(count, sys.argv, started, quiet=config.preflight)
        return _train(config, started)
    try:
        return _train(config, float(os.environ.get("TRAINER_STARTED", started)))
    except BaseException as error:
        # NCCL's threads may wait for peers for ever when Python tears down; the other ranks wait for this one.
        faulthandler.dump_traceback_later(_EXIT_SECONDS, exit=True)
        if not distributed.lost_peer(error):
            raise
        log("Another process is gone; this one ends with it.")
        time.sleep(_PATIENCE)
        return _LOST_PEER


def _train(config: TrainConfig, started: float) -> int:
    if config.preflight:
        if would_work(config, started):
            return 0
        if launched():  # what a peer waits for keeps this process from its end
            faulthandler.dump_traceback_later(_EXIT_SECONDS, exit=True)
        return 1
    try:
        train(config, started)
    except Stopped as stop:
        log(str(stop))
        return stop.code
    except torch.OutOfMemoryError as error:
        raise ValueError(
            f"The GPU has too little memory for such batches: give a smaller --batch-size, or --accumulate 2 "
            f"({str(error).split('. GPU')[0]})."
        ) from error
    return 0
