"""Σ W² of a network: what the L2 penalty of a loss is computed from; its gradient is in layers.py.

A panel is summed by one worker, and the panels by worker 0 in their order: the bits are the same
for any number of workers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.network.partition import layer_at, partition, weights_operand
from fusedmlp_numba.simd.intrinsics import cast_like
from fusedmlp_numba.simd.vector_memory import load
from fusedmlp_numba.simd.vectors import (
    broadcast,
    fma,
    lane_count,
    lane_indices,
    reduce_add,
    select,
)
from fusedmlp_numba.simd.views import FLOAT64, array_at

if TYPE_CHECKING:
    from fusedmlp_numba.gemm.operands import Operand
    from fusedmlp_numba.network.partition import Worker
    from fusedmlp_numba.records import EngineContext

SUMMED_INPUTS: Final = 256
"""Rows of a panel that are summed in the engine's type; their sums are added in float64."""


@kernel
def panel_squares(W: Operand, panel: int, D: int, count: int) -> float:
    """Sum the squares in the first ``count`` columns of a panel (D, columns)."""
    zero, total = broadcast(cast_like(0.0, W.values)), 0.0
    inside = lane_indices(zero) < cast_like(count, zero)  # the others are padding
    start, lanes = W.start + panel * W.panel, lane_count(W.values)
    for first in range(0, D, SUMMED_INPUTS):
        squares = zero
        for d in range(first, min(first + SUMMED_INPUTS, D)):
            row = load(W.values, start + d * lanes)
            squares = fma(row, row, squares)
        total += np.float64(reduce_add(select(inside, squares, zero)))
    return total


@kernel
def square_panels(context: EngineContext, worker: Worker) -> None:
    """Write the sum of every panel that is a worker's."""
    sums, at = array_at(context.work.squares, FLOAT64), 0
    for layer_index in range(context.depth):
        layer = layer_at(context, layer_index)
        W = weights_operand(context, layer_index, context.parameters.theta)
        first, last = partition(layer.panels, worker)
        for panel in range(first, last):
            count = layer.H - panel * context.columns
            sums[at + panel] = panel_squares(W, panel, layer.D, count)
        at += layer.panels


@kernel
def sum_squares(context: EngineContext) -> float:
    """Return Σ W², from the sums of all panels."""
    sums, at, total = array_at(context.work.squares, FLOAT64), 0, 0.0
    for layer_index in range(context.depth):
        panels = layer_at(context, layer_index).panels
        for panel in range(at, at + panels):
            total += sums[panel]
        at += panels
    return total
