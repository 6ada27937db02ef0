"""The basis of all intrinsics, and those on scalars: types, atomics, compilation attributes.

LLVM instructions are emitted in simd/ and in the two microkernel.py files, and nowhere else. The
docstring of an intrinsic states its meaning as Python would write it; kernels call it as a plain
function. No formula and no loop is here, and no bounds are checked.

Hazard: Numba caches the callers of an intrinsic without looking at the intrinsic's body. The
object cache therefore hashes every file of this package.
"""

# ruff: noqa: ANN401, ARG001 - values of LLVM's builder and Numba's types have no static types, and
# an intrinsic's own parameters are types: the values come to the function that it returns.

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.extending import intrinsic as untyped_intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Emit = Callable[[Any, Any, Any, Sequence[Any]], Any]
    """Numba's code generator: (context, builder, signature, arguments) → value."""

cgutils: Any = untyped_cgutils


def intrinsic(emitter: Callable[..., tuple[Any, Emit]]) -> Callable[..., Any]:
    """Register an intrinsic: for its callers a function of values, without ``typingctx``."""
    return cast("Callable[..., Any]", untyped_intrinsic(emitter))


def data_pointer(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Pointer to the first element of an array of Numba's type ``kind``."""
    return context.make_array(kind)(context, builder, value).data


def unpack_record(context: Any, builder: Any, kind: Any, value: Any) -> SimpleNamespace:
    """Fields of a NamedTuple as LLVM values, by name; of an array, its data pointer."""
    fields = {}
    values = cgutils.unpack_tuple(builder, value, len(kind.fields))
    for name, field_kind, field in zip(kind.fields, kind, values, strict=True):
        is_array = isinstance(field_kind, types.Array)
        fields[name] = data_pointer(context, builder, field_kind, field) if is_array else field
    return SimpleNamespace(**fields)


@intrinsic
def no_inline(typingctx: Any) -> tuple[Any, Emit]:
    """Mark the calling function as ``noinline`` and ``optsize`` for LLVM.

    For functions whose vectors are emitted by hand: copies of them in every caller, and unrolled
    copies of their loops, gain nothing and take long to compile.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        builder.function.attributes.add("noinline")
        builder.function.attributes.add("optsize")
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def cast_like(typingctx: Any, value: Any, x: Any) -> tuple[Any, Emit]:
    """``value`` in the type of x, a number, vector or array; a float64 would widen the rest."""
    kind = x.dtype if isinstance(x, types.Array) else x

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return context.cast(builder, arguments[0], signature.args[0], kind)

    return kind(value, x), emit


@intrinsic
def atomic_add(typingctx: Any, array: Any, index: Any, value: Any) -> tuple[Any, Emit]:
    """Add to an element of an int64 array atomically; return its old value."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, index, value = arguments
        pointer = builder.gep(data_pointer(context, builder, signature.args[0], array), [index])
        return builder.atomic_rmw("add", pointer, value, "seq_cst")

    return types.int64(array, types.intp, types.int64), emit


@intrinsic
def atomic_load(typingctx: Any, array: Any, index: Any) -> tuple[Any, Emit]:
    """Read an element of an int64 array that other threads write."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, index = arguments
        pointer = builder.gep(data_pointer(context, builder, signature.args[0], array), [index])
        return builder.load_atomic(pointer, "seq_cst", 8)

    return types.int64(array, types.intp), emit


@intrinsic
def yield_processor(typingctx: Any) -> tuple[Any, Emit]:
    """Yield the processor to another thread of the system."""
    name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [])
        return context.get_dummy_value()

    return types.void(), emit
