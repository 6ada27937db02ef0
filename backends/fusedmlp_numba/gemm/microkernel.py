"""Tiles of products held in vector registers: LLVM by hand.

Beside intrinsics.py, which has what a scalar needs, and lanes.py, whose vectors are values of
compiled code: here a whole tile with its loop over k is one intrinsic, because the accumulators
must stay in registers from the first term to the last (vectors.py). Each docstring gives the
meaning as NumPy would write it; products.py puts the tiles together. No caches, no workers, no
layers here; sparse rows are in sparse_tiles.py, the copies that feed tiles in copies.py.

A *panel* is LANES·2 neighbouring columns: two vector registers of the host's width. The weights
are stored panel by panel (see layout.py), so that a tile reads them as one stream. Nothing here
checks bounds, and nothing reads or writes outside the rows, panels and runs that it is told of.

Hazard: a tile of fewer rows or panels than its registers could hold computes the last one again
and writes it twice: all of C is read before any of it is written.
"""

# ruff: noqa: ANN401, ARG001 - see intrinsics.py

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from numba import types

from fusedmlp_numba.compiler.host import IN_PLACE, VECTOR_BYTES, VECTORS
from fusedmlp_numba.simd.control_flow import emit_loop, switch
from fusedmlp_numba.simd.emitter import VectorEmitter, clamped_indices, strided_offsets
from fusedmlp_numba.simd.intrinsics import data_of, intrinsic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp_numba.simd.intrinsics import Emit


MR: Final = 12 if VECTOR_BYTES == 64 else 6
"""Rows of accumulators: 12·2 of AVX-512's 32 registers, 6·2 of AVX2's 16; the rest hold operands.
Every row more spares loads of B, which two FMAs a cycle would otherwise wait for."""

TILE_SHAPES: Final = {
    rows: shape
    for rows, shape in {1: (1, 4), 2: (2, 2), 4: (4, 1), 6: (6, 1), 8: (8, 1), 12: (12, 1)}.items()
    if rows <= MR
}
"""Shapes (rows, panels) of tiles by their rows: one for each would be much code, and FMA's latency
makes one row of one panel as slow as four."""

OUTER_TERMS: Final = 4
"""Terms of which a panel's rows of B, two registers each, stay in registers beside all else."""

WIDE_TILE_ROWS: Final = 2
"""Up to so many rows, a tile has several panels."""


@intrinsic
def multiply_tiles(
    typingctx: Any,
    rows: Any,
    panels: Any,
    A: Any,
    a: Any,
    a_row: Any,
    a_column: Any,
    a_tile: Any,
    numbers: Any,
    number: Any,
    numbered: Any,
    B: Any,
    b: Any,
    b_row: Any,
    b_panel: Any,
    C: Any,
    c: Any,
    c_row: Any,
    c_panel: Any,
    depth: Any,
    alpha: Any,
    accumulate: Any,
) -> tuple[Any, Emit]:
    """Tiles of a product, one below the other, C = α·A·B or C += α·A·B, sums held in registers.

    They are looped over here because a tile of short sums takes little longer than its addresses,
    and whole ones are apart from the last because clamped rows make more of these.
    Every element is summed in the order of k, from zero: the result does not depend on how rows
    and columns were cut.

    Parameters
    ----------
    rows, panels
        At least 1 row; 1 panel, or for one row up to 4, for two up to 2.
    A, a, a_row, a_column, a_tile
        Flat array; element (i, k) of tile n is ``A[a + n * a_tile + i * a_row + k * a_column]``.
    numbers, number, numbered
        Flat array; where ``numbered``, which needs IN_PLACE, row i of A, through all tiles, is in
        truth its row ``numbers[number + i]``, and a_tile is 0.
    B, b, b_row, b_panel
        Flat array; row k of panel p is at ``B[b + k * b_row + p * b_panel]``.
    C, c, c_row, c_panel
        Flat array; row i of panel p is at ``C[c + i * c_row + p * c_panel]``.
    depth
        Length of the sums, at least 1.
    """
    signature = types.void(
        rows, panels, A, a, a_row, a_column, a_tile, numbers, number, numbered, B, b, b_row,
        b_panel, C, c, c_row, c_panel, depth, alpha, accumulate,
    )  # fmt: skip

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        (rows, panels, A, a, a_row, a_column, a_tile, numbers, number, numbered, B, b, b_row,
         b_panel, C, c, c_row, c_panel, depth, alpha, accumulate) = arguments  # fmt: skip
        kinds = signature.args
        A, numbers, B, C = (
            data_of(context, builder, kinds[i], value)
            for i, value in ((2, A), (7, numbers), (10, B), (14, C))
        )
        word = rows.type
        zero, one, height = word(0), word(1), word(MR)
        v = VectorEmitter(context, builder, kinds[2].dtype)

        def tile(n: Any, lines: list[Any], width: int, by_number: bool) -> None:
            """Emit tile n, with these of its rows and so many panels."""
            above = builder.mul(n, height)
            across = clamped_indices(builder, panels, width) if width > 1 else [zero]
            if by_number:
                first = builder.gep(numbers, [builder.add(number, above)])
                found = [builder.load(builder.gep(first, [line])) for line in lines]
                starts = strided_offsets(builder, a, a_row, found)
            else:
                starts = strided_offsets(
                    builder, builder.add(a, builder.mul(n, a_tile)), a_row, lines
                )
            left = [builder.gep(A, [at]) for at in starts]
            right = [builder.gep(B, [at]) for at in strided_offsets(builder, b, b_panel, across)]
            targets = [
                at
                for line in lines
                for at in strided_offsets(
                    builder,
                    builder.add(c, builder.mul(builder.add(above, line), c_row)),
                    c_panel,
                    across,
                )
            ]
            v.prefetch(C, targets)
            sums = [v.sums(VECTORS) for _ in targets]
            with emit_loop(builder, zero, depth, one, (a_column, b_row)) as (_, at_a, at_b):
                vectors = [[v.load(panel, at) for at in v.panel(at_b)] for panel in right]
                for i, row in enumerate(left):
                    factor = builder.load(builder.gep(row, [at_a]))
                    for p, panel in enumerate(vectors):
                        v.add_product(sums[i * width + p], factor, panel)
            v.write_sums(
                [total for panel in sums for total in panel], C, targets, alpha, accumulate
            )

        whole = builder.sdiv(rows, height)
        rest = builder.sub(rows, builder.mul(whole, height))

        def all_tiles(shapes: dict[int, tuple[int, int]], by_number: bool) -> None:
            def last(most: int, width: int) -> None:
                tile(whole, clamped_indices(builder, rest, most), width, by_number)

            with (
                builder.if_then(builder.icmp_signed(">", whole, zero)),
                emit_loop(builder, zero, whole, one) as (n,),
            ):
                tile(n, [word(i) for i in range(MR)], 1, by_number)
            with builder.if_then(builder.icmp_signed(">", rest, zero)):
                cases = {bound: functools.partial(last, *shape) for bound, shape in shapes.items()}
                switch(builder, rest, cases)

        if IN_PLACE:
            with builder.if_else(numbered) as (scattered, in_order):
                with scattered:
                    all_tiles(
                        {n: (n, 1) for n in TILE_SHAPES if n > WIDE_TILE_ROWS}, by_number=True
                    )
                with in_order:
                    all_tiles(TILE_SHAPES, by_number=False)
        else:
            all_tiles(TILE_SHAPES, by_number=False)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def add_outer(
    typingctx: Any,
    rows: Any,
    A: Any,
    a: Any,
    a_column: Any,
    B: Any,
    b: Any,
    b_row: Any,
    C: Any,
    c: Any,
    depth: Any,
    alpha: Any,
    accumulate: Any,
) -> tuple[Any, Emit]:
    """One panel of a product of few terms, C = α·A·B or C += α·A·B, with all of B in registers.

    A tile loads, sums and stores six rows of C, one phase after the other; here the processor is at
    several rows at once. Sums have the same bits as in tiles.

    Parameters
    ----------
    rows
        At least 1.
    A, a, a_column
        Flat array; element (i, k) is ``A[a + i + k * a_column]``.
    B, b, b_row
        Flat array; row k is at ``B[b + k * b_row]``.
    C, c
        Flat array; row i is at ``C[c + i * columns]``, columns a panel's.
    depth
        1 to OUTER_TERMS.
    """
    signature = types.void(
        rows, A, a, a_column, B, b, b_row, C, c, depth, alpha, accumulate
    )  # fmt: skip

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        rows, A, a, a_column, B, b, b_row, C, c, depth, alpha, add = arguments
        kinds = signature.args
        A, B, C = (
            data_of(context, builder, kinds[i], value) for i, value in ((1, A), (4, B), (7, C))
        )
        word = rows.type
        zero, one = word(0), word(1)
        v = VectorEmitter(context, builder, kinds[1].dtype)

        def product(terms: int) -> None:
            numbers = [word(k) for k in range(terms)]
            columns = [
                builder.gep(A, [at]) for at in strided_offsets(builder, a, a_column, numbers)
            ]
            right = [
                [v.load(B, at) for at in v.panel(start)]
                for start in strided_offsets(builder, b, b_row, numbers)
            ]
            target = builder.gep(C, [c])
            loop = emit_loop(builder, zero, rows, one, (word(VECTORS * v.lanes),))
            with loop as (i, at):
                sums = v.sums(VECTORS)
                for column, vectors in zip(columns, right, strict=True):
                    v.add_product(sums, builder.load(builder.gep(column, [i])), vectors)
                v.write_sums(sums, target, [at], alpha, add)

        cases = {terms: functools.partial(product, terms) for terms in range(1, OUTER_TERMS + 1)}
        switch(builder, depth, cases)
        return context.get_dummy_value()

    return signature, emit
