"""Tell what prepare found out about labels; without the libraries of its tables, which take longer to import."""

from __future__ import annotations

from trainer_classification.console import log
from trainer_classification.data.manifest import Manifest
from trainer_classification.recipes import describe_pairs

_LISTED = 10


def log_findings(manifest: Manifest) -> None:
    """Log what the user should know of a dataset before training on it."""
    _warn_of_conflicts(manifest)
    if manifest.mirrored_classes:
        pairs = describe_pairs(manifest.mirrored_classes)
        log(
            f"Note: mirror images of one class look like another ({pairs}), so training flips no images by default; "
            f"--flip random turns flips on."
        )


def _warn_of_conflicts(manifest: Manifest) -> None:
    """Log the images that lie under several labels, if there are any."""
    if not manifest.conflicts:
        return
    listed = [
        f"{', '.join(entry['files'][:4])} ({' and '.join(entry['classes'])})"
        for entry in manifest.conflicts[:_LISTED]
    ]
    more = (
        f"; and {len(manifest.conflicts) - _LISTED} more in the manifest"
        if len(manifest.conflicts) > _LISTED
        else ""
    )
    log(
        f"Warning: equal images have different labels ({len(manifest.conflicts)} found), so no model can be right on "
        f"all of them. Correct the labels or remove the copies: {'; '.join(listed)}{more}."
    )
