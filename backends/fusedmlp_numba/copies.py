"""Copies that bring operands into the order of tiles: packed tiles, panels, and Wᵀ. LLVM by hand.

They are vectors loaded, shuffled and stored; products.py says which rows and panels they are for.
Nothing is computed here. Nothing checks bounds, and nothing reads or writes outside what it is told
of.
"""

# ruff: noqa: ANN401, ARG001 - see intrinsics.py

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from numba import types

from fusedmlp_numba.host import VECTORS
from fusedmlp_numba.intrinsics import data_of, intrinsic
from fusedmlp_numba.tiles import TILE_ROWS
from fusedmlp_numba.vectors import Vectors, clamped, shuffled, steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp_numba.intrinsics import Emit

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
        v = Vectors(context, builder, signature.args[0].dtype, lanes)
        offsets = [at.type(n * v.lanes) for n in range(vectors)]
        values = [v.load(source, builder.add(start, offset)) for offset in offsets]
        for value, offset in zip(values, offsets, strict=True):
            v.store(value, target, builder.add(at, offset))
        return context.get_dummy_value()

    return types.void(target, types.intp, source, types.intp), emit


@intrinsic
def copy_column(typingctx: Any, target: Any, at: Any, source: Any, start: Any) -> tuple[Any, Emit]:
    """target[at : at + TILE_ROWS] = source[start : start + TILE_ROWS]: one k of a packed tile."""
    return _copy(TILE_ROWS, 1, target, at, source, start)


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
        v = Vectors(context, builder, kind)
        part = Vectors(context, builder, kind, PART_BYTES // v.itemsize)
        c, side = w.type(VECTORS * v.lanes), w.type(v.lanes)

        def transpose(lines: list[Any], targets: list[Any], inside: list[Any] | None) -> None:
            """Emit all of it for these rows of W and out; zeros stand for rows not inside."""
            starts = steps(builder, w, c, lines)
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
                list(zip(square, steps(builder, t, c, targets), strict=True))
            ):
                v.store(value, out, at)

        whole = builder.and_(
            builder.icmp_signed(">=", rows, side), builder.icmp_signed(">=", columns, side)
        )
        numbers = [w.type(i) for i in range(v.lanes)]
        with builder.if_else(whole) as (inner, edge):
            with inner:
                transpose(numbers, numbers, None)
            with edge:
                some = builder.select(builder.icmp_signed(">", rows, w.type(0)), rows, w.type(1))
                transpose(
                    clamped(builder, some, v.lanes),
                    clamped(builder, columns, v.lanes),
                    [builder.icmp_signed("<", i, rows) for i in numbers],
                )
        return context.get_dummy_value()

    return signature, emit


def _exchanged(builder: Any, square: list[Any], lanes: int) -> list[Any]:
    """Transpose vectors in every part: exchange off-diagonal quarters of ever larger squares."""
    square, side = list(square), 1
    while side < len(square):
        low = [lane + lanes - side if lane & side else lane for lane in range(lanes)]
        high = [lane + lanes if lane & side else lane + side for lane in range(lanes)]
        for i in range(len(square)):
            if not i & side:
                pair = square[i], square[i + side]
                square[i], square[i + side] = (shuffled(builder, *pair, m) for m in (low, high))
        side *= 2
    return square
