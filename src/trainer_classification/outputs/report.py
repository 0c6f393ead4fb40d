"""Write `report.html`: one self-contained page that explains a run.

It shows no image of the dataset.
"""

from __future__ import annotations

import base64
import importlib
import io
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer_classification.arrays import Int64
from trainer_classification.data.manifest import Manifest
from trainer_classification.files import write_atomically
from trainer_classification.metrics.classification import measure_classes, wilson_interval
from trainer_classification.metrics.confusion import Confusion, ConfusionPairs, list_mistakes
from trainer_classification.names import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MAX_PAIRS = 10  # confused pairs on the page
_MAX_NAMED_CLASSES = 30  # with more classes the confusion matrix has no names
_LONGEST_LABEL = 30  # characters of a class name beside the confusion matrix
_SPLIT_COLORS = {"train": "#2563eb", "validation": "#d97706"}


@dataclass(frozen=True)
class ClassRow:
    """Results of a class on test.

    Attributes:
        name: of the class.
        train: number of training images.
        test: number of test images.
        accuracy: fraction of the test images that are classified correctly.
        low: lower end of the accuracy's 95 % interval.
        high: upper end of it.
    """

    name: str
    train: int
    test: int
    accuracy: float
    low: float
    high: float


def class_rows(manifest: Manifest, confusion: Confusion) -> list[ClassRow]:
    """Return the classes that have test images, the worst first.

    Args:
        manifest: of the dataset.
        confusion: int64 [K, K], rows are the true classes.
    """
    train_counts = manifest.splits["train"].per_class
    classes = measure_classes(confusion)
    rows = []
    for index, name in enumerate(manifest.class_names):
        count = int(classes.support[index])
        right = int(classes.correct[index])
        if count > 0:
            low, high = wilson_interval(right, count)
            rows.append(
                ClassRow(one_line(name), train_counts[index], count, right / count, low, high)
            )

    return sorted(rows, key=lambda row: (row.accuracy, -row.test))


def confused_pairs(manifest: Manifest, confusion: Confusion) -> list[tuple[str, str, int]]:
    """Return (true class, predicted class, count), the most frequent mistakes first.

    Args:
        manifest: of the dataset.
        confusion: [K, K], rows are the true classes.
    """
    names = manifest.class_names
    return [
        (one_line(names[true]), one_line(names[predicted]), count)
        for true, predicted, count in list_mistakes(confusion, _MAX_PAIRS)
    ]


def load_matplotlib() -> None:
    """Start to import what draws the pictures, in a thread beside other work."""

    def load() -> None:
        with suppress(ImportError):  # `write_report` says so
            importlib.import_module("matplotlib.backends.backend_agg")

    Thread(target=load, daemon=True).start()


def write_report(
    folder: Path,
    manifest: Manifest,
    configuration: dict[str, Any],
    history: list[dict[str, Any]],
    summary: dict[str, Any],
    confusion: Confusion | None,
) -> Path:
    """Write report.html, curves.png and, if there was a test, confusion.png.

    Args:
        folder: where to write them.
        manifest: of the dataset.
        configuration: options and recipe.
        history: one row for each epoch, as in metrics.jsonl.
        summary: as in summary.json.
        confusion: [K, K], rows are the true classes; None without a test split.
            One of pairs is too large for a picture.

    Returns:
        Path of report.html.
    """
    from jinja2 import Environment

    pictures = {"curves": _save_picture(_plot_curves(history), folder / "curves.png")}
    classes: list[ClassRow] = []
    pairs: list[tuple[str, str, int]] = []
    if confusion is not None and not isinstance(confusion, ConfusionPairs):
        figure = _plot_confusion(manifest, confusion)
        pictures["confusion"] = _save_picture(figure, folder / "confusion.png")
    if confusion is not None:
        classes = class_rows(manifest, confusion)
        pairs = confused_pairs(manifest, confusion)

    environment = Environment(autoescape=True)
    environment.filters["percent"] = _format_percent
    page = environment.from_string(_PAGE).render(
        manifest=manifest,
        configuration=configuration,
        summary=summary,
        pictures=pictures,
        classes=classes,
        pairs=pairs,
    )
    return write_atomically(folder / "report.html", page)


def _format_percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.2%}"


def _save_picture(figure: Figure, path: Path) -> str:
    """Save a figure as PNG, and return the file in base64 for the page."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110, bbox_inches="tight")
    path.write_bytes(file.getvalue())
    return base64.b64encode(file.getvalue()).decode()


def _plot_curves(history: list[dict[str, Any]]) -> Figure:
    """Plot loss and accuracy of the splits by epoch."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.2))
    epochs = [row["epoch"] for row in history]
    for axes, kind in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for split, color in _SPLIT_COLORS.items():
            name = f"{kind}_{split}"
            if name in history[0]:
                values = [row[name] for row in history]
                axes.plot(epochs, values, marker=".", color=color, label=split)

        axes.set(title=kind, xlabel="epoch")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)

    return figure


def _plot_confusion(manifest: Manifest, confusion: Int64) -> Figure:
    """Plot the confusion matrix, each row as fractions of the true class."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 6))
    axes = figure.subplots()
    shares = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    figure.colorbar(image, shrink=0.7, label="share of the true class")
    axes.set(title="confusion on test", xlabel="predicted class", ylabel="true class")

    count = len(confusion)
    if count <= _MAX_NAMED_CLASSES:
        names = [one_line(name, _LONGEST_LABEL) for name in manifest.class_names]
        axes.set_xticks(range(count), names, rotation=90, fontsize=8, parse_math=False)
        axes.set_yticks(range(count), names, fontsize=8, parse_math=False)
    return figure


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{{ manifest.dataset }}: training report</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1f2937 }
h1 { margin-bottom: 0 } h2 { margin-top: 2rem; border-bottom: 1px solid #e5e7eb }
table { border-collapse: collapse; font-variant-numeric: tabular-nums } img { max-width: 100% }
td, th { padding: .15rem .8rem .15rem 0; text-align: left; vertical-align: top } td.n, th.n { text-align: right }
.figures { display: flex; gap: 2rem; flex-wrap: wrap; margin: 1rem 0 } .figures b { display: block; font-size: 1.7rem }
.scroll { max-height: 24rem; overflow: auto }
</style></head><body>
<h1>{{ manifest.dataset }}</h1>
<p>{{ configuration.recipe_model }}, {{ configuration.recipe_image_size }} px, {{ summary.epochs }} epochs, seed
{{ summary.seed }}, {{ summary.device }}, {{ summary.precision }}</p>
<div class="figures">
<div><b>{{ summary.accuracy_test | percent }}</b>accuracy on test</div>
<div><b>{{ summary.balanced_accuracy_test | percent }}</b>mean of the classes</div>
<div><b>{{ summary.accuracy_validation | percent }}</b>on validation (best epoch {{ summary.best_epoch }})</div>
<div><b>{{ "%.1f" | format(summary.seconds_training) }} s</b>of training</div>
<div><b>{{ "{:,.0f}".format(summary.images_per_second) }}</b>images per second</div>
<div><b>{{ summary.data_wait_fraction | percent }}</b>waiting for data</div>
</div>
<h2>Curves</h2><img alt="loss and accuracy by epoch" src="data:image/png;base64,{{ pictures.curves }}">
{% if classes %}
<h2>Classes, the worst first</h2><div class="scroll"><table>
<tr><th>class</th><th class="n">train images</th><th class="n">test images</th><th class="n">accuracy</th>
<th>95 % interval</th></tr>
{% for row in classes %}<tr><td>{{ row.name }}</td><td class="n">{{ row.train }}</td><td class="n">{{ row.test }}</td>
<td class="n">{{ row.accuracy | percent }}</td><td>{{ row.low | percent }} to {{ row.high | percent }}</td></tr>
{% endfor %}</table></div>
<h2>Most frequent mistakes</h2><table><tr><th>true class</th><th>predicted class</th><th class="n">times</th></tr>
{% for row in pairs %}<tr><td>{{ row[0] }}</td><td>{{ row[1] }}</td><td class="n">{{ row[2] }}</td></tr>{% endfor %}
</table>{% if pictures.confusion %}<img alt="confusion matrix" src="data:image/png;base64,{{ pictures.confusion }}">
{% endif %}
{% else %}<p>The dataset has no test split.</p>{% endif %}
<h2>Data</h2><table><tr><th>split</th><th class="n">images</th><th>origin</th></tr>
{% for name, split in manifest.splits.items() %}<tr><td>{{ name }}</td><td class="n">{{ split.count }}</td>
<td>{{ split.origin }}</td></tr>{% endfor %}</table>
<p>{{ manifest.class_names | length }} classes; skipped {{ manifest.skipped | length }}, unlabeled
{{ manifest.unlabelled }}, images in several splits {{ manifest.duplicates | length }}; fingerprint
{{ manifest.fingerprint }}</p>
{% if manifest.skipped %}<ul>{% for entry in manifest.skipped[:50] %}<li>{{ entry.file }}: {{ entry.reason }}</li>
{% endfor %}</ul>{% endif %}
<h2>Configuration</h2><div class="scroll"><table>
{% for name, value in configuration.items() %}<tr><td>{{ name }}</td><td>{{ value }}</td></tr>{% endfor %}
</table></div></body></html>
"""
