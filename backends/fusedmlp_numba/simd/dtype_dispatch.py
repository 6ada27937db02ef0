"""Intrinsics on dense inputs whose type is known only at run time: a code selects the loop.

A data set is uint8, float32 or float64. Kernels compiled for the type of an array would exist
three times. These intrinsics read memory as bytes with a dtype code of constants.py, and branch on
the code once for a stretch of elements. No products are here, and no bounds are checked.
"""

# ruff: noqa: ANN401, ARG001 - see intrinsics.py

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped_cgutils

from fusedmlp_numba.constants import DTYPE_FLOAT32, DTYPE_FLOAT64, DTYPE_UINT8
from fusedmlp_numba.simd.control_flow import emit_loop
from fusedmlp_numba.simd.emitter import convert, vector_pointer
from fusedmlp_numba.simd.intrinsics import data_pointer, intrinsic, unpack_record
from fusedmlp_numba.simd.memory import emit_copy, emit_vector_loops

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    import numpy.typing as npt

    from fusedmlp_numba.simd.intrinsics import Emit

cgutils: Any = untyped_cgutils

_TYPES: Final = {
    DTYPE_UINT8: types.uint8,
    DTYPE_FLOAT32: types.float32,
    DTYPE_FLOAT64: types.float64,
}

MASK_LANES: Final = 64
"""Elements that :func:`nonzero_mask` reads at most: the bits of a word."""

PART_LANES: Final = 16
"""Lanes of its vectors where it reads fewer than MASK_LANES elements."""


class StoredValues(NamedTuple):
    """Dense values of a type that is known at run time.

    Parameters
    ----------
    memory
        The values' memory as a flat array of bytes.
    dtype
        DTYPE_UINT8, DTYPE_FLOAT32 or DTYPE_FLOAT64.
    """

    memory: npt.NDArray[np.uint8]
    dtype: int


def _dispatch(
    context: Any, builder: Any, kind: Any, value: Any, emit: Callable[[Any, Any], None]
) -> None:
    """Emit code for each dtype, from a typed pointer; branch on the code at run time.

    ``value`` is a StoredValues, and ``kind`` its Numba type.
    """
    stored = unpack_record(context, builder, kind, value)
    done = builder.append_basic_block("done")
    choice = builder.switch(stored.dtype, done)
    for code, element in _TYPES.items():
        block = builder.append_basic_block(str(element))
        choice.add_case(code, block)
        builder.position_at_end(block)
        emit(builder.bitcast(stored.memory, context.get_data_type(element).as_pointer()), element)
        builder.branch(done)
    builder.position_at_end(done)


@intrinsic
def nonzero_mask(typingctx: Any, stored: Any, at: Any, count: Any) -> tuple[Any, Emit]:
    """Bits 0 to count − 1: whether element ``at + n`` is not 0, for 1 to MASK_LANES elements.

    NaN is not 0.
    """
    word = types.int64

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        memory, at, count = arguments
        result = cgutils.alloca_once(builder, ir.IntType(64))
        builder.store(ir.IntType(64)(0), result)

        def compare(memory: Any, kind: Any) -> None:
            first = builder.gep(memory, [at])

            def bits_of(n: Any, lanes: int) -> Any:
                pointer = vector_pointer(builder, builder.gep(first, [n]), lanes)
                value = builder.load(pointer, align=kind.bitwidth // 8)
                bits = _is_not_zero(builder, value, kind)
                return builder.zext(builder.bitcast(bits, ir.IntType(lanes)), ir.IntType(64))

            def add(n: Any, lanes: int) -> None:
                bits = builder.shl(bits_of(n, lanes), n)
                builder.store(builder.or_(builder.load(result), bits), result)

            whole = builder.icmp_signed("==", count, count.type(MASK_LANES))
            with builder.if_else(whole) as (at_once, in_parts):
                with at_once:
                    builder.store(bits_of(count.type(0), MASK_LANES), result)
                with in_parts:
                    emit_vector_loops(builder, count, PART_LANES, add)

        _dispatch(context, builder, stored, memory, compare)
        return builder.load(result)

    return word(stored, word, word), emit


def _is_not_zero(builder: Any, value: Any, kind: Any) -> Any:
    compare = builder.fcmp_unordered if isinstance(kind, types.Float) else builder.icmp_unsigned
    return compare("!=", value, ir.Constant(value.type, None))


@intrinsic
def take_elements(
    typingctx: Any, target: Any, at: Any, stored: Any, start: Any, indices: Any, first: Any,
    count: Any,
) -> tuple[Any, Emit]:  # fmt: skip
    """target[at + n] = element ``start + indices[first + n]``, for n < count, in target's type.

    uint8 values are not divided. Nothing is done where the target is uint8 and the elements are
    not.
    """
    word = types.int64

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        target, at, memory, start, indices, first, count = arguments
        kind = signature.args[0].dtype
        target = builder.gep(data_pointer(context, builder, signature.args[0], target), [at])
        indices = builder.gep(data_pointer(context, builder, signature.args[4], indices), [first])

        def copy(memory: Any, own: Any) -> None:
            if isinstance(kind, types.Integer) and not isinstance(own, types.Integer):
                return
            origin = builder.gep(memory, [start])
            nonempty = builder.icmp_signed(">", count, count.type(0))
            with (
                builder.if_then(nonempty),
                emit_loop(builder, count.type(0), count, count.type(1)) as (n,),
            ):
                index = builder.zext(builder.load(builder.gep(indices, [n])), count.type)
                value = builder.load(builder.gep(origin, [index]))
                value = convert(builder, value, own, kind, target.type.pointee)
                builder.store(value, builder.gep(target, [n]))

        _dispatch(context, builder, stored, memory, copy)
        return context.get_dummy_value()

    return types.void(target, word, stored, word, indices, word, word), emit


@intrinsic
def read_elements(
    typingctx: Any, target: Any, at: Any, stored: Any, start: Any, count: Any, divisor: Any
) -> tuple[Any, Emit]:
    """target[at : at + count] = the elements from ``start`` on, in target's type.

    uint8 values are divided by ``divisor``.
    """
    word = types.int64

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        target, at, memory, start, count, divisor = arguments
        kind = signature.args[0].dtype
        target = builder.gep(data_pointer(context, builder, signature.args[0], target), [at])

        def copy(memory: Any, own: Any) -> None:
            source = builder.gep(memory, [start])
            used = divisor if isinstance(own, types.Integer) else None
            emit_copy(builder, (target, kind), (source, own), count, used)

        _dispatch(context, builder, stored, memory, copy)
        return context.get_dummy_value()

    return types.void(target, word, stored, word, word, target.dtype), emit
