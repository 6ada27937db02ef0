"""Tiles of products held in vector registers, and the copies that feed them: LLVM by hand.

Beside intrinsics.py, which has what a scalar needs, and lanes.py, whose vectors are values of
compiled code: here a whole tile with its loop over k is one intrinsic, because the accumulators
must stay in registers from the first term to the last (vectors.py). Each docstring gives the
meaning as NumPy would write it; products.py puts the tiles together. No caches, no workers, no
layers here; sparse rows are in sparse_tiles.py.

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

from fusedmlp_numba.host import IN_PLACE, VECTOR_BYTES, VECTORS
from fusedmlp_numba.intrinsics import data_of, intrinsic
from fusedmlp_numba.loops import emitted_loop, switch
from fusedmlp_numba.vectors import Vectors, shuffled, steps

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp_numba.intrinsics import Emit


TILE_ROWS: Final = 12 if VECTOR_BYTES == 64 else 6
"""Rows of accumulators: 12·2 of AVX-512's 32 registers, 6·2 of AVX2's 16; the rest hold operands.
Every row more spares loads of B, which two FMAs a cycle would otherwise wait for."""

TILES: Final = {
    rows: shape
    for rows, shape in {1: (1, 4), 2: (2, 2), 4: (4, 1), 6: (6, 1), 8: (8, 1), 12: (12, 1)}.items()
    if rows <= TILE_ROWS
}
"""Shapes (rows, panels) of tiles by their rows: one for each would be much code, and FMA's latency
makes one row of one panel as slow as four."""

OUTER_TERMS: Final = 4
"""Terms of which a panel's rows of B, two registers each, stay in registers beside all else."""

PART_BYTES: Final = 16
"""Bytes of the parts of a register within which shuffles are cheap: across them, values are put in
their places by loads."""

FEW_ROWS: Final = 2
"""Up to so many rows, a tile has several panels."""


def _clamped(builder: Any, count: Any, most: int) -> list[Any]:
    """0 to most − 1, but from ``count`` on count − 1 again."""
    last = builder.sub(count, count.type(1))
    numbers = [count.type(n) for n in range(most)]
    return [builder.select(builder.icmp_signed("<", n, last), n, last) for n in numbers]


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
        zero, one, height = word(0), word(1), word(TILE_ROWS)
        v = Vectors(context, builder, kinds[2].dtype)

        def tile(n: Any, lines: list[Any], width: int, by_number: bool) -> None:
            """Emit tile n, with these of its rows and so many panels."""
            above = builder.mul(n, height)
            across = _clamped(builder, panels, width) if width > 1 else [zero]
            if by_number:
                first = builder.gep(numbers, [builder.add(number, above)])
                found = [builder.load(builder.gep(first, [line])) for line in lines]
                starts = steps(builder, a, a_row, found)
            else:
                starts = steps(builder, builder.add(a, builder.mul(n, a_tile)), a_row, lines)
            left = [builder.gep(A, [at]) for at in starts]
            right = [builder.gep(B, [at]) for at in steps(builder, b, b_panel, across)]
            targets = [
                at
                for line in lines
                for at in steps(
                    builder,
                    builder.add(c, builder.mul(builder.add(above, line), c_row)),
                    c_panel,
                    across,
                )
            ]
            v.prefetch(C, targets)
            sums = [v.sums(VECTORS) for _ in targets]
            with emitted_loop(builder, zero, depth, one, (a_column, b_row)) as (_, at_a, at_b):
                vectors = [[v.load(panel, at) for at in v.panel(at_b)] for panel in right]
                for i, row in enumerate(left):
                    factor = builder.load(builder.gep(row, [at_a]))
                    for p, panel in enumerate(vectors):
                        v.add_product(sums[i * width + p], factor, panel)
            v.finish([total for panel in sums for total in panel], C, targets, alpha, accumulate)

        whole = builder.sdiv(rows, height)
        rest = builder.sub(rows, builder.mul(whole, height))

        def all_tiles(shapes: dict[int, tuple[int, int]], by_number: bool) -> None:
            def last(most: int, width: int) -> None:
                tile(whole, _clamped(builder, rest, most), width, by_number)

            with (
                builder.if_then(builder.icmp_signed(">", whole, zero)),
                emitted_loop(builder, zero, whole, one) as (n,),
            ):
                tile(n, [word(i) for i in range(TILE_ROWS)], 1, by_number)
            with builder.if_then(builder.icmp_signed(">", rest, zero)):
                cases = {bound: functools.partial(last, *shape) for bound, shape in shapes.items()}
                switch(builder, rest, cases)

        if IN_PLACE:
            with builder.if_else(numbered) as (scattered, in_order):
                with scattered:
                    all_tiles({n: (n, 1) for n in TILES if n > FEW_ROWS}, by_number=True)
                with in_order:
                    all_tiles(TILES, by_number=False)
        else:
            all_tiles(TILES, by_number=False)
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
        v = Vectors(context, builder, kinds[1].dtype)

        def product(terms: int) -> None:
            numbers = [word(k) for k in range(terms)]
            columns = [builder.gep(A, [at]) for at in steps(builder, a, a_column, numbers)]
            right = [
                [v.load(B, at) for at in v.panel(start)]
                for start in steps(builder, b, b_row, numbers)
            ]
            target = builder.gep(C, [c])
            loop = emitted_loop(builder, zero, rows, one, (word(VECTORS * v.lanes),))
            with loop as (i, at):
                sums = v.sums(VECTORS)
                for column, vectors in zip(columns, right, strict=True):
                    v.add_product(sums, builder.load(builder.gep(column, [i])), vectors)
                v.finish(sums, target, [at], alpha, add)

        cases = {terms: functools.partial(product, terms) for terms in range(1, OUTER_TERMS + 1)}
        switch(builder, depth, cases)
        return context.get_dummy_value()

    return signature, emit


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
        with builder.if_else(whole) as (square, edge):
            with square:
                transpose(numbers, numbers, None)
            with edge:
                some = builder.select(builder.icmp_signed(">", rows, w.type(0)), rows, w.type(1))
                transpose(
                    _clamped(builder, some, v.lanes),
                    _clamped(builder, columns, v.lanes),
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
