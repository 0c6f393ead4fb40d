"""Say where a file comes from: predictions, the model that made them, the prepared dataset that it was trained on."""

from __future__ import annotations

from pathlib import Path

from trainer_classification.checkpoint.load_model import load_model
from trainer_classification.checkpoint.model_id import model_id
from trainer_classification.data import hafnia_table, manifest
from trainer_classification.files import parse_json
from trainer_classification.outputs.hafnia_predictions import META


def explain(path: Path) -> list[str]:
    """Return the chain of a file, a line for each link, itself first.

    Args:
        path: predictions of a run (JSON lines), a dataset with predictions for the
            platform, what `load_model` takes, or a prepared dataset or its
            manifest.

    Raises:
        ValueError: there is no such file, or it is nothing that this trainer
            writes.
    """
    if path.suffix == ".jsonl":
        return _explain_predictions(path)
    if (path / hafnia_table.INFO).is_file():
        return _explain_predicted_dataset(path)
    if path.name == manifest.FILE_NAME or (path / manifest.FILE_NAME).is_file():
        return [_explain_dataset(path if path.is_dir() else path.parent)]
    return _explain_model(path)


def _explain_predictions(path: Path) -> list[str]:
    """Explain predictions, and their model if it lies beside them as a run leaves it."""
    if not path.is_file():
        raise ValueError(f"There is no file {path}.")
    try:
        rows = [parse_json(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        raise ValueError(f"{path} holds no JSON lines: {error}.") from None
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{path} has a line that is no object, as predictions are.")
    models = sorted({str(row.get("model", "")) for row in rows})
    if len(models) != 1 or not models[0]:
        raise ValueError(
            f"{path} does not name the one model that made it: give the predictions of a run."
        )

    first = f"predictions {path}: {len(rows):,} images, made by model {models[0]}"
    model_path = path.parent.parent / "model/model.pth"
    if not model_path.is_file():
        return [first, f"model {models[0]}: there is no {model_path}"]
    found = _explain_model(model_path)
    if not found[0].startswith(f"model {models[0]}:"):
        return [first, f"model {models[0]}: not the one in {model_path}"]
    return [first, *found]


def _explain_predicted_dataset(folder: Path) -> list[str]:
    """Explain a Hafnia dataset with predictions; its meta names the model and that model's dataset."""
    info = hafnia_table.read_info(folder / hafnia_table.INFO)
    meta = info.get("meta")
    origin = meta.get(META) if isinstance(meta, dict) else None
    if not isinstance(origin, dict) or not {"model", "manifest_fingerprint"} <= origin.keys():
        raise ValueError(
            f"{folder} is a Hafnia dataset without predictions of this trainer: give what predict.py wrote."
        )

    return [
        f"predictions {folder}: {info['dataset_name']}, made by model {origin['model']}",
        f"model {origin['model']}",
        f"dataset {origin['manifest_fingerprint'] or 'not named'}: as it was prepared for the training",
    ]


def _explain_model(path: Path) -> list[str]:
    model = load_model(path)
    about = f"{model.name}, {model.image_size} px, {len(model.class_names)} classes, {model.source}"
    return [
        f"model {model_id(model.network.state_dict())}: {about}",
        f"dataset {model.fingerprint or 'not named'}: {model.dataset}, as it was prepared for the training",
    ]


def _explain_dataset(folder: Path) -> str:
    found = manifest.read(folder)
    splits = ", ".join(f"{name} {split.count:,}" for name, split in found.splits.items())
    return (
        f"dataset {found.fingerprint}: {found.dataset} {found.version}, {splits}, from {found.root}"
    )
