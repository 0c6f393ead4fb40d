"""Catch the signals that ask to stop, so that a training can write its checkpoint before it stops."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from trainer_classification.environment import launched
from trainer_classification.stop_signals import restore_handlers, set_handlers
from trainer_classification.training.watchdog import start_watchdog


class Stopped(Exception):  # noqa: N818  (a request, not an error)
    """SIGTERM, SIGINT or SIGHUP arrived, and everything is saved.

    Args:
        code: of the process.
        path: of the checkpoint; None: the same command continues without one.
    """

    def __init__(self, code: int, path: Path | None) -> None:
        command = f": python scripts/train.py --resume {path}" if path else " the same command"
        super().__init__(f"Stopped; everything is saved. Continue with{command}")
        self.code = code


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Yield a list that gets the numbers of the signals; a second SIGINT interrupts as usual."""
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    previous = set_handlers(handle)
    stop_watchdog = start_watchdog(received) if launched() else None
    try:
        yield received
    finally:
        if stop_watchdog is not None:
            stop_watchdog()
        restore_handlers(previous)
