"""Names of numpy array types that many files use."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bool = npt.NDArray[np.bool_]
Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Int8 = npt.NDArray[np.int8]
Int16 = npt.NDArray[np.int16]
Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Integers = npt.NDArray[np.signedinteger[Any]]
Structured = npt.NDArray[np.void]
Text = npt.NDArray[np.str_]
Uint8 = npt.NDArray[np.uint8]
