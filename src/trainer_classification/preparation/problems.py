"""Find bad images, duplicates and conflicting labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from trainer_classification.arrays import Int64
from trainer_classification.console import log
from trainer_classification.data.formats import GRAY_SHIFT
from trainer_classification.data.image_suffixes import is_misnamed
from trainer_classification.data.source import Source
from trainer_classification.preparation.job_result import JobResult

_BAD_FRACTION = 0.01  # that `--on-bad-image auto` accepts
_LISTED = 10
_DARK_PEAK = 0x3FFF  # of 16 bits: a quarter of the range and less


def list_bad_images(source: Source, result: JobResult, policy: str) -> list[dict[str, str]]:
    """Return {"file", "split", "reason"} of each image that is left out.

    Raises:
        ValueError: there are more than `policy` accepts.
    """
    bad = [
        {
            "file": source.files[row],
            "split": str(source.splits[row]),
            "reason": str(result.reasons[row]),
        }
        for row in np.flatnonzero(result.reasons != "")
    ]
    count = len(source.files)
    limit = count_accepted(count, policy)
    if len(bad) > limit:
        if len(bad) > _LISTED:  # more than the error can name
            for entry in bad:
                log(f"  bad {entry['file']} ({entry['split']}): {entry['reason']}")
        listed = "; ".join(f"{entry['file']}: {entry['reason']}" for entry in bad[:_LISTED])
        more = "; ..." if len(bad) > _LISTED else ""
        raise ValueError(
            f"{len(bad)} of {count} images are bad, and --on-bad-image {policy} accepts {limit}: {listed}{more}. "
            f"Repair them, or leave them out with --on-bad-image skip."
        )
    return bad


def count_accepted(count: int, policy: str) -> int:
    """Return how many bad images a policy accepts.

    Args:
        count: images of the dataset.
        policy: value of --on-bad-image.
    """
    return {"skip": count - 1, "fail": 0, "auto": int(_BAD_FRACTION * count)}[policy]


def note_contents(source: Source, result: JobResult) -> list[str]:
    """Return a note about files that hold another format than their names say, if there are any."""
    contents = result.contents.tolist()
    rows = [
        row
        for row, file in enumerate(source.files)
        if contents[row] and is_misnamed(file, contents[row].decode())
    ]
    if not rows:
        return []
    counts = Counter(contents[row] for row in rows)
    listed = ", ".join(f"{count:,} {content.decode()}" for content, count in counts.most_common())
    return [
        f"{len(rows):,} files hold another format than their names say ({listed}), as {source.files[rows[0]]}: "
        f"they are used by their content."
    ]


def fit_gray_shift(result: JobResult) -> int:
    """Return how many bits gray images of 16 and 32 bits lose: fewer than 8 if all images are such, and use few."""
    good = result.reasons == ""
    peak = int(result.peaks.max(initial=0))
    if not good.any() or not result.peaks[good].all() or peak > _DARK_PEAK:
        return GRAY_SHIFT
    return max(0, peak.bit_length() - 8)


def note_peaks(source: Source, result: JobResult) -> list[str]:
    """Return a note about gray images of 16 or 32 bits that use few of these, which come out dark, if there are any."""
    deep = np.flatnonzero(result.peaks > 0)
    dark = deep[result.peaks[deep] <= _DARK_PEAK]
    if not len(dark) or fit_gray_shift(result) != GRAY_SHIFT:  # none, or all of them are scaled
        return []
    return [
        f"{len(dark):,} of {len(deep):,} gray images of 16 or 32 bits have values up to {result.peaks[dark].max()} of "
        f"65535 only, as {source.files[dark[0]]}: they come out dark, in few levels. Save them as 8 bits, or scale "
        f"their values to 65535."
    ]


def group_equal_files(hashes: npt.NDArray[np.bytes_], good: Int64) -> list[Int64]:
    """Return the rows of each group of two or more equal files, in the order of their first rows.

    Args:
        hashes: bytes [n], S32, of all rows.
        good: int64 [m], the rows that count, ascending.
    """
    # Four numbers in place of 32 hex digits, as sorting text takes several times as
    # long. Few files have the first one in common.
    first = np.ascontiguousarray(hashes.view(np.uint64)[::4][good])
    ascending = np.sort(first)
    common = ascending[1:][ascending[1:] == ascending[:-1]]
    # `np.isin` would sort all of them once more.
    place = np.searchsorted(common, first)
    good = good[place < np.searchsorted(common, first, "right")]

    words = hashes[good].view(np.uint64).reshape(-1, 4)
    order = np.lexsort(words.T)
    is_equal = np.ones(max(0, len(order) - 1), np.bool_)
    for column in words.T:
        values = column[order]
        is_equal &= values[1:] == values[:-1]
    edges = np.diff(is_equal.astype(np.int8), prepend=np.int8(0), append=np.int8(0))
    starts = np.flatnonzero(edges == 1).tolist()
    ends = np.flatnonzero(edges == -1).tolist()

    groups = [good[order[start : end + 1]] for start, end in zip(starts, ends, strict=True)]
    return sorted(groups, key=lambda rows: int(rows[0]))


def find_disagreements(
    key: str, groups: Sequence[Int64], files: Sequence[str], value_of: Callable[[int], str]
) -> list[dict[str, list[str]]]:
    """Return {key, "files"} of each group of equal files that has more than one value.

    Args:
        key: what the values are, such as "splits" or "classes".
        groups: of `group_equal_files`.
        files: path of each row.
        value_of: row -> its value.
    """
    found = []
    for rows in groups:
        values = sorted({value_of(row) for row in rows.tolist()})
        if len(values) > 1:
            found.append({key: values, "files": [files[row] for row in rows.tolist()]})
    return found
