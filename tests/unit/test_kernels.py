"""What the compiler is given: the first run of a machine waits for it."""

import os
import subprocess
import sys

CODE = """
import numpy as np
from trainer_classification.augment import cpu
from trainer_classification.data import decode as images
from trainer_classification.kernels import resize

for channels in (1, 3):
    image, out = np.zeros((40, 40, channels), np.uint8), np.zeros((1, 32, 32, channels), np.uint8)
    images.resize(image, 32, 32)
    images.resize_x_first(image, 32)
    for x_first in (False, True):
        boxes, flip = np.array([[0, 0, 1, 1]], np.float32), np.array([True])
        cpu._crop_images(image.reshape(-1), np.zeros(1, np.int64), 40, boxes, flip, x_first, out)
print(len(resize._resize.signatures))
"""


def test_all_who_resize_share_one_compiled_function(tmp_path):
    """A constant or a slice among its arguments would compile it, and all it calls, once more."""
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        capture_output=True,
        text=True,
        env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert int(done.stdout) == 1
