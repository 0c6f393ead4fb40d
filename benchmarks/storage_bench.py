"""Measure epochs from object storage beside LitData and MosaicML Streaming: python benchmarks/storage_bench.py"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

from harness import cases, storage_timing, tables
from harness.object_server import serve
from harness.options import StorageBenchConfig
from harness.provenance import provenance
from harness.storage_timing import OURS, PEERS
from harness.workload import Workload, repeat_dataset
from trainer_classification import cli
from trainer_classification.config import PrepareConfig
from trainer_classification.device import choose_device
from trainer_classification.environment import cpu_count
from trainer_classification.preparation.pipeline import Prepared, prepare

COLUMNS = {
    "loader": lambda row: row["loader"],
    "ms": lambda row: f"{row['latency']:g}",
    "first batch": lambda row: f"{row['cold']['first']:.2f} s",
    "cold img/s": lambda row: f"{row['cold']['rate']:,.0f}",
    "warm img/s": lambda row: f"{row['warm']['rate']:,.0f}",
    "cold CPU s": lambda row: f"{row['cold']['cpu_seconds']:.2f}",
    "warm CPU s": lambda row: f"{row['warm']['cpu_seconds']:.2f}",
    "requests": lambda row: f"{row['cold']['requests']:,.0f}",
    "MB fetched": lambda row: f"{row['cold']['bytes'] / 1e6:,.1f}",
    "MB stored": lambda row: f"{row['stored_megabytes']:,.1f}",
    "warm requests": lambda row: f"{row['warm']['requests']:,.0f}",
}
NOTE = (
    "A server on loopback gives S3's answers from a folder, each after so many milliseconds (ms). Each turn starts a "
    "process with an empty local cache, opens the loader, and takes two epochs of augmented batches: cold (from the "
    "opening on; imports are not timed) and warm. Medians of the turns, in which the loaders alternate, after one "
    "that is not counted. CPU seconds are those of the loader's processes, without the server's. Requests and MB are "
    "those of the opening and the cold epoch; MB stored: what the loader's format takes there."
)


def main(config: StorageBenchConfig) -> None:
    names = cases.split_names(config.loaders) or [*OURS, *PEERS]
    cases.check_names("--loaders", names, [*OURS, *PEERS])
    latencies = parse_latencies(config.latencies)
    scratch = Path(config.scratch).absolute()
    prepared = prepare_formats(config, scratch, names)
    device = choose_device("cpu")[0]
    threads = config.threads or cpu_count()
    workload = cases.describe_workload(prepared, scratch, config.batch_size, threads, device)
    names = [name for name in names if OURS.get(name, "") in ("", *prepared.manifest.formats)]

    storage_timing.publish(workload)
    for name in names:
        if name in PEERS:
            check_version(name)
            cases.say(f"writing {name}")
            storage_timing.run(name, workload, scratch / "cache")

    rows = [row for latency in latencies for row in measure(names, workload, latency, config)]
    title = (
        f"{prepared.manifest.dataset}, {workload.count:,} images, {workload.image_size} px, batch "
        f"{workload.batch_size}; {rows[0]['cpu']}; {rows[0]['date']}, commit {rows[0]['commit'] or 'unknown'}"
    )
    tables.print_table(title, list(COLUMNS), tables.format_rows(rows, COLUMNS))
    if config.json:
        tables.write_json(Path(config.json), {"rows": rows})
    if config.markdown:
        page = f"# Object storage\n\n## {title}\n\n{tables.format_table(rows, COLUMNS)}\n\n{NOTE}\n"
        Path(config.markdown).write_text(page, encoding="utf-8")


def parse_latencies(text: str) -> list[float]:
    """Return the milliseconds that answers wait, in each of the runs.

    Raises:
        ValueError: one is no number.
    """
    try:
        latencies = [float(name) for name in cases.split_names(text)]
    except ValueError:
        latencies = []
    if not latencies or not all(0 <= latency < 1e5 for latency in latencies):
        raise ValueError(f"--latencies is {text!r}, but must list milliseconds, such as 0,30.")
    return latencies


def prepare_formats(config: StorageBenchConfig, scratch: Path, names: list[str]) -> Prepared:
    """Prepare the formats that our loaders read, with every image that is not a test image in the train split."""
    dataset = config.dataset
    if config.images:
        dataset = str(repeat_dataset(Path(dataset), config.images, scratch / "samples"))
    formats = [OURS[name] for name in names if name in OURS] or ["array"]
    options: dict[str, Any] = {
        "prepared": str(scratch / "prepared"),
        "image_size": config.image_size,
    }
    array_only = prepare(
        PrepareConfig(dataset=dataset, validation_fraction=0.0, formats="array", **options)
    )
    if not array_only.manifest.resized:
        return array_only  # small images: DALI reads no tar of them
    return prepare(
        PrepareConfig(
            dataset=dataset, validation_fraction=0.0, formats=",".join(formats), **options
        )
    )


def check_version(name: str) -> None:
    """Check that a peer is installed, and say if it is not the version of the committed results.

    Raises:
        ValueError: it is not installed.
    """
    package = {"streaming": "mosaicml-streaming"}.get(name, name)
    try:
        found = version(package)
    except PackageNotFoundError:
        raise ValueError(
            f"{name} needs {package}=={PEERS[name]}: uv sync --extra peers, or leave it out of --loaders."
        ) from None
    if found != PEERS[name]:
        cases.say(f"{package} is {found}, not {PEERS[name]} as in the committed results")


def measure(
    names: list[str], workload: Workload, latency: float, config: StorageBenchConfig
) -> list[dict[str, Any]]:
    """Take turns A B C A B C, the first of them not counted, and return a row for each loader."""
    cache = Path(config.scratch).absolute() / "cache"
    figures: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(config.turns + 1):
        for name in names:
            cases.say(f"{latency:g} ms, turn {turn} of {config.turns}: {name}")
            with serve(Path(workload.scratch), latency) as endpoint:
                figures[name].append(storage_timing.run(name, workload, cache, endpoint))
    return [describe(name, figures[name][1:], workload, latency) for name in names]


def describe(
    name: str, turns: list[dict[str, Any]], workload: Workload, latency: float
) -> dict[str, Any]:
    """Return the row of a loader."""
    row: dict[str, Any] = {kind: summarize([turn[kind] for turn in turns]) for kind in turns[0]}
    row |= {"loader": name, "latency": latency, "turns": len(turns)}
    row |= {"stored_megabytes": storage_timing.stored_megabytes(name, workload)}
    return row | provenance(workload.threads)


def summarize(epochs: list[dict[str, Any]]) -> dict[str, float]:
    """Return the median of each figure, and of the images a second."""
    rates = [epoch | {"rate": epoch["images"] / epoch["seconds"]} for epoch in epochs]
    return {key: median(epoch[key] for epoch in rates) for key in rates[0]}


if __name__ == "__main__":
    sys.exit(cli.run(StorageBenchConfig, main))
