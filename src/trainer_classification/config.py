"""Every option of every command: type, default, help and check live here once.

From these frozen dataclasses come the command line (`cli.py`), the Hafnia launch form (`scripts/*.schema.json`) and the
logged configuration. "", 0, -1 or "auto" mean unset: the recipe of the dataset decides (`recipes.py`).
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from trainer_classification.options import Option, check

Device = Literal["auto", "cpu", "cuda"]
Loader = Literal["auto", "resident", "ffcv", "dali", "torch"]

# Options that several commands have.
DatasetOption = Annotated[
    str,
    Option(
        "Name (mnist, cifar10, cifar100, caltech-101, caltech-256, ...) or folder of a Hafnia dataset, or of "
        "images as <split>/<class>/*. Empty: the dataset mounted by Training-aaS, else mnist.",
        "Data",
    ),
]
TaskOption = Annotated[
    str, Option("Which classification task, where the dataset has several. Empty: the only one.", "Data")
]
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


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Classify images with a trained model, or write a dataset's predictions as Hafnia's benchmark asks for."""

    paths: Annotated[
        str,
        Option(
            "Images to classify: files, folders, patterns such as 'photos/*.jpg', or - for a list on stdin.",
            "Images",
            takes_rest=True,
        ),
    ] = ""
    model: Annotated[
        str,
        Option(
            "Folder of a run, its model.pth, a checkpoint or checkpoint.zip. Empty: the newest run below .data.",
            "Model",
        ),
    ] = ""
    top_k: Annotated[int, Option("Classes to name for each image, the likeliest first.", "Output", 1, 1000)] = 1
    format: Annotated[
        Literal["auto", "table", "json", "csv"],
        Option("What to print. auto: a table on a terminal, else JSON, an object a line.", "Output"),
    ] = "auto"
    batch_size: Annotated[int, Option("Images a batch. 0: 16 on a CPU, 128 on a GPU.", "Run", 0, 1 << 16)] = 0
    num_workers: Annotated[
        int, Option("Threads that decode and classify. 0: one for each CPU.", "Run", at_least=0, at_most=1024)
    ] = 0
    device: Annotated[Device, Option("Where to classify. auto: the GPU where there is one.", "Run")] = "auto"
    model_dir: Annotated[str, Option("For Hafnia's benchmark: folder with the one checkpoint.zip.", "Benchmark")] = ""
    dataset_dir: Annotated[str, Option("For Hafnia's benchmark: folder of the dataset.", "Benchmark")] = ""
    output_dir: Annotated[
        str, Option("For Hafnia's benchmark: folder to write the dataset with its predictions to.", "Benchmark")
    ] = ""
    project_name: Annotated[str, Option("For Hafnia's benchmark: name of the project in the tracker.", "Benchmark")] = (
        "trainer-classification"
    )

    def __post_init__(self) -> None:
        check(self)
        folders = {"--model-dir": self.model_dir, "--dataset-dir": self.dataset_dir, "--output-dir": self.output_dir}
        missing = [name for name, value in folders.items() if not value]
        if 0 < len(missing) < len(folders):
            given = ", ".join(folders)
            raise ValueError(f"Hafnia's benchmark needs {given} together: {', '.join(missing)} is missing.")
        if not missing and self.paths:
            raise ValueError(f"{', '.join(folders)} name what is classified: leave the paths out, or these options.")

    @property
    def is_benchmark(self) -> bool:
        """Whether Hafnia's benchmark asks."""
        return bool(self.model_dir)
