"""Keep what an inspection found of a dataset for the next run, which recalls it."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any, BinaryIO

import numpy as np

from trainer_classification import recipes
from trainer_classification.config import PrepareConfig
from trainer_classification.data.file_names import write_names
from trainer_classification.files import write_atomically
from trainer_classification.preparation.inspect import DatasetInfo
from trainer_classification.preparation.recall import (
    FILES_KEY,
    describe_request,
    format_names,
    hash_seen,
    note_path,
    recall,
)


def remember(info: DatasetInfo, config: PrepareConfig, formats: dict[str, dict[str, Any]]) -> None:
    """Keep what is known of a dataset that is prepared now; nothing happens where that cannot be written.

    Args:
        info: of `inspect`.
        config: that it was inspected with.
        formats: options of the formats that were asked for.
    """
    if info.state is None:
        return
    path = note_path(config)
    known = recall(config)
    prepared = known.prepared if known is not None else {}
    entry = prepared.setdefault(str(info.train_size), {"asked": {}})
    if entry.get("fingerprint") != info.fingerprint:
        entry["asked"] = {}
    entry |= {"folder": info.folder.name, "fingerprint": info.fingerprint}
    if set(format_names(config)) == formats.keys():  # a training asks for what its loader needs
        entry["asked"][describe_request(config)] = formats
    content = {
        "root": str(info.source.root),
        "state": info.state,
        "seen": hash_seen(np.stack([info.source.bytes, info.source.times[:, 0]], axis=1).tobytes()),
        "name": info.name,
        "count": info.count,
        "are_photographs": info.are_photographs,
        "notes": info.source.notes,
        "default_size": config.image_size
        or recipes.train_size(info.name, int(info.sizes.max()))[0],
        "prepared": prepared,
    }

    def write(file: BinaryIO) -> None:
        file.write(json.dumps(content)[:-1].encode() + FILES_KEY)
        write_names(file, info.source.files)
        file.write(b"}")

    with suppress(OSError):
        write_atomically(path, write)
