"""Measure the resident loader: python benchmarks/loader_bench.py --dataset cifar100"""

import json
import sys
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from trainer_classification import cli, recipes
from trainer_classification.bench.measure import measure, provenance
from trainer_classification.config import LoaderBenchConfig, PrepareConfig
from trainer_classification.data.array import open_array
from trainer_classification.data.prepare import Prepared, prepare
from trainer_classification.loaders.select import open_loader
from trainer_classification.plan import Plan


def row(config: LoaderBenchConfig, prepared: Prepared, device: torch.device) -> dict:
    manifest = prepared.manifest
    count = manifest.splits["train"].count
    recipe, _ = recipes.recipe_for(manifest.dataset, manifest.train_size, manifest.channels, count, manifest.resized)
    plan = Plan(count, 0, recipe.policy, open_array(prepared.folder, manifest, "train").sizes)
    batch_size = config.batch_size or (512 if manifest.train_size <= 64 else 128)
    loader, reason = open_loader(
        prepared.folder,
        manifest,
        "train",
        loader="resident",
        plan=plan,
        batch_size=batch_size,
        image_size=manifest.train_size,
        device=device,
        threads=config.threads,
    )
    with loader:
        figures = measure(loader, config.seconds)
    about = {
        "dataset": manifest.dataset,
        "loader": "resident",
        "placement": reason,
        "images": count,
        "image_size": manifest.train_size,
        "stored_size": manifest.image_size,
        "batch_size": batch_size,
        "crop": recipe.policy.crop,
        "flip": recipe.policy.flip,
    }
    return about | figures | provenance(config.threads)


def main(config: LoaderBenchConfig) -> None:
    prepared = prepare(PrepareConfig(dataset=config.dataset, out=config.prepared, image_size=config.image_size))
    devices = [torch.device("cpu")] + ([torch.device("cuda")] if torch.cuda.is_available() else [])
    rows = [row(config, prepared, device) for device in devices]
    table = Table(title=f"{prepared.manifest.dataset}, {rows[0]['cpu']}, load {rows[0]['load_average']}")
    for name in ("placement", "img/s (median)", "least to most", "epochs", "first batch", "CPU s per 1k"):
        table.add_column(name)
    for entry in rows:
        table.add_row(
            entry["placement"],
            f"{entry['images_per_second']:,.0f}",
            f"{entry['low']:,.0f} to {entry['high']:,.0f}",
            str(entry["epochs"]),
            f"{entry['first_batch_seconds']:.3f} s",
            f"{entry['cpu_seconds_per_1k']:.4f}",
        )
    Console().print(table)
    if config.json:
        Path(config.json).write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(cli.run(LoaderBenchConfig, main))
