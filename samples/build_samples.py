"""Make the bundled samples from whole datasets: python samples/build_samples.py --datasets FOLDER

FOLDER holds mnist, cifar100 and caltech-101 as Hafnia datasets, as `../shared/data/build_datasets.py --out FOLDER`
makes them. A fixed number of images of each class and split is taken, by the hash of their content, so that anyone
gets the same ones; JPEG files keep their bytes, PNG files are packed tighter.
"""

import argparse
import io
import json
import shutil
from pathlib import Path

import polars as pl
import xxhash
from PIL import Image

HERE = Path(__file__).resolve().parent
# Images of each class, by split.
WANTED = {
    "mnist": {"train": 600, "test": 100},
    "cifar100": {"train": 5, "test": 2},
    "caltech-101": {"train": 4},
}


def content(path: Path) -> bytes:
    if path.suffix != ".png":
        return path.read_bytes()
    packed = io.BytesIO()
    Image.open(path).save(packed, "PNG", optimize=True)
    return packed.getvalue()


def build(source: Path, target: Path, wanted: dict[str, int]) -> None:
    table = pl.read_parquet(source / "annotations.parquet").with_row_index("row")
    label = pl.col("classifications").list.first().struct.field("class_name")
    keys = [xxhash.xxh3_64_intdigest((source / path).read_bytes()) for path in table["file_path"]]
    table = table.with_columns(pl.Series("key", keys, pl.UInt64), label.alias("label"))
    rank = pl.col("key").rank("ordinal").over("split", "label")
    limit = pl.col("split").replace_strict(wanted, default=0, return_dtype=pl.Int64)
    rows = table.filter(rank <= limit).sort("row")
    shutil.rmtree(target / "data", ignore_errors=True)
    (target / "data").mkdir(parents=True)
    for path in rows["file_path"]:
        (target / path).write_bytes(content(source / path))
    rows = rows.drop("row", "key", "label")
    if "sample_index" in rows.columns:
        rows = rows.with_columns(pl.int_range(pl.len(), dtype=pl.UInt64).alias("sample_index"))
    rows.write_parquet(target / "annotations.parquet")
    info = json.loads((source / "dataset_info.json").read_text())
    (target / "dataset_info.json").write_text(json.dumps(info, indent=1) + "\n")
    size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
    print(f"{target.name}: {len(rows)} images, {size / 1e6:.1f} MB")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", type=Path, required=True, metavar="FOLDER")
    folder = parser.parse_args().datasets
    for name, wanted in WANTED.items():
        build(folder / name, HERE / name, wanted)


if __name__ == "__main__":
    main()
