"""Copies that bring operands into the order of tiles: packed tiles, panels, and Wᵀ. LLVM by hand.

They are vectors loaded, shuffled and stored; products.py says which rows and panels they are for.
Nothing is computed here. Nothing checks bounds, and nothing reads or writes outside what it is told
of.
"""

# ruff: noqa: ANN401, ARG001 - see intrinsics.py

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from numba import types

from fusedmlp_numba.compiler.host import VECTORS
from fusedmlp_numba.gemm.microkernel import MR
from fusedmlp_numba.simd.emitter import VectorEmitter, clamped_indices, shuffled, strided_offsets
from fusedmlp_numba.simd.intrinsics import data_of, intrinsic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp_numba.simd.intrinsics import Emit

PART_BYTES: Final = 16
"""Bytes of the parts of a register within which shuffles are cheap: across them, values are put in
their places by loads."""


def _copy(
    lanes: int | None, vectors: int, target: Any, at: Any, source: Any, start: Any
) -> tuple[Any, Emit]:
    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        target, at, source, start = arguments
        target, source = (
            data_of(context, builder, signature.args[i], value)
            for i, value in ((0, target), (2, source))
        )
        v = VectorEmitter(context, builder, signature.args[0].dtype, lanes)
        offsets = [at.type(n * v.lanes) for n in range(vectors)]
        values = [v.load(source, builder.add(start, offset)) for offset in offsets]
        for value, offset in zip(values, offsets, strict=True):
            v.store(value, target, builder.add(at, offset))
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp), emit


@intrinsic
def copy_column(typingctx: Any, target: Any, at: Any, source: Any, start: Any) -> tuple[Any, Emit]:
    """target[at : at + TILE_ROWS] = source[start : start + TILE_ROWS]: one k of a packed tile."""
    return _copy(MR, 1, target, at, source, start)


@intrinsic
def copy_panel(typingctx: Any, target: Any, at: Any, source: Any, start: Any) -> tuple[Any, Emit]:
    """target[at : at + columns] = source[start : start + columns]: one row of a panel."""
    return _copy(None, VECTORS, target, at, source, start)


@intrinsic
def transpose_tile(
    typingctx: Any, W: Any, w: Any, rows: Any, out: Any, t: Any, columns: Any
) -> tuple[Any, Emit]:
    """out[t + j * c + i] = W[w + i * c + j] for a square of one register's lanes a side.

    ``c`` is the columns of a panel, on both sides. Where ``rows`` or ``columns`` are fewer than the
    lanes: only so many rows of W are read, at least one, but the lanes of out beyond ``rows``, if
    need be all, become zero; and only so many rows of out are written, at least one.
    """
    word = types.intp
    signature = types.void(W, word, word, out, word, word)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        W, w, rows, out, t, columns = arguments
        kind = signature.args[0].dtype
        W = data_of(context, builder, signature.args[0], W)
        out = data_of(context, builder, signature.args[3], out)
        v = VectorEmitter(context, builder, kind)
        part = VectorEmitter(context, builder, kind, PART_BYTES // v.itemsize)
        c, buffer_index = w.type(VECTORS * v.lanes), w.type(v.lanes)

        def transpose(lines: list[Any], targets: list[Any], inside: list[Any] | None) -> None:
            """Emit all of it for these rows of W and out; zeros stand for rows not inside."""
            starts = strided_offsets(builder, w, c, lines)
            square = []
            for first in range(0, v.lanes, part.lanes):
                parts = [part.load(W, builder.add(at, w.type(first))) for at in starts]
                if inside is not None:
                    parts = [
                        builder.select(there, value, part.zero)
                        for there, value in zip(inside, parts, strict=True)
                    ]
                joined = [v.joined(parts[i :: part.lanes]) for i in range(part.lanes)]
                square += _exchanged(builder, joined, v.lanes)
            # From the last row to the first: one not wanted is overwritten by the last one that is.
            for value, at in reversed(
                list(zip(square, strided_offsets(builder, t, c, targets), strict=True))
            ):
                v.store(value, out, at)

        whole = builder.and_(
            builder.icmp_signed(">=", rows, buffer_index),
            builder.icmp_signed(">=", columns, buffer_index),
        )
        numbers = [w.type(i) for i in range(v.lanes)]
        with builder.if_else(whole) as (inner, edge):
            with inner:
                transpose(numbers, numbers, None)
            with edge:
                some = builder.select(builder.icmp_signed(">", rows, w.type(0)), rows, w.type(1))
                transpose(
                    clamped_indices(builder, some, v.lanes),
                    clamped_indices(builder, columns, v.lanes),
                    [builder.icmp_signed("<", i, rows) for i in numbers],
                )
        return context.get_dummy_value()

    return signature, emit


def _exchanged(builder: Any, square: list[Any], lanes: int) -> list[Any]:
    """Transpose vectors in every part: exchange off-diagonal quarters of ever larger squares."""
    square, buffer_index = list(square), 1
    while buffer_index < len(square):
        low = [
            lane + lanes - buffer_index if lane & buffer_index else lane for lane in range(lanes)
        ]
        high = [
            lane + lanes if lane & buffer_index else lane + buffer_index for lane in range(lanes)
        ]
        for i in range(len(square)):
            if not i & buffer_index:
                pair = square[i], square[i + buffer_index]
                square[i], square[i + buffer_index] = (
                    shuffled(builder, *pair, m) for m in (low, high)
                )
        buffer_index *= 2
    return square
