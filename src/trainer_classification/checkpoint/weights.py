"""Weights from elsewhere to begin with: torchvision's, or a file of ours or others'; a head of other classes is new."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from trainer_classification.checkpoint import archive

HEAD = ("fc.weight", "fc.bias")
_PREFIXES = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile
_SUFFIXES = (".pth", ".pt")


@dataclass(frozen=True)
class Weights:
    """Tensors by name, where they are from, and the classes of their head where that is known."""

    tensors: dict[str, Tensor]
    origin: str
    class_names: list[str] = field(default_factory=list)


def load_weights(model: nn.Module, source: str, name: str, class_names: Sequence[str]) -> str:
    """Copy into a model every tensor that fits by name and shape; returns a line that says which did not.

    The head stays as it is where the weights are known to be of other classes, or have another number of them.

    Args:
        model: changed in place.
        source: "imagenet", or a file: a checkpoint or `model.pth` of ours, a state dict, a zip or tar that holds one,
            the platform's `checkpoint.zip`, or a folder with `model.pth`.
        name: of the model, as in the catalogue.
        class_names: that its head is for.

    Raises:
        ValueError: the weights cannot be had, or are of another network.
    """
    weights = imagenet(name) if source == "imagenet" else read(Path(source))
    mine = model.state_dict()
    fitting = {
        key: tensor for key, tensor in weights.tensors.items() if key in mine and tensor.shape == mine[key].shape
    }
    if weights.class_names and weights.class_names != list(class_names):
        fitting = {key: tensor for key, tensor in fitting.items() if key not in HEAD}
    body = [key for key in mine if key not in HEAD]
    if len([key for key in body if key in fitting]) < len(body) / 2:
        raise ValueError(
            f"--weights {source} is of another network than {name}: {len(fitting)} of its {len(weights.tensors)} "
            f"tensors fit ({_some(weights.tensors)} / {_some(mine)}). Choose the --model and size it was trained with."
        )
    model.load_state_dict(fitting, strict=False)
    new, unused = [key for key in mine if key not in fitting], [key for key in weights.tensors if key not in fitting]
    return (
        f"Weights: {len(fitting)} of {len(mine)} tensors from {weights.origin}; "
        f"begun anew: {_some(new)}; not used: {_some(unused)}."
    )


def _some(names: Mapping[str, Any] | list[str]) -> str:
    """The first names, and how many more."""
    listed = list(names)
    return (", ".join(listed[:4]) + (f" and {len(listed) - 4} more" if len(listed) > 4 else "")) or "none"


def imagenet(name: str) -> Weights:
    """Torchvision's newest ImageNet weights of a network, from its cache or the network.

    Raises:
        ValueError: there are none for it, or there is no network.
    """
    if name not in ("resnet18", "resnet34", "resnet50"):
        raise ValueError(f"--weights imagenet: there are none for {name}; use --model resnet18, resnet34 or resnet50.")
    from torchvision.models import get_model_weights

    best = get_model_weights(name).DEFAULT
    try:
        tensors = best.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:  # no network, or a file that was cut short
        raise ValueError(
            f"--weights imagenet: cannot download {best.url} ({error}). Fetch it elsewhere, and give its path."
        ) from error
    return Weights(dict(tensors), f"torchvision {best}", list(best.meta["categories"]))


def read(path: Path) -> Weights:
    """The weights in a file or folder; reading runs no code of it.

    Raises:
        ValueError: there is no such file, it is damaged, or holds no weights.
    """
    if path.is_dir():
        path = path / "model.pth"
    if not path.is_file():
        raise ValueError(f"There are no weights {path}.")
    if _is_archive(path):
        model = archive.read(path)
        trained_on = f", trained on {model.best['dataset']}" if model.best else ""
        return Weights(_state_dict(model.weights, path), f"{path} ({model.network}{trained_on})", model.class_names)
    try:
        content = torch.load(io.BytesIO(_bytes(path)), map_location="cpu", weights_only=True)
    except (RuntimeError, pickle.UnpicklingError, EOFError, KeyError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise ValueError(f"{path} is damaged or holds no weights: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, not the weights of a model by name.")
    meta = json.loads(content["meta"]) if isinstance(content.get("meta"), str) else {}
    origin = f"{path} ({meta['recipe']['model']}, trained on {meta['dataset']})" if meta else str(path)
    return Weights(_state_dict(content, path), origin, meta.get("class_names", []))


def _is_archive(path: Path) -> bool:
    """Whether it is the platform's `checkpoint.zip`, which says itself which file has the weights."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as file:
        return archive.CONFIG in file.namelist()


def _bytes(path: Path) -> bytes:
    """The file, or the one file of weights within an archive; a file of torch is a zip too, with a `data.pkl`."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            names = file.namelist()
            if not any(name.endswith("data.pkl") for name in names):
                return file.read(_member(names, path))
    elif tarfile.is_tarfile(path):
        with tarfile.open(path) as tar:
            member = tar.extractfile(_member(tar.getnames(), path))
            assert member is not None
            return member.read()
    return path.read_bytes()


def _member(names: list[str], path: Path) -> str:
    found = [name for name in names if name.endswith(_SUFFIXES)]
    models = [name for name in found if Path(name).name == "model.pth"] or found
    if len(models) != 1:
        raise ValueError(
            f"{path} holds {len(models)} files of weights ({_some(models)}): give one of them to --weights."
        )
    return models[0]


def _state_dict(content: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Tensors by name, whatever they are wrapped in; the average where a checkpoint has one."""
    for key in ("state", "average", "model", "state_dict"):
        inner = content.get(key)
        content = inner if isinstance(inner, dict) else content
    tensors = {key: tensor for key, tensor in content.items() if isinstance(tensor, Tensor)}
    if not tensors:
        raise ValueError(f"{path} holds no tensors by name, but: {_some([str(key) for key in content])}.")
    for prefix in _PREFIXES:
        tensors = {key.removeprefix(prefix): tensor for key, tensor in tensors.items()}
    return tensors
