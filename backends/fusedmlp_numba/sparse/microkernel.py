"""Tiles of products with sparse rows, or with the bits of masks: LLVM by hand, as in tiles.py.

What calls them is in sparse.py and masks.py. Each docstring gives the meaning as NumPy would write
it. Nothing here checks bounds.
"""

# ruff: noqa: ANN401, ARG001 - see intrinsics.py

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from numba import types

from fusedmlp_numba.compiler.host import VECTORS
from fusedmlp_numba.simd.control_flow import emit_bit_loop, emit_loop, emit_prefetched_loop, switch
from fusedmlp_numba.simd.emitter import VectorEmitter, strided_offsets
from fusedmlp_numba.simd.intrinsics import data_of, intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedmlp_numba.simd.intrinsics import Emit

SPARSE_PANELS: Final = 4
"""Panels that a sparse row sums at once: eight independent chains hide the latency of FMA."""


def _panel_cases(builder: Any, count: Any, tile: Callable[[int], None]) -> None:
    """Emit ``tile`` for 1 to GATHER_PANELS panels; run that for ``count``."""
    numbers = range(1, SPARSE_PANELS + 1)
    switch(builder, count, {panels: functools.partial(tile, panels) for panels in numbers})


@intrinsic
def sparse_tiles(
    typingctx: Any,
    panels: Any,
    rows: Any,
    values: Any,
    indices: Any,
    bounds: Any,
    at: Any,
    bounds_row: Any,
    B: Any,
    b: Any,
    b_panel: Any,
    C: Any,
    c: Any,
    c_row: Any,
    accumulate: Any,
) -> tuple[Any, Emit]:
    """Sparse rows by a matrix: C[i] = Σₙ values[n]·B[indices[n]] over row i's n, or C[i] += that.

    The rows are looped over here because a row has few entries: what is done once for each of them
    weighs as much as several. C's own value is the first term of the sum.

    Parameters
    ----------
    panels
        1 to GATHER_PANELS neighbouring panels, summed at once.
    rows
        How many, at least 1.
    values, indices
        Flat arrays; row i's are from n = ``bounds[at + i * bounds_row]`` to before the next bound.
    B, b, b_panel
        Flat array; row r of panel p is at ``B[b + r * columns + p * b_panel]``, columns a panel's.
    C, c, c_row
        Flat array; row i of all panels is at ``C[c + i * c_row]``, one beside the other.
    """
    signature = types.void(
        panels, rows, values, indices, bounds, at, bounds_row, B, b, b_panel, C, c, c_row,
        accumulate,
    )  # fmt: skip

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        (count, rows, values, indices, bounds, at, bounds_row, B, b, b_panel, C, c, c_row,
         add) = arguments  # fmt: skip
        kinds = signature.args
        values, indices, bounds, B, C = (
            data_of(context, builder, kinds[i], value)
            for i, value in ((2, values), (3, indices), (4, bounds), (7, B), (10, C))
        )
        word = rows.type
        zero, one = word(0), word(1)
        v = VectorEmitter(context, builder, kinds[2].dtype)
        columns = VECTORS * v.lanes

        def tile(panels: int) -> None:
            numbers = [word(p) for p in range(panels)]
            right = [
                builder.gep(B, [start]) for start in strided_offsets(builder, b, b_panel, numbers)
            ]
            places = [word(n * v.lanes) for n in range(VECTORS * panels)]
            first_bound, first_row = builder.gep(bounds, [at]), builder.gep(C, [c])
            loop = emit_loop(builder, zero, rows, one, (bounds_row, c_row))
            with loop as (_, bound, target):
                bound, target = builder.gep(first_bound, [bound]), builder.gep(first_row, [target])
                sums = v.sums(len(places))
                with builder.if_then(add):
                    for total, place in zip(sums, places, strict=True):
                        builder.store(v.load(target, place), total)
                start, stop = builder.load(bound), builder.load(builder.gep(bound, [one]))
                nonempty = builder.icmp_signed("<", start, stop)
                with (
                    builder.if_then(nonempty),
                    emit_prefetched_loop(builder, indices, start, stop) as (n, index),
                ):
                    row = v.panel(builder.mul(builder.zext(index, word), word(columns)))
                    vectors = [v.load(panel, place) for panel in right for place in row]
                    v.add_product(sums, builder.load(builder.gep(values, [n])), vectors)
                for total, place in zip(sums, places, strict=True):
                    v.store(builder.load(total), target, place)

        _panel_cases(builder, count, tile)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def masked_tiles(
    typingctx: Any,
    panels: Any,
    first: Any,
    last: Any,
    masks: Any,
    value: Any,
    places: Any,
    place: Any,
    B: Any,
    b: Any,
    b_row: Any,
    C: Any,
    c: Any,
    c_panel: Any,
    alpha: Any,
    accumulate: Any,
) -> tuple[Any, Emit]:
    """Rows whose entries are a mask's bits: C[d] = α·Σᵢ xᵢ·B[i], or C[d] += that.

    The i of the sum, ascending, are the bits of ``masks[d]``, and xᵢ is the next value of those
    that i has. Where a row of C has no bits and would be added to, it is left alone. The rows are
    looped over here as in :func:`gather_tiles`.

    Parameters
    ----------
    panels
        1 to GATHER_PANELS neighbouring panels, summed at once.
    first, last
        The range of d, not empty.
    masks, value, places, place
        Flat arrays; the next value of i is ``value[places[place + i]]``, and the one after it lies
        behind it.
    B, b, b_row
        Flat array; row i of all panels is at ``B[b + i * b_row]``, one beside the other.
    C, c, c_panel
        Flat array; row d of panel p is at ``C[c + d * columns + p * c_panel]``, columns a panel's.
    """
    signature = types.void(
        panels, first, last, masks, value, places, place, B, b, b_row, C, c, c_panel, alpha,
        accumulate,
    )  # fmt: skip

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        (count, first, last, masks, value, places, place, B, b, b_row, C, c, c_panel, alpha,
         add) = arguments  # fmt: skip
        kinds = signature.args
        masks, value, places, B, C = (
            data_of(context, builder, kinds[i], array)
            for i, array in ((3, masks), (4, value), (5, places), (7, B), (10, C))
        )
        word = first.type
        v = VectorEmitter(context, builder, kinds[4].dtype)
        columns = VECTORS * v.lanes

        def tile(panels: int) -> None:
            left, nexts = builder.gep(B, [b]), builder.gep(places, [place])
            targets = strided_offsets(builder, c, c_panel, [word(p) for p in range(panels)])
            columns_at = [word(n * v.lanes) for n in range(VECTORS * panels)]
            with emit_loop(builder, first, last, word(1)) as (d,):
                mask = builder.load(builder.gep(masks, [d]))
                some = builder.icmp_unsigned("!=", mask, mask.type(0))
                with builder.if_then(builder.or_(some, builder.not_(add))):
                    sums = v.sums(len(columns_at))
                    with builder.if_then(some), emit_bit_loop(builder, mask) as i:
                        next_place = builder.gep(nexts, [i])
                        n = builder.load(next_place)
                        builder.store(builder.add(n, word(1)), next_place)
                        row = builder.gep(left, [builder.mul(i, b_row)])
                        vectors = [v.load(row, at) for at in columns_at]
                        v.add_product(sums, builder.load(builder.gep(value, [n])), vectors)
                    at = builder.mul(d, word(columns))
                    v.write_sums(sums, C, [builder.add(start, at) for start in targets], alpha, add)

        _panel_cases(builder, count, tile)
        return context.get_dummy_value()

    return signature, emit
