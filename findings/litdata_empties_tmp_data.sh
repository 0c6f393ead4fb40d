#!/usr/bin/env bash
# optimize() of LitData deletes <temporary files>/data and <temporary files>/chunks, whatever is in them.
#
# Versions  litdata 0.2.76.
# Guess     A writer that is given inputs and an output folder touches nothing else, or only folders that it has made.
# Behavior  It empties two cache folders before it begins: /tmp/chunks and /tmp/data, unless DATA_OPTIMIZER_CACHE_FOLDER and
#           DATA_OPTIMIZER_DATA_CACHE_FOLDER name others. Nothing marks the two as its own, and nothing is said.
# Output    before: dataset, after: nothing
# Hurts     Everybody who keeps a dataset in /tmp/data: it is gone, without a message, after the first write. Set both
#           variables to new folders before litdata is imported.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check litdata==0.2.76
mkdir -p "$folder/tmp/data/dataset"
export TMPDIR="$folder/tmp"  # the folder of temporary files, for this script alone
cat > "$folder/show.py" <<'PYTHON'
import os

import litdata


def make(number):
    return {"number": number}


if __name__ == "__main__":
    folder = os.environ["TMPDIR"]
    before = os.listdir(f"{folder}/data")
    litdata.optimize(fn=make, inputs=[1, 2, 3], output_dir=f"{folder}/out", chunk_bytes="1MB", num_workers=1)
    after = os.listdir(f"{folder}/data")
    print(f"before: {', '.join(before)}, after: {', '.join(after) or 'nothing'}")
    raise SystemExit(before != ["dataset"] or "dataset" in after)
PYTHON
"$folder/venv/bin/python" "$folder/show.py" 2>&1 | tail -1
