"""Arrays as the Numba engine's kernels take them."""

from __future__ import annotations

import numpy as np

from fusedmlp_numba.constants import DTYPE_CODES


def as_stored(x):
    """Return an array's memory, and the number of its elements' type."""
    return x.reshape(-1).view(np.uint8), DTYPE_CODES[x.dtype]
