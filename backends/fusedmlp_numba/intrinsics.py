"""What Numba cannot say in Python: vector registers, fused multiply-add, atomics. LLVM by hand.

The only file that needs knowledge of LLVM. Each intrinsic's docstring gives its meaning as NumPy
would write it; kernels.py uses them as plain functions. No network, no layer, no loop over tiles
is here.

A *panel* is LANES·2 neighbouring columns: two vector registers of the host's width. The weights
are stored panel by panel (see layout.py), so that a tile reads them as one stream. Nothing here
checks bounds, and nothing reads or writes outside the rows and panels that it is told to.

Hazards: ``fmuladd`` fuses only where the host has FMA, so results differ between hosts, never
between two runs or two splits of the work on one host. Numba caches what calls an intrinsic
without looking at the intrinsic's body: caching.py hashes this file for that reason.
"""

# ruff: noqa: ANN401, ARG001 - values of LLVM's builder and Numba's types have no static types, and
# an intrinsic's own parameters are types: the values come to the function that it returns.

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final, cast

from llvmlite import ir
from numba import config as untyped_config
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.core import codegen as untyped_codegen
from numba.extending import intrinsic as untyped_intrinsic
from numba.np import arrayobj as untyped_arrayobj

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Emit = Callable[[Any, Any, Any, Sequence[Any]], Any]
    """Numba's code generator: (context, builder, signature, arguments) → value."""

cgutils: Any = untyped_cgutils
codegen: Any = untyped_codegen
arrayobj: Any = untyped_arrayobj
config: Any = untyped_config

_FEATURES: Final = frozenset(
    str(config.CPU_FEATURES or codegen.get_host_cpu_features()).split(",")
    if config.CPU_NAME != "generic"
    else ()
)
"""What Numba will compile for: the host, or what the user's NUMBA_CPU_* variables say."""

VECTOR_BYTES: Final = (
    64 if "+avx512f" in _FEATURES else 32 if {"+avx2", "+fma"} <= _FEATURES else 16
)
"""Bytes of a vector register: AVX-512, AVX2, and SSE2 or NEON."""

VECTORS: Final = 2
"""Vector registers side by side in a panel."""

TILE_ROWS: Final = 8 if VECTOR_BYTES == 64 else 6
"""Rows of accumulators: 8·2 of AVX-512's 32 registers, 6·2 of AVX2's 16; the rest hold operands."""

GATHER_PANELS: Final = 4
"""Panels that a sparse row sums at once: eight independent chains hide the latency of FMA."""


def intrinsic(emitter: Callable[..., tuple[Any, Emit]]) -> Callable[..., Any]:
    """Register an intrinsic: for its callers a function of values, without ``typingctx``."""
    return cast("Callable[..., Any]", untyped_intrinsic(emitter))


def panel_columns(itemsize: int) -> int:
    """Columns of a panel for a floating type of ``itemsize`` bytes."""
    return VECTORS * VECTOR_BYTES // itemsize


class _Vectors:
    """Loads, stores and arithmetic on vectors of one floating type, in one builder."""

    def __init__(self, context: Any, builder: Any, element: Any) -> None:
        self.builder = builder
        self.itemsize: int = element.bitwidth // 8
        self.lanes = VECTOR_BYTES // self.itemsize
        self.scalar = context.get_value_type(element)
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)
        self._fmuladd = cgutils.get_or_insert_function(
            builder.module,
            ir.FunctionType(self.vector, [self.vector] * 3),
            f"llvm.fmuladd.v{self.lanes}f{element.bitwidth}",
        )

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
        return self.builder.call(self._fmuladd, [x, y, z])

    def variable(self, start: Any) -> Any:
        """Make a vector that a loop changes; LLVM keeps it in a register."""
        place = cgutils.alloca_once(self.builder, self.vector)
        self.builder.store(start, place)
        return place

    def add_product(self, sums: list[Any], factor: Any, vectors: list[Any]) -> None:
        """Add factor·vector to each sum."""
        many = self.splat(factor)
        for place, vector in zip(sums, vectors, strict=True):
            self.builder.store(self.fma(many, vector, self.builder.load(place)), place)

    def panel(self, offset: Any) -> list[Any]:
        """Offsets of a panel row's registers."""
        word = offset.type
        return [self.builder.add(offset, word(v * self.lanes)) for v in range(VECTORS)]

    def _pointer(self, base: Any, offset: Any) -> Any:
        pointer = self.builder.gep(base, [offset])
        return self.builder.bitcast(pointer, self.vector.as_pointer())


def _data(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    return context.make_array(kind)(context, builder, value).data


def _switch(builder: Any, count: Any, highest: int, emit: Callable[[int], None]) -> None:
    """Emit one specialised block for each value 1..highest of ``count``, and jump to it."""
    done = builder.append_basic_block("done")
    switch = builder.switch(count, done)
    for number in range(1, highest + 1):
        block = builder.append_basic_block(f"case{number}")
        switch.add_case(count.type(number), block)
        builder.position_at_end(block)
        emit(number)
        builder.branch(done)
    builder.position_at_end(done)


@intrinsic
def multiply_tile(
    typingctx: Any,
    rows: Any,
    A: Any,
    a: Any,
    a_row: Any,
    a_column: Any,
    B: Any,
    b: Any,
    b_row: Any,
    C: Any,
    c: Any,
    c_row: Any,
    depth: Any,
    accumulate: Any,
) -> tuple[Any, Emit]:
    """One tile of a product, C = A·B or C += A·B: ``rows`` × one panel, held in registers.

    Every element is summed in the order of k, from C's value where ``accumulate``: the result
    does not depend on how rows, columns or depth were cut.

    Parameters
    ----------
    rows
        1 to TILE_ROWS.
    A, a, a_row, a_column
        Flat array; element (i, k) is ``A[a + i * a_row + k * a_column]``.
    B, b, b_row
        Flat array; row k is the panel at ``B[b + k * b_row]``.
    C, c, c_row
        Flat array; row i is the panel at ``C[c + i * c_row]``.
    depth
        Length of the sums, at least 1.
    """
    signature = types.void(rows, A, a, a_row, a_column, B, b, b_row, C, c, c_row, depth, accumulate)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        count, A, a, a_row, a_column, B, b, b_row, C, c, c_row, depth, accumulate = arguments
        kinds = signature.args
        A, B, C = (
            _data(context, builder, kinds[i], value) for i, value in ((1, A), (5, B), (8, C))
        )
        v = _Vectors(context, builder, kinds[1].dtype)
        word = depth.type

        def one(rows: int) -> None:
            left = [
                builder.gep(A, [builder.add(a, builder.mul(word(i), a_row))]) for i in range(rows)
            ]
            targets = [v.panel(builder.add(c, builder.mul(word(i), c_row))) for i in range(rows)]
            starts = [
                [builder.select(accumulate, v.load(C, at), v.zero) for at in target]
                for target in targets
            ]
            sums = [[v.variable(start) for start in row] for row in starts]
            with cgutils.for_range(builder, depth) as loop:
                k = loop.index
                right = [v.load(B, at) for at in v.panel(builder.add(b, builder.mul(k, b_row)))]
                at_a = builder.mul(k, a_column)
                for i in range(rows):
                    v.add_product(sums[i], builder.load(builder.gep(left[i], [at_a])), right)
            for target, row in zip(targets, sums, strict=True):
                for at, value in zip(target, row, strict=True):
                    v.store(builder.load(value), C, at)

        _switch(builder, count, TILE_ROWS, one)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def gather_tile(
    typingctx: Any,
    panels: Any,
    values: Any,
    indices: Any,
    start: Any,
    stop: Any,
    B: Any,
    b: Any,
    b_row: Any,
    b_panel: Any,
    C: Any,
    c: Any,
    c_panel: Any,
    alpha: Any,
    accumulate: Any,
) -> tuple[Any, Emit]:
    """One sparse row times a matrix: C = α·Σₙ values[n]·B[indices[n]], or C += that.

    Parameters
    ----------
    panels
        1 to GATHER_PANELS neighbouring panels, summed at once.
    values, indices, start, stop
        Flat arrays and the range of n.
    B, b, b_row, b_panel
        Flat array; row r of panel p is at ``B[b + r * b_row + p * b_panel]``.
    C, c, c_panel
        Flat array; panel p of the result is at ``C[c + p * c_panel]``.
    """
    signature = types.void(
        panels, values, indices, start, stop, B, b, b_row, b_panel, C, c, c_panel, alpha, accumulate
    )

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        count, values, indices, start, stop, B, b, b_row, b_panel, C, c, c_panel, alpha, add = (
            arguments
        )
        kinds = signature.args
        values, indices, B, C = (
            _data(context, builder, kinds[i], value)
            for i, value in ((1, values), (2, indices), (5, B), (9, C))
        )
        v = _Vectors(context, builder, kinds[1].dtype)
        word = start.type

        def one(panels: int) -> None:
            sums = [[v.variable(v.zero) for _ in range(VECTORS)] for _ in range(panels)]
            with cgutils.for_range_slice(builder, start, stop, word(1), word) as (n, _):
                factor = builder.load(builder.gep(values, [n]))
                index = builder.zext(builder.load(builder.gep(indices, [n])), word)
                row = builder.add(b, builder.mul(index, b_row))
                for p in range(panels):
                    offsets = v.panel(builder.add(row, builder.mul(word(p), b_panel)))
                    v.add_product(sums[p], factor, [v.load(B, at) for at in offsets])
            scale = v.splat(alpha)
            for p in range(panels):
                target = v.panel(builder.add(c, builder.mul(word(p), c_panel)))
                for at, total in zip(target, sums[p], strict=True):
                    old = builder.select(add, v.load(C, at), v.zero)
                    v.store(v.fma(scale, builder.load(total), old), C, at)

        _switch(builder, count, GATHER_PANELS, one)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def matrix(
    typingctx: Any, flat: Any, start: Any, first: Any, last: Any, width: Any
) -> tuple[Any, Emit]:
    """Rows first to last of the (B, width) matrix that begins at ``start`` of a flat array.

    A view without a reference to its array, as kernels keep none: see OPTIONS in caching.py.
    """
    view = types.Array(flat.dtype, 2, "C")

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        flat, start, first, last, width = arguments
        at = builder.add(start, builder.mul(first, width))
        pointer = builder.gep(_data(context, builder, signature.args[0], flat), [at])
        element = context.get_data_type(signature.args[0].dtype)
        itemsize = context.get_constant(types.intp, context.get_abi_sizeof(element))
        array = context.make_array(view)(context, builder)
        arrayobj.populate_array(
            array,
            data=pointer,
            shape=[builder.sub(last, first), width],
            strides=[builder.mul(width, itemsize), itemsize],
            itemsize=itemsize,
            meminfo=None,
        )
        return array._getvalue()  # noqa: SLF001 - as Numba's own code generators do

    word = types.intp
    return view(flat, word, word, word, word), emit


@intrinsic
def fma(typingctx: Any, x: Any, y: Any, z: Any) -> tuple[Any, Emit]:
    """x·y + z in the operands' one floating type, rounded once where the host can."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        kind = context.get_value_type(signature.args[0])
        function = ir.FunctionType(kind, [kind] * 3)
        bits = signature.args[0].bitwidth
        return builder.call(
            cgutils.get_or_insert_function(builder.module, function, f"llvm.fmuladd.f{bits}"),
            arguments,
        )

    return x(x, y, z), emit


@intrinsic
def like(typingctx: Any, value: Any, x: Any) -> tuple[Any, Emit]:
    """``value`` in the floating type of x, a number or an array; a float64 would widen the rest."""
    kind = x.dtype if isinstance(x, types.Array) else x

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return context.cast(builder, arguments[0], signature.args[0], kind)

    return kind(value, x), emit


@intrinsic
def is_double(typingctx: Any, x: Any) -> tuple[Any, Emit]:
    """Whether x is float64: a constant of the compiled code."""
    answer = x == types.float64

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        del builder, arguments
        return context.get_constant(signature.return_type, answer)

    return types.boolean(x), emit


@intrinsic
def nearest(typingctx: Any, x: Any) -> tuple[Any, Emit]:
    """Round x to the nearest whole number, as a float of x's type (``np.rint``)."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        kind = context.get_value_type(signature.args[0])
        return builder.call(builder.module.declare_intrinsic("llvm.rint", [kind]), arguments)

    return x(x), emit


@intrinsic
def power_of_two(typingctx: Any, n: Any) -> tuple[Any, Emit]:
    """2ⁿ for a whole n in the range of normal numbers, by writing n into the exponent bits.

    A NaN counts as 0, because LLVM leaves its conversion to an integer undefined. Integer
    arithmetic in Python would not do: Numba widens it to 64 bits, and the loop stays scalar.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        kind = context.get_value_type(signature.args[0])
        bits, mantissa, bias = (
            (32, 23, 127) if signature.args[0] == types.float32 else (64, 52, 1023)
        )
        word = ir.IntType(bits)
        (n,) = arguments
        n = builder.select(builder.fcmp_ordered("ord", n, n), n, kind(0.0))
        exponent = builder.add(builder.fptosi(n, word), word(bias))
        return builder.bitcast(builder.shl(exponent, word(mantissa)), kind)

    return n(n), emit


@intrinsic
def atomic_add(typingctx: Any, array: Any, index: Any, value: Any) -> tuple[Any, Emit]:
    """Add to an element of an int64 array, seen whole by every thread; return its old value."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, index, value = arguments
        pointer = builder.gep(_data(context, builder, signature.args[0], array), [index])
        return builder.atomic_rmw("add", pointer, value, "seq_cst")

    return types.int64(array, types.intp, types.int64), emit


@intrinsic
def atomic_load(typingctx: Any, array: Any, index: Any) -> tuple[Any, Emit]:
    """Read an element of an int64 array that other threads write."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, index = arguments
        pointer = builder.gep(_data(context, builder, signature.args[0], array), [index])
        return builder.load_atomic(pointer, "seq_cst", 8)

    return types.int64(array, types.intp), emit


@intrinsic
def yield_processor(typingctx: Any) -> tuple[Any, Emit]:
    """Let another thread of the system run: what a spinning thread does on a full machine."""
    name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        del signature, arguments
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
        return context.get_dummy_value()

    return types.void(), emit
