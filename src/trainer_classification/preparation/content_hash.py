"""The hash of a file's content, by which equal files are found and splits are cut: xxh3-128."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import xxhash

# Zeros, which equal b"", where there is none. As a Python object, a hash has lost the
# zeros at its end.
HASH = np.dtype("S16")
HEX = np.dtype("S32")


def hash_content(data: bytes) -> bytes:
    """Return the hash of the bytes of a file."""
    return xxhash.xxh3_128_digest(data)


def to_hex(hashes: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bytes_]:
    """Return hashes in hex digits, HEX [n] of HASH [n]; b"" where there is none."""
    digits = np.frombuffer(hashes.tobytes().hex().encode(), HEX)
    return np.where(hashes == b"", b"", digits)


def from_hex(digits: npt.NDArray[np.bytes_]) -> npt.NDArray[np.bytes_]:
    """Return hashes, HASH [n] of HEX [n].

    Raises:
        ValueError: one has no 32 hex digits.
    """
    return np.frombuffer(bytes.fromhex(digits.tobytes().decode("ascii")), HASH)
