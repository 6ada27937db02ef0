"""Dense inputs of any stored type, read by one and the same compiled code. LLVM by hand.

A data set is pixels, float32 or float64, and an engine is told which by a number: its *element*.
Kernels that were compiled for the type of the array that they read would be there three times.
These read memory, seen as bytes, of elements that are known when the code runs; each decides once
for a whole run of elements. No products are here, and nothing that checks bounds.
"""

# ruff: noqa: ANN401, ARG001 - see intrinsics.py

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped_cgutils

from fusedmlp_numba.constants import DTYPE_FLOAT32, DTYPE_FLOAT64, DTYPE_UINT8
from fusedmlp_numba.simd.control_flow import emit_loop
from fusedmlp_numba.simd.intrinsics import data_of, intrinsic
from fusedmlp_numba.simd.memory import converted, copy_elements, in_vectors

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedmlp_numba.simd.intrinsics import Emit

cgutils: Any = untyped_cgutils

_TYPES: Final = {
    DTYPE_UINT8: types.uint8,
    DTYPE_FLOAT32: types.float32,
    DTYPE_FLOAT64: types.float64,
}

MASK_LANES: Final = 64
"""Inputs that :func:`nonzero_mask` looks at."""

PART_LANES: Final = 16
"""Inputs that it looks at together where there are fewer than that."""


def _for_each(
    context: Any, builder: Any, memory: Any, element: Any, emit: Callable[[Any, Any], None]
) -> None:
    """Emit code for each type of elements, from a pointer and the type; run that of ``element``."""
    done = builder.append_basic_block("done")
    choice = builder.switch(element, done)
    for number, kind in _TYPES.items():
        block = builder.append_basic_block(str(kind))
        choice.add_case(number, block)
        builder.position_at_end(block)
        emit(builder.bitcast(memory, context.get_data_type(kind).as_pointer()), kind)
        builder.branch(done)
    builder.position_at_end(done)


@intrinsic
def nonzero_mask(
    typingctx: Any, stored: Any, element: Any, at: Any, count: Any
) -> tuple[Any, Emit]:
    """Bit n is whether element ``at + n`` is not 0, for 1 to MASK_LANES elements; NaN is not."""
    word = types.int64

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        stored, element, at, count = arguments
        result = cgutils.alloca_once(builder, ir.IntType(64))
        builder.store(ir.IntType(64)(0), result)

        def look(memory: Any, kind: Any) -> None:
            first = builder.gep(memory, [at])

            def truth(n: Any, lanes: int) -> Any:
                many = ir.VectorType(memory.type.pointee, lanes)
                place = builder.bitcast(builder.gep(first, [n]), many.as_pointer())
                value = builder.load(place, align=kind.bitwidth // 8)
                bits = _is_not_zero(builder, value, kind)
                return builder.zext(builder.bitcast(bits, ir.IntType(lanes)), ir.IntType(64))

            def add(n: Any, lanes: int) -> None:
                bits = builder.shl(truth(n, lanes), n)
                builder.store(builder.or_(builder.load(result), bits), result)

            whole = builder.icmp_signed("==", count, count.type(MASK_LANES))
            with builder.if_else(whole) as (at_once, in_parts):
                with at_once:
                    builder.store(truth(count.type(0), MASK_LANES), result)
                with in_parts:
                    in_vectors(builder, count, PART_LANES, add)

        memory = data_of(context, builder, signature.args[0], stored)
        _for_each(context, builder, memory, element, look)
        return builder.load(result)

    return word(stored, word, word, word), emit


def _is_not_zero(builder: Any, value: Any, kind: Any) -> Any:
    compare = builder.fcmp_unordered if isinstance(kind, types.Float) else builder.icmp_unsigned
    return compare("!=", value, ir.Constant(value.type, None))


@intrinsic
def take_elements(
    typingctx: Any, target: Any, at: Any, stored: Any, element: Any, source: Any, index: Any,
    start: Any, count: Any,
) -> tuple[Any, Emit]:  # fmt: skip
    """target[at + n] = element ``source + index[start + n]``, for n below count, as the target's.

    Pixels remain whole numbers. Nothing is done where only the target is pixels.
    """
    word = types.int64

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        target, at, stored, element, source, index, start, count = arguments
        kind = signature.args[0].dtype
        target = builder.gep(data_of(context, builder, signature.args[0], target), [at])
        index = builder.gep(data_of(context, builder, signature.args[5], index), [start])

        def copy(memory: Any, own: Any) -> None:
            if isinstance(kind, types.Integer) and not isinstance(own, types.Integer):
                return
            first = builder.gep(memory, [source])
            some = builder.icmp_signed(">", count, count.type(0))
            with (
                builder.if_then(some),
                emit_loop(builder, count.type(0), count, count.type(1)) as (n,),
            ):
                place = builder.zext(builder.load(builder.gep(index, [n])), count.type)
                value = builder.load(builder.gep(first, [place]))
                value = converted(builder, value, own, kind, target.type.pointee)
                builder.store(value, builder.gep(target, [n]))

        memory = data_of(context, builder, signature.args[2], stored)
        _for_each(context, builder, memory, element, copy)
        return context.get_dummy_value()

    return types.void(target, word, stored, word, word, index, word, word), emit


@intrinsic
def read_elements(
    typingctx: Any, target: Any, at: Any, stored: Any, element: Any, start: Any, count: Any,
    most: Any,
) -> tuple[Any, Emit]:  # fmt: skip
    """target[at : at + count] = elements from ``start`` on, in target's type; pixels are / most."""
    word = types.int64

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        target, at, stored, element, start, count, most = arguments
        kind = signature.args[0].dtype
        target = builder.gep(data_of(context, builder, signature.args[0], target), [at])

        def copy(memory: Any, own: Any) -> None:
            source = builder.gep(memory, [start])
            divisor = most if isinstance(own, types.Integer) else None
            copy_elements(builder, (target, kind), (source, own), count, divisor)

        memory = data_of(context, builder, signature.args[2], stored)
        _for_each(context, builder, memory, element, copy)
        return context.get_dummy_value()

    return types.void(target, word, stored, word, word, word, target.dtype), emit
