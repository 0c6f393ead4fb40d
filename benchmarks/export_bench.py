"""Compare exported files with their networks, and time them: python benchmarks/export_bench.py"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from harness import tables
from harness.cases import say, split_names
from harness.options import ExportBenchConfig
from harness.provenance import provenance
from trainer_classification import cli, models
from trainer_classification.checkpoint.load_model import Model
from trainer_classification.data.formats import GRAY_SHIFT
from trainer_classification.exporting.check_images import read_images
from trainer_classification.exporting.comparison import time_in_turns
from trainer_classification.exporting.export import export
from trainer_classification.exporting.formats import FORMATS, import_extra
from trainer_classification.exporting.quantize import quantize
from trainer_classification.exporting.runtimes import RUNTIMES, Runtime

ROOT = Path(__file__).parents[1]
CLASSES = 101
# Standard deviation of the scaled logits: the likeliest of 101 classes has a third.
_SHARPNESS = 3.0
# Side of the view and of the prepared images in px, channels, and whether images are resized.
SAMPLES = {
    "mnist": (28, 28, 1, False),
    "cifar100": (32, 32, 3, False),
    "caltech-101": (128, 160, 3, True),
}
NETWORK_COLUMNS = {
    "sample": lambda row: row["sample"],
    "network": lambda row: row["network"],
    "runtime": lambda row: row["runtime"],
    "largest": lambda row: f"{row['largest']:.0e}",
    "mean": lambda row: f"{row['mean']:.0e}",
    "top-1": lambda row: f"{row['agreement']:.0%}",
    "img/s": lambda row: f"{row['rate']:,.0f}",
    "int8 img/s": lambda row: f"{row['rate_int8']:,.0f}" if row["rate_int8"] else "",
    "MB": lambda row: f"{row['megabytes']:.1f}",
    "int8 MB": lambda row: f"{row['megabytes_int8']:.1f}" if row["megabytes_int8"] else "",
}
RESIZE_COLUMNS = {
    "runtime": lambda row: row["runtime"],
    "resize": lambda row: row["resize"],
    "ms an image": lambda row: f"{1000 / row['rate']:.2f}",
}
NOTE = (
    "Networks have random weights, and norms that do something. `largest` and `mean` are differences between the "
    "file's probabilities and the checkpoint's, `top-1` is their agreement, all in float32. Rates are of decoded "
    "images, one at a time where their sizes differ; resizing them is part of the file."
)
RESIZE_NOTE = (
    "The same photographs resized to 128 px, without a network: by the file's matrix products, which every runtime "
    "computes alike, and by ONNX's operator `Resize` with antialias = 1, which OpenVINO ignores."
)


def main(config: ExportBenchConfig) -> None:
    """Measure each network on each sample, then the resize alone, and write the tables."""
    samples = split_names(config.samples) or list(SAMPLES)
    networks = split_names(config.networks) or list(models.NETWORKS)
    rows: list[dict[str, Any]] = []
    for sample in samples:
        for network in networks:
            say(f"{sample}: {network}")
            rows += measure_network(config, sample, network)
    say("resizing alone")
    resizes = measure_resize(config)

    about = provenance()
    title = f"{config.images} images of each sample; {about['cpu']}; {about['date']}"
    tables.print_table(title, list(NETWORK_COLUMNS), tables.format_rows(rows, NETWORK_COLUMNS))
    tables.print_table("Resize", list(RESIZE_COLUMNS), tables.format_rows(resizes, RESIZE_COLUMNS))
    if config.json:
        content = {
            "rows": [row | about for row in rows],
            "resizes": [row | about for row in resizes],
        }
        tables.write_json(Path(config.json), content)
    if config.markdown:
        parts = [
            "# Export",
            f"## {title}",
            tables.format_table(rows, NETWORK_COLUMNS),
            NOTE,
            "## Resize",
            tables.format_table(resizes, RESIZE_COLUMNS),
            RESIZE_NOTE,
        ]
        Path(config.markdown).write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def measure_network(config: ExportBenchConfig, sample: str, network: str) -> list[dict[str, Any]]:
    """Export one network for one sample, and return a row for each runtime."""
    model = make_model(sample, network)
    paths = find_images(sample, config.images)
    images = read_images(paths, model.channels, model.gray_shift)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        small = path.with_stem("int8")
        report = export(model, path, "onnx", paths)
        opened = open_all(path)
        if config.int8:
            quantize(path, small, images)
        quantized = open_all(small) if config.int8 else []
        rates = time_in_turns([*opened, *quantized], images, config.turns)
        megabytes = small.stat().st_size / 1e6 if config.int8 else 0.0

    return [
        {
            "sample": sample,
            "network": network,
            "runtime": found.name,
            "largest": found.largest,
            "mean": found.mean,
            "agreement": found.agreement,
            "rate": rate,
            "rate_int8": rate_int8,
            "megabytes": report.megabytes,
            "megabytes_int8": megabytes,
        }
        for found, rate, rate_int8 in zip(
            report.differences,
            rates[: len(opened)],
            rates[len(opened) :] or [0.0] * len(opened),
            strict=True,
        )
    ]


def measure_resize(config: ExportBenchConfig) -> list[dict[str, Any]]:
    """Time the file's resize beside the operator `Resize`, in each runtime."""
    model = make_model("caltech-101", "", crop=0.0)
    images = read_images(find_images("caltech-101", config.images), 3, GRAY_SHIFT)
    with tempfile.TemporaryDirectory() as folder:
        ours = Path(folder) / "ours.onnx"
        operator = Path(folder) / "operator.onnx"
        export(model, ours)
        write_resize(operator, model.image_size)
        opened = {"matrix products": open_all(ours), "Resize": open_all(operator)}
        runtimes = [(name, runtime) for name, found in opened.items() for runtime in found]
        rates = time_in_turns([runtime for _, runtime in runtimes], images, config.turns)

    return [
        {"runtime": runtime.name, "resize": name, "rate": rate}
        for (name, runtime), rate in zip(runtimes, rates, strict=True)
    ]


def find_images(sample: str, count: int) -> list[str]:
    """Return paths of images of a bundled sample, spread over its files."""
    paths = sorted(map(str, (ROOT / "samples" / sample / "data").iterdir()))
    return paths[:: max(1, len(paths) // count)][:count]


def open_all(path: Path) -> list[Runtime]:
    """Open an ONNX file in each runtime."""
    return [runtime for name in FORMATS["onnx"].runtimes for runtime in RUNTIMES[name](path)]


def make_model(sample: str, network: str, crop: float = 0.875) -> Model:
    """Build a network with random weights for a sample's images; of no name: one that only takes means."""
    size, array_size, channels, resized = SAMPLES[sample]
    torch.manual_seed(0)
    means = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    module = models.build(network, CLASSES, channels, size) if network else means
    for name, values in module.state_dict().items():
        if "running_mean" in name:
            values.normal_(std=0.1)
        elif "running_var" in name:
            values.uniform_(0.5, 1.5)

    return Model(
        network=module.eval(),
        name=network,
        class_names=tuple(map(str, range(CLASSES if network else channels))),
        image_size=size,
        channels=channels,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        dataset=sample,
        source=Path("random"),
        resized=resized,
        array_size=array_size,
        eval_crop=crop if resized else 0.0,
        temperature=_choose_temperature(module, channels, size),
    )


def _choose_temperature(module: torch.nn.Module, channels: int, size: int) -> float:
    """Return a temperature at which the probabilities of random weights are as unequal as those of trained ones."""
    with torch.inference_mode():
        logits = module(torch.randn(8, channels, size, size))

    return float(logits.std(1).mean()) / _SHARPNESS


def write_resize(path: Path, size: int) -> None:
    """Write a graph of ONNX's own `Resize` and means over pixels, images in as in an exported file."""
    onnx = import_extra("onnx")
    helper = onnx.helper
    floats = onnx.TensorProto.FLOAT
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=floats),
        helper.make_node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "Resize",
            ["planes", "", "", "size"],
            ["small"],
            mode="linear",
            antialias=1,
            axes=[2, 3],
        ),
        helper.make_node("ReduceMean", ["small", "axes"], ["means"], keepdims=0),
        helper.make_node("Softmax", ["means"], ["probabilities"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "resize",
        [helper.make_tensor_value_info("images", onnx.TensorProto.UINT8, ["b", "h", "w", 3])],
        [helper.make_tensor_value_info("probabilities", floats, ["b", 3])],
        [
            onnx.numpy_helper.from_array(np.array([size, size]), "size"),
            onnx.numpy_helper.from_array(np.array([2, 3]), "axes"),
        ],
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=10), path)


if __name__ == "__main__":
    sys.exit(cli.run(ExportBenchConfig, main))
