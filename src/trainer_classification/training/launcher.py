"""Start this command again in one process for each GPU, and explain how the processes ended."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
import threading
import time
from typing import Any

import torch

from trainer_classification.config import TrainConfig
from trainer_classification.console import log

_LAUNCHER = "TRAINER_LAUNCHER"  # its number, for the processes that it starts
_CHECK_SECONDS = 1.0
_SAVE_SECONDS = 10.0  # a process that trains notices it at the next step, and saves
_NCCL_SHARED_MEMORY = 1 << 30  # bytes free in /dev/shm from which on NCCL may use it


def end_with_launcher() -> None:
    """End this process soon after the one that has started it, wherever it waits; nothing if that is not `launch`.

    A process that waits for the launcher's store does so without an end, and runs no
    handler of a signal meanwhile.
    """
    launcher = os.environ.get(_LAUNCHER)
    if launcher is None:
        return

    def watch() -> None:
        while str(os.getppid()) == launcher:
            time.sleep(_CHECK_SECONDS)
        time.sleep(_SAVE_SECONDS)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, name="launcher", daemon=True).start()


def count_processes(config: TrainConfig) -> tuple[int, str]:
    """Return how many processes to start on this machine, and the reason.

    Raises:
        ValueError: there are fewer GPUs than requested processes.
    """
    gpus = 0 if config.device == "cpu" else torch.cuda.device_count()
    if config.processes and gpus and config.processes > gpus:
        raise ValueError(
            f"--processes is {config.processes}, but there are {gpus} GPUs: use {gpus} or fewer."
        )
    if config.processes:
        return config.processes, "--processes"
    return max(1, gpus), "one for each visible GPU"


def launch(count: int, arguments: list[str], started: float, quiet: bool = False) -> int:
    """Run this command in `count` processes through torch's elastic launcher.

    Args:
        count: of processes on this machine.
        arguments: script and options, as `sys.argv`.
        started: `time.monotonic()` at which the command started, for the processes.
        quiet: True if exit code 1 needs no explanation.

    Returns:
        The exit code.
    """
    # The launcher's own log takes 60 lines for what `_explain_failure` says in
    # one.
    os.environ.setdefault("LOGLEVEL", "CRITICAL")
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    os.environ.update(_backend_settings(), TRAINER_STARTED=str(started))
    os.environ[_LAUNCHER] = str(os.getpid())
    with tempfile.TemporaryDirectory(prefix="trainer-") as logs:
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=count,
            run_id="train",
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",  # any free port
            local_addr="localhost",  # a container without a network cannot resolve its own name
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        try:
            elastic_launch(config, sys.executable)(*arguments)
        except SignalException as stopped:
            return 128 + int(stopped.sigval)
        except ChildFailedError as failed:
            return _explain_failure(failed, count, quiet)

    return 0


def _backend_settings() -> dict[str, str]:
    """Return the settings NCCL and gloo need on one machine, except those that the user made."""
    settings = {"GLOO_SOCKET_IFNAME": "lo"}
    stat = os.statvfs("/dev/shm") if os.path.isdir("/dev/shm") else None
    if stat is None or stat.f_bavail * stat.f_frsize < _NCCL_SHARED_MEMORY:
        settings["NCCL_SHM_DISABLE"] = "1"
    return {name: value for name, value in settings.items() if name not in os.environ}


def _explain_failure(failed: Any, count: int, quiet: bool) -> int:
    """Log which process ended first and how, and return the exit code."""
    rank, failure = failed.get_first_failure()
    code = int(failure.exitcode)
    if code < 0:
        name = signal.Signals(-code).name
        how = f"was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        code = 128 - code
    else:
        how = f"ended with code {code}; its message is above"

    stopped_by_user = code - 128 in (signal.SIGTERM, signal.SIGINT)
    if not stopped_by_user and not (quiet and code == 1):
        log(
            f"Process {rank} of {count} {how}. The training has stopped; --resume auto continues from its last "
            f"checkpoint."
        )
    return code
