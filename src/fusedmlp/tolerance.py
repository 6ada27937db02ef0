"""How far two backends may differ: one rule for each kind of comparison, each with its reason.

Backends round differently (order of sums, fused multiply-add, their own exp), so results are
compared within bounds; runs and thread counts of one backend must agree bit for bit, and need no
bound at all.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.errors import BreachedError

if TYPE_CHECKING:
    import numpy.typing as npt

KERNEL_FACTOR: Final = 16.0
"""Roundings per term that a kernel may add: a product, a sum, an exp of a few ulp, and slack."""


def kernel_bound(dtype: npt.DTypeLike, depth: int = 1) -> float:
    """Bound of max|a − b| / max|b| for one operation whose longest sum has ``depth`` terms.

    Rounding errors of a sum behave like a random walk and grow with √depth (Higham and Mary,
    2019); the factor covers the operation's own roundings.
    """
    return KERNEL_FACTOR * float(np.finfo(dtype).eps) * math.sqrt(max(depth, 1))


def trajectory_bound(dtype: npt.DTypeLike) -> float:
    """Bound of max|a − b| / max|b| for parameters after some tens of training steps.

    Steps amplify differences; half the digits must survive. The same 4·√eps serves as default
    tolerance across array libraries (array-api-extra).
    """
    return 4.0 * math.sqrt(float(np.finfo(dtype).eps))


def difference(
    actual: npt.ArrayLike, reference: npt.ArrayLike, scale: float | None = None
) -> float:
    """max|a − b| / scale: 0 for equal arrays, infinite where either is NaN or shapes differ.

    Parameters
    ----------
    scale
        max|b| where None. A sum rounds in proportion to its terms and not to its value, so where
        terms may cancel, give the largest sum of the terms' absolute values.
    """
    a, b = np.asarray(actual, np.float64), np.asarray(reference, np.float64)
    if a.shape != b.shape:
        return math.inf
    if a.size == 0 or np.array_equal(a, b):
        return 0.0
    gap = np.abs(a - b).max()
    size = np.abs(b).max() if scale is None else scale
    if not (np.isfinite(gap) and np.isfinite(size)):
        return math.inf
    return float(gap / size) if size else math.inf


def check_close(
    name: str,
    actual: npt.ArrayLike,
    reference: npt.ArrayLike,
    bound: float,
    scale: float | None = None,
) -> float:
    """Return the difference, or raise :class:`BreachedError` where it is above ``bound``."""
    found = difference(actual, reference, scale)
    if not found <= bound:
        raise BreachedError(f"{name} differs by {found:.3g}, the bound is {bound:.3g}")
    return found
