#!/usr/bin/env bash
# onnxruntime's antialiased Resize equals Pillow's everywhere but along the edges, unless exclude_outside=1.
#
# Versions  onnxruntime 1.32.0, onnx 1.23.2, Pillow 13.0.0, numpy 2.4.6.
# Guess     Resize with mode=linear and antialias=1 is Pillow's bilinear resize; exclude_outside matters for
#           cubic, which reaches over the edge, and its default 0 is right for linear.
# Behavior  The antialiasing triangle reaches over the edge as well. By default the edge pixel is repeated there and
#           weighs more; Pillow leaves those weights out and divides by the sum of the rest.
# Output    noise, 256 to 64 pixels, uint8, largest difference from Pillow of 255:
#           exclude_outside=0: 10 on the border, 0 inside; exclude_outside=1: 0 everywhere
# Hurts     Half of an exporter's checks pass (constant images, centers), while each border pixel that the network
#           sees differs from training.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    onnxruntime==1.32.0 onnx==1.23.2 Pillow==13.0.0 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper
from PIL import Image


def resize(image: np.ndarray, exclude_outside: int) -> np.ndarray:
    """Resize uint8 [256, 256, 3] to [64, 64, 3] with onnxruntime."""
    node = helper.make_node(
        "Resize",
        ["image", "", "", "sizes"],
        ["small"],
        mode="linear",
        antialias=1,
        exclude_outside=exclude_outside,
    )
    graph = helper.make_graph(
        [node],
        "resize",
        [helper.make_tensor_value_info("image", TensorProto.UINT8, [1, 3, 256, 256])],
        [helper.make_tensor_value_info("small", TensorProto.UINT8, [1, 3, 64, 64])],
        [helper.make_tensor("sizes", TensorProto.INT64, [4], [1, 3, 64, 64])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model, full_check=True)

    session = onnxruntime.InferenceSession(model.SerializeToString())
    planes = np.ascontiguousarray(image.transpose(2, 0, 1)[None])
    return session.run(None, {"image": planes})[0][0].transpose(1, 2, 0)


image = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
pillow = np.asarray(Image.fromarray(image).resize((64, 64), Image.Resampling.BILINEAR)).astype(int)

largest = {}
for exclude_outside in (0, 1):
    difference = np.abs(resize(image, exclude_outside).astype(int) - pillow)
    inside = difference[1:-1, 1:-1].max()
    largest[exclude_outside] = (difference.max(), inside)
    print(f"exclude_outside={exclude_outside}: largest {difference.max()}, inside the border {inside}")

assert largest[0][0] >= 5 and largest[0][1] <= 1, "the behavior has changed"
assert max(largest[1]) <= 1, "the behavior has changed"
PY
