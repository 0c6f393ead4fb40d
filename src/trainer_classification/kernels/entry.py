"""Compile the kernels that Python calls, and load their compiled code without the compiler."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
from numba import njit
from numba.core.caching import FunctionCache
from numba.core.runtime import rtsys

_TRIED_WITH = "0.68."  # another version may load its code in another way


class _KernelCache(FunctionCache):
    """Load compiled code without what only compiling needs.

    Before it looks for compiled code, numba imports its implementation of Python and
    numpy, and scipy with it: a sixth of the time of `import torch`. Compiled code needs
    the runtime's symbols alone. If there is none, compiling imports the rest itself.
    """

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        rtsys.initialize(target_context)
        with self._guard_against_spurious_io_errors():
            return self._load_overload(sig, target_context)


def entry(function: Callable[..., Any]) -> Any:
    """Compile a kernel that Python calls, to run without the GIL; its code is kept on disk.

    Only for kernels of numbers and arrays of them: hashes and random numbers need symbols
    that are not there when compiled code is loaded.
    """
    dispatcher = njit(nogil=True, cache=True)(function)
    if numba.__version__.startswith(_TRIED_WITH):
        dispatcher._cache = _KernelCache(function)

    return dispatcher
