"""How far two backends may differ: one rule for each kind of comparison, each with its reason.

Backends round differently (order of sums, fused multiply-add, their own exp), so their results are
compared within bounds. The runs of one backend must agree bit for bit and need no bound. The same
holds for any number of threads, unless the backend declares otherwise.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.errors import BreachedError

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.types import FloatDtype

RULES: Final = (
    (
        "one operation",
        "16 · eps · √depth",
        "errors of a sum of depth terms grow like a random walk; 16 covers the other roundings",
    ),
    (
        "parameters after 50 steps",
        "4 · √eps",
        "steps amplify differences; half of the digits must survive",
    ),
    (
        "products in TF32, where requested",
        "4 · 2⁻¹⁰ for each product in a row; after 50 steps 4 · √2⁻¹⁰",
        "operands keep 10 bits; their errors are independent, so a sum's grow as the sum does",
    ),
    (
        "gradient against finite differences",
        "10⁻⁶ in float64",
        "central differences with a step h err by h² and eps / h; the rest is for cancellation",
    ),
    (
        "accuracy of p on n rows",
        "3 · √(p(1 − p)/n)",
        "three standard errors: less than what another test set would change",
    ),
    (
        "masks, shuffles, starting weights; one backend's own runs",
        "equal bits",
        "they follow from the seed alone, or from the same instructions",
    ),
)
"""Every rule as text for the certificate: what it bounds, the bound, the reason."""

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


TF32_EPS: Final = 2.0**-10
"""Distance from 1 to the next number of TF32, which keeps 10 bits of float32's mantissa (NVIDIA
A100 Tensor Core GPU Architecture, 2020)."""


def tf32_bound(products: int = 1) -> float:
    """Bound of max|a − b| / max|b| after a chain of float32 products whose operands are TF32.

    Each operand is rounded once, by at most half of TF32_EPS, and sums stay in float32. The errors
    of a sum's terms are independent, so they grow with its depth as the sum itself does, and the
    bound does not depend on the depth. The factor covers the largest of many elements, and results
    that are smaller than their terms. The bound holds for results that depend smoothly on the
    products: after a relu, a unit whose sum is as near to 0 as its error may have the other
    derivative.
    """
    return 4.0 * TF32_EPS * products


def tf32_trajectory_bound() -> float:
    """:func:`trajectory_bound` where products are in TF32: half of their digits must survive."""
    return 4.0 * math.sqrt(TF32_EPS)


TRAJECTORY_STEPS: Final = 50
"""Number of steps over which :func:`trajectory_bound` is checked."""

GRADIENT_STEP: Final = 1e-6
GRADIENT_BOUND: Final = 1e-6
"""For central differences in float64, relative to the larger of 1 and the gradient. They err by
about STEP² and eps/STEP, which are 1e-12 and 1e-10; the rest is slack for cancellation."""


def accuracy_bound(accuracy: float, rows: int) -> float:
    """Bound of the difference of two trainings' accuracies, both measured on ``rows`` rows.

    Three standard errors of a share p of n rows, 3·√(p(1−p)/n), and at least one row: trainings
    that rounding drove apart may differ by less than what another test set would change.
    """
    if not 0.0 <= accuracy <= 1.0:
        return 0.0  # the training diverged
    return max(3.0 * math.sqrt(accuracy * (1.0 - accuracy) / rows), 1.0 / rows)


def ulps(
    actual: npt.NDArray[np.generic], reference: npt.NDArray[np.generic], dtype: FloatDtype
) -> npt.NDArray[np.float64]:
    """Return the distance of each pair of elements, in units in the last place of the larger one.

    Equal values, NaN beside NaN among them, are 0 apart; a NaN beside a number is infinitely far.
    Where both are below the smallest normal number, which an engine may flush to zero, that number
    is the unit.

    Parameters
    ----------
    dtype
        The type whose last place is the unit; the arrays may be wider, as sums are.
    """
    a, b = actual.astype(np.float64), reference.astype(np.float64)
    smallest = float(np.finfo(dtype).tiny)
    with np.errstate(invalid="ignore", over="ignore"):
        larger = np.maximum(np.abs(a), np.abs(b))
        unit = np.spacing(larger.astype(dtype)).astype(np.float64)
        found = np.abs(a - b) / np.where(larger < smallest, smallest, unit)
    equal = (a == b) | (np.isnan(a) & np.isnan(b))
    return np.where(equal, 0.0, np.where(np.isnan(found), np.inf, found))


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
