"""Print the closing tables of prepare."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trainer_classification.console import log
from trainer_classification.data.image_suffixes import advise
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.source import Source
from trainer_classification.data.table import open_table
from trainer_classification.names import list_names, printable
from trainer_classification.preparation.findings import log_findings

_LISTED = 10


def print_summary(folder: Path, manifest: Manifest, source: Source, seconds: float) -> None:
    """Print what was prepared, what was left out, and how fast it went.

    Args:
        folder: of the prepared dataset.
        manifest: of it.
        source: that was read.
        seconds: that this took.
    """
    table = Table(
        title=escape(f"{manifest.dataset} {manifest.version}, {manifest.task}"),
        title_justify="left",
    )
    for column in (
        "split",
        "images",
        "classes",
        "origin",
        "original size in px (least, median, largest)",
    ):
        table.add_column(column, justify="right" if column in ("images", "classes") else "left")
    for name, split in manifest.splits.items():
        classes = f"{np.count_nonzero(split.per_class)} of {len(manifest.class_names)}"
        table.add_row(
            name, f"{split.count:,}", classes, split.origin, _sizes(folder, manifest, name)
        )
    console = Console(stderr=True)
    console.print(table)
    if source.left_out:
        console.print(_tabulate_left_out(source.left_out))

    for line in _lines(manifest):
        log(line)
    log_findings(manifest)
    megabytes = sum(info.bytes for info in manifest.files.values()) / 1e6
    log(
        f"{len(source.files) / seconds:,.0f} img/s, {seconds:.1f} s, {megabytes:,.1f} MB in {folder}"
    )


def _tabulate_left_out(left_out: Mapping[str, int]) -> Table:
    """Return a table of the files that are no images, the most frequent suffixes first.

    Args:
        left_out: suffix -> files; "" for no suffix.
    """
    table = Table(title="Left out (no images)", title_justify="left")
    table.add_column("suffix")
    table.add_column("files", justify="right")
    table.add_column("to use them")
    counts = sorted(left_out.items(), key=lambda item: (-item[1], item[0]))
    # Suffixes that can be converted are shown even if there are many others.
    shown = [(suffix, count) for suffix, count in counts if advise(suffix)]
    shown += [(suffix, count) for suffix, count in counts if not advise(suffix)][:_LISTED]
    for suffix, count in shown:
        table.add_row(escape(printable(suffix)) or "none", f"{count:,}", advise(suffix))
    if len(shown) < len(counts):
        rest = sum(left_out.values()) - sum(count for _, count in shown)
        table.add_row(f"{len(counts) - len(shown):,} others", f"{rest:,}", "")

    return table


def _sizes(folder: Path, manifest: Manifest, split: str) -> str:
    sizes = open_table(folder, manifest, split).sizes
    by_area = np.argsort(sizes.prod(1), kind="stable")
    shown = sizes[by_area[[0, len(by_area) // 2, -1]]].tolist()
    return ", ".join(dict.fromkeys(f"{width}x{height}" for width, height in shown))


def _lines(manifest: Manifest) -> list[str]:
    kind = "resized whole" if manifest.resized else "kept at their size"
    lines = [
        f"Classes: {list_names(manifest.class_names)}.",
        f"Stored {kind}: {manifest.image_size} px, {manifest.channels} channels, for training at "
        f"{manifest.train_size} px.",
        f"Skipped {len(manifest.skipped)}, unlabelled {manifest.unlabelled}, "
        f"duplicates across splits {len(manifest.duplicates)}.",
    ]
    lines += [
        f"  skipped {entry['file']} ({entry['split']}): {entry['reason']}"
        for entry in manifest.skipped[:_LISTED]
    ]
    lines += [
        f"  same image in {' and '.join(entry['splits'])}: {', '.join(entry['files'][:4])}"
        for entry in manifest.duplicates[:_LISTED]
    ]

    return lines
