"""Recognize the three splits by the names that people give them."""

from __future__ import annotations

SPLITS = ("train", "validation", "test")
UNLABELED = tuple(
    f"{split}_unlabeled" for split in SPLITS
)  # their images without a label, as splits of their own
ALL_SPLITS = (*SPLITS, *UNLABELED)
NUMBER_OF = {name: number for number, name in enumerate(ALL_SPLITS)}  # as tables hold them
EVALUATION = ("eval", "evaluation")  # test, or validation where another one is called test

_NAMES = {
    "train": ("train", "training", "trn", "trainset", "train_set"),
    "validation": (
        "validation",
        "valid",
        "val",
        "validate",
        "dev",
        "development",
        "valset",
        "val_set",
    ),
    "test": ("test", "testing", "tst", "testset", "test_set", *EVALUATION),
}
_SPLIT_OF = {alias: split for split, aliases in _NAMES.items() for alias in aliases}


def find_split(name: str) -> str:
    """Return "train", "validation" or "test" for one of their usual names in any case, else an empty string."""
    return _SPLIT_OF.get(name.strip().lower().replace("-", "_"), "")
