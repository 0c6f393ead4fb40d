"""How fast predict is, against a plain loop and the network alone: python benchmarks/predict_bench.py"""

import sys
from pathlib import Path

from harness import predict_timing as timing
from harness import tables
from harness.cases import say
from harness.intervals import ratio_interval
from harness.measure import interleave, summarize
from harness.options import PredictBenchConfig
from harness.provenance import provenance
from trainer_classification import cli
from trainer_classification.checkpoint.load_model import load_model
from trainer_classification.inference.image_paths import find_images

COLUMNS = {
    "network": lambda row: row["network"],
    "what": lambda row: row["what"],
    "ms an image": lambda row: f"{1000 / row['images_per_second']:,.2f}",
    **tables.RATE_COLUMNS,
    "CPU s per 1k": lambda row: f"{row['cpu_seconds_per_1k']:,.1f}",
}
NOTE = (
    "plain-loop: Pillow, torchvision's transforms, batches of 32, one process. network-plain: the network alone on "
    "these batches in memory. network-threads: on batches of predict's size in memory, in its threads. The network's "
    "own time is the shorter of these two for predict, and network-plain for the loop."
)
MOST_OF_NETWORK = 1.1
MOST_OUTSIDE = 1 / 5
MOST_OF_TORCH = 1.5


def main(config: PredictBenchConfig) -> int:
    scratch = Path(config.scratch).absolute() / "predict"
    paths = list(find_images([config.dataset], []))
    if config.images:
        paths = paths[:: max(1, len(paths) // config.images)][: config.images]

    rows = []
    verdicts = []
    for network in config.networks.split(","):
        say(f"training {network} for two steps")
        run = timing.train_briefly(
            network, config.image_size, scratch / f"{network}-{config.image_size}px"
        )
        about = {
            "dataset": Path(config.dataset).name,
            "network": network,
            "image_size": config.image_size,
        }

        takers = timing.contestants(load_model(run), paths)
        say(f"{network}: timing in turns: {', '.join(takers)}")
        for take in takers.values():
            take()  # compiles, and brings the files to the page cache
        turns = interleave(takers, 0, config.turns)
        rows += [
            about | {"what": name} | summarize(done) | provenance() for name, done in turns.items()
        ]
        verdicts += judge(network, turns)

        answers = timing.first_answers(run, paths[0])
        for take in answers.values():
            take()
        turns = interleave(answers, 0, config.turns)
        rows += [
            about | {"what": name} | summarize(done) | provenance() for name, done in turns.items()
        ]
        verdicts.append(judge_first_answer(network, turns))

    where = f"{Path(config.dataset).name}, {len(paths):,} files, {config.image_size} px; {rows[0]['cpu']}"
    tables.print_table(where, list(COLUMNS), tables.format_rows(rows, COLUMNS))
    lines = [verdict["text"] for verdict in verdicts]
    print(*lines, sep="\n")
    if config.json:
        tables.write_json(Path(config.json), {"rows": rows, "verdicts": verdicts})
    if config.markdown:
        table = tables.format_table(rows, COLUMNS)
        listed = "\n".join(f"- {line}" for line in lines)
        Path(config.markdown).write_text(
            f"# Predict\n\n## {where}\n\n{table}\n\n{listed}\n\n{NOTE}\n", encoding="utf-8"
        )
    return 0 if all(verdict["holds"] for verdict in verdicts) else 1


def judge(network: str, turns: dict) -> list[dict]:
    """Compare predict with the network's own time, and the time outside it with the plain loop's; turn by turn."""
    seconds = {name: [turn.seconds for turn in done] for name, done in turns.items()}
    own = list(map(min, seconds["network-plain"], seconds["network-threads"]))
    whole = ratio_interval(seconds["predict"], own).median

    loop = [
        total - inside
        for total, inside in zip(seconds["plain-loop"], seconds["network-plain"], strict=True)
    ]
    ours = [total - inside for total, inside in zip(seconds["predict"], own, strict=True)]
    outside = ratio_interval(ours, loop).median

    return [
        verdict(f"{network}: predict / network's own time", whole, MOST_OF_NETWORK),
        verdict(
            f"{network}: time outside the network, predict / plain loop", outside, MOST_OUTSIDE
        ),
    ]


def judge_first_answer(network: str, turns: dict) -> dict:
    """Compare the first answer for one photo with `python -c "import torch"`."""
    seconds = {name: [turn.seconds for turn in done] for name, done in turns.items()}
    ratio = ratio_interval(seconds["first-answer"], seconds["import-torch"]).median
    return verdict(f"{network}: first answer / import torch", ratio, MOST_OF_TORCH)


def verdict(what: str, ratio: float, most: float) -> dict:
    holds = ratio <= most
    text = f"{what}: {ratio:.3f}, asked for at most {most:g}: {'holds' if holds else 'MISSED'}"
    return {"what": what, "ratio": ratio, "most": most, "holds": holds, "text": text}


if __name__ == "__main__":
    sys.exit(cli.run(PredictBenchConfig, main))
