"""Powers and half cosines with the same bits on every processor.

The powers and cosines of NumPy and of C libraries may differ in the last bit between processors,
and strict mode promises the same bits everywhere. The functions here use integers, or the float64
operations +, −, × and ÷, which IEEE 754 defines to the last bit.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from fusedmlp.reference.arithmetic import CONSTANTS, exp, log

if TYPE_CHECKING:
    from fusedmlp.types import Float64Vector

_FRACTION_BITS: Final = 192
"""Binary places of the fixed-point numbers of :func:`powers`: far more than a float64 has."""

_NEGLIGIBLE: Final = 1 << (_FRACTION_BITS - 64)
"""Fixed-point 2⁻⁶⁴."""

_SINE_TERMS: Final = tuple((-1) ** k / math.factorial(2 * k + 1) for k in range(8, -1, -1))
"""Coefficients of the Taylor series of sin y / y in y², from y¹⁶ down to 1."""


def powers(base: float, first: int, count: int) -> Float64Vector:
    """Return base^t for ``count`` values of t from ``first``, for 0 ≤ base ≤ 1: (count,).

    They are computed in fixed point and rounded once. Powers below 2⁻⁶⁴ become 0.
    """
    found = np.zeros(count)
    one = 1 << _FRACTION_BITS
    factor = int(Fraction(base) * one)
    power, square, exponent = one, factor, first
    while exponent and power:
        if exponent & 1:
            power = power * square >> _FRACTION_BITS
        square = square * square >> _FRACTION_BITS
        exponent >>= 1
    for i in range(count):
        if power < _NEGLIGIBLE:
            break
        found[i] = power / one
        power = power * factor >> _FRACTION_BITS
    return found


def inverse_powers(base: Float64Vector, power: float) -> Float64Vector:
    """Return base^−power for finite bases of at least 1, as e^(−power·log base): (n,)."""
    constants = CONSTANTS["float64"]
    return cast("Float64Vector", exp(-power * log(base, constants), constants))


def half_cosine(x: Float64Vector) -> Float64Vector:
    """Return ½·(1 + cos πx) for 0 ≤ x ≤ 1: (n,), exactly 1 at 0 and 0 at 1.

    It equals 1 − s² for x ≤ ½ and s² above, with s = sin(½π·min(x, 1 − x)). The argument of the
    sine is at most ¼π, where the terms left out of its series are below 10⁻¹⁹.
    """
    y = 0.5 * math.pi * np.minimum(x, 1.0 - x)
    z, series = y * y, np.zeros(len(x))
    for term in _SINE_TERMS:
        series = series * z + term
    square = (y * series) * (y * series)
    return np.where(x <= 0.5, 1.0 - square, square)
