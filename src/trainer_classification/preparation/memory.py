"""Bound the memory of the worker processes: images that take much of it wait until there is room for them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import BaseContext

WORKER_BYTES = 200_000_000  # what a worker holds beside its image, about
_UNIT = 16_000_000  # bytes; images that take less count as part of their worker
_MAX_UNITS = 1 << 20


class MemoryBudget:
    """The memory for decoding that some processes share.

    An image that takes more than all of it is decoded while no other holds any.

    Args:
        context: that the processes are started by.
        limit: bytes.
    """

    def __init__(self, context: BaseContext, limit: int) -> None:
        self._units = min(max(1, limit // _UNIT), _MAX_UNITS)
        self._free = context.Semaphore(self._units)
        # Held while units are taken one by one: two that wait for more, each with a
        # part of it, would wait for ever.
        self._turn = context.Lock()

    @contextmanager
    def reserve(self, needed: int) -> Iterator[None]:
        """Wait until so many bytes are free, and hold them.

        Args:
            needed: bytes.
        """
        count = min(needed // _UNIT, self._units)
        if not count:
            yield
            return
        with self._turn:
            for _ in range(count):
                self._free.acquire()
        try:
            yield
        finally:
            for _ in range(count):
                self._free.release()


def count_workers(wanted: int, limit: int) -> int:
    """Return how many worker processes there is memory for, one at least.

    Args:
        wanted: processes.
        limit: bytes for all of them.
    """
    return max(1, min(wanted, limit // WORKER_BYTES))
