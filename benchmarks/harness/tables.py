"""Format results: text for the terminal, Markdown for the result pages and the README, and a chart."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

Row = Mapping[str, Any]
Columns = Mapping[str, Callable[[Row], str]]

TERMINAL_WIDTH = 100

RATE_COLUMNS: dict[str, Callable[[Row], str]] = {
    "img/s": lambda row: f"{row['images_per_second']:,.0f}",
    "95 % interval": lambda row: f"{row['low']:,.0f} to {row['high']:,.0f}",
}
LOADER_COLUMNS: dict[str, Callable[[Row], str]] = {
    "loader": lambda row: str(row["loader"]),
    **RATE_COLUMNS,
    "first batch": lambda row: f"{row['first_batch_seconds']:.2f} s",
    "first epoch": lambda row: f"{row['first_epoch_images_per_second']:,.0f}",
    "from disk": lambda row: (
        f"{row['cold_images_per_second']:,.0f}" if row["cold_images_per_second"] else ""
    ),
    "CPU s per 1k": lambda row: f"{row['cpu_seconds_per_1k']:.3f}",
    "peak MB": lambda row: f"{row['peak_rss_mb']:,.0f}",
    "MB beyond shards": lambda row: f"{row['memory_beyond_shards_mb']:,.0f}",
}
# The interval takes two narrow columns in a terminal.
TERMINAL_COLUMNS: dict[str, Callable[[Row], str]] = {
    "loader": LOADER_COLUMNS["loader"],
    "img/s": LOADER_COLUMNS["img/s"],
    "low": lambda row: f"{row['low']:,.0f}",
    "high": lambda row: f"{row['high']:,.0f}",
} | {
    name: column for name, column in LOADER_COLUMNS.items() if name not in ("loader", *RATE_COLUMNS)
}
LOADER_NOTE = (
    "img/s: median over the turns, in which all loaders alternate. First batch: seconds after the imports, files in "
    "the page cache. First epoch: img/s, compilation included. From disk: img/s of an epoch of a newly opened loader, "
    "no file in the page cache; empty where some files stay there, as another loader has them memory-mapped. Peak MB: "
    "memory of the loader's processes, memory-mapped files included. MB beyond shards: without those, and without "
    "what the imports took."
)

TARGETS_TITLE = "Compared with what the GPUs consume"
TARGETS_NOTE = (
    "The rate of a core is measured here. A projected rate is scaled linearly to the host's vCPUs and is no "
    "measurement. The ratio is to what the GPUs consume (benchmarks/targets.toml; * computed by its formula, not a "
    "published row)."
)

# Names that results before 2026-11-27 use.
_OLD_NAMES = {
    "ceiling-copy": "copy",
    "ceiling-decode": "decode-originals",
    "ceiling-decode-beton": "decode-beton",
    "ffcv-stock-raw": "ffcv-vendor-raw",
    "ffcv-stock-jpg": "ffcv-vendor-jpg",
    "ffcv-on-stock-raw": "ffcv-on-vendor-raw",
    "ffcv-on-stock-jpg": "ffcv-on-vendor-jpg",
    "dali-stock": "dali-vendor",
}


def read_loader_results(path: Path) -> dict[str, Any]:
    """Read the results of loader_bench, with the names of today in place of those of older runs."""
    content = json.loads(path.read_text())
    for row in [*content["rows"], *(row for rows in content["targets"].values() for row in rows)]:
        row["loader"] = _OLD_NAMES.get(row["loader"], row["loader"])
    content["left_out"] = {
        dataset: {_OLD_NAMES.get(name, name): reason for name, reason in reasons.items()}
        for dataset, reasons in content["left_out"].items()
    }
    if "ladders" in content:
        content["bottlenecks"] = content.pop("ladders")
    return dict(content)


def format_rows(rows: Iterable[Row], columns: Columns) -> list[list[str]]:
    """Format each row as one text per column."""
    return [[column(row) for column in columns.values()] for row in rows]


def format_markdown(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Format a Markdown table."""
    body = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([f"| {' | '.join(header)} |", "|" + "---|" * len(header), *body])


def format_table(rows: Sequence[Row], columns: Columns) -> str:
    """Format rows as a Markdown table."""
    return format_markdown(list(columns), format_rows(rows, columns))


def print_table(title: str, header: Sequence[str], lines: Sequence[Sequence[str]]) -> None:
    """Print a table of at most 100 columns, without its empty columns.

    Markdown where rich is not installed.
    """
    kept = [
        number
        for number in range(len(header))
        if number == 0 or any(line[number] for line in lines)
    ]
    names = [header[number] for number in kept]
    cells = [[line[number] for number in kept] for line in lines]
    try:
        from rich import box
        from rich.console import Console
        from rich.table import Table
    except ModuleNotFoundError:  # a bare machine
        print(f"{title}\n{format_markdown(names, cells)}")
        return

    width = min(Console().width, TERMINAL_WIDTH) if sys.stdout.isatty() else TERMINAL_WIDTH
    table = Table(title=title, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for number, name in enumerate(names):
        whole = [
            *name.split(),
            *(line[number] for line in cells),
        ]  # headers wrap at spaces, cells do not
        table.add_column(
            name, justify="left" if number == 0 else "right", width=max(map(len, whole))
        )
    for cell_line in cells:
        table.add_row(*cell_line)
    Console(width=width).print(table)


def describe_rows(row: Row) -> str:
    """Return one line that says what the rows measured, where and when."""
    what = f"{row['dataset']}, {row['images']:,} images, {row['image_size']} px, batch {row['batch_size']}"
    machine = row["gpu"] or row["cpu"]
    return f"{what}; {machine}, {row['threads']} threads; {row['date']}, commit {row['commit'] or 'unknown'}"


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write results, and make their folder where it is missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")


def format_loader_page(content: Mapping[str, Any]) -> str:
    """Format one run of loader_bench as a Markdown page."""
    parts = ["# Loaders"]
    for dataset in dict.fromkeys(row["dataset"] for row in content["rows"]):
        rows = [row for row in content["rows"] if row["dataset"] == dataset]
        parts += [f"## {describe_rows(rows[0])}", format_table(rows, LOADER_COLUMNS), LOADER_NOTE]
        reasons = content["left_out"].get(dataset, {})
        parts += _format_list("Left out", [f"{name}: {reason}" for name, reason in reasons.items()])
        parts += _format_list("Bottleneck", content["bottlenecks"].get(dataset, []))
        targets = content["targets"].get(dataset)
        if targets:
            parts += [
                f"**{TARGETS_TITLE}**",
                format_markdown(*make_targets_table(targets)),
                TARGETS_NOTE,
            ]

    return "\n\n".join(parts) + "\n"


def make_targets_table(found: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Return the header and the lines of a table with one loader per line and one host per column."""
    hosts = {}
    for row in found:
        projected = ", projected" if row["projected"] else ""
        hosts[row["host"]] = (
            f"{row['host']}{projected}: needs {row['target']:,.0f}{' *' if row['derived'] else ''}"
        )

    lines: dict[str, list[str]] = {}
    for row in found:
        line = lines.setdefault(row["loader"], [row["loader"], f"{row['per_core']:,.0f}"])
        line.append(f"{row['images_per_second']:,.0f}, {row['ratio']:.1f}x")
    return ["loader", "a core, here", *hosts.values()], list(lines.values())


def _format_list(title: str, lines: Sequence[str]) -> list[str]:
    """Return a title and a Markdown list, or nothing for an empty list."""
    return [f"**{title}**", "\n".join(f"- {line}" for line in lines)] if lines else []


def replace_block(text: str, name: str, block: str) -> str:
    """Replace what is between the markers `<!-- name -->` and `<!-- /name -->`.

    Raises:
        ValueError: the text has no such markers.
    """
    pattern = re.compile(
        rf"(<!-- {re.escape(name)} -->\n).*?(<!-- /{re.escape(name)} -->)", re.DOTALL
    )
    if not pattern.search(text):
        raise ValueError(
            f"There are no markers <!-- {name} --> and <!-- /{name} --> in the text. Add them."
        )
    return pattern.sub(lambda match: match[1] + block + "\n" + match[2], text)


_OURS = "this package"
_THEIRS = "as their own documentation shows them"
_REFERENCE = "reference rates"
_COLORS = {_OURS: "#3b6ea5", _THEIRS: "#d9a441", _REFERENCE: "#999999"}


def _kind(loader: str) -> str:
    """Return the kind of a bar, which sets its color.

    `torch` counts as the plain DataLoader of most projects.
    """
    if loader == "copy" or loader.startswith("decode-"):
        return _REFERENCE
    return (
        _OURS if loader.partition("-on-")[0] in ("resident", "planes", "ffcv", "dali") else _THEIRS
    )


def save_chart(rows: Sequence[Row], targets: Mapping[str, float], path: Path) -> None:
    """Draw bars of images a second with their intervals on a logarithmic axis.

    Args:
        rows: rows of one dataset.
        targets: label -> images a second that GPUs consume, each drawn as a line.
        path: PNG file to write.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib.patches import Patch

    ordered = sorted(rows, key=lambda row: float(row["images_per_second"]))
    rates = [row["images_per_second"] for row in ordered]
    below = [row["images_per_second"] - row["low"] for row in ordered]
    above = [row["high"] - row["images_per_second"] for row in ordered]
    kinds = [_kind(row["loader"]) for row in ordered]
    colors = [_COLORS[kind] for kind in kinds]

    figure, axes = plt.subplots(figsize=(8, 0.9 + 0.36 * len(ordered)), layout="constrained")
    names = [row["loader"] for row in ordered]
    axes.barh(names, rates, xerr=[below, above], color=colors, ecolor="#222222", capsize=2)
    axes.set_xscale("log")
    axes.set_xlabel("images a second")
    axes.set_title(describe_rows(ordered[0]), fontsize=8)
    for number, (name, rate) in enumerate(sorted(targets.items(), key=lambda item: item[1])):
        style = ("-", "--", ":")[number % 3]
        axes.axvline(
            rate, color="#b03030", linestyle=style, linewidth=1.2, label=f"{name}: {rate:,.0f}"
        )

    bars = [Patch(color=color, label=kind) for kind, color in _COLORS.items() if kind in kinds]
    figure.legend(
        handles=bars, fontsize=7, loc="outside lower left", ncols=len(bars), frameon=False
    )
    if targets:
        axes.legend(fontsize=7, loc="lower right", title="consumed by", title_fontsize=7)
    figure.savefig(path, dpi=130)
    plt.close(figure)
