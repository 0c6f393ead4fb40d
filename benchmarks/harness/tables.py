"""What was measured, as text for the terminal and Markdown for the results and the README."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]

RATE_COLUMNS: dict[str, Callable[[Row], str]] = {
    "img/s": lambda row: f"{row['images_per_second']:,.0f}",
    "95 % interval": lambda row: f"{row['low']:,.0f} to {row['high']:,.0f}",
}
LOADER_COLUMNS: dict[str, Callable[[Row], str]] = {
    "loader": lambda row: str(row["loader"]),
    **RATE_COLUMNS,
    "first batch": lambda row: f"{row['first_batch_seconds']:.2f} s",
    "first epoch": lambda row: f"{row['first_epoch_images_per_second']:,.0f}",
    "from disk": lambda row: f"{row['cold_images_per_second']:,.0f}" if row["cold_images_per_second"] else "",
    "CPU s per 1k": lambda row: f"{row['cpu_seconds_per_1k']:.3f}",
    "peak MB": lambda row: f"{row['peak_rss_mb']:,.0f}",
    "MB beyond shards": lambda row: f"{row['memory_beyond_shards_mb']:,.0f}",
}
LOADER_NOTE = (
    "img/s: median over the turns, all loaders in turns; first batch: after the imports, files in the page cache; "
    "first epoch: img/s, compilation included; from disk: img/s of an epoch of a newly opened loader, no file in the "
    "page cache; empty where some stay there, as another loader has them memory-mapped; peak MB: of the loader's "
    "processes, with what is memory-mapped; MB beyond shards: without that, and without what the imports took."
)

TARGETS_TITLE = "Against what the GPUs consume"
TARGETS_NOTE = (
    "Measured here, a core; projected linearly to the host's vCPUs where it says so, which is no measurement; the "
    "ratio to what the GPUs consume (benchmarks/targets.toml; * derived by its formula, no published row)."
)


def format_rows(rows: Iterable[Row], columns: Mapping[str, Callable[[Row], str]]) -> list[list[str]]:
    """A line of text for each row."""
    return [[column(row) for column in columns.values()] for row in rows]


def format_markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([f"| {' | '.join(header)} |", "|" + "---|" * len(header), *body])


def show(title: str, header: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    """Print a table; plain where rich is not installed."""
    try:
        from rich.console import Console
        from rich.table import Table
    except ModuleNotFoundError:  # a bare machine
        print(f"{title}\n{format_markdown(header, lines)}")
        return
    console = Console(width=None if sys.stdout.isatty() else 130)
    table = Table(title=title)
    for number, name in enumerate(header):
        table.add_column(name, justify="left" if number == 0 else "right")
    for line in lines:
        table.add_row(*line)
    console.print(table)


def about(row: Row) -> str:
    """One line on where the rows were measured."""
    what = f"{row['dataset']}, {row['images']:,} images, {row['image_size']} px, batch {row['batch_size']}"
    where = row["gpu"] or row["cpu"]
    return f"{what}; {where}, {row['threads']} threads; {row['date']}, commit {row['commit'] or 'unknown'}"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write results."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def format_loader_page(content: Mapping[str, Any]) -> str:
    """A page on one run of loader_bench."""
    parts = []
    for dataset in dict.fromkeys(row["dataset"] for row in content["rows"]):
        rows = [row for row in content["rows"] if row["dataset"] == dataset]
        parts += [f"## {about(rows[0])}", format_markdown(list(LOADER_COLUMNS), format_rows(rows, LOADER_COLUMNS)), LOADER_NOTE]
        parts += _section("Left out", content["left_out"].get(dataset, {}).items(), "{0[0]}: {0[1]}")
        parts += _section("Ladder", content["ladders"].get(dataset, []))
        if content["targets"].get(dataset):
            parts += [f"**{TARGETS_TITLE}**", format_markdown(*make_targets_table(content["targets"][dataset])), TARGETS_NOTE]
    return "\n\n".join(parts) + "\n"


def make_targets_table(found: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Header and lines: a loader each, a column for each host."""
    hosts = dict.fromkeys(row["host"] for row in found)
    needs = {row["host"]: f"needs {row['target']:,.0f}{' *' if row['derived'] else ''}" for row in found}
    lines: dict[str, list[str]] = {}
    for row in found:
        mark = "projected " if row["projected"] else ""
        line = lines.setdefault(row["loader"], [row["loader"], f"{row['per_core']:,.0f}"])
        line.append(f"{mark}{row['images_per_second']:,.0f}, {row['ratio']:.1f}x")
    return ["loader", "a core, here", *(f"{host}: {needs[host]}" for host in hosts)], list(lines.values())


def _section(title: str, lines: Iterable[Any], form: str = "{0}") -> list[str]:
    text = "\n".join("- " + form.format(line) for line in lines)
    return [f"**{title}**", text] if text else []


def replace_block(text: str, name: str, block: str) -> str:
    """Put a block of text between its markers, `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: the markers are not there.
    """
    pattern = re.compile(rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL)
    if not pattern.search(text):
        raise ValueError(f"There are no markers <!-- {name} --> and <!-- /{name} --> in the text.")
    return pattern.sub(lambda match: match[1] + block + "\n" + match[2], text)


_OURS, _THEIRS, _CEILINGS = "this package", "as their own docs show them", "ceilings"
_COLOURS = {_OURS: "#3b6ea5", _THEIRS: "#d9a441", _CEILINGS: "#999999"}


def _kind(loader: str) -> str:
    """Which of the colours a bar has; `torch` is the plain DataLoader that most start with."""
    if loader.startswith("ceiling"):
        return _CEILINGS
    return _OURS if loader.partition("-on-")[0] in ("resident", "ffcv", "dali") else _THEIRS


def save_chart(rows: Sequence[Row], lines: Mapping[str, float], path: Path) -> None:
    """Bars of images a second with their intervals on a logarithmic axis; lines are what the GPUs consume (PNG)."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    ordered = sorted(rows, key=lambda row: float(row["images_per_second"]))
    rates = [row["images_per_second"] for row in ordered]
    spread = [[row["images_per_second"] - row["low"] for row in ordered],
              [row["high"] - row["images_per_second"] for row in ordered]]  # fmt: skip
    kinds = [_kind(row["loader"]) for row in ordered]
    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.36 * len(ordered)), layout="constrained")
    colours = [_COLOURS[kind] for kind in kinds]
    axes.barh([row["loader"] for row in ordered], rates, xerr=spread, color=colours, ecolor="#222222", capsize=2)
    axes.set_xscale("log")
    axes.set_xlabel("images a second")
    axes.set_title(about(ordered[0]), fontsize=8)
    for number, (name, rate) in enumerate(sorted(lines.items(), key=lambda item: item[1])):
        axes.axvline(
            rate, color="#b03030", linestyle=("-", "--", ":")[number % 3], linewidth=1.2, label=f"{name}: {rate:,.0f}"
        )
    bars = [Patch(color=colour, label=kind) for kind, colour in _COLOURS.items() if kind in kinds]
    figure.legend(handles=bars, fontsize=7, loc="outside lower left", ncols=len(bars), frameon=False)
    if lines:
        axes.legend(fontsize=7, loc="lower right", title="consumed by", title_fontsize=7)
    figure.savefig(path, dpi=130)
    plt.close(figure)
