"""Find the dataset that a model was trained on, and read another one as its run read that."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import Any

from trainer_classification.checkpoint import file as checkpoint
from trainer_classification.checkpoint.load_model import Model
from trainer_classification.config import PrepareConfig
from trainer_classification.console import log
from trainer_classification.data import manifest as manifests
from trainer_classification.data.manifest import Manifest
from trainer_classification.data.table import open_table
from trainer_classification.data.table_reader import is_table
from trainer_classification.environment import in_cloud
from trainer_classification.options import flag
from trainer_classification.preparation import disk
from trainer_classification.storage import is_url

_DATASETS = Path(".data/datasets")
_PREPARED = Path(".data/prepared")

# Options of a run that say which images are in which split. --allow-outside is not
# one of them: whom to trust is up to who reads the dataset, not to a model's file.
RUN_OPTIONS = (
    *("validation_fraction", "test_fraction", "unknown_folders", "nested"),
    *("path_column", "label_column", "split_column", "on_bad_image"),
)


def read_data_options(model: Model) -> dict[str, Any]:
    """Return the options of `PrepareConfig` by which a model's run read its dataset; defaults where not known."""
    recorded = _options_of_run(model)
    options = {}
    for name in RUN_OPTIONS:
        default = getattr(PrepareConfig, name)
        kind = (int, float) if isinstance(default, float) else str
        value = recorded.get(name)
        options[name] = value if isinstance(value, kind) else default
    return options


def log_run_options(options: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Say which options of a model's run a dataset is read with: those that are no defaults."""
    changed = {
        name: value
        for name, value in options.items()
        if name not in given and value != getattr(PrepareConfig, name)
    }
    if changed:
        listed = " ".join(f"{flag(name)} {quote(str(value))}" for name, value in changed.items())
        log(f"The dataset is read as by the model's run: {listed}.")


def find_prepared(model: Model, prepared: str = "") -> Path | None:
    """Return the folder of the prepared dataset that a model was trained on; None if it is not found.

    Args:
        model: of `load_model`.
        prepared: folder that holds prepared datasets; "": that of the run or of this
            folder.
    """
    if not model.fingerprint:
        return None
    found = [
        folder
        for parent in list_prepared_folders(model, prepared)
        for folder in manifests.find(parent, model.fingerprint)
    ]
    # Two datasets may have files of equal names and sizes: that of the run's place
    # comes first.
    place = os.path.realpath(find_place(model))
    places = (place, os.path.dirname(place))
    found.sort(key=lambda folder: os.path.realpath(manifests.read(folder).root) not in places)

    return found[0] if found else None


def list_prepared_folders(model: Model, prepared: str = "") -> list[Path]:
    """Return the local folders in which the prepared dataset of a model's run may be."""
    if prepared:
        return [] if is_url(prepared) else [Path(prepared)]
    options = _options_of_run(model)
    own = _text(options, "prepared")
    folders = [base / _PREPARED for base in _start_folders(model, options)]
    if own and not is_url(own):
        folders += [base / own for base in _start_folders(model, options)]
    if in_cloud():
        folders += disk.candidates()
    return list(dict.fromkeys(folders))


def find_place(model: Model) -> str:
    """Return the path of the dataset that a model was trained on, else its name; it need not be there."""
    options = _options_of_run(model)
    recorded = _text(options, "dataset") or model.dataset
    for base in _start_folders(model, options) if recorded else []:
        for path in (base / recorded, base / _DATASETS / recorded):
            if path.exists():
                return str(path)
    return recorded


def is_path(place: str) -> bool:
    """Return whether a dataset's place can be nothing but a folder or a table: names are looked up elsewhere, too."""
    return "/" in place or is_table(place)


def is_named(model: Model) -> bool:
    """Return whether all that is known of the place of a model's dataset is a name, which others may have, too."""
    return not is_path(_text(_options_of_run(model), "dataset") or model.dataset)


def explain_absence(model: Model, prepared: str, reason: str = "") -> ValueError:
    """Return the error of a model whose dataset is not found.

    Args:
        model: of `load_model`.
        prepared: folder that holds prepared datasets, as it was given.
        reason: why it is not found by its name; "": its path is not there.
    """
    folders = ", ".join(str(folder) for folder in list_prepared_folders(model, prepared))
    place = find_place(model)
    looked = f"by its name ({reason})" if reason else f"at {place}"
    return ValueError(
        f"The dataset {model.dataset}, on which the model was trained, is found neither prepared in {folders} nor "
        f"{looked}: name its folder or table with --dataset, or the folder of prepared datasets with --prepared."
    )


def note_other_images(
    model: Model, found: Manifest, split: str, files: Sequence[str], prepared: str
) -> str:
    """Say if the images of a split are not known to be those that a model's run held out; "" where they are.

    Args:
        model: that is evaluated.
        found: of the prepared dataset.
        split: that is evaluated.
        files: its N paths, relative to the manifest's root.
        prepared: folder that holds prepared datasets, as it was given.
    """
    if split == "train" or not model.fingerprint or model.fingerprint == found.fingerprint:
        return ""
    note = (
        "This is not the dataset as the run of the model read it (by its fingerprint), so these images are not known "
        "to be those that the run held out"
    )
    folder = find_prepared(model, "" if is_url(prepared) else prepared)
    if folder is None:
        return f"{note}."
    trained_on = manifests.read(folder)
    evaluated = set(_whole_paths(found.root, files))
    own = {
        name: evaluated.intersection(
            _whole_paths(trained_on.root, open_table(folder, trained_on, name).files)
        )
        for name in trained_on.labeled_splits
    }
    if own.get(split) == evaluated:
        return ""
    if not any(own.values()):
        return f"{note}."
    return f"{note}: {len(own.get('train', ())):,} of the {len(files):,} are training images of the run."


def _whole_paths(root: str, files: Sequence[str]) -> list[str]:
    real = os.path.realpath(root)
    return [os.path.join(real, name) for name in files]


def _options_of_run(model: Model) -> Mapping[str, Any]:
    """Return the options of a model's run: its last checkpoint has whole paths, the model itself may lack them."""
    run = Path(os.path.abspath(model.source)).parent.parent
    with suppress(ValueError):
        meta = checkpoint.load_meta(run / "checkpoints/last.pth")
        if meta.fingerprint == model.fingerprint:
            return meta.config
    return model.options


def _start_folders(model: Model, options: Mapping[str, Any]) -> list[Path]:
    """Return the folders that the paths of a run's options may be relative to: where it was started, and this one."""
    here = Path()
    output = Path(_text(options, "output_dir") or ".data").parts
    for folder in Path(os.path.abspath(model.source)).parents:
        parts = folder.parent.parts
        start = Path(*parts[: len(parts) - len(output)])
        if folder.name == "experiments" and start / Path(*output) == folder.parent:
            return [here] if start == Path.cwd() else [start, here]
    return [here]


def _text(options: Mapping[str, Any], name: str) -> str:
    """Return an option of a run; "" where it is none."""
    value = options.get(name)
    return value if isinstance(value, str) else ""
