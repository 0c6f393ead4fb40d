"""A server on loopback that lets S3 clients read a folder, and counts what they ask for: as a process.

It knows GET with ranges and HEAD, which is all that reading by name takes, and keeps
connections open. moto's server, which the tests use, takes some milliseconds of CPU
for each request, and would be what is measured.

    GET /                count the requests and bytes so far, as JSON
    GET /bucket/NAME     the file NAME of the folder

https://docs.aws.amazon.com/AmazonS3/latest/API/API_GetObject.html
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

BUCKET = "bucket"
_RANGE = re.compile(r"bytes=(\d*)-(\d*)$")
_MISSING = b"<Error><Code>NoSuchKey</Code><Message>There is none.</Message></Error>"


class Handler(BaseHTTPRequestHandler):
    """Answer one connection."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    folder: ClassVar[Path]
    seconds: ClassVar[float]  # before each answer
    counts: ClassVar[dict[str, int]] = {"requests": 0, "bytes": 0}
    lock: ClassVar[threading.Lock] = threading.Lock()

    def do_HEAD(self) -> None:
        """Answer with the headers of an object."""
        self._answer(has_body=False)

    def do_GET(self) -> None:
        """Answer with an object, or a range of it."""
        if self.path == "/":
            self._send(200, json.dumps(self.counts).encode())
            return
        self._answer(has_body=True)

    def _answer(self, has_body: bool) -> None:
        time.sleep(self.seconds)
        path = self.folder / self.path.partition("?")[0].removeprefix(f"/{BUCKET}/")
        try:
            file = os.open(path, os.O_RDONLY)
        except OSError:
            self._count(0)
            self._send(404, _MISSING if has_body else b"")
            return
        try:
            self._send_file(file, has_body)
        finally:
            os.close(file)

    def _send_file(self, file: int, has_body: bool) -> None:
        status = os.fstat(file)
        start, end = 0, status.st_size
        asked = _RANGE.match(self.headers.get("Range", ""))
        if asked:
            first, last = asked.groups()
            start = int(first) if first else end - int(last)
            end = min(end, int(last) + 1) if first and last else end
        self.send_response(206 if asked else 200)
        self.send_header("Content-Length", str(end - start))
        self.send_header("Last-Modified", formatdate(status.st_mtime, usegmt=True))
        self.send_header("ETag", f'"{status.st_size:x}-{status.st_mtime_ns:x}"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Type", "application/octet-stream")
        if asked:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{status.st_size}")
        self.end_headers()
        self.wfile.flush()
        self._count(end - start if has_body else 0)
        while has_body and start < end:
            start += os.sendfile(self.connection.fileno(), file, start, end - start)

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _count(self, size: int) -> None:
        with self.lock:
            self.counts["requests"] += 1
            self.counts["bytes"] += size

    def log_message(self, format: str, *args: Any) -> None:
        """Write nothing."""


class Server(ThreadingHTTPServer):
    """A thread for each connection."""

    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that are gone."""


@contextmanager
def serve(folder: Path, latency: float) -> Iterator[str]:
    """Serve a folder from a process of its own, and yield the endpoint.

    Args:
        folder: its files are the objects of `BUCKET`.
        latency: milliseconds that each answer waits.
    """
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    command = [sys.executable, "-m", "harness.object_server", str(folder), str(port), str(latency)]
    process = subprocess.Popen(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        process.stdout.readline()  # it listens
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


def read_counts(endpoint: str) -> dict[str, int]:
    """Return the requests and bytes that a server has counted."""
    with urllib.request.urlopen(endpoint) as answer:
        counts: dict[str, int] = json.load(answer)
    return counts


def main(folder: str, port: str, latency: str) -> None:
    """Serve until the process is killed."""
    Handler.folder = Path(folder)
    Handler.seconds = float(latency) / 1000
    with Server(("127.0.0.1", int(port)), Handler) as server:
        print("ready", flush=True)
        server.serve_forever()


if __name__ == "__main__":
    main(*sys.argv[1:])
