"""`prepare`: from a Hafnia dataset to checked shards and a manifest.

Jobs write part files into `<target>.partial`, in as many processes as there are CPUs; the parts are gathered into one
file a split, checked, and the folder is renamed. Whatever bears the target's name is whole.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import xxhash
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer_classification import recipes
from trainer_classification.config import PrepareConfig, cpu_count
from trainer_classification.data import array, jobs, manifest, splits
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.report import print_table
from trainer_classification.data.source import Source, find_dataset

_KEEP_SIZE = 64  # px: images up to here are stored as they are
_ROOM = 1.25  # larger ones at this times the size they train at, so that a crop is seldom enlarged
_BAD_SHARE = 0.01


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset: its folder and manifest."""

    folder: Path
    manifest: Manifest


def prepare(config: PrepareConfig) -> Prepared:
    """Prepare a dataset, or find it prepared already.

    Raises:
        ValueError: the dataset is not found or wrong, too many images are bad, there is no room, shards are damaged.
    """
    console = Console(stderr=True)
    started = time.perf_counter()
    source = find_dataset(config.dataset, config.task)
    for note in source.notes:
        console.print(f"Note: {note}", highlight=False, markup=False)
    geometry, train_size, reason = _geometry(config, source)
    fingerprint = _fingerprint(config, source, geometry, train_size)
    target = _target(config, source, train_size)
    with _locked(target, console):
        if config.verify:
            found = Prepared(target, manifest.read(target))
            manifest.verify(target, found.manifest)
            console.print(f"{target} is whole: {len(found.manifest.files)} files agree with their checksums.")
            return found
        if not config.force and (ready := _ready(target, fingerprint)) is not None:
            console.print(f"{source.name} is prepared already in {target}.", highlight=False)
            return ready
        console.print(f"Preparing {source.name} for {train_size} px ({reason}).", highlight=False)
        prepared = _make(config, source, geometry, train_size, fingerprint, target, console)
    print_table(console, prepared.folder, prepared.manifest, len(source.files), time.perf_counter() - started)
    return prepared


def _geometry(config: PrepareConfig, source: Source) -> tuple[jobs.Geometry, int, str]:
    """How the array is laid out, the size that the network will see, and why."""
    longest = int(_sizes(source).max())
    train_size, reason = recipes.train_size(source.name, longest)
    if config.image_size:
        train_size, reason = config.image_size, "--image-size"
    if longest <= _KEEP_SIZE and train_size == longest:
        return jobs.Geometry(longest, resized=False), train_size, reason
    return jobs.Geometry(round(_ROOM * train_size), resized=True), train_size, reason


def _sizes(source: Source) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    """Sizes by the table, or where it is silent by the files' headers."""
    from PIL import Image

    sizes = source.sizes.copy()
    for row in np.flatnonzero((sizes <= 0).any(1)):
        try:
            with Image.open(source.root / source.files[row]) as image:
                sizes[row] = image.size
        except (OSError, Image.DecompressionBombError):
            sizes[row] = 1  # the job will name it
    return sizes


def _fingerprint(config: PrepareConfig, source: Source, geometry: jobs.Geometry, train_size: int) -> str:
    """Hash of all that shapes the bytes: the table, the files' sizes, the options, the format.

    Not of the files' content, which would cost as much as preparing.
    """
    head = (manifest.FORMAT_VERSION, source.name, source.version, source.task, source.class_names)
    options = (geometry.side, geometry.resized, train_size, config.validation_fraction)
    sizes = (_file_size(source.root, path) for path in source.files)
    rows = zip(source.files, source.splits.tolist(), source.labels.tolist(), sizes, strict=True)
    state = xxhash.xxh3_128(json.dumps([head, options]).encode())
    state.update("\n".join(map(str, rows)).encode())
    return state.hexdigest()


def _file_size(root: Path, path: str) -> int:
    try:
        return os.stat(os.path.join(root, path)).st_size
    except OSError:
        return -1  # the job will name it


def _target(config: PrepareConfig, source: Source, train_size: int) -> Path:
    in_cloud = os.environ.get("HAFNIA_CLOUD", "").lower() == "true"
    default = Path(tempfile.gettempdir(), "prepared") if in_cloud else Path(".data/prepared")
    name = f"{source.name}-{train_size}px".replace("/", "-")
    if config.task:
        name += f"-{config.task}"
    if config.validation_fraction != PrepareConfig.validation_fraction:
        name += f"-validation{config.validation_fraction:g}"
    return (Path(config.out) if config.out else default) / name


@contextmanager
def _locked(target: Path, console: Console) -> Iterator[None]:
    """Only one process at a time prepares a target; the lock goes with the process."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / f".{target.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            console.print(f"Another process prepares {target}; waiting for it.", highlight=False)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _ready(target: Path, fingerprint: str) -> Prepared | None:
    """What is prepared already, if it fits."""
    try:
        found = manifest.read(target)
    except ValueError:
        return None
    return Prepared(target, found) if found.fingerprint == fingerprint else None


def _make(
    config: PrepareConfig,
    source: Source,
    geometry: jobs.Geometry,
    train_size: int,
    fingerprint: str,
    target: Path,
    console: Console,
) -> Prepared:
    partial = target.with_name(target.name + ".partial")
    _claim(partial, fingerprint)
    _check_room(partial, 2 * len(source.files) * geometry.side**2 * 3)
    stems = _run_jobs(source, geometry, partial / "parts", config.workers, console)
    found = jobs.joined([jobs.load(stem.with_suffix(".npz")) for stem in stems])
    skipped = _bad_images(source, found, config.on_bad_image)
    good = found.reasons == ""
    split_of, origin = splits.cut_missing(
        source.splits[good], source.labels[good], found.hashes[good], config.validation_fraction
    )
    made = array.gather(partial, stems, found, split_of, source.labels, geometry)
    content = Manifest(
        dataset=source.name,
        version=source.version,
        task=source.task,
        class_names=source.class_names,
        splits={
            name: manifest.SplitInfo(
                count=int((split_of == name).sum()),
                origin=text,
                per_class=np.bincount(
                    source.labels[good][split_of == name], minlength=len(source.class_names)
                ).tolist(),
            )
            for name, text in origin.items()
        },
        channels=made.channels,
        image_size=geometry.side,
        train_size=train_size,
        resized=geometry.resized,
        layout="WHC" if geometry.resized else "HWC",
        mean=made.mean,
        std=made.std,
        files=made.files,
        skipped=skipped,
        unlabelled=source.unlabelled,
        duplicates=_duplicates(np.array(source.files)[good], found.hashes[good], split_of),
        options={"image_size": config.image_size, "validation_fraction": config.validation_fraction},
        fingerprint=fingerprint,
    )
    content.write(partial)
    manifest.verify(partial, content)
    _publish(partial, target)
    return Prepared(target, content)


def _claim(partial: Path, fingerprint: str) -> None:
    """Keep the parts of an interrupted run with the same fingerprint; drop any other's."""
    marker = partial / "fingerprint"
    if not marker.is_file() or marker.read_text() != fingerprint:
        shutil.rmtree(partial, ignore_errors=True)
    (partial / "parts").mkdir(parents=True, exist_ok=True)
    marker.write_text(fingerprint)


def _check_room(folder: Path, need: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < need:
        raise ValueError(
            f"Preparing needs about {need / 1e9:.1f} GB in {folder.parent}, and {free / 1e9:.1f} GB are free: "
            f"free some space, or choose another folder with --out."
        )


def _run_jobs(source: Source, geometry: jobs.Geometry, folder: Path, workers: int, console: Console) -> list[Path]:
    """Run the jobs whose parts are not there yet; returns the stems of all parts, in order."""
    starts = range(0, len(source.files), array.JOB)
    stems = [folder / f"{number:06d}" for number in range(len(starts))]
    todo = [
        ([os.path.join(source.root, path) for path in source.files[start : start + array.JOB]], geometry, stem)
        for start, stem in zip(starts, stems, strict=True)
        if not stem.with_suffix(".npz").is_file()
    ]
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}")
    with Progress(*columns, TimeRemainingColumn(), console=console, disable=not sys.stderr.isatty()) as progress:
        done = len(source.files) - sum(len(files) for files, *_ in todo)
        bar = progress.add_task("decoding", total=len(source.files), completed=done, rate="")
        started, here = time.perf_counter(), 0
        for count in _results(todo, workers or cpu_count()):
            here += count
            progress.update(bar, advance=count, rate=f"{here / (time.perf_counter() - started):,.0f} img/s")
    return stems


def _results(todo: list[tuple[list[str], jobs.Geometry, Path]], workers: int) -> Iterator[int]:
    workers = min(workers, len(todo))
    if workers <= 1:
        yield from (jobs.run_job(*job) for job in todo)
        return
    # spawn: threads of torch, polars and numba do not survive a fork.
    with ProcessPoolExecutor(workers, get_context("spawn"), jobs.ignore_interrupts) as pool:
        try:
            for future in as_completed([pool.submit(jobs.run_job, *job) for job in todo]):
                yield future.result()
        except BrokenProcessPool:
            raise ValueError(
                "A worker process was killed (out of memory?). The parts done are kept: run the same command again, "
                "perhaps with fewer --workers."
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _bad_images(source: Source, found: jobs.Part, policy: str) -> list[dict[str, str]]:
    """The images left out, with their reasons.

    Raises:
        ValueError: there are more than `policy` lets pass.
    """
    rows = np.flatnonzero(found.reasons != "")
    bad = [
        {"file": source.files[row], "split": str(source.splits[row]), "reason": str(found.reasons[row])} for row in rows
    ]
    limit = {"skip": len(source.files) - 1, "fail": 0, "auto": int(_BAD_SHARE * len(source.files))}[policy]
    if len(bad) > limit:
        listed = "; ".join(f"{entry['file']}: {entry['reason']}" for entry in bad[:10])
        raise ValueError(
            f"{len(bad)} of {len(source.files)} images are bad, --on-bad-image {policy} lets {limit} pass: {listed}"
            f"{'; ...' if len(bad) > 10 else ''}. Mend them, or go on without them: --on-bad-image skip."
        )
    return bad


def _duplicates(
    files: np.ndarray[tuple[int], np.dtype[np.str_]],
    hashes: np.ndarray[tuple[int, ...], np.dtype[np.str_]],
    split_of: np.ndarray[tuple[int, ...], np.dtype[np.str_]],
) -> list[dict[str, list[str]]]:
    """Groups of equal files that lie in more than one split."""
    groups: dict[str, list[int]] = {}
    for row, text in enumerate(hashes.tolist()):
        groups.setdefault(text, []).append(row)
    pairs = ((sorted({str(split_of[row]) for row in rows}), rows) for rows in groups.values() if len(rows) > 1)
    return [{"splits": names, "files": [str(files[row]) for row in rows]} for names, rows in pairs if len(names) > 1]


def _publish(partial: Path, target: Path) -> None:
    """Give the finished folder its name; what bore it before is gone only then."""
    shutil.rmtree(partial / "parts")
    (partial / "fingerprint").unlink()
    old = target.with_name(target.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    partial.rename(target)
    shutil.rmtree(old, ignore_errors=True)
