"""Run a model over a split of a dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from trainer_classification.arrays import Float32, Int64
from trainer_classification.checkpoint.load_model import Model
from trainer_classification.data.in_use import hold
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.table import open_table
from trainer_classification.device import choose_device, has_bf16_cpu
from trainer_classification.environment import keep_freed_memory
from trainer_classification.faster_precision import choose_for_inference, dtype_of_precision
from trainer_classification.inference.evaluated_dataset import DataOptions, prepare_for
from trainer_classification.inference.run_dataset import note_other_images
from trainer_classification.loaders.base import LoaderRequest
from trainer_classification.loaders.collect_logits import collect_logits
from trainer_classification.loaders.registry import open_loader
from trainer_classification.models.backbone import split_head
from trainer_classification.models.normalize import Normalize


@dataclass(frozen=True)
class SplitLogits:
    """What a model says of the N images of a split, in the order of the samples.

    Attributes:
        manifest: of the prepared dataset.
        files: N paths of the original files.
        logits: float32 [N, M], of the model's M classes.
        labels: int64 [N], of the dataset's classes.
        eval_crop: what the model saw of each image, as `Recipe.eval_crop`.
        notes: what the reader should know of the images, a sentence each.
    """

    manifest: Manifest
    files: Sequence[str]
    logits: Float32
    labels: Int64
    eval_crop: float = 0.0
    notes: tuple[str, ...] = ()


def run_on_split(model: Model, options: DataOptions) -> SplitLogits:
    """Run a model over a split, on images prepared at the size it was trained for.

    Raises:
        ValueError: the dataset or split is not there, its images have more
            channels than the model takes, or the model's outputs are not finite.
    """
    device = choose_device(options.device)[0]
    if device.type == "cpu":
        keep_freed_memory()
    prepared, engine = prepare_for(model, options, device)
    manifest = prepared.manifest
    _check_data(model, options, manifest)
    eval_crop = choose_view(model, options, manifest)
    request = LoaderRequest(
        folder=prepared.folder,
        manifest=manifest,
        split=options.split,
        plan=None,
        batch_size=options.batch_size,
        image_size=model.image_size,
        device=device,
        threads=options.threads,
        eval_crop=eval_crop,
    )
    normalize = Normalize(list(model.mean), list(model.std), device)

    def normalize_channels(images: Tensor) -> Tensor:
        # A gray image in RGB has three equal channels.
        return normalize(images.expand(-1, -1, -1, model.channels))

    with hold(prepared.folder), open_loader(engine, request) as loader:
        network = model.network.to(device)
        if model.is_frozen:
            network = _HeadOnFeatures(network, model.name)
        dtype = _choose_precision(model, network, options, device)
        logits, labels = collect_logits(network, loader, normalize_channels, dtype)
    _check_finite(logits, model)
    files = open_table(prepared.folder, manifest, options.split).files

    note = note_other_images(model, manifest, options.split, files, options.prepared)

    return SplitLogits(manifest, files, logits, labels, eval_crop, (note,) if note else ())


class _HeadOnFeatures(nn.Module):
    """A head on a frozen backbone, computed as its run did: only the features in less than fp32, norms folded."""

    def __init__(self, network: nn.Module, name: str) -> None:
        super().__init__()
        self.backbone, self.head = split_head(network, name)
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Normalized images, float [B, C, H, W], to logits, float [B, K]."""
        features = self.backbone(images).float()
        with torch.autocast(images.device.type, enabled=False):
            return cast(Tensor, self.head(features))


def _choose_precision(
    model: Model, network: nn.Module, options: DataOptions, device: torch.device
) -> torch.dtype | None:
    """Return the dtype of autocast, as `DataOptions.amp` says; None: none."""
    if device.type == "cpu" and options.amp == "auto" and model.cpu_precision:
        return dtype_of_precision(model.cpu_precision) if has_bf16_cpu() else None

    shape = (options.batch_size, model.channels, model.image_size, model.image_size)
    return choose_for_inference(
        device, options.amp, network, shape, model.describe_network(), torch.get_num_threads()
    )


def choose_view(model: Model, options: DataOptions, manifest: Manifest) -> float:
    """Return what the model sees of each image, as `Recipe.eval_crop`."""
    if not manifest.resized:
        return 0.0
    return model.eval_crop if options.eval_crop < 0 else options.eval_crop


def _check_data(model: Model, options: DataOptions, manifest: Manifest) -> None:
    if options.split not in manifest.splits:
        raise ValueError(
            f"{manifest.dataset} has no labeled images in its split {options.split!r}: choose --split "
            f"{', '.join(manifest.labeled_splits)}{_explain_lack(options, manifest)}."
        )
    if manifest.channels > model.channels:
        raise ValueError(
            f"{model.source} takes gray images, but those of {manifest.dataset} have {manifest.channels} channels: "
            f"evaluate it on a gray dataset."
        )


def _explain_lack(options: DataOptions, manifest: Manifest) -> str:
    """Say why there is no validation split, where an option is the reason."""
    fraction = manifest.options.get("validation_fraction")
    if options.split != "validation" or fraction != 0:
        return ""
    return " (--validation-fraction is 0, as it was in the run unless you gave it)"


def _check_finite(logits: Float32, model: Model) -> None:
    wrong = int((~torch.from_numpy(logits).isfinite().all(dim=1)).sum())
    if wrong:
        raise ValueError(
            f"{model.source} gives outputs that are not finite for {wrong} of {len(logits)} images: its weights are "
            f"damaged or its training diverged; choose another checkpoint."
        )
