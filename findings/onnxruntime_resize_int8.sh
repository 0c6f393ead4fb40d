#!/usr/bin/env bash
# onnxruntime's antialiased Resize turns every negative int8 value into 0.
#
# Versions  onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6.
# Guess     Resizing a constant image gives that constant, for each type that the operator takes: int8 is in
#           ONNX's list for Resize, and the same node without antialias does so.
# Behavior  With antialias=1 the result is clipped to 0..255, also where the type is int8.
# Output    constant -100: antialias=0 gives -100, antialias=1 gives 0; constant 100: 100 and 100
# Hurts     Images or feature maps kept as int8 (uint8 minus 128, as quantized files have them) lose their darker
#           half in silence. Resize as uint8 or float, then subtract.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper


def resize_constant(value: int, antialias: int) -> list[int]:
    """Resize a constant int8 image from 16 to 8 pixels and return the values that come out."""
    node = helper.make_node("Resize", ["image", "", "", "sizes"], ["small"], mode="linear", antialias=antialias)
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("image", TensorProto.INT8, [1, 1, 16, 16])],
        [helper.make_tensor_value_info("small", TensorProto.INT8, [1, 1, 8, 8])],
        [helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 1, 8, 8])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)

    session = onnxruntime.InferenceSession(model.SerializeToString())
    image = np.full((1, 1, 16, 16), value, np.int8)
    return np.unique(session.run(None, {"image": image})[0]).tolist()


results = {}
for value in (-100, 100):
    results[value] = [resize_constant(value, antialias) for antialias in (0, 1)]
    print(f"constant {value}: antialias=0 gives {results[value][0]}, antialias=1 gives {results[value][1]}")

assert results == {-100: [[-100], [0]], 100: [[100], [100]]}, "the behavior has changed"
PY
