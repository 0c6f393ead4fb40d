"""End a process that cannot react to a signal because it waits for a peer that died."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

from trainer_classification.console import log

# With this limit a process ends within ten seconds of the death of a peer.
_STUCK_SECONDS = 8.0


def start_watchdog(received: list[int]) -> Callable[[], None]:
    """Start a thread that ends this process if a signal is not handled in time.

    When a peer dies, a rank may wait for its GPU forever, and Python runs no
    signal handler while its main thread waits in C. The thread learns of the
    signal through a pipe.

    Args:
        received: gets an entry when the handler runs.

    Returns:
        A function that stops the thread.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    previous = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    stopped = threading.Event()

    def watch() -> None:
        if os.read(reading, 1) and not stopped.wait(_STUCK_SECONDS) and not received:
            rank = os.environ.get("RANK", "0")
            log(f"Process {rank} waits for a process that died, and ends.", every_process=True)
            os._exit(128 + signal.SIGTERM)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()

    def stop() -> None:
        stopped.set()
        signal.set_wakeup_fd(previous)
        os.close(writing)  # the thread reads the end of the pipe
        thread.join()
        os.close(reading)

    return stop
