"""The micro-kernel of dense products: tiles of C held in vector registers. LLVM by hand.

A whole tile with its loop over k is one intrinsic, because the accumulators must stay in
registers from the first term to the last. Blocking for the caches is in products.py, packing in
packing.py, the micro-kernel of sparse rows in sparse/microkernel.py.

Names are those of the BLIS papers: a tile has MR rows and NR columns, NR being one *panel*, two
vector registers of the target's width. Weights are stored panel by panel, so that a tile reads
them as one stream. No bounds are checked; nothing outside the stated rows and panels is read or
written.

Hazard: a tile with fewer rows or panels than its registers could hold computes the last one again
and writes it twice. All of C is read before any of it is written.
"""

# ruff: noqa: ANN401, ARG001 - see simd/intrinsics.py

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from numba import types

from fusedmlp_numba.compiler.host import IN_PLACE, VECTOR_BYTES, VECTORS
from fusedmlp_numba.simd.control_flow import emit_loop, switch
from fusedmlp_numba.simd.emitter import VectorEmitter, clamped_indices, strided_offsets
from fusedmlp_numba.simd.intrinsics import intrinsic, unpack_record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp_numba.simd.intrinsics import Emit


MR: Final = 12 if VECTOR_BYTES == 64 else 6
"""Rows of a tile: 12·2 of AVX-512's 32 registers, 6·2 of AVX2's 16; the rest hold operands. Every
additional row saves loads of B, which limit a processor of two FMA units."""

TILE_SHAPES: Final = {
    rows: shape
    for rows, shape in {1: (1, 4), 2: (2, 2), 4: (4, 1), 6: (6, 1), 8: (8, 1), 12: (12, 1)}.items()
    if rows <= MR
}
"""Shapes (rows, panels) of tiles by their rows: one for each number of rows would be much code,
and FMA's latency makes one row of one panel as slow as four."""

OUTER_TERMS: Final = 4
"""Most terms of :func:`add_outer`: so many rows of B, two registers each, stay in registers."""

WIDE_TILE_ROWS: Final = 2
"""Tiles of at most this many rows have several panels."""


def _alpha_and_mode(context: Any, builder: Any, kind: Any, value: Any, element: Any) -> Any:
    """Fields of an Update: α in the element type, and whether to accumulate."""
    update = unpack_record(context, builder, kind, value)
    return context.cast(builder, update.alpha, types.float64, element), update.accumulate


@intrinsic
def multiply_tiles(
    typingctx: Any, rows: Any, panels: Any, A: Any, B: Any, C: Any, depth: Any, update: Any
) -> tuple[Any, Emit]:
    """C = α·A·B or C += α·A·B for tiles one below the other, with the sums in registers.

    The loop over tiles is here because a tile of few terms takes little longer than the
    computation of its addresses. Full tiles are separate from the last one, whose clamped rows
    need more addresses. Every element is summed in the order of k, from zero: the result does not
    depend on how rows and columns are partitioned.

    Parameters
    ----------
    rows, panels
        At least 1 row; 1 panel, up to 2 for two rows, up to 4 for one row.
    A
        TiledOperand.
    B, C
        Operands; row k of B's panels, and row i of C's, counted through all tiles.
    depth
        Number of terms, at least 1.
    update
        Update.
    """
    signature = types.void(rows, panels, A, B, C, depth, update)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        rows, panels, _, _, _, depth, _ = arguments
        A, B, C = (
            unpack_record(context, builder, signature.args[i], arguments[i]) for i in (2, 3, 4)
        )
        element = signature.args[2][0].dtype
        alpha, accumulate = _alpha_and_mode(
            context, builder, signature.args[6], arguments[6], element
        )
        word = rows.type
        zero, one, height = word(0), word(1), word(MR)
        v = VectorEmitter(context, builder, element)

        def tile(n: Any, lines: list[Any], width: int, indexed: bool) -> None:
            """Emit tile n with these of its rows and ``width`` panels."""
            above = builder.mul(n, height)
            across = clamped_indices(builder, panels, width) if width > 1 else [zero]
            if indexed:
                first = builder.gep(A.row_indices, [builder.add(A.first_row, above)])
                found = [builder.load(builder.gep(first, [line])) for line in lines]
                starts = strided_offsets(builder, A.start, A.row, found)
            else:
                origin = builder.add(A.start, builder.mul(n, A.tile))
                starts = strided_offsets(builder, origin, A.row, lines)
            left = [builder.gep(A.values, [at]) for at in starts]
            right = [
                builder.gep(B.values, [at])
                for at in strided_offsets(builder, B.start, B.panel, across)
            ]
            targets = [
                at
                for line in lines
                for at in strided_offsets(
                    builder,
                    builder.add(C.start, builder.mul(builder.add(above, line), C.row)),
                    C.panel,
                    across,
                )
            ]
            v.prefetch(C.values, targets)
            sums = [v.accumulators(VECTORS) for _ in targets]
            with emit_loop(builder, zero, depth, one, (A.column, B.row)) as (_, at_a, at_b):
                vectors = [[v.load(panel, at) for at in v.panel(at_b)] for panel in right]
                for i, row in enumerate(left):
                    factor = builder.load(builder.gep(row, [at_a]))
                    for p, panel in enumerate(vectors):
                        v.add_product(sums[i * width + p], factor, panel)
            totals = [total for panel in sums for total in panel]
            v.write_sums(totals, C.values, targets, alpha, accumulate)

        whole = builder.sdiv(rows, height)
        rest = builder.sub(rows, builder.mul(whole, height))

        def all_tiles(shapes: dict[int, tuple[int, int]], indexed: bool) -> None:
            def last(limit: int, width: int) -> None:
                tile(whole, clamped_indices(builder, rest, limit), width, indexed)

            with (
                builder.if_then(builder.icmp_signed(">", whole, zero)),
                emit_loop(builder, zero, whole, one) as (n,),
            ):
                tile(n, [word(i) for i in range(MR)], 1, indexed)
            with builder.if_then(builder.icmp_signed(">", rest, zero)):
                cases = {bound: functools.partial(last, *shape) for bound, shape in shapes.items()}
                switch(builder, rest, cases)

        if IN_PLACE:
            with builder.if_else(A.indexed) as (scattered, in_order):
                with scattered:
                    all_tiles({n: (n, 1) for n in TILE_SHAPES if n > WIDE_TILE_ROWS}, indexed=True)
                with in_order:
                    all_tiles(TILE_SHAPES, indexed=False)
        else:
            all_tiles(TILE_SHAPES, indexed=False)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def add_outer(
    typingctx: Any, rows: Any, A: Any, B: Any, C: Any, depth: Any, update: Any
) -> tuple[Any, Emit]:
    """C = α·Aᵀ·B or C += α·Aᵀ·B for one panel and few terms, with all of B in registers.

    A tile loads, sums and stores MR rows of C in separate phases; here several rows are processed
    at once. Sums have the same bits as in tiles.

    Parameters
    ----------
    rows
        Rows of C, at least 1.
    A
        Operand with term k in row k: element (i, k) is ``values[start + i + k * row]``.
    B, C
        Operands; the first panel of each.
    depth
        1 to OUTER_TERMS.
    update
        Update.
    """
    signature = types.void(rows, A, B, C, depth, update)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        rows, _, _, _, depth, _ = arguments
        A, B, C = (
            unpack_record(context, builder, signature.args[i], arguments[i]) for i in (1, 2, 3)
        )
        element = signature.args[1][0].dtype
        alpha, accumulate = _alpha_and_mode(
            context, builder, signature.args[5], arguments[5], element
        )
        word = rows.type
        zero, one = word(0), word(1)
        v = VectorEmitter(context, builder, element)

        def product(terms: int) -> None:
            ks = [word(k) for k in range(terms)]
            columns = [
                builder.gep(A.values, [at]) for at in strided_offsets(builder, A.start, A.row, ks)
            ]
            right = [
                [v.load(B.values, at) for at in v.panel(start)]
                for start in strided_offsets(builder, B.start, B.row, ks)
            ]
            target = builder.gep(C.values, [C.start])
            with emit_loop(builder, zero, rows, one, (word(VECTORS * v.lanes),)) as (i, at):
                sums = v.accumulators(VECTORS)
                for column, vectors in zip(columns, right, strict=True):
                    v.add_product(sums, builder.load(builder.gep(column, [i])), vectors)
                v.write_sums(sums, target, [at], alpha, accumulate)

        cases = {terms: functools.partial(product, terms) for terms in range(1, OUTER_TERMS + 1)}
        switch(builder, depth, cases)
        return context.get_dummy_value()

    return signature, emit
