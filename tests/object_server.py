"""An S3 server on loopback, for tests: moto's, as a process."""

import importlib.util
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager

import pytest

_MODULES = ("s3fs", "moto", "flask", "flask_cors")
needs_s3 = pytest.mark.skipif(
    not all(map(importlib.util.find_spec, _MODULES)),
    reason="needs the extra `storage`, and moto, flask and flask-cors for a server",
)


@contextmanager
def serve_objects(log):
    """Yield the environment in which s3:// means a server on loopback that has an empty bucket `bucket`.

    Args:
        log: file for what the server says.
    """
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}"
    environment = {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
    }
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env=os.environ | environment)
    try:
        _make_bucket(f"{endpoint}/bucket", server)
        yield environment
    finally:
        server.kill()
        server.wait()


def _make_bucket(url, server):
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(urllib.request.Request(url, method="PUT"), timeout=10).close()
            return
        except urllib.error.URLError:
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "no server came up"
            time.sleep(0.1)
