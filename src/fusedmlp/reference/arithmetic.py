"""The arithmetic of strict mode, specified to the last bit. The engine is in ``engine.py``.

IEEE 754 defines the result of a single +, −, ×, ÷ or √. It does not define the order of a sum,
whether a product and a sum are fused into one rounding, or exp and log. Strict engines therefore
use only these five operations, each rounded separately to the engine's dtype (to nearest, ties to
even, with subnormal numbers), according to these rules:

- **Sums** start from +0 and add their terms one at a time in ascending index: a product over the
  inputs, a gradient over the rows of the batch, a softmax and a row's loss over the outputs, and a
  batch's loss, weight and correct rows over its rows. Terms that are 0 are added too.
- **Everything else** is computed in the order in which the formulas of this package are written.
  Plain SGD multiplies the gradients by the learning rate, not the delta, so that ``train_epoch``
  equals its batches one by one.
- **exp, log, tanh** and all functions made of them are the functions below.
- **Losses and their sums** are in float64, from logits and totals of the engine's dtype.
- **Scalars of a step** (learning rates, Adam's corrections, 1 / Σw) are computed in float64 on the
  host, or by one float64 division, and rounded to the engine's dtype once.
- **Evaluation** computes :func:`evaluation_rows` rows at a time, so that its sums are the same.

The functions are written once, for NumPy arrays. Numba compiles the same source for scalars, and
``strict.cu`` is a transcription with the same names. Only :func:`choose`, :func:`bits` and
:func:`from_bits` are implemented separately there; they move bits and do no arithmetic.

All literals of the functions are in :class:`Constants`, in the engine's dtype. Hazard: Numba would
compile a Python number in a formula as float64, and with it the whole formula.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Final, NamedTuple, cast

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.types import FloatArray, FloatDtype

LEAST_EVALUATION_ROWS: Final = 1024

LN2: Final = Fraction("0.6931471805599453094172321214581765680755001343602552541206800094933936")
"""ln 2 to 70 digits (OEIS A002162)."""


ERFC_TERMS_32: Final = (
    8.007454974776248e-05,
    -9.25376912641456e-05,
    -0.0007340820503933423,
    0.001875060245867973,
    0.0025067786718598333,
    -0.023763559702172088,
    0.06831319671956372,
    -0.11927528136881009,
    0.1296447209153884,
    -0.047562156146354076,
    -0.13562110005839803,
    1.2530080563514496,
)
"""Coefficients of P for float32, from the highest power down; see :func:`normal_cdf`."""

ERFC_TERMS_64: Final = (
    8.864219016427092e-10,
    9.885798831139365e-10,
    -8.500397929772615e-09,
    -1.3326364813003834e-08,
    4.180784698845582e-08,
    1.0187000600072885e-07,
    -1.4160064940265987e-07,
    -6.166496077604353e-07,
    3.5683839153992204e-07,
    3.472414602875686e-06,
    -7.315105164159062e-07,
    -2.0100567931289227e-05,
    4.949484992570595e-06,
    0.00012509935235563107,
    -0.00010515979981501177,
    -0.0007798322721083991,
    0.0018886903591561553,
    0.002529391816066239,
    -0.023770514918645888,
    0.06830802734397848,
    -0.11927366341530699,
    0.1296451587027606,
    -0.04756229435345087,
    -0.13562110612458117,
    1.2530080582697296,
)
"""The same for float64."""


def evaluation_rows(batch_size: int) -> int:
    """Return the number of rows that ``forward`` and ``evaluate`` compute at a time."""
    return max(batch_size, LEAST_EVALUATION_ROWS)


class Constants(NamedTuple):
    """The constants of the functions, for one floating type.

    Parameters
    ----------
    zero, half, one, two, infinity, nan
        0, ½, 1, 2, ∞ and NaN.
    log2_e
        1 / ln 2.
    ln2_high, ln2_low
        ln 2 in two parts (Cody and Waite, 1980): the first has so few bits that its product with
        any exponent is exact; the second is the rounded remainder.
    shifter
        1.5·2ᵐ for a mantissa of m bits: adding it rounds to an integer, which is then in the last
        bits of the sum.
    lowest, highest
        e^x is 0 below the first and ∞ above the second.
    exp_terms
        Coefficients 1/k! of the Taylor series of e^r, from the highest k down to 2.
    log_terms
        Coefficients 2/(2k + 1) of the series of log((1 + s)/(1 − s)) / s, from the highest k down
        to 1.
    tanh_is_one
        A bound of 2|x| above which tanh x rounds to ±1.
    expm1_is_minus_one
        A bound below which eˣ − 1 rounds to −1.
    erfc_terms, erfc_center
        Coefficients of P, and 3; see :func:`normal_cdf`.
    root_half, minus_half
        √½ and −½.
    log_1p_turn
        √2 − 1, from which on :func:`log_1p` uses its second form.
    least_normal, subnormal_scale, subnormal_exponent
        The smallest normal number; 2ᵏ, by which smaller numbers are multiplied before their bits
        are read; and k.
    shifter_bits, root_half_bits
        Bits of ``shifter`` and of √½.
    mantissa_bits, bias
        m, and the value of the exponent bits of 1.
    """

    zero: np.floating
    half: np.floating
    one: np.floating
    two: np.floating
    infinity: np.floating
    nan: np.floating
    log2_e: np.floating
    ln2_high: np.floating
    ln2_low: np.floating
    shifter: np.floating
    lowest: np.floating
    highest: np.floating
    exp_terms: tuple[np.floating, ...]
    log_terms: tuple[np.floating, ...]
    tanh_is_one: np.floating
    expm1_is_minus_one: np.floating
    erfc_terms: tuple[np.floating, ...]
    erfc_center: np.floating
    root_half: np.floating
    minus_half: np.floating
    log_1p_turn: np.floating
    least_normal: np.floating
    subnormal_scale: np.floating
    subnormal_exponent: np.floating
    shifter_bits: np.signedinteger
    root_half_bits: np.signedinteger
    mantissa_bits: np.signedinteger
    bias: np.signedinteger


def _constants(
    real: type[np.float32] | type[np.float64],
    *,
    exp_degree: int,
    log_degree: int,
    high_bits: int,
    limit: int,
) -> Constants:
    """Derive the constants of a floating type.

    Parameters
    ----------
    exp_degree, log_degree
        Last k of the series: their truncation errors are below 2⁻⁴ units in the last place.
    high_bits
        Bits of ``ln2_high``.
    limit
        ``highest``, and ``lowest`` with its sign.
    """
    whole: type[np.int32] | type[np.int64] = np.int32 if real is np.float32 else np.int64
    mantissa = int(np.finfo(real).nmant)
    ln2_high = Fraction(round(LN2 * 2**high_bits), 2**high_bits)
    shifter, root_half = real(1.5 * 2.0**mantissa), real(math.sqrt(0.5))
    return Constants(
        zero=real(0.0),
        half=real(0.5),
        one=real(1.0),
        two=real(2.0),
        infinity=real(np.inf),
        nan=real(np.nan),
        log2_e=real(float(1 / LN2)),
        ln2_high=real(float(ln2_high)),
        ln2_low=real(float(LN2 - ln2_high)),
        shifter=shifter,
        lowest=real(-limit),
        highest=real(limit),
        exp_terms=tuple(real(1 / math.factorial(k)) for k in range(exp_degree, 1, -1)),
        log_terms=tuple(real(2 / (2 * k + 1)) for k in range(log_degree, 0, -1)),
        tanh_is_one=real(40.0),
        expm1_is_minus_one=real(-40.0),
        erfc_terms=tuple(map(real, ERFC_TERMS_32 if real is np.float32 else ERFC_TERMS_64)),
        erfc_center=real(3.0),
        root_half=root_half,
        minus_half=real(-0.5),
        log_1p_turn=real(math.sqrt(2.0) - 1.0),
        least_normal=np.finfo(real).smallest_normal,
        subnormal_scale=real(2.0 ** (mantissa + 2)),
        subnormal_exponent=real(mantissa + 2),
        shifter_bits=shifter.view(whole),
        root_half_bits=root_half.view(whole),
        mantissa_bits=whole(mantissa),
        bias=whole(np.finfo(real).maxexp - 1),
    )


CONSTANTS: Final[dict[FloatDtype, Constants]] = {
    "float32": _constants(np.float32, exp_degree=8, log_degree=4, high_bits=16, limit=110),
    "float64": _constants(np.float64, exp_degree=13, log_degree=10, high_bits=40, limit=800),
}
"""By dtype. The limits are beyond the arguments where e^x overflows and where it rounds to 0."""


def constants_of(x: FloatArray) -> Constants:
    """Return the constants of an array's floating type."""
    return CONSTANTS["float32" if x.dtype == np.float32 else "float64"]


def choose(
    condition: npt.NDArray[np.bool_], x: FloatArray | np.floating, y: FloatArray | np.floating
) -> FloatArray:
    """Select x where the condition holds, else y; both are computed."""
    return cast("FloatArray", np.where(condition, x, y))


def bits(x: FloatArray) -> npt.NDArray[np.signedinteger]:
    """Reinterpret the bits of floats as integers of the same size."""
    return cast("npt.NDArray[np.signedinteger]", x.view(np.dtype(f"i{x.itemsize}")))


def from_bits(n: npt.NDArray[np.signedinteger], like: np.floating) -> FloatArray:
    """Reinterpret integers as the bits of floats of the type of ``like``."""
    return cast("FloatArray", n.view(like.dtype))


def power_of_two(n: npt.NDArray[np.signedinteger], c: Constants) -> FloatArray:
    """2ⁿ, for n such that it is a normal number."""
    return from_bits((n + c.bias) << c.mantissa_bits, c.one)


def nearest_exponent(x: FloatArray, c: Constants) -> npt.NDArray[np.signedinteger]:
    """Round x / ln 2 to an integer."""
    return bits(x * c.log2_e + c.shifter) - c.shifter_bits


def exp_series(x: FloatArray, n: npt.NDArray[np.signedinteger], c: Constants) -> FloatArray:
    """e^r − 1 for r = x − n·ln 2, |r| ≤ ½·ln 2, by its Taylor series."""
    multiple = from_bits(n + c.shifter_bits, c.one) - c.shifter
    r = (x - multiple * c.ln2_high) - multiple * c.ln2_low
    p = c.zero * r
    for term in c.exp_terms:
        p = p * r + term
    series: FloatArray = r + r * r * p
    return series


def exp(x: FloatArray, c: Constants) -> FloatArray:
    """e^x for any x, within 1 ulp: 2ⁿ·e^r, with 2ⁿ as two factors.

    Only the last multiplication can round to a subnormal result or overflow.
    """
    x = choose(x < c.lowest, c.lowest, x)
    x = choose(x > c.highest, c.highest, x)
    n = nearest_exponent(x, c)
    first = n >> 1
    power = c.one + exp_series(x, n, c)
    return power * power_of_two(first, c) * power_of_two(n - first, c)


def logistic(x: FloatArray, c: Constants) -> FloatArray:
    """σ(x) = 1 / (1 + e^−x)."""
    probability: FloatArray = c.one / (c.one + exp(c.zero - x, c))
    return probability


def tanh(x: FloatArray, c: Constants) -> FloatArray:
    """(e^2x − 1) / (e^2x + 1), from e^2|x| − 1: within 2 ulp for any x, including tiny x."""
    y = choose(x < c.zero, c.zero - x, x) * c.two
    y = choose(y > c.tanh_is_one, c.tanh_is_one, y)
    n = nearest_exponent(y, c)
    scale = power_of_two(n, c)
    less_one = scale * exp_series(y, n, c) + (scale - c.one)
    t = less_one / (less_one + c.two)
    return choose(x < c.zero, c.zero - t, t)


def expm1(x: FloatArray, c: Constants) -> FloatArray:
    """e^x − 1 for x ≤ 0, within 1.5 ulp, including tiny x."""
    x = choose(x < c.expm1_is_minus_one, c.expm1_is_minus_one, x)
    n = nearest_exponent(x, c)
    scale = power_of_two(n, c)
    return scale * exp_series(x, n, c) + (scale - c.one)


def normal_cdf(x: FloatArray, c: Constants) -> FloatArray:
    """Φ(x) = ½·erfc(−x/√2), the normal distribution function.

    Within 1.5 ulp of 1, and where x < 0 within 6 + ½·x² ulp of Φ(x) itself.

    With ``y = |x| / √2`` and t = (y − 3)/(y + 3), erfc y = e^(−y²)·P(t) / (1 + 2y) (Shepherd and
    Laframboise, 1981, with 3.75 instead of 3). The polynomial P interpolates (1 + 2y)·e^(y²)·erfc y
    at the Chebyshev nodes of −1 ≤ t < 1. Its degree is 11 in float32 and 24 in float64; the
    relative truncation errors are 7·10⁻⁹ and 1.2·10⁻¹⁷.
    """
    y = choose(x < c.zero, c.zero - x, x) * c.root_half
    y = choose(y > c.highest, c.highest, y)  # t would be NaN for an infinite x
    t = (y - c.erfc_center) / (y + c.erfc_center)
    p = c.zero * t
    for term in c.erfc_terms:
        p = p * t + term
    half = c.half * (exp(c.minus_half * x * x, c) * p / (c.one + c.two * y))
    return choose(x < c.zero, half, c.one - half)


def log_near_one(f: FloatArray, n: FloatArray, c: Constants) -> FloatArray:
    """n·ln 2 + log(1 + f), √½ ≤ 1 + f ≤ √2; the formula of FreeBSD's msun, e_log.c.

    With s = f / (2 + f), log(1 + f) = log((1 + s)/(1 − s)) = 2s + s·R, where R is a series in s²,
    and 2s = f − s·f. Written with ½f², so that the small terms are added first.
    """
    s = f / (c.two + f)
    z = s * s
    series = c.zero * z
    for term in c.log_terms:
        series = (series + term) * z
    half_square = c.half * f * f
    small = s * (half_square + series) + n * c.ln2_low
    return n * c.ln2_high - ((half_square - small) - f)


def log(x: FloatArray, c: Constants) -> FloatArray:
    """Natural logarithm within 1 ulp: −∞ of 0, NaN of negative numbers."""
    subnormal = x < c.least_normal
    above = bits(choose(subnormal, x * c.subnormal_scale, x)) - c.root_half_bits
    # x = 2ⁿ·(1 + f) with √½ ≤ 1 + f < √2: bits are counted from the bits of √½.
    exponent = above >> c.mantissa_bits
    f = from_bits(above - (exponent << c.mantissa_bits) + c.root_half_bits, c.one) - c.one
    n = from_bits(exponent + c.shifter_bits, c.one) - c.shifter
    n = n - choose(subnormal, c.subnormal_exponent, c.zero)
    result = choose(x < c.infinity, log_near_one(f, n, c), x)
    result = choose(x < c.zero, c.nan, result)
    return choose(x == c.zero, c.zero - c.infinity, result)


def log_1p(x: FloatArray, c: Constants) -> FloatArray:
    """log(1 + x) for 0 ≤ x ≤ 1, within 2 ulp, including tiny x.

    For x ≥ √2 − 1 it is log(2·(1 + ½(x − 1))), so that 1 + x is never rounded.
    """
    small = x < c.log_1p_turn
    f = choose(small, x, (x - c.one) * c.half)
    return log_near_one(f, choose(small, c.zero, c.one), c)
