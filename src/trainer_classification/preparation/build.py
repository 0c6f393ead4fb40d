"""Build the shards of a dataset, the part of prepare that takes time.

Jobs write into `<target>.partial`, in as many processes as there are CPUs. Each
image is decoded once for all formats. Images go to preallocated regions of the
future shards, or to part files from which the shards are then assembled. The
shards are read back and checked, and the folder is renamed: a folder with the
target's name is always complete, but for shards that workers of a cluster have
assembled in object storage.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from trainer_classification.arrays import Bool, Int8, Int64
from trainer_classification.config import PrepareConfig
from trainer_classification.console import log
from trainer_classification.data import beton, manifest, table
from trainer_classification.data.formats import GRAY_SHIFT, ArrayLayout, SplitShards
from trainer_classification.data.in_use import check_unused
from trainer_classification.data.manifest import FileInfo, Manifest, SplitInfo
from trainer_classification.data.source import Source
from trainer_classification.data.split_names import ALL_SPLITS, NUMBER_OF, SPLITS
from trainer_classification.data.table import Table
from trainer_classification.environment import release_freed_memory
from trainer_classification.preparation import job, job_result, partial, splits, statistics
from trainer_classification.preparation.assemble import FormatOutputs, map_in_threads, read_back
from trainer_classification.preparation.format import PrepareSpec
from trainer_classification.preparation.formats import FORMATS
from trainer_classification.preparation.inspect import DatasetInfo
from trainer_classification.preparation.job_result import JobResult
from trainer_classification.preparation.kept_images import KeptImages
from trainer_classification.preparation.mirrored_classes import (
    choose_compared,
    find_mirrored_classes,
)
from trainer_classification.preparation.plan_regions import (
    RegionPlan,
    names_with_regions,
    plan_regions,
)
from trainer_classification.preparation.preallocated import PreallocatedRegions
from trainer_classification.preparation.problems import (
    find_disagreements,
    fit_gray_shift,
    group_equal_files,
    list_bad_images,
    note_contents,
    note_frames,
    note_peaks,
)
from trainer_classification.preparation.remote_assembly import (
    ShardFacts,
    ShardJob,
    assemble_all,
    cut_job,
)
from trainer_classification.preparation.remote_target import (
    RemoteJob,
    RemoteParts,
    run_remote_job,
)
from trainer_classification.preparation.reuse import (
    KnownImages,
    find_known,
    hash_times,
    know_nothing,
    note_images,
    read_notes,
)
from trainer_classification.preparation.workers import Workers
from trainer_classification.storage import ObjectStore

_BYTES_PER_IMAGE = 500  # of tables, and of what jobs note


@dataclass(frozen=True)
class Build:
    """Everything that shapes one run of prepare.

    Attributes:
        info: the dataset.
        config: what the user asked for.
        spec: what is made of each image.
        before: manifest of the formats to keep; None if there are none.
        workers: the processes.
        store: where the dataset will be in object storage; None: it stays in its
            folder.
    """

    info: DatasetInfo
    config: PrepareConfig
    spec: PrepareSpec
    before: Manifest | None
    workers: Workers
    store: ObjectStore | None = None

    @cached_property
    def parts(self) -> RemoteParts | None:
        """What the workers of a cluster write, which see no folder of this machine; None: they see it, or are here."""
        if self.store is None or self.config.executor == "local":
            return None
        return RemoteParts.of_build(self.store, self.purpose, self.folder / "parts")

    @property
    def folder(self) -> Path:
        """The working folder, absolute, as processes elsewhere need it."""
        return partial.partial_folder(self.info.folder).absolute()

    @cached_property
    def starts(self) -> Int64:
        """The first row of each job."""
        return job.divide(self.pixels)

    @property
    def pixels(self) -> Int64:
        """Pixels of each image, by the table or its header: int64 [n]."""
        return self.info.source.sizes.prod(axis=1)

    @property
    def purpose(self) -> dict[str, str]:
        """What the working folder is for: everything that shapes its bytes, and the dataset they are of."""
        source = self.info.source
        versions = f"{job.VERSION}.{job_result.VERSION}"
        return {
            "work": f"{self.info.fingerprint} {self.spec} {versions} {_hash(self.starts)} {hash_times(source)}",
            "dataset": source.name,
            "task": source.task,
            "root": str(source.root),
        }

    @property
    def replaces(self) -> bool:
        """Whether files of the prepared dataset are replaced; else formats are added to it."""
        return self.before is None or any(name in self.before.formats for name in self.spec.formats)

    @property
    def fractions(self) -> tuple[float, float]:
        """Fractions of validation and of test, where they are cut."""
        return self.config.validation_fraction, self.config.test_fraction


def _hash(values: Int64) -> str:
    return xxhash.xxh3_64_hexdigest(values.tobytes())


@dataclass(frozen=True)
class _Decoded:
    """What the jobs of a build have done.

    Attributes:
        stems: of the part files.
        result: of all jobs, one row per image of the source.
        regions: of the images, by the name of the format.
        measured: bool [n], the images that the statistics are taken of.
        compared: bool [n], the images that `result` has thumbnails of.
    """

    stems: list[Path]
    result: JobResult
    regions: dict[str, PreallocatedRegions]
    measured: npt.NDArray[np.bool_]
    compared: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Splits:
    """The splits of the good images.

    Attributes:
        origin: split -> where it comes from, in order.
        rows: split -> int64, rows of the source.
        split_of: int8 [n], of `ALL_SPLITS`: split of each image; -1: it is bad.
    """

    origin: dict[str, str]
    rows: dict[str, Int64]
    split_of: Int8


def build_dataset(build: Build) -> tuple[Manifest, dict[str, ShardFacts]]:
    """Make the formats of a build, and publish them beside those that are kept.

    Returns:
        Its manifest, and the shards that workers have assembled, by their paths: the
        folder lacks these.

    Raises:
        ValueError: too many images are bad, there is no room, or a run reads what
            would be replaced.
        OSError: the disk is full, or what was written is not what is read back.
    """
    if build.replaces:
        check_unused(build.info.folder)
    decoded = _decode(build)
    skipped = list_bad_images(build.info.source, decoded.result, build.config.on_bad_image)

    is_good = decoded.result.reasons.equals("")
    channels = 1 if decoded.result.gray[is_good].all() else 3
    layout = dataclasses.replace(build.spec.layout, channels=channels)
    if layout != build.spec.layout and any(
        FORMATS[name].has_array_channels for name in build.spec.formats
    ):
        log(f"Note: not all images are {'gray' if channels == 3 else 'colored'}: starting again.")
        return build_dataset(
            dataclasses.replace(build, spec=dataclasses.replace(build.spec, layout=layout))
        )

    gray_shift = fit_gray_shift(decoded.result)
    if gray_shift != build.spec.gray_shift:
        log(
            f"Note: all images are gray of 16 or 32 bits with values up to {decoded.result.peaks.max()}: starting "
            f"again, to show them by {8 + gray_shift} bits instead of 16."
        )
        return build_dataset(
            dataclasses.replace(build, spec=dataclasses.replace(build.spec, gray_shift=gray_shift))
        )

    for note in (
        *note_contents(build.info.source, decoded.result),
        *note_frames(build.info.source, decoded.result),
        *note_peaks(build.info.source, decoded.result),
    ):
        log(f"Note: {note}")

    parts = _cut_splits(build, decoded)
    files, elsewhere = _write_files(build, decoded, parts, layout)
    files |= {name: facts.info for name, facts in elsewhere.items()}
    formats = build.spec.formats
    if build.before is not None:
        files |= partial.keep_formats(build.info.folder, build.folder, build.before, formats)
        formats = build.before.formats | formats

    content = _describe(build, decoded, parts, layout)
    content = dataclasses.replace(
        content,
        formats={name: formats[name] for name in sorted(formats)},
        files={name: files[name] for name in sorted(files)},
        skipped=skipped,
    )
    content.write(build.folder)
    if build.replaces:
        check_unused(build.info.folder)
    rows = np.concatenate([parts.rows[name] for name in parts.origin])
    before = None if build.before is None else read_notes(build.info.folder)
    partial.publish(build.folder, build.info.folder)
    note_images(build.info.folder, build.info.source, rows, decoded.result, before)

    return content, elsewhere


def _decode(build: Build) -> _Decoded:
    """Run the jobs that are not done yet, and return the results of all.

    Raises:
        ValueError: there is no room.
    """
    source = build.info.source
    folder = build.folder

    needed = needed_bytes(source, build.spec, build.parts)
    used = partial.used_bytes(folder / name for name in ("parts", *build.spec.formats))
    partial.check_room(folder.parent, needed - used)
    partial.claim(folder, build.info.folder, build.purpose)

    measured = statistics.choose_measured(source, build.spec.layout)
    compared = choose_compared(source, measured)
    with _find_known(build, measured) as known:
        plan = _plan_regions(build, known)
        jobs = _make_jobs(build, plan, known.kept, measured, compared)
        build.workers.note_memory(int(build.pixels.max()))
        release_freed_memory()  # of reading the table, for the workers
        _run_all(build, jobs)
    stems = [one.stem for one in jobs]
    regions = plan.regions
    del jobs, plan  # which hold columns of all images
    release_freed_memory()
    result = job_result.collect(stems, len(source.files))

    return _Decoded(stems, result, regions, measured, compared)


def _plan_regions(build: Build, known: KnownImages) -> RegionPlan:
    if build.parts is not None:
        return RegionPlan(None, {})
    folder = build.folder / "parts"
    return plan_regions(
        build.info.source, build.spec, build.fractions, known.hashes, folder, build.workers
    )


def _find_known(build: Build, measured: Bool) -> AbstractContextManager[KnownImages]:
    """Find the images that need no decoding; with `--force`, or where workers see no older folder, all do."""
    source = build.info.source
    if build.config.force or build.parts is not None:
        return nullcontext(know_nothing(source))
    return find_known(build.info.folder.parent, source, build.spec, measured, build.workers)


def needed_bytes(source: Source, spec: PrepareSpec, parts: RemoteParts | None = None) -> int:
    """Return the bytes on the disk that a build takes at most, about.

    Args:
        source: with all sizes.
        spec: what is made of the images.
        parts: as `Build.parts`.
    """
    # Images without a preallocated region lie once in the parts and once in the shards.
    once = names_with_regions(spec) if parts is None else []
    here = [name for name in spec.formats if parts is None or not parts.assembles(name)]
    images = sum(FORMATS[name].room(source, spec) * (1 if name in once else 2) for name in here)
    # A beton's head has a page of its own, which regions allocate whole, in each split.
    heads = len(SPLITS) * beton.SMALL_PAGE if "beton" in once else 0
    return images + heads + _BYTES_PER_IMAGE * len(source.files)


def _make_jobs(
    build: Build, plan: RegionPlan, kept: KeptImages | None, measured: Bool, compared: Bool
) -> list[job.Job]:
    source = build.info.source
    pixels = build.pixels
    jobs = []
    ends = [*build.starts[1:].tolist(), len(source.files)]
    for number, (start, end) in enumerate(zip(build.starts.tolist(), ends, strict=True)):
        rows = slice(start, end)
        jobs.append(
            job.Job(
                files=source.paths[rows],
                labels=source.labels[rows],
                pixels=pixels[rows],
                spec=build.spec,
                stem=build.folder / "parts" / f"{number:06d}",
                measured=measured[rows],
                compared=compared[rows],
                samples=None if plan.samples is None else plan.samples[rows],
                regions={name: regions.select(rows) for name, regions in plan.regions.items()},
                kept=None if kept is None else kept.select(rows),
            )
        )

    return jobs


def _run_all(build: Build, jobs: list[job.Job]) -> None:
    """Run the jobs; an image that ends the process which decodes it counts as bad, if bad images are accepted.

    Raises:
        ValueError: a process was killed, and bad images are not accepted.
    """
    deadly: set[str] = set()
    # Those of a run before are not to blame yet: it may have been killed as a whole. But this process stays away from
    # them.
    isolated = bool(job.find_deadly(jobs))
    while True:
        was_isolated = isolated
        try:
            pending = [dataclasses.replace(one, deadly=frozenset(deadly)) for one in jobs]
            _run(build, pending, isolated)
            return
        except BrokenProcessPool:
            isolated = True
            build.workers.restart()  # first: the other processes take back what they have noted
            found = set(job.find_deadly(jobs)) - deadly
            if not found and build.parts is not None and not was_isolated:
                log(
                    "Note: a worker process was killed. To find the image, each further job has a process of its own."
                )
                continue
            if not found:
                raise
            if build.config.on_bad_image == "fail":
                raise ValueError(
                    f"A worker process was killed while it decoded {', '.join(sorted(found))}. Finished work is kept: "
                    f"repair or remove the file, or leave it out with --on-bad-image skip, and run the command again."
                ) from None
            log(
                f"Note: a worker process was killed while it decoded {', '.join(sorted(found))}, which is left out."
            )
            deadly |= found


def _run(build: Build, jobs: list[job.Job], isolated: bool) -> None:
    """Run the jobs that are not done, the largest first, so that all processes are busy until the end.

    Args:
        build: that they belong to.
        jobs: of the build.
        isolated: as for `Workers.run`; elsewhere, each job has a process of its own.
    """
    if build.parts is not None:
        build.parts.fetch_finished(jobs)
    pixels = np.add.reduceat(build.pixels, build.starts)
    largest_first = np.argsort(-pixels, kind="stable").tolist()
    pending = [
        jobs[number] for number in largest_first if not job_result.is_done(jobs[number].stem)
    ]
    done = sum(map(len, jobs)) - sum(map(len, pending))
    if build.parts is None:
        build.workers.run("decoding", job.run_job, pending, done, isolated)
        return
    with build.parts.fetching() as fetch:
        remote = [RemoteJob(one, build.parts.store.url, isolated) for one in pending]
        ended = build.workers.run("decoding", run_remote_job, remote, done, on_done=fetch)
    if any(ended):
        raise BrokenProcessPool("an image ended the process that decoded it")


def _cut_splits(build: Build, decoded: _Decoded) -> _Splits:
    source = build.info.source
    good = decoded.result.good_rows()
    cut, origin = splits.cut_missing(
        _select(source.split_numbers, good),
        _select(source.labels, good),
        _select(decoded.result.hashes, good),
        *build.fractions,
    )
    split_of = np.full(len(source.files), -1, np.int8)
    split_of[good] = cut
    rows = {name: np.flatnonzero(split_of == NUMBER_OF[name]) for name in origin}
    return _Splits(origin, rows, split_of)


def _select(values: npt.NDArray[Any], rows: Int64) -> npt.NDArray[Any]:
    """Return some of the rows, without a copy where that is all of them; `rows` ascend."""
    return values if len(rows) == len(values) else values[rows]


def _write_files(
    build: Build, decoded: _Decoded, parts: _Splits, layout: ArrayLayout
) -> tuple[dict[str, FileInfo], dict[str, ShardFacts]]:
    """Write tables and shards of every split, and read them back.

    Returns:
        Size and checksum of each file, and the shards that workers have assembled.
    """
    source = build.info.source
    release_freed_memory()
    names: list[str] = []
    for split, rows in parts.rows.items():
        files = source.files.take(rows)
        labels = source.labels[rows].astype(np.int64)
        table.save_table(build.folder, split, Table(labels, decoded.result.sizes[rows], files))
        names += table.paths(split)

    # The checks run together at the end, on all CPUs. Files without images in
    # known places are only hashed.
    checks: dict[str, Callable[[], FileInfo]] = {}
    elsewhere: list[ShardJob] = []
    for name in build.spec.formats:
        outputs = FormatOutputs(
            name=name,
            stems=decoded.stems,
            starts=build.starts,
            result=decoded.result.formats[name],
            originals=source.paths,
            regions=decoded.regions.get(name),
        )
        for split, rows in parts.rows.items():
            shards = SplitShards(build.folder, split, len(rows), layout)
            release_freed_memory()
            write_beside = FORMATS[name].write_beside
            if write_beside and build.parts is not None and build.parts.assembles(name):
                written, cut = write_beside(shards, outputs, rows, source.labels[rows])
                names += written
                elsewhere += (
                    cut_job(build.parts.store.url, one, outputs, rows, layout.image_bytes)
                    for one in cut
                )
                continue
            names += FORMATS[name].write(shards, outputs, rows, source.labels[rows])
            for extents in FORMATS[name].extents(shards):
                checks[extents.path] = functools.partial(
                    read_back, build.folder, extents, rows, outputs
                )
    for name in names:
        checks.setdefault(name, functools.partial(manifest.file_info, build.folder / name))

    release_freed_memory()
    infos = dict(zip(checks, map_in_threads(operator.call, checks.values()), strict=True))
    here = {name: _with_index(build.folder, name, info) for name, info in infos.items()}
    if build.parts is None or not elsewhere:
        return here, {}
    return here, assemble_all(elsewhere, build.parts.store, build.parts.folder, build.workers)


def _with_index(folder: Path, name: str, info: FileInfo) -> FileInfo:
    """Add the checksum of the index to a file that holds its own."""
    if not name.endswith(".beton"):
        return info
    return dataclasses.replace(info, index=beton.hash_index(folder / name))


def _describe(build: Build, decoded: _Decoded, parts: _Splits, layout: ArrayLayout) -> Manifest:
    """Return the manifest without formats, files and skipped images."""
    info = build.info
    source = info.source
    train = parts.rows["train"]
    measured = train[decoded.measured[train]]
    mean, std = statistics.mean_and_std(decoded.stems, build.starts, measured, layout)

    mirrored = _find_mirrored_classes(build, decoded, train)

    release_freed_memory()
    equal = group_equal_files(decoded.result.hashes, decoded.result.good_rows())

    return Manifest(
        dataset=source.name,
        version=source.version,
        task=source.task,
        root=str(source.root),
        formats={},
        class_names=source.class_names,
        splits=_split_infos(build, parts),
        channels=layout.channels,
        image_size=layout.side,
        train_size=info.train_size,
        resized=layout.resized,
        layout="WHC" if layout.resized else "HWC",
        mean=mean,
        std=std,
        files={},
        skipped=[],
        unlabelled=source.unlabelled,
        duplicates=find_disagreements("splits", equal, source.files, parts.split_of, ALL_SPLITS),
        conflicts=find_disagreements(
            "classes", equal, source.files, source.labels, source.class_names
        ),
        mirrored_classes=mirrored,
        options=_describe_options(build),
        fingerprint=info.fingerprint,
    )


def _find_mirrored_classes(build: Build, decoded: _Decoded, train: Int64) -> list[list[str]]:
    source = build.info.source
    compared = np.flatnonzero(decoded.compared)
    kept = np.isin(compared, train)
    return find_mirrored_classes(
        decoded.result.thumbnails[kept], source.labels[compared[kept]], source.class_names
    )


def _describe_options(build: Build) -> dict[str, object]:
    """Return what shaped the bytes; a gray shift only where it is not the usual one."""
    options: dict[str, object] = {
        "image_size": build.config.image_size,
        "validation_fraction": build.config.validation_fraction,
        "test_fraction": build.config.test_fraction,
    }
    if build.spec.gray_shift != GRAY_SHIFT:
        options["gray_shift"] = build.spec.gray_shift
    return options


def _split_infos(build: Build, parts: _Splits) -> dict[str, SplitInfo]:
    source = build.info.source
    infos = {}
    for name, origin in parts.origin.items():
        rows = parts.rows[name]
        labels = source.labels[rows]
        per_class = np.bincount(labels[labels >= 0], minlength=len(source.class_names))
        infos[name] = SplitInfo(len(rows), origin, per_class.tolist())
    return infos
