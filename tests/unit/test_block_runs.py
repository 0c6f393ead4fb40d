"""Few requests fetch what an epoch needs: neighbors come together, and nothing comes twice."""

from dataclasses import dataclass

import numpy as np
import pytest

from trainer_classification.data import block_runs, remote_images
from trainer_classification.data.block_runs import choose_blocks, split_runs, window_of

BLOCK = 1000


@dataclass
class File:
    """A file of so many blocks of so many bytes."""

    block: int
    count: int

    def __len__(self):
        return self.count


@pytest.fixture(autouse=True)
def gaps(monkeypatch):
    monkeypatch.setattr(block_runs, "WANTED_GAP_BYTES", 2 * BLOCK)
    monkeypatch.setattr(block_runs, "OTHER_GAP_BYTES", 1 * BLOCK)


def choose(window, is_exact):
    """Choose in a window that is spelt: N needed, w wanted later, . neither, - here or on its way."""
    letters = np.array(list(window))
    needed = letters == "N"
    chosen = choose_blocks(needed, letters != "-", needed | (letters == "w"), BLOCK, is_exact)
    return "".join(np.where(chosen, "x", "_"))


@pytest.mark.parametrize(
    ("window", "exact", "wide"),
    [
        ("wwNwww", "__x___", "xxxxxx"),  # neighbors that are read anyway
        ("NwwN", "xxxx", "xxxx"),  # a gap that costs less than a request
        ("NwwwN", "x___x", "xxxxx"),
        ("N.N", "xxx", "xxx"),
        ("N..N", "x__x", "x__x"),  # too much that nobody reads
        ("Nw.N", "x__x", "xxxx"),
        ("N-N", "x_x", "x_x"),  # nothing comes twice
        ("w-Nw", "__x_", "x_xx"),
        ("ww.w", "____", "____"),  # nothing is waited for here
    ],
)
def test_blocks_come_with_neighbors_that_are_wanted_and_over_small_gaps(window, exact, wide):
    assert choose(window, is_exact=True) == exact
    assert choose(window, is_exact=False) == wide


def test_runs_are_adjacent_and_in_one_state():
    assert list(split_runs([0, 1, 2, 4, 5, 6], [0, 0, 0, 0, 2, 2])) == [range(3), range(4, 5), range(5, 7)]
    assert list(split_runs([], [])) == []


def test_a_window_has_at_least_one_block():
    assert window_of(block_runs.RUN_BYTES // 2) == 2
    assert window_of(block_runs.RUN_BYTES * 2) == 1


@pytest.mark.parametrize("index", [[0], [-1, 1, 5], range(40), [39, -1, 0, 0]])
def test_the_blocks_of_an_epoch_are_those_that_hold_a_byte_of_its_images(monkeypatch, index):
    monkeypatch.setattr(remote_images, "_ROWS_AT_ONCE", 3)
    files = [File(100, 30), File(40, 90), File(1000, 4)]
    draws = np.random.default_rng(0)
    number = draws.integers(0, 3, 40)
    sizes = draws.integers(1, 250, 40)
    offsets = draws.integers(0, 2750, 40)
    images = remote_images.RemoteImages(files, number, offsets, sizes)
    for place, (file, wanted) in enumerate(zip(files, images._list_wanted(np.array(index)), strict=True)):
        expected = np.zeros(len(file), bool)
        for row in index:
            if row >= 0 and number[row] == place:
                expected[offsets[row] // file.block : (offsets[row] + sizes[row] - 1) // file.block + 1] = True
        np.testing.assert_array_equal(wanted, expected)
