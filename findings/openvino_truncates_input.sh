#!/usr/bin/env bash
# OpenVINO casts an input of another type to the model's: floats of 0 to 1 become zeros for a uint8 model.
#
# Versions  openvino 2026.4.1, numpy 2.4.6; onnxruntime 1.32.0 and onnx 1.23.2 for comparison.
# Guess     An array of the wrong type is refused, as onnxruntime does ("Unexpected input data type").
# Behavior  Calling a compiled model casts the array: 0.2 and 0.9 become 0, 300 becomes 44.
# Output    input [0.2, 0.9, 1.7, 300.0] (float32) to a uint8 model that gives its input as float:
#           openvino [0.0, 0.0, 1.0, 44.0]; onnxruntime raises InvalidArgument
# Hurts     Feeding an image already scaled to 0..1 is the commonest mistake with a file whose preprocessing is
#           inside: the network sees black images and answers with one class, with a confidence.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    openvino==2026.4.1 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import warnings

import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper

warnings.simplefilter("error")

graph = helper.make_graph(
    [helper.make_node("Cast", ["image"], ["pixels"], to=TensorProto.FLOAT)],
    "cast",
    [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 4])],
    [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [1, 4])],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
onnx.checker.check_model(model, full_check=True)
onnx.save(model, "model.onnx")

image = np.array([[0.2, 0.9, 1.7, 300.0]], np.float32)
seen = openvino.Core().compile_model("model.onnx", "CPU")(image)[0][0]
print("openvino:", seen.tolist())

try:
    onnxruntime.InferenceSession("model.onnx").run(None, {"image": image})
    refused = False
except Exception as error:
    refused = "Unexpected input data type" in str(error)
print("onnxruntime refuses:", refused)

assert seen[:3].tolist() == [0.0, 0.0, 1.0], "the behavior has changed"
assert refused, "the behavior of onnxruntime has changed"
PY
