"""exp and tanh of one number, written so that LLVM turns a loop over them into vectors.

The C library's exp is a call for each element, and keeps the loop around it scalar. These are
polynomials without branches, in the argument's own type. Errors in ulp are bounded by tests over
the whole range. The logarithms of the losses, one a row, are left to the C library.
"""

from __future__ import annotations

import math
from typing import Final

from fusedmlp_numba.caching import kernel
from fusedmlp_numba.intrinsics import fma, is_double, like, nearest, power_of_two

# ln 2 in two parts, the first with so few bits that its product with any exponent is exact, and
# the arguments beyond which e^x is surely 0 or infinite (Cody and Waite, 1980).
LOG2_E: Final = 1.4426950408889634
LN2_HIGH_32: Final = 0.693359375
LN2_LOW_32: Final = -2.12194440054690583e-4
LN2_HIGH_64: Final = 6.93145751953125e-1
LN2_LOW_64: Final = 1.42860682030941723212e-6
LOWEST_32, HIGHEST_32 = -104.0, 89.0
LOWEST_64, HIGHEST_64 = -746.0, 710.0
# 1/k!: Taylor's series for |r| ≤ ½·ln 2 is within a tenth of an ulp after r⁷ and r¹³.
F2, F3, F4, F5, F6, F7, F8, F9, F10, F11, F12, F13 = (1.0 / math.factorial(k) for k in range(2, 14))


@kernel
def reduced(x: float) -> tuple[float, float]:
    """Return n and e^r − 1 with x = n·ln 2 + r, |r| ≤ ½·ln 2; exact to an ulp near 0 too."""
    n = nearest(x * like(LOG2_E, x))
    if is_double(x):
        r = fma(n, like(-LN2_LOW_64, x), fma(n, like(-LN2_HIGH_64, x), x))
        p = fma(r, like(F13, x), like(F12, x))
        p = fma(r, p, like(F11, x))
        p = fma(r, p, like(F10, x))
        p = fma(r, p, like(F9, x))
        p = fma(r, p, like(F8, x))
        p = fma(r, p, like(F7, x))
    else:
        r = fma(n, like(-LN2_LOW_32, x), fma(n, like(-LN2_HIGH_32, x), x))
        p = like(F7, x)
    p = fma(r, p, like(F6, x))
    p = fma(r, p, like(F5, x))
    p = fma(r, p, like(F4, x))
    p = fma(r, p, like(F3, x))
    p = fma(r, p, like(F2, x))
    return n, fma(r * r, p, r)


@kernel
def exp(x: float) -> float:
    """e^x within 2 ulp; ∞ where it overflows, 0 where it underflows, NaN for NaN.

    A plain expression without branches, so that LLVM turns a loop over it into vectors.
    """
    lowest = like(LOWEST_64, x) if is_double(x) else like(LOWEST_32, x)
    highest = like(HIGHEST_64, x) if is_double(x) else like(HIGHEST_32, x)
    x = lowest if x < lowest else x
    x = highest if x > highest else x
    n, p = reduced(x)
    # In two steps, because 2^n alone is out of range where e^x is subnormal or nearly infinite.
    half = nearest(n * like(0.5, x))
    result: float = (p + like(1.0, x)) * power_of_two(half) * power_of_two(n - half)
    return result


@kernel
def tanh(x: float) -> float:
    """(e^2x − 1) / (e^2x + 1), by way of e^2|x| − 1: a few ulp for any x, tiny ones too."""
    y = abs(x) * like(2.0, x)
    y = like(40.0, x) if y > like(40.0, x) else y
    n, p = reduced(y)
    scale = power_of_two(n)
    e = fma(scale, p, scale - like(1.0, x))
    return math.copysign(e / (e + like(2.0, x)), x)
