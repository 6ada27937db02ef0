"""A training step of a narrow network, compiled: all layers at once, a vector of rows at a time.

In a network of a few units each, the panels of layers.py would be filling for the most part. Here
lane n of every vector is the n-th of some consecutive rows, as in outputs.py: a unit's activation
is one vector, a weight is one number, and nothing is filled up but the last rows. The formulas are
those of kernels.py; sums over a layer's inputs run in the same order as in products.py, sums over
the batch by lanes first. One worker does it all. No dropout, and no sparse inputs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedmlp_numba.caching import kernel
from fusedmlp_numba.intrinsics import like
from fusedmlp_numba.kernels import PIXEL_MAX, activated, derived
from fusedmlp_numba.lanes import (
    choose,
    lane_numbers,
    lanes_in,
    load,
    load_chosen,
    multiply_add,
    spread,
    store,
    sum_of,
)
from fusedmlp_numba.outputs import (
    EXP_OUTPUT,
    SIGMOID_OUTPUT,
    SOFTMAX_OUTPUT,
    poisson_rows,
    sigmoid_rows,
    softmax_rows,
    squared_rows,
)
from fusedmlp_numba.shares import layer_at
from fusedmlp_numba.sizes import PIXELS, SINGLE
from fusedmlp_numba.views import (
    BYTES,
    ENDLESS,
    FLOATS,
    INTS,
    SINGLES,
    matrix,
    part,
    reals,
    tail,
    vector,
)

if TYPE_CHECKING:
    from fusedmlp.types import FloatArray, IntArray
    from fusedmlp_numba.layout import Layer, Plan
    from fusedmlp_numba.sources import Source


@kernel
def narrow_gradients(plan: Plan, source: Source, rows: IntArray, scale: float) -> None:
    """Fill the gradients and the row losses for a batch; delta is times ``scale``."""
    L, a = plan.depth, reals(plan, plan.narrow)
    lanes, zero = lanes_in(a), spread(like(0.0, a))
    sums = tail(a, (plan.units + 1) * lanes)
    for p in range(plan.parameters):
        store(sums, p * lanes, zero)
    for i in range(0, len(rows), lanes):
        count = len(rows) - i
        inputs(plan, source, rows, i, count)
        at = 0
        for number in range(L):
            at = forward(plan, number, at)
        output_rows(plan, source, rows, i, scale, tail(a, at * lanes))
        # Lanes beyond the last row repeat it, and must not count.
        factor = load(a, (at + layer_at(plan, L - 1).H) * lanes)
        factor = choose(lane_numbers(zero) < like(count, zero), factor, zero)
        for k in range(layer_at(plan, L - 1).H):
            store(a, (at + k) * lanes, load(a, (at + k) * lanes) * factor)
        base = plan.parameters
        for number in range(L - 1, -1, -1):
            layer = layer_at(plan, number)
            base -= (layer.D + 1) * layer.H
            at = backward(plan, number, at, tail(sums, base * lanes))
    base = 0
    for number in range(L):
        layer = layer_at(plan, number)
        write_gradient(plan, number, tail(sums, base * lanes))
        base += (layer.D + 1) * layer.H


@kernel
def write_gradient(plan: Plan, number: int, sums: FloatArray) -> None:
    """Add up the lanes of a layer's gradients; add the L2 term."""
    layer, lanes = layer_at(plan, number), lanes_in(sums)
    gradient, theta = reals(plan, plan.gradient), reals(plan, plan.theta)
    l2, n = like(plan.l2, theta), 0
    for h in range(layer.H):
        gradient[layer.bias + h] = sum_of(load(sums, n * lanes))
        for d in range(layer.D):
            W = weight_at(layer, d, h, plan.columns)
            gradient[W] = sum_of(load(sums, (n + 1 + d) * lanes)) + l2 * theta[W]
        n += layer.D + 1


@kernel
def weight_at(layer: Layer, d: int, h: int, columns: int) -> int:
    """Place of W[d, h] in the flat parameters."""
    return layer.weights + (h // columns * layer.D + d) * columns + h % columns


@kernel
def inputs(plan: Plan, source: Source, rows: IntArray, i: int, count: int) -> None:
    """Bring the inputs of the rows from the i-th on into the first vectors of ``narrow``."""
    a, D = reals(plan, plan.narrow), layer_at(plan, 0).D
    lanes, zero = lanes_in(a), spread(like(0.0, a))
    pixels, singles = vector(source.x, BYTES), vector(source.x, SINGLES)
    doubles = vector(source.x, FLOATS)
    for d in range(D):
        if source.element == PIXELS:
            x = load_chosen(pixels, d, D, rows, i, count, zero) / like(PIXEL_MAX, zero)
            store(a, d * lanes, x)
        elif source.element == SINGLE:
            store(a, d * lanes, load_chosen(singles, d, D, rows, i, count, zero))
        else:
            store(a, d * lanes, load_chosen(doubles, d, D, rows, i, count, zero))


@kernel
def forward(plan: Plan, number: int, at: int) -> int:
    """Compute a layer's activations, or the logits, behind its inputs at ``at``; return where."""
    layer, theta, a = layer_at(plan, number), reals(plan, plan.theta), reals(plan, plan.narrow)
    lanes, zero = lanes_in(a), spread(like(0.0, a))
    for h in range(layer.H):
        z = zero
        for d in range(layer.D):
            W = theta[weight_at(layer, d, h, plan.columns)]
            z = multiply_add(load(a, (at + d) * lanes), W, z)
        z = z + theta[layer.bias + h]
        if number < plan.depth - 1:
            z = activated(z, plan.hidden)
        store(a, (at + layer.D + h) * lanes, z)
    return at + layer.D


@kernel
def output_rows(
    plan: Plan, source: Source, rows: IntArray, i: int, scale: float, logits: FloatArray
) -> None:
    """Turn the logits of some rows into ŷ − y and their weights; note their losses and hits."""
    K = layer_at(plan, plan.depth - 1).H
    labels = vector(source.labels, INTS)
    targets = matrix(plan, source.targets, 0, ENDLESS, K)
    w = part(reals(plan, source.sample_weight), 0, ENDLESS * source.weighted)
    losses, correct = vector(plan.row_loss, FLOATS), vector(plan.row_correct, FLOATS)
    losses, correct = part(losses, 0, len(rows)), part(correct, 0, len(rows))
    if plan.output == SOFTMAX_OUTPUT:
        softmax_rows(logits, K, labels, w, rows, i, scale, losses, correct)
    elif plan.output == SIGMOID_OUTPUT:
        sigmoid_rows(logits, K, targets, w, rows, i, scale, losses, correct)
    elif plan.output == EXP_OUTPUT:
        poisson_rows(logits, K, targets, w, rows, i, scale, losses, correct)
    else:
        squared_rows(logits, K, targets, w, rows, i, scale, losses, correct)


@kernel
def backward(plan: Plan, number: int, at: int, sums: FloatArray) -> int:
    """Add some rows' gradients of a layer, whose delta is at ``at``; replace a[l] by delta[l].

    Returns where that is. ``sums`` has, for each unit, the bias and then the inputs' weights.
    """
    layer, theta, a = layer_at(plan, number), reals(plan, plan.theta), reals(plan, plan.narrow)
    lanes, below, n = lanes_in(a), at - layer.D, 0
    for h in range(layer.H):
        delta = load(a, (at + h) * lanes)
        store(sums, n * lanes, load(sums, n * lanes) + delta)
        for d in range(layer.D):
            W, f = (n + 1 + d) * lanes, load(a, (below + d) * lanes)
            store(sums, W, multiply_add(f, delta, load(sums, W)))
        n += layer.D + 1
    if number == 0:
        return below
    for d in range(layer.D):
        delta = spread(like(0.0, a))
        for h in range(layer.H):
            W = theta[weight_at(layer, d, h, plan.columns)]
            delta = multiply_add(load(a, (at + h) * lanes), W, delta)
        f = load(a, (below + d) * lanes)
        store(a, (below + d) * lanes, derived(delta, f, plan.hidden))
    return below
