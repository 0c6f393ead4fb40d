"""Notice images that were replaced by others of the same size since they were prepared.

The fingerprint does not tell, as it does not cover the files' content. The notes of
`reuse.py` do: a file whose content has another time of change than then is read, and
its hash decides. As long as no file has, one hash over all times says so.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from trainer_classification.console import log
from trainer_classification.data.source import Source
from trainer_classification.names import list_names
from trainer_classification.preparation import partial, reuse
from trainer_classification.preparation.workers import Workers


def has_changed(folder: Path, source: Source, open_workers: Callable[[], Workers]) -> bool:
    """Return whether an image is not what it was when the folder was prepared, and log which are not.

    Without notes it is not known, and False. So it is on a read-only disk, where
    nothing can be prepared.

    Args:
        folder: prepared from files of the same names and sizes.
        source: the dataset's table.
        open_workers: starts the processes that read files.
    """
    times = reuse.read_times(folder)
    if times in (None, reuse.hash_times(source)) or not os.access(folder.parent, os.W_OK):
        return False
    notes = reuse.read_notes(folder, any_decoders=True)
    if notes is None:
        return False

    with open_workers() as workers:
        changed = _find_changed(folder, notes, source, workers)
    if not changed:  # the next run needs not read them
        reuse.save_notes(folder, reuse.note_times(notes, source))
        return False
    log(
        f"{len(changed):,} of {len(source.files):,} images have changed since they were prepared: "
        f"{list_names(changed, 3)}."
    )
    return True


def _find_changed(
    folder: Path, notes: reuse.ImageNotes, source: Source, workers: Workers
) -> list[str]:
    """Return the files whose content is not the noted one."""
    files = reuse.describe_files(source)
    rows = reuse.find_rows(notes.files["name"], files["name"])
    now = files["times"][:, 0]
    before = notes.files["times"][rows, 0]
    suspects = np.flatnonzero((rows >= 0) & ((before == 0) | (before != now)))
    hashes = reuse.hash_files(source.paths.take(suspects), workers)
    changed = suspects[hashes != notes.images["hash"][rows[suspects]]].tolist()

    # Nothing is noted of images that were bad; they may have been repaired.
    noted_at = partial.notes_path(folder).stat().st_mtime_ns
    repaired = np.flatnonzero((rows < 0) & (now > noted_at)).tolist()

    return [source.files[row] for row in sorted(changed + repaired)]
