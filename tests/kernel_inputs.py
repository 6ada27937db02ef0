"""How tests call the Numba engine's kernels, and the arrays that these take."""

from __future__ import annotations

import functools

import numba
import numpy as np

from fusedmlp_numba.compiler.jit import OPTIONS
from fusedmlp_numba.constants import DTYPE_CODES
from fusedmlp_numba.simd.dtype_dispatch import StoredValues


def as_stored(x):
    """Return an array's memory, with the code of its type."""
    return StoredValues(x.reshape(-1).view(np.uint8), DTYPE_CODES[x.dtype])


@functools.cache
def _callable_from_python(kernel):
    """Kernels have no wrapper for Python: compile the same source once more, with one.

    Without reference counts, as kernels are: they return views of arrays without counting them.
    """
    return numba.njit(**OPTIONS, _nrt=False)(kernel.py_func)


def run(kernel, *arguments):
    """Call a kernel."""
    return _callable_from_python(kernel)(*arguments)
