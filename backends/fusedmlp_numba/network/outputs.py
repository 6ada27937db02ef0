"""The output layer: losses with their deltas, and the outputs themselves.

Twins of the kernels of the same names in ``fusedmlp_numpy.kernels``. Outputs are few and rows are
many, so vectors run across rows: lane n of a vector is the n-th of some consecutive rows, and a
loop iterates over the K outputs. At the end of a batch, surplus lanes repeat the last row and are
not written. Row losses are written row by row, and summed by the caller.

A loss kernel turns ``logits`` into ŷ − y: K vectors of the rows from the i-th on, followed by one
vector for the factor of the rows' deltas, w·scale. See :func:`loss_rows`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, NamedTuple

from fusedmlp.backend import EXP_OVERFLOWS, MAX_ROW_LOSS
from fusedmlp.network import OUTPUTS
from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.simd.elementary import exp, log, log_1p
from fusedmlp_numba.simd.intrinsics import cast_like, no_inline
from fusedmlp_numba.simd.vector_memory import (
    gather_strided,
    load,
    load_strided,
    store,
    store_partial,
    store_strided,
)
from fusedmlp_numba.simd.vectors import (
    Vector,
    absolute,
    broadcast,
    convert_like,
    inline_kernel,
    lane_count,
    select,
)

if TYPE_CHECKING:
    from fusedmlp.types import Float64Vector, FloatArray, IntArray

SOFTMAX_OUTPUT: Final = OUTPUTS.index("softmax")
SIGMOID_OUTPUT: Final = OUTPUTS.index("sigmoid")
EXP_OUTPUT: Final = OUTPUTS.index("exp")


class Targets(NamedTuple):
    """What the rows of a batch should give.

    Parameters
    ----------
    labels, values
        (N,) classes for softmax; (N, K) targets for the other outputs.
    weights
        (N,) sample weights, or (0,) for none.
    rows
        (B,) row numbers of the batch in these arrays.
    """

    labels: IntArray
    values: FloatArray
    weights: FloatArray
    rows: IntArray


class RowResults(NamedTuple):
    """(B,) weighted row losses, and weights of the rows with correct predictions."""

    losses: Float64Vector
    correct: Float64Vector


@kernel
def output_delta(
    output: int,
    z: FloatArray,
    b: FloatArray,
    targets: Targets,
    scale: float,
    results: RowResults,
    scratch: FloatArray,
) -> None:
    """Z ← (ŷ − y)·w·scale, the delta, from the logits z + b; write row losses and hits.

    Parameters
    ----------
    output
        Position in OUTPUTS.
    z
        (B, ≥ K), the product a·W; becomes delta.
    b
        (K,).
    scratch
        Work space of :func:`~fusedmlp_numba.constants.scratch_size`.
    """
    for i in range(0, len(targets.rows), lane_count(z)):
        read_logits(z, b, scratch, i)
        loss_rows(output, scratch, len(b), targets, i, scale, results)
        write_columns(scratch, len(b), z, i)


@kernel
def loss_rows(
    output: int,
    logits: FloatArray,
    K: int,
    targets: Targets,
    i: int,
    scale: float,
    results: RowResults,
) -> None:
    """Apply the loss of an output to the rows from the i-th on."""
    if output == SOFTMAX_OUTPUT:
        softmax_cross_entropy(logits, K, targets, i, scale, results)
    elif output == SIGMOID_OUTPUT:
        sigmoid_cross_entropy(logits, K, targets, i, scale, results)
    elif output == EXP_OUTPUT:
        poisson_deviance(logits, K, targets, i, scale, results)
    else:
        squared_error(logits, K, targets, i, scale, results)


@kernel
def softmax_cross_entropy(
    logits: FloatArray, K: int, targets: Targets, i: int, scale: float, results: RowResults
) -> None:
    """Loss −log softmax(z)[y] of the logits z; correct where the largest, on a tie the first, is y.

    With m = max z: loss = log Σ e^(z − m) + m − z[y], which no finite logit can overflow.
    """
    no_inline()
    losses = results.losses
    lanes, zero = lane_count(logits), broadcast(cast_like(0.0, logits))
    label = target_column(targets.labels, 0, 1, targets, i, zero)
    m, best, z_y = cast_like(-math.inf, zero), zero, zero
    for k in range(K):
        logit, number = load(logits, k * lanes), cast_like(k, zero)
        above = logit > m
        m, best = select(above, logit, m), select(above, number, best)
        z_y = select(label == number, logit, z_y)
    total = exponentials(logits, K, m)
    for k in range(K):
        hit = select(label == cast_like(k, zero), cast_like(1.0, zero), zero)
        store(logits, k * lanes, load(logits, k * lanes) / total - hit)
    difference = convert_like(m, losses) - convert_like(z_y, losses)
    loss = convert_like(log(total), losses) + difference
    write_results(loss, best == label, logits, K, targets, i, scale, results)


@inline_kernel
def exponentials(logits: FloatArray, K: int, m: Vector) -> Vector:
    """Logits ← e^(logits − m), K vectors; return their sum."""
    lanes, total = lane_count(logits), cast_like(0.0, m)
    for k in range(K):
        power = exp(load(logits, k * lanes) - m)
        store(logits, k * lanes, power)
        total = total + power
    return total


@kernel
def sigmoid_cross_entropy(
    logits: FloatArray, K: int, targets: Targets, i: int, scale: float, results: RowResults
) -> None:
    """Binary cross-entropy of K independent labels; correct where all K are.

    A label's loss from its logit is max(z, 0) − z·y + log(1 + e^−|z|); a row's is their sum. A
    label is predicted to be 1 where z > 0.
    """
    no_inline()
    losses = results.losses
    lanes, zero = lane_count(logits), broadcast(cast_like(0.0, logits))
    one = cast_like(1.0, zero)
    loss, right = convert_like(zero, losses), zero == zero
    for k in range(K):
        logit = load(logits, k * lanes)
        label = target_column(targets.values, k, K, targets, i, zero)
        right = right & (select(logit > zero, one, zero) == label)
        # Labels are 0 and 1, so the first two terms are exact in any type.
        linear = select(logit < zero, zero, logit) - logit * label
        power = exp(zero - absolute(logit))
        loss = loss + (convert_like(linear, losses) + convert_like(log_1p(power), losses))
        probability = select(logit < zero, power, one) / (power + one)
        store(logits, k * lanes, probability - label)
    write_results(loss, right, logits, K, targets, i, scale, results)


@kernel
def squared_error(
    logits: FloatArray, K: int, targets: Targets, i: int, scale: float, results: RowResults
) -> None:
    """Half the squared error of a row, ½·Σₖ (zₖ − yₖ)²; no row is correct."""
    no_inline()
    losses = results.losses
    lanes, zero = lane_count(logits), broadcast(cast_like(0.0, logits))
    loss = convert_like(zero, losses)
    for k in range(K):
        target = target_column(targets.values, k, K, targets, i, zero)
        error = load(logits, k * lanes) - target
        wide = convert_like(error, losses)
        loss = loss + wide * wide
        store(logits, k * lanes, error)
    write_results(loss * 0.5, zero > zero, logits, K, targets, i, scale, results)


@kernel
def poisson_deviance(
    logits: FloatArray, K: int, targets: Targets, i: int, scale: float, results: RowResults
) -> None:
    """Half the Poisson deviance of the rates eᶻ, for targets ≥ 0; no row is correct.

    A target's loss from its logit is eᶻ − y − y·(z − log y), and eᶻ where y = 0; a row's is their
    sum.
    """
    no_inline()
    losses = results.losses
    lanes, zero = lane_count(logits), broadcast(cast_like(0.0, logits))
    loss = convert_like(zero, losses)
    none, one = cast_like(0.0, loss), cast_like(1.0, loss)
    largest = cast_like(EXP_OVERFLOWS, loss)
    for k in range(K):
        logit = load(logits, k * lanes)
        target = target_column(targets.values, k, K, targets, i, zero)
        store(logits, k * lanes, exp(logit) - target)
        # In float64 throughout: near the optimum the terms cancel.
        z, count = convert_like(logit, losses), convert_like(target, losses)
        z = select(z > largest, largest, z)
        log_count = log(select(count > none, count, one))
        loss = loss + (exp(z) - count - count * (z - log_count))
    write_results(loss, zero > zero, logits, K, targets, i, scale, results)


@inline_kernel
def target_column(
    values: FloatArray | IntArray, at: int, stride: int, targets: Targets, i: int, like: Vector
) -> Vector:
    """One value of each of the rows from the i-th on, in the type of the vector ``like``."""
    return gather_strided(values, at, stride, targets.rows, i, len(targets.rows) - i, like)


@inline_kernel
def write_results(
    loss: Vector,
    right: Vector,
    logits: FloatArray,
    K: int,
    targets: Targets,
    i: int,
    scale: float,
    results: RowResults,
) -> None:
    """Write capped, weighted losses and hits; put w·scale behind the K vectors of ``logits``."""
    weight, count = cast_like(1.0, loss), len(targets.rows) - i
    if len(targets.weights) > 0:
        weight = target_column(targets.weights, 0, 1, targets, i, loss)
    # NaN is not above MAX_ROW_LOSS, and so stays.
    capped = select(loss > MAX_ROW_LOSS, cast_like(MAX_ROW_LOSS, loss), loss)
    store_partial(results.losses, i, capped * weight, count)
    store_partial(results.correct, i, select(right, weight, cast_like(0.0, weight)), count)
    store(logits, K * lane_count(logits), convert_like(weight * scale, logits))


@kernel
def read_logits(z: FloatArray, b: FloatArray, logits: FloatArray, i: int) -> None:
    """Logits ← z + b of the rows from the i-th on, one vector for each output."""
    no_inline()
    stride, lanes = z.shape[1], lane_count(z)
    for k in range(len(b)):
        logit = load_strided(z, i * stride + k, stride, len(z) - i) + b[k]
        store(logits, k * lanes, logit)


@kernel
def write_columns(columns: FloatArray, K: int, out: FloatArray, i: int) -> None:
    """Write K vectors, times the one behind them, to the rows of ``out`` from the i-th on."""
    no_inline()
    stride, lanes = out.shape[1], lane_count(out)
    factor = load(columns, K * lanes)
    for k in range(K):
        column = load(columns, k * lanes) * factor
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
        Work space of :func:`~fusedmlp_numba.constants.scratch_size`.
    """
    K, lanes = len(b), lane_count(z)
    zero = broadcast(cast_like(0.0, z))
    for i in range(0, len(out), lanes):
        read_logits(z, b, scratch, i)
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
