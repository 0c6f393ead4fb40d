"""The memory of the worker processes is bounded, and jobs are weighed by pixels."""

import io
import threading
from contextlib import contextmanager
from multiprocessing import get_context
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from helpers import encoded, noise, photograph, tree
from trainer_classification.config import PrepareConfig
from trainer_classification.data.decode import BYTES_PER_PIXEL, count_pixels, estimate_bytes
from trainer_classification.data.formats import ArrayLayout
from trainer_classification.preparation import job, memory
from trainer_classification.preparation.format import PrepareSpec
from trainer_classification.preparation.memory import MemoryBudget, count_workers
from trainer_classification.preparation.pipeline import prepare

UNIT = memory._UNIT


def starts(budget, needed):
    """Return whether a reservation succeeds at once."""
    entered = threading.Event()

    def reserve():
        with budget.reserve(needed):
            entered.set()

    thread = threading.Thread(target=reserve, daemon=True)
    thread.start()
    thread.join(0.2)
    return entered.is_set()


def test_what_does_not_fit_waits_until_others_are_done():
    budget = MemoryBudget(get_context("spawn"), 5 * UNIT)
    with budget.reserve(3 * UNIT):
        assert starts(budget, 2 * UNIT)
        assert not starts(budget, 4 * UNIT)  # it goes on waiting, with its turn
    with budget.reserve(UNIT):
        pass
    assert starts(budget, 5 * UNIT)


def test_more_than_all_runs_alone_and_little_never_waits():
    budget = MemoryBudget(get_context("spawn"), 2 * UNIT)
    with budget.reserve(100 * UNIT):
        assert starts(budget, UNIT - 1)
        assert not starts(budget, UNIT)


def test_an_error_gives_the_memory_back():
    budget = MemoryBudget(get_context("spawn"), UNIT)
    for _ in range(2):
        with pytest.raises(OSError, match="disk"), budget.reserve(UNIT):
            raise OSError("disk")


@pytest.mark.parametrize(("wanted", "limit", "count"), [(8, 10**12, 8), (8, 3 * memory.WORKER_BYTES, 3), (8, 1, 1)])
def test_there_are_as_many_workers_as_there_is_memory_for(wanted, limit, count):
    assert count_workers(wanted, limit) == count


def test_jobs_have_a_bound_of_images_and_of_pixels(monkeypatch):
    monkeypatch.setattr(job, "IMAGES_PER_JOB", 4)
    monkeypatch.setattr(job, "PIXELS_PER_JOB", 100)
    pixels = np.array([1, 1, 1, 1, 1, 60, 40, 1, 500, 500, 99, 1, 1])
    assert job.divide(pixels).tolist() == [0, 4, 6, 8, 9, 10, 12]
    assert job.divide(np.ones(4, np.int64)).tolist() == [0]
    assert job.divide(np.ones(5, np.int64)).tolist() == [0, 4]


def test_estimates():
    """A JPEG that is decoded at an eighth takes little, and a progressive one its coefficients; all else all."""
    photo = photograph(0, 800, 900)
    pixels = 720_000
    turned = Image.Exif()
    turned[0x0112] = 6
    assert estimate_bytes(encoded(photo, "JPEG"), pixels, 40) == 3 * pixels // 64
    assert estimate_bytes(encoded(photo, "JPEG", exif=turned), pixels, 40) == 3 * pixels // 64
    assert estimate_bytes(encoded(photo, "JPEG", progressive=True), pixels, 40) == 6 * pixels + 3 * pixels // 64
    for data, side in ((encoded(photo, "JPEG"), 400), (encoded(photo, "JPEG"), 0), (encoded(photo), 40), (b"no", 40)):
        assert estimate_bytes(data, pixels, side) == BYTES_PER_PIXEL * pixels


class Ledger:
    """A budget that only notes what is reserved."""

    def __init__(self):
        self.reserved = []

    @contextmanager
    def reserve(self, needed):
        self.reserved.append(needed)
        yield


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_what_a_file_takes_is_reserved_whatever_the_table_says(monkeypatch, kind):
    ledger = Ledger()
    monkeypatch.setattr(job, "_budget", ledger)
    spec = PrepareSpec(ArrayLayout(500, True, 3), {"array": {}})
    told = SimpleNamespace(pixels=np.array([144]), spec=spec)
    with job._reserve(told, 0, encoded(photograph(0, 800, 900), kind)):
        assert ledger.reserved == [BYTES_PER_PIXEL * 720_000]


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_pixels_are_counted_by_the_header(kind):
    data = encoded(photograph(0, 80, 90), kind)
    assert count_pixels(data) == count_pixels(data[:700]) == 7200
    assert count_pixels(b"no image") == count_pixels(b"") == 0


def test_little_memory_changes_no_byte_and_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(job, "IMAGES_PER_JOB", 2)
    for number in range(8):
        path = tmp_path / f"photos/{'ab'[number % 2]}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        large = Image.fromarray(noise(number, 30, 40, 3)).resize((1200, 900), Image.Resampling.NEAREST)
        file = io.BytesIO()
        large.save(file, "PNG", compress_level=1)
        path.write_bytes(file.getvalue())

    def prepared(out, **options):
        config = PrepareConfig(
            dataset=str(tmp_path / "photos"),
            prepared=str(tmp_path / out),
            formats="array,tar",
            image_size=48,
            **options,
        )
        return tree(prepare(config).folder)

    alone = prepared("alone", workers=1)
    assert prepared("little", workers=2, memory=0.42) == alone
    assert "of 1.1 megapixels, may take 0.02 GB to decode; 2 processes share 0.4 GB" in capsys.readouterr().err
