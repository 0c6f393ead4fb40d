"""The steps of a run whose cost grows with the number of images, on rows that are made up: no image is decoded.

Each stage is a function of (images, scratch folder) that makes its input and
returns what is measured.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import os
import pickle
import shutil
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from harness.synthetic import write_prepared
from trainer_classification.crop_boxes import load_kernels
from trainer_classification.data import tar
from trainer_classification.data.file_names import FileNames
from trainer_classification.data.formats import ArrayLayout, SplitShards
from trainer_classification.data.manifest import file_info
from trainer_classification.data.source import Source, read_folder
from trainer_classification.data.split_names import NUMBER_OF
from trainer_classification.data.table import Table, open_table, save_table
from trainer_classification.loaders.base import BatchSchedule
from trainer_classification.metrics.classification import average_classes, count_confusion
from trainer_classification.plan import Plan, Policy
from trainer_classification.preparation import build, job, job_result, plan_regions, splits
from trainer_classification.preparation.content_hash import HASH
from trainer_classification.preparation.format import PrepareSpec
from trainer_classification.preparation.formats import FORMATS
from trainer_classification.preparation.job_result import FormatResult, JobResult
from trainer_classification.preparation.mirrored_classes import choose_compared
from trainer_classification.preparation.problems import find_disagreements, group_equal_files
from trainer_classification.preparation.statistics import choose_measured
from trainer_classification.preparation.write_tar import FIELDS, TarContent, write_index

Stage = Callable[[int, Path], Callable[[], Any]]

_CLASSES = 4000
_PER_CLASS = 1000  # images of a class folder
_MANY_CLASSES = 21_841  # ImageNet-21k's
_FILE_BYTES = 20_000  # about; a photograph of ImageNet has five times as many
_BATCH = 1024
_WARM = 600  # images of the run before the measured one: more than a job has
_LAYOUT = ArrayLayout(160, True, 3)
_SPEC = PrepareSpec(_LAYOUT, {"tar": {}})
_GLIBC = "libc.so.6"


@dataclass(frozen=True)
class Cost:
    """What a stage costs.

    Attributes:
        cpu_seconds: of this process and its threads, the least of some runs.
        peak_bytes: what the first run added to the memory of this process.
    """

    cpu_seconds: float
    peak_bytes: int


def measure_stage(name: str, count: int, folder: str, turns: int) -> Cost:
    """Measure a stage in this process, which should be a fresh one.

    Args:
        name: a key of `STAGES`.
        count: number of images.
        folder: scratch; it is emptied.
        turns: how often it is measured.
    """
    scratch = Path(folder)
    shutil.rmtree(scratch, ignore_errors=True)
    STAGES[name](_WARM, _make_folder(scratch / "warm"))()  # imports, and loads compiled code
    run = STAGES[name](count, _make_folder(scratch / "run"))

    seconds = []
    peak = 0
    for turn in range(turns):
        before = _start_peak()
        started = time.process_time()
        result = run()
        seconds.append(time.process_time() - started)
        if turn == 0:
            peak = _status("VmHWM") - before
        del result
    shutil.rmtree(scratch)

    return Cost(min(seconds), max(0, peak))


def _make_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def _start_peak() -> int:
    """Return free memory to the system, and let the kernel measure a new peak; return the bytes in use."""
    gc.collect()
    ctypes.CDLL(_GLIBC).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return _status("VmRSS")


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(name)).split()[1]) * 1024


def make_source(count: int) -> Source:
    """Make up the table of a dataset of photographs."""
    random = np.random.default_rng(0)
    return Source(
        name="made-up",
        version="1.0.0",
        task="image_classification",
        class_names=[f"class {number}" for number in range(_CLASSES)],
        root=Path("/made-up"),
        files=FileNames.of(f"data/{number:09d}.jpg" for number in range(count)),
        split_numbers=np.full(count, NUMBER_OF["train"], np.int8),
        labels=random.integers(0, _CLASSES, count).astype(np.int32),
        sizes=random.integers(200, 600, (count, 2)).astype(np.int32),
        bytes=random.integers(_FILE_BYTES // 2, _FILE_BYTES * 3 // 2, count),
        times=np.zeros((count, 2), np.int64),
    )


def make_hashes(count: int) -> Any:
    """Make up the hashes of files, of which each has a twin in a thousand."""
    words = np.random.default_rng(1).integers(0, 2**62, (count, 2))
    words[count - count // 1000 :] = words[: count // 1000]
    return words.view(HASH)[:, 0]


def scan_folder(count: int, folder: Path) -> Callable[[], Any]:
    """List a folder of class folders, and look at each file; the files are empty."""
    for number in range(count):
        path = folder / f"class_{number // _PER_CLASS:05d}"
        if number % _PER_CLASS == 0:
            path.mkdir()
        os.mknod(f"{path}/image_{number:09d}.jpg", 0o600 | stat.S_IFREG)
    return lambda: read_folder(folder)


def cut_splits(count: int, folder: Path) -> Callable[[], Any]:
    """Cut test and validation from train."""
    source = make_source(count)
    hashes = make_hashes(count)
    return lambda: splits.cut_missing(source.split_numbers, source.labels, hashes, 0.1)


def send_jobs(count: int, folder: Path) -> Callable[[], Any]:
    """Lay out the tars, make the jobs, and send them through a pipe, as the parent of prepare does."""
    source = make_source(count)
    rows = {"train": np.arange(count)}

    def run() -> int:
        regions = plan_regions._lay_out("tar", source, _SPEC, rows, folder)
        plan = plan_regions.RegionPlan(rows["train"], {"tar": regions})
        measured = choose_measured(source, _LAYOUT)
        info: Any = SimpleNamespace(source=source, folder=folder)
        nothing: Any = None
        work = build.Build(info, config=nothing, spec=_SPEC, before=None, workers=nothing)
        jobs = build._make_jobs(work, plan, None, measured, choose_compared(source, measured))
        return sum(len(pickle.dumps(one)) for one in jobs)

    return run


def collect_results(count: int, folder: Path) -> Callable[[], Any]:
    """Read what the jobs have found, and look for bad, equal and contradicting images."""
    source = make_source(count)
    hashes = make_hashes(count)
    stems = []
    for start in range(0, count, job.IMAGES_PER_JOB):
        rows = min(job.IMAGES_PER_JOB, count - start)
        stems.append(folder / f"{start:09d}")
        _make_result(hashes[start : start + rows], is_bad=start == 0).save(stems[-1])

    def run() -> Any:
        result = job_result.collect(stems, count)
        groups = group_equal_files(result.hashes, result.good_rows())
        return result, find_disagreements(
            "classes", groups, source.files, source.labels, source.class_names
        )

    return run


def _make_result(hashes: Any, is_bad: bool) -> JobResult:
    count = len(hashes)
    result = JobResult.empty(count, 0)
    result.hashes[:] = hashes
    result.sizes[:] = 300
    for number in range(count):
        result.contents[number] = b"jpeg"
    if is_bad:
        result.reasons[0] = "a long reason " * 20
    result.formats["tar"] = FormatResult.empty(count, FORMATS["tar"].fields)
    return result


def write_tables(count: int, folder: Path) -> Callable[[], Any]:
    """Write the table of a split."""
    source = make_source(count)
    table = Table(source.labels.astype(np.int64), source.sizes.astype(np.int32), source.files)
    return lambda: save_table(folder, "train", table)


def open_tables(count: int, folder: Path) -> Callable[[], Any]:
    """Open the table of a split."""
    labels = np.arange(count) % _CLASSES
    images = np.zeros((count, 1, 1, 1), np.uint8)
    prepared = folder / "prepared"
    written = write_prepared(prepared, "made-up", {"train": (images, labels)}, 2)
    infos = {name: file_info(prepared / name) for name in written.files}
    checked = dataclasses.replace(written, files=infos)
    return lambda: open_table(prepared, checked, "train")


def open_tars(count: int, folder: Path) -> Callable[[], Any]:
    """Open the tars of a split, and list where their images are."""
    source = make_source(count)
    plan = tar.layout(source.bytes)
    content = TarContent(source.bytes, np.full(count, ".jpg", FIELDS), source.labels)
    (folder / "tar").mkdir()
    for number, samples in enumerate(plan.shards):
        stem = folder / "tar" / tar.shard_name("train", number)
        write_index(stem, samples, plan.offsets[samples], content)
        with stem.with_suffix(".tar").open("wb") as file:
            file.truncate(tar.SHARD_BYTES)  # a hole: no block of the disk is taken
    shards = SplitShards(folder, "train", count, _LAYOUT)
    return lambda: tar.extents(shards)


def start_epoch(count: int, folder: Path) -> Callable[[], Any]:
    """Plan an epoch of photographs, up to the draws of the first batch."""
    load_kernels()
    sizes = np.random.default_rng(0).integers(200, 600, (count, 2)).astype(np.int32)
    plan = Plan(count, 0, Policy(crop="resized", flip="random"), sizes)
    schedule = BatchSchedule(plan, count, _BATCH)

    def run() -> Any:
        draws = schedule.draws(1)
        batches = list(schedule.batches(1))
        return draws, batches, draws[batches[0][0]]

    return run


def evaluate(count: int, folder: Path) -> Callable[[], Any]:
    """Count the confusion matrix of very many classes, and compute the metrics."""
    labels, predictions = np.random.default_rng(0).integers(0, _MANY_CLASSES, (2, count))
    return lambda: average_classes(count_confusion(labels, predictions, _MANY_CLASSES))


STAGES: dict[str, Stage] = {
    "scan folder": scan_folder,
    "cut splits": cut_splits,
    "send jobs": send_jobs,
    "collect results": collect_results,
    "write tables": write_tables,
    "open tables": open_tables,
    "open tars": open_tars,
    "start epoch": start_epoch,
    "evaluate": evaluate,
}
