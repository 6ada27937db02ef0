"""A training step of a narrow network: all layers at once, a vector of rows at a time.

In a network of a few units per layer, the panels of layers.py would be mostly padding. Here lane n
of every vector is the n-th of some consecutive rows, as in outputs.py: a unit's activation is one
vector, a weight is one scalar, and only the last rows are padded. Formulas are those of
activations.py and outputs.py. Sums over a layer's inputs run in the same order as in gemm, sums
over the batch by lanes first. One worker does everything. No dropout, and no sparse inputs.

The vectors of ``context.work.narrow`` are a stack: the inputs, then each layer's activations; then
one vector for the factor of the rows; then the sums of the gradients; then, where the derivative
needs z, each unit's slope, in the order of the activations.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.constants import DTYPE_FLOAT32, DTYPE_UINT8, PIXEL_MAX
from fusedmlp_numba.network.activations import (
    activate,
    multiply_derivative,
    saves_slope,
    slope_from_z,
)
from fusedmlp_numba.network.batches import row_results, targets_of
from fusedmlp_numba.network.outputs import loss_rows
from fusedmlp_numba.network.partition import layer_at
from fusedmlp_numba.simd.intrinsics import cast_like
from fusedmlp_numba.simd.vector_memory import gather_strided, load, store
from fusedmlp_numba.simd.vectors import (
    broadcast,
    fma,
    lane_count,
    lane_indices,
    reduce_add,
    select,
)
from fusedmlp_numba.simd.views import (
    FLOAT32,
    FLOAT64,
    UINT8,
    array_at,
    floats_at,
    unchecked_tail,
)

if TYPE_CHECKING:
    from fusedmlp.types import FloatArray, IntArray
    from fusedmlp_numba.data import DataDescriptor
    from fusedmlp_numba.records import EngineContext, LayerDescriptor


@kernel
def narrow_gradients(
    context: EngineContext, data: DataDescriptor, rows: IntArray, scale: float
) -> None:
    """Write the gradients and the row losses of a batch; delta is times ``scale``."""
    L, a = context.depth, floats_at(context, context.work.narrow)
    lanes, zero = lane_count(a), broadcast(cast_like(0.0, a))
    sums = unchecked_tail(a, (context.n_units + 1) * lanes)
    for p in range(context.n_parameters):
        store(sums, p * lanes, zero)
    targets, results = targets_of(context, data, rows), row_results(context, 0, len(rows))
    K = layer_at(context, L - 1).H
    for i in range(0, len(rows), lanes):
        count = len(rows) - i
        read_inputs(context, data, rows, i, count)
        at = 0
        for layer_index in range(L):
            at = forward(context, layer_index, at)
        logits = unchecked_tail(a, at * lanes)
        loss_rows(context.settings.output, logits, K, targets, i, scale, results)
        # Lanes beyond the last row repeat it, and must not count.
        factor = load(a, (at + K) * lanes)
        factor = select(lane_indices(zero) < cast_like(count, zero), factor, zero)
        for k in range(K):
            store(a, (at + k) * lanes, load(a, (at + k) * lanes) * factor)
        base = context.n_parameters
        for layer_index in range(L - 1, -1, -1):
            layer = layer_at(context, layer_index)
            base -= (layer.D + 1) * layer.H
            at = backward(context, layer_index, at, unchecked_tail(sums, base * lanes))
    base = 0
    for layer_index in range(L):
        layer = layer_at(context, layer_index)
        write_gradient(context, layer_index, unchecked_tail(sums, base * lanes))
        base += (layer.D + 1) * layer.H


@kernel
def write_gradient(context: EngineContext, layer_index: int, sums: FloatArray) -> None:
    """Add up the lanes of a layer's gradients; add the L2 term."""
    layer, lanes = layer_at(context, layer_index), lane_count(sums)
    gradient = floats_at(context, context.parameters.gradient)
    theta = floats_at(context, context.parameters.theta)
    l2, n = cast_like(context.settings.l2, theta), 0
    for h in range(layer.H):
        gradient[layer.bias + h] = reduce_add(load(sums, n * lanes))
        for d in range(layer.D):
            W = weight_at(layer, d, h, context.columns)
            gradient[W] = reduce_add(load(sums, (n + 1 + d) * lanes)) + l2 * theta[W]
        n += layer.D + 1


@kernel
def weight_at(layer: LayerDescriptor, d: int, h: int, columns: int) -> int:
    """Position of W[d, h] in the flat parameters."""
    return layer.weights + (h // columns * layer.D + d) * columns + h % columns


@kernel
def read_inputs(
    context: EngineContext, data: DataDescriptor, rows: IntArray, i: int, count: int
) -> None:
    """Write the inputs of the rows from the i-th on to the bottom of the stack."""
    a, D = floats_at(context, context.work.narrow), layer_at(context, 0).D
    lanes, zero = lane_count(a), broadcast(cast_like(0.0, a))
    pixels, singles = array_at(data.x, UINT8), array_at(data.x, FLOAT32)
    doubles = array_at(data.x, FLOAT64)
    for d in range(D):
        if data.dtype == DTYPE_UINT8:
            x = gather_strided(pixels, d, D, rows, i, count, zero) / cast_like(PIXEL_MAX, zero)
            store(a, d * lanes, x)
        elif data.dtype == DTYPE_FLOAT32:
            store(a, d * lanes, gather_strided(singles, d, D, rows, i, count, zero))
        else:
            store(a, d * lanes, gather_strided(doubles, d, D, rows, i, count, zero))


@kernel
def first_slope(context: EngineContext) -> int:
    """Return the vector at which the slopes of the stack begin."""
    return context.n_units + 1 + context.n_parameters


@kernel
def forward(context: EngineContext, layer_index: int, at: int) -> int:
    """Compute a layer's activations, or the logits, behind its inputs at ``at``; return where."""
    layer, theta = layer_at(context, layer_index), floats_at(context, context.parameters.theta)
    a = floats_at(context, context.work.narrow)
    lanes, zero = lane_count(a), broadcast(cast_like(0.0, a))
    hidden, slope = context.settings.hidden, at + layer.D
    if saves_slope(hidden):
        slope += first_slope(context)
    for h in range(layer.H):
        z = zero
        for d in range(layer.D):
            W = theta[weight_at(layer, d, h, context.columns)]
            z = fma(load(a, (at + d) * lanes), W, z)
        z = z + theta[layer.bias + h]
        if layer_index < context.depth - 1:
            if saves_slope(hidden):
                store(a, (slope + h) * lanes, slope_from_z(z, hidden))
            z = activate(z, hidden)
        store(a, (at + layer.D + h) * lanes, z)
    return at + layer.D


@kernel
def backward(context: EngineContext, layer_index: int, at: int, sums: FloatArray) -> int:
    """Add some rows' gradients of a layer, whose delta is at ``at``; replace a[l] by delta[l].

    Returns the position of that. ``sums`` has, for each unit, the bias and then the weights.
    """
    layer, theta = layer_at(context, layer_index), floats_at(context, context.parameters.theta)
    a = floats_at(context, context.work.narrow)
    lanes, below, n, hidden = lane_count(a), at - layer.D, 0, context.settings.hidden
    for h in range(layer.H):
        delta = load(a, (at + h) * lanes)
        store(sums, n * lanes, load(sums, n * lanes) + delta)
        for d in range(layer.D):
            W, f = (n + 1 + d) * lanes, load(a, (below + d) * lanes)
            store(sums, W, fma(f, delta, load(sums, W)))
        n += layer.D + 1
    if layer_index == 0:
        return below
    saved = below
    if saves_slope(hidden):
        saved += first_slope(context)
    for d in range(layer.D):
        delta = broadcast(cast_like(0.0, a))
        for h in range(layer.H):
            W = theta[weight_at(layer, d, h, context.columns)]
            delta = fma(load(a, (at + h) * lanes), W, delta)
        f = load(a, (saved + d) * lanes)
        store(a, (below + d) * lanes, multiply_derivative(delta, f, hidden))
    return below
