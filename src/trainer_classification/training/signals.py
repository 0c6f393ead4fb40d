"""Catch SIGTERM and SIGINT, so that a training can write its checkpoint before it stops."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from trainer_classification.environment import launched
from trainer_classification.training.watchdog import start_watchdog


@contextmanager
def catch_signals() -> Iterator[list[int]]:
    """Yield a list that gets the numbers of SIGTERM and SIGINT; a second SIGINT interrupts as usual."""
    received: list[int] = []

    def handle(number: int, _: object) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    stop_watchdog = start_watchdog(received) if launched() else None
    try:
        yield received
    finally:
        if stop_watchdog is not None:
            stop_watchdog()
        for number, handler in previous.items():
            signal.signal(number, handler)
