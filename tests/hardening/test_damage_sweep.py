"""Damage anywhere in the prepared samples: found when they are opened or verified, and never a signal."""

import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from forked_commands import ROOT
from hardening.conftest import SCALE
from trainer_classification.config import PrepareConfig
from trainer_classification.data import array, beton, manifest, planes, table, tar
from trainer_classification.loaders.registry import installed
from trainer_classification.preparation.pipeline import prepare

PHOTOS = [pytest.param("caltech-101", marks=pytest.mark.slow)]
SAMPLES = ["mnist", pytest.param("cifar100", marks=pytest.mark.slow), *PHOTOS]
STRIDE = max(1, round(int(os.environ.get("HARDENING_STRIDE", "199")) / SCALE / 5))
OPENED_BY = {"table": table.open_table, "beton": beton.open_split, "tar": tar.open_split}


@pytest.fixture(scope="module", params=SAMPLES)
def prepared(request, tmp_path_factory):
    out = tmp_path_factory.mktemp("sweep")
    options = {"dataset": str(ROOT / "samples" / request.param), "prepared": str(out), "beton_mode": "jpg"}
    formats = "array,beton,tar" + (",planes" if request.param == "caltech-101" else "")
    yield prepare(PrepareConfig(formats=formats, **options)).folder
    shutil.rmtree(out)


@contextmanager
def damaged(path, place, bits):
    """Change bits of a byte, and put them back."""
    with path.open("r+b", buffering=0) as file:
        before = os.pread(file.fileno(), 1, place)
        os.pwrite(file.fileno(), bytes([before[0] ^ bits]), place)
        try:
            yield
        finally:
            os.pwrite(file.fileno(), before, place)


def index_places(path):
    data, head, table_offset = beton._find_index(path)
    size = len(data)
    return [*range(head), *range(table_offset, size)]


def test_a_changed_byte_of_what_says_where_images_are_is_found_on_opening(prepared):
    """Every byte with HARDENING_STRIDE=1; each test with another first one."""
    content = manifest.read(prepared)
    tried = 0
    for name in content.files:
        kind, split = name.split("/")[0], Path(name).name.partition(".")[0].partition("-")[0]
        path = prepared / name
        if kind in ("array", "planes") or name.endswith(".tar"):
            continue
        places = index_places(path) if kind == "beton" else range(path.stat().st_size)
        for place in places[:: STRIDE if len(places) > STRIDE else 1]:
            with damaged(path, place, 1 << place % 8), pytest.raises(ValueError, match=r"is damaged|is cut|no beton"):
                OPENED_BY[kind](prepared, content, split)
            tried += 1
    for place in range(0, (prepared / "manifest.json").stat().st_size, max(1, STRIDE // 20)):
        with damaged(prepared / "manifest.json", place, 1 << place % 8), pytest.raises(ValueError, match="manifest"):
            manifest.read(prepared)
        tried += 1
    print(f"{prepared.name}: {tried} bytes")


def smallest_shards(content):
    """The smallest file of pixels of each format: checks of it are cheap."""
    shards = [name for name in content.files if name.endswith((".bin", ".tar", ".beton"))]
    by_format = {}
    for name in sorted(shards, key=lambda name: content.files[name].bytes):
        by_format.setdefault(name.split("/")[0], name)
    assert by_format.keys() == content.formats.keys() >= {"array", "beton", "tar"}
    return by_format


def test_a_changed_or_cut_file_of_pixels_is_found(prepared, chance, times):
    """2,000 flips and 2,000 cuts of each format with HARDENING_COUNT=1."""
    content = manifest.read(prepared)
    count = times(2000)
    for kind, name in smallest_shards(content).items():
        path = prepared / name
        size = path.stat().st_size
        for _ in range(count):
            with damaged(path, chance.randrange(size), 1 << chance.randrange(8)):
                assert manifest.file_info(path) != content.files[name]

        whole = path.read_bytes()
        split = Path(name).name.partition(".")[0].partition("-")[0]
        open_split = (OPENED_BY | {"array": array.open_array, "planes": planes.open_planes})[kind]
        for length in sorted(chance.sample(range(size), min(count, size)), reverse=True):  # nothing is written again
            os.truncate(path, length)
            with pytest.raises(ValueError, match=r"is damaged|is cut"):
                open_split(prepared, content, split)
        path.write_bytes(whole)
    manifest.verify(prepared, content)
    print(f"{prepared.name}: {count} flips and {count} cuts of each format")


READ_ALL = """
import random, sys
from pathlib import Path
import torch
from trainer_classification.data import manifest
from trainer_classification.loaders.base import LoaderRequest
from trainer_classification.loaders.registry import choose_engine, open_loader

folder, engine, seed, count, flips = Path(sys.argv[1]), sys.argv[2], *map(int, sys.argv[3:])
content = manifest.read(folder)
choice = choose_engine(engine, content.array_layout, 1, torch.device("cpu"))
suffix = ".tar" if engine == "dali" else ".beton"
(path,) = sorted(folder.glob(f"*/validation*{suffix}"))[:1]
whole = path.read_bytes()
if suffix == ".beton":
    from trainer_classification.data import beton
    store = beton.open_beton(path)
    places = [(int(a), int(s)) for a, s in zip(store.offsets, store.sizes)]
else:
    from trainer_classification.data import tar
    store = tar.open_split(folder, content, "validation")
    places = [(int(a), int(s)) for a, s, shard in zip(store.offsets, store.sizes, store.shard) if shard == 0]
chance = random.Random(seed)
ends = {"read": 0, "refused": 0}
for number in range(count):
    data = bytearray(whole)
    for _ in range(chance.choice((1, flips))):
        offset, size = chance.choice(places)
        data[offset + chance.randrange(size)] ^= 1 << chance.randrange(8)
    path.write_bytes(data)
    print(number, file=sys.stderr, flush=True)
    request = LoaderRequest(folder, content, "validation", None, 64, content.train_size, torch.device("cpu"), threads=2)
    try:
        with open_loader(choice, request) as loader:
            for batch in loader.epoch(0, 0):
                batch.images.sum()
        ends["read"] += 1
    except Exception as error:
        ends["refused"] += 1
        print(type(error).__name__, str(error)[:200].replace(chr(10), " "), file=sys.stderr)
path.write_bytes(whole)
print(ends)
"""


@pytest.mark.parametrize("prepared", PHOTOS, indirect=True)  # the others are stored as pixels, which nobody decodes
@pytest.mark.parametrize("engine", ["ffcv", "dali"])
def test_damaged_pixels_never_end_a_loader_of_others_by_a_signal(prepared, engine, chance, times):
    """Files whose indexes are right and whose JPEGs are not. DALI gets no JPEG that is not as it was written."""
    if not installed(engine):
        pytest.skip(f"{engine} is not installed")
    count = times(40)
    arguments = [str(prepared), engine, str(chance.randrange(1 << 30)), str(count), "200"]
    done = subprocess.run([sys.executable, "-c", READ_ALL, *arguments], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-2000:]
    if engine == "dali":
        assert done.stdout == f"{{'read': 0, 'refused': {count}}}\n"
    print(prepared.name, engine, done.stdout.strip(), done.stderr.splitlines()[-1][:300])
