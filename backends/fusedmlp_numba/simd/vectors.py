"""Vectors as values of compiled code: the type, its operators, and operations on lanes.

A loop over scalars becomes vector code only if LLVM succeeds, and then with a scalar remainder
and overlap tests around every short loop. Here a vector is a Numba type of its own:
``load(z, at) + load(b, j)`` is one instruction, every element is computed by the same
instructions, and there is little code to compile. A vector of an array's elements has the lanes
of one panel row: two registers, because one chain of dependent instructions alone would leave the
processor waiting. A converted vector keeps its number of lanes, and so takes more or fewer
registers.

Loads and stores are in vector_memory.py, elementary functions in elementary.py. Every operation
states its NumPy equivalent.
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
from fusedmlp_numba.simd import emitter
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
"""A vector in a kernel's signature; also one of truth values."""

Function = TypeVar("Function", bound="Callable[..., Any]")


def inline_kernel(function: Function) -> Function:
    """Compile a kernel into each of its callers: for functions that take or return vectors.

    A call would pass vectors through memory, which takes longer than most such functions.
    """
    return kernel(function, inline=True)


class VectorType(types.Type):
    """Numba's type of a vector: ``count`` lanes of ``dtype``, a number or truth value."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype = dtype
        self.count = count
        super().__init__(f"Vector({dtype}, {count})")


@register_model(VectorType)
class _Model(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        lane = (
            ir.IntType(1)
            if kind.dtype == types.boolean
            else manager.lookup(kind.dtype).get_value_type()
        )
        super().__init__(manager, kind, ir.VectorType(lane, kind.count))


def vector_of(array: Any) -> VectorType:
    """Type of a vector of an array's elements: one row of a panel."""
    return VectorType(array.dtype, panel_columns(array.dtype.bitwidth // 8))


def _cast(context: Any, builder: Any, number: Any, kind: Any, value: Any) -> Any:
    """Cast a number to a vector with that number in every lane."""
    return emitter.splat(builder, context.cast(builder, value, number, kind.dtype), kind.count)


lower_cast(types.Number, VectorType)(_cast)

# Operators on two vectors, or on a vector and a number, which is cast to the vector's type.


def _common_type(x: Any, y: Any) -> VectorType | None:
    """Vector type of two operands; None without a vector, and for two different ones."""
    vectors = {kind for kind in (x, y) if isinstance(kind, VectorType)}
    others = [kind for kind in (x, y) if not isinstance(kind, VectorType)]
    fits = all(isinstance(kind, types.Number) for kind in others) and len(vectors) == 1
    return vectors.pop() if fits else None


def _define(
    function: object, emit: Callable[[Any, bool, Any, Any], Any], *, truth: bool = False
) -> None:
    """Define a binary operator of Python for vectors."""

    def typer(context: Any) -> Any:
        def result(x: Any, y: Any) -> Any:
            kind = _common_type(x, y)
            return VectorType(types.boolean, kind.count) if truth and kind is not None else kind

        return result

    type_callable(function)(typer)

    def lower(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        kind: Any = _common_type(*signature.args)
        x, y = (
            context.cast(builder, value, source, kind)
            for value, source in zip(arguments, signature.args, strict=True)
        )
        return emit(builder, isinstance(kind.dtype, types.Float), x, y)

    vector = VectorType
    for pair in ((vector, vector), (vector, types.Number), (types.Number, vector)):
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
    """Lanes of a vector, or of a vector of an array's elements: a constant."""
    kind = array if isinstance(array, VectorType) else vector_of(array)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return context.get_constant(types.intp, kind.count)

    return types.intp(array), emit


@intrinsic
def broadcast(typingctx: Any, number: Any) -> tuple[Any, Emit]:
    """Vector with a number in every lane, of the number's type; of integers, one register."""
    size = number.bitwidth // 8
    real = isinstance(number, types.Float)
    kind = VectorType(number, panel_columns(size) if real else VECTOR_BYTES // size)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return emitter.splat(builder, arguments[0], kind.count)

    return kind(number), emit


@intrinsic
def lane_indices(typingctx: Any, like: Any) -> tuple[Any, Emit]:
    """0, 1, 2, … in the type of the vector ``like``."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return ir.Constant(context.get_value_type(like), list(range(like.count)))

    return like(like), emit


@intrinsic
def select(typingctx: Any, condition: Any, x: Any, y: Any) -> tuple[Any, Emit]:
    """np.where(condition, x, y)."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.select(*arguments)

    return x(condition, x, x), emit


def _operation(name: str, vector: Any, arguments: int) -> tuple[Any, Emit]:
    """One of LLVM's operations on floating vectors; numbers among the operands are cast."""

    def emit(context: Any, builder: Any, signature: Any, values: Sequence[Any]) -> Any:
        return emitter.vector_operation(builder, name, values)

    return vector(*[vector] * arguments), emit


@intrinsic
def fma(typingctx: Any, x: Any, y: Any, z: Any) -> tuple[Any, Emit]:
    """x·y + z, with one rounding where the target has FMA; y and z may be numbers."""
    return _operation("fmuladd", x, 3)


@intrinsic
def sqrt(typingctx: Any, x: Any) -> tuple[Any, Emit]:
    """np.sqrt(x), correctly rounded."""
    return _operation("sqrt", x, 1)


@intrinsic
def absolute(typingctx: Any, x: Any) -> tuple[Any, Emit]:
    """np.abs(x)."""
    return _operation("fabs", x, 1)


@intrinsic
def copysign(typingctx: Any, x: Any, sign: Any) -> tuple[Any, Emit]:
    """np.copysign(x, sign)."""
    return _operation("copysign", x, 2)


@intrinsic
def constant_for(typingctx: Any, single: Any, double: Any, x: Any) -> tuple[Any, Emit]:
    """Vector of a constant like x: ``single`` where x has lanes of 32 bits, else ``double``."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        index = 0 if x.dtype.bitwidth == 32 else 1
        return context.cast(builder, arguments[index], signature.args[index], x)

    return x(single, double, x), emit


@intrinsic
def polynomial(typingctx: Any, single: Any, double: Any, x: Any) -> tuple[Any, Emit]:
    """c[0] + c[1]·x + c[2]·x² + … by Horner's rule, with c the tuple for x's type."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        index = 0 if x.dtype == types.float32 else 1
        kind = signature.args[index]
        terms = [
            context.cast(builder, term, kind.dtype, x)
            for term in cgutils.unpack_tuple(builder, arguments[index], kind.count)
        ]
        total = terms[-1]
        for term in reversed(terms[:-1]):
            total = emitter.fma(builder, arguments[2], total, term)
        return total

    return x(single, double, x), emit


@intrinsic
def reduce_add(typingctx: Any, x: Any) -> tuple[Any, Emit]:
    """Sum of the lanes: upper half plus lower half, repeated until one lane is left."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        (vector,) = arguments
        half = x.count // 2
        while half:
            lower, upper = (
                emitter.shuffle(builder, vector, vector, range(at, at + half)) for at in (0, half)
            )
            vector, half = builder.fadd(lower, upper), half // 2
        return builder.extract_element(vector, ir.IntType(32)(0))

    return x.dtype(x), emit


@intrinsic
def convert_like(typingctx: Any, x: Any, like: Any) -> tuple[Any, Emit]:
    """x.astype(like.dtype) for a vector x, and a vector or array ``like``."""
    target = VectorType(like.dtype, x.count)
    return target(x, like), _conversion(x, target)


@intrinsic
def truncate_to_uint32(typingctx: Any, x: Any) -> tuple[Any, Emit]:
    """Lower 32 bits of lanes of uint64."""
    target = VectorType(types.uint32, x.count)
    return target(x), _conversion(x, target)


def _conversion(x: Any, target: Any) -> Emit:
    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        kind = context.get_value_type(target)
        return emitter.convert(builder, arguments[0], x.dtype, target.dtype, kind)

    return emit


@intrinsic
def bitcast_to_int(typingctx: Any, x: Any) -> tuple[Any, Emit]:
    """x.view(unsigned integers of the same size) for a floating vector."""
    return _bitcast(x, types.uint32 if x.dtype == types.float32 else types.uint64)


@intrinsic
def bitcast_to_float(typingctx: Any, x: Any) -> tuple[Any, Emit]:
    """x.view(floating type of the same size) for a vector of unsigned integers."""
    return _bitcast(x, types.float32 if x.dtype == types.uint32 else types.float64)


def _bitcast(x: Any, dtype: Any) -> tuple[Any, Emit]:
    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(signature.return_type))

    return VectorType(dtype, x.count)(x), emit
