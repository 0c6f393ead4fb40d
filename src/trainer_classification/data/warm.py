"""Imported by the process that workers are forked from: loads their compiled code, a second of work, once for all."""

import numpy as np

from trainer_classification.data import images, jobs  # noqa: F401  (what workers import)
from trainer_classification.kernels import resize

for _channels in (1, 3):
    _image = np.zeros((40, 40, _channels), np.uint8)
    images.resized(_image, 32, 32)
    resize.sums(images.resized_x_first(_image, 32))
