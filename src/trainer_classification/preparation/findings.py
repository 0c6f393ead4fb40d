"""Tell what prepare found out about labels; without the libraries of its tables, which take longer to import."""

from __future__ import annotations

from trainer_classification.console import log
from trainer_classification.data.manifest import Manifest
from trainer_classification.names import list_names
from trainer_classification.recipes import describe_pairs

_LISTED = 10
_FEW_IMAGES = 3


def log_findings(manifest: Manifest) -> None:
    """Log what the user should know of a dataset before training on it."""
    _warn_of_conflicts(manifest)
    _note_few(manifest)
    if manifest.mirrored_classes:
        pairs = describe_pairs(manifest.mirrored_classes)
        log(
            f"Note: mirror images of one class look like another ({pairs}), so training flips no images by default; "
            f"--flip random turns flips on."
        )


def _note_few(manifest: Manifest) -> None:
    """Log the classes with one to three training images: what is left of them once test and validation are cut."""
    counts = manifest.splits["train"].per_class
    if sum(count > 0 for count in counts) < 2:
        return
    few = [
        f"{name} {count}"
        for name, count in zip(manifest.class_names, counts, strict=True)
        if 0 < count <= _FEW_IMAGES
    ]
    if few:
        log(
            f"Note: {len(few)} of {len(counts)} classes have {_FEW_IMAGES} training images or fewer: "
            f"{list_names(few)}. What is learned of them, and their accuracy, rest on chance."
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
