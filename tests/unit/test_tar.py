"""Tar shards: webdataset, DALI, tar itself and our reader see the same."""

import re
import tarfile
import warnings
from pathlib import Path

import numpy as np
import pytest

from helpers import encoded, noise, tar_suffix
from odd_images import unsound_pngs
from png_writer import RGB, write_png
from trainer_classification.data import png_chunks
from trainer_classification.data.decode import decode_checked
from trainer_classification.data.formats import ArrayLayout, SplitShards
from trainer_classification.data.tar import _header, extents, open_tars, order_of, suffix_of
from trainer_classification.preparation import write_tar
from trainer_classification.preparation.format import PrepareSpec, SourceImage
from trainer_classification.preparation.write_tar import FIELDS, TarContent, write_tars

COUNT = 40
FILES = [(encoded(noise(i, 20 + i, 30, 3), "JPEG"), ".jpg") for i in range(COUNT)]
LABELS = np.arange(COUNT) * 7 % 13


def write(folder, shard_size=40_000):
    sizes = np.array([len(data) for data, _ in FILES])
    fields = np.array([(suffix,) for _, suffix in FILES], FIELDS)
    content = TarContent(sizes, fields, LABELS)
    write_tars(folder, "train", lambda sample: FILES[sample][0], content, shard_size)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path)
    return tmp_path


def test_every_original_byte_is_found_by_sample_id(folder):
    store = open_tars(folder, "train", COUNT)
    assert len(store.shards) > 2
    assert all(bytes(store.image(i)) == FILES[i][0] for i in range(COUNT))
    assert np.array_equal(store.labels, LABELS)
    assert {tar_suffix(store, i) for i in range(COUNT)} == {"jpg"}


def test_shards_are_shuffled_and_stay_within_their_size(folder):
    keys = []
    for path in sorted(folder.glob("*.tar")):
        assert path.stat().st_size <= 40_000
        with tarfile.open(path) as tar:
            keys += [int(name[:9]) for name in tar.getnames() if name.endswith(".cls")]
    assert keys == order_of(COUNT).tolist()
    assert keys != sorted(keys)


def test_headers_are_those_of_the_standard_library():
    for name, size in (("000000012.jpg", 0), ("000000013.cls", 3), ("123456789.png", 987654321)):
        info = tarfile.TarInfo(name)
        info.size, info.mode = size, 0o644
        assert _header(name, size) == info.tobuf(tarfile.USTAR_FORMAT)


def test_a_file_is_named_by_its_kind_and_what_is_neither_is_converted_to_png():
    assert [suffix_of(kind) for kind in ("jpeg", "png", "")] == [".jpg", ".png", ".png"]


UNSOUND = unsound_pngs(noise(0, 40, 60, 3))


@pytest.mark.parametrize("data", UNSOUND.values(), ids=UNSOUND)
def test_a_png_that_libpng_refuses_is_stored_as_another(data):
    """DALI's decoder would end a training at it."""
    decoded = decode_checked(data)
    spec = PrepareSpec(ArrayLayout(40, True, 3), {"tar": {}})
    image = SourceImage(data, decoded.info, spec.layout, 0, 0, decoded)
    stored = write_tar.encode(image, spec)
    assert not png_chunks.is_sound(data)
    assert stored.fields == (".png",)
    assert stored.data != data
    assert png_chunks.is_sound(stored.data)
    np.testing.assert_array_equal(decode_checked(stored.data).pixels, noise(0, 40, 60, 3))


@pytest.mark.parametrize(
    "data",
    [
        encoded(noise(0, 200, 300, 3)),  # several chunks of pixels
        encoded(noise(0, 40, 60, 1)[:, :, 0]),
        write_png(noise(0, 40, 60, 3).astype(np.uint16), 8, RGB, ((b"tEXt", b"a note"), (b"PLTE", bytes(9))), True),
        encoded(noise(0, 40, 60, 3)) + b"more behind its end",
    ],
    ids=["large", "gray", "chunks, interlaced", "tail"],
)
def test_a_png_that_every_decoder_takes_is_stored_as_it_is(data):
    decoded = decode_checked(data)
    spec = PrepareSpec(ArrayLayout(40, True, 3), {"tar": {}})
    stored = write_tar.encode(SourceImage(data, decoded.info, spec.layout, 0, 0, decoded), spec)
    assert (stored.data, stored.is_original) == (data, True)


def test_a_png_is_sound_to_its_last_byte():
    whole = write_png(noise(0, 9, 7, 3).astype(np.uint16), 8, RGB)
    assert png_chunks.is_sound(whole)
    for end in range(len(whole)):
        assert not png_chunks.is_sound(whole[:end])
    for position in range(len(whole)):
        changed = bytearray(whole)
        changed[position] ^= 16
        assert not png_chunks.is_sound(bytes(changed)), position


def test_webdataset_reads_them(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import webdataset

        paths = [str(path) for path in sorted(folder.glob("*.tar"))]
        samples = list(webdataset.WebDataset(paths, shardshuffle=False))
    assert len(samples) == COUNT
    for sample in samples:
        number = int(sample["__key__"])
        assert sample["jpg"] == FILES[number][0]
        assert int(sample["cls"]) == LABELS[number]


def test_dali_reads_them_by_our_index(folder):
    dali = pytest.importorskip("nvidia.dali", reason="DALI is not installed")
    paths = sorted(folder.glob("*.tar"))

    @dali.pipeline_def(batch_size=COUNT, num_threads=1, device_id=None)
    def pipeline():
        return tuple(
            dali.fn.readers.webdataset(
                paths=[str(path) for path in paths],
                index_paths=[str(path.with_suffix(".idx")) for path in paths],
                ext=["jpg", "cls"],
                missing_component_behavior="error",
            )
        )

    pipe = pipeline()
    pipe.build()
    images, labels = pipe.run()
    order = order_of(COUNT)
    for row, number in enumerate(order):
        assert bytes(np.asarray(images.at(row))) == FILES[number][0]
        assert int(bytes(np.asarray(labels.at(row)))) == LABELS[number]


def test_the_same_files_give_the_same_bytes(tmp_path):
    for name in "ab":
        write(tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def test_a_file_larger_than_a_shard_has_one_of_its_own(tmp_path):
    write(tmp_path, shard_size=10)
    assert len(list(tmp_path.glob("*.tar"))) == COUNT


def test_a_label_that_is_no_number_is_an_error(folder):
    first = sorted(folder.glob("*.tar"))[0]
    place = int(first.with_suffix(".idx").read_text().splitlines()[1].split()[5])
    content = bytearray(first.read_bytes())
    content[place] ^= 255
    first.write_bytes(content)
    store = open_tars(folder, "train", COUNT)
    with pytest.raises(ValueError, match=f"{first.name} is damaged"):
        _ = store.labels


@pytest.mark.parametrize(
    "damage",
    [
        lambda fields: fields[:7],
        lambda fields: [*fields, "1"],
        lambda fields: [fields[0], "-512", *fields[2:]],
        lambda fields: [*fields[:6], "1.5", fields[7]],
        lambda fields: [fields[0], "9" * 30, *fields[2:]],
        lambda fields: [*fields[:3], "000000040.jpg", *fields[4:7], "000000040.cls"],
        lambda fields: [*fields[:3], "000000001.jpg", *fields[4:7], "000000002.cls"],
    ],
    ids=[
        *("one field less", "one more", "negative", "no integer", "more than 64 bits", "no such sample"),
        "image and label of two samples",
    ],
)
def test_a_damaged_line_of_an_index_is_named(folder, damage):
    index = sorted(folder.glob("*.idx"))[1]
    lines = index.read_text().splitlines()
    lines[2] = " ".join(damage(lines[2].split()))
    index.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=rf"{index.name} is damaged \('{re.escape(lines[2])}'\)"):
        open_tars(folder, "train", COUNT)


def test_an_index_that_points_beyond_its_shard_is_an_error(folder):
    index = sorted(folder.glob("*.idx"))[1]
    lines = index.read_text().splitlines()
    for place in (f"{2**62} {2**62}", "512 2000000", f"{2**63 - 2} 1"):
        fields = lines[2].split()
        changed = " ".join([fields[0], place, *fields[3:]])
        index.write_text("\n".join([*lines[:2], changed, *lines[3:]]) + "\n")
        with pytest.raises(ValueError, match="is cut off"):
            open_tars(folder, "train", COUNT)


def test_extents_are_the_places_of_the_reader_in_the_order_of_each_shard(folder):
    (folder / "tar").symlink_to(folder)
    shards = SplitShards(folder, "train", COUNT, ArrayLayout(64, True, 3))
    store = open_tars(folder, "train", COUNT)
    found = extents(shards)
    assert len(found) == len(store.shards)
    for number, shard in enumerate(found):
        assert shard.path == f"tar/{Path(store.shards[number].filename).name}"
        assert sorted(shard.samples) == np.flatnonzero(store.shard == number).tolist()
        assert (np.diff(shard.offsets) > 0).all()
        assert np.array_equal(shard.offsets, store.offsets[shard.samples])
        assert np.array_equal(shard.sizes, store.sizes[shard.samples])
    (folder / Path(found[1].path).name).with_suffix(".idx").unlink()
    with pytest.raises(ValueError, match=r"lacks \d+ of 40 samples"):
        extents(shards)


def test_a_missing_or_cut_off_shard_is_an_error(folder):
    last = sorted(folder.glob("*.tar"))[-1]
    content = last.read_bytes()
    last.write_bytes(content[:2000])
    with pytest.raises(ValueError, match="cut off"):
        open_tars(folder, "train", COUNT)
    last.unlink()
    last.with_suffix(".idx").unlink()
    with pytest.raises(ValueError, match=r"lacks \d+ of 40 samples"):
        open_tars(folder, "train", COUNT)
