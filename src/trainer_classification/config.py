"""Every option of every command: type, default, help and check live here once.

From these frozen dataclasses come the CLI (`cli.py`), the Hafnia launch form (`scripts/*.schema.json`) and the logged
configuration. Fields are int, float, str, bool or Literal with a default that is not None; "", 0, -1 or "auto" mean
unset: the recipe of the dataset decides (`recipes.py`). Annotations are not deferred: the form builder reads them.
"""

import dataclasses
import math
import os
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args, get_type_hints

Device = Literal["auto", "cpu", "cuda"]
Loader = Literal["auto", "resident", "ffcv", "dali", "torch"]
_LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")  # what a launcher sets


class Option(str):
    """The help text of a field, with its group in `--help` and the values it may take.

    A str, because the SDK's form builder takes the description of a field from a str in its annotation.
    """

    group: str
    at_least: float
    at_most: float

    def __new__(cls, help: str, group: str = "Run", at_least: float = -math.inf, at_most: float = math.inf) -> Self:
        option = super().__new__(cls, help)
        option.group, option.at_least, option.at_most = group, at_least, at_most
        return option


def cpu_count() -> int:
    """CPUs that this process may use: a container is often given fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def launched() -> bool:
    """Whether this process is one of several that a launcher (ours or torchrun) started."""
    return all(name in os.environ for name in _LAUNCHED)


def in_cloud() -> bool:
    """Whether this is a run of Training-aaS; by the SDK's own rule."""
    return os.environ.get("HAFNIA_CLOUD", "").lower() == "true"


def options_of(config: type[Any]) -> dict[str, tuple[Any, Option, Any]]:
    """Name -> (type, option, default) of each field of a config dataclass, in order."""
    hints = get_type_hints(config, include_extras=True)
    return {field.name: (*get_args(hints[field.name])[:2], field.default) for field in dataclasses.fields(config)}


def check(config: Any) -> None:
    """Raise ValueError that names the option, what it got and what it may be."""
    for name, (kind, option, _) in options_of(type(config)).items():
        value, flag = getattr(config, name), "--" + name.replace("_", "-")
        if get_args(kind) and value not in get_args(kind):
            raise ValueError(f"{flag} is {value!r}, but must be one of: {', '.join(map(str, get_args(kind)))}.")
        if isinstance(value, int | float) and not option.at_least <= value <= option.at_most:
            bounds = (
                f"between {option.at_least:g} and {option.at_most:g}"
                if option.at_most < math.inf
                else (f"{option.at_least:g} or more")
            )
            raise ValueError(f"{flag} is {value}, but must be {bounds}.")


# Options that several commands have.
DatasetOption = Annotated[
    str,
    Option(
        "Name (mnist, cifar10, cifar100, caltech-101, caltech-256, ...) or folder of a Hafnia dataset, of images as "
        "<class>/* or <split>/<class>/*, or a table of paths and labels (CSV, TSV, parquet, JSON-lines). Empty: the "
        "dataset mounted by Training-aaS, else mnist.",
        "Data",
    ),
]
TaskOption = Annotated[
    str, Option("Which classification task, where the dataset has several. Empty: the only one.", "Data")
]
TestFractionOption = Annotated[
    float,
    Option("Share of train cut off as test where the dataset has none.", "Data", at_least=0.01, at_most=0.9),
]
UnknownFoldersOption = Annotated[
    Literal["fail", "skip", "train"],
    Option(
        "Folders beside split folders, and splits in a table, that are none of train, validation and test: fail, skip "
        "them, or take them for training.",
        "Data",
    ),
]
NestedOption = Annotated[
    Literal["take", "refuse"],
    Option("Images in folders within a class folder: take them for the class, or refuse the dataset.", "Data"),
]
PathColumnOption = Annotated[str, Option("Column of a table that holds the paths. Empty: found by name.", "Data")]
LabelColumnOption = Annotated[str, Option("Column of a table that holds the labels. Empty: found by name.", "Data")]
SplitColumnOption = Annotated[str, Option("Column of a table that holds the splits. Empty: found by name.", "Data")]
PreparedOption = Annotated[
    str, Option("Folder to keep prepared datasets in. Empty: .data/prepared, or local disk in the cloud.", "Data")
]


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Convert a Hafnia dataset into shards that train at full speed."""

    dataset: DatasetOption = ""
    task: TaskOption = ""
    out: PreparedOption = ""
    image_size: Annotated[
        int,
        Option(
            "Side in px of the images that the network will see. 0: the recipe's. Images of up to 64 px keep their "
            "size unless another is given; larger ones are stored at 1.25 times this size.",
            "Images",
            at_least=0,
            at_most=2048,
        ),
    ] = 0
    validation_fraction: Annotated[
        float,
        Option(
            "Share of train cut off as validation where the dataset has none. 0: none, and the dataset's own "
            "validation images join train.",
            "Data",
            at_least=0,
            at_most=0.9,
        ),
    ] = 0.1
    test_fraction: TestFractionOption = 0.2
    unknown_folders: UnknownFoldersOption = "fail"
    nested: NestedOption = "take"
    path_column: PathColumnOption = ""
    label_column: LabelColumnOption = ""
    split_column: SplitColumnOption = ""
    on_bad_image: Annotated[
        Literal["auto", "fail", "skip"],
        Option(
            "What to do with images that cannot be read: fail, skip, or auto (skip up to 1 % bad, fail above). "
            "They are named in the table and in the manifest either way.",
            "Images",
        ),
    ] = "auto"
    formats: Annotated[
        str,
        Option(
            "What to write, of array (the resident loader), beton (ffcv) and tar (dali). What was prepared before is "
            "kept. Training by itself prepares what its loader needs.",
            "Formats",
        ),
    ] = "array,beton,tar"
    beton_mode: Annotated[
        Literal["auto", "raw", "jpg"],
        Option("Images in the beton: raw pixels or JPEG. auto: raw for images kept at their size.", "Formats"),
    ] = "auto"
    beton_side: Annotated[
        int,
        Option(
            "Longest side in px of images in the beton; larger ones are resized. 0: 2.5 times the image size, -1: no "
            "bound.",
            "Formats",
            -1,
            65535,
        ),
    ] = 0
    workers: Annotated[int, Option("Processes. 0: one for each CPU.", "Run", at_least=0, at_most=1024)] = 0
    force: Annotated[bool, Option("Prepare again, even where it is already done.", "Run")] = False
    verify: Annotated[bool, Option("Only check the prepared files against their checksums.", "Run")] = False

    def __post_init__(self) -> None:
        check(self)
        known = ("array", "beton", "tar")
        unknown = [name for name in self.formats.split(",") if name and name not in known]
        if unknown:
            raise ValueError(f"--formats has {', '.join(map(repr, unknown))}, but may list: {','.join(known)}.")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train an image classifier on a Hafnia dataset, preparing it first where that is not done."""

    project_name: Annotated[str, Option("Name of the project in the experiment tracker.", "Run")] = (
        "trainer-classification"
    )
    # Data
    dataset: DatasetOption = ""
    task: TaskOption = ""
    prepared: PreparedOption = ""
    resize: Annotated[
        int, Option("Side in px of the images the network sees. 0: the recipe's.", "Data", at_least=0, at_most=2048)
    ] = 0
    validation_fraction: Annotated[
        float,
        Option(
            "Share of train cut off as validation where the dataset has none. 0: train on everything but test, and "
            "keep the last epoch.",
            "Data",
            at_least=0,
            at_most=0.9,
        ),
    ] = 0.1
    test_fraction: TestFractionOption = 0.2
    unknown_folders: UnknownFoldersOption = "fail"
    nested: NestedOption = "take"
    path_column: PathColumnOption = ""
    label_column: LabelColumnOption = ""
    split_column: SplitColumnOption = ""
    loader: Annotated[
        Loader, Option("What delivers the batches. auto: the fastest that fits; it says why.", "Data")
    ] = "auto"
    num_workers: Annotated[
        int, Option("Threads or processes that load. 0: one for each CPU.", "Data", at_least=0, at_most=1024)
    ] = 0
    # Augmentation
    flip: Annotated[
        Literal["auto", "none", "random", "alternating"],
        Option(
            "Horizontal flip: none, random, or alternating (every image is flipped every other epoch).", "Augmentation"
        ),
    ] = "auto"
    shift: Annotated[
        int, Option("Largest random shift in px, for small images. -1: the recipe's.", "Augmentation", -1, 64)
    ] = -1
    cutout: Annotated[
        int, Option("Side in px of the square blanked at random. 0: none, -1: the recipe's.", "Augmentation", -1, 512)
    ] = -1
    # Model and optimisation
    model: Annotated[
        Literal["auto", "resnet-small", "resnet18", "resnet34", "resnet50", "speednet"],
        Option("Network. auto: the recipe's.", "Model"),
    ] = "auto"
    recipe: Annotated[
        Literal["auto", "standard", "speed"],
        Option(
            "What the dataset trains with. speed: speednet in few epochs, for cifar10, cifar100, caltech-101 and "
            "caltech-256. auto: speed there on a CPU, else standard.",
            "Model",
        ),
    ] = "auto"
    weights: Annotated[
        str,
        Option(
            "Begin with trained weights: a model.pth, checkpoint, state dict, zip or tar, or imagenet (torchvision's, "
            "downloaded). A head of other classes begins anew.",
            "Model",
        ),
    ] = ""
    epochs: Annotated[int, Option("Passes over the training images. 0: the recipe's.", "Optimisation", 0, 100000)] = 0
    batch_size: Annotated[
        int, Option("Images a step, over all GPUs together. 0: the recipe's.", "Optimisation", 0, 1 << 20)
    ] = 0
    optimizer: Annotated[
        Literal["auto", "sgd", "adamw", "muon"],
        Option("SGD with Nesterov momentum, AdamW, or Muon (orthogonal steps; for speednet).", "Optimisation"),
    ] = "auto"
    learning_rate: Annotated[float, Option("Peak learning rate. 0: the recipe's.", "Optimisation", 0)] = 0.0
    weight_decay: Annotated[
        float, Option("Not applied to norms and biases. -1: the recipe's.", "Optimisation", -1)
    ] = -1.0
    schedule: Annotated[
        Literal["auto", "cosine", "triangular", "constant"],
        Option("Learning rate after the warm-up: down a cosine, down a line, or level.", "Optimisation"),
    ] = "auto"
    warmup_fraction: Annotated[
        float, Option("Share of the steps over which the rate rises. -1: the recipe's.", "Optimisation", -1, 1)
    ] = -1.0
    label_smoothing: Annotated[
        float, Option("Probability spread over the other classes. -1: the recipe's.", "Optimisation", -1, 0.9)
    ] = -1.0
    ema: Annotated[
        float,
        Option(
            "Decay of the averaged weights that are evaluated and kept. 0: none, -1: the recipe's.",
            "Optimisation",
            -1,
            1,
        ),
    ] = -1.0
    amp: Annotated[
        Literal["auto", "fp16", "bf16", "off"],
        Option("Mixed precision. auto: fp16 on T4 and V100, bf16 on newer GPUs, off on a CPU.", "Optimisation"),
    ] = "auto"
    # Run
    device: Annotated[Device, Option("Where to train. auto: the GPU where there is one.", "Run")] = "auto"
    seed: Annotated[int, Option("Fixes the order, the augmentation and the first weights.", "Run", 0, 2**31 - 1)] = 0
    resume: Annotated[
        str,
        Option("Go on from a checkpoint: its path, or auto (the newest of this project, where there is one).", "Run"),
    ] = ""
    output_dir: Annotated[str, Option("Folder for experiments. Empty: .data.", "Run")] = ""
    log_interval: Annotated[int, Option("Steps between updates of the live line. 0: about one a second.", "Run", 0)] = 0
    max_steps_per_epoch: Annotated[int, Option("Cut each epoch short. 0: the whole epoch.", "Run", 0)] = 0
    stop_early: Annotated[
        bool, Option("A dry run: two steps of one epoch through the whole path, outputs included.", "Run")
    ] = False
    on_bad_image: Annotated[
        Literal["auto", "fail", "skip"],
        Option("When preparing: fail on images that cannot be read, skip them, or auto (skip up to 1 %).", "Data"),
    ] = "auto"

    # The loop: step, processes, planning
    accumulate: Annotated[
        int, Option("Parts in which a batch is computed, to save memory; norms see a part.", "Optimisation", 1, 4096)
    ] = 1
    clip_norm: Annotated[
        float, Option("Largest norm of the gradient. 0: any, -1: the recipe's.", "Optimisation", -1)
    ] = -1.0
    mixup: Annotated[
        float, Option("Alpha of mixup: images are blended in pairs. 0: none, -1: the recipe's.", "Augmentation", -1)
    ] = -1.0
    cutmix: Annotated[
        float, Option("Alpha of cutmix: boxes are pasted in pairs. 0: none, -1: the recipe's.", "Augmentation", -1)
    ] = -1.0
    progressive: Annotated[
        int,
        Option(
            "Side in px to begin with, growing to --resize; large images only. 0: none, -1: the recipe's.",
            "Optimisation",
            -1,
            2048,
        ),
    ] = -1
    compile: Annotated[
        Literal["auto", "off", "default", "reduce-overhead", "graph"],
        Option(
            "graph: the step as one CUDA graph. default, reduce-overhead: torch.compile, whose cost is reported. auto: "
            "graph on one GPU, else off.",
            "Optimisation",
        ),
    ] = "auto"
    tta: Annotated[
        Literal["none", "flip", "flip-translate"],
        Option("Test also on the mean of several views of each image, reported apart.", "Run"),
    ] = "none"
    processes: Annotated[
        int, Option("Processes on this machine. 0: one for each visible GPU, else one.", "Run", 0, 1024)
    ] = 0
    budget: Annotated[
        str, Option("Time for the whole command, as 90s, 10min or 1h: plans epochs, sizes and batch to fit.", "Run")
    ] = ""
    preflight: Annotated[
        bool, Option("Only check data, step, memory and checkpoint, and say how long it will take.", "Run")
    ] = False

    def __post_init__(self) -> None:
        check(self)
        if self.compile == "reduce-overhead" and self.accumulate > 1:
            raise ValueError(
                "--compile reduce-overhead records a step in one piece, which --accumulate cuts into parts: use "
                "--compile default, or --accumulate 1."
            )


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
