"""Strict mode's twins of the kernels with sums, products or exp in them; see kernels.py.

Names and formulas are those of kernels.py, and every kernel that is not here is strict as it is:
NumPy rounds each +, −, ×, ÷ and √ of an array by itself. Hazard: of its other functions, ``matmul``
and ``einsum`` are the BLAS's or fuse, ``sum`` adds in pairs, ``exp`` and ``log`` differ between
processors. The order of everything here is stated in :mod:`fusedmlp.reference.arithmetic`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.backend import EXP_OVERFLOWS, MAX_ROW_LOSS
from fusedmlp.reference.arithmetic import (
    CONSTANTS,
    Constants,
    choose,
    exp,
    log,
    log_1p,
    logistic,
    tanh,
)

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.network import HiddenActivation, Output
    from fusedmlp.types import Float64Vector, FloatArray, IntArray

DOUBLE = CONSTANTS["float64"]
"""Losses are in float64 whatever the engine's dtype."""


def product(a: FloatArray, b: FloatArray, out: FloatArray) -> None:
    """Out (m, n) = a (m, k) · b (k, n): k outer products, added in order."""
    out[...] = 0
    for column, row in zip(a.T, b, strict=True):
        out += column[:, None] * row


def sum_rows(terms: FloatArray) -> FloatArray:
    """Sum over the first axis, in order."""
    total = np.zeros(terms.shape[1:], terms.dtype)
    for row in terms:
        total = total + row
    return total


def bias_gradient(delta: FloatArray, db: FloatArray) -> None:
    """Db (H,) = the sum of delta (B, H) over its rows."""
    db[...] = sum_rows(delta)


def batch_weight(w: FloatArray) -> float:
    """Σ w over the batch's rows (B,), in float64."""
    return float(sum_rows(w.astype(np.float64)))


def bias_activation(z: FloatArray, b: FloatArray, activation: HiddenActivation) -> None:
    """Z ← f(z + b), in place; z (B, H), b (H,)."""
    z += b
    c = _constants(z)
    match activation:
        case "sigmoid":
            z[...] = logistic(z, c)
        case "tanh":
            z[...] = tanh(z, c)
        case "relu":
            z[...] = choose(z < c.zero, c.zero, z)
        case "identity":
            pass


def softmax_cross_entropy(
    z: FloatArray, b: FloatArray, y: IntArray, w: FloatArray | None
) -> tuple[float, float]:
    """See :func:`fusedmlp_numpy.kernels.softmax_cross_entropy`."""
    z += b
    each = np.arange(len(z))
    predicted = z.argmax(axis=1)
    m = z[each, predicted]
    margin = m.astype(np.float64) - z[each, y].astype(np.float64)
    total = _softmax_terms(z, m)
    losses = log(total.astype(np.float64), DOUBLE) + margin
    z /= total[:, None]
    z[each, y] -= 1
    return _weighted_sums(losses, predicted == y, z, w)


def sigmoid_cross_entropy(
    z: FloatArray, b: FloatArray, y: FloatArray, w: FloatArray | None
) -> tuple[float, float]:
    """See :func:`fusedmlp_numpy.kernels.sigmoid_cross_entropy`."""
    z += b
    correct = ((z > 0) == (y > 0.5)).all(axis=1)
    logits, zero = z.astype(np.float64), DOUBLE.zero
    magnitude = choose(logits < zero, zero - logits, logits)
    positive = choose(logits < zero, zero, logits)
    log_terms = log_1p(exp(zero - magnitude, DOUBLE), DOUBLE)
    losses = sum_rows(((positive - logits * y) + log_terms).T)
    output_activation(z, "sigmoid")
    z -= y
    return _weighted_sums(losses, correct, z, w)


def squared_error(
    z: FloatArray, b: FloatArray, y: FloatArray, w: FloatArray | None
) -> tuple[float, float]:
    """See :func:`fusedmlp_numpy.kernels.squared_error`."""
    z += b
    z -= y
    errors = z.astype(np.float64)
    losses = 0.5 * sum_rows((errors * errors).T)
    return _weighted_sums(losses, np.zeros(len(z), bool), z, w)


def poisson_deviance(
    z: FloatArray, b: FloatArray, y: FloatArray, w: FloatArray | None
) -> tuple[float, float]:
    """See :func:`fusedmlp_numpy.kernels.poisson_deviance`."""
    z += b
    counts, most = y.astype(np.float64), np.float64(EXP_OVERFLOWS)
    logits = choose(z > most, most, z.astype(np.float64))
    log_counts = log(choose(counts > 0, counts, DOUBLE.one), DOUBLE)
    losses = sum_rows(((exp(logits, DOUBLE) - counts) - counts * (logits - log_counts)).T)
    output_activation(z, "exp")
    z -= y
    return _weighted_sums(losses, np.zeros(len(z), bool), z, w)


def output_activation(z: FloatArray, output: Output) -> None:
    """Z (B, K) ← the network's outputs ŷ from its logits (bias included), in place."""
    match output:
        case "softmax":
            z /= _softmax_terms(z, z.max(axis=1))[:, None]
        case "sigmoid":
            z[...] = logistic(z, _constants(z))
        case "exp":
            z[...] = exp(z, _constants(z))
        case "identity":
            pass


def _softmax_terms(z: FloatArray, m: FloatArray) -> FloatArray:
    """Z (B, K) ← e^(z − m) for each row's largest m (B,); return the rows' sums (B,)."""
    z -= m[:, None]
    z[...] = exp(z, _constants(z))
    return sum_rows(z.T)


def _constants(z: FloatArray) -> Constants:
    return CONSTANTS["float32" if z.dtype == np.float32 else "float64"]


def _weighted_sums(
    losses: FloatArray,
    correct: npt.NDArray[np.bool_],
    delta: FloatArray,
    w: FloatArray | None,
) -> tuple[float, float]:
    losses = np.minimum(losses, MAX_ROW_LOSS)
    counted: Float64Vector = correct.astype(np.float64)
    if w is not None:
        delta *= w[:, None]
        losses, counted = losses * w.astype(np.float64), counted * w.astype(np.float64)
    return float(sum_rows(losses)), float(sum_rows(counted))
