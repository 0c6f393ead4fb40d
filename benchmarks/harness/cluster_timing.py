"""Prepare into an S3 server through Dask, all on loopback, and count what passes through the machine of prepare.py."""

import os
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

HOST = "127.0.0.1"
QUIET = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
_START_SECONDS = 60
_PIECE = 1 << 16


class CountingProxy:
    """Pass connections on to another port of this machine, and count the bytes of both directions.

    Args:
        target: the port.

    Attributes:
        port: that it listens at.
        sent: bytes that clients have sent.
        received: bytes that they got.
    """

    def __init__(self, target: int) -> None:
        self.sent = 0
        self.received = 0
        self._target = target
        self._lock = threading.Lock()
        self._server = socket.create_server((HOST, 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Take no more connections."""
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection((HOST, self._target))
                for pair in ((client, server, True), (server, client, False)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    def _pass_on(self, source: socket.socket, target: socket.socket, is_sent: bool) -> None:
        with suppress(OSError):
            while data := source.recv(_PIECE):
                with self._lock:
                    if is_sent:
                        self.sent += len(data)
                    else:
                        self.received += len(data)
                target.sendall(data)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as unused:
        unused.bind((HOST, 0))
        return int(unused.getsockname()[1])


@contextmanager
def serve(environment: dict[str, str], workers: int) -> Iterator[tuple[int, int]]:
    """Start an S3 server with a bucket, and a Dask cluster; yield the ports of the store and of the scheduler.

    Args:
        environment: of the workers.
        workers: their number.
    """
    store, scheduler = free_port(), free_port()
    environment = environment | describe_store(store)
    address = f"tcp://{HOST}:{scheduler}"
    dask = [sys.executable, "-m", "dask"]
    commands = [
        [sys.executable, "-m", "moto.server", "-H", HOST, "-p", str(store)],
        [*dask, "scheduler", "--host", HOST, "--port", str(scheduler), "--no-dashboard"],
    ]
    commands += [[*dask, "worker", address, "--nthreads", "1", "--no-nanny"]] * workers
    with ExitStack() as stack:
        for command in commands:
            process = subprocess.Popen(command, env=environment, **QUIET)  # type: ignore[call-overload]
            stack.callback(process.wait)
            stack.callback(process.kill)
        _make_bucket(f"http://{HOST}:{store}/bucket")
        from distributed import Client

        with Client(address, timeout=_START_SECONDS, set_as_default=False) as client:
            client.wait_for_workers(workers, timeout=_START_SECONDS)
        yield store, scheduler


def describe_store(port: int) -> dict[str, str]:
    """Return the environment in which s3:// means the server at a port."""
    return {
        "AWS_ENDPOINT_URL": f"http://{HOST}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": HOST,
    }


def _make_bucket(url: str) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        try:
            request = urllib.request.Request(url, method="PUT")
            urllib.request.urlopen(request, timeout=10).close()
            return
        except urllib.error.URLError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def prepare(
    tree: Path, dataset: Path, formats: str, workers: int, scratch: Path
) -> dict[str, float]:
    """Prepare a dataset once, and return seconds and bytes.

    Args:
        tree: checkout whose code runs, here and in the workers.
        dataset: folder of the dataset.
        formats: as for `prepare.py`.
        workers: of the cluster.
        scratch: folder that is emptied, for the machine of prepare.py.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    environment = os.environ | {"PYTHONPATH": str(tree / "src")}
    with serve(environment, workers) as (store, scheduler), ExitStack() as stack:
        proxies = [CountingProxy(port) for port in (store, scheduler)]
        for proxy in proxies:
            stack.callback(proxy.close)
        to_store, to_scheduler = proxies
        command = [sys.executable, str(tree / "scripts/prepare.py"), "--dataset", str(dataset)]
        command += ["--formats", formats, "--out", "s3://bucket/prepared", "--executor", "dask"]
        command += ["--executor-address", f"tcp://{HOST}:{to_scheduler.port}"]
        environment |= describe_store(to_store.port) | {"TRAINER_CACHE": str(scratch)}
        started = time.perf_counter()
        process = subprocess.Popen(command, env=environment, **QUIET)  # type: ignore[call-overload]
        files = _watch_files(process)
        seconds = time.perf_counter() - started
        if process.returncode:
            raise RuntimeError(f"prepare.py ended with {process.returncode}: {' '.join(command)}")

        kept = sum(512 * path.stat().st_blocks for path in scratch.rglob("*") if path.is_file())
        return {
            "seconds": seconds,
            "cpu_seconds": files[0],
            "from_store": to_store.received,
            "to_store": to_store.sent,
            "scheduler": to_scheduler.sent + to_scheduler.received,
            "files_read": files[1],
            "files_written": files[2],
            "kept": kept,
        }


def _watch_files(process: subprocess.Popen[bytes]) -> tuple[float, int, int]:
    """Wait for a process, and return its CPU seconds, and the bytes of its calls of read and write (not of sockets)."""
    read = written = 0
    cpu = 0.0
    ticks = os.sysconf("SC_CLK_TCK")
    while process.poll() is None:
        with suppress(OSError, ValueError):
            lines = Path(f"/proc/{process.pid}/io").read_text(encoding="ascii").splitlines()
            counts = dict(line.split(": ") for line in lines)
            fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rsplit(")")[-1]
            read, written = int(counts["rchar"]), int(counts["wchar"])
            cpu = sum(map(int, fields.split()[11:13])) / ticks
        time.sleep(0.02)
    return cpu, read, written
