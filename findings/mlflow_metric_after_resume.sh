#!/usr/bin/env bash
# MLflow's run.data.metrics gives the value of the highest step, not the last one logged, as its docstring says.
#
# Version   mlflow-skinny 3.17.2, with its file store.
# Guess     The run's metric is the one logged last. RunData.metrics says so: the value with the latest timestamp.
# Behavior  The highest step wins, whatever the timestamps. After a run is resumed from an earlier checkpoint, the
#           figures of the part that was thrown away stay until the new training passes that step.
# Output    loss 0.30 at step 7 (killed), resumed at step 5, loss 0.10 at step 6 logged last: metrics {'loss': 0.3}
# Hurts     A resumed training that ends early (a time budget, early stopping) is compared and ranked by a model that
#           no longer exists. After a resume, read the history, or log steps that only grow.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check mlflow-skinny==3.17.2
cd "$folder"
export MLFLOW_ALLOW_FILE_STORE=true MLFLOW_DISABLE_TELEMETRY=true
"$folder/venv/bin/python" - <<'PY'
from pathlib import Path

import mlflow

mlflow.set_tracking_uri(Path("runs").absolute().as_uri())
mlflow.set_experiment("resume")
client = mlflow.MlflowClient()

with mlflow.start_run() as run:
    for step in range(8):
        client.log_metric(run.info.run_id, "loss", 1 - step / 10, timestamp=1000 + step, step=step)

with mlflow.start_run(run_id=run.info.run_id):
    for step in (5, 6):
        client.log_metric(run.info.run_id, "loss", 0.1, timestamp=2000 + step, step=step)

history = client.get_metric_history(run.info.run_id, "loss")
last = max(history, key=lambda metric: metric.timestamp)
shown = round(client.get_run(run.info.run_id).data.metrics["loss"], 6)

print(f"last logged: {last.value} at step {last.step}; run.data.metrics: {shown}")
assert (last.value, last.step) == (0.1, 6)
assert shown == 0.3, "the behavior has changed"
PY
