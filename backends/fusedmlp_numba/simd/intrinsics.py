"""What Numba cannot say in Python, and all of this package needs: types, atomics. LLVM by hand.

LLVM's instructions are written here, in lanes.py (vectors as values), tiles.py, copies.py,
sparse_tiles.py, vectors.py and loops.py (tiles of products), runs.py and stored.py (stretches of
memory) and views.py (arrays over addresses), and nowhere else. Each intrinsic's docstring gives its
meaning as Python would write it; kernels use them as plain functions. No formula and no loop is
here, and nothing here checks bounds.

Hazard: Numba caches what calls an intrinsic without looking at the intrinsic's body. native.py
hashes all files of this package for that reason.
"""

# ruff: noqa: ANN401, ARG001 - values of LLVM's builder and Numba's types have no static types, and
# an intrinsic's own parameters are types: the values come to the function that it returns.

from __future__ import annotations

import sys
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


def data_of(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Pointer to the first element of an array of Numba's type ``kind``."""
    return context.make_array(kind)(context, builder, value).data


@intrinsic
def no_inline(typingctx: Any) -> tuple[Any, Emit]:
    """Ask LLVM not to copy the function that calls this into its callers, nor its loops.

    For functions whose vectors are written by hand: unrolled and specialised copies of them gain
    nothing, and take long to compile, anew in every function that calls them.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        builder.function.attributes.add("noinline")
        builder.function.attributes.add("optsize")
        return context.get_dummy_value()

    return types.void(), emit


@intrinsic
def cast_like(typingctx: Any, value: Any, x: Any) -> tuple[Any, Emit]:
    """``value`` in the floating type of x, a number or an array; a float64 would widen the rest."""
    kind = x.dtype if isinstance(x, types.Array) else x

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return context.cast(builder, arguments[0], signature.args[0], kind)

    return kind(value, x), emit


@intrinsic
def atomic_add(typingctx: Any, array: Any, index: Any, value: Any) -> tuple[Any, Emit]:
    """Add to an element of an int64 array, seen whole by every thread; return its old value."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, index, value = arguments
        pointer = builder.gep(data_of(context, builder, signature.args[0], array), [index])
        return builder.atomic_rmw("add", pointer, value, "seq_cst")

    return types.int64(array, types.intp, types.int64), emit


@intrinsic
def atomic_load(typingctx: Any, array: Any, index: Any) -> tuple[Any, Emit]:
    """Read an element of an int64 array that other threads write."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, index = arguments
        pointer = builder.gep(data_of(context, builder, signature.args[0], array), [index])
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
