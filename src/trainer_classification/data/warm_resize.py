"""As warm.py, where images are resized: that code takes seconds to compile, once a machine."""

import numpy as np

from trainer_classification.data import images, warm  # noqa: F401  (what every worker needs)

images.resized_x_first(np.zeros((40, 40, 3), np.uint8), 32)
