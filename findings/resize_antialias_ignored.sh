#!/usr/bin/env bash
# OpenVINO and OpenCV's dnn read an ONNX Resize with antialias=1 and resize without antialiasing.
#
# Versions  openvino 2026.4.1, opencv-python-headless 5.0.0.93, onnxruntime 1.32.0, onnx 1.23.2, numpy 2.4.6.
# Guess     A runtime computes what a valid file says, or refuses an attribute that it does not implement.
# Behavior  Both load the file without a word and give exactly the numbers of antialias=0.
#           onnxruntime antialiases as the file says. OpenVINO's issue 35893 reports it for cubic on 2026.1.
# Output    noise, 256 to 64 pixels, mean difference from onnxruntime of 255:
#           openvino 25.4, opencv 25.4; largest from onnxruntime's antialias=0: 0.0 and 0.0
# Hurts     A classifier exported with its preprocessing inside is exact in onnxruntime and loses accuracy in
#           OpenVINO. Large photographs suffer most. Give such runtimes images of the network's size.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    openvino==2026.4.1 opencv-python-headless==5.0.0.93 onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import cv2
import numpy as np
import onnx
import onnxruntime
import openvino
from onnx import TensorProto, helper


def save_resize(antialias: int, path: str) -> None:
    """Write a model that resizes 256 pixels to 64."""
    node = helper.make_node("Resize", ["image", "", "", "sizes"], ["small"], mode="linear", antialias=antialias)
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 256, 256])],
        [helper.make_tensor_value_info("small", TensorProto.FLOAT, [1, 3, 64, 64])],
        [helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 3, 64, 64])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


save_resize(1, "antialias.onnx")
save_resize(0, "plain.onnx")
image = np.random.default_rng(0).integers(0, 256, (1, 3, 256, 256)).astype(np.float32)

reference = onnxruntime.InferenceSession("antialias.onnx").run(None, {"image": image})[0]
plain = onnxruntime.InferenceSession("plain.onnx").run(None, {"image": image})[0]

options = {"INFERENCE_PRECISION_HINT": "f32"}
network = cv2.dnn.readNetFromONNX("antialias.onnx")
network.setInput(image)
outputs = {
    "openvino": openvino.Core().compile_model("antialias.onnx", "CPU", options)(image)[0],
    "opencv": network.forward(),
}

for name, output in outputs.items():
    from_reference = float(np.abs(output - reference).mean())
    from_plain = float(np.abs(output - plain).max())
    print(f"{name}: mean {from_reference:.1f} from antialias=1, largest {from_plain:.1f} from antialias=0")
    assert from_reference > 20, "the behavior has changed"
    assert from_plain < 0.1, "the behavior has changed"
PY
