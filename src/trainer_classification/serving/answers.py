"""Describe a model and its predictions as Hafnia's inference container does: the JSON of the SDK's own classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trainer_classification.checkpoint.load_model import Model
from trainer_classification.inference.output import round_confidence
from trainer_classification.inference.predictor import Prediction

_DEFAULT_TASK = "image_classification"  # the SDK's name of a task without one


class AnswerFormat:
    """The JSON of a model's answers.

    A test compares it with that of the SDK's `ModelInfo` and `Classification`,
    whose import would take longer than the start of the server.

    Args:
        model: that answers.
    """

    def __init__(self, model: Model) -> None:
        self._model = model
        self._task = model.task or _DEFAULT_TASK
        self._index = {name: number for number, name in enumerate(model.class_names)}

    def describe_model(self) -> dict[str, Any]:
        """Return name, task and classes of the model, as the SDK's `ModelInfo`."""
        model = self._model
        classes = [
            {"name": name, "attributes": None, "skeleton": None} for name in model.class_names
        ]
        return {
            "tasks": [{"primitive": "Classification", "classes": classes, "name": self._task}],
            "name": model.name,
            "version": None,
            "description": f"Trained on {model.dataset} at {model.image_size} px.",
            "reference_bibtex": None,
            "reference_paper_url": None,
            "reference_model_page": None,
            "meta": {"fingerprint": model.fingerprint},
        }

    def describe_results(self, predictions: Sequence[Prediction], is_list: bool) -> dict[str, Any]:
        """Return the answer to a request.

        Args:
            predictions: without errors.
            is_list: whether the request asks for a list of results.
        """
        results = [self._describe(prediction) for prediction in predictions]
        return {"results": results} if is_list else results[0]

    def _describe(self, prediction: Prediction) -> dict[str, Any]:
        """Return the likeliest classes of an image, the likeliest first, as the SDK's `Classification`."""
        ranked = zip(prediction.classes, prediction.confidences, strict=True)
        return {
            "predictions": [
                {
                    "class_name": name,
                    "class_idx": self._index[name],
                    "object_id": None,
                    "confidence": round_confidence(confidence),
                    "ground_truth": False,
                    "task_name": self._task,
                    "created_at": None,
                    "updated_at": None,
                    "meta": None,
                    "classifications": None,
                }
                for name, confidence in ranked
            ],
            "image": {"height": prediction.height, "width": prediction.width},
        }
