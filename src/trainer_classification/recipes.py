"""What each dataset trains with, and a sensible derived recipe for any other."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal

from trainer_classification.config import ModelName, TrainConfig
from trainer_classification.plan import Policy


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All that shapes a training, with no value left open.

    Attributes:
        model, width: network, and channels of its first stage, for resnet-small and speednet; 0: theirs.
        image_size: side in px the network sees.
        batch_size: global batch.
        learning_rate: peak, for this batch size.
        ema: decay of the averaged weights a step; 0 for none.
        minimum_steps: few images get more epochs, until there are this many steps.
        clip_norm: largest norm of the gradient; 0: any.
        mixup, cutmix: alphas of their beta distributions; 0: none.
        progressive: side in px of the first epochs' images; 0: `image_size` throughout.
        policy: augmentation of the training images.
    """

    model: ModelName = "resnet18"
    width: int = 0
    image_size: int
    epochs: int
    batch_size: int
    optimizer: Literal["sgd", "adamw", "muon"] = "sgd"
    learning_rate: float
    momentum: float = 0.9
    weight_decay: float = 5e-4
    schedule: Literal["cosine", "triangular", "constant"] = "triangular"
    warmup_fraction: float = 0.2
    label_smoothing: float = 0.1
    ema: float = 0.0
    minimum_steps: int = 0
    clip_norm: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    progressive: int = 0
    policy: Policy


_CIFAR = Policy(crop="shift", shift=4, pad="reflect", flip="alternating")
_PHOTO = Policy(crop="resized", area=(0.25, 1.0), flip="random")

RECIPES: dict[str, Recipe] = {
    # No flip: a mirrored digit is another sign.
    "mnist": Recipe(
        model="resnet-small",
        width=16,
        image_size=28,
        epochs=3,
        batch_size=128,
        learning_rate=1.0,
        weight_decay=2e-4,
        label_smoothing=0.05,
        minimum_steps=300,
        policy=Policy(crop="shift", shift=2, pad="zero"),
    ),
    "cifar10": Recipe(image_size=32, epochs=30, batch_size=512, learning_rate=0.4, policy=_CIFAR, ema=0.99),
    "cifar100": Recipe(image_size=32, epochs=30, batch_size=512, learning_rate=0.4, policy=_CIFAR, ema=0.99),
    "caltech-101": Recipe(image_size=128, epochs=60, batch_size=128, learning_rate=0.1, policy=_PHOTO, ema=0.99),
    "caltech-256": Recipe(image_size=128, epochs=60, batch_size=128, learning_rate=0.1, policy=_PHOTO, ema=0.99),
}

# Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498, and its record with Muon.
_SPEED = Recipe(
    model="speednet",
    image_size=32,
    epochs=12,
    batch_size=500,
    optimizer="muon",
    learning_rate=0.12,
    momentum=0.6,
    weight_decay=0.0085,
    schedule="triangular",
    warmup_fraction=0.0,
    label_smoothing=0.2,
    policy=Policy(crop="shift", shift=2, pad="reflect", flip="alternating"),
)
_SPEED_PHOTO = dataclasses.replace(_SPEED, image_size=128, epochs=40, batch_size=128, policy=_PHOTO)
SPEED_RECIPES: dict[str, Recipe] = {
    "cifar10": _SPEED,
    "cifar100": _SPEED,
    "caltech-101": _SPEED_PHOTO,
    "caltech-256": _SPEED_PHOTO,
}


def train_size(name: str, longest_side: int) -> tuple[int, str]:
    """Side in px the network sees, and why: the recipe's, else the images' own up to 64 px, else 128."""
    if name in RECIPES:
        return RECIPES[name].image_size, f"the recipe of {name}"
    if longest_side <= 64:
        return max(longest_side, 8), "the images' own size"
    return 128, "images larger than 64 px"


def recipe_kind(config: TrainConfig, name: str, on_cpu: bool) -> Literal["standard", "speed"]:
    """Which recipe of a dataset `--recipe` means; auto: speed on a CPU, unless another network is asked for.

    Raises:
        ValueError: speed, and the dataset has no such recipe.
    """
    if config.recipe == "speed" and name not in SPEED_RECIPES:
        raise ValueError(f"--recipe speed is for {', '.join(SPEED_RECIPES)}, not for {name}: leave it out.")
    if config.recipe != "auto":
        return config.recipe
    resnet = config.model not in ("auto", "speednet") or config.weights == "imagenet"  # which has ResNets alone
    own = not resnet and config.optimizer in ("auto", "muon")
    return "speed" if on_cpu and own and name in SPEED_RECIPES else "standard"


def recipe_for(
    name: str,
    image_size: int,
    channels: int,
    count: int,
    resized: bool = False,
    kind: Literal["standard", "speed"] = "standard",
) -> tuple[Recipe, str]:
    """The recipe of a dataset, and why.

    A named recipe keeps its augmentation where the images were kept at their size, and takes at least its
    `minimum_steps`, for bundled and platform samples have few images.

    Args:
        name: of the dataset.
        image_size: side in px the network will see.
        channels: 1 or 3.
        count: training images.
        resized: stored resized, so that they are cropped, not shifted.
        kind: which recipe, where the dataset has several.
    """
    if kind == "speed":
        return _fitted(SPEED_RECIPES[name], image_size, count, resized), f"speed recipe of {name}"
    if name in RECIPES:
        return _fitted(RECIPES[name], image_size, count, resized), f"recipe of {name}"
    epochs = min(100, max(10, round(1_500_000 / max(count, 1))))
    if not resized:
        # Nothing is known of what a mirror image means in a grey dataset: signs and digits are most often grey.
        policy = Policy(crop="shift", shift=max(1, image_size // 8), flip="none" if channels == 1 else "random")
        batch, rate = 256, 0.2
    else:
        policy, batch, rate = _PHOTO, 128, 0.1
    batch = min(batch, max(8, count // 8))
    recipe = Recipe(image_size=image_size, epochs=epochs, batch_size=batch, learning_rate=rate, policy=policy)
    return recipe, f"derived from {count} images of {image_size} px with {channels} channels"


def _fitted(recipe: Recipe, image_size: int, count: int, resized: bool) -> Recipe:
    steps = max(1, count // recipe.batch_size)
    policy = recipe.policy
    if resized and policy.crop == "shift":
        policy = dataclasses.replace(policy, crop="resized", shift=0, area=(0.5, 1.0))
    epochs = max(recipe.epochs, -(-recipe.minimum_steps // steps))
    return dataclasses.replace(recipe, image_size=image_size, epochs=epochs, policy=policy)


def resolve(config: TrainConfig, recipe: Recipe) -> Recipe:
    """The recipe with what the user set in its place."""
    set_by_user = {
        name: value for name in ("epochs", "batch_size", "learning_rate") if (value := getattr(config, name)) > 0
    }
    set_by_user |= {
        name: value
        for name in (
            *("weight_decay", "warmup_fraction", "label_smoothing", "ema"),
            *("clip_norm", "mixup", "cutmix", "progressive"),
        )
        if (value := getattr(config, name)) >= 0
    }
    set_by_user |= {
        name: value for name in ("model", "optimizer", "schedule") if (value := getattr(config, name)) != "auto"
    }
    policy = {name: getattr(config, name) for name in ("shift", "cutout") if getattr(config, name) >= 0}
    policy |= {"flip": config.flip} if config.flip != "auto" else {}
    return dataclasses.replace(recipe, **set_by_user, policy=dataclasses.replace(recipe.policy, **policy))
