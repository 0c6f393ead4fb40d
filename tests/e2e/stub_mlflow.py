"""A loopback stub of an MLflow server: keeps the runs, and refuses what a real one refuses."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

EXPERIMENT = {
    "experiment_id": "7",
    "name": "org",
    "lifecycle_stage": "active",
    "artifact_location": "mlflow-artifacts:/7",
}


class Tracking(ThreadingHTTPServer):
    """`runs`: id -> {"status", "params", "metrics": [(name, value, step)]}; with `broken` every request fails."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, dict] = {}
        self.broken = False
        self.refused: list[str] = []

    @property
    def environment(self) -> dict[str, str]:
        """What the platform sets in the container."""
        return {
            "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{self.server_address[1]}",
            "MLFLOW_EXPERIMENT_NAME": EXPERIMENT["name"],
            "MLFLOW_RUN_NAME": "mine",
        }

    def answer(self, what: str, fields: dict) -> dict | None:
        """What the server says; None: it refuses."""
        run = self.runs.get(fields.get("run_id", ""))
        if what == "experiments/get-by-name":
            return {"experiment": EXPERIMENT}
        if what == "runs/create":
            name = f"run{len(self.runs) + 1}"
            self.runs[name] = {"status": "RUNNING", "params": {}, "metrics": []}
            return {"run": self._described(name)}
        if what == "runs/get":
            return {"run": self._described(fields.get("run_id", "run1"))}
        assert run is not None, (what, fields)
        if what == "runs/update":
            run["status"] = fields.get("status", run["status"])
            return {"run_info": self._described(fields["run_id"])["info"]}
        if what == "runs/log-metric":
            run["metrics"].append((fields["key"], fields["value"], fields["step"]))
            return {}
        if what == "runs/log-batch":
            return self._batch(run, fields)
        return {}

    def _batch(self, run: dict, fields: dict) -> dict | None:
        params = {param["key"]: param["value"] for param in fields.get("params", [])}
        changed = [key for key, value in params.items() if run["params"].get(key, value) != value]
        if changed or len(params) > 100 or any(len(value) > 6000 for value in params.values()):
            self.refused.append(f"params {changed or len(params)}")
            return None
        run["params"] |= params
        return {}

    def _described(self, name: str) -> dict:
        info = {"run_id": name, "run_uuid": name, "experiment_id": "7", "status": self.runs[name]["status"]}
        return {"info": info | {"artifact_uri": "mlflow-artifacts:/7", "lifecycle_stage": "active"}, "data": {}}


class _Handler(BaseHTTPRequestHandler):
    server: Tracking

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        what = re.sub(r"^/api/2\.0/mlflow/|\?.*$", "", self.path)
        answer = None if self.server.broken else self.server.answer(what, json.loads(body) if body else {})
        content = json.dumps(answer if answer is not None else {"error_code": "INVALID_PARAMETER_VALUE"}).encode()
        self.send_response(503 if self.server.broken else 200 if answer is not None else 400)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = _serve  # noqa: N815  (the names that http.server looks for)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def tracking():
    """The stub, serving in a thread until the block ends."""
    with Tracking() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
