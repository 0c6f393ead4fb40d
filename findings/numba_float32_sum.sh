#!/usr/bin/env bash
# numba's sum and mean of a float32 array add one value after the other: the mean of 33 million ones is 0.5.
#
# Versions  numba 0.68.1, numpy 2.4.6.
# Guess     array.mean() within @njit gives NumPy's number, to a few last bits.
# Behavior  NumPy adds in pairs; numba adds into one float32, which stops growing at 2**24 = 16,777,216, as adding 1 no
#           longer changes it. @njit(parallel=True) has a sum for each thread, so it is right up to 2**24 a thread, and
#           the result depends on the number of threads. Issues 2855 and 3702.
# Output    33,554,432 ones: numpy sum 33554432, mean 1.0; numba sum 16777216, mean 0.5
# Hurts     The mean pixel of a dataset, or a loss summed over pixels, comes out wrong on real data and right in tests
#           with a few images. Sum in float64 or in integers.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numba==0.68.1 numpy==2.4.6
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import numba
import numpy as np


def summarize(values):
    return values.sum(), values.mean()


ones = np.ones(2**25, np.float32)
expected = tuple(float(value) for value in summarize(ones))
compiled = tuple(float(value) for value in numba.njit(summarize)(ones))

print("numpy: sum %.0f, mean %.1f" % expected)
print("numba: sum %.0f, mean %.1f" % compiled)
assert expected == (2.0**25, 1.0)
assert compiled == (2.0**24, 0.5), "the behavior has changed"
PY
