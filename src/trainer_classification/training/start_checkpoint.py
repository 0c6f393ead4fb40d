"""Choose what a training starts from: a checkpoint to resume, a picked archive, given weights, or nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from trainer_classification.checkpoint import archive, weights
from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.checkpoint.meta import CheckpointMeta
from trainer_classification.config import TrainConfig
from trainer_classification.environment import in_cloud, on_several_machines
from trainer_classification.options import options_of
from trainer_classification.outputs.summary import FILE_NAME as SUMMARY


@dataclass(frozen=True)
class StartCheckpoint:
    """What a training starts from.

    Attributes:
        kind: "new": random weights; "weights": those of `--weights`; "resume": a
            checkpoint; "archive": an archive that is resumed if its training fits
            this one and is not finished, and fine-tuned otherwise.
        reason: for the user.
        path: of the checkpoint or archive; None for the other kinds.
        meta: description of the checkpoint that would be resumed; None if there
            is none.
        network: of the archive, the weights or a checkpoint whose options are
            taken, if it is known and the catalogue has it; else "auto".
        weights: value of `--weights` that the network is filled with; "": none.
        mean: that the weights expect images to be normalized by, for each
            channel, in 0..1; (): the dataset's.
        std: likewise.
    """

    kind: Literal["new", "weights", "resume", "archive"]
    reason: str
    path: Path | None = None
    meta: CheckpointMeta | None = None
    network: str = "auto"
    weights: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    @property
    def kept_meta(self) -> CheckpointMeta | None:
        """Description of the run that this one goes on with; None: it begins anew."""
        if self.meta is None or self.kind not in ("resume", "archive"):
            return None
        if self.kind == "archive" and self.meta.progress.finished:
            return None
        return self.meta


def choose_start(config: TrainConfig) -> StartCheckpoint:
    """Choose what to start from, before this run writes anything.

    Raises:
        ValueError: the requested checkpoint or weights do not exist or are
            damaged, or the picked file is not an archive.
    """
    if config.resume == "auto":
        path, reason = checkpoint.find_newest(
            [output_folder(config) / "experiments", _checkpoint_folder()],
            config.project_name,
            _has_outputs,
        )
        if path is not None:
            return _resume(config, reason, path, checkpoint.load_meta(path))
        return _without_checkpoint(config, reason)

    if config.resume:
        path = _find_last(Path(config.resume))
        return _resume(config, f"resume {path}", path, checkpoint.load_resumable_meta(path))

    if in_cloud():
        picked, name = archive.find(_checkpoint_folder())
        if picked is not None:
            found = archive.read(picked)
            meta = found.load_checkpoint_meta()
            described = found.best or meta
            return StartCheckpoint(
                "archive",
                f"the picked checkpoint {name}",
                picked,
                meta,
                _known_network(found.network),
                mean=tuple(described.mean) if described else (),
                std=tuple(described.std) if described else (),
            )
    return _without_checkpoint(config, "")


def reads_options(config: TrainConfig) -> bool:
    """Return whether a run takes its options from the checkpoint that it resumes.

    `--resume auto` does not in the cloud, where the launch form gives every
    option, and not on several machines, which may find different checkpoints.
    """
    if config.resume == "auto":
        return not in_cloud() and not on_several_machines()
    return bool(config.resume)


def explain_refusal(path: Path, difference: str) -> ValueError:
    """Return the error of a checkpoint that a run cannot continue from."""
    return ValueError(
        f"{path} cannot be resumed: {difference}. Use the options and the dataset of its run, or start a new training "
        f"from its weights with --weights {path}."
    )


def output_folder(config: TrainConfig) -> Path:
    """Return the folder for the outputs of all runs."""
    return Path(config.output_dir or ".data")


def _checkpoint_folder() -> Path:
    """Return the platform's folder of checkpoints."""
    return Path(os.environ.get("MDI_CHECKPOINT_DIR", "/opt/ml/checkpoints"))


def _find_last(path: Path) -> Path:
    """Return the checkpoint of a run's folder, or the path itself where it is no folder."""
    if not path.is_dir():
        return path
    names = ("checkpoints/last.pth", "last.pth")
    for name in names:
        if (path / name).is_file():
            return path / name
    raise ValueError(f"There is no checkpoint in {path}: it holds neither {' nor '.join(names)}.")


def _resume(config: TrainConfig, reason: str, path: Path, meta: CheckpointMeta) -> StartCheckpoint:
    network = "auto"
    if reads_options(config):
        reason = f"{reason}, with its options where none are given"
        network = _known_network(meta.network)
    return StartCheckpoint(
        "resume", reason, path, meta, network, mean=tuple(meta.mean), std=tuple(meta.std)
    )


def _has_outputs(path: Path) -> bool:
    """Return whether the run of a checkpoint has written everything: its summary comes last."""
    if path.parent == _checkpoint_folder():
        artifacts = Path(os.environ.get("MDI_ARTIFACT_DIR", "/opt/ml/output/data"))
    else:
        artifacts = path.parents[1] / "data"
    return (artifacts / SUMMARY).is_file()


def _without_checkpoint(config: TrainConfig, reason: str) -> StartCheckpoint:
    if not config.weights:
        return StartCheckpoint("new", reason or "random weights")
    reason = "; ".join(filter(None, (reason, f"--weights {config.weights}")))
    if config.weights == "imagenet":
        if config.model != "auto":
            weights.check_imagenet(config.model)
        return StartCheckpoint("weights", reason, weights="imagenet")
    found = weights.read(Path(config.weights))
    return StartCheckpoint(
        "weights",
        reason,
        network=_known_network(found.network),
        weights=config.weights,
        mean=tuple(found.mean),
        std=tuple(found.std),
    )


def _known_network(name: str) -> str:
    networks = get_args(options_of(TrainConfig)["model"][0])
    return name if name in networks else "auto"
