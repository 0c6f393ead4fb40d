"""Model the step time on GPUs that are not available, from the multiply-adds and bytes of every operation.

A step runs on torch's `meta` device, which computes nothing. Each operation that
torch dispatches, forward and backward, counts its arithmetic and the bytes it
reads and writes. An operation takes the longer of the two at the rates that the
GPU can reach (the roofline: Williams, Waterman, Patterson, CACM 2009), and at
least the time of a launch. A step takes the sum.

`python -m harness.gpu_model` prints the tables of docs/gpu-model.md.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from trainer_classification.models import build

RESULTS = Path(__file__).parents[1] / "results"


@dataclass(frozen=True)
class Gpu:
    """Peak rates of a card: TFLOP/s in fp16 and fp32, and GB/s. Sources: hmc-tech.com, NVIDIA data sheets."""

    fp16: float
    fp32: float
    bandwidth: float


GPUS = {
    "T4": Gpu(65.1, 8.14, 320),
    "V100": Gpu(125.3, 15.7, 900),
    "RTX 3090": Gpu(142.0, 35.6, 936),  # for ratios between networks
    "H100": Gpu(989.4, 66.9, 3352),  # measured in benchmarks/results
}

# Fractions of the peaks that large operations reach: round numbers near two
# published rows, ResNet-50 training on a V100 in fp16 and in fp32 (where Winograd
# saves cuDNN arithmetic). All other rows are a check.
FP16_SHARE = 0.5
BANDWIDTH_SHARE = 0.8
FP32_SHARE = 0.9
# Least seconds of an operation, with what belongs to it (casts, optimizer,
# counts): an assumption, the same for all cards. An operation took 6.6 µs on an
# H100 in a step recorded as a CUDA graph, and 66 µs in one launched by Python.
LAUNCH_SECONDS = 8e-6
# Passes over the first input beyond the one that the arguments show. A norm reads
# once for statistics and once to normalize. Its backward pass reads input and
# gradient twice. So does that of a convolution, once for each gradient.
_MORE_PASSES = {"native_batch_norm": 1, "native_batch_norm_backward": 2, "convolution_backward": 1}
_BYTES_A_WEIGHT = (
    28  # the cast for autocast, the fp32 gradient, and an fp32 optimizer with one momentum
)


@dataclass(frozen=True)
class Operation:
    """One torch operation on a batch: its multiply-adds times two, and the bytes it reads and writes."""

    name: str
    flops: float
    bytes: float


class _Counter(TorchDispatchMode):
    """Collect every operation that moves data."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[Operation] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        views = any(
            r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns
        )
        if views or name in ("detach", "empty_like"):
            return out
        count = flop_registry.get(func._overloadpacket)
        flops = count(*args, **(kwargs or {}), out_val=out) if count is not None else 0
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        first = tensors[0].numel() * tensors[0].element_size() if tensors else 0
        passes = _MORE_PASSES.get(name, 0) if torch.is_grad_enabled() or "backward" in name else 0
        self.operations.append(Operation(name, flops, size + passes * first))

        return out


def operations(
    network: str,
    image_size: int,
    batch_size: int,
    *,
    half: bool = True,
    training: bool = True,
    num_classes: int = 1000,
) -> list[Operation]:
    """Return every operation of a training step, or of inference.

    Args:
        network: name of the network.
        image_size: side of the images in px.
        batch_size: images of the batch.
        half: fp16, otherwise fp32.
        training: forward, backward and optimizer, otherwise forward only.
        num_classes: outputs of the network.
    """
    dtype = torch.float16 if half else torch.float32
    with torch.device("meta"):
        model = build(network, num_classes, 3, image_size).to(dtype).train(training)
        images = torch.empty(batch_size, 3, image_size, image_size, dtype=dtype)
        labels = torch.empty(batch_size, dtype=torch.int64)
    with _Counter() as counter, torch.set_grad_enabled(training):
        logits = model(images)
        if training:
            F.cross_entropy(logits.float(), labels).backward()  # type: ignore[no-untyped-call]
    if training:
        weights = sum(parameter.numel() for parameter in model.parameters())
        counter.operations.append(Operation("optimizer", 0, _BYTES_A_WEIGHT * weights))
    return counter.operations


def seconds(step: list[Operation], gpu: Gpu, half: bool = True) -> float:
    """Return the seconds of a step on one card whose input is ready."""
    arithmetic = 1e12 * (gpu.fp16 * FP16_SHARE if half else gpu.fp32 * FP32_SHARE)
    moving = 1e9 * gpu.bandwidth * BANDWIDTH_SHARE
    return sum(
        max(operation.flops / arithmetic, operation.bytes / moving, LAUNCH_SECONDS)
        for operation in step
    )


def rate(
    network: str,
    image_size: int,
    gpu: str,
    batch_size: int = 128,
    *,
    half: bool = True,
    training: bool = True,
) -> float:
    """Return the images a second of one card.

    The arguments are those of `operations`.
    """
    step = operations(network, image_size, batch_size, half=half, training=training)
    return batch_size / seconds(step, GPUS[gpu], half)


@dataclass(frozen=True)
class Published:
    """A published measurement.

    Attributes:
        network: name of the network.
        gpu: a key of `GPUS`.
        half: fp16, otherwise fp32.
        training: training, otherwise inference.
        images_per_second: the rate.
        source: where it is published.
        fitted: the fractions above were set by it.
    """

    network: str
    gpu: str
    half: bool
    training: bool
    images_per_second: float
    source: str
    fitted: bool = False


_DLE = "NVIDIA DeepLearningExamples, PyTorch ResNet-50 v1.5"
_TIMM = "timm benchmark-train-amp-nhwc, RTX 3090"
PUBLISHED = [
    Published("resnet50", "V100", True, True, 1200, _DLE, fitted=True),
    Published("resnet50", "V100", False, True, 367, _DLE, fitted=True),
    Published("resnet50", "V100", True, False, 3382, _DLE),
    Published("resnet50", "V100", False, False, 1261, _DLE),
    Published("resnet50", "T4", True, False, 1198, _DLE),
    Published("resnet50", "T4", False, False, 421, _DLE),
    Published("resnet50", "RTX 3090", True, True, 1218, _TIMM),
    Published("resnet34", "RTX 3090", True, True, 2036, _TIMM),
    Published("resnet18", "RTX 3090", True, True, 3482, _TIMM),
]


def check_table() -> str:
    """Return a Markdown table of the model against published rows."""
    lines = [
        "| ResNet, 224 px | card | | published img/s | model | model / published | |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in PUBLISHED:
        modeled = rate(row.network, 224, row.gpu, half=row.half, training=row.training)
        what = f"{'training' if row.training else 'inference'}, {'fp16' if row.half else 'fp32'}"
        lines.append(
            f"| {row.network} | {row.gpu} | {what} | {row.images_per_second:,.0f} | {modeled:,.0f} | "
            f"{modeled / row.images_per_second:.2f} | {'shares set by it; ' if row.fitted else ''}{row.source} |"
        )

    return "\n".join(lines)


def measured_table(results: Path = RESULTS) -> str:
    """Return a Markdown table of the model against steps that gpu_check.py measured with a cached batch."""
    lines = [
        "| training, fp16 or bf16 | card | measured img/s | model | model / measured |",
        "|---|---|---|---|---|",
    ]
    for path in sorted(results.glob("gpu-*.json")):
        for row in json.loads(path.read_text())["rows"]:
            card = next((name for name in GPUS if name in row["gpu"].split()), None)
            if row["what"] != "step, cached batch" or card is None:
                continue
            modeled = rate(row["network"], row["image_size"], card, row["batch_size"])
            measured = row["images_per_second"]
            what = f"{row['network']}, {row['image_size']} px, batch {row['batch_size']}"
            lines.append(
                f"| {what} | {card} | {measured:,.0f} | {modeled:,.0f} | {modeled / measured:.2f} |"
            )

    return "\n".join(lines)


@dataclass(frozen=True)
class Load:
    """A training of this project. The batch size is that of one card."""

    dataset: str
    network: str
    image_size: int
    batch_size: int


LOADS = [
    Load("mnist", "resnet-small", 28, 128),
    Load("cifar, speed", "speednet", 32, 500),
    Load("cifar, standard", "resnet18", 32, 512),
    Load("caltech", "resnet18", 128, 128),
    Load("caltech", "resnet50", 224, 128),
]
SCALING = 0.97  # efficiency of four V100: MXNet's ResNet-50, 5357 / (4 * 1376)


def demand_table() -> str:
    """Return a Markdown table of what each training consumes, and what limits it on a T4."""
    lines = [
        "| training | network | GFLOP | MB | T4 img/s | V100 img/s | 4 V100 img/s | a T4 waits for |"
    ]
    lines += ["|---|---|---|---|---|---|---|---|"]
    for load in LOADS:
        step = operations(load.network, load.image_size, load.batch_size)
        t4 = load.batch_size / seconds(step, GPUS["T4"])
        v100 = load.batch_size / seconds(step, GPUS["V100"])
        flops = sum(operation.flops for operation in step) / load.batch_size
        size = sum(operation.bytes for operation in step) / load.batch_size
        lines.append(
            f"| {load.dataset}, {load.image_size} px, batch {load.batch_size} | {load.network} | {flops / 1e9:.2f} | "
            f"{size / 1e6:.1f} | {t4:,.0f} | {v100:,.0f} | {4 * SCALING * v100:,.0f} | {limit(step, GPUS['T4'])} |"
        )

    return "\n".join(lines)


def limit(step: list[Operation], gpu: Gpu) -> str:
    """Say what takes most of a step's time: launches, memory or arithmetic."""
    arithmetic = 1e12 * gpu.fp16 * FP16_SHARE
    moving = 1e9 * gpu.bandwidth * BANDWIDTH_SHARE
    spent = dict.fromkeys(("arithmetic", "memory", "launches"), 0.0)
    for operation in step:
        times = (operation.flops / arithmetic, operation.bytes / moving, LAUNCH_SECONDS)
        spent[max(zip(times, spent, strict=True))[1]] += max(times)
    cause = max(spent, key=lambda name: spent[name])
    return f"{cause} ({spent[cause] / sum(spent.values()):.0%} of the time)"


@dataclass(frozen=True)
class InputPath:
    """A way to deliver images.

    Attributes:
        name: what it is.
        photo: images a second of one CPU thread, for photographs.
        small: the same for images of 32 px. 0: not measured.
        source: where the rates are from.
    """

    name: str
    photo: float
    small: float
    source: str


PATHS = [
    InputPath("DataLoader, JPEG of 512 px", 184, 0, "FFCV's figure, 12 vCPU; 41 at 96"),
    InputPath("FFCV, JPEG of 512 px", 816, 0, "FFCV's figure, 24 vCPU"),
    InputPath("FFCV, raw 256 px", 8213, 0, "FFCV's figure, 12 vCPU; 1,800 at 96"),
    InputPath(
        "resident on the host", 59_000, 930_000, "benchmarks/results, 2 cores, 128 px and 32 px"
    ),
]
HOSTS = {"T4": 4, "4 V100": 32}  # vCPUs that these cards come with


def supply_table() -> str:
    """Return a Markdown table of delivered / consumed for each input path.

    Below one, the path starves the card.
    """
    consumers = _list_consumers()
    lines = [
        "| input path | img/s a thread | " + " | ".join(consumers) + " | source |",
        "|---" * (len(consumers) + 3) + "|",
    ]
    for path in PATHS:
        cells = []
        for small, threads, consumed in consumers.values():
            per_thread = path.small if small else path.photo
            ratio = per_thread * threads / consumed
            fed = f"{ratio:,.{int(ratio < 10)}f}" if ratio >= 1 else f"**starves: {ratio:.2f}**"
            cells.append(fed if per_thread else "")
        rates = f"{path.photo:,.0f}" + (f"; {path.small:,.0f}" if path.small else "")
        lines.append(f"| {path.name} | {rates} | {' | '.join(cells)} | {path.source} |")

    return "\n".join(lines)


def _list_consumers() -> dict[str, tuple[bool, int, float]]:
    """Return column -> (small images, vCPUs, images a second consumed)."""
    columns = {}
    for load in LOADS[2:]:
        v100 = rate(load.network, load.image_size, "V100", load.batch_size)
        t4 = rate(load.network, load.image_size, "T4", load.batch_size)
        for host, consumed in (("T4", t4), ("4 V100", 4 * SCALING * v100)):
            columns[f"{load.network} {load.image_size} px, {host}"] = (
                load.image_size <= 64,
                HOSTS[host],
                consumed,
            )
    return columns


if __name__ == "__main__":
    print(check_table(), measured_table(), demand_table(), supply_table(), sep="\n\n")
