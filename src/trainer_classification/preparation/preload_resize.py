"""Like preload.py, for images that are resized: once a machine this code takes seconds to compile."""

import numpy as np
import simplejpeg

from trainer_classification.data.decode import decode_for_resize, plain_jpeg, resize_x_first
from trainer_classification.preparation import preload  # noqa: F401  (what every worker needs)

_pixels = np.zeros((40, 40, 3), np.uint8)
_jpeg = simplejpeg.encode_jpeg(_pixels)
_image = decode_for_resize(plain_jpeg(_jpeg), _jpeg)

resize_x_first(_pixels, 32)
_image.resize_x_first(32)
_image.resize(32, 32)
