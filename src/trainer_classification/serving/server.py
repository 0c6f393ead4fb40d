"""Run the HTTP server until a signal ends it."""

from __future__ import annotations

import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from starlette.types import ASGIApp

from trainer_classification.stop_signals import restore_handlers, set_handlers

_GRACE_SECONDS = 8  # for the requests that are worked on; container runtimes kill after ten


def open_socket(host: str, port: int) -> socket.socket:
    """Bind a TCP socket, which does not listen yet.

    Args:
        host: name or address of this machine, of IPv4 or IPv6.
        port: 0: a free one.

    Raises:
        ValueError: there is no such address, or its port is taken.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        if listener is not None:
            listener.close()
        raise ValueError(
            f"Nothing can listen at --host {host} --port {port}: {error.strerror or error}. Choose another port "
            f"(0: a free one) or host."
        ) from None
    return listener


def url_of(listener: socket.socket) -> str:
    """Return the URL of a bound socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(app: ASGIApp, listener: socket.socket, on_start: Callable[[], None]) -> None:
    """Answer requests until a signal asks to stop; then finish those that were accepted.

    A second signal ends it at once. The first one is raised again at the end, for
    whoever handled it before.

    Args:
        app: answers.
        listener: bound socket; it is closed.
        on_start: called when requests are accepted.
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        timeout_graceful_shutdown=_GRACE_SECONDS,
    )
    server = _Server(config, on_start)
    received: list[int] = []

    def stop(number: int, _: object) -> None:
        server.force_exit = server.should_exit
        server.should_exit = True
        received.append(number)

    previous = set_handlers(stop)
    try:
        server.run(sockets=[listener])
    finally:
        restore_handlers(previous)
    if received:
        signal.raise_signal(received[0])


class _Server(uvicorn.Server):
    """Uvicorn's server with our handlers of signals, which include that of a closed terminal."""

    def __init__(self, config: uvicorn.Config, on_start: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_start = on_start

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the handlers as they are."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self._on_start()
