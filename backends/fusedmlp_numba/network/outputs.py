"""The output layer's formulas, compiled: losses with their deltas, and the outputs themselves.

Twins of ``fusedmlp_numpy.kernels``; see kernels.py for what all of them share. Outputs are few and
rows are many, so vectors run across rows: lane n of a vector is the n-th of some consecutive rows,
and a loop goes over the K outputs. Of the last rows, lanes that are too many repeat the last one
and are not written. Row losses are written out row by row, and summed by the caller.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from fusedmlp.backend import EXP_OVERFLOWS, MAX_ROW_LOSS
from fusedmlp.network import OUTPUTS
from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.simd.elementary import exp, log, log_1p
from fusedmlp_numba.simd.intrinsics import cast_like, no_inline
from fusedmlp_numba.simd.vectors import (
    Vector,
    absolute,
    broadcast,
    convert_like,
    gather_strided,
    inline_kernel,
    lane_count,
    load,
    load_strided,
    select,
    store,
    store_partial,
    store_strided,
)
from fusedmlp_numba.simd.views import unchecked_tail

if TYPE_CHECKING:
    from fusedmlp.types import Float64Vector, FloatArray, IntArray

SOFTMAX_OUTPUT: Final = OUTPUTS.index("softmax")
SIGMOID_OUTPUT: Final = OUTPUTS.index("sigmoid")
EXP_OUTPUT: Final = OUTPUTS.index("exp")


@kernel
def softmax_cross_entropy(
    z: FloatArray,
    b: FloatArray,
    y: IntArray,
    w: FloatArray,
    rows: IntArray,
    scale: float,
    losses: Float64Vector,
    correct: Float64Vector,
    scratch: FloatArray,
) -> None:
    """Loss −log softmax(z + b)[y] from the logits; z becomes the delta (ŷ − y)·w·scale.

    With m = max z: loss = log Σ e^(z − m) + m − z[y], which no finite logit can overflow.

    Parameters
    ----------
    z
        (B, ≥ K), the product a·W; becomes delta.
    b
        (K,).
    y
        (N,) class numbers.
    w
        (N,) sample weights, or (0,) for none.
    rows
        (B,) row numbers in y and w.
    losses, correct
        (B,) wᵢ·lossᵢ, and wᵢ where the largest logit (the first, on a tie) is y's.
    scratch
        Work space of :func:`~fusedmlp_numba.sizes.scratch_size`.
    """
    for i in range(0, len(rows), lane_count(z)):
        read_columns(z, b, scratch, i)
        softmax_rows(scratch, len(b), y, w, rows, i, scale, losses, correct)
        write_columns(scratch, len(b), z, i)


@kernel
def softmax_rows(
    scratch: FloatArray,
    K: int,
    y: IntArray,
    w: FloatArray,
    rows: IntArray,
    i: int,
    scale: float,
    losses: Float64Vector,
    correct: Float64Vector,
) -> None:
    """Turn logits, K vectors of the rows from the i-th on, into ŷ − y; see :func:`weigh`."""
    no_inline()
    lanes, zero = lane_count(scratch), broadcast(cast_like(0.0, scratch))
    label = gather_strided(y, 0, 1, rows, i, len(rows) - i, zero)
    m, best, z_y = cast_like(-math.inf, zero), zero, zero
    for k in range(K):
        logit, number = load(scratch, k * lanes), cast_like(k, zero)
        above = logit > m
        m, best = select(above, logit, m), select(above, number, best)
        z_y = select(label == number, logit, z_y)
    total = exponentials(scratch, K, m)
    for k in range(K):
        hit = select(label == cast_like(k, zero), cast_like(1.0, zero), zero)
        store(scratch, k * lanes, load(scratch, k * lanes) / total - hit)
    loss = convert_like(log(total), losses) + (convert_like(m, losses) - convert_like(z_y, losses))
    weigh(
        loss, best == label, w, rows, i, scale, losses, correct, unchecked_tail(scratch, K * lanes)
    )


@inline_kernel
def exponentials(scratch: FloatArray, K: int, m: Vector) -> Vector:
    """Scratch ← e^(scratch − m), K vectors; return their sum."""
    lanes, total = lane_count(scratch), cast_like(0.0, m)
    for k in range(K):
        power = exp(load(scratch, k * lanes) - m)
        store(scratch, k * lanes, power)
        total = total + power
    return total


@kernel
def sigmoid_cross_entropy(
    z: FloatArray,
    b: FloatArray,
    y: FloatArray,
    w: FloatArray,
    rows: IntArray,
    scale: float,
    losses: Float64Vector,
    correct: Float64Vector,
    scratch: FloatArray,
) -> None:
    """Binary cross-entropy of K independent labels; z becomes the delta (σ(z) − y)·w·scale.

    A label's loss from its logit is max(z, 0) − z·y + log(1 + e^−|z|); a row's is their sum.

    Parameters
    ----------
    z
        (B, ≥ K), the product a·W; becomes delta.
    b
        (K,).
    y
        (N, K) zeros and ones.
    w
        (N,) sample weights, or (0,) for none.
    rows
        (B,) row numbers in y and w.
    losses, correct
        (B,) wᵢ·lossᵢ, and wᵢ where all K labels are right (predicted 1 where z > 0).
    """
    for i in range(0, len(rows), lane_count(z)):
        read_columns(z, b, scratch, i)
        sigmoid_rows(scratch, len(b), y, w, rows, i, scale, losses, correct)
        write_columns(scratch, len(b), z, i)


@kernel
def sigmoid_rows(
    scratch: FloatArray,
    K: int,
    y: FloatArray,
    w: FloatArray,
    rows: IntArray,
    i: int,
    scale: float,
    losses: Float64Vector,
    correct: Float64Vector,
) -> None:
    """Turn logits, K vectors of the rows from the i-th on, into ŷ − y; see :func:`weigh`."""
    no_inline()
    lanes, zero = lane_count(scratch), broadcast(cast_like(0.0, scratch))
    one = cast_like(1.0, zero)
    loss, right = convert_like(zero, losses), zero == zero
    for k in range(K):
        logit = load(scratch, k * lanes)
        label = gather_strided(y, k, K, rows, i, len(rows) - i, zero)
        right = right & (select(logit > zero, one, zero) == label)
        # Labels are 0 and 1, so the first two terms are exact in any type.
        linear = select(logit < zero, zero, logit) - logit * label
        power = exp(zero - absolute(logit))
        loss = loss + (convert_like(linear, losses) + convert_like(log_1p(power), losses))
        share = select(logit < zero, power, one) / (power + one)
        store(scratch, k * lanes, share - label)
    weigh(loss, right, w, rows, i, scale, losses, correct, unchecked_tail(scratch, K * lanes))


@kernel
def squared_error(
    z: FloatArray,
    b: FloatArray,
    y: FloatArray,
    w: FloatArray,
    rows: IntArray,
    scale: float,
    losses: Float64Vector,
    correct: Float64Vector,
    scratch: FloatArray,
) -> None:
    """Half the squared error ½·Σₖ (zₖ − yₖ)² of a row; z becomes the delta (z − y)·w·scale.

    Parameters
    ----------
    z
        (B, ≥ K), the product a·W; becomes delta.
    b
        (K,).
    y
        (N, K).
    w
        (N,) sample weights, or (0,) for none.
    rows
        (B,) row numbers in y and w.
    losses, correct
        (B,) wᵢ·lossᵢ, and 0.
    """
    for i in range(0, len(rows), lane_count(z)):
        read_columns(z, b, scratch, i)
        squared_rows(scratch, len(b), y, w, rows, i, scale, losses, correct)
        write_columns(scratch, len(b), z, i)


@kernel
def squared_rows(
    scratch: FloatArray,
    K: int,
    y: FloatArray,
    w: FloatArray,
    rows: IntArray,
    i: int,
    scale: float,
    losses: Float64Vector,
    correct: Float64Vector,
) -> None:
    """Turn logits, K vectors of the rows from the i-th on, into ŷ − y; see :func:`weigh`."""
    no_inline()
    lanes, zero = lane_count(scratch), broadcast(cast_like(0.0, scratch))
    loss = convert_like(zero, losses)
    for k in range(K):
        error = load(scratch, k * lanes) - gather_strided(y, k, K, rows, i, len(rows) - i, zero)
        wide = convert_like(error, losses)
        loss = loss + wide * wide
        store(scratch, k * lanes, error)
    weigh(
        loss * 0.5,
        zero > zero,
        w,
        rows,
        i,
        scale,
        losses,
        correct,
        unchecked_tail(scratch, K * lanes),
    )


@kernel
def poisson_deviance(
    z: FloatArray,
    b: FloatArray,
    y: FloatArray,
    w: FloatArray,
    rows: IntArray,
    scale: float,
    losses: Float64Vector,
    correct: Float64Vector,
    scratch: FloatArray,
) -> None:
    """Half the Poisson deviance of the rates eᶻ; z becomes the delta (eᶻ − y)·w·scale.

    A target's loss from its logit is eᶻ − y − y·(z − log y), and eᶻ where y = 0; a row's is their
    sum.

    Parameters
    ----------
    z
        (B, ≥ K), the product a·W; becomes delta.
    b
        (K,).
    y
        (N, K), at least 0.
    w
        (N,) sample weights, or (0,) for none.
    rows
        (B,) row numbers in y and w.
    losses, correct
        (B,) wᵢ·lossᵢ, and 0.
    """
    for i in range(0, len(rows), lane_count(z)):
        read_columns(z, b, scratch, i)
        poisson_rows(scratch, len(b), y, w, rows, i, scale, losses, correct)
        write_columns(scratch, len(b), z, i)


@kernel
def poisson_rows(
    scratch: FloatArray,
    K: int,
    y: FloatArray,
    w: FloatArray,
    rows: IntArray,
    i: int,
    scale: float,
    losses: Float64Vector,
    correct: Float64Vector,
) -> None:
    """Turn logits, K vectors of the rows from the i-th on, into ŷ − y; see :func:`weigh`."""
    no_inline()
    lanes, zero = lane_count(scratch), broadcast(cast_like(0.0, scratch))
    loss = convert_like(zero, losses)
    none, one = cast_like(0.0, loss), cast_like(1.0, loss)
    most = cast_like(EXP_OVERFLOWS, loss)
    for k in range(K):
        logit = load(scratch, k * lanes)
        target = gather_strided(y, k, K, rows, i, len(rows) - i, zero)
        store(scratch, k * lanes, exp(logit) - target)
        # In float64 throughout: near the optimum the terms cancel.
        z, count = convert_like(logit, losses), convert_like(target, losses)
        z = select(z > most, most, z)
        log_count = log(select(count > none, count, one))
        loss = loss + (exp(z) - count - count * (z - log_count))
    weigh(loss, zero > zero, w, rows, i, scale, losses, correct, unchecked_tail(scratch, K * lanes))


@inline_kernel
def weigh(
    loss: Vector,
    right: Vector,
    w: FloatArray,
    rows: IntArray,
    i: int,
    scale: float,
    losses: Float64Vector,
    correct: Float64Vector,
    factor: FloatArray,
) -> None:
    """Write capped, weighted losses and hits of the rows from the i-th on; and factor ← w·scale."""
    weight = cast_like(1.0, loss)
    if len(w) > 0:
        weight = gather_strided(w, 0, 1, rows, i, len(rows) - i, loss)
    # MAX_ROW_LOSS is not above NaN, which therefore stays.
    capped = select(loss > MAX_ROW_LOSS, cast_like(MAX_ROW_LOSS, loss), loss)
    store_partial(losses, i, capped * weight, len(rows) - i)
    store_partial(correct, i, select(right, weight, cast_like(0.0, weight)), len(rows) - i)
    store(factor, 0, convert_like(weight * scale, factor))


@kernel
def read_columns(z: FloatArray, b: FloatArray, scratch: FloatArray, i: int) -> None:
    """Put the logits z + b of the rows from the i-th on into ``scratch``, a vector for each."""
    no_inline()
    stride, lanes = z.shape[1], lane_count(z)
    for k in range(len(b)):
        logit = load_strided(z, i * stride + k, stride, len(z) - i) + b[k]
        store(scratch, k * lanes, logit)


@kernel
def write_columns(scratch: FloatArray, K: int, out: FloatArray, i: int) -> None:
    """Write K vectors of ``scratch``, times the one behind them, to out's rows from the i-th on."""
    no_inline()
    stride, lanes = out.shape[1], lane_count(out)
    factor = load(scratch, K * lanes)
    for k in range(K):
        column = load(scratch, k * lanes) * factor
        store_strided(out, i * stride + k, stride, column, len(out) - i)


@kernel
def output_activation(
    z: FloatArray, b: FloatArray, output: int, out: FloatArray, scratch: FloatArray
) -> None:
    """Out = the network's outputs ŷ from its logits z + b.

    Parameters
    ----------
    z
        (B, ≥ K), the product a·W.
    b
        (K,).
    out
        (B, K).
    scratch
        Work space of :func:`~fusedmlp_numba.sizes.scratch_size`.
    """
    K, lanes = len(b), lane_count(z)
    zero = broadcast(cast_like(0.0, z))
    for i in range(0, len(out), lanes):
        read_columns(z, b, scratch, i)
        m, factor = cast_like(-math.inf, zero), cast_like(1.0, zero)
        for k in range(K):
            logit = load(scratch, k * lanes)
            m = select(logit > m, logit, m)
            if output == SIGMOID_OUTPUT:
                store(scratch, k * lanes, 1.0 / (exp(zero - logit) + 1.0))
            elif output == EXP_OUTPUT:
                store(scratch, k * lanes, exp(logit))
        if output == SOFTMAX_OUTPUT:
            factor = 1.0 / exponentials(scratch, K, m)
        store(scratch, K * lanes, factor)
        write_columns(scratch, K, out, i)
