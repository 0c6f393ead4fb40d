"""Write a dataset's predictions as Hafnia's static benchmark reads them: the platform's door of `predict.py`."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trainer_classification.checkpoint.load_model import Model, load_model
from trainer_classification.checkpoint.model_id import model_id
from trainer_classification.config import PredictConfig
from trainer_classification.console import log
from trainer_classification.environment import in_cloud
from trainer_classification.files import write_atomically
from trainer_classification.inference.predictor import Prediction, Predictor
from trainer_classification.output_paths import check_output_folder
from trainer_classification.outputs.hafnia_predictions import POSTFIX, write_with_predictions

if TYPE_CHECKING:
    from hafnia.dataset.hafnia_dataset import HafniaDataset
    from hafnia.dataset.hafnia_dataset_types import DatasetInfo

_NO_ARCHIVE = 1


def run_benchmark_job(config: PredictConfig) -> int:
    """Classify the dataset with the one archive, and write it with its predictions.

    Returns:
        Exit code: 0, or 1 where there is not exactly one archive.

    Raises:
        ValueError: the archive or the dataset is not what it should be.
    """
    archives = sorted(Path(config.model_dir).glob("*.zip"))
    if len(archives) != 1:
        found = ", ".join(path.name for path in archives) or "none"
        print(
            f"Error: {config.model_dir} must hold exactly one *.zip, but holds {found}.",
            file=sys.stderr,
        )
        return _NO_ARCHIVE

    check_output_folder("--output-dir", Path(config.output_dir), config.dataset_dir)
    model = load_model(archives[0])
    predictor = Predictor(model, config.device, config.batch_size, config.workers, amp=config.amp)
    write_predictions(predictor, Path(config.dataset_dir), Path(config.output_dir))
    if in_cloud():
        _publish_archive(archives[0], config)
    return 0


def write_predictions(predictor: Predictor, dataset_folder: Path, output_folder: Path) -> None:
    """Write a dataset with a further task of predictions, for the SDK's `HafniaDataset.from_path`.

    Rows without a label are predicted as all others. A row whose image cannot be
    read has no prediction, which the SDK's metrics count as an error.

    Args:
        predictor: of the model.
        dataset_folder: a dataset, as `write_annotations` makes it.
        output_folder: made if it is not there; no images are written to it.

    Raises:
        ValueError: it is no dataset, it has these predictions already, or no task
            of it is the model's.
    """
    dataset = _read_dataset(dataset_folder)
    task = choose_task_name(dataset.info, predictor.model)
    if any(entry.name == task + POSTFIX for entry in dataset.info.tasks):
        raise ValueError(
            f"{dataset_folder} has predictions of {task} already: give the dataset without them."
        )

    class_names = _class_names(dataset.info, task, predictor.model)
    predictions = [
        None if prediction.error else (prediction.class_name, prediction.confidence)
        for prediction in _with_log(predictor.predict(dataset.samples["file_path"].to_list()))
    ]
    write_with_predictions(
        dataset,
        task,
        class_names,
        predictions,
        output_folder,
        origin={
            "model": model_id(predictor.model.network.state_dict()),
            "manifest_fingerprint": predictor.model.fingerprint,
        },
    )
    log(f"Predictions of {task} are written to {output_folder}.")


def choose_task_name(info: DatasetInfo, model: Model) -> str:
    """Return the dataset's task that a model predicts: that of its name, else the only classification task.

    Raises:
        ValueError: the dataset has several, and none has the name of the model's.
    """
    from hafnia.dataset.primitives import Classification

    names = [str(task.name) for task in info.get_tasks_by_primitive(Classification)]
    if model.task in names:
        return model.task
    names = [name for name in names if not name.endswith(POSTFIX)]
    if len(names) > 1:
        raise ValueError(
            f"The dataset {info.dataset_name} has no task {model.task!r}, which the model predicts, but several "
            f"others ({', '.join(names)}): train the model on one of them."
        )
    return names[0] if names else model.task or Classification.default_task_name()


def _read_dataset(folder: Path) -> HafniaDataset:
    from hafnia.dataset.hafnia_dataset import HafniaDataset

    if not (folder / "dataset_info.json").is_file():
        raise ValueError(f"{folder} is no Hafnia dataset: it has no dataset_info.json.")
    return HafniaDataset.from_path(folder, check_for_images=False)


def _class_names(info: DatasetInfo, task: str, model: Model) -> list[str]:
    """Return the dataset's classes in its order, as the SDK's metrics want; those that only the model has follow."""
    listed = [entry for entry in info.tasks if entry.name == task]
    names = list(listed[0].get_class_names() or []) if listed else []
    unknown = [name for name in model.class_names if name not in names]
    if names and unknown:
        log(
            f"Note: {len(unknown)} classes of the model are not in the dataset: {', '.join(unknown[:10])}."
        )
    return names + unknown


def _with_log(predictions: Iterator[Prediction]) -> Iterator[Prediction]:
    for prediction in predictions:
        if prediction.error:
            log(f"{prediction.source} has no prediction: {prediction.error}.")
        yield prediction


def _publish_archive(archive: Path, config: PredictConfig) -> None:
    """Copy the archive to where the platform takes an experiment's model from."""
    from trainer_classification.outputs.tracking import Tracker

    tracker = Tracker(config.project_name, Path(".data"))
    target = tracker.model_dir / archive.name
    if not (target.exists() and target.samefile(archive)):
        with archive.open("rb") as file:
            write_atomically(target, lambda copy: shutil.copyfileobj(file, copy))
    tracker.close()
