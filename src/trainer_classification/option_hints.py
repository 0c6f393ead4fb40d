"""Say what to type instead of an option that does not exist: names of timm, Ultralytics and torchvision, and typos."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from pathlib import Path

from trainer_classification.options import flag

_CLOSE = 0.7  # of difflib, for a typo

# Field that does what the foreign option does.
_SAME = {
    "dataset": (
        "data",
        "data_dir",
        "data_path",
        "dataset_dir",
        "root",
        "source",
        "input",
        "train_dir",
        "folder",
    ),
    "task": ("task_name",),
    "prepared": ("cache_dir", "prepared_dir", "out_dir"),
    "image_size": (
        "imgsz",
        "img_size",
        "input_size",
        "train_crop_size",
        "size",
        "resolution",
        "img",
        "crop_size",
    ),
    "validation_fraction": (
        "val_fraction",
        "val_split",
        "validation_split",
        "val_size",
        "val_ratio",
    ),
    "test_fraction": ("test_split", "test_size", "test_ratio"),
    "workers": ("j", "num_worker", "n_workers", "nw", "threads", "jobs"),
    "flip": ("fliplr", "hflip", "horizontal_flip", "flips"),
    "shift": ("translate",),
    "erasing": ("reprob", "random_erase", "random_erasing"),
    "rand_augment": ("aa", "auto_augment", "autoaugment", "randaugment", "ra_magnitude"),
    "color_jitter": ("colorjitter", "hsv_s", "hsv_v", "brightness", "contrast", "saturation"),
    "mixup": ("mixup_alpha",),
    "cutmix": ("cutmix_alpha",),
    "model": ("arch", "a", "network", "net", "backbone", "architecture", "m", "model_name", "cfg"),
    "weights": ("initial_checkpoint", "pretrained_weights", "finetune", "init", "load", "ckpt"),
    "epochs": ("e", "num_epochs", "n_epochs", "max_epochs", "epoch"),
    "batch_size": ("b", "bs", "batch", "batchsize", "bsz", "total_batch_size"),
    "optimizer": ("opt", "optim"),
    "learning_rate": ("lr", "lr0", "lr_base", "base_lr", "max_lr", "init_lr"),
    "weight_decay": ("wd", "w", "decay"),
    "schedule": ("sched", "scheduler", "lr_scheduler", "lr_schedule", "cos_lr"),
    "warmup_fraction": (
        "warmup",
        "warmup_epochs",
        "lr_warmup_epochs",
        "warmup_steps",
        "warmup_ratio",
    ),
    "label_smoothing": ("smoothing", "ls"),
    "class_weights": ("class_weight", "weighted_loss", "balance_classes", "cls_pw"),
    "ema": ("model_ema", "model_ema_decay", "ema_decay"),
    "amp": ("amp_dtype", "precision", "half", "fp16", "bf16", "mixed_precision", "no_amp"),
    "accumulate": (
        "grad_accum_steps",
        "accumulation_steps",
        "gradient_accumulation_steps",
        "accumulate_grad_batches",
    ),
    "clip_norm": ("clip_grad", "clip_grad_norm", "max_grad_norm", "gradient_clip_val"),
    "compile": ("torchcompile", "torch_compile"),
    "device": ("gpu", "gpus", "gpu_id", "cuda", "cpu", "accelerator"),
    "processes": ("nproc", "nproc_per_node", "devices", "num_gpus", "ngpus", "world_size"),
    "seed": ("random_seed", "manual_seed"),
    "early_stop": ("patience", "patience_epochs", "early_stopping", "early_stopping_patience"),
    "resume": ("checkpoint", "resume_from", "continue", "resume_from_checkpoint"),
    "output_dir": ("output", "o", "save_dir", "runs", "logdir", "log_dir", "out"),
    "project_name": ("project", "experiment_name"),
    "tracker": ("logger", "tensorboard", "report_to", "log_to"),
    "log_interval": ("print_freq", "log_every"),
    "max_steps_per_epoch": ("steps_per_epoch", "limit_train_batches"),
    "stop_early": ("dry_run", "fast_dev_run", "debug"),
    "tta": ("test_time_augmentation",),
    "budget": ("time", "max_time"),
    "verify": ("check",),
    "force": ("overwrite", "exist_ok"),
    "json_file": ("json", "save_json", "results_file"),
    "csv_file": ("csv", "save_csv"),
}

# What a foreign option stands for, where nothing here does it.
_MISSING = {
    "lrf": "choosing the final learning rate",
    "min_lr": "choosing the final learning rate",
    "momentum": "choosing the momentum",
    "dropout": "dropout",
    "drop": "dropout",
    "drop_path": "stochastic depth",
    "hsv_h": "changing the hue",
    "degrees": "rotating images alone (--rand-augment does among others)",
    "rotation": "rotating images alone (--rand-augment does among others)",
    "shear": "shearing images alone (--rand-augment does among others)",
    "perspective": "perspective changes",
    "vflip": "vertical flips",
    "flipud": "vertical flips",
    "mosaic": "mosaics",
    "bce_loss": "another loss than cross-entropy",
    "loss": "another loss than cross-entropy",
    "save_period": "keeping a checkpoint of every few epochs (best.pth and last.pth are kept)",
    "log_wandb": "another tracker than those of --tracker",
    "wandb": "another tracker than those of --tracker",
    "distill": "distillation",
    "teacher": "distillation",
    "folds": "cross-validation",
}

# What happens anyway, or is a part of another option's value.
_EXPLAINED = {
    "pretrained": "--weights imagenet starts from trained weights.",
    "num_classes": "the classes come from the dataset.",
    "classes": "the classes come from the dataset.",
    "nc": "the classes come from the dataset.",
    "sync_bn": "norms are computed on each process.",
    "deterministic": "runs with the same --seed repeat as far as the device allows.",
    "cache": "images are prepared once and kept.",
    "channels_last": "the fastest memory layout is chosen anyway.",
    "pin_mem": "memory is pinned where that helps.",
    "pin_memory": "memory is pinned where that helps.",
    "mean": "mean and std are those of the training images.",
    "std": "mean and std are those of the training images.",
    "save": "every run writes its model, checkpoints and report.",
    "plots": "every run writes its model, checkpoints and report.",
    "val": "every epoch is validated.",
    "test_only": "evaluate.py tests a trained model.",
    "evaluate": "evaluate.py tests a trained model.",
    "eval": "evaluate.py tests a trained model.",
}
_REPLACEMENTS = {foreign: name for name, others in _SAME.items() for foreign in others}

# Values that other tools take, by option.
_VALUES = {
    "device": {"gpu": "cuda", "cuda:0": "cuda", "0": "cuda", "nvidia": "cuda"},
    "amp": {"float16": "fp16", "bfloat16": "bf16", "true": "auto", "false": "off", "none": "off"},
    "optimizer": {"adam": "adamw", "momentum": "sgd"},
    "schedule": {"linear": "triangular", "onecycle": "cosine"},
    "flip": {"horizontal": "random", "true": "random", "false": "none", "off": "none"},
    "compile": {"true": "default", "false": "off", "none": "off"},
}


def explain_unknown(
    token: str, known: Collection[str], commands: Mapping[str, Collection[str]]
) -> str:
    """Return a sentence about an option that the command does not have.

    Args:
        token: as typed, such as "--lr" or "-b".
        known: fields of the command's config.
        commands: fields of every command, by the script's name, such as
            "train.py".
    """
    typed = token.lstrip("-").replace("-", "_").lower()
    start = f"There is no option {token}"
    if typed in _EXPLAINED:
        return f"{start}: {_EXPLAINED[typed]}"
    if typed in _MISSING:
        return f"{start}, and nothing here does that yet: {_MISSING[typed]}."

    name = _REPLACEMENTS.get(typed, typed)
    if name in known:
        return f"{start}: here it is {flag(name)}."
    scripts = [script for script, names in commands.items() if name in names]
    if scripts:
        return f"{start} in this command: {flag(name)} is an option of {' and '.join(scripts)}."

    close = difflib.get_close_matches(typed, known, n=1, cutoff=_CLOSE)
    if close:
        return f"{start}: did you mean {flag(close[0])}?"
    close = difflib.get_close_matches(typed, [*_REPLACEMENTS], n=1, cutoff=_CLOSE)
    if close and _REPLACEMENTS[close[0]] in known:
        return f"{start}: did you mean {flag(_REPLACEMENTS[close[0]])}?"
    return f"{start}: --help lists those there are."


def explain_value(name: str, value: str, choices: Collection[object]) -> str:
    """Return a sentence about a value that is none of an option's choices."""
    names = [str(choice) for choice in choices]
    text = f"{flag(name)} is {value!r}, but must be one of: {', '.join(names)}"
    meant = _VALUES.get(name, {}).get(value.lower())
    if meant in names:
        return f"{text} ({meant} is what {value!r} is elsewhere)."
    close = difflib.get_close_matches(value.lower(), names, n=1, cutoff=_CLOSE)
    return f"{text} (did you mean {close[0]}?)." if close else f"{text}."


def explain_stray(token: str, known: Collection[str]) -> str:
    """Return a sentence about a value that belongs to no option."""
    name, assigned, value = token.partition("=")
    if assigned and name.isidentifier():
        field = _REPLACEMENTS.get(name, name)
        if field in known:
            return f"{token!r} belongs to no option: write {flag(field)} {value}."
        return explain_unknown(flag(name), known, {})
    if "dataset" in known and Path(token).exists():
        return f"{token!r} belongs to no option: to use it as the dataset, write --dataset {token}."
    return f"{token!r} belongs to no option: a value follows its option, such as {_example(known)}."


def _example(known: Collection[str]) -> str:
    return "--dataset mnist" if "dataset" in known else flag(next(iter(known), "help"))
