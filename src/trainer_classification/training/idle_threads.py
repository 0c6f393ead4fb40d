"""Let torch's idle threads sleep while other processes need the CPUs, and spin while none do.

Torch's threads share each operation. One that is done with its part spins, which
is the quickest way to notice the next one. Where others want the CPU, it spins in
place of the thread that all wait for, and a step takes ten times as long.

libgomp, by which torch runs its threads, spins for a moment only while a process
has more OpenMP threads than CPUs (GCC's manual of libgomp, GOMP_SPINCOUNT). A
second team of threads, which sleeps, brings that about, and its end takes it
back. Number and work of torch's threads stay as they are, and so do all losses.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

import torch

from trainer_classification.environment import other_threads
from trainer_classification.training.time_slices import shorten_time_slices

_SCHEDSTAT = Path("/proc/thread-self/schedstat")
_INTERVAL = 0.25  # seconds between two looks
_BUSY_SHARE = 0.1  # of the time in which this thread waited for a CPU
_QUIET_LOOKS = 8  # in a row, before threads spin again
_SHARED_ELEMENTS = 1 << 18  # of a tensor that torch's threads share


class IdleThreads:
    """Look between two steps whether other processes need the CPUs.

    Args:
        device: that trains. On a GPU, with one thread, or where the user has said how
            OpenMP waits, nothing happens.
    """

    def __init__(self, device: torch.device) -> None:
        is_chosen = bool({"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys())
        self._is_off = device.type != "cpu" or torch.get_num_threads() == 1 or is_chosen
        self._team: _SleepingTeam | None = None
        self._quiet_looks = _QUIET_LOOKS - 2  # the guess that follows is soon taken back
        self._looked = time.monotonic()
        self._waited = _waited_seconds()
        cpus = os.cpu_count() or 1
        if not self._is_off:
            shorten_time_slices()
        if not self._is_off and other_threads() + torch.get_num_threads() > cpus:
            self._sleep()

    @property
    def are_asleep(self) -> bool:
        """Whether idle threads sleep."""
        return self._team is not None

    def __call__(self) -> None:
        """Look, if it is time; call it between two steps, in the thread that runs them."""
        now = time.monotonic()
        if self._is_off or now - self._looked < _INTERVAL:
            return
        waited = _waited_seconds()
        share = (waited - self._waited) / (now - self._looked)
        self._looked = now
        self._waited = waited
        self._decide(share)

    def _decide(self, share: float) -> None:
        """Change what idle threads do, by the share of the time in which this thread waited for a CPU."""
        if share > _BUSY_SHARE:
            self._quiet_looks = 0
            self._sleep()
            return
        self._quiet_looks += 1
        if self._quiet_looks >= _QUIET_LOOKS:
            self.close()

    def _sleep(self) -> None:
        if self._team is None:
            self._team = _SleepingTeam()

    def close(self) -> None:
        """Let idle threads spin again, as they did at first."""
        if self._team is not None:
            self._team.close()
            self._team = None


class _SleepingTeam:
    """A second team of OpenMP threads, which lasts as long as the thread that made it."""

    def __init__(self) -> None:
        self._is_ready = threading.Event()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._stay, name="idle-threads", daemon=True)
        self._thread.start()
        self._is_ready.wait()

    def _stay(self) -> None:
        torch.zeros(_SHARED_ELEMENTS).add_(1)
        self._is_ready.set()
        self._is_over.wait()

    def close(self) -> None:
        """End the team."""
        self._is_over.set()
        self._thread.join()


def _waited_seconds() -> float:
    """Return how long this thread has waited for a CPU since it began; 0 where the system does not say."""
    with suppress(OSError, ValueError, IndexError):
        return int(_SCHEDSTAT.read_text(encoding="utf-8").split()[1]) / 1e9
    return 0.0
