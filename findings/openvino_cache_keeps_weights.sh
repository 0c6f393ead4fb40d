#!/usr/bin/env bash
# OpenVINO's model cache answers with the old weights after the .bin file was replaced.
#
# Versions  openvino 2026.4.1, numpy 2.4.6.
# Guess     With CACHE_DIR set, compile_model(path) compiles again when the weights have changed.
# Behavior  The cache's key for a path does not look at the .bin file. Training further changes only the .bin; where
#           the .xml is left as it is (a sync by checksum, a layer of an image), the program compiled from the old
#           weights is loaded. compile_model(read_model(path)) looks at the weights and gives the new answer.
# Output    weights 1: 5.0; weights 2: 5.0 by path, 10.0 by read_model
# Hurts     A server whose model was updated goes on answering as before, through restarts, without a message.
#           Use a cache folder for each version, or read_model first.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openvino==2026.4.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import shutil
from pathlib import Path

import numpy as np
import openvino
from openvino import opset13 as ops


def save_model(weight: float, path: str) -> None:
    """Write a linear layer whose weights and biases are all the same number."""
    inputs = ops.parameter([1, 4], np.float32, name="inputs")
    weights = ops.constant(np.full((4, 64), weight, np.float32), name="weights")
    biases = ops.constant(np.full((1, 64), weight, np.float32), name="biases")
    product = ops.matmul(inputs, weights, False, False, name="product")
    outputs = ops.result(ops.add(product, biases, name="sum"), name="outputs")
    openvino.save_model(openvino.Model([outputs], [inputs], "linear"), path, compress_to_fp16=False)


def predict(read_first: bool) -> float:
    """Return the first output for ones, from a new Core with the same cache folder."""
    core = openvino.Core()
    core.set_property({"CACHE_DIR": "cache"})
    model = core.read_model("model.xml") if read_first else "model.xml"
    return float(core.compile_model(model, "CPU")(np.ones((1, 4), np.float32))[0][0, 0])


save_model(1.0, "model.xml")
save_model(2.0, "trained_further.xml")
assert Path("model.xml").read_bytes() == Path("trained_further.xml").read_bytes(), "only the weights differ"

old = predict(read_first=False)
shutil.copyfile("trained_further.bin", "model.bin")
by_path = predict(read_first=False)
by_read_model = predict(read_first=True)

print(f"weights 1: {old}; weights 2: {by_path} by path, {by_read_model} by read_model")
assert (old, by_path, by_read_model) == (5.0, 5.0, 10.0), "the behavior has changed"
PY
