#!/usr/bin/env bash
# The first call of a cached numba function imports scipy and the compiler's library, although nothing is compiled.
#
# Versions  numba 0.68.1, scipy 1.17.1, numpy 2.4.6.
# Guess     With `cache=True`, a call whose machine code is on the disk loads that code and little else: a small
#           fraction of what compiling takes.
# Behavior  Before it looks for a file, numba refreshes its target context, which imports its implementations of
#           Python's and numpy's functions, and scipy.linalg where scipy is installed. A hit imports as many modules
#           as a miss and takes most of its time, whatever the function does. There is no option against it.
# Output    modules that the first call imports, of a sum over an int64 array:
#           compiled: 209, kept code: 207, scipy.linalg among both
# Hurts     Command lines that call one small kernel: 0.4 to 0.6 s of CPU before the first batch of a training.
set -euo pipefail
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check numba==0.68.1 scipy==1.17.1 numpy==2.4.6
cat > "$folder/kernel.py" <<'PY'
import sys

import numpy as np
from numba import njit


@njit(cache=True)
def add(values):
    total = 0
    for value in values:
        total += value
    return total


values = np.arange(10)
before = len(sys.modules)
add(values)
print(sum(add.stats.cache_hits.values()), len(sys.modules) - before, "scipy.linalg" in sys.modules)
PY
call() { NUMBA_CACHE_DIR="$folder/cache" "$folder/venv/bin/python" "$folder/kernel.py"; }
read -r missed compiled in_first <<< "$(call)"
read -r hits kept in_second <<< "$(call)"
echo "hits $missed then $hits; modules imported $compiled, then $kept; scipy.linalg $in_first, then $in_second"
[ "$missed" = 0 ] && [ "$hits" = 1 ] && [ "$kept" -ge 150 ] && [ "$in_second" = True ] \
  || { echo "the behavior has changed"; exit 1; }
