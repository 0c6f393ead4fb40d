#!/usr/bin/env bash
# The Hafnia SDK reads a palette PNG as palette indices, not as colors.
#
# Version   hafnia 0.8.6, Pillow 13.0.0, opencv-python-headless 4.12.0.88.
# Guess     Sample.read_image() returns the picture: [H, W, 3] with red, green and blue, as OpenCV shows it.
# Behavior  It returns the stored indices, uint8 [H, W], which everything after it takes for a gray image. The
#           numbers say which palette entry was used, not how bright it is.
# Output    red, green, blue, white columns -> SDK: shape (8, 4), first row [2, 3, 1, 0];
#           OpenCV: shape (8, 4, 3), first row the four colors
# Hurts     An image dataset saved as 8-bit palette PNGs (common for icons, maps, charts, screenshots) trains on
#           near-black pictures. Two files that look alike may have different indices. No warning is given.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check \
    hafnia==0.8.6 Pillow==13.0.0 opencv-python-headless==4.12.0.88
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import cv2
import numpy as np
from hafnia.dataset.hafnia_dataset_types import Sample
from PIL import Image

PALETTE = [255, 255, 255, 0, 0, 255, 255, 0, 0, 0, 255, 0]  # white, blue, red, green
INDICES = np.tile(np.array([2, 3, 1, 0], np.uint8), (8, 1))
COLORS = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]

image = Image.fromarray(INDICES).convert("P")
image.putdata(INDICES.ravel().tolist())
image.putpalette(PALETTE)
image.save("colors.png")

read = Sample(file_path="colors.png", height=8, width=4, split="test").read_image()
shown = cv2.imread("colors.png")[..., ::-1]

print("SDK:", read.shape, read[0].tolist())
print("OpenCV:", shown.shape, shown[0].tolist())
assert shown[0].tolist() == COLORS
assert np.array_equal(read, INDICES), "the behavior has changed"
PY
