"""Measure the requests a second of serve, beside handlers that predict one by one: python benchmarks/serve_bench.py"""

import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from harness import predict_timing, tables
from harness import serve_timing as timing
from harness.cases import check_names, say, split_names
from harness.intervals import ratio_interval
from harness.measure import interleave, summarize
from harness.options import ServeBenchConfig
from harness.provenance import provenance
from trainer_classification import cli
from trainer_classification.inference.image_paths import find_images

SAMPLES = Path(__file__).parents[1] / "samples"
# Network and side of the images in px, 0 for their own, by sample.
NETWORKS = {
    "mnist": ("resnet-small", 0),
    "cifar100": ("speednet", 0),
    "caltech-101": ("resnet18", 128),
}
LEAST = 3.0  # times as many requests a second
COLUMNS = {
    "server": lambda row: row["what"],
    "requests/s": lambda row: f"{row['images_per_second']:,.0f}",
    "95 % interval": lambda row: f"{row['low']:,.0f} to {row['high']:,.0f}",
    "CPU ms a request": lambda row: f"{row['cpu_seconds_per_1k']:.2f}",
}
NOTE = (
    "Each server is one process, and all are asked in turns over as many connections, each of which sends the next "
    "image when it has its answer. One by one: a Starlette endpoint of Pillow and the same network on a batch of one, "
    "in the event loop as Hafnia's own trainer has it, or in Starlette's threads. The client runs on the same cores."
)


def main(config: ServeBenchConfig) -> int:
    names = split_names(config.samples)
    check_names("--samples", names, list(NETWORKS))
    results = [measure(name, config) for name in names]
    parts = ["# Serve"]
    for rows, verdicts in results:
        title = describe(rows[0])
        tables.print_table(title, list(COLUMNS), tables.format_rows(rows, COLUMNS))
        lines = [verdict["text"] for verdict in verdicts]
        print(*lines, sep="\n")
        parts += [
            f"## {title}",
            tables.format_table(rows, COLUMNS),
            "\n".join(f"- {line}" for line in lines),
        ]
    if config.json:
        content = {
            "rows": [row for rows, _ in results for row in rows],
            "verdicts": [verdict for _, verdicts in results for verdict in verdicts],
        }
        tables.write_json(Path(config.json), content)
    if config.markdown:
        Path(config.markdown).write_text("\n\n".join([*parts, NOTE]) + "\n", encoding="utf-8")
    return 0 if all(verdict["holds"] for _, verdicts in results for verdict in verdicts) else 1


def measure(name: str, config: ServeBenchConfig) -> tuple[list[dict], list[dict]]:
    """Time the servers of one sample in turns; return their rows, and the verdicts."""
    network, image_size = NETWORKS[name]
    say(f"{name}: training {network} for two steps")
    folder = Path(config.scratch).absolute() / "serve" / name
    run = predict_timing.train_briefly(network, image_size, folder, SAMPLES / name)
    images = [Path(path).read_bytes() for path in find_images([str(SAMPLES / name)], [])]
    about = {
        "dataset": name,
        "network": network,
        "image_size": image_size,
        "connections": config.connections,
        "requests": config.requests,
    }

    with ExitStack() as stack:
        takers = {}
        for what, command in timing.list_commands(run).items():
            server = stack.enter_context(timing.start_server(command))
            takers[what] = partial(server.take_turn, images, config.requests, config.connections)
        say(f"{name}: timing in turns: {', '.join(takers)}")
        for take_turn in takers.values():
            take_turn()  # starts threads, and fills caches
        turns = interleave(takers, 0, config.turns)

    rows = [about | {"what": what} | summarize(done) | provenance() for what, done in turns.items()]
    ours = [turn.rate for turn in turns.pop("serve")]
    verdicts = [
        judge(f"{name}, {network}", what, ours, [turn.rate for turn in done])
        for what, done in turns.items()
    ]
    return rows, verdicts


def judge(where: str, what: str, ours: list[float], theirs: list[float]) -> dict:
    """Compare serve with a handler, turn by turn."""
    ratio = ratio_interval(ours, theirs)
    holds = ratio.median >= LEAST
    text = (
        f"{where}: serve / {what}: {ratio.median:.2f} ({ratio.low:.2f} to {ratio.high:.2f}), asked for at least "
        f"{LEAST:g}: {'holds' if holds else 'MISSED'}"
    )
    return {
        "what": f"{where}: serve / {what}",
        "ratio": ratio.median,
        "low": ratio.low,
        "high": ratio.high,
        "least": LEAST,
        "holds": holds,
        "text": text,
    }


def describe(row: dict) -> str:
    """Return one line that says what the rows measured, where and when."""
    size = f" at {row['image_size']} px" if row["image_size"] else ""
    return (
        f"{row['dataset']}, {row['network']}{size}, {row['connections']} connections, {row['requests']:,} requests a "
        f"turn; {row['cpu']}; {row['date']}, commit {row['commit'] or 'unknown'}"
    )


if __name__ == "__main__":
    sys.exit(cli.run(ServeBenchConfig, main))
