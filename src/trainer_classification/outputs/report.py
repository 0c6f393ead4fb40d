"""Write `report.html`: one self-contained page that explains a run to others.

The page needs no network, and its content security policy allows only the style
and the script that it brings. Whatever comes from a dataset is escaped text.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trainer_classification.data.manifest import Manifest
from trainer_classification.files import write_atomically
from trainer_classification.metrics.calibration import ReliabilityBins
from trainer_classification.metrics.classification import accuracy_interval, measure_classes
from trainer_classification.metrics.confusion import ConfusionPairs
from trainer_classification.names import one_line
from trainer_classification.outputs import report_tables, svg_charts
from trainer_classification.outputs.confusion_picture import draw_confusion
from trainer_classification.outputs.svg_charts import Line

_PARTS = Path(__file__).parent / "report_page"
_MAX_PICTURE_CLASSES = 1000  # with more, nobody can see a cell of the matrix
_MAX_NAMED_BARS = 30
_DATA_LIMITS = 0.1  # fraction of the training in which the device waits for data, from which it is worth a word


@dataclass(frozen=True)
class Neighbor:
    """A training image that the network sees as alike.

    Attributes:
        picture: data URI.
        label: its class.
    """

    picture: str
    label: str


@dataclass(frozen=True)
class ShownImage:
    """An image in the report.

    Attributes:
        picture: data URI.
        label: its class.
        predicted: the class that the model gives; "": not shown.
        confidence: of the model in it.
        note: a few words more.
        neighbors: the nearest training images.
    """

    picture: str
    label: str
    predicted: str = ""
    confidence: float = 0.0
    note: str = ""
    neighbors: tuple[Neighbor, ...] = ()


@dataclass(frozen=True)
class Gallery:
    """Images under a heading.

    Attributes:
        title: the heading.
        text: what they are, in a sentence or two.
        images: in the order they are shown.
    """

    title: str
    text: str
    images: tuple[ShownImage, ...]


@dataclass(frozen=True)
class ReportContent:
    """What a report is made of.

    Attributes:
        manifest: of the dataset.
        configuration: options and recipe.
        history: one row for each epoch, as in metrics.jsonl.
        summary: as in summary.json.
        confusion: of the test split; None without one.
        reliability: of the test images without and with the temperature; None
            where they were not measured.
        galleries: of images; empty where they are left out.
        label_errors: number of images whose label is likely wrong, which
            likely_wrong_labels.csv lists; None where it was not written.
        no_images: why there are no images, in a sentence; "" where there are.
    """

    manifest: Manifest
    configuration: dict[str, Any]
    history: list[dict[str, Any]]
    summary: dict[str, Any]
    confusion: ConfusionPairs | None = None
    reliability: tuple[ReliabilityBins, ReliabilityBins | None] | None = None
    galleries: tuple[Gallery, ...] = ()
    label_errors: int | None = None
    no_images: str = ""


def write_report(folder: Path, content: ReportContent) -> Path:
    """Write report.html, and return its path."""
    return write_atomically(folder / "report.html", render_report(content))


def render_report(content: ReportContent) -> str:
    """Return the page."""
    from jinja2 import Environment

    style = (_PARTS / "page.css").read_text(encoding="utf-8")
    script = (_PARTS / "page.js").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = _format_percent
    environment.filters["name"] = one_line
    template = environment.from_string((_PARTS / "page.html").read_text(encoding="utf-8"))

    return template.render(
        content=content,
        manifest=content.manifest,
        summary=content.summary,
        style=style,
        script=script,
        policy=_describe_policy(style, script),
        interval=None if content.confusion is None else accuracy_interval(content.confusion),
        curves=_draw_curves(content.history),
        reliability=svg_charts.draw_reliability(*content.reliability)
        if content.reliability
        else "",
        times=_split_time(content.summary),
        limit=_describe_limit(content.summary),
        balance=_describe_balance(content.manifest),
        **_describe_classes(content),
    )


def _describe_policy(style: str, script: str) -> str:
    """Return the content security policy: pictures of the page itself, this style and this script, nothing else."""
    return (
        f"default-src 'none'; img-src data:; style-src {_hash_source(style)}; script-src {_hash_source(script)}; "
        f"base-uri 'none'; form-action 'none'"
    )


def _hash_source(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


def _format_percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.2%}"


def _draw_curves(history: Sequence[dict[str, Any]]) -> list[str]:
    """Draw loss, accuracy and learning rate; of a single epoch there is nothing to draw."""
    if len(history) < 2:
        return []
    kinds = {"loss": svg_charts.format_number, "accuracy": svg_charts.format_percent}
    charts = []
    for kind, format_y in kinds.items():
        splits = ("train", "validation")
        lines = [Line(split, _points(history, f"{kind}_{split}")) for split in splits]
        charts.append(
            svg_charts.draw_lines(kind, [line for line in lines if line.points], format_y)
        )
    rate = Line("rate", _points(history, "learning_rate"))
    charts.append(svg_charts.draw_lines("learning rate", [rate], svg_charts.format_number))

    return [chart for chart in charts if chart]


def _points(history: Sequence[dict[str, Any]], name: str) -> list[tuple[float, float]]:
    return [(row["epoch"], row[name]) for row in history if row.get(name) is not None]


@dataclass(frozen=True)
class _TimePart:
    """A part of the run's time: CSS class, what it was spent on, seconds, and share of the whole."""

    kind: str
    name: str
    seconds: float
    share: float


def _split_time(summary: dict[str, Any]) -> dict[str, Any]:
    """Split the seconds of the command into parts, and draw them."""
    total = summary["seconds_total"] or 0.0
    training = summary["seconds_training"] or 0.0
    waiting = training * (summary["data_wait_fraction"] or 0.0)
    head = summary.get("seconds_head") or 0.0
    first_step = summary.get("seconds_in_first_step") or 0.0
    start = max(0.0, (summary["seconds_first_step"] or 0.0) - first_step)
    seconds = {
        ("start", "start and preparing"): start,
        ("network", "network" if not head else "features of the frozen network"): training
        - waiting
        - head,
        ("head", "fitting the head"): head,
        ("waiting", "waiting for data"): waiting,
        ("other", "validation, test and saving"): max(0.0, total - start - training),
    }
    whole = sum(seconds.values()) or 1.0
    parts = [
        _TimePart(kind, name, value, value / whole)
        for (kind, name), value in seconds.items()
        if value > 0
    ]

    return {
        "total": total,
        "parts": parts,
        "bar": svg_charts.draw_shares((part.kind, part.seconds) for part in parts),
    }


def _describe_limit(summary: dict[str, Any]) -> str:
    """Say what bounded the speed of the training."""
    waiting = summary["data_wait_fraction"]
    if waiting is None or not math.isfinite(waiting):
        return ""
    if waiting > _DATA_LIMITS:
        return (
            f"Loading limits: for {waiting:.0%} of the training the network had nothing to do but wait for images. "
            f"More CPU cores, --loader resident, or smaller prepared images would help."
        )
    return (
        f"The network limits: for {1 - waiting:.0%} of the training the device was busy with it. A faster device, a "
        f"smaller network or smaller images would help; faster loading would not."
    )


def _describe_balance(manifest: Manifest) -> dict[str, Any]:
    """Draw the training images of each class, and say how far apart the classes are."""
    counts = manifest.splits["train"].per_class
    names = [one_line(name, 20) for name in manifest.class_names]
    smallest = min(range(len(counts)), key=counts.__getitem__)
    largest = max(range(len(counts)), key=counts.__getitem__)
    few = len(counts) <= _MAX_NAMED_BARS

    return {
        "chart": svg_charts.draw_bars(names, counts) if few else svg_charts.draw_ranks(counts),
        "smallest": (manifest.class_names[smallest], counts[smallest]),
        "largest": (manifest.class_names[largest], counts[largest]),
        "median": sorted(counts)[len(counts) // 2],
        "ratio": counts[largest] / counts[smallest] if counts[smallest] else None,
    }


def _describe_classes(content: ReportContent) -> dict[str, Any]:
    """Return the tables about classes and the confusion matrix, or parts of it."""
    confusion = content.confusion
    if confusion is None:
        return {"rows": []}
    names = content.manifest.class_names
    train_counts = content.manifest.splits["train"].per_class
    picture = ""
    cells = ""
    if report_tables.MAX_MATRIX < len(confusion) <= _MAX_PICTURE_CLASSES:
        picture, block = draw_confusion(confusion)
        cells = _dump_for_page(report_tables.describe_cells(confusion, names, block))

    return {
        "rows": report_tables.class_rows(confusion, names, train_counts),
        "is_cut": np.count_nonzero(measure_classes(confusion).support) > report_tables.MAX_ROWS,
        "pairs": report_tables.confused_pairs(confusion, names),
        "matrix": report_tables.make_matrix(confusion, names),
        "picture": picture,
        "cells": cells,
    }


def _dump_for_page(value: Any) -> str:
    """Return JSON that may stand within a script element: nothing in it can end the element."""
    return json.dumps(value).replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
