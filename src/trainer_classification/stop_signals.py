"""End a command in time when it is asked to: SIGTERM of a container, Ctrl-C, a terminal that is closed."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_UNWIND_SECONDS = 1.2  # for cleaning up


class StopRequest(BaseException):
    """A signal other than Ctrl-C's came while the command had no handler of its own for it.

    Args:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def exit_code(number: int) -> int:
    """Return the exit code of a process that a signal has ended, as shells have it."""
    return 128 + number


def describe_stop(number: int, left: str) -> str:
    """Return the line that tells a user that the command was stopped, and what it leaves."""
    word = "Interrupted" if number == signal.SIGINT else "Terminated"
    return f"{word}. {left}"


@contextmanager
def raise_on_signals(left: str) -> Iterator[None]:
    """Let a signal unwind the stack once, and end the process if that takes too long.

    A container's command is process 1, to which the kernel delivers no signal
    that has no handler. Further signals are ignored, because an exception in the
    middle of cleaning up would leave locks taken and processes waited for; they
    stay ignored, because the process is to end. A signal that is ignored from the
    start, as `nohup` does, stays ignored as well.

    Args:
        left: what the command leaves, a sentence for the user.
    """
    first: list[int] = []
    arrived = threading.Event()
    unwound = threading.Event()

    def stop(number: int, _: object) -> None:
        if first:
            return
        first.append(number)
        arrived.set()
        request = KeyboardInterrupt() if number == signal.SIGINT else StopRequest(number)
        if not _stop.is_postponed:
            raise request
        _stop.request = request

    def end_in_time() -> None:
        arrived.wait()
        if first and not unwound.wait(_UNWIND_SECONDS):
            _end(exit_code(first[0]), describe_stop(first[0], left))

    previous = set_handlers(stop)
    # Started here: a signal handler cannot start a thread safely.
    watch = threading.Thread(target=end_in_time, name="stop", daemon=True)
    watch.start()
    try:
        yield
    finally:
        unwound.set()
        if not first:
            restore_handlers(previous)
        arrived.set()
        watch.join()


class _Stop:
    """Whether a signal may unwind the stack now, and what is to unwind it later."""

    def __init__(self) -> None:
        self.is_postponed = False
        self.request: BaseException | None = None


_stop = _Stop()


@contextmanager
def postpone_stop() -> Iterator[None]:
    """Let a signal unwind the stack only at the end of a block, which has to be short.

    For compiled code in the main thread: an exception that comes while numba makes
    Python objects of its results ends the process by SIGSEGV.
    """
    _stop.is_postponed = True
    try:
        yield
    finally:
        _stop.is_postponed = False
        request = _stop.request
        _stop.request = None
        if request is not None:
            raise request


def set_handlers(handler: Callable[[int, object], None]) -> dict[signal.Signals, Any]:
    """Set a handler for the signals that ask to stop, but for those that are ignored; return the former ones."""
    heard = [number for number in STOP_SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heard}


def restore_handlers(handlers: dict[signal.Signals, Any]) -> None:
    """Set the handlers that `set_handlers` has returned."""
    for number, handler in handlers.items():
        signal.signal(number, handler)


def _end(code: int, line: str) -> None:
    """End the process at once. Its workers notice that, and end as well."""
    try:
        if line:
            os.write(2, f"{line}\n".encode())
    finally:
        os._exit(code)
