#!/usr/bin/env bash
# NNCF's subset_size counts the items of the dataset, so batches where the loader gives batches.
#
# Versions  nncf 3.4.0, openvino 2026.4.1, numpy 2.4.6.
# Guess     subset_size=20 reads 20 images for the activations' ranges, whatever the batch size.
# Behavior  It reads 20 items of nncf.Dataset; each may hold a whole batch.
# Output    batches of 32, subset_size=20: 20 items read, 640 images
# Hurts     The default of 300 reads 9,600 images from a loader with batches of 32, 32 times the work planned; and
#           whoever changes the batch size changes which images set the ranges, so the accuracy of the int8 model.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check nncf==3.4.0 openvino==2026.4.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import nncf
import numpy as np
import openvino
from openvino import opset13 as ops

generator = np.random.default_rng(0)
images = ops.parameter([-1, 3, 16, 16], np.float32, name="images")
weights = ops.constant(generator.normal(size=(8, 3, 3, 3)).astype(np.float32))
features = ops.relu(ops.convolution(images, weights, [1, 1], [1, 1], [1, 1], [1, 1]))
model = openvino.Model([features], [images], "network")

batches = [generator.normal(size=(32, 3, 16, 16)).astype(np.float32) for _ in range(40)]
sizes = []


def read(batch: np.ndarray) -> np.ndarray:
    """Count what the calibration reads."""
    sizes.append(len(batch))
    return batch


nncf.quantize(model, nncf.Dataset(batches, read), subset_size=20)
print(f"batches of 32, subset_size=20: {len(sizes)} items read, {sum(sizes)} images")
assert (len(sizes), sum(sizes)) == (20, 640), "the behavior has changed"
PY
