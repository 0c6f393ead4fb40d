"""Undo the filters of a PNG's rows, as https://www.w3.org/TR/png-3/#9Filters defines them."""

from __future__ import annotations

from trainer_classification.kernels.entry import entry

_NONE, _LEFT, _ABOVE, _AVERAGE, _PAETH = range(5)


@entry
def undo_filters(filtered, step, out):  # type: ignore[no-untyped-def]
    """Write the bytes of all rows as they were before they were filtered.

    Args:
        filtered: uint8 [H, 1 + N], each row behind the type of its filter.
        step: bytes of a pixel.
        out: uint8 [H, N], is written.

    Returns:
        Whether all types are known.
    """
    height, width = out.shape
    for y in range(height):
        kind = filtered[y, 0]
        if kind > _PAETH:
            return False
        for x in range(width):
            left = int(out[y, x - step]) if x >= step else 0
            above = int(out[y - 1, x]) if y > 0 else 0
            predicted = 0
            if kind == _LEFT:
                predicted = left
            elif kind == _ABOVE:
                predicted = above
            elif kind == _AVERAGE:
                predicted = (left + above) // 2
            elif kind == _PAETH:
                corner = int(out[y - 1, x - step]) if x >= step and y > 0 else 0
                to_left = abs(above - corner)
                to_above = abs(left - corner)
                to_corner = abs(left + above - 2 * corner)
                if to_left <= to_above and to_left <= to_corner:
                    predicted = left
                elif to_above <= to_corner:
                    predicted = above
                else:
                    predicted = corner
            out[y, x] = (int(filtered[y, x + 1]) + predicted) & 255

    return True
