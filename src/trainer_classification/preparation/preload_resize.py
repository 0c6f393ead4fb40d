"""As warm.py, where images are resized: that code takes seconds to compile, once a machine."""

import numpy as np
import simplejpeg

from trainer_classification.data import decode as images
from trainer_classification.preparation import preload as warm  # noqa: F401  (what every worker needs)

_pixels = np.zeros((40, 40, 3), np.uint8)
_data = simplejpeg.encode_jpeg(_pixels)
images.resized_x_first(_pixels, 32)
_image = images.decode_for_resize(images.plain_jpeg(_data, ".jpg"), _data, ".jpg")
_image.x_first(32)
_image.resized(32, 32)
