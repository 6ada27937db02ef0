"""A training step of a narrow network, compiled: all layers at once, a vector of rows at a time.

In a network of a few units each, the panels of layers.py would be filling for the most part. Here
lane n of every vector is the n-th of some consecutive rows, as in outputs.py: a unit's activation
is one vector, a weight is one number, and nothing is filled up but the last rows. The formulas are
those of kernels.py; sums over a layer's inputs run in the same order as in products.py, sums over
the batch by lanes first. One worker does it all. No dropout, and no sparse inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import DTYPE_FLOAT32, DTYPE_UINT8, PIXEL_MAX
from fusedmlp_numba.network.kernels import activate, multiply_derivative
from fusedmlp_numba.network.outputs import (
    EXP_OUTPUT,
    SIGMOID_OUTPUT,
    SOFTMAX_OUTPUT,
    poisson_rows,
    sigmoid_rows,
    softmax_rows,
    squared_rows,
)
from fusedmlp_numba.network.partition import layer_at
from fusedmlp_numba.simd.intrinsics import cast_like
from fusedmlp_numba.simd.vectors import (
    broadcast,
    fma,
    gather_strided,
    lane_count,
    lane_indices,
    load,
    reduce_add,
    select,
    store,
)
from fusedmlp_numba.simd.views import (
    FLOAT32,
    FLOAT64,
    INT64,
    UINT8,
    UNBOUNDED,
    array_at,
    float_rows_at,
    floats_at,
    unchecked_slice,
    unchecked_tail,
)

if TYPE_CHECKING:
    from fusedmlp.types import FloatArray, IntArray
    from fusedmlp_numba.data import DataDescriptor
    from fusedmlp_numba.layout import EngineContext, LayerDescriptor


@kernel
def narrow_gradients(
    context: EngineContext, source: DataDescriptor, rows: IntArray, scale: float
) -> None:
    """Fill the gradients and the row losses for a batch; delta is times ``scale``."""
    L, a = context.depth, floats_at(context, context.narrow)
    lanes, zero = lane_count(a), broadcast(cast_like(0.0, a))
    sums = unchecked_tail(a, (context.units + 1) * lanes)
    for p in range(context.parameters):
        store(sums, p * lanes, zero)
    for i in range(0, len(rows), lanes):
        count = len(rows) - i
        inputs(context, source, rows, i, count)
        at = 0
        for number in range(L):
            at = forward(context, number, at)
        output_rows(context, source, rows, i, scale, unchecked_tail(a, at * lanes))
        # Lanes beyond the last row repeat it, and must not count.
        factor = load(a, (at + layer_at(context, L - 1).H) * lanes)
        factor = select(lane_indices(zero) < cast_like(count, zero), factor, zero)
        for k in range(layer_at(context, L - 1).H):
            store(a, (at + k) * lanes, load(a, (at + k) * lanes) * factor)
        base = context.parameters
        for number in range(L - 1, -1, -1):
            layer = layer_at(context, number)
            base -= (layer.D + 1) * layer.H
            at = backward(context, number, at, unchecked_tail(sums, base * lanes))
    base = 0
    for number in range(L):
        layer = layer_at(context, number)
        write_gradient(context, number, unchecked_tail(sums, base * lanes))
        base += (layer.D + 1) * layer.H


@kernel
def write_gradient(context: EngineContext, number: int, sums: FloatArray) -> None:
    """Add up the lanes of a layer's gradients; add the L2 term."""
    layer, lanes = layer_at(context, number), lane_count(sums)
    gradient, theta = floats_at(context, context.gradient), floats_at(context, context.theta)
    l2, n = cast_like(context.l2, theta), 0
    for h in range(layer.H):
        gradient[layer.bias + h] = reduce_add(load(sums, n * lanes))
        for d in range(layer.D):
            W = weight_at(layer, d, h, context.columns)
            gradient[W] = reduce_add(load(sums, (n + 1 + d) * lanes)) + l2 * theta[W]
        n += layer.D + 1


@kernel
def weight_at(layer: LayerDescriptor, d: int, h: int, columns: int) -> int:
    """Place of W[d, h] in the flat parameters."""
    return layer.weights + (h // columns * layer.D + d) * columns + h % columns


@kernel
def inputs(
    context: EngineContext, source: DataDescriptor, rows: IntArray, i: int, count: int
) -> None:
    """Bring the inputs of the rows from the i-th on into the first vectors of ``narrow``."""
    a, D = floats_at(context, context.narrow), layer_at(context, 0).D
    lanes, zero = lane_count(a), broadcast(cast_like(0.0, a))
    pixels, singles = array_at(source.x, UINT8), array_at(source.x, FLOAT32)
    doubles = array_at(source.x, FLOAT64)
    for d in range(D):
        if source.element == DTYPE_UINT8:
            x = gather_strided(pixels, d, D, rows, i, count, zero) / cast_like(PIXEL_MAX, zero)
            store(a, d * lanes, x)
        elif source.element == DTYPE_FLOAT32:
            store(a, d * lanes, gather_strided(singles, d, D, rows, i, count, zero))
        else:
            store(a, d * lanes, gather_strided(doubles, d, D, rows, i, count, zero))


@kernel
def forward(context: EngineContext, number: int, at: int) -> int:
    """Compute a layer's activations, or the logits, behind its inputs at ``at``; return where."""
    layer, theta, a = (
        layer_at(context, number),
        floats_at(context, context.theta),
        floats_at(context, context.narrow),
    )
    lanes, zero = lane_count(a), broadcast(cast_like(0.0, a))
    for h in range(layer.H):
        z = zero
        for d in range(layer.D):
            W = theta[weight_at(layer, d, h, context.columns)]
            z = fma(load(a, (at + d) * lanes), W, z)
        z = z + theta[layer.bias + h]
        if number < context.depth - 1:
            z = activate(z, context.hidden)
        store(a, (at + layer.D + h) * lanes, z)
    return at + layer.D


@kernel
def output_rows(
    context: EngineContext,
    source: DataDescriptor,
    rows: IntArray,
    i: int,
    scale: float,
    logits: FloatArray,
) -> None:
    """Turn the logits of some rows into ŷ − y and their weights; note their losses and hits."""
    K = layer_at(context, context.depth - 1).H
    labels = array_at(source.labels, INT64)
    targets = float_rows_at(context, source.targets, 0, UNBOUNDED, K)
    w = unchecked_slice(floats_at(context, source.sample_weight), 0, UNBOUNDED * source.weighted)
    losses, correct = array_at(context.row_loss, FLOAT64), array_at(context.row_correct, FLOAT64)
    losses, correct = unchecked_slice(losses, 0, len(rows)), unchecked_slice(correct, 0, len(rows))
    if context.output == SOFTMAX_OUTPUT:
        softmax_rows(logits, K, labels, w, rows, i, scale, losses, correct)
    elif context.output == SIGMOID_OUTPUT:
        sigmoid_rows(logits, K, targets, w, rows, i, scale, losses, correct)
    elif context.output == EXP_OUTPUT:
        poisson_rows(logits, K, targets, w, rows, i, scale, losses, correct)
    else:
        squared_rows(logits, K, targets, w, rows, i, scale, losses, correct)


@kernel
def backward(context: EngineContext, number: int, at: int, sums: FloatArray) -> int:
    """Add some rows' gradients of a layer, whose delta is at ``at``; replace a[l] by delta[l].

    Returns where that is. ``sums`` has, for each unit, the bias and then the inputs' weights.
    """
    layer, theta, a = (
        layer_at(context, number),
        floats_at(context, context.theta),
        floats_at(context, context.narrow),
    )
    lanes, below, n = lane_count(a), at - layer.D, 0
    for h in range(layer.H):
        delta = load(a, (at + h) * lanes)
        store(sums, n * lanes, load(sums, n * lanes) + delta)
        for d in range(layer.D):
            W, f = (n + 1 + d) * lanes, load(a, (below + d) * lanes)
            store(sums, W, fma(f, delta, load(sums, W)))
        n += layer.D + 1
    if number == 0:
        return below
    for d in range(layer.D):
        delta = broadcast(cast_like(0.0, a))
        for h in range(layer.H):
            W = theta[weight_at(layer, d, h, context.columns)]
            delta = fma(load(a, (at + h) * lanes), W, delta)
        f = load(a, (below + d) * lanes)
        store(a, (below + d) * lanes, multiply_derivative(delta, f, context.hidden))
    return below
