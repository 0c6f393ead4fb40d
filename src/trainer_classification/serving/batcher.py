"""Put what waits into one batch: a thread that calls a function, for callers in an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Generic, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Calls a function with all items that wait, in a thread of its own.

    The function is called as soon as anything waits. What arrives during a call
    waits for the next one, so that batches grow with the load, and no item waits
    for a batch to fill up. Submit, forget and close belong to the thread of the
    event loop.

    Args:
        function: returns a result for each item, in order.
        max_batch: most items of one call.
    """

    def __init__(
        self, function: Callable[[Sequence[Item]], Sequence[Result]], max_batch: int
    ) -> None:
        self._function = function
        self._max_batch = max_batch
        self._waiting: dict[asyncio.Future[Result], Item] = {}  # in the order of arrival
        self._changed = threading.Condition()
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="batcher", daemon=True)
        self._thread.start()

    def submit(self, items: Sequence[Item]) -> list[asyncio.Future[Result]]:
        """Let items wait for the next call; call it in the running event loop.

        Returns:
            A future for each item. An exception of the function is that of every
            item of its batch.
        """
        loop = asyncio.get_running_loop()
        futures = [loop.create_future() for _ in items]
        with self._changed:
            self._waiting.update(zip(futures, items, strict=True))
            self._changed.notify()
        return futures

    def forget(self, futures: Sequence[asyncio.Future[Result]]) -> None:
        """Drop the items that still wait, and their results: nobody asks for them any more."""
        with self._changed:
            for future in futures:
                self._waiting.pop(future, None)
        for future in futures:
            future.cancel()

    def close(self) -> None:
        """End the thread, after what waits is done."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._take():
            results: Sequence[Result | Exception]
            try:
                results = self._function([*batch.values()])
            except Exception as error:  # a bug of the function must not end the thread
                results = [error] * len(batch)
            futures = [*batch]
            futures[0].get_loop().call_soon_threadsafe(_deliver, futures, results)

    def _take(self) -> dict[asyncio.Future[Result], Item]:
        """Return what waits, up to a batch; nothing after the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_closed)
            batch = dict(islice(self._waiting.items(), self._max_batch))
            for future in batch:
                del self._waiting[future]
        return batch


def _deliver(
    futures: Sequence[asyncio.Future[Result]], results: Sequence[Result | Exception]
) -> None:
    """Set the results of futures, in the thread of their event loop."""
    for future, result in zip(futures, results, strict=True):
        if future.done():  # forgotten meanwhile
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
