"""Tiles of products held in vector registers, and the copies that feed them: LLVM by hand.

Beside intrinsics.py, which has what a scalar needs, and lanes.py, whose vectors are values of
compiled code: here a whole tile with its loop over k is one intrinsic, because the accumulators
must stay in registers from the first term to the last. Each docstring gives the meaning as NumPy
would write it; products.py puts the tiles together. No caches, no workers, no layers here.

A *panel* is LANES·2 neighbouring columns: two vector registers of the host's width. The weights
are stored panel by panel (see layout.py), so that a tile reads them as one stream. Nothing here
checks bounds, and nothing reads or writes outside the rows, panels and runs that it is told of.

Hazards: ``fmuladd`` fuses only where the host has FMA, so results differ between hosts, never
between two runs or two splits of the work on one host. A tile of fewer rows or panels than its
registers could hold computes the last one again and writes it twice: all of C is read before
any of it is written.
"""

# ruff: noqa: ANN401, ARG001 - see intrinsics.py

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped_cgutils

from fusedmlp_numba.host import CACHE_LINE, VECTOR_BYTES, VECTORS
from fusedmlp_numba.intrinsics import data_of, intrinsic
from fusedmlp_numba.loops import emitted_ahead, emitted_bits, emitted_loop, prefetch_line, switch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from fusedmlp_numba.intrinsics import Emit

cgutils: Any = untyped_cgutils

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

GATHER_PANELS: Final = 4
"""Panels that a sparse row sums at once: eight independent chains hide the latency of FMA."""


class _Vectors:
    """Loads, stores and arithmetic on vectors of one floating type, in one builder."""

    def __init__(self, context: Any, builder: Any, element: Any, lanes: int | None = None) -> None:
        self.builder = builder
        self.itemsize: int = element.bitwidth // 8
        self.lanes = lanes or VECTOR_BYTES // self.itemsize
        self.vector = ir.VectorType(context.get_value_type(element), self.lanes)
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    def load(self, base: Any, offset: Any) -> Any:
        return self.builder.load(self._pointer(base, offset), align=self.itemsize)

    def store(self, value: Any, base: Any, offset: Any) -> None:
        self.builder.store(value, self._pointer(base, offset), align=self.itemsize)

    def splat(self, value: Any) -> Any:
        lane = ir.IntType(32)
        first = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), value, lane(0))
        mask = ir.Constant(ir.VectorType(lane, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, first, mask)

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        name = f"llvm.fmuladd.v{self.lanes}f{8 * self.itemsize}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [x, y, z])

    def sums(self, count: int) -> list[Any]:
        """Make accumulators, zero at the start; LLVM keeps them in registers."""
        places = [cgutils.alloca_once(self.builder, self.vector) for _ in range(count)]
        for place in places:
            self.builder.store(self.zero, place)
        return places

    def add_product(self, sums: list[Any], factor: Any, vectors: list[Any]) -> None:
        """Add factor·vector to each sum."""
        many = self.splat(factor)
        for place, vector in zip(sums, vectors, strict=True):
            self.builder.store(self.fma(many, vector, self.builder.load(place)), place)

    def panel(self, offset: Any) -> list[Any]:
        """Offsets of a panel row's registers."""
        word = offset.type
        return [self.builder.add(offset, word(v * self.lanes)) for v in range(VECTORS)]

    def prefetch(self, base: Any, offsets: list[Any]) -> None:
        """Begin to load the panels' rows at these offsets, to be written."""
        for at in offsets:
            for line in range(0, VECTORS * VECTOR_BYTES, CACHE_LINE):
                offset = self.builder.add(at, at.type(line // self.itemsize))
                prefetch_line(self.builder, self.builder.gep(base, [offset]), write=True)

    def finish(
        self, sums: list[Any], C: Any, offsets: list[Any], alpha: Any, accumulate: Any
    ) -> None:
        """C = α·sums or C += α·sums, the panels' rows at their offsets; C is read only for +=."""
        scale = self.splat(alpha)
        places = [at for offset in offsets for at in self.panel(offset)]
        totals = [self.builder.load(place) for place in sums]
        with self.builder.if_else(accumulate) as (add, replace):
            with add:
                values = [
                    self.fma(scale, total, self.load(C, at))
                    for total, at in zip(totals, places, strict=True)
                ]
                for value, at in zip(values, places, strict=True):
                    self.store(value, C, at)
            with replace:
                for total, at in zip(totals, places, strict=True):
                    self.store(self.builder.fmul(scale, total), C, at)

    def _pointer(self, base: Any, offset: Any) -> Any:
        pointer = self.builder.gep(base, [offset])
        return self.builder.bitcast(pointer, self.vector.as_pointer())


def _clamped(builder: Any, count: Any, most: int) -> list[Any]:
    """0 to most − 1, but from ``count`` on count − 1 again."""
    last = builder.sub(count, count.type(1))
    numbers = [count.type(n) for n in range(most)]
    return [builder.select(builder.icmp_signed("<", n, last), n, last) for n in numbers]


def _steps(builder: Any, start: Any, step: Any, numbers: Iterable[Any]) -> list[Any]:
    return [builder.add(start, builder.mul(n, step)) for n in numbers]


def _panel_cases(builder: Any, count: Any, tile: Callable[[int], None]) -> None:
    """Emit ``tile`` for 1 to GATHER_PANELS panels; run that for ``count``."""
    numbers = range(1, GATHER_PANELS + 1)
    switch(builder, count, {panels: functools.partial(tile, panels) for panels in numbers})


@intrinsic
def multiply_tile(
    typingctx: Any,
    rows: Any,
    panels: Any,
    A: Any,
    a: Any,
    a_row: Any,
    a_column: Any,
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
    """One tile of a product, C = α·A·B or C += α·A·B, its sums held in registers.

    Every element is summed in the order of k, from zero: the result does not depend on how rows
    and columns were cut.

    Parameters
    ----------
    rows, panels
        1 to TILE_ROWS rows; 1 panel, or for one row up to 4, for two up to 2.
    A, a, a_row, a_column
        Flat array; element (i, k) is ``A[a + i * a_row + k * a_column]``.
    B, b, b_row, b_panel
        Flat array; row k of panel p is at ``B[b + k * b_row + p * b_panel]``.
    C, c, c_row, c_panel
        Flat array; row i of panel p is at ``C[c + i * c_row + p * c_panel]``.
    depth
        Length of the sums, at least 1.
    """
    signature = types.void(
        rows, panels, A, a, a_row, a_column, B, b, b_row, b_panel, C, c, c_row, c_panel, depth,
        alpha, accumulate,
    )  # fmt: skip

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        (rows, panels, A, a, a_row, a_column, B, b, b_row, b_panel, C, c, c_row, c_panel, depth,
         alpha, accumulate) = arguments  # fmt: skip
        kinds = signature.args
        A, B, C = (
            data_of(context, builder, kinds[i], value) for i, value in ((2, A), (6, B), (10, C))
        )
        v = _Vectors(context, builder, kinds[2].dtype)

        def tile(height: int, width: int) -> None:
            lines, across = _clamped(builder, rows, height), _clamped(builder, panels, width)
            left = [builder.gep(A, [at]) for at in _steps(builder, a, a_row, lines)]
            right = [builder.gep(B, [at]) for at in _steps(builder, b, b_panel, across)]
            targets = [
                at
                for start in _steps(builder, c, c_row, lines)
                for at in _steps(builder, start, c_panel, across)
            ]
            v.prefetch(C, targets)
            sums = [v.sums(VECTORS) for _ in targets]
            zero, one = depth.type(0), depth.type(1)
            with emitted_loop(builder, zero, depth, one, (a_column, b_row)) as (_, at_a, at_b):
                vectors = [[v.load(panel, at) for at in v.panel(at_b)] for panel in right]
                for i, row in enumerate(left):
                    factor = builder.load(builder.gep(row, [at_a]))
                    for p, panel in enumerate(vectors):
                        v.add_product(sums[i * width + p], factor, panel)
            v.finish([total for panel in sums for total in panel], C, targets, alpha, accumulate)

        switch(
            builder,
            rows,
            {bound: functools.partial(tile, *shape) for bound, shape in TILES.items()},
        )
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def gather_tiles(
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
        v = _Vectors(context, builder, kinds[2].dtype)
        columns = VECTORS * v.lanes

        def tile(panels: int) -> None:
            numbers = [word(p) for p in range(panels)]
            right = [builder.gep(B, [start]) for start in _steps(builder, b, b_panel, numbers)]
            places = [word(n * v.lanes) for n in range(VECTORS * panels)]
            first_bound, first_row = builder.gep(bounds, [at]), builder.gep(C, [c])
            loop = emitted_loop(builder, zero, rows, one, (bounds_row, c_row))
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
                    emitted_ahead(builder, indices, start, stop) as (n, index),
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
        v = _Vectors(context, builder, kinds[4].dtype)
        columns = VECTORS * v.lanes

        def tile(panels: int) -> None:
            left, nexts = builder.gep(B, [b]), builder.gep(places, [place])
            targets = _steps(builder, c, c_panel, [word(p) for p in range(panels)])
            columns_at = [word(n * v.lanes) for n in range(VECTORS * panels)]
            with emitted_loop(builder, first, last, word(1)) as (d,):
                mask = builder.load(builder.gep(masks, [d]))
                some = builder.icmp_unsigned("!=", mask, mask.type(0))
                with builder.if_then(builder.or_(some, builder.not_(add))):
                    sums = v.sums(len(columns_at))
                    with builder.if_then(some), emitted_bits(builder, mask) as i:
                        next_place = builder.gep(nexts, [i])
                        n = builder.load(next_place)
                        builder.store(builder.add(n, word(1)), next_place)
                        row = builder.gep(left, [builder.mul(i, b_row)])
                        vectors = [v.load(row, at) for at in columns_at]
                        v.add_product(sums, builder.load(builder.gep(value, [n])), vectors)
                    at = builder.mul(d, word(columns))
                    v.finish(sums, C, [builder.add(start, at) for start in targets], alpha, add)

        _panel_cases(builder, count, tile)
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
        v = _Vectors(context, builder, signature.args[0].dtype, lanes)
        steps = [at.type(n * v.lanes) for n in range(vectors)]
        values = [v.load(source, builder.add(start, step)) for step in steps]
        for value, step in zip(values, steps, strict=True):
            v.store(value, target, builder.add(at, step))
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
    typingctx: Any,
    W: Any,
    w: Any,
    w_row: Any,
    rows: Any,
    out: Any,
    t: Any,
    t_row: Any,
    columns: Any,
) -> tuple[Any, Emit]:
    """out[t + j * t_row + i] = W[w + i * w_row + j] for a square of one register's lanes a side.

    Where ``rows`` or ``columns``, at least 1, are fewer than the lanes: only so many rows of W are
    read, the lanes of out beyond them become zero; and only so many rows of out are written.
    """
    word = types.intp
    signature = types.void(W, word, word, word, out, word, word, word)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        W, w, w_row, rows, out, t, t_row, columns = arguments
        W = data_of(context, builder, signature.args[0], W)
        out = data_of(context, builder, signature.args[4], out)
        v = _Vectors(context, builder, signature.args[0].dtype)
        square = []
        for i, at in enumerate(_steps(builder, w, w_row, _clamped(builder, rows, v.lanes))):
            inside = builder.icmp_signed("<", rows.type(i), rows)
            square.append(builder.select(inside, v.load(W, at), v.zero))
        # Exchange the off-diagonal quarters of ever larger squares of lanes.
        side = 1
        while side < v.lanes:
            masks = [
                ir.Constant(
                    ir.VectorType(ir.IntType(32), v.lanes),
                    [
                        lane - side + (0 if half == 0 else side) + v.lanes
                        if lane & side
                        else lane + (0 if half == 0 else side)
                        for lane in range(v.lanes)
                    ],
                )
                for half in range(2)
            ]
            for i in range(v.lanes):
                if not i & side:
                    pair = square[i], square[i + side]
                    square[i], square[i + side] = (
                        builder.shuffle_vector(*pair, mask) for mask in masks
                    )
            side *= 2
        # From the last row to the first: a row that is not wanted is overwritten by the last one.
        targets = _steps(builder, t, t_row, _clamped(builder, columns, v.lanes))
        for value, at in reversed(list(zip(square, targets, strict=True))):
            v.store(value, out, at)
        return context.get_dummy_value()

    return signature, emit
