"""Train image classifiers on Hafnia datasets: prepare once, plan each epoch, keep the GPU busy.

    from trainer_classification import PrepareConfig, TrainConfig, load_model,
    predict, prepare, train

    prepare(PrepareConfig(dataset="samples/mnist"))
    summary = train(TrainConfig(dataset="samples/mnist", epochs=1))
    model = load_model(".data/experiments/<time>")
    predictions = predict(model, ["photo.jpg"], top_k=3)

Names are imported when they are first used, so that importing the package takes
no time.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer_classification.checkpoint.load_model import Model, load_model
    from trainer_classification.config import EvaluateConfig, PrepareConfig, TrainConfig
    from trainer_classification.exporting.export import export
    from trainer_classification.inference.evaluate import evaluate
    from trainer_classification.inference.predictor import predict
    from trainer_classification.preparation.pipeline import prepare
    from trainer_classification.training.train import train

__all__ = [
    "EvaluateConfig",
    "Model",
    "PrepareConfig",
    "TrainConfig",
    "evaluate",
    "export",
    "load_model",
    "predict",
    "prepare",
    "train",
]

_MODULES = {
    "EvaluateConfig": "config",
    "Model": "checkpoint.load_model",
    "PrepareConfig": "config",
    "TrainConfig": "config",
    "evaluate": "inference.evaluate",
    "export": "exporting.export",
    "load_model": "checkpoint.load_model",
    "predict": "inference.predictor",
    "prepare": "preparation.pipeline",
    "train": "training.train",
}


def __getattr__(name: str) -> Any:
    """Import a public name on first use.

    Raises:
        AttributeError: the package has no such name.
    """
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
