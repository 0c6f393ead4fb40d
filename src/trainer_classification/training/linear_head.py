"""Train the head of a frozen network: features of each image once, then a linear classifier (a linear probe)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from trainer_classification.arrays import Bool, Float32, Float64, Int64
from trainer_classification.console import duration, log
from trainer_classification.metrics.calibration import fit_temperature
from trainer_classification.optim.logistic_regression import LinearHead, fit_head
from trainer_classification.training.best_epoch import measure_validation
from trainer_classification.training.epoch import EpochStart, close_epoch
from trainer_classification.training.evaluate import Evaluation, evaluate_logits
from trainer_classification.training.features import Features, FrozenNetwork, collect_features
from trainer_classification.training.setup import Setup
from trainer_classification.training.state import State

# From much to little; the best one is between them on every dataset that was tried
# (docs/models.md).
_DECAYS = (0.3, 0.1, 3e-2, 1e-2, 3e-3, 1e-3, 3e-4)
_HELD_BACK = 10  # without a validation split, every tenth image chooses the decay


def train_head(setup: Setup, state: State, received: list[int]) -> None:
    """Compute the features that are missing, fit the head, and close the run's only epoch.

    Rank 0 does the work; the others get the head.

    Args:
        setup: of the run.
        state: of the run.
        received: signals, as `catch_signals` yields them.

    Raises:
        Stopped: a signal arrived; the features so far are kept.
    """
    if state.finished:
        return
    start = EpochStart.of(state)
    row: dict[str, Any] = setup.world.broadcast_object(lambda: _fit(setup, state, received))
    setup.world.broadcast_state(setup.step.model)
    close_epoch(setup, state, row, start, None)
    state.finished = True


def _fit(setup: Setup, state: State, received: list[int]) -> dict[str, Any]:
    """Fit the head of the model, and return the metrics of the epoch, a line of metrics.jsonl."""
    network = FrozenNetwork(setup)
    training = _collect_views(setup, network, received)
    validation = None
    if setup.validation_loader is not None:
        validation = collect_features(setup, network, "validation", received)

    started = time.perf_counter()
    choice = _choose_head(setup, training, validation)
    seconds_head = time.perf_counter() - started
    seconds = training.seconds + seconds_head
    with torch.no_grad():
        network.head.weight.copy_(choice.head.weight)
        if network.head.bias is not None:
            network.head.bias.copy_(choice.head.bias)
    log(f"Head: {choice.reason}, in {duration(seconds_head)}.")

    state.seconds_first_step = time.monotonic() - setup.inputs.started
    state.seconds_in_first_step = seconds
    state.seconds_training += seconds
    state.seconds_waiting += training.seconds_waiting
    state.images += len(training.labels)
    fitted = evaluate_features(setup, choice.head, training)
    row: dict[str, Any] = {
        "epoch": 1,
        "loss_train": fitted.loss,
        "accuracy_train": fitted.accuracy,
        "images_per_second": len(training.labels) / seconds,
        "data_wait_fraction": training.seconds_waiting / seconds,
        "learning_rate": 0.0,
        "seconds": seconds,
        "seconds_head": seconds_head,
    }
    if validation is not None:
        logits = _logits(choice.judged, validation)
        result = evaluate_logits(logits, validation.labels, setup.num_classes)
        row |= measure_validation(result, setup.config.best_by)
        row["temperature"] = fit_temperature(logits, validation.labels).temperature
    return row


def _collect_views(setup: Setup, network: FrozenNetwork, received: list[int]) -> Features:
    """Return the features of all views of the training images, one view after the other."""
    views = [
        collect_features(setup, network, "train", received, view)
        for view in range(setup.config.feature_views)
    ]
    return _concatenate(*views)


@dataclass(frozen=True)
class _Choice:
    """A head and how it was found.

    Attributes:
        head: that is kept.
        judged: that validation was not used for, so that it can be judged by it.
        reason: why this decay.
    """

    head: LinearHead
    judged: LinearHead
    reason: str


def _choose_head(setup: Setup, training: Features, validation: Features | None) -> _Choice:
    """Fit heads from much to little decay, keep the decay that is best on validation, and use all images then.

    Validation images that the dataset brings stay apart; those that were cut from
    its training images join them in the end. Without validation, every tenth
    training image chooses the decay.
    """
    if validation is None:
        is_held = np.arange(len(training.labels)) % _HELD_BACK == 0
        held = _select(training, is_held)
        decay, judged = _search_decay(setup, _select(training, ~is_held), held)
        head = _fit_head(setup, _to_device(setup, training), decay, judged)
        return _Choice(head, judged, f"decay {decay:g}, the best on a tenth of the training images")

    decay, judged = _search_decay(setup, training, validation)
    reason = f"decay {decay:g}, the best on {len(validation.labels):,} validation images"
    if setup.manifest.splits["validation"].origin == "dataset":
        return _Choice(judged, judged, reason)

    everything = _concatenate(training, validation)
    head = _fit_head(setup, _to_device(setup, everything), decay, judged)

    return _Choice(head, judged, f"{reason}, which then joined the training images")


def _concatenate(*parts: Features) -> Features:
    """Return the images of all parts, one after the other."""
    return Features(
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.labels for part in parts]),
        sum(part.seconds for part in parts),
        sum(part.seconds_waiting for part in parts),
    )


def _search_decay(
    setup: Setup, training: Features, validation: Features
) -> tuple[float, LinearHead]:
    """Return the decay with the lowest loss on validation, and its head.

    It is the loss at the best temperature, which is fitted afterwards anyway: much
    decay makes a head unsure of itself, and for its classes often better. Accuracy
    would be too coarse on few images.
    """
    if not (np.isfinite(training.values).all() and np.isfinite(validation.values).all()):
        raise ValueError(
            f"The features of {setup.recipe.model} are not finite: its weights are damaged, or the precision is too "
            f"narrow for them; try --amp off."
        )
    on_device = _to_device(setup, training)
    weights = _weigh_images(setup, validation)
    best_loss = math.inf
    best_decay = _DECAYS[0]
    head: LinearHead | None = None
    for decay in _DECAYS:
        fitted = _fit_head(setup, on_device, decay, head)
        loss = fit_temperature(_logits(fitted, validation), validation.labels, weights).loss_after
        if loss >= best_loss:
            break
        best_loss = loss
        best_decay = decay
        head = fitted

    assert head is not None  # the first loss is finite
    return best_decay, head


def _weigh_images(setup: Setup, features: Features) -> Float64 | None:
    """Return the weight of each image by its class, float64 [N]; None: all 1."""
    weights = setup.step.class_weights
    return None if weights is None else weights.double().cpu().numpy()[features.labels]


def _fit_head(
    setup: Setup, on_device: tuple[Tensor, Tensor], decay: float, start: LinearHead | None
) -> LinearHead:
    weights = setup.step.class_weights
    return fit_head(*on_device, setup.num_classes, decay, start, class_weights=weights)


def _to_device(setup: Setup, features: Features) -> tuple[Tensor, Tensor]:
    values = torch.from_numpy(features.values).to(setup.device)
    return values, torch.from_numpy(np.array(features.labels)).to(setup.device)


def _select(features: Features, rows: Bool) -> Features:
    return Features(features.values[rows], features.labels[rows])


def evaluate_features(setup: Setup, head: LinearHead, features: Features) -> Evaluation:
    """Evaluate a head on features."""
    return evaluate_logits(_logits(head, features), features.labels, setup.num_classes)


def collect_frozen_split(setup: Setup, split: str) -> tuple[Float32, Int64]:
    """Return the logits of the kept head for all images of a split, by their features.

    Returns:
        (logits, labels): float32 [N, K] and int64 [N].
    """
    network = FrozenNetwork(setup)
    features = collect_features(setup, network, split, [])
    weight = network.head.weight.detach()
    bias = network.head.bias
    head = LinearHead(weight, weight.new_zeros(len(weight)) if bias is None else bias.detach())

    return _logits(head, features), np.array(features.labels)


@torch.inference_mode()
def _logits(head: LinearHead, features: Features) -> Float32:
    logits = head(torch.from_numpy(features.values).to(head.weight.device))
    return cast(Float32, logits.cpu().numpy())
