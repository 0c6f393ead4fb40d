"""Find bad images, duplicates and conflicting labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trainer_classification.arrays import Int64, Integers
from trainer_classification.console import log
from trainer_classification.data.formats import GRAY_SHIFT
from trainer_classification.data.image_suffixes import is_misnamed
from trainer_classification.data.source import Source
from trainer_classification.data.split_names import ALL_SPLITS
from trainer_classification.preparation.content_hash import HASH
from trainer_classification.preparation.job_result import JobResult

_BAD_FRACTION = 0.01  # that `--on-bad-image auto` accepts
_LISTED = 10
_PAIRS_AT_ONCE = 1 << 16
_KINDS = 16  # of hashes, each searched for equal ones alone
_DARK_PEAK = 0x3FFF  # of 16 bits: a quarter of the range and less


def list_bad_images(source: Source, result: JobResult, policy: str) -> list[dict[str, str]]:
    """Return {"file", "split", "reason"} of each image that is left out.

    Raises:
        ValueError: there are more than `policy` accepts.
    """
    bad = [
        {
            "file": source.files[row],
            "split": ALL_SPLITS[source.split_numbers[row]],
            "reason": str(result.reasons[row]),
        }
        for row in np.flatnonzero(~result.reasons.equals(""))
    ]
    count = len(source.files)
    limit = count_accepted(count, policy)
    if len(bad) > limit:
        if len(bad) == count and len({entry["reason"] for entry in bad}) == 1:
            raise ValueError(
                f"None of the {count:,} images can be used, all for one reason, as {bad[0]['file']}: "
                f"{bad[0]['reason']}."
            )
        if len(bad) > _LISTED:  # more than the error can name
            for entry in bad:
                log(f"  bad {entry['file']} ({entry['split']}): {entry['reason']}")
        listed = "; ".join(f"{entry['file']}: {entry['reason']}" for entry in bad[:_LISTED])
        more = "; ..." if len(bad) > _LISTED else ""
        remedy = (
            "Repair them, or leave them out with --on-bad-image skip."
            if len(bad) < count
            else "Repair some."
        )
        raise ValueError(
            f"{len(bad)} of {count} images are bad, and --on-bad-image {policy} accepts {limit}: {listed}{more}. "
            f"{remedy}"
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
    rows = [
        row
        for row, (file, content) in enumerate(zip(source.files, result.contents, strict=True))
        if content and is_misnamed(file, content.decode())
    ]
    if not rows:
        return []
    counts = Counter(result.contents[rows].tolist())
    listed = ", ".join(f"{count:,} {content.decode()}" for content, count in counts.most_common())
    return [
        f"{len(rows):,} files hold another format than their names say ({listed}), as {source.files[rows[0]]}: "
        f"they are used by their content."
    ]


def note_frames(source: Source, result: JobResult) -> list[str]:
    """Return a note about files with several pages or frames, of which one is used, if there are any."""
    rows = np.flatnonzero(result.has_more)
    if not len(rows):
        return []
    counts = sorted(Counter(result.contents[rows].tolist()).items())
    listed = ", ".join(f"{count:,} {content.decode()}" for content, count in counts)
    return [
        f"{len(rows):,} files have several pages or frames ({listed}), as {source.files[rows[0]]}: only the first "
        f"of each is used. Save the others as files of their own to use them, too."
    ]


def fit_gray_shift(result: JobResult) -> int:
    """Return how many bits gray images of 16 and 32 bits lose: fewer than 8 if all images are such, and use few."""
    good = result.good_rows()
    peak = int(result.peaks.max(initial=0))
    if not len(good) or not result.peaks[good].all() or peak > _DARK_PEAK:
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


@dataclass(frozen=True)
class EqualFiles:
    """Groups of two or more equal files.

    Attributes:
        rows: int64 [m], those of a group together, ascending.
        starts: int64 [g], where in `rows` each group begins.
    """

    rows: Int64
    starts: Int64


def group_equal_files(hashes: npt.NDArray[np.bytes_], good: Int64) -> EqualFiles:
    """Return the groups of equal files.

    Args:
        hashes: HASH [n], of all rows.
        good: int64 [m], the rows that count, ascending.
    """
    # Some at a time, by the first bits of their hashes: to sort takes memory.
    kind = hashes.view(np.uint8)[:: HASH.itemsize][good] // (256 // _KINDS)
    found = [_group_equal(hashes, good[kind == number]) for number in range(_KINDS)]
    ends = np.cumsum([len(equal.rows) for equal in found])
    begins = [0, *ends[:-1].tolist()]
    return EqualFiles(
        np.concatenate([equal.rows for equal in found]),
        np.concatenate([begin + one.starts for begin, one in zip(begins, found, strict=True)]),
    )


def _group_equal(hashes: npt.NDArray[np.bytes_], good: Int64) -> EqualFiles:
    # Sorting by the first bytes as a number takes a fraction of the time and memory of
    # sorting text.
    digits = hashes.view(np.uint64)[::2][good]
    order = np.argsort(digits, kind="stable")
    digits = digits[order]
    is_alike = digits[1:] == digits[:-1]  # as the next one
    del digits
    is_same = is_alike.copy()
    for start in range(0, len(is_alike), _PAIRS_AT_ONCE):
        pairs = start + np.flatnonzero(is_alike[start : start + _PAIRS_AT_ONCE])
        is_same[pairs] = hashes[good[order[pairs]]] == hashes[good[order[pairs + 1]]]

    # Few files have only these bytes in common. Those of a run are sorted by all.
    last = 0
    for place in np.flatnonzero(is_alike & ~is_same).tolist():
        if place < last:
            continue
        begin = place
        while begin and is_alike[begin - 1]:
            begin -= 1
        last = place + 1
        while last < len(is_alike) and is_alike[last]:
            last += 1
        mine = order[begin : last + 1]
        mine = mine[np.argsort(hashes[good[mine]], kind="stable")]
        order[begin : last + 1] = mine
        is_same[begin:last] = hashes[good[mine[:-1]]] == hashes[good[mine[1:]]]

    follows = np.append(False, is_same)[: len(order)]
    leads = np.append(is_same, False)[: len(order)]
    is_member = follows | leads
    return EqualFiles(good[order[is_member]], np.flatnonzero(~follows[is_member]))


def find_disagreements(
    key: str, equal: EqualFiles, files: Sequence[str], values: Integers, names: Sequence[str]
) -> list[dict[str, list[str]]]:
    """Return {key, "files"} of each group of equal files that has more than one value, in the order of first rows.

    Args:
        key: what the values are, such as "splits" or "classes".
        equal: of `group_equal_files`.
        files: path of each row.
        values: integers [n], the value of each row; -1: none.
        names: of the values.
    """
    if not len(equal.starts):
        return []
    mine = values[equal.rows]
    most = np.maximum.reduceat(mine, equal.starts)
    mine[mine < 0] = len(names)
    differing = np.flatnonzero(np.minimum.reduceat(mine, equal.starts) < most)

    found = []
    ends = np.append(equal.starts[1:], len(equal.rows))
    for group in differing[np.argsort(equal.rows[equal.starts[differing]])].tolist():
        rows = equal.rows[equal.starts[group] : ends[group]]
        rows = rows[values[rows] >= 0]
        different = {names[value] for value in values[rows].tolist()}
        found.append({key: sorted(different), "files": [files[row] for row in rows.tolist()]})
    return found
