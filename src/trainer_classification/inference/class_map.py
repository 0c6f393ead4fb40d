"""Map the classes of a model to those of a dataset, by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trainer_classification.arrays import Int64
from trainer_classification.names import list_names

_LISTED = 5


@dataclass(frozen=True)
class ClassMap:
    """How the classes of a dataset (K) and of a model (M) correspond.

    Attributes:
        output_of: int64 [K], the model's output for each class of the dataset; -1
            where it has none.
        column_of: int64 [M], for each output the class of the dataset, or K and
            on for those the dataset lacks.
        column_names: of the dataset's classes, then of those that only the model
            has.
        notes: what differs, a sentence each.
    """

    output_of: Int64
    column_of: Int64
    column_names: tuple[str, ...]
    notes: tuple[str, ...]


def map_classes(model_names: Sequence[str], dataset_names: Sequence[str]) -> ClassMap:
    """Match the classes of a model and a dataset by their names, whatever their order.

    Raises:
        ValueError: they have no class in common.
    """
    output_by_name = {name: index for index, name in enumerate(model_names)}
    only_model = [name for name in model_names if name not in set(dataset_names)]
    only_dataset = [name for name in dataset_names if name not in output_by_name]
    if len(only_model) == len(model_names):
        raise ValueError(
            "The model and the dataset have no class in common: the model knows "
            f"{list_names(model_names, _LISTED)}, the dataset has "
            f"{list_names(dataset_names, _LISTED)}. Choose a dataset with the model's classes."
        )

    column_names = (*dataset_names, *only_model)
    column_by_name = {name: index for index, name in enumerate(column_names)}
    notes = []
    if only_dataset:
        notes.append(
            f"The model does not know {len(only_dataset)} of the dataset's {len(dataset_names)} classes, whose images "
            f"count as wrong: {list_names(only_dataset, _LISTED)}."
        )
    if only_model:
        notes.append(
            f"The dataset lacks {len(only_model)} of the model's {len(model_names)} classes; predicting them counts as "
            f"wrong: {list_names(only_model, _LISTED)}."
        )
    return ClassMap(
        output_of=np.array([output_by_name.get(name, -1) for name in dataset_names], np.int64),
        column_of=np.array([column_by_name[name] for name in model_names], np.int64),
        column_names=column_names,
        notes=tuple(notes),
    )
