"""exp, expm1, tanh, logarithms and the normal distribution function of a vector.

The C library's functions take one number per call. These are polynomials without branches or
tables, in the argument's own type; tests bound their errors in ulp over the whole range. Formulas
of the network are in network/.
"""

from __future__ import annotations

import math
from typing import Final

from fusedmlp_numba.simd.intrinsics import cast_like
from fusedmlp_numba.simd.vectors import (
    Vector,
    absolute,
    bitcast_to_float,
    bitcast_to_int,
    constant_for,
    copysign,
    fma,
    inline_kernel,
    polynomial,
    select,
)

LOG2_E: Final = 1.4426950408889634
# ln 2 in two parts, the first with so few bits that its product with any exponent is exact
# (Cody and Waite, 1980).
HIGH_32, LOW_32 = 0.693359375, -2.12194440054690583e-4
HIGH_64, LOW_64 = 6.93145751953125e-1, 1.42860682030941723212e-6
SHIFTER_32, SHIFTER_64 = 1.5 * 2.0**23, 1.5 * 2.0**52
"""Large numbers whose addition rounds to integers, which are then in the last bits of the sum."""
MANTISSA_32, MANTISSA_64 = 23, 52
"""Bits below the exponent."""
BELOW_32, BELOW_64 = 2**MANTISSA_32 - 1, 2**MANTISSA_64 - 1
"""All of these bits."""
LOWEST_32, HIGHEST_32 = -127 * math.log(2), 128 * math.log(2)
LOWEST_64, HIGHEST_64 = -1023 * math.log(2), 1024 * math.log(2)
TANH_IS_ONE: Final = 40.0
"""2|x| from which on tanh x rounds to ±1, and −x from which on expm1 x rounds to −1."""

EXP_32: Final = (
    0.5000000026950435, 0.16666576970055, 0.041666375132553404, 0.008363181233113597,
    0.0013941124115719366,
)  # fmt: skip
EXP_64: Final = (
    0.5, 0.1666666666666667, 0.04166666666666666, 0.008333333333326169, 0.001388888888888928,
    0.00019841269874773122, 2.480158731459174e-05, 2.7557255421339424e-06,
    2.755728236843437e-07, 2.510521676583628e-08, 2.0912311370594814e-09,
)  # fmt: skip
"""(e^r − 1 − r) / r² for |r| ≤ ½·ln 2, minimax: within a tenth of an ulp of e^r."""

LOG_32: Final = (0.66666662693, 0.40000972152, 0.28498786688, 0.24279078841)
LOG_64: Final = (
    6.666666666666735130e-01, 3.999999999940941908e-01, 2.857142874366239149e-01,
    2.222219843214978396e-01, 1.818357216161805012e-01, 1.531383769920937332e-01,
    1.479819860511658591e-01,
)  # fmt: skip
"""FreeBSD's msun, e_logf.c and e_log.c: log(1 + f) as a series in s² = (f / (2 + f))²."""
# ln 2 in two parts as above, of the same files.
LOG_HIGH_32, LOG_LOW_32 = 6.9313812256e-01, 9.0580006145e-06
LOG_HIGH_64, LOG_LOW_64 = 6.93147180369123816490e-01, 1.90821492927058770002e-10
HALF_ROOT_32, HALF_ROOT_64 = 0x3F3504F3, 0x3FE6A09E667F3BCD
"""Bits of √½."""
WHOLE_32, WHOLE_64 = 2.0**23, 2.0**52
"""Numbers whose last bits count integers."""

NORMAL_SCALE_32, NORMAL_SCALE_64 = 3.5, 5.0
NORMAL_32: Final = (
    0.11398351192474365, 0.11398355662822723, 0.10467597097158432, 0.08613919466733932,
    0.05955246835947037, 0.03847481682896614, -0.017730308696627617, 0.05563892051577568,
    -0.1078929752111435, 0.0677352175116539, -0.014560369774699211,
)  # fmt: skip
NORMAL_64: Final = (
    0.07978845608028654, 0.07978845608028673, 0.07659691783702884, 0.07021384135538963,
    0.061022210953057675, 0.04978800490411994, 0.037583380641327116, 0.02563693023947511,
    0.015085300216189297, 0.007105058497225468, 0.0003217463382828372, 0.003860562644911952,
    -0.020076890917692217, 0.04890169410866331, -0.10997415719857502, 0.1885676704829755,
    -0.2504086382399611, 0.2559406416250384, -0.19250987113973253, 0.10149056154743838,
    -0.0353608951690396, 0.007324049001092023, -0.0006850298877882599,
)  # fmt: skip
"""e^(z²/2)·Φ(−z) / t for z ≥ 0 as a polynomial in t = s / (s + z), s the scale of the type:
Chebyshev interpolation in 50 digits, within 1.2e-8 and 5e-17. The form is that of Schonfelder,
Math. Comp. 32 (1978), for erfc."""
# Strict mode has a fit of its own, in fusedmlp.reference.arithmetic: a polynomial in another
# variable, with another factor before it. One table for both would change the bits of either.


@inline_kernel
def reduced(x: Vector) -> tuple[Vector, Vector]:
    """Return 2ⁿ and r with x = n·ln 2 + r, |r| ≤ ½·ln 2; n from −127 (2ⁿ = 0) to 128 (∞)."""
    shifter = constant_for(SHIFTER_32, SHIFTER_64, x)
    shifted = fma(x, LOG2_E, shifter)
    n = shifted - shifter
    r = fma(n, constant_for(-HIGH_32, -HIGH_64, x), x)
    r = fma(n, constant_for(-LOW_32, -LOW_64, x), r)
    last_bits = bitcast_to_int(shifted)
    exponent = last_bits << constant_for(MANTISSA_32, MANTISSA_64, last_bits)
    return bitcast_to_float(exponent + bitcast_to_int(cast_like(1.0, x))), r


@inline_kernel
def exp(x: Vector) -> Vector:
    """e^x within 2 ulp wherever that is at least 2^−126.5 and below 2^127.5 (−1022.5, 1023.5).

    Below, where numbers lose their precision and hosts their speed, it is 0; above it is ∞.
    """
    lowest, highest = constant_for(LOWEST_32, LOWEST_64, x), constant_for(HIGHEST_32, HIGHEST_64, x)
    x = select(x < lowest, lowest, x)
    x = select(x > highest, highest, x)
    scale, r = reduced(x)
    power = fma(polynomial(EXP_32, EXP_64, r), r, 1.0)
    return fma(power, r, 1.0) * scale


@inline_kernel
def tanh(x: Vector) -> Vector:
    """(e^2x − 1) / (e^2x + 1), by way of e^2|x| − 1: within 4 ulp for any x, tiny ones too."""
    y = absolute(x) * 2.0
    e = expm1(select(y > TANH_IS_ONE, cast_like(TANH_IS_ONE, x), y))
    return copysign(e / (e + 2.0), x)


@inline_kernel
def expm1(x: Vector) -> Vector:
    """e^x − 1 within 4 ulp for |x| ≤ TANH_IS_ONE, tiny x too."""
    scale, r = reduced(x)
    p = fma(polynomial(EXP_32, EXP_64, r), r * r, r)
    return fma(scale, p, scale - 1.0)


@inline_kernel
def normal_cdf(z: Vector, power: Vector) -> Vector:
    """Φ(z) = ½·(1 + erf(z/√2)), with ``power`` = exp(−z²/2), which its density needs too.

    Within (4 + 2·z²) ulp: relative, so that small tails are accurate too.
    """
    scale = constant_for(NORMAL_SCALE_32, NORMAL_SCALE_64, z)
    t = scale / (absolute(z) + scale)
    tail = power * (t * polynomial(NORMAL_32, NORMAL_64, t))
    return select(z > 0.0, 1.0 - tail, tail)


@inline_kernel
def log(x: Vector) -> Vector:
    """Natural logarithm of normal numbers above 0, and of ∞ and NaN, within 1 ulp."""
    start = constant_for(HALF_ROOT_32, HALF_ROOT_64, bitcast_to_int(x))
    mantissa = constant_for(MANTISSA_32, MANTISSA_64, start)
    # Bits counted from those of √½ on: x = 2ⁿ·(1 + f) with 1 + f from √½ to √2.
    above = bitcast_to_int(x) + (bitcast_to_int(cast_like(1.0, x)) - start)
    whole = constant_for(WHOLE_32, WHOLE_64, x)
    n = bitcast_to_float((above >> mantissa) | bitcast_to_int(whole)) - (
        whole + constant_for(127.0, 1023.0, x)
    )
    f = bitcast_to_float((above & constant_for(BELOW_32, BELOW_64, start)) + start) - 1.0
    return select(x < math.inf, log_near_one(f, n), x)


@inline_kernel
def log_1p(x: Vector) -> Vector:
    """log(1 + x) for x from 0 to 1, and of NaN, within 2 ulp: tiny x too."""
    # Above √2 − 1 as log 2·(1 + ½(x − 1)), so that 1 + x is never rounded.
    small = x < math.sqrt(2.0) - 1.0
    zero = cast_like(0.0, x)
    f = select(small, x, (x - 1.0) * 0.5)
    return log_near_one(f, select(small, zero, cast_like(1.0, x)))


@inline_kernel
def log_near_one(f: Vector, n: Vector) -> Vector:
    """n·ln 2 + log(1 + f), √½ ≤ 1 + f ≤ √2."""
    s = f / (f + 2.0)
    z = s * s
    half_square = f * f * 0.5
    rest = half_square + z * polynomial(LOG_32, LOG_64, z)
    low = fma(n, constant_for(LOG_LOW_32, LOG_LOW_64, f), s * rest)
    return fma(n, constant_for(LOG_HIGH_32, LOG_HIGH_64, f), f - (half_square - low))
