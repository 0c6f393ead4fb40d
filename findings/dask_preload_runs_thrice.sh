#!/usr/bin/env bash
# A file given to `dask worker --preload` is run more than once in one worker process.
#
# Versions  distributed 2026.8.0 and dask 2026.8.0 for Linux.
# Guess     A preload is imported once for each worker process, as a module is: setting up a metric, or wrapping a
#           function of a library, happens once.
# Behavior  The file is copied to the worker's local directory, and run from there again, twice: a function that the file
#           wraps is wrapped three times. If the wrapper looks its original up as a global of the module, which the next
#           run replaces, it calls itself without end.
# Output    runs of the file in one process: 3
#           layers around the wrapped function: 3
# Hurts     Who sets up decoders, patches or metrics of a cluster's workers by --preload. Keep the original somewhere
#           that a second run finds, as tests/e2e/test_prepare_remote.py does.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check distributed==2026.8.0 dask==2026.8.0
cd "$folder"
cat > setup_worker.py <<'PY'
import json
import os
from pathlib import Path

with Path(os.environ["RUNS"]).open("a") as runs:
    runs.write(f"{os.getpid()}\n")

wrapped = json.dumps


def dumps(value, original=wrapped):
    return f"<{original(value)}>"


json.dumps = dumps
PY
cat > look.py <<'PY'
import os
import subprocess
import sys
from pathlib import Path

from distributed import Client, LocalCluster


def dump():
    import json

    return json.dumps(1), os.getpid()


with LocalCluster(n_workers=0, dashboard_address=None, host="127.0.0.1") as cluster:
    command = [sys.executable, "-m", "dask", "worker", cluster.scheduler_address]
    options = ["--nthreads", "1", "--no-nanny", "--no-dashboard", "--preload", "setup_worker.py"]
    worker = subprocess.Popen([*command, *options], stderr=subprocess.DEVNULL)
    try:
        with Client(cluster) as client:
            client.wait_for_workers(1, timeout=60)
            text, process = client.submit(dump).result()
    finally:
        worker.terminate()
        worker.wait()

runs = Path(os.environ["RUNS"]).read_text().split().count(str(process))
print(f"runs of the file in one process: {runs}")
print(f"layers around the wrapped function: {text.count('<')}")
sys.exit(not (runs == 3 and text == "<<<1>>>"))
PY
RUNS="$folder/runs" "$folder/venv/bin/python" look.py
