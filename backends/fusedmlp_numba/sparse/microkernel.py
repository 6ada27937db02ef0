"""The micro-kernel of sparse products: tiles of C in registers, rows of X as entries or bit masks.

LLVM by hand, as in gemm/microkernel.py. Loops around these tiles are in products.py. No bounds
are checked.
"""

# ruff: noqa: ANN401, ARG001 - see simd/intrinsics.py

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from numba import types

from fusedmlp_numba.compiler.host import VECTORS
from fusedmlp_numba.constants import BITMASK_ROWS, SEGMENT_BOUNDS
from fusedmlp_numba.simd.control_flow import (
    emit_bit_loop,
    emit_loop,
    emit_prefetched_loop,
    switch,
)
from fusedmlp_numba.simd.emitter import VectorEmitter, strided_offsets
from fusedmlp_numba.simd.intrinsics import data_pointer, intrinsic, unpack_record

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedmlp_numba.simd.intrinsics import Emit

SPARSE_PANELS: Final = 4
"""Panels that a sparse row sums at once: eight independent chains hide the latency of FMA."""


def _panel_cases(builder: Any, count: Any, tile: Callable[[int], None]) -> None:
    """Emit ``tile`` for 1 to SPARSE_PANELS panels; run that for ``count``."""
    numbers = range(1, SPARSE_PANELS + 1)
    switch(builder, count, {panels: functools.partial(tile, panels) for panels in numbers})


@intrinsic
def sparse_tiles(
    typingctx: Any, panels: Any, rows: Any, entries: Any, bound: Any, B: Any, C: Any,
    accumulate: Any,
) -> tuple[Any, Emit]:  # fmt: skip
    """C[i] = Σₙ value[n]·B[index[n]] over the n of row i, or C[i] += that.

    The loop over rows is here because a row has few entries: work that is done once for each row
    counts as much as several entries. C's own value is the first term of the sum.

    Parameters
    ----------
    panels
        1 to SPARSE_PANELS neighbouring panels, summed at once.
    rows
        Number of rows, at least 1.
    entries, bound
        Entries. The n of row i are from ``bounds[bound + i * SEGMENT_BOUNDS]`` to before the next
        bound.
    B
        Operand in panels.
    C
        Operand, row-major.
    """
    signature = types.void(panels, rows, entries, bound, B, C, accumulate)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        count, rows, _, bound, _, _, accumulate = arguments
        entries, B, C = (
            unpack_record(context, builder, signature.args[i], arguments[i]) for i in (2, 4, 5)
        )
        word = rows.type
        zero, one, bounds_row = word(0), word(1), word(SEGMENT_BOUNDS)
        v = VectorEmitter(context, builder, signature.args[4][0].dtype)
        columns = VECTORS * v.lanes

        def tile(panels: int) -> None:
            numbers = [word(p) for p in range(panels)]
            right = [
                builder.gep(B.values, [start])
                for start in strided_offsets(builder, B.start, B.panel, numbers)
            ]
            offsets = [word(n * v.lanes) for n in range(VECTORS * panels)]
            first_bound = builder.gep(entries.bounds, [bound])
            first_row = builder.gep(C.values, [C.start])
            loop = emit_loop(builder, zero, rows, one, (bounds_row, C.row))
            with loop as (_, bound_at, row_at):
                bounds = builder.gep(first_bound, [bound_at])
                target = builder.gep(first_row, [row_at])
                sums = v.accumulators(len(offsets))
                with builder.if_then(accumulate):
                    for total, offset in zip(sums, offsets, strict=True):
                        builder.store(v.load(target, offset), total)
                start, stop = builder.load(bounds), builder.load(builder.gep(bounds, [one]))
                nonempty = builder.icmp_signed("<", start, stop)
                with (
                    builder.if_then(nonempty),
                    emit_prefetched_loop(builder, entries.indices, start, stop) as (n, index),
                ):
                    row = v.panel(builder.mul(builder.zext(index, word), word(columns)))
                    vectors = [v.load(panel, offset) for panel in right for offset in row]
                    factor = builder.load(builder.gep(entries.values, [n]))
                    v.add_product(sums, factor, vectors)
                for total, offset in zip(sums, offsets, strict=True):
                    v.store(builder.load(total), target, offset)

        _panel_cases(builder, count, tile)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def masked_tiles(
    typingctx: Any, panels: Any, first: Any, last: Any, row_masks: Any, value: Any, B: Any,
    C: Any, update: Any,
) -> tuple[Any, Emit]:  # fmt: skip
    """C[d] = α·Σᵢ xᵢ·B[i], or C[d] += that, over the set bits i of ``masks[d]``, ascending.

    xᵢ is the next value of row i. Where no bit is set and C would be added to, C is not touched.

    Parameters
    ----------
    panels
        1 to SPARSE_PANELS neighbouring panels, summed at once.
    first, last
        Range of d, not empty.
    row_masks, value
        RowMasks, and the values of its entries: row i's next one is
        ``value[positions[BITMASK_ROWS + i]]``, and its others follow.
    B
        Operand, row-major.
    C
        Operand in panels.
    update
        Update.
    """
    signature = types.void(panels, first, last, row_masks, value, B, C, update)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        count, first, last = arguments[:3]
        row_masks, B, C, update = (
            unpack_record(context, builder, signature.args[i], arguments[i]) for i in (3, 5, 6, 7)
        )
        value = data_pointer(context, builder, signature.args[4], arguments[4])
        element = signature.args[4].dtype
        alpha = context.cast(builder, update.alpha, types.float64, element)
        word = first.type
        v = VectorEmitter(context, builder, element)
        columns = VECTORS * v.lanes

        def tile(panels: int) -> None:
            left = builder.gep(B.values, [B.start])
            positions = builder.gep(row_masks.positions, [word(BITMASK_ROWS)])
            targets = strided_offsets(builder, C.start, C.panel, [word(p) for p in range(panels)])
            offsets = [word(n * v.lanes) for n in range(VECTORS * panels)]
            with emit_loop(builder, first, last, word(1)) as (d,):
                mask = builder.load(builder.gep(row_masks.masks, [d]))
                nonempty = builder.icmp_unsigned("!=", mask, mask.type(0))
                with builder.if_then(builder.or_(nonempty, builder.not_(update.accumulate))):
                    sums = v.accumulators(len(offsets))
                    with builder.if_then(nonempty), emit_bit_loop(builder, mask) as i:
                        position = builder.gep(positions, [i])
                        n = builder.load(position)
                        builder.store(builder.add(n, word(1)), position)
                        row = builder.gep(left, [builder.mul(i, B.row)])
                        vectors = [v.load(row, offset) for offset in offsets]
                        v.add_product(sums, builder.load(builder.gep(value, [n])), vectors)
                    at = builder.mul(d, word(columns))
                    rows = [builder.add(start, at) for start in targets]
                    v.write_sums(sums, C.values, rows, alpha, update.accumulate)

        _panel_cases(builder, count, tile)
        return context.get_dummy_value()

    return signature, emit
