"""Vectors of numbers as values of compiled code: load, compute with operators, store.

A loop over plain numbers becomes vectors only if LLVM manages, and then with a scalar remainder and
tests for overlapping arrays around every short loop. Here a vector is a Numba type of its own:
``load(z, at) + load(b, j)`` is one instruction, no element is ever computed another way, and there
is little code to compile. A vector of an array's elements is one row of a panel (see
intrinsics.py): several registers, because a chain of dependent instructions alone would leave the
processor waiting. Converted to another type it keeps its number of lanes, as its elements are
usually called.

The formulas are in elementary.py and in the files of kernels. Nothing here checks bounds.
"""

# ruff: noqa: ANN401, ARG001 - see intrinsics.py

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.extending import lower_builtin as untyped_lower_builtin
from numba.extending import lower_cast as untyped_lower_cast
from numba.extending import models as untyped_models
from numba.extending import register_model as untyped_register_model
from numba.extending import type_callable as untyped_type_callable

from fusedmlp_numba.compiler.host import VECTOR_BYTES, panel_columns
from fusedmlp_numba.compiler.jit import kernel
from fusedmlp_numba.simd.intrinsics import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedmlp_numba.simd.intrinsics import Emit

cgutils: Any = untyped_cgutils
models: Any = untyped_models
lower_builtin: Any = untyped_lower_builtin
lower_cast: Any = untyped_lower_cast
register_model: Any = untyped_register_model
type_callable: Any = untyped_type_callable

Vector: TypeAlias = Any
"""A vector in a kernel's signature; for ``choose``, also one of truth values."""


Function = TypeVar("Function", bound="Callable[..., Any]")


def inline_kernel(function: Function) -> Function:
    """Compile a kernel as a part of each caller: for what takes vectors or returns them.

    A call would pass them through memory, which takes longer than most such kernels.
    """
    return kernel(function, inline=True)


class VectorType(types.Type):
    """Numba's type of a vector: ``count`` lanes of ``dtype``, a number's or truth value's type."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype = dtype
        self.count = count
        super().__init__(f"Lanes({dtype}, {count})")


@register_model(VectorType)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        lane = (
            ir.IntType(1)
            if kind.dtype == types.boolean
            else manager.lookup(kind.dtype).get_value_type()
        )
        super().__init__(manager, kind, ir.VectorType(lane, kind.count))


def vector_lanes(itemsize: int) -> int:
    """Floating elements of ``itemsize`` bytes in one vector."""
    return panel_columns(itemsize)


def _vector_type(array: Any) -> VectorType:
    return VectorType(array.dtype, vector_lanes(array.dtype.bitwidth // 8))


def _splat(builder: Any, value: Any, count: int) -> Any:
    lane = ir.IntType(32)
    empty = ir.Constant(ir.VectorType(value.type, count), ir.Undefined)
    first = builder.insert_element(empty, value, lane(0))
    return builder.shuffle_vector(
        first, first, ir.Constant(ir.VectorType(lane, count), [0] * count)
    )


def _cast(context: Any, builder: Any, number: Any, kind: Any, value: Any) -> Any:
    """Give a number to every lane; so ``like(1.0, v)`` of intrinsics.py makes a vector."""
    return _splat(builder, context.cast(builder, value, number, kind.dtype), kind.count)


lower_cast(types.Number, VectorType)(_cast)

# Operators on two vectors, or on a vector and a number, which then takes the vector's type.


def _joined(x: Any, y: Any) -> VectorType | None:
    """Return the type of the vector among two operands; None if there is none, or two kinds."""
    vectors = [kind for kind in (x, y) if isinstance(kind, VectorType)]
    others = [kind for kind in (x, y) if not isinstance(kind, VectorType)]
    fits = all(isinstance(kind, types.Number) for kind in others) and len(set(vectors)) == 1
    return vectors[0] if fits else None


def _define(
    function: object, emit: Callable[[Any, bool, Any, Any], Any], *, truth: bool = False
) -> None:
    """Define a binary operator of Python for vectors."""

    def typer(context: Any) -> Any:
        def answer(x: Any, y: Any) -> Any:
            kind = _joined(x, y)
            return VectorType(types.boolean, kind.count) if truth and kind is not None else kind

        return answer

    type_callable(function)(typer)

    def lower(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        kind: Any = _joined(*signature.args)
        x, y = (
            context.cast(builder, value, source, kind)
            for value, source in zip(arguments, signature.args, strict=True)
        )
        return emit(builder, isinstance(kind.dtype, types.Float), x, y)

    for pair in ((VectorType, VectorType), (VectorType, types.Number), (types.Number, VectorType)):
        lower_builtin(function, *pair)(lower)


_define(operator.add, lambda b, real, x, y: (b.fadd if real else b.add)(x, y))
_define(operator.sub, lambda b, real, x, y: (b.fsub if real else b.sub)(x, y))
_define(operator.mul, lambda b, real, x, y: (b.fmul if real else b.mul)(x, y))
_define(operator.truediv, lambda b, _, x, y: b.fdiv(x, y))
_define(operator.xor, lambda b, _, x, y: b.xor(x, y))
_define(operator.or_, lambda b, _, x, y: b.or_(x, y))
_define(operator.and_, lambda b, _, x, y: b.and_(x, y))
_define(operator.lshift, lambda b, _, x, y: b.shl(x, y))
_define(operator.rshift, lambda b, _, x, y: b.lshr(x, y))


def _define_comparison(function: object, sign: str) -> None:
    _define(function, lambda b, _, x, y: b.fcmp_ordered(sign, x, y), truth=True)


# Floating point only; false where a lane is NaN.
_define_comparison(operator.gt, ">")
_define_comparison(operator.lt, "<")
_define_comparison(operator.eq, "==")


@intrinsic
def lane_count(typingctx: Any, array: Any) -> tuple[Any, Emit]:
    """Elements of an array in one vector, or lanes of a vector: a constant."""
    kind = array if isinstance(array, VectorType) else _vector_type(array)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return context.get_constant(types.intp, kind.count)

    return types.intp(array), emit


@intrinsic
def load(typingctx: Any, array: Any, at: Any) -> tuple[Any, Emit]:
    """One vector from place ``at`` on of a C-ordered array of any dimensions, counted flat."""
    kind = _vector_type(array)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        place = _place(context, builder, signature, arguments[0], arguments[1], kind)
        return builder.load(place, align=kind.dtype.bitwidth // 8)

    return kind(array, types.intp), emit


@intrinsic
def load_as(typingctx: Any, array: Any, at: Any, like: Any) -> tuple[Any, Emit]:
    """As many elements, of any type of numbers, as the vector ``like`` has, made its type."""
    stored = VectorType(array.dtype, like.count)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        place = _place(context, builder, signature, arguments[0], arguments[1], stored)
        elements = builder.load(place, align=stored.dtype.bitwidth // 8)
        return _converted(context, builder, elements, stored, like)

    return like(array, types.intp, like), emit


@intrinsic
def store(typingctx: Any, array: Any, at: Any, value: Any) -> tuple[Any, Emit]:
    """Write a vector, of any number of lanes, from place ``at`` on."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, at, vector = arguments
        place = _place(context, builder, signature, array, at, value)
        builder.store(vector, place, align=signature.args[0].dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


@intrinsic
def store_partial(typingctx: Any, array: Any, at: Any, value: Any, count: Any) -> tuple[Any, Emit]:
    """Write a vector's first ``count`` lanes, at least 1; more than it has are all of them."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, at, vector, count = arguments
        place = _place(context, builder, signature, array, at, value)
        whole = builder.icmp_signed(">=", count, count.type(value.count))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                builder.store(vector, place, align=signature.args[0].dtype.bitwidth // 8)
            with otherwise:
                lanes = builder.bitcast(place, vector.type.element.as_pointer())
                _scatter(builder, vector, lanes, count.type(1), count)
        return context.get_dummy_value()

    return types.void(array, types.intp, value, types.intp), emit


@intrinsic
def load_strided(typingctx: Any, array: Any, at: Any, stride: Any, count: Any) -> tuple[Any, Emit]:
    """Elements ``at + n * stride`` as lanes n; from lane ``count`` on, the last one again."""
    kind = _vector_type(array)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, at, stride, count = arguments
        data = _data(context, builder, signature.args[0], array)
        return _collected(
            context, builder, kind,
            [
                builder.load(builder.gep(data, [builder.add(at, offset)]))
                for offset in _offsets(builder, stride, count, kind.count)
            ],
        )  # fmt: skip

    word = types.intp
    return kind(array, word, word, word), emit


@intrinsic
def gather_strided(
    typingctx: Any, array: Any, at: Any, stride: Any, rows: Any, first: Any, count: Any, like: Any
) -> tuple[Any, Emit]:
    """Elements ``at + rows[first + n] * stride`` as lanes n of the type of the vector ``like``."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, at, stride, rows, first, count, _ = arguments
        data = _data(context, builder, signature.args[0], array)
        numbers = _data(context, builder, signature.args[3], rows)
        elements = []
        for n in _offsets(builder, count.type(1), count, like.count):
            row = builder.load(builder.gep(numbers, [builder.add(first, n)]))
            element = builder.load(builder.gep(data, [builder.add(at, builder.mul(row, stride))]))
            elements.append(context.cast(builder, element, signature.args[0].dtype, like.dtype))
        return _collected(context, builder, like, elements)

    word = types.intp
    return like(array, word, word, types.Array(types.int64, 1, "C"), word, word, like), emit


@intrinsic
def store_strided(
    typingctx: Any, array: Any, at: Any, stride: Any, value: Any, count: Any
) -> tuple[Any, Emit]:
    """Write lanes n to ``at + n * stride``, the first ``count`` of them, at least 1."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, at, stride, vector, count = arguments
        data = _data(context, builder, signature.args[0], array)
        _scatter(builder, vector, builder.gep(data, [at]), stride, count)
        return context.get_dummy_value()

    word = types.intp
    return types.void(array, word, word, value, word), emit


def _scatter(builder: Any, vector: Any, start: Any, stride: Any, count: Any) -> None:
    # Lanes beyond count go where lane count − 1 belongs, which is written after them.
    offsets = list(enumerate(_offsets(builder, stride, count, vector.type.count)))
    for lane, offset in reversed(offsets):
        element = builder.extract_element(vector, ir.IntType(32)(lane))
        builder.store(element, builder.gep(start, [offset]))


def _offsets(builder: Any, stride: Any, count: Any, lanes: int) -> list[Any]:
    """Stride times 0 to lanes − 1, but from ``count`` on times count − 1 again."""
    final = builder.sub(count, count.type(1))
    last = builder.mul(final, stride)
    return [
        builder.select(
            builder.icmp_signed("<", count.type(n), final),
            # Not the product of what was selected: this one is the same for every block of rows.
            builder.mul(count.type(n), stride),
            last,
        )
        for n in range(lanes)
    ]


def _collected(context: Any, builder: Any, kind: Any, elements: list[Any]) -> Any:
    vector = ir.Constant(context.get_value_type(kind), ir.Undefined)
    for n, element in enumerate(elements):
        vector = builder.insert_element(vector, element, ir.IntType(32)(n))
    return vector


@intrinsic
def broadcast(typingctx: Any, number: Any) -> tuple[Any, Emit]:
    """One vector of a number, in its type; of a whole number, one register."""
    size = number.bitwidth // 8
    real = isinstance(number, types.Float)
    kind = VectorType(number, vector_lanes(size) if real else VECTOR_BYTES // size)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return _splat(builder, arguments[0], kind.count)

    return kind(number), emit


@intrinsic
def lane_indices(typingctx: Any, like: Any) -> tuple[Any, Emit]:
    """0, 1, 2, … in the type of the vector ``like``."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return ir.Constant(context.get_value_type(like), list(range(like.count)))

    return like(like), emit


@intrinsic
def select(typingctx: Any, condition: Any, x: Any, y: Any) -> tuple[Any, Emit]:
    """Lanes of x where the condition holds, else of y (``np.where``)."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.select(*arguments)

    return x(condition, x, x), emit


def _operation(name: str, vector: Any, arguments: int) -> tuple[Any, Emit]:
    """One of LLVM's operations on vectors; operands that are numbers are spread."""

    def emit(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        kind = context.get_value_type(vector)
        full = f"llvm.{name}.v{vector.count}f{vector.dtype.bitwidth}"
        function = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(kind, [kind] * arguments), full
        )
        return builder.call(function, values)

    return vector(*[vector] * arguments), emit


@intrinsic
def fma(typingctx: Any, x: Any, y: Any, z: Any) -> tuple[Any, Emit]:
    """x·y + z, rounded once where the host has FMA; y and z may be numbers."""
    return _operation("fmuladd", x, 3)


@intrinsic
def sqrt(typingctx: Any, x: Any) -> tuple[Any, Emit]:
    """√x, rounded correctly."""
    return _operation("sqrt", x, 1)


@intrinsic
def absolute(typingctx: Any, x: Any) -> tuple[Any, Emit]:
    """|x|."""
    return _operation("fabs", x, 1)


@intrinsic
def copysign(typingctx: Any, x: Any, sign: Any) -> tuple[Any, Emit]:
    """|x| with the sign of ``sign`` (``np.copysign``)."""
    return _operation("copysign", x, 2)


@intrinsic
def constant_for(typingctx: Any, single: Any, double: Any, x: Any) -> tuple[Any, Emit]:
    """Constant for vectors like x: ``single`` where its lanes have 32 bits, else ``double``."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        index = 0 if x.dtype.bitwidth == 32 else 1
        return context.cast(builder, arguments[index], signature.args[index], x)

    return x(single, double, x), emit


@intrinsic
def polynomial(typingctx: Any, single: Any, double: Any, x: Any) -> tuple[Any, Emit]:
    """c[0] + c[1]·x + c[2]·x² + … with the tuple of coefficients that fits x (Horner's rule)."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        index = 0 if x == VectorType(types.float32, x.count) else 1
        kind = signature.args[index]
        _, fma = _operation("fmuladd", x, 3)
        terms = [
            context.cast(builder, term, kind.dtype, x)
            for term in cgutils.unpack_tuple(builder, arguments[index], kind.count)
        ]
        total = terms[-1]
        for term in reversed(terms[:-1]):
            total = fma(context, builder, x(x, x, x), (arguments[2], total, term))
        return total

    return x(single, double, x), emit


@intrinsic
def reduce_add(typingctx: Any, x: Any) -> tuple[Any, Emit]:
    """Sum of the lanes: upper half plus lower half, and so on down to one."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        word = ir.IntType(32)
        (vector,) = arguments
        half = x.count // 2
        while half:
            parts = [
                builder.shuffle_vector(
                    vector, vector,
                    ir.Constant(ir.VectorType(word, half), list(range(at, at + half))),
                )
                for at in (0, half)
            ]  # fmt: skip
            vector, half = builder.fadd(*parts), half // 2
        return builder.extract_element(vector, word(0))

    return x.dtype(x), emit


@intrinsic
def convert_like(typingctx: Any, x: Any, like: Any) -> tuple[Any, Emit]:
    """Convert a vector to the element type of a vector or array ``like``."""
    target = VectorType(like.dtype, x.count)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return _converted(context, builder, arguments[0], x, target)

    return target(x, like), emit


def _converted(context: Any, builder: Any, vector: Any, source: Any, target: Any) -> Any:
    """Convert floating to floating, or whole to any numbers."""
    if source.dtype == target.dtype:
        return vector
    wider = target.dtype.bitwidth > source.dtype.bitwidth
    if isinstance(source.dtype, types.Float):
        convert = builder.fpext if wider else builder.fptrunc
    elif isinstance(target.dtype, types.Float):
        convert = builder.sitofp if source.dtype.signed else builder.uitofp
    else:
        convert = builder.zext if wider else builder.trunc
    return convert(vector, context.get_value_type(target))


@intrinsic
def truncate_to_uint32(typingctx: Any, x: Any) -> tuple[Any, Emit]:
    """Lower 32 bits of lanes of uint64."""
    target = VectorType(types.uint32, x.count)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return _converted(context, builder, arguments[0], x, target)

    return target(x), emit


@intrinsic
def bitcast_to_int(typingctx: Any, x: Any) -> tuple[Any, Emit]:
    """Read a floating vector's bits as unsigned whole numbers of the same size."""
    return _reinterpreted(x, types.uint32 if x.dtype == types.float32 else types.uint64)


@intrinsic
def bitcast_to_float(typingctx: Any, x: Any) -> tuple[Any, Emit]:
    """Read unsigned numbers as the floating vector that has these bits."""
    return _reinterpreted(x, types.float32 if x.dtype == types.uint32 else types.float64)


def _reinterpreted(x: Any, dtype: Any) -> tuple[Any, Emit]:
    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return VectorType(dtype, x.count)(x), emit


def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return context.make_array(kind)(context, builder, array).data


def _place(context: Any, builder: Any, signature: Any, array: Any, at: Any, kind: Any) -> Any:
    """Pointer to a vector of ``kind`` at a place of an array."""
    pointer = builder.gep(_data(context, builder, signature.args[0], array), [at])
    return builder.bitcast(pointer, context.get_value_type(kind).as_pointer())
