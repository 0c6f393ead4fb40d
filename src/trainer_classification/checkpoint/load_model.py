"""Rebuild a trained model from anything that a run leaves."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from trainer_classification import models
from trainer_classification.checkpoint import archive, foreign_stem
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.checkpoint.meta import CheckpointMeta
from trainer_classification.models.resnet import SMALL_IMAGE

# Where a run's folder has its model, the best first.
_CANDIDATES = (
    "model.pth",
    "model/model.pth",
    "checkpoints/best.pth",
    "best.pth",
    "checkpoints/last.pth",
    "last.pth",
)

# What draws the weights of a new network.
_DRAWS = frozenset(
    (
        Tensor.normal_,
        Tensor.uniform_,
        nn.init.normal_,
        nn.init.uniform_,
        nn.init.trunc_normal_,
        nn.init.kaiming_uniform_,
    )
)

_SIDE_PER_TRAIN_SIZE = 1.25  # of arrays that version 0.1 prepared


@dataclass(frozen=True)
class Model:
    """A trained network with all that is needed to use it.

    Attributes:
        network: in evaluation mode, on the CPU; normalized float [B, C, H, W] to
            logits [B, K].
        name: of the network, such as "resnet18".
        class_names: in the order of the logits.
        image_size: side of the images it was trained for, in px.
        channels: of the images, 1 or 3.
        mean: to normalize by, for each channel, in 0..1.
        std: to normalize by, for each channel, in 0..1.
        dataset: name of the dataset it was trained on.
        source: file it was loaded from.
        resized: whether images were resized when they were prepared; else they
            kept their size and were padded.
        array_size: side of the prepared images, in px.
        task: of the dataset; "": not known.
        fingerprint: of the prepared dataset.
        eval_crop: side of the central square it was tested on, as a fraction of
            an image's short side; 0: the whole image.
        temperature: that the logits are divided by before the softmax, fitted on
            validation; None: not fitted.
        gray_shift: bits that gray images of 16 and 32 bits lose.
        cpu_precision: that a CPU trained in, float32 or bfloat16; "": a GPU, or not
            known.
        is_frozen: whether only the head was trained, on features of a frozen
            backbone.
        options: of its run, as `CheckpointMeta.config`; {}: not known.
    """

    network: nn.Module
    name: str
    class_names: tuple[str, ...]
    image_size: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dataset: str
    source: Path
    resized: bool
    array_size: int
    task: str = ""
    fingerprint: str = ""
    eval_crop: float = 0.0
    temperature: float | None = None
    gray_shift: int = 8
    cpu_precision: str = ""
    is_frozen: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)

    def describe_network(self) -> str:
        """Return what tells this network from others of its name: its number of parameters."""
        return f"{self.name} of {sum(weight.numel() for weight in self.network.parameters()):,} parameters"


class _NoRandomWeights(TorchFunctionMode):
    """Leaves weights unset where they would be drawn: for networks that get all of theirs from a file.

    Drawing those of a ResNet-18 takes longer than classifying a photo.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func in _DRAWS:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def load_model(path: str | Path) -> Model:
    """Load a trained model; reading it runs no code from the file.

    Args:
        path: folder of a run, its `model.pth`, one of its checkpoints, or the
            platform's `checkpoint.zip`. Of a checkpoint with averaged weights,
            these are used.

    Raises:
        ValueError: there is no model, the file is damaged, or it is an archive of
            another trainer with a network that is not known.
    """
    source = find_model_file(Path(path))
    if not source.is_file():
        raise ValueError(f"There is no model {source}.")
    if zipfile.is_zipfile(source) and archive.is_archive(source):
        found = archive.read(source)
        if found.best is None:
            return _load_foreign(found)
        tensors = found.load_weights()
        meta = found.best
    else:
        state, meta = checkpoint.load(source)
        tensors = state.get("average", state["model"])

    return _build(source, tensors, meta)


def _build(source: Path, tensors: dict[str, Tensor], meta: CheckpointMeta) -> Model:
    """Return the model that a run's checkpoint describes."""
    with _NoRandomWeights():
        network = models.build(
            meta.network, len(meta.class_names), meta.channels, meta.image_size, meta.recipe.width
        )
    _copy_weights(network, tensors, source, meta.network)
    # Checkpoints of version 0.1 do not say how their images were prepared; their
    # recipe implies it.
    resized = meta.recipe.policy.crop == "resized" if meta.resized is None else meta.resized
    default_size = round(_SIDE_PER_TRAIN_SIZE * meta.image_size) if resized else meta.image_size

    return Model(
        network=network.eval(),
        name=meta.network,
        class_names=tuple(meta.class_names),
        image_size=meta.image_size,
        channels=meta.channels,
        mean=tuple(meta.mean),
        std=tuple(meta.std),
        dataset=meta.dataset,
        source=source,
        resized=resized,
        array_size=meta.array_size or default_size,
        task=meta.task,
        fingerprint=meta.fingerprint,
        eval_crop=meta.recipe.eval_crop,
        temperature=meta.temperature,
        gray_shift=meta.gray_shift,
        cpu_precision=meta.cpu_precision,
        is_frozen=meta.recipe.freeze == "backbone",
        options=meta.config,
    )


def find_model_file(path: Path) -> Path:
    """Return the file with the model of a run's folder, or the path itself where it is no folder.

    Raises:
        ValueError: the folder holds none.
    """
    if not path.is_dir():
        return path
    for name in _CANDIDATES:
        if (path / name).is_file():
            return path / name
    raise ValueError(f"{path} holds no model; it may be {', '.join(_CANDIDATES)}.")


def _load_foreign(found: archive.Archive) -> Model:
    """Return the model of an archive of Hafnia's own trainer.

    Its networks are torchvision's ResNets with the stem for large images, whatever
    the size. It resizes images whole to a square, and normalizes by the mean and
    standard deviation of ImageNet (`trainer-classification`, 459bafb).
    """
    if found.network not in foreign_stem.NETWORKS:
        raise ValueError(
            f"{found.path} is an archive of another trainer with the network {found.network!r}, but known are "
            f"{', '.join(foreign_stem.NETWORKS)}: predict with the trainer that wrote it."
        )
    side = max(found.image_size, SMALL_IMAGE)
    with _NoRandomWeights():
        network = models.build(found.network, len(found.class_names), 3, side)
    _copy_weights(network, found.load_weights(), found.path, found.network)

    return Model(
        network=network.eval(),
        name=found.network,
        class_names=tuple(found.class_names),
        image_size=found.image_size,
        channels=3,
        mean=foreign_stem.IMAGENET_MEAN,
        std=foreign_stem.IMAGENET_STD,
        dataset="unknown",
        source=found.path,
        resized=True,
        array_size=round(_SIDE_PER_TRAIN_SIZE * found.image_size),
        task=found.task,
    )


def _copy_weights(network: nn.Module, tensors: dict[str, Tensor], source: Path, name: str) -> None:
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"The weights in {source} do not fit a {name}: {error}") from error
