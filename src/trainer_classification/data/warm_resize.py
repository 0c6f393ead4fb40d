"""As warm.py, where images are resized: that code takes seconds to compile, once a machine."""

import numpy as np
import simplejpeg

from trainer_classification.data import images, warm  # noqa: F401  (what every worker needs)

_pixels = np.zeros((40, 40, 3), np.uint8)
images.resized_x_first(_pixels, 32)
_file = simplejpeg.encode_jpeg(_pixels)
images.jpeg_x_first(_file, images.Head(40, 40, 3, "jpeg"), 32)
