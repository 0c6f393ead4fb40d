"""The contestants of `serve_bench.py`, each a server in a process of its own, and the client that asks them."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from harness.measure import Turn
from harness.resources import usage

_HARNESS = Path(__file__).parent
_SERVE = _HARNESS.parents[1] / "scripts/serve.py"
_LENGTH = re.compile(rb"content-length: (\d+)", re.IGNORECASE)
_HEAD_END = b"\r\n\r\n"


def list_commands(run: Path) -> dict[str, list[str]]:
    """Return what is started as each server, by name."""
    plain = str(_HARNESS / "plain_server.py")
    return {
        "serve": [str(_SERVE), "--model", str(run), "--port", "0", "--device", "cpu"],
        "one by one": [plain, "inline", str(run)],
        "one by one, in threads": [plain, "threads", str(run)],
    }


@dataclass(frozen=True)
class RunningServer:
    """A server that accepts requests.

    Attributes:
        host: its address.
        port: its port.
        pid: its process.
    """

    host: str
    port: int
    pid: int

    def take_turn(self, images: Sequence[bytes], requests: int, connections: int) -> Turn:
        """Send requests over connections, each of which sends the next one when it has its answer.

        Args:
            images: files, which the requests send in turns.
            requests: to send.
            connections: open at the same time.

        Raises:
            RuntimeError: a request was not answered with 200 and JSON.
        """
        messages = [_format_request(image) for image in images]
        turns = [messages[number % len(messages)] for number in range(requests)]
        before = usage(self.pid)
        started = time.perf_counter()
        asyncio.run(_send_all(self, turns, connections))
        seconds = time.perf_counter() - started
        return Turn(requests, seconds, usage(self.pid) - before)


@contextmanager
def start_server(command: Sequence[str]) -> Iterator[RunningServer]:
    """Start a server and wait until it accepts requests; at the end it is ended.

    Raises:
        RuntimeError: it ended by itself.
    """
    process = subprocess.Popen([sys.executable, *command], stderr=subprocess.PIPE, text=True)
    try:
        assert process.stderr is not None
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith("Serving "):
                break
        else:
            raise RuntimeError("".join(lines))
        url = urlsplit(lines[-1].rpartition(" at ")[2].strip())
        yield RunningServer(str(url.hostname), int(url.port or 0), process.pid)
    finally:
        process.kill()
        process.communicate()


def _format_request(image: bytes) -> bytes:
    head = f"POST /invocations HTTP/1.1\r\nHost: bench\r\nContent-Length: {len(image)}\r\n\r\n"
    return head.encode() + image


async def _send_all(server: RunningServer, messages: Sequence[bytes], connections: int) -> None:
    """Send every message over one of the connections, and wait for all answers."""
    loop = asyncio.get_running_loop()
    rest = iter(messages)
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(
            lambda: _Connection(rest, loop.create_future()), server.host, server.port
        )
        clients.append(client)
    for client in clients:
        client.send_next()
    await asyncio.gather(*(client.finished for client in clients))


class _Connection(asyncio.Protocol):
    """A client that keeps its connection, and costs less than the servers.

    Args:
        rest: messages that no connection has sent yet.
        finished: set when there are none.
    """

    def __init__(self, rest: Iterator[bytes], finished: asyncio.Future[None]) -> None:
        self.finished = finished
        self._rest = rest
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def send_next(self) -> None:
        """Send a message, or close the connection where there is none."""
        assert self._transport is not None
        message = next(self._rest, None)
        if message is not None:
            self._transport.write(message)
            return
        self._transport.close()
        self.finished.set_result(None)

    def data_received(self, data: bytes) -> None:
        """Take a part of an answer, and send the next message after its end."""
        self._received += data
        head, separator, body = self._received.partition(_HEAD_END)
        length = _LENGTH.search(head)
        if not separator or length is None or len(body) < int(length[1]):
            return
        if not head.startswith(b"HTTP/1.1 200 "):
            self.finished.set_exception(RuntimeError(bytes(self._received).decode()))
            return
        json.loads(body)
        self._received.clear()
        self.send_next()

    def connection_lost(self, error: Exception | None) -> None:
        """Fail where answers are missing."""
        if not self.finished.done():
            self.finished.set_exception(error or RuntimeError("the server closed a connection"))
