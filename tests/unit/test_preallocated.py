import errno
import os
from pathlib import Path

import numpy as np
import pytest

from trainer_classification.preparation import plan_regions, preallocated
from trainer_classification.preparation.preallocated import PreallocatedRegions, RegionWriter


def layout(folder, sizes, files=2, gap=0):
    """Regions by turns in some files, each right behind the one before, or after a gap."""
    file = np.arange(len(sizes)) % files
    offsets = np.zeros(len(sizes), np.int64)
    for number in range(files):
        taken = np.array(sizes)[file == number] + gap
        offsets[file == number] = np.cumsum(taken) - taken
    made = PreallocatedRegions([str(folder / str(number)) for number in range(files)], file, offsets, np.array(sizes))
    made.make_files()
    return made


def contents(sizes):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, size, np.uint8) for size in sizes]


def written(made, number):
    start, size = int(made.offsets[number]), int(made.sizes[number])
    return Path(made.files[made.file[number]]).read_bytes()[start : start + size]


def test_a_file_may_end_beyond_four_gigabytes(tmp_path, monkeypatch):
    """The end of a region whose offset and size take four bytes each."""
    monkeypatch.setattr(preallocated, "_allocate", lambda *_: None)
    offsets, sizes = (plan_regions._narrow(np.array([0, number])) for number in (2**32 - 10, 100))
    assert offsets.dtype == sizes.dtype == np.uint32
    made = PreallocatedRegions([str(tmp_path / "0")], np.zeros(2, np.int32), offsets, sizes)
    made.make_files()
    assert (tmp_path / "0").stat().st_size == 2**32 + 90
    assert plan_regions._narrow(np.array([0, 2**32])).tolist() == [0, 2**32]


@pytest.mark.parametrize("order", ["forward", "backward", "random"])
@pytest.mark.parametrize(("size", "count", "gap"), [(5000, 700, 0), (5000, 50, 3), (8, 5000, 0), (3_000_000, 5, 0)])
def test_every_image_lies_in_its_region_in_whatever_order_it_came(tmp_path, order, size, count, gap):
    made = layout(tmp_path, [size] * count, gap=gap)
    images = contents([size] * count)
    numbers = {"forward": np.arange(count), "backward": np.arange(count)[::-1]}.get(order)
    numbers = np.random.default_rng(1).permutation(count) if numbers is None else numbers
    with RegionWriter(made) as writer:
        assert all(writer.add(number, images[number].data) for number in numbers.tolist())
    assert all(written(made, number) == images[number].tobytes() for number in range(count))


def test_images_of_many_files_do_not_pile_up(tmp_path, monkeypatch):
    monkeypatch.setattr(preallocated, "_BYTES_WAITING", 100)
    made, images = layout(tmp_path, [40] * 60, files=30), contents([40] * 60)
    with RegionWriter(made) as writer:
        for number in range(60):
            writer.add(number, images[number].data)
            there = sum(written(made, done) == images[done].tobytes() for done in range(number + 1))
            assert there >= number - 1
    assert all(written(made, number) == images[number].tobytes() for number in range(60))


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_all(tmp_path, monkeypatch):
    sizes = [7, 7, 30, 1, 40, 2]
    made, images = layout(tmp_path, sizes), contents(sizes)
    real = os.pwritev
    monkeypatch.setattr(os, "pwritev", lambda at, buffers, place: real(at, [buffers[0][:4]], place))
    with RegionWriter(made) as writer:
        for number, image in enumerate(images):
            writer.add(number, image.data)
    assert all(written(made, number) == image.tobytes() for number, image in enumerate(images))


def test_an_image_of_another_size_is_refused_and_its_region_left_as_it_was(tmp_path):
    made = layout(tmp_path, [10, 10, 10])
    with RegionWriter(made) as writer:
        assert not writer.add(0, memoryview(b"eleven byte"))
        assert writer.add(2, memoryview(b"ten bytes!"))
    assert written(made, 0) == bytes(10)
    assert written(made, 2) == b"ten bytes!"
    assert not RegionWriter(None).add(0, memoryview(b""))


def test_files_have_their_room_before_anything_is_written(tmp_path):
    made = layout(tmp_path, [100_000] * 6)
    assert all(path.stat().st_blocks * 512 >= path.stat().st_size == 300_000 for path in map(Path, made.files))


def test_a_disk_without_room_is_named_and_one_that_cannot_keep_room_is_written_to(tmp_path, monkeypatch):
    monkeypatch.setattr(preallocated, "_fallocate", lambda descriptor, size: errno.ENOSPC)
    with pytest.raises(OSError, match="No space") as error:
        layout(tmp_path, [10, 10])
    assert error.value.filename == str(tmp_path / "0")
    monkeypatch.setattr(preallocated, "_fallocate", lambda descriptor, size: errno.EOPNOTSUPP)
    assert Path(layout(tmp_path, [10], files=1).files[0]).stat().st_size == 10


def test_what_the_system_says_of_room_comes_back(tmp_path):
    with (tmp_path / "file").open("wb") as file:
        assert preallocated._fallocate(file.fileno(), 5000) == 0
        assert os.fstat(file.fileno()).st_size == 5000
        assert preallocated._fallocate(file.fileno(), -1) == errno.EINVAL
