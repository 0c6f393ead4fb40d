"""Hold what is noted of very many images where few notes differ: each value once, and its number for every image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer_classification.arrays import Bool, Int64


class CodedColumn:
    """A column of n rows, which takes a byte a row as long as no more than 256 values differ.

    It is read as an array is: `column[rows]` are the values of some rows.

    Args:
        count: n. All rows have the same value at first.
        dtype: of the arrays that are read.
        first: that value; None: the zero of `dtype`.
    """

    def __init__(self, count: int, dtype: npt.DTypeLike, first: Any = None) -> None:
        self.dtype: np.dtype[Any] = np.dtype(dtype)
        zero = np.zeros((), self.dtype).item() if first is None else first
        self._number_of: dict[Any, int] = {zero: 0}
        self._numbers: npt.NDArray[np.unsignedinteger[Any]] = np.zeros(count, np.uint8)

    def of_length(self, count: int) -> CodedColumn:
        """Return a new column of the same kind, with its first value in all rows."""
        return CodedColumn(count, self.dtype, next(iter(self._number_of)))

    def take(self, rows: Int64) -> CodedColumn:
        """Return a column of some of the rows."""
        taken = self.of_length(0)
        taken._number_of = self._number_of
        taken._numbers = self._numbers[rows]
        return taken

    def put(self, start: int, part: CodedColumn) -> None:
        """Copy the rows of another column, from a row on."""
        numbers = np.array([self._number(value) for value in part._number_of])
        self._numbers[start : start + len(part)] = numbers[part._numbers]

    def equals(self, value: Any) -> Bool:
        """Return which rows have a value: bool [n]."""
        if value not in self._number_of:
            return np.zeros(len(self), bool)
        return np.equal(self._numbers, self._number_of[value])

    def __setitem__(self, row: int, value: Any) -> None:
        number = self._number(value)  # which may replace the numbers by wider ones
        self._numbers[row] = number

    def _number(self, value: Any) -> int:
        number = self._number_of.get(value)
        if number is None:
            number = self._number_of[value] = len(self._number_of)
            if number > np.iinfo(self._numbers.dtype).max:
                self._numbers = self._numbers.astype(np.min_scalar_type(number))
        return number

    def __getitem__(self, rows: Any) -> Any:
        return np.array(list(self._number_of), self.dtype)[self._numbers[rows]]

    def __len__(self) -> int:
        return len(self._numbers)

    def __iter__(self) -> Iterator[Any]:
        return map(list(self._number_of).__getitem__, self._numbers.data)
