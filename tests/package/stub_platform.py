"""A loopback stub of the platform's API: the requests that the hafnia CLI makes, answered as the platform does."""

import json
import re
import threading
from contextlib import contextmanager
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

KEY = "ApiKey 0123456789abcdef"
ENVIRONMENTS = [
    {"id": "env-pro", "name": "Professional", "order": 2, "instance": "p3.8xlarge", "gpu": "V100", "gpu_count": 4},
    {"id": "env-free", "name": "Free Tier", "order": 1, "instance": "g4dn.xlarge", "gpu": "T4", "gpu_count": 1},
]
SIZES = {"vram": 16, "cpu": "Xeon", "cpu_count": 4, "ram": 16}


class Platform(ThreadingHTTPServer):
    """Keeps what was asked of it: `requests` as (method, path, fields)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.requests: list[tuple[str, str, dict]] = []
        self.experiments: list[dict] = []

    @property
    def environment(self) -> dict[str, str]:
        """For the CLI, in place of `hafnia configure`."""
        return {"HAFNIA_API_KEY": KEY, "HAFNIA_PLATFORM_URL": f"http://127.0.0.1:{self.server_address[1]}"}

    def sent(self, method: str, path: str) -> dict:
        """The fields of the one request of this kind."""
        (fields,) = (fields for m, p, fields in self.requests if (m, p) == (method, path))
        return fields

    def answer(self, method: str, path: str, fields: dict) -> object:
        """What the platform says; None: there is no such thing."""
        match method, path:
            case "POST", "dataset-recipes":
                return {"id": "recipe-1"}
            case ("POST", "trainers") | ("PATCH", "trainers/trainer-1"):
                return {"id": "trainer-1"}
            case "GET", "trainers/trainer-1":
                return {"id": "trainer-1"}
            case "GET", "experiment-environments":
                return [entry | SIZES for entry in ENVIRONMENTS]
            case "POST", "experiments":
                self.experiments.append(fields | {"id": "experiment-1", "state": "CREATED", "created_at": "today"})
                return self.experiments[-1]
            case "GET", "experiments":
                return {"data": self.experiments, "count": len(self.experiments)}
        return None


class _Handler(BaseHTTPRequestHandler):
    server: Platform

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = re.sub(r"^/api/v1/|\?.*$", "", self.path)
        fields = _fields(self.headers.get("Content-Type", ""), body)
        self.server.requests.append((self.command, path, fields))
        allowed = self.headers.get("Authorization") == KEY
        answer = self.server.answer(self.command, path, fields) if allowed else None
        content = json.dumps({"detail": "no"} if answer is None else answer).encode()
        self.send_response(200 if answer is not None else 404 if allowed else 403)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PATCH = _serve  # noqa: N815  (the names that http.server looks for)

    def log_message(self, *_: object) -> None:
        pass


def _fields(kind: str, body: bytes) -> dict:
    """Fields of JSON or of a form; a file as bytes."""
    if kind.startswith("application/json"):
        return json.loads(body)
    if not kind.startswith("multipart/form-data"):
        return {}
    parts = message_from_bytes(b"Content-Type: " + kind.encode() + b"\r\n\r\n" + body).get_payload()
    values = ((part.get_param("name", header="content-disposition"), part) for part in parts)
    return {
        name: part.get_payload(decode=True) if part.get_filename() else part.get_payload(decode=True).decode()
        for name, part in values
    }


@contextmanager
def platform():
    """The stub, serving in a thread until the block ends."""
    with Platform() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
