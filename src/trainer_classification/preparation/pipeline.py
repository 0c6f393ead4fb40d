"""`prepare`: from a Hafnia dataset to checked shards and a manifest.

Jobs write into `<target>.partial`, in as many processes as there are CPUs: one decode of each image serves every
format. Pixels go to their slots in the shards to be, the rest to part files, which are gathered into shards. These are
read back and checked, and the folder is renamed. Whatever bears the target's name is whole.
"""

from __future__ import annotations

import dataclasses
import fcntl
import functools
import json
import operator
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash
from rich.console import Console

from trainer_classification import recipes
from trainer_classification.config import PrepareConfig
from trainer_classification.data import array, beton, manifest, table, tar
from trainer_classification.data.manifest import FileInfo, Manifest, SplitInfo
from trainer_classification.data.source import Source, find_dataset, read_options
from trainer_classification.data.table import Table
from trainer_classification.environment import in_cloud
from trainer_classification.preparation import disk as place
from trainer_classification.preparation import inspect as ahead
from trainer_classification.preparation import job as jobs
from trainer_classification.preparation import splits
from trainer_classification.preparation import workers as pool
from trainer_classification.preparation.assemble import JobOutputs, in_threads, read_back
from trainer_classification.preparation.preallocated import FORMATS as NAMES
from trainer_classification.preparation.preallocated import PreallocatedRegions
from trainer_classification.preparation.summary import print_table

Int64 = npt.NDArray[np.int64]

FORMATS = {"array": array, "beton": beton, "tar": tar}
_KEEP_SIZE = 64  # px: images up to here are stored as they are
_ROOM = 1.25  # larger ones at this times the size they train at, so that a crop is seldom enlarged
_BETON_ROOM = 2.5  # the longest side of a beton's image, times the training size: small crops are not enlarged much
_BAD_SHARE = 0.01


@dataclass(frozen=True)
class Prepared:
    """A prepared dataset: its folder and manifest."""

    folder: Path
    manifest: Manifest


def prepare(config: PrepareConfig, needed: Callable[[str, bool, int], tuple[str, ...]] | None = None) -> Prepared:
    """Prepare a dataset, or find it prepared already; formats that were prepared before are kept.

    Args:
        config: what the user asked for.
        needed: (name of the dataset, images are resized, bytes of the array) -> formats, where these and not
            `config.formats` are wanted.

    Raises:
        ValueError: the dataset is not found or wrong, too many images are bad, there is no room, shards are damaged.
        OSError: the disk is full, or what was written is not what is read back.
    """
    console = Console(stderr=True)
    started = time.perf_counter()
    source = find_dataset(config.dataset, config.task, read_options(config))
    for note in source.notes:
        console.print(f"Note: {note}", highlight=False, markup=False)
    source = dataclasses.replace(source, sizes=ahead.sizes(source))
    geometry, train_size, reason = _geometry(config, source)
    fingerprint = _fingerprint(config, source, geometry, train_size)
    target = _target(config, source, train_size, 2 * len(source.files) * geometry.side**2 * 3, console)
    with _locked(target, console):
        if config.verify:
            return _verified(target, console)
        before = None if config.force else _prepared_before(target, fingerprint)
        formats = tuple((config.formats or PrepareConfig.formats).split(","))
        if needed is not None:
            formats = needed(source.name, geometry.resized, len(source.files) * geometry.side**2 * 3)
        work = _work(config, geometry, train_size, formats, before, any_options=needed is not None)
        if before is not None and not work.formats:
            console.print(f"{source.name} is prepared already in {target}.", highlight=False)
            return Prepared(target, before)
        wanted = ", ".join(work.formats) or "its table"
        console.print(f"Preparing {source.name} for {train_size} px ({reason}): {wanted}.", highlight=False)
        with pool.Workers(config.workers, geometry.resized, console) as workers:
            prepared = _make(config, source, work, train_size, fingerprint, target, before, workers, console)
    print_table(console, prepared.folder, prepared.manifest, len(source.files), time.perf_counter() - started)
    return prepared


def _verified(target: Path, console: Console) -> Prepared:
    found = Prepared(target, manifest.read(target))
    manifest.verify(target, found.manifest)
    console.print(f"{target} is whole: {len(found.manifest.files)} files agree with their checksums.", highlight=False)
    return found


def _work(
    config: PrepareConfig,
    geometry: jobs.ArrayLayout,
    train_size: int,
    formats: tuple[str, ...],
    before: Manifest | None,
    any_options: bool,
) -> jobs.PrepareSpec:
    """What is still to be made of each image; with `any_options`, a format that is there will do as it is."""
    mode = config.beton_mode if config.beton_mode != "auto" else "jpg" if geometry.resized else "raw"
    side = (config.beton_side or round(_BETON_ROOM * train_size)) if geometry.resized else 0
    storage = beton.Storage(mode, max(0, side))
    everything = jobs.PrepareSpec(geometry, tuple(name for name in NAMES if name in formats), storage)
    there = before.formats if before is not None else {}
    wanted = {name: there.get(name) if any_options else _options_of(everything, name) for name in everything.formats}
    missing = tuple(name for name, options in wanted.items() if name not in there or there[name] != options)
    return dataclasses.replace(everything, formats=missing)


def _geometry(config: PrepareConfig, source: Source) -> tuple[jobs.ArrayLayout, int, str]:
    """How the array is laid out, the size that the network will see, and why."""
    longest = int(source.sizes.max())
    train_size, reason = recipes.train_size(source.name, longest)
    if config.image_size:
        train_size, reason = config.image_size, "--image-size"
    resized = longest > _KEEP_SIZE or train_size != longest
    side = round(_ROOM * train_size) if resized else longest
    return jobs.ArrayLayout(side, resized, ahead.channels(source)), train_size, reason


def _fingerprint(config: PrepareConfig, source: Source, geometry: jobs.ArrayLayout, train_size: int) -> str:
    """Hash of all that shapes the bytes: the table, the files' sizes, the options, the format.

    Not of the files' content, which would cost as much as preparing.
    """
    head = (manifest.FORMAT_VERSION, source.name, source.version, source.task, source.class_names)
    options = (geometry.side, geometry.resized, train_size, config.validation_fraction, config.test_fraction)
    rows = zip(source.files, source.splits.tolist(), source.labels.tolist(), source.bytes.tolist(), strict=True)
    state = xxhash.xxh3_128(json.dumps([head, options]).encode())
    state.update("\n".join(map(str, rows)).encode())
    return state.hexdigest()


def _target(config: PrepareConfig, source: Source, train_size: int, need: int, console: Console) -> Path:
    """Where the prepared dataset lies: below --out, else below .data, or in the cloud on the best disk."""
    name = f"{source.name}-{train_size}px".replace("/", "-")
    if config.task:
        name += f"-{config.task}"
    if config.validation_fraction != PrepareConfig.validation_fraction:
        name += f"-validation{config.validation_fraction:g}"
    if config.test_fraction != PrepareConfig.test_fraction:
        name += f"-test{config.test_fraction:g}"
    if config.out or not in_cloud():
        return Path(config.out or ".data/prepared") / name
    folder, reason = place.choose(place.candidates(), name, need)
    console.print(f"Prepared datasets go to {folder}: {reason}.", highlight=False)
    return folder / name


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


def _prepared_before(target: Path, fingerprint: str) -> Manifest | None:
    """The manifest of what is prepared already, if it fits the dataset and the options."""
    try:
        found = manifest.read(target)
    except ValueError:
        return None
    return found if found.fingerprint == fingerprint else None


def _options_of(work: jobs.PrepareSpec, name: str) -> dict[str, Any]:
    """The options of one format, as the manifest keeps them."""
    return dataclasses.asdict(work.beton) if name == "beton" else {}


def _make(
    config: PrepareConfig,
    source: Source,
    work: jobs.PrepareSpec,
    train_size: int,
    fingerprint: str,
    target: Path,
    kept: Manifest | None,
    workers: pool.Workers,
    console: Console,
) -> Prepared:
    """Make the formats of `work`; those of `kept` stay as they are."""
    partial = target.with_name(target.name + ".partial")
    _claim(partial, f"{fingerprint} {work} {jobs.VERSION}")
    there = _room_taken([partial / name for name in ("parts", *work.formats)])
    _check_room(partial, _room_needed(source, work) - there)
    fractions = config.validation_fraction, config.test_fraction
    slots = ahead.slots_for(source, work, fractions, partial / "parts", workers)
    measured = ahead.measured(source, work.geometry)
    todo = _jobs(source, work, measured, slots, partial / "parts")
    _run(todo, source.bytes, workers)
    found = jobs.joined([jobs.load(job.stem) for job in todo])
    skipped = _bad_images(source, found, config.on_bad_image)
    good = np.flatnonzero(found.reasons == "")
    channels = 1 if found.grey[good].all() else 3
    if channels != work.geometry.channels and "array" in work.formats:
        console.print(f"Note: not all images are {'grey' if channels == 3 else 'coloured'}: the array is begun anew.")
        work = dataclasses.replace(work, geometry=dataclasses.replace(work.geometry, channels=channels))
        return _make(config, source, work, train_size, fingerprint, target, kept, workers, console)
    split_of, origin = splits.cut_missing(source.splits[good], source.labels[good], found.hashes[good], *fractions)
    rows_of = {name: good[split_of == name] for name in origin}
    train = rows_of["train"]
    mean, std = _statistics(found, train[measured[train]], channels, work.geometry.side)
    names = _write_tables(partial, source, found, rows_of)
    parts = JobOutputs([job.stem for job in todo], jobs.SIZE, found, source.paths, slots)
    names += _write_formats(partial, parts, rows_of, source.labels, work, channels)
    files = _read_back(partial, parts, names, rows_of, work, channels)
    formats = {name: _options_of(work, name) for name in work.formats}
    if kept is not None:
        files |= _taken_over(target, partial, kept, work.formats)
        formats = kept.formats | formats
    content = Manifest(
        dataset=source.name,
        version=source.version,
        task=source.task,
        root=str(source.root),
        formats={name: formats[name] for name in sorted(formats)},
        class_names=source.class_names,
        splits={
            name: SplitInfo(
                count=len(rows_of[name]),
                origin=text,
                per_class=np.bincount(source.labels[rows_of[name]], minlength=len(source.class_names)).tolist(),
            )
            for name, text in origin.items()
        },
        channels=channels,
        image_size=work.geometry.side,
        train_size=train_size,
        resized=work.geometry.resized,
        layout="WHC" if work.geometry.resized else "HWC",
        mean=mean,
        std=std,
        files={name: files[name] for name in sorted(files)},
        skipped=skipped,
        unlabelled=source.unlabelled,
        duplicates=_duplicates(np.array(source.files)[good], found.hashes[good], split_of),
        options={
            "image_size": config.image_size,
            "validation_fraction": config.validation_fraction,
            "test_fraction": config.test_fraction,
        },
        fingerprint=fingerprint,
    )
    content.write(partial)
    _publish(partial, target)
    return Prepared(target, content)


def _jobs(
    source: Source,
    work: jobs.PrepareSpec,
    measured: npt.NDArray[np.bool_],
    slots: dict[str, PreallocatedRegions],
    folder: Path,
) -> list[jobs.Job]:
    some = [slice(start, start + jobs.SIZE) for start in range(0, len(source.files), jobs.SIZE)]
    return [
        jobs.Job(
            source.paths[rows],
            source.labels[rows],
            work,
            folder / f"{number:06d}",
            measured[rows],
            {name: slot.of(rows) for name, slot in slots.items()},
        )
        for number, rows in enumerate(some)
    ]


def _run(everything: list[jobs.Job], sizes: Int64, workers: pool.Workers) -> None:
    """Run the jobs whose parts are not there yet, the largest first: so all processes are busy until the end."""
    heaviest = np.argsort(-np.add.reduceat(sizes, np.arange(0, len(sizes), jobs.SIZE)), kind="stable")
    todo = [everything[number] for number in heaviest if not jobs.is_whole(everything[number].stem)]
    workers.run("decoding", jobs.run_job, todo, done=sum(map(len, everything)) - sum(map(len, todo)))


def _write_tables(partial: Path, source: Source, found: jobs.JobResult, rows_of: dict[str, Int64]) -> list[str]:
    for name, rows in rows_of.items():
        names = [source.files[row] for row in rows.tolist()]
        table.save_table(partial, name, Table(source.labels[rows], found.sizes[rows], names))
    return [path for name in rows_of for path in table.paths(name)]


def _write_formats(
    partial: Path, parts: JobOutputs, rows_of: dict[str, Int64], labels: Int64, work: jobs.PrepareSpec, channels: int
) -> list[str]:
    """Write every split in every format; returns the paths written."""
    names = []
    for name in work.formats:
        for split, rows in rows_of.items():
            side = work.geometry.side
            names += FORMATS[name].write_split(partial, split, parts, rows, labels[rows], side, channels)
    return names


def _read_back(
    partial: Path, parts: JobOutputs, names: list[str], rows_of: dict[str, Int64], work: jobs.PrepareSpec, channels: int
) -> dict[str, FileInfo]:
    """Size and checksum of every file written, of which each image is compared with what the jobs made."""
    calls: dict[str, Callable[[], FileInfo]] = {}
    for name in work.formats:
        for split, rows in rows_of.items():
            for extents in FORMATS[name].extents(partial, split, len(rows), work.geometry.side, channels):
                calls[extents.path] = functools.partial(read_back, partial, name, extents, rows, parts)
    for path in names:
        calls.setdefault(path, functools.partial(manifest.file_info, partial / path))
    return dict(zip(calls, in_threads(operator.call, calls.values()), strict=True))


def _statistics(found: jobs.JobResult, rows: Int64, channels: int, side: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation per channel of 0..1 of these images as the array has them, from integer sums."""
    sums = np.where(found.grey[:, None], found.sums[:, :1], found.sums)[rows, :channels].sum(0)
    squares = np.where(found.grey[:, None], found.squares[:, :1], found.squares)[rows, :channels].sum(0)
    count = len(rows) * side * side
    mean = sums / count
    return (mean / 255).tolist(), (np.sqrt(squares / count - mean**2) / 255).tolist()


def _taken_over(target: Path, partial: Path, kept: Manifest, made: tuple[str, ...]) -> dict[str, FileInfo]:
    """Files of formats prepared before: the same files under a second name, not copied."""
    anew = ("table", *made)
    files = {name: info for name, info in kept.files.items() if name.partition("/")[0] not in anew}
    for name in files:
        (partial / name).parent.mkdir(exist_ok=True)
        (partial / name).unlink(missing_ok=True)
        os.link(target / name, partial / name)
    return files


def _room_needed(source: Source, work: jobs.PrepareSpec) -> int:
    """Bytes, about: each format once in the parts and once in the shards."""
    images, side = len(source.files), work.geometry.side
    original = int(source.bytes.sum())
    raw = images * side**2 * 3
    need = {"array": raw, "beton": raw if work.beton.mode == "raw" else 2 * original, "tar": original + 2048 * images}
    return 2 * sum(need[name] for name in work.formats)


def _room_taken(folders: list[Path]) -> int:
    """Bytes on the disk of what is below some folders; files with two names count once."""
    found = (path.stat() for folder in folders for path in folder.rglob("*"))
    return sum({stat.st_ino: 512 * stat.st_blocks for stat in found}.values())


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


def _bad_images(source: Source, found: jobs.JobResult, policy: str) -> list[dict[str, str]]:
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
