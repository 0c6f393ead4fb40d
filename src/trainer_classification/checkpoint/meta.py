"""Describe a checkpoint: what was trained, on what, and how far. Its JSON is written and read here only."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass, field
from typing import Any

from trainer_classification.checkpoint.history import History
from trainer_classification.config import TrainConfig
from trainer_classification.recipes import Recipe, recipe_from_json

FORMAT_VERSION = 1
_MAX_SIDE = 1 << 16  # of an image

# Names in the JSON of format 1 that differ from those of the fields.
_PROGRESS_NAMES = {
    "steps_before": "before",
    "step_limit": "limit",
    "seconds_spent": "spent",
    "best_score": "best",
}

# Options beside the recipe's that a run keeps: another seed means other draws,
# and scores are compared over all epochs.
_KEPT_OPTIONS = ("seed", "best_by")


@dataclass
class Progress:
    """How far a run has come: what a checkpoint keeps beside the tensors.

    Attributes:
        epoch: epochs that are complete.
        step: steps taken in the epoch that runs.
        steps_before: steps taken in the complete epochs.
        epochs: of the run, where a budget plans them; 0: the recipe's.
        step_limit: steps in an epoch, where a budget plans them; 0: all.
        seconds_spent: since the command started, earlier runs that were resumed
            included.
        times: fields of `step_times.Times` as the budget's plan assumes them;
            empty: no budget.
        best_score: highest score of an epoch so far, by --best-by; -1: none.
        finished: True once the last epoch is complete.
        seconds_training: in steps, and waiting for their batches.
        seconds_waiting: those of them in which the device waited for data.
        images: trained on, over all ranks.
        seconds_first_step: from the start of the command to the end of the first
            step.
        seconds_in_first_step: in the first step itself.
        history: one row of metrics for each epoch; the last field, as in the JSON.
    """

    epoch: int = 0
    step: int = 0
    steps_before: int = 0
    epochs: int = 0
    step_limit: int = 0
    seconds_spent: float = 0.0
    times: tuple[float, ...] = ()
    best_score: float = -1.0
    finished: bool = False
    seconds_training: float = 0.0
    seconds_waiting: float = 0.0
    images: int = 0
    seconds_first_step: float = 0.0
    seconds_in_first_step: float = 0.0
    history: History = field(default_factory=History)

    @property
    def steps_done(self) -> int:
        """Steps since the start of the run."""
        return self.steps_before + self.step


@dataclass(frozen=True)
class CheckpointMeta:
    """Everything about a checkpoint but its tensors.

    Attributes:
        config: the options as JSON types.
        recipe: of the training.
        dataset: its name.
        class_names: in the order of the model's outputs.
        channels: of the images, 1 or 3.
        image_size: side of the images the network sees, in px.
        mean: that images are normalized by, for each channel, in 0..1: of the
            training images, or what the trained weights expect.
        std: likewise.
        fingerprint: of the prepared dataset.
        progress: how far the run had come.
        task: of the dataset; "": not known.
        array_size: side of the prepared images in px; 0: not known.
        resized: whether images were resized when they were prepared; None: not
            known.
        temperature: that the logits are divided by before the softmax, fitted on
            validation; None: not fitted.
        gray_shift: bits that gray images of 16 and 32 bits lost when they were
            prepared.
        cpu_precision: that a CPU trained in, float32 or bfloat16; "": a GPU, or not
            known.
        cpu_threads: of torch in each process that trained on a CPU; 0: a GPU, or not
            known.
    """

    config: dict[str, Any]
    recipe: Recipe
    dataset: str
    class_names: list[str]
    channels: int
    image_size: int
    mean: list[float]
    std: list[float]
    fingerprint: str
    progress: Progress
    task: str = ""
    array_size: int = 0
    resized: bool | None = None
    temperature: float | None = None
    gray_shift: int = 8
    cpu_precision: str = ""
    cpu_threads: int = 0

    @property
    def network(self) -> str:
        """Name of the network."""
        return self.recipe.model

    @property
    def project_name(self) -> str:
        """Name of the project in the tracker."""
        return str(self.config["project_name"])

    @property
    def has_budget(self) -> bool:
        """Whether a budget plans the run."""
        return bool(self.progress.times)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON types."""
        names = [entry.name for entry in dataclasses.fields(Progress)]
        return {
            "format_version": FORMAT_VERSION,
            "config": self.config,
            "recipe": dataclasses.asdict(self.recipe),
            "dataset": self.dataset,
            "class_names": self.class_names,
            "channels": self.channels,
            "image_size": self.image_size,
            "mean": self.mean,
            "std": self.std,
            "manifest_fingerprint": self.fingerprint,
            "task": self.task,
            "array_size": self.array_size,
            "resized": self.resized,
            "temperature": self.temperature,
            "gray_shift": self.gray_shift,
            "cpu_precision": self.cpu_precision,
            "cpu_threads": self.cpu_threads,
            "finished": self.progress.finished,
            "state": {
                _PROGRESS_NAMES.get(name, name): getattr(self.progress, name) for name in names
            },
        }

    def to_text(self) -> str:
        """Return it as JSON text."""
        content = self.to_json()
        history = content["state"].pop("history")
        text = json.dumps(content).removesuffix("}}")
        return f'{text}, "history": {history.to_text()}}}}}'

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> CheckpointMeta:
        """Read it from JSON types.

        Raises:
            ValueError: it has another format version, or a value is missing.
        """
        if not isinstance(content, dict):
            raise ValueError(f"its description is a {type(content).__name__}")
        version = content.get("format_version")
        if version != FORMAT_VERSION:
            raise ValueError(
                f"it has format version {version}, this program reads {FORMAT_VERSION}: use the program that wrote it"
            )
        try:
            meta = cls(
                config=content["config"],
                recipe=recipe_from_json(content["recipe"]),
                dataset=content["dataset"],
                class_names=content["class_names"],
                channels=content["channels"],
                image_size=content["image_size"],
                mean=content["mean"],
                std=content["std"],
                fingerprint=content["manifest_fingerprint"],
                progress=_progress_from_json(content["state"]),
                task=content.get("task", ""),
                array_size=content.get("array_size", 0),
                resized=content.get("resized"),
                temperature=content.get("temperature"),
                gray_shift=content.get("gray_shift", 8),
                cpu_precision=content.get("cpu_precision", ""),
                cpu_threads=content.get("cpu_threads", 0),
            )
        except (LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"its description lacks {error}") from error
        meta._check_values()
        return meta

    def _check_values(self) -> None:
        """Raise ValueError if a value is of a kind that this program never writes."""
        names = self.class_names
        channels = self.channels if self.channels in (1, 3) else 0
        is_right = {
            "config": isinstance(self.config, dict) and "project_name" in self.config,
            "dataset": isinstance(self.dataset, str),
            "class_names": isinstance(names, list) and all(isinstance(n, str) for n in names),
            "channels": channels > 0,
            "image_size": isinstance(self.image_size, int) and 0 < self.image_size <= _MAX_SIDE,
            "mean": _are_numbers(self.mean, channels),
            "std": _are_numbers(self.std, channels),
            "temperature": self.temperature is None or _are_numbers([self.temperature], 1),
            "cpu_threads": isinstance(self.cpu_threads, int) and self.cpu_threads >= 0,
        }
        for name in (name for name, right in is_right.items() if not right):
            raise ValueError(f"its {name} is {_shorten(getattr(self, name))!r}")

    def find_difference(
        self,
        dataset: str,
        class_names: list[str],
        fingerprint: str,
        recipe: Recipe,
        config: TrainConfig,
    ) -> str:
        """Say why a run cannot continue from this checkpoint.

        Args:
            dataset: name of the run's dataset.
            class_names: of the run's dataset.
            fingerprint: of the run's prepared dataset.
            recipe: of the run.
            config: of the run.

        Returns:
            The first thing that differs, with both values; "" if the run can
            continue.
        """
        if self.dataset != dataset:
            return f"its dataset differs ({self.dataset} / {dataset})"
        if self.class_names != class_names:
            return (
                f"its class_names differs ({_shorten(self.class_names)} / {_shorten(class_names)})"
            )
        if self.fingerprint != fingerprint:
            return (
                f"its dataset is {dataset}, too, but of other images, sizes or splits "
                f"(manifest_fingerprint {self.fingerprint} / {fingerprint})"
            )
        theirs = _as_json(self.recipe)
        ours = _as_json(recipe)
        changed = [
            f"{name} {theirs[name]} / {ours[name]}" for name in theirs if theirs[name] != ours[name]
        ]
        if changed:
            return f"its recipe differs ({', '.join(changed)})"

        for name in _KEPT_OPTIONS:
            before = self.config.get(name, getattr(config, name))  # older runs lack some options
            if before != getattr(config, name):
                return f"its {name} differs ({before} / {getattr(config, name)})"

        return ""


def _are_numbers(values: Any, count: int) -> bool:
    """Return whether these are a list of at least so many finite numbers."""
    return (
        isinstance(values, list)
        and len(values) >= count
        and all(isinstance(value, int | float) and math.isfinite(value) for value in values)
    )


def _progress_from_json(content: dict[str, Any]) -> Progress:
    names = [entry.name for entry in dataclasses.fields(Progress)]
    values = {name: content[_PROGRESS_NAMES.get(name, name)] for name in names}
    if not isinstance(values["history"], list):
        raise TypeError("a history of its kind")
    changed = {"times": tuple(values["times"]), "history": History(values["history"])}
    progress = Progress(**values | changed)
    for name in names:
        expected = getattr(Progress(), name)
        kind = (int, float) if isinstance(expected, int | float) else type(expected)
        if not isinstance(getattr(progress, name), kind):
            raise TypeError(f"a {name} of its kind")
    return progress


def _as_json(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe as it comes back from JSON, so that tuples and lists compare equal."""
    return dict(json.loads(json.dumps(dataclasses.asdict(recipe))))


def _shorten(value: object) -> str:
    return str(value)[:60]
