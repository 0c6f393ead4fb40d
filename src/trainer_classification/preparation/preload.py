"""Imported by the process that workers are forked from: loads their compiled code, a second of work, once for all."""

import numpy as np

from trainer_classification.kernels import resize
from trainer_classification.preparation import job as jobs  # noqa: F401  (what workers import)

resize.sums(np.zeros((40, 40, 3), np.uint8))
