"""Choose which blocks of an object are fetched by one request.

What the first batch of an epoch needs comes by itself, so that the loop begins soon.
What later ones need comes with its neighbors that this machine reads in the epoch
anyway. A request stays within a window of `RUN_BYTES`, so that what was left out is
one run as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import pairwise

import numpy as np

from trainer_classification.arrays import Bool

# Most bytes of one request. Amazon's advice is 8 or 16 MB:
# https://docs.aws.amazon.com/AmazonS3/latest/userguide/optimizing-performance-guidelines.html
RUN_BYTES = 8 << 20
# Requests are joined over a gap of so many bytes. Blocks that are wanted later: what a connection of 85 MB/s sends
# within the 25 ms until another request is answered. Others: half of what costs as much CPU time as a request (3 ms).
WANTED_GAP_BYTES = 2 << 20
OTHER_GAP_BYTES = 1 << 19


def window_of(block_bytes: int) -> int:
    """Return the blocks of a window."""
    return max(1, RUN_BYTES // block_bytes)


def choose_blocks(needed: Bool, free: Bool, wanted: Bool, block_bytes: int, is_exact: bool) -> Bool:
    """Choose the blocks of a window that are fetched now.

    Args:
        needed: bool [w], those that a batch waits for.
        free: bool [w], those that are neither here nor on their way.
        wanted: bool [w], those that this machine reads in the epoch.
        block_bytes: of a block.
        is_exact: leave what is wanted later, unless it lies between blocks that
            are needed.

    Returns:
        bool [w], free ones, with all that are needed and free.
    """
    chosen = needed & free
    if not chosen.any():
        return chosen
    if not is_exact:
        chosen |= wanted & free
    for first, second in pairwise(np.flatnonzero(chosen).tolist()):
        gap = slice(first + 1, second)
        limit = WANTED_GAP_BYTES if wanted[gap].all() else OTHER_GAP_BYTES
        if (second - first - 1) * block_bytes <= limit and free[gap].all():
            chosen[gap] = True
    return chosen


def split_runs(blocks: Iterable[int], states: Iterable[int]) -> Iterator[range]:
    """Yield runs of adjacent blocks that are in the same state.

    Args:
        blocks: ascending.
        states: of each.
    """
    start = stop = 0
    last = -1
    for block, state in zip(blocks, states, strict=True):
        if block != stop or state != last:
            if stop > start:
                yield range(start, stop)
            start = block
        stop = block + 1
        last = state
    if stop > start:
        yield range(start, stop)
