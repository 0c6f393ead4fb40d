"""Find bad images, duplicates and conflicting labels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer_classification.data.source import Source
from trainer_classification.preparation.job_result import JobResult

_BAD_FRACTION = 0.01  # that `--on-bad-image auto` accepts
_LISTED = 10


def list_bad_images(source: Source, result: JobResult, policy: str) -> list[dict[str, str]]:
    """Return {"file", "split", "reason"} of each image that is left out.

    Raises:
        ValueError: there are more than `policy` accepts.
    """
    bad = [
        {"file": source.files[row], "split": str(source.splits[row]), "reason": str(result.reasons[row])}
        for row in np.flatnonzero(result.reasons != "")
    ]
    count = len(source.files)
    limit = {"skip": count - 1, "fail": 0, "auto": int(_BAD_FRACTION * count)}[policy]
    if len(bad) > limit:
        listed = "; ".join(f"{entry['file']}: {entry['reason']}" for entry in bad[:_LISTED])
        more = "; ..." if len(bad) > _LISTED else ""
        raise ValueError(
            f"{len(bad)} of {count} images are bad, and --on-bad-image {policy} accepts {limit}: {listed}{more}. "
            f"Repair them, or leave them out with --on-bad-image skip."
        )
    return bad


def find_duplicates(
    files: npt.NDArray[np.str_], hashes: npt.NDArray[np.str_], split_of: npt.NDArray[np.str_]
) -> list[dict[str, list[str]]]:
    """Return {"splits", "files"} of each group of equal files that lie in more than one split."""
    return _find_disagreements("splits", files, hashes, split_of)


def find_conflicts(
    files: npt.NDArray[np.str_], hashes: npt.NDArray[np.str_], class_of: npt.NDArray[np.str_]
) -> list[dict[str, list[str]]]:
    """Return {"classes", "files"} of each group of equal files that have more than one class."""
    return _find_disagreements("classes", files, hashes, class_of)


def _find_disagreements(
    key: str, files: npt.NDArray[np.str_], hashes: npt.NDArray[np.str_], value_of: npt.NDArray[np.str_]
) -> list[dict[str, list[str]]]:
    """Return {key, "files"} of each group of equal files with more than one value."""
    groups: dict[str, list[int]] = {}
    for row, text in enumerate(hashes.tolist()):
        groups.setdefault(text, []).append(row)

    found = []
    for rows in groups.values():
        values = sorted({str(value_of[row]) for row in rows})
        if len(values) > 1:
            found.append({key: values, "files": [str(files[row]) for row in rows]})
    return found
