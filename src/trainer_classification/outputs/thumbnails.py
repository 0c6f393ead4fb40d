"""Encode images of a dataset as small pictures within the report, up to a number of bytes in all."""

from __future__ import annotations

import base64
import io

from trainer_classification.arrays import Uint8

_LOSSLESS_SIDE = 64  # px up to which PNG is small and JPEG would blur
_JPEG_QUALITY = 78


class Thumbnails:
    """Encode images as data URIs until they fill their share of the page.

    Args:
        max_bytes: of all data URIs together.
    """

    def __init__(self, max_bytes: int) -> None:
        self._bytes_left = max_bytes

    def encode(self, image: Uint8, side: int) -> str:
        """Return an image as data URI, resized to at most `side` px; "" where there is no room for it.

        Args:
            image: uint8 [H, W, C] with 1 or 3 channels.
            side: of the picture in px.
        """
        from PIL import Image

        picture = Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)
        picture.thumbnail((side, side))
        kind = "png" if max(picture.size) <= _LOSSLESS_SIDE else "jpeg"
        file = io.BytesIO()
        picture.save(
            file, kind, optimize=True, **{"quality": _JPEG_QUALITY} if kind == "jpeg" else {}
        )
        address = f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"
        if len(address) > self._bytes_left:
            return ""
        self._bytes_left -= len(address)

        return address
