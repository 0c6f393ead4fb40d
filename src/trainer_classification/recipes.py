"""The training recipe of each known dataset, and one derived from its images for any other."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from trainer_classification.config import ModelName, TrainConfig
from trainer_classification.plan import Policy

RecipeKind = Literal["standard", "speed", "finetune"]
_LISTED_PAIRS = 4  # of classes, in a line


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that shapes a training; no value is left open.

    Attributes:
        model: name of the network.
        width: channels of its first stage, for resnet-small, resnet-digits and
            speednet; 0: their default.
        image_size: side of the images the network sees, in px.
        epochs: passes over the training images.
        batch_size: of the global batch.
        optimizer: its name.
        learning_rate: peak, for this batch size.
        momentum: of SGD and Muon; AdamW's first beta.
        weight_decay: not applied to norms and biases.
        schedule: learning rate after the warm-up.
        warmup_fraction: fraction of the steps over which the learning rate rises.
        label_smoothing: probability spread over the other classes.
        class_weights: "balanced": each class has the same share of the loss.
        ema: decay of the averaged weights, per step; 0: no average.
        minimum_steps: a dataset with few images gets more epochs, until there are
            this many steps.
        clip_norm: largest norm of the gradient; 0: not clipped.
        mixup: alpha of its beta distribution; 0: none.
        cutmix: alpha of its beta distribution; 0: none.
        progressive: side of the images of the first epochs in px; 0: `image_size`
            in all epochs.
        eval_crop: side of the central square that evaluation sees, as a fraction
            of an image's short side; 0: the whole image, squashed to a square.
            Recipes of older checkpoints lack it and mean the whole image.
        freeze: "backbone": only the head is fitted, to the features of a trained
            network.
        unfreeze_after: epochs in which only the head is trained.
        backbone_rate: learning rate of all layers but the head, as a multiple of
            the head's.
        stem_epochs: epochs in which Muon trains the bias of a speednet's first
            layer; 0: all, as recipes of older checkpoints mean.
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
    class_weights: Literal["none", "balanced"] = "none"
    ema: float = 0.0
    minimum_steps: int = 0
    clip_norm: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    progressive: int = 0
    eval_crop: float = 0.0
    freeze: Literal["none", "backbone"] = "none"
    unfreeze_after: int = 0
    backbone_rate: float = 1.0
    stem_epochs: int = 0
    policy: Policy


_CIFAR = Policy(crop="shift", shift=4, pad="reflect", flip="alternating")
_PHOTO = Policy(crop="resized", area=(0.25, 1.0), flip="random")
# Crops enlarge objects, so evaluation does too (Touvron et al., "Fixing the
# train-test resolution discrepancy", arXiv 1906.06423). The fraction is measured
# on Caltech-101: docs/log.md.
_PHOTO_VIEW = 0.9375

_STANDARD_PHOTO = Recipe(
    image_size=128,
    epochs=60,
    batch_size=128,
    learning_rate=0.1,
    policy=_PHOTO,
    ema=0.99,
    eval_crop=_PHOTO_VIEW,
)

RECIPES: dict[str, Recipe] = {
    # No flip: a mirrored digit is a different character.
    "mnist": Recipe(
        model="resnet-digits",
        width=16,
        image_size=28,
        epochs=3,
        batch_size=128,
        learning_rate=1.0,
        weight_decay=2e-4,
        label_smoothing=0.05,
        minimum_steps=300,
        policy=Policy(crop="shift", shift=1, pad="zero"),
    ),
    "cifar10": Recipe(
        image_size=32, epochs=30, batch_size=512, learning_rate=0.4, policy=_CIFAR, ema=0.99
    ),
    "cifar100": Recipe(
        image_size=32, epochs=30, batch_size=512, learning_rate=0.4, policy=_CIFAR, ema=0.99
    ),
    "caltech-101": _STANDARD_PHOTO,
    "caltech-256": _STANDARD_PHOTO,
}

# Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv 2404.00498, and
# its record with Muon.
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
    stem_epochs=3,
    policy=Policy(crop="shift", shift=2, pad="reflect", flip="alternating"),
)
_SPEED_PHOTO = dataclasses.replace(
    _SPEED,
    image_size=128,
    epochs=40,
    batch_size=128,
    stem_epochs=0,
    policy=_PHOTO,
    eval_crop=_PHOTO_VIEW,
)
SPEED_RECIPES: dict[str, Recipe] = {
    "cifar10": _SPEED,
    "cifar100": _SPEED,
    "caltech-101": _SPEED_PHOTO,
    "caltech-256": _SPEED_PHOTO,
}

# What a frozen network with ImageNet weights sees best of Caltech-101, the whole
# image: docs/models.md.
FROZEN_VIEW = 0.0

# Full fine-tuning of trained weights: the head learns first, and the body at a tenth
# of its rate, so that what it knows is not lost (Kumar et al., "Fine-tuning can
# distort pretrained features", arXiv 2202.10054).
_FINETUNE = Recipe(
    model="efficientnet-lite0",
    image_size=224,
    epochs=15,
    batch_size=64,
    learning_rate=0.05,
    weight_decay=1e-4,
    schedule="cosine",
    warmup_fraction=0.1,
    ema=0.99,
    policy=_PHOTO,
    eval_crop=_PHOTO_VIEW,
    unfreeze_after=2,
    backbone_rate=0.1,
)


def train_size(name: str, longest_side: int) -> tuple[int, str]:
    """Return the side of the images the network sees in px, and the reason.

    It is the recipe's; without one, that of the images up to 64 px, and 128 px
    for larger ones.
    """
    if name in RECIPES:
        return RECIPES[name].image_size, f"the recipe of {name}"
    if longest_side <= 64:
        return max(longest_side, 8), "the images' own size"
    return 128, "images larger than 64 px"


def recipe_kind(
    config: TrainConfig, name: str, on_cpu: bool, *, are_photographs: bool = False
) -> RecipeKind:
    """Return which recipe of a dataset `--recipe` means, if auto does not mean finetune.

    auto means speed on a CPU if the dataset has such a recipe, as all photographs
    have, and the options allow its network and optimizer.

    Raises:
        ValueError: speed was requested, and the dataset has no such recipe.
    """
    has_speed = name in SPEED_RECIPES or (are_photographs and name not in RECIPES)
    if config.recipe == "speed" and not has_speed:
        small = [known for known, recipe in SPEED_RECIPES.items() if recipe.policy.crop == "shift"]
        raise ValueError(
            f"--recipe speed is for photographs, {' and '.join(small)}, not for {name}: omit it."
        )
    if config.recipe != "auto":
        return config.recipe

    needs_other_network = config.model not in ("auto", "speednet") or config.weights == "imagenet"
    needs_other_optimizer = config.optimizer not in ("auto", "muon")
    if on_cpu and has_speed and not needs_other_network and not needs_other_optimizer:
        return "speed"
    return "standard"


def recipe_for(
    name: str,
    image_size: int,
    channels: int,
    count: int,
    resized: bool = False,
    *,
    kind: RecipeKind = "standard",
) -> tuple[Recipe, str]:
    """Return the recipe of a dataset, and the reason.

    A named recipe keeps its augmentation if the images are stored at their own
    size. It trains for at least its `minimum_steps`, because bundled samples and
    those of the platform have few images.

    Args:
        name: of the dataset.
        image_size: side of the images the network will see, in px.
        channels: 1 or 3.
        count: training images.
        resized: True if images are stored resized; then they are cropped, not
            shifted.
        kind: which recipe, if the dataset has several.
    """
    if kind == "finetune":
        recipe = _fit(_FINETUNE, image_size, count, resized)
        batch_size = _fit_batch(recipe.batch_size, count)
        return dataclasses.replace(recipe, batch_size=batch_size), "fine-tuning of ImageNet weights"
    if kind == "speed" and name in SPEED_RECIPES:
        return _fit(SPEED_RECIPES[name], image_size, count, resized), f"speed recipe of {name}"
    if kind == "speed":
        return _speed_for_photographs(image_size, count), f"speed recipe, {count} photographs"
    if name in RECIPES:
        return _fit(RECIPES[name], image_size, count, resized), f"recipe of {name}"

    epochs = min(100, max(10, round(1_500_000 / max(count, 1))))
    # Gray images are often digits or signs, which a flip turns into something
    # else.
    flip: Literal["none", "random"] = "none" if channels == 1 else "random"
    if resized:
        policy = dataclasses.replace(_PHOTO, flip=flip)
        batch_size = 128
        learning_rate = 0.1
    else:
        policy = Policy(crop="shift", shift=max(1, image_size // 8), flip=flip)
        batch_size = 256
        learning_rate = 0.2
    recipe = Recipe(
        image_size=image_size,
        epochs=epochs,
        batch_size=_fit_batch(batch_size, count),
        learning_rate=learning_rate,
        policy=policy,
        eval_crop=_PHOTO_VIEW if resized else 0.0,
    )

    return recipe, f"derived from {count} images of {image_size} px with {channels} channels"


def _speed_for_photographs(image_size: int, count: int) -> Recipe:
    """Return the recipe of photographs without a name, measured on parts of Caltech-101: docs/benchmarks.md."""
    epochs = min(_SPEED_PHOTO.epochs, max(10, round(240_000 / max(count, 1))))
    batch_size = _fit_batch(_SPEED_PHOTO.batch_size, count)
    return dataclasses.replace(
        _SPEED_PHOTO, image_size=image_size, epochs=epochs, batch_size=batch_size
    )


def _fit_batch(batch_size: int, count: int) -> int:
    """Return the images of a step where there may be few in all: an epoch of 64 images or more has 8 steps."""
    return min(batch_size, max(8, count // 8))


def without_flips(recipe: Recipe) -> Recipe:
    """Return the recipe of a dataset whose classes mirror into each other."""
    return dataclasses.replace(recipe, policy=dataclasses.replace(recipe.policy, flip="none"))


def describe_pairs(pairs: list[list[str]]) -> str:
    """Return the first pairs of classes as text: "left and right, b and d, ..."."""
    more = ["..."] if len(pairs) > _LISTED_PAIRS else []
    return ", ".join([*(" and ".join(pair) for pair in pairs[:_LISTED_PAIRS]), *more])


def describe_augmentation(policy: Policy, mirrored_classes: list[list[str]] | None = None) -> str:
    """Return what an augmentation does to an image, for the user.

    Args:
        policy: of the recipe.
        mirrored_classes: pairs of classes that mirror into each other, of the
            manifest.
    """
    parts = [_describe_flips(policy.flip, mirrored_classes or [])]
    if policy.crop == "shift" and policy.shift:
        parts.append(f"shifts of up to {policy.shift} px")
    if policy.crop == "resized":
        parts.append(f"crops of {policy.area[0]:.0%} to {policy.area[1]:.0%} of the area")
    if policy.rand_augment:
        parts.append(f"two random operations of magnitude {policy.rand_augment:g}")
    if policy.color_jitter:
        parts.append(f"colors changed by up to {policy.color_jitter:.0%}")
    if policy.cutout:
        parts.append(f"a blank square of {policy.cutout} px")
    if policy.erasing:
        parts.append(f"a blank box in {policy.erasing:.0%} of the images")
    return ", ".join(parts)


def describe_mixing(recipe: Recipe) -> list[str]:
    """Return how a recipe blends images of a batch, for the user."""
    values = {"mixup": recipe.mixup, "cutmix": recipe.cutmix}
    return [f"{name} with alpha {value:g}" for name, value in values.items() if value]


def _describe_flips(flip: str, mirrored_classes: list[list[str]]) -> str:
    pairs = describe_pairs(mirrored_classes)
    if flip == "none":
        reason = f", because classes mirror into each other ({pairs}); --flip random turns them on"
        return f"no flips{reason if pairs else ''}"
    warning = f", although classes mirror into each other ({pairs})"
    return f"{flip} flips, which --flip none turns off{warning if pairs else ''}"


def _fit(recipe: Recipe, image_size: int, count: int, resized: bool) -> Recipe:
    """Adapt a named recipe to the size and number of the images at hand."""
    steps = max(1, count // recipe.batch_size)
    policy = recipe.policy
    if resized and policy.crop == "shift":
        policy = dataclasses.replace(policy, crop="resized", shift=0, area=(0.5, 1.0))
    epochs = max(recipe.epochs, -(-recipe.minimum_steps // steps))
    return dataclasses.replace(recipe, image_size=image_size, epochs=epochs, policy=policy)


# An option that is not at its unset value replaces the recipe's value of the same
# name.
_UNSET_AT_ZERO = ("epochs", "batch_size", "learning_rate")
_UNSET_BELOW_ZERO = (
    *("weight_decay", "warmup_fraction", "label_smoothing", "ema"),
    *("clip_norm", "mixup", "cutmix", "progressive", "eval_crop"),
    *("unfreeze_after", "backbone_rate"),
)
_POLICY_OPTIONS = ("shift", "cutout", "color_jitter", "erasing", "rand_augment")  # unset below 0
_UNSET_AT_AUTO = ("model", "optimizer", "schedule", "freeze", "class_weights")


def apply_options(config: TrainConfig, recipe: Recipe) -> Recipe:
    """Return the recipe with the values that the user set in place of its own."""
    changes = {name: getattr(config, name) for name in _UNSET_AT_ZERO if getattr(config, name) > 0}
    changes |= {
        name: getattr(config, name) for name in _UNSET_BELOW_ZERO if getattr(config, name) >= 0
    }
    changes |= {
        name: getattr(config, name) for name in _UNSET_AT_AUTO if getattr(config, name) != "auto"
    }

    policy = {name: getattr(config, name) for name in _POLICY_OPTIONS if getattr(config, name) >= 0}
    if config.flip != "auto":
        policy["flip"] = config.flip
    return dataclasses.replace(
        recipe, **changes, policy=dataclasses.replace(recipe.policy, **policy)
    )


def recipe_from_json(content: dict[str, Any]) -> Recipe:
    """Rebuild a recipe from the JSON of `dataclasses.asdict`, of this version or an older one.

    Raises:
        TypeError: a value without a default is missing.
    """
    policy: dict[str, Any] = dict(content["policy"])
    for name in ("area", "aspect"):
        if name in policy:
            policy[name] = tuple(policy[name])
    known = {field.name for field in dataclasses.fields(Recipe)}
    values = {name: value for name, value in content.items() if name in known}

    return Recipe(**values | {"policy": Policy(**policy)})
