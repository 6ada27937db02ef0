"""Who does what in a step, and where it lies: a worker's rows, panels, entries and deltas.

Only numbers are computed here, from a Plan, a worker's number and how many workers there are;
layers.py and gathering.py do the work.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from fusedmlp_numba.caching import kernel
from fusedmlp_numba.layout import LAYER, row_stride
from fusedmlp_numba.sizes import IN_PLACE_ROWS
from fusedmlp_numba.views import record

if TYPE_CHECKING:
    from fusedmlp_numba.layout import Layer, Plan
    from fusedmlp_numba.sources import Source

LAYER_BYTES: Final = LAYER.itemsize

stride_of = kernel(row_stride)
"""Elements from one row to the next, for its width and an element's bytes."""


@kernel
def layer_at(plan: Plan, number: int) -> Layer:
    """Return a layer's record."""
    layer: Layer = record(plan.layers + number * LAYER_BYTES, LAYER)
    return layer


@kernel
def share(n: int, worker: int, workers: int) -> tuple[int, int]:
    """Return a worker's part of n things."""
    return n * worker // workers, n * (worker + 1) // workers


@kernel
def shares(
    rows: int, panels: int, worker: int, workers: int
) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return a worker's rows and panels of a matrix; rows are cut where panels are too few."""
    if panels >= workers:
        return (0, rows), share(panels, worker, workers)
    return share(rows, worker, workers), (0, panels)


@kernel
def by_rows(plan: Plan, workers: int) -> bool:
    """Whether the last layer's product is cut by rows: as its outputs and their deltas are."""
    return layer_at(plan, plan.depth - 1).panels < 2 * workers


@kernel
def in_place(source: Source, rows: int) -> bool:
    """Whether the products of a batch of so many rows read its inputs where they lie."""
    return source.in_place and rows >= IN_PLACE_ROWS


@kernel
def alone(plan: Plan, workers: int) -> bool:
    """Whether a worker needs no more of delta[1] than its own panels: those of the first layer."""
    return plan.depth > 1 and layer_at(plan, 0).panels >= workers


@kernel
def own_units(plan: Plan, workers: int) -> bool:
    """Whether each worker changes the weights of its own units of the first hidden layer only.

    That is on both sides of them: of the second layer, too few panels are cut by rows.
    """
    return alone(plan, workers) and layer_at(plan, 1).panels < workers


@kernel
def unit_rows(plan: Plan, number: int, worker: int, workers: int) -> tuple[int, int]:
    """Return a worker's part of a layer's rows: its own units of the layer below, if any is."""
    D = layer_at(plan, number).D
    if number == 0:
        return share(D, worker, workers)
    first, last = share(layer_at(plan, number - 1).panels, worker, workers)
    return min(first * plan.columns, D), min(last * plan.columns, D)


@kernel
def entry_place(plan: Plan, side: int, worker: int) -> int:
    """Return which of the batches of entries a worker's is: 0 or 1, or behind those of others."""
    return side + 2 * worker if plan.entry_copies > 1 else side


@kernel
def delta_place(plan: Plan, number: int, worker: int, workers: int) -> tuple[int, int]:
    """Return address and row stride of delta[l + 1] as a worker sees it.

    What each worker needs alone lies apart from the others' columns. In common rows a processor
    would prefetch its neighbours' lines too, and their owner would have to take them back.
    """
    layer = layer_at(plan, number)
    if number > 0 or not alone(plan, workers):
        return layer.delta, layer.stride
    columns = (layer.panels + workers - 1) // workers * plan.columns
    stride = stride_of(columns, plan.itemsize)
    first, _ = share(layer.panels, worker, workers)
    start = worker * plan.rows * stride - first * plan.columns
    return layer.delta + start * plan.itemsize, stride
