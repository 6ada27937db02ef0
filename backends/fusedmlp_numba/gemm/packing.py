"""Packing for products: tiles of the left operand, panels of the right one, and Wᵀ in panels.

The copies are vectors loaded, shuffled and stored by intrinsics; kernels iterate over them.
Nothing is computed and no bounds are checked; nothing outside the stated ranges is read or
written.
"""

# ruff: noqa: ANN401, ARG001 - see simd/intrinsics.py

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from numba import types

from fusedmlp_numba.compiler.host import VECTORS
from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.gemm.microkernel import MR
from fusedmlp_numba.simd.emitter import VectorEmitter, clamped_indices, shuffle, strided_offsets
from fusedmlp_numba.simd.intrinsics import data_pointer, intrinsic, no_inline
from fusedmlp_numba.simd.memory import copy_convert
from fusedmlp_numba.simd.vectors import lane_count

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp.types import IntArray
    from fusedmlp_numba.gemm.operands import Operand
    from fusedmlp_numba.simd.intrinsics import Emit

PART_BYTES: Final = 16
"""Bytes of the parts of a register within which shuffles are cheap. Values reach the right part by
loads instead."""

PACKED_ROWS: Final = 16
"""Rows that :func:`pack_panels` copies together: all rows of a panel at once lie on more pages than
the TLB holds."""


@kernel
def pack_tiles(
    A: Operand,
    row_indices: IntArray,
    terms: tuple[int, int],
    columns: int,
    out: Operand,
    stride: int,
) -> None:
    """Copy the first columns of a row-major matrix into tiles (terms, MR), ``stride`` apart.

    Row k of ``terms`` is row ``row_indices[k]`` of A, unless there are no indices. Columns of the
    last tile beyond ``columns`` are left as they were: no product reads them.
    """
    no_inline()
    whole = columns // MR
    for k in range(terms[0], terms[1]):
        row = row_indices[k] if len(row_indices) > 0 else k
        source, target = A.start + row * A.row, out.start + (k - terms[0]) * MR
        for n in range(whole):
            copy_column(out.values, target + n * stride, A.values, source + n * MR)
        last = whole * MR
        target += whole * stride
        copy_convert(out.values, target, A.values, source + last, columns - last, 1)


@kernel
def pack_panels(B: Operand, depth: int, out: Operand, panels: tuple[int, int]) -> None:
    """Copy panels of a row-major matrix (depth, N) into the panels of ``out``."""
    no_inline()
    for first in range(0, depth, PACKED_ROWS):
        for p in range(panels[0], panels[1]):
            for k in range(first, min(first + PACKED_ROWS, depth)):
                target = out.start + p * out.panel + k * out.row
                copy_panel(out.values, target, B.values, B.start + k * B.row + p * B.panel)


@kernel
def transpose_panels(W: Operand, D: int, H: int, out: Operand, panels: tuple[int, int]) -> None:
    """Write panels of Wᵀ (H, D) from the panels of W (D, H); columns beyond D become zeros."""
    no_inline()
    columns = lane_count(W.values)
    lanes = columns // VECTORS
    # In the order of W, which may come from memory, and line by line on both sides.
    for h in range(0, H, columns):
        source = W.start + h * D
        for d in range(panels[0] * columns, panels[1] * columns, lanes):
            target = out.start + (d // columns * H + h) * columns + d % columns
            for k in range(0, min(columns, H - h), lanes):
                transpose_tile(
                    W.values,
                    source + min(d, D - 1) * columns + k,
                    min(lanes, D - d),
                    out.values,
                    target + k * columns,
                    min(lanes, H - h - k),
                )


def _copy(
    lanes: int | None, vectors: int, target: Any, at: Any, source: Any, start: Any
) -> tuple[Any, Emit]:
    """target[at : at + n] = source[start : start + n] for n elements in ``vectors`` vectors."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        target, at, source, start = arguments
        target, source = (
            data_pointer(context, builder, signature.args[i], value)
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
    """target[at : at + MR] = source[start : start + MR]: one k of a packed tile."""
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

    ``c`` is the columns of a panel, on both sides. With fewer ``rows`` than lanes, only that many
    rows of W are read, at least one, and the lanes of out beyond them become zero. With fewer
    ``columns`` than lanes, only that many rows of out are written, at least one.
    """
    word = types.intp
    signature = types.void(W, word, word, out, word, word)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        W, w, rows, out, t, columns = arguments
        kind = signature.args[0].dtype
        W = data_pointer(context, builder, signature.args[0], W)
        out = data_pointer(context, builder, signature.args[3], out)
        v = VectorEmitter(context, builder, kind)
        part = VectorEmitter(context, builder, kind, PART_BYTES // v.itemsize)
        c, side = w.type(VECTORS * v.lanes), w.type(v.lanes)

        def transpose(lines: list[Any], targets: list[Any], inside: list[Any] | None) -> None:
            """Emit the transposition for these rows of W and out; rows not inside are zeros."""
            starts = strided_offsets(builder, w, c, lines)
            square = []
            for first in range(0, v.lanes, part.lanes):
                parts = [part.load(W, builder.add(at, w.type(first))) for at in starts]
                if inside is not None:
                    parts = [
                        builder.select(there, value, part.zero)
                        for there, value in zip(inside, parts, strict=True)
                    ]
                joined = [v.concatenate(parts[i :: part.lanes]) for i in range(part.lanes)]
                square += _transpose_parts(builder, joined, v.lanes)
            # From the last row to the first: the last valid row overwrites those that are not.
            for value, at in reversed(
                list(zip(square, strided_offsets(builder, t, c, targets), strict=True))
            ):
                v.store(value, out, at)

        whole = builder.and_(
            builder.icmp_signed(">=", rows, side),
            builder.icmp_signed(">=", columns, side),
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


def _transpose_parts(builder: Any, square: list[Any], lanes: int) -> list[Any]:
    """Transpose within every part: exchange the off-diagonal quarters of ever larger squares."""
    square, side = list(square), 1
    while side < len(square):
        low = [lane + lanes - side if lane & side else lane for lane in range(lanes)]
        high = [lane + lanes if lane & side else lane + side for lane in range(lanes)]
        for i in range(len(square)):
            if not i & side:
                pair = square[i], square[i + side]
                square[i], square[i + side] = (shuffle(builder, *pair, m) for m in (low, high))
        side *= 2
    return square
