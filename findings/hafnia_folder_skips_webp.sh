#!/usr/bin/env bash
# The Hafnia SDK's folder import leaves WebP images out without a word, and keeps their class.
#
# Version   hafnia 0.8.6, Pillow 13.0.0.
# Guess     from_image_classification_folder takes what Pillow and OpenCV read (both read WebP), or names the files
#           that it leaves out.
# Behavior  It looks for seven suffixes (jpg, jpeg, png, bmp, tiff, tif, gif). Other files are not mentioned, and
#           a class that has only such files stays in the class list with no image.
# Output    folder: 3 cats, 3 cows (WebP), 3 dogs; dataset: {'cat': 3, 'dog': 3}; classes ['cat', 'cow', 'dog']
# Hurts     A class vanishes from training while the network keeps an output for it; macro averages count it as 0.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check hafnia==0.8.6 Pillow==13.0.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY' 2>&1 | tee output.txt
from collections import Counter
from pathlib import Path

import cv2
from hafnia.dataset.hafnia_dataset import HafniaDataset
from PIL import Image

SUFFIXES = {"cat": "png", "cow": "webp", "dog": "jpg"}

for name, suffix in SUFFIXES.items():
    class_folder = Path("animals/train") / name
    class_folder.mkdir(parents=True)
    for number in range(3):
        path = class_folder / f"{number}.{suffix}"
        Image.new("RGB", (16, 16), (40 * number, 90, 30)).save(path)
        assert cv2.imread(str(path)).shape == (16, 16, 3), "OpenCV reads each of them"

dataset = HafniaDataset.from_image_classification_folder(Path("animals"), dataset_name="animals")
labels = [row[0]["class_name"] for row in dataset.samples["classifications"].to_list()]
counts = dict(sorted(Counter(labels).items()))
classes = dataset.info.tasks[0].get_class_names()

print("dataset:", counts, "classes:", classes)
assert counts == {"cat": 3, "dog": 3}, "the behavior has changed"
assert classes == ["cat", "cow", "dog"], "the behavior has changed"
PY
if grep --quiet --ignore-case webp output.txt; then
    echo "the import now mentions the files that it leaves out" >&2
    exit 1
fi
