"""Define the options of the benchmarks' command lines."""

from dataclasses import dataclass
from typing import Annotated

from harness.engines import OURS
from trainer_classification.config import Device, TrainConfig
from trainer_classification.options import Option, check

_ENGINES = ", ".join(OURS)

ScratchOption = Annotated[
    str,
    Option(
        "Folder for the files that are prepared and written to be measured. The next run uses them again.",
        "Data",
    ),
]
SecondsOption = Annotated[
    float, Option("Measure each candidate for at least so many seconds.", "Run", 0)
]
TurnsOption = Annotated[
    int,
    Option("Measure each in at least so many turns. A 95 % interval needs six or more.", "Run", 1),
]
JsonOption = Annotated[str, Option("File to write the results to, as JSON. Empty: none.", "Output")]
MarkdownOption = Annotated[
    str, Option("File to write the tables to, as Markdown. Empty: none.", "Output")
]
ThreadsOption = Annotated[
    int, Option("Threads or worker processes of each. 0: one per CPU.", "Run", 0, 1024)
]


@dataclass(frozen=True, kw_only=True)
class LoaderBenchConfig:
    """Measure how many images a second loaders deliver, this package's and other libraries', in turns and checked."""

    dataset: Annotated[
        str,
        Option(
            "Names or folders of datasets, separated by commas. Empty: the bundled samples of cifar100 and "
            "caltech-101, repeated to 2,048 and 512 images.",
            "Data",
        ),
    ] = ""
    loaders: Annotated[
        str,
        Option(
            f"Candidates, separated by commas: {_ENGINES}; as their vendors show them: ffcv-vendor-raw, "
            "ffcv-vendor-jpg, dali-vendor; our loader over FFCV's files: ffcv-on-vendor-raw, ffcv-on-vendor-jpg; "
            "webdataset, litdata, streaming, spdl; reference rates: copy, decode-originals, decode-beton. Empty: all "
            "that are installed.",
            "Data",
        ),
    ] = ""
    image_size: Annotated[
        int, Option("Side of the batches in px. 0: the recipe's.", "Data", 0, 2048)
    ] = 0
    batch_size: Annotated[
        int, Option("Images in a batch. 0: 512 up to 64 px, 128 above.", "Run", 0)
    ] = 0
    threads: ThreadsOption = 0
    device: Annotated[
        Device, Option("Device that takes the batches. auto: a GPU if there is one.", "Run")
    ] = "auto"
    seconds: SecondsOption = 0.6
    turns: TurnsOption = 6
    cold: Annotated[
        bool, Option("Also time an epoch from disk, which opens each loader twice.", "Run")
    ] = False
    bottleneck: Annotated[
        str,
        Option(
            "Loaders whose stages to measure, to find the slowest, separated by commas. Empty: none.",
            "Run",
        ),
    ] = "resident"
    scratch: ScratchOption = ".data/bench"
    json: JsonOption = ""
    markdown: MarkdownOption = ""
    chart: Annotated[
        str,
        Option(
            "PNG file for a chart. With several datasets, each file name gets the dataset's. Empty: none.",
            "Output",
        ),
    ] = ""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class PrepareBenchConfig:
    """Measure prepare, with each format and with all three, against FFCV's DatasetWriter fed by Pillow, in turns."""

    dataset: Annotated[str, Option("Name or folder of a dataset.", "Data")] = "samples/caltech-101"
    images: Annotated[
        int,
        Option(
            "Training images. Files are repeated where there are fewer. 0: those there are.",
            "Data",
            0,
        ),
    ] = 0
    writers: Annotated[
        str,
        Option(
            "Writers, separated by commas: array, beton-raw, beton-jpg, tar, all; FFCV's: ffcv-raw, ffcv-jpg. Empty: "
            "all that are installed.",
            "Data",
        ),
    ] = ""
    threads: ThreadsOption = 0
    turns: TurnsOption = 5
    seconds: SecondsOption = 0.0
    scratch: ScratchOption = ".data/bench"
    json: JsonOption = ""
    markdown: MarkdownOption = ""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class TrainBenchConfig:
    """Measure training: the time of a step, the share of it spent waiting for data, and the time to an accuracy."""

    dataset: Annotated[str, Option("Name or folder of a dataset.", "Data")] = "samples/mnist"
    loaders: Annotated[
        str, Option(f"Loaders that feed the steps, separated by commas: {_ENGINES}.", "Data")
    ] = "resident,torch"
    threads: ThreadsOption = 0
    seconds: SecondsOption = 5.0
    turns: TurnsOption = 7
    device: Annotated[Device, Option("Device that trains. auto: a GPU if there is one.", "Run")] = (
        "auto"
    )
    accuracy: Annotated[
        float,
        Option(
            "Also time trainings, ours and a baseline, to this test accuracy. 0: do not.",
            "Run",
            0,
            1,
        ),
    ] = 0.0
    limit: Annotated[
        float,
        Option("Stop a training that has not reached --accuracy after so many seconds.", "Run", 1),
    ] = 600.0
    epochs: Annotated[
        float,
        Option(
            "Epochs of our trainings to --accuracy, the last one perhaps in part. 0: the recipe's.",
            "Run",
            0,
            10000,
        ),
    ] = 0.0
    scratch: ScratchOption = ".data/bench"
    json: JsonOption = ""
    markdown: MarkdownOption = ""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class RecipeBenchConfig(TrainConfig):
    """Train with several seeds; measure accuracy, seconds and CPU seconds of each.

    Takes the options of train.py.
    """

    validation_fraction: Annotated[
        float, Option("As for train.py. The default trains on all images.", "Data", 0, 0.9)
    ] = 0.0
    per_class: Annotated[
        int,
        Option(
            "Train on so many images of each class, drawn by the seed, and test on all others. 0: use the dataset's "
            "splits.",
            "Data",
            0,
        ),
    ] = 0
    long_tail: Annotated[
        int,
        Option(
            "Cut the training images of the first --classes classes to a long tail, in which the largest class is so "
            "many times the smallest. 0: use all.",
            "Data",
            0,
        ),
    ] = 0
    classes: Annotated[int, Option("Classes of --long-tail.", "Data", 2)] = 10
    seeds: Annotated[
        int, Option("Number of trainings, with the seeds --seed, --seed + 1, ...", "Run", 1, 100)
    ] = 3
    json: Annotated[
        str, Option("File to write the rows to. Rows of the same command are replaced.", "Output")
    ] = ""


@dataclass(frozen=True, kw_only=True)
class PredictBenchConfig:
    """Measure predict beside a plain loop of Pillow, torchvision and batches of 32, and the network alone, in turns."""

    dataset: Annotated[
        str, Option("Folder of a dataset of photos, whose files are classified.", "Data")
    ] = "samples/caltech-101"
    images: Annotated[int, Option("So many of its files. 0: all.", "Data", 0)] = 0
    networks: Annotated[str, Option("Which, with commas.", "Data")] = "speednet,resnet18"
    image_size: Annotated[
        int, Option("Side in px of the images that the networks see.", "Data", 32, 2048)
    ] = 128
    turns: TurnsOption = 5
    scratch: ScratchOption = ".data/bench"
    json: JsonOption = ""
    markdown: MarkdownOption = ""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ExportBenchConfig:
    """Compare exported files with their networks, and time them in float32 and in 8 bits, in turns."""

    networks: Annotated[str, Option("Which, with commas. Empty: all.", "Data")] = ""
    samples: Annotated[str, Option("Bundled samples, with commas. Empty: all.", "Data")] = ""
    images: Annotated[int, Option("So many images of each sample.", "Data", 2)] = 32
    int8: Annotated[bool, Option("Also in 8 bits.", "Data")] = True
    turns: TurnsOption = 5
    json: JsonOption = ""
    markdown: MarkdownOption = ""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ServeBenchConfig:
    """Measure the requests a second of serve.py, and of handlers that predict one by one, in turns."""

    samples: Annotated[
        str,
        Option("Bundled samples, separated by commas: mnist, cifar100, caltech-101.", "Data"),
    ] = "mnist,cifar100,caltech-101"
    connections: Annotated[int, Option("Connections of the client.", "Run", 1, 10_000)] = 64
    requests: Annotated[int, Option("Requests of a turn.", "Run", 1)] = 1000
    turns: TurnsOption = 7
    scratch: ScratchOption = ".data/bench"
    json: JsonOption = ""
    markdown: MarkdownOption = ""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class BusyBenchConfig:
    """Measure what a training keeps of its fair share beside processes that spin, at two commits in turns."""

    dataset: Annotated[str, Option("Folder of a dataset.", "Data")] = "samples/mnist"
    base: Annotated[
        str, Option("Commit that is compared with. Empty: this working tree alone.", "Data")
    ] = ""
    others: Annotated[int, Option("Processes that spin.", "Run", 1, 1024)] = 8
    steps: Annotated[int, Option("Steps of a training.", "Run", 1)] = 40
    turns: TurnsOption = 3
    scratch: ScratchOption = ".data/bench"
    json: JsonOption = ""
    markdown: MarkdownOption = ""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ClusterBenchConfig:
    """Measure what passes through the machine of prepare.py when a cluster prepares into a store."""

    dataset: Annotated[str, Option("Folder of a dataset.", "Data")] = "samples/caltech-101"
    images: Annotated[
        int,
        Option("Images. Files are repeated where there are fewer. 0: those there are.", "Data", 0),
    ] = 0
    formats: Annotated[str, Option("As for prepare.py.", "Data")] = "tar"
    base: Annotated[
        str, Option("Commit that is compared with. Empty: this working tree alone.", "Data")
    ] = ""
    workers: Annotated[int, Option("Workers of the cluster.", "Run", 1, 64)] = 2
    turns: TurnsOption = 3
    scratch: ScratchOption = ".data/bench"
    json: JsonOption = ""
    markdown: MarkdownOption = ""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class StepBenchConfig:
    """Measure the CPU time of a step of each network, at two commits in turns, and the operators that take it."""

    base: Annotated[
        str, Option("Commit that is compared with. Empty: this working tree alone.", "Data")
    ] = ""
    turns: TurnsOption = 7
    json: JsonOption = ""
    markdown: MarkdownOption = ""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ScaleBenchConfig:
    """Measure what an image costs in each stage, at several numbers of images, and fail where that grows with them."""

    images: Annotated[
        str, Option("Numbers of images, separated by commas: two or more.", "Data")
    ] = "16000,256000,1000000"
    stages: Annotated[
        str,
        Option(
            "Stages, separated by commas: cut splits, send jobs, collect results, write tables, open tables, open "
            "tars, start epoch, evaluate. Empty: all.",
            "Data",
        ),
    ] = ""
    turns: TurnsOption = 3
    scratch: ScratchOption = ".data/bench"
    json: JsonOption = ""
    markdown: MarkdownOption = ""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class StorageBenchConfig:
    """Measure epochs from object storage with an empty and a full cache, ours, LitData's and MosaicML Streaming's."""

    dataset: Annotated[str, Option("Name or folder of a dataset.", "Data")] = "samples/caltech-101"
    images: Annotated[
        int,
        Option(
            "Training images. Files are repeated where there are fewer. 0: those there are.",
            "Data",
            0,
        ),
    ] = 0
    loaders: Annotated[
        str,
        Option(
            "Loaders, separated by commas: resident, dali, litdata, streaming. Empty: all.", "Data"
        ),
    ] = ""
    latencies: Annotated[
        str, Option("Milliseconds that the server waits before each answer, with commas.", "Data")
    ] = "0,30"
    image_size: Annotated[
        int, Option("Side of the batches in px. 0: the recipe's.", "Data", 0, 2048)
    ] = 0
    batch_size: Annotated[
        int, Option("Images in a batch. 0: 512 up to 64 px, 128 above.", "Run", 0)
    ] = 0
    threads: ThreadsOption = 0
    turns: TurnsOption = 3
    scratch: ScratchOption = ".data/bench"
    json: JsonOption = ""
    markdown: MarkdownOption = ""

    def __post_init__(self) -> None:
        check(self)
