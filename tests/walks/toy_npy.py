"""Step 1 of the walk, `data/npy.py`: layout and reader of a toy format, one .npy file per split."""

import io

import numpy as np

from trainer_classification.data.formats import Extents
from trainer_classification.data.manifest import check_files, check_format


def path(split):
    return f"npy/{split}.npy"


def header(count, layout):
    file = io.BytesIO()
    shape = (count, layout.side, layout.side, layout.channels)
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return file.getvalue()


def offsets(count, layout):
    return len(header(count, layout)) + np.arange(count, dtype=np.int64) * layout.image_bytes


def open_npy(folder, manifest, split):
    check_format(folder, manifest, "npy")
    check_files(folder, manifest, split, [path(split)])
    return np.load(folder / path(split), mmap_mode="r")


def extents(shards):
    sizes = np.full(shards.count, shards.layout.image_bytes)
    return [Extents(path(shards.split), np.arange(shards.count), offsets(shards.count, shards.layout), sizes)]
