"""Tiny Hafnia datasets on disk, and descriptions of checkpoints, for tests."""

import io
import json
from pathlib import Path

import numpy as np
import polars as pl
from PIL import Image

TASK = "image_classification"


def encoded(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    """An image file of uint8 [H, W] or [H, W, C]."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def noise(seed: int, height: int = 12, width: int = 12, channels: int = 0) -> np.ndarray:
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def photograph(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    """Make what photographs are to a resize and to JPEG: waves of some ten pixels, in each channel of another phase.

    Returns:
        uint8 [height, width, channels].
    """
    random = np.random.default_rng(seed)
    y = np.arange(height)[:, None, None]
    x = np.arange(width)[None, :, None]
    phase = random.uniform(0, 6, (2, channels))
    waves = np.sin(x / random.uniform(3, 9) + phase[0]) * np.cos(y / random.uniform(3, 9) + phase[1])
    return (128 + 110 * waves).astype(np.uint8)


def write_dataset(root: Path, rows: list[dict], class_names: list[str], name: str = "tiny", tasks=None) -> Path:
    """A Hafnia dataset; a row has data (None: no file), suffix, label (or None), split, and may have idx."""
    (root / "data").mkdir(parents=True)
    table = []
    for number, row in enumerate(rows):
        path = f"data/{number:05d}{row.get('suffix', '.png')}"
        if row["data"] is not None:
            (root / path).write_bytes(row["data"])
        label = row["label"]
        index = row.get("idx", class_names.index(label) if label in class_names else None)
        entry = {"class_name": label, "class_idx": index, "task_name": row.get("task", TASK)}
        table.append(
            {
                "file_path": path,
                "split": row["split"],
                "width": row.get("width", 12),
                "height": row.get("height", 12),
                "classifications": [] if label is None else [entry],
            }
        )
    schema = {
        "file_path": pl.String,
        "split": pl.String,
        "width": pl.Int64,
        "height": pl.Int64,
        "classifications": pl.List(pl.Struct({"class_name": pl.String, "class_idx": pl.Int64, "task_name": pl.String})),
    }
    pl.DataFrame(table, schema=schema).write_parquet(root / "annotations.parquet")
    classes = [{"name": text} for text in class_names]
    tasks = tasks or [{"primitive": "Classification", "classes": classes, "name": TASK}]
    info = {"dataset_name": name, "version": "1.0.0", "tasks": tasks, "format_version": "0.3.3"}
    (root / "dataset_info.json").write_text(json.dumps(info))
    return root


def rows(count: int, split: str = "train", classes: str = "ab", seed: int = 0, **more) -> list[dict]:
    """Rows of distinct grey PNG images, classes in turn."""
    return [
        {"data": encoded(noise(seed + i)), "label": classes[i % len(classes)], "split": split} | more
        for i in range(count)
    ]


def tree(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def meta_of(network: str = "resnet-small", class_names: str | list[str] = "ab", epoch: int = 0, **more):
    """A description of a checkpoint."""
    from trainer_classification.checkpoint.meta import CheckpointMeta, Progress
    from trainer_classification.plan import Policy
    from trainer_classification.recipes import Recipe

    size = more.pop("image_size", 28)
    recipe = Recipe(
        model=network,
        width=more.pop("width", 8),
        image_size=size,
        epochs=3,
        batch_size=8,
        learning_rate=0.1,
        policy=Policy(),
    )
    values = {"dataset": "cifar", "channels": 3, "mean": [0.5] * 3, "std": [0.25] * 3, "fingerprint": "f"} | more
    return CheckpointMeta(
        config={"project_name": "p"},
        recipe=recipe,
        class_names=list(class_names),
        image_size=size,
        progress=Progress(epoch=epoch),
        **values,
    )


def tar_suffix(store, sample):
    """Return the suffix, without the dot, that an image has in its tar."""
    start = int(store.offsets[sample]) - 512  # its header, which begins with the name
    return bytes(store.shards[store.shard[sample]][start : start + 100]).rstrip(b"\0").decode().partition(".")[2]
