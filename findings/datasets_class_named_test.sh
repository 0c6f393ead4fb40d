#!/usr/bin/env bash
# Hugging Face datasets takes a class folder such as "crash test dummy" for a split and drops the other classes.
#
# Versions  datasets 5.2.0, Pillow 13.0.0.
# Guess     load_dataset("imagefolder") on folders named by classes gives one split "train" with all images and a
#           label for each; "test" or "train" within a longer class name means nothing.
# Behavior  A folder that has a split's word (train, test, val, dev, eval ...) as a part of its name, between blanks,
#           dashes, dots or underscores, becomes that split. As a split was found, files of all other folders are
#           left out, and with one folder left the label column goes too. No warning.
# Output    images of each split, and whether they have labels:
#           apple, pear, plum: ({'train': 15}, True)
#           apple, pear, crash test dummy: ({'test': 5}, False)
# Hurts     One class name makes a training set lose every other class; whoever reads only the number of files left
#           may not notice. Name the files by data_files={"train": "**"}.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check datasets==5.2.0 Pillow==13.0.0
cd "$folder"
export HF_HOME="$folder/cache" HF_HUB_OFFLINE=1
"$folder/venv/bin/python" - <<'PY'
from pathlib import Path

from datasets import load_dataset
from PIL import Image


def load(root: str, classes: list[str]) -> tuple[dict[str, int], bool]:
    """Write five images a class; return the images that each split has, and whether they have labels."""
    for name in classes:
        folder = Path(root) / name
        folder.mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (8, 8), (number, 0, 0)).save(folder / f"{number}.png")

    splits = load_dataset("imagefolder", data_dir=root)
    labeled = all("label" in split.features for split in splits.values())
    return {name: len(split) for name, split in splits.items()}, labeled


plain = load("fruit", ["apple", "pear", "plum"])
mixed = load("things", ["apple", "pear", "crash test dummy"])
print("apple, pear, plum:", plain)
print("apple, pear, crash test dummy:", mixed)
assert plain == ({"train": 15}, True)
assert mixed == ({"test": 5}, False), "the behavior has changed"
PY
