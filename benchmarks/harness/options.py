"""The options of the benchmarks' command lines."""

from dataclasses import dataclass
from typing import Annotated

from trainer_classification.config import Device, TrainConfig
from trainer_classification.options import Option, check

ScratchOption = Annotated[
    str, Option("Folder for what is prepared and written to be measured; kept for the next run.", "Data")
]
SecondsOption = Annotated[float, Option("Measure each at least this long.", "Run", 0)]
TurnsOption = Annotated[int, Option("And in at least so many turns; six give the first 95 % interval.", "Run", 1)]
JsonOption = Annotated[str, Option("File to write the figures to. Empty: none.", "Output")]
MarkdownOption = Annotated[str, Option("File to write the tables to, as Markdown. Empty: none.", "Output")]
ThreadsOption = Annotated[int, Option("Threads, or worker processes, of each. 0: one for each CPU.", "Run", 0, 1024)]


@dataclass(frozen=True, kw_only=True)
class LoaderBenchConfig:
    """Measure how many images a second loaders deliver, this package's and others', all in turns and checked."""

    dataset: Annotated[
        str,
        Option(
            "Names or folders of datasets, with commas. Empty: the bundled samples of cifar100 and caltech-101, "
            "repeated to 2,048 and 512 images.",
            "Data",
        ),
    ] = ""
    loaders: Annotated[
        str,
        Option(
            "Which, with commas: resident, ffcv, dali, torch; ffcv-stock-raw, ffcv-stock-jpg, dali-stock; "
            "ffcv-on-stock-raw, ffcv-on-stock-jpg (ours over FFCV's files); webdataset, litdata, streaming, spdl; "
            "ceiling-copy, ceiling-decode, ceiling-decode-beton. Empty: all that are installed.",
            "Data",
        ),
    ] = ""
    image_size: Annotated[int, Option("Side in px of the batches. 0: the recipe's.", "Data", 0, 2048)] = 0
    batch_size: Annotated[int, Option("Images a batch. 0: 512 up to 64 px, else 128.", "Run", 0)] = 0
    threads: ThreadsOption = 0
    device: Annotated[Device, Option("Where the batches go. auto: the GPU where there is one.", "Run")] = "auto"
    seconds: SecondsOption = 0.6
    turns: TurnsOption = 6
    cold: Annotated[bool, Option("Time an epoch from disk too; each loader is opened twice for it.", "Run")] = False
    ladder: Annotated[
        str, Option("Measure the ladder down to training of these loaders, with commas. Empty: none.", "Run")
    ] = "resident"
    scratch: ScratchOption = ".data/bench"
    json: JsonOption = ""
    markdown: MarkdownOption = ""
    chart: Annotated[
        str, Option("PNG file for a chart; with several datasets, its name gets theirs. Empty: none.", "Output")
    ] = ""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class PrepareBenchConfig:
    """Measure prepare, a format at a time and all three, against FFCV's DatasetWriter fed by Pillow, in turns."""

    dataset: Annotated[str, Option("Name or folder of a dataset.", "Data")] = "samples/caltech-101"
    images: Annotated[
        int, Option("So many training images, repeated where there are fewer. 0: as they are.", "Data", 0)
    ] = 0
    writers: Annotated[
        str,
        Option(
            "Which, with commas: array, beton-raw, beton-jpg, tar, all; ffcv-raw, ffcv-jpg. Empty: all that are "
            "installed.",
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
    """Measure training: the time of a step and what of it is waiting for data; on mnist, the time to an accuracy."""

    dataset: Annotated[str, Option("Name or folder of a dataset.", "Data")] = "samples/mnist"
    loaders: Annotated[str, Option("Which feed the steps, with commas: resident, ffcv, dali, torch.", "Data")] = (
        "resident,torch"
    )
    threads: ThreadsOption = 0
    seconds: SecondsOption = 5.0
    turns: TurnsOption = 7
    device: Annotated[Device, Option("Where to train. auto: the GPU where there is one.", "Run")] = "auto"
    accuracy: Annotated[
        float, Option("Also time whole trainings to this test accuracy, ours and the baseline. 0: not.", "Run", 0, 1)
    ] = 0.0
    limit: Annotated[float, Option("Seconds after which a training that has not got there is stopped.", "Run", 1)] = (
        600.0
    )
    epochs: Annotated[int, Option("Of our trainings to --accuracy. 0: the recipe's.", "Run", 0, 10000)] = 0
    scratch: ScratchOption = ".data/bench"
    json: JsonOption = ""
    markdown: MarkdownOption = ""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class RecipeBenchConfig(TrainConfig):
    """Train with several seeds: accuracy, seconds and CPU seconds of each. All options of train.py, and some more."""

    validation_fraction: Annotated[float, Option("As of train.py; here all images train.", "Data", 0, 0.9)] = 0.0
    per_class: Annotated[
        int, Option("Train on so many images a class, drawn by the seed; test on all others. 0: its splits.", "Data", 0)
    ] = 0
    seeds: Annotated[int, Option("Trainings, of the seeds --seed, --seed + 1, ...", "Run", 1, 100)] = 3
    json: Annotated[str, Option("File to put the rows into. Empty: none.", "Output")] = ""


@dataclass(frozen=True, kw_only=True)
class PredictBenchConfig:
    """Measure predict beside a plain loop of Pillow, torchvision and batches of 32, and the network alone, in turns."""

    dataset: Annotated[str, Option("Folder of a dataset of photos, whose files are classified.", "Data")] = (
        "samples/caltech-101"
    )
    images: Annotated[int, Option("So many of its files. 0: all.", "Data", 0)] = 0
    networks: Annotated[str, Option("Which, with commas.", "Data")] = "speednet,resnet18"
    image_size: Annotated[int, Option("Side in px of the images that the networks see.", "Data", 32, 2048)] = 128
    turns: TurnsOption = 5
    scratch: ScratchOption = ".data/bench"
    json: JsonOption = ""
    markdown: MarkdownOption = ""

    def __post_init__(self) -> None:
        check(self)
