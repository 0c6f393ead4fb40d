"""Hand a trained model to the SDK's benchmark: `run_benchmark(dataset, ClassificationModel(load_model(path)))`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hafnia.dataset.benchmark.inference_model import InferenceModel
from hafnia.dataset.hafnia_dataset_types import ModelInfo
from hafnia.dataset.primitives import Classification

from trainer_classification.checkpoint.load_model import Model
from trainer_classification.inference.predictor import Prediction, Predictor
from trainer_classification.names import portable_path
from trainer_classification.outputs.hafnia_predictions import make_task

if TYPE_CHECKING:
    from trainer_classification.inference.preprocess import ImageSource


class ClassificationModel(InferenceModel):
    """A trained model behind the SDK's interface.

    The SDK's runner decodes images by Pillow without looking at rotation,
    palettes, transparency or color space. With `read_files` the file that a
    sample names is read instead, so that the predictions are those of
    `predict.py`.

    Args:
        model: of `load_model`.
        task: name of the task that it predicts; "": the one it was trained on.
        class_names: in the dataset's order, which the SDK's metrics want; empty:
            in the model's.
        device: "auto", "cpu" or "cuda".
        read_files: False where images were changed after they were read, and
            those are to be classified.

    Raises:
        ValueError: the classes are not those of the model.
    """

    def __init__(
        self,
        model: Model,
        task: str = "",
        class_names: Sequence[str] = (),
        device: str = "auto",
        read_files: bool = True,
    ) -> None:
        if class_names and set(class_names) != set(model.class_names):
            odd = sorted(set(class_names) ^ set(model.class_names))
            raise ValueError(
                f"The classes differ from those of {model.source}: {', '.join(odd[:10])}."
            )
        self.model = model
        self.task = task or model.task or Classification.default_task_name()
        self.class_names = list(class_names or model.class_names)
        self._predictor = Predictor(model, device)
        self._read_files = read_files

    def predict(
        self, image: ImageSource, sample_dict: dict[str, Any] | None = None
    ) -> list[Classification]:
        """Return the likeliest class of an image; nothing where it cannot be decoded.

        Args:
            image: path, PIL image, or array [H, W] or [H, W, C].
            sample_dict: the dataset's row.
        """
        return self.predict_batch([image], None if sample_dict is None else [sample_dict])[0]

    def predict_batch(
        self, images: Sequence[ImageSource], sample_dicts: Sequence[dict[str, Any]] | None = None
    ) -> list[list[Classification]]:
        """Return the likeliest class of each image, decoded in parallel and classified in batches.

        Args:
            images: as of `predict`.
            sample_dicts: a row for each image, or None.

        Raises:
            ValueError: there are more or fewer rows than images.
        """
        if sample_dicts is not None and len(sample_dicts) != len(images):
            raise ValueError(
                f"There are {len(images)} images, but {len(sample_dicts)} sample_dicts: give one for each."
            )
        rows: Sequence[dict[str, Any]] = (
            [{}] * len(images) if sample_dicts is None else sample_dicts
        )
        sources = [self._source(image, row) for image, row in zip(images, rows, strict=True)]

        return [self._primitives(prediction) for prediction in self._predictor.predict(sources)]

    def get_model_info(self) -> ModelInfo:
        """Return name, task and classes of the model."""
        return ModelInfo(
            name=self.model.name,
            description=f"Trained on {self.model.dataset} at {self.model.image_size} px.",
            meta={
                "source": portable_path(self.model.source),
                "fingerprint": self.model.fingerprint,
            },
            tasks=[make_task(self.task, self.class_names)],
        )

    def _source(self, image: ImageSource, row: dict[str, Any]) -> ImageSource:
        path = row.get("file_path")
        is_file = self._read_files and row.get("storage_format", "image") == "image"
        return path if is_file and path and os.path.isfile(path) else image

    def _primitives(self, prediction: Prediction) -> list[Classification]:
        """Return new objects: the SDK's runner changes the task's name of each."""
        if prediction.error:
            return []
        return [
            Classification(
                class_name=prediction.class_name,
                class_idx=self.class_names.index(prediction.class_name),
                confidence=prediction.confidence,
                ground_truth=False,
                task_name=self.task,
            )
        ]
