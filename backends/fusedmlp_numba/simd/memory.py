"""Intrinsics on stretches and elements of memory: convert, prefetch, bit counts, unchecked access.

No products are here, and no bounds are checked.
"""

# ruff: noqa: ANN401, ARG001 - see intrinsics.py

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types

from fusedmlp_numba.compiler.host import VECTOR_BYTES
from fusedmlp_numba.simd.control_flow import emit_loop, prefetch_line
from fusedmlp_numba.simd.emitter import convert, splat, vector_pointer
from fusedmlp_numba.simd.intrinsics import data_pointer, intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedmlp_numba.simd.intrinsics import Emit


@intrinsic
def copy_convert(
    typingctx: Any, target: Any, at: Any, source: Any, start: Any, count: Any, divisor: Any
) -> tuple[Any, Emit]:
    """target[at : at + count] = source[start : start + count] / divisor, in target's type.

    A target of whole numbers takes whole numbers, and no division.
    """
    word = types.intp
    signature = types.void(target, word, source, word, word, divisor)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        target, at, source, start, count, divisor = arguments
        kinds = signature.args[0].dtype, signature.args[2].dtype
        divisor = context.cast(builder, divisor, signature.args[5], kinds[0])
        target, source = (
            builder.gep(data_pointer(context, builder, signature.args[i], value), [offset])
            for i, value, offset in ((0, target, at), (2, source, start))
        )
        used = divisor if isinstance(kinds[0], types.Float) else None
        emit_copy(builder, (target, kinds[0]), (source, kinds[1]), count, used)
        return context.get_dummy_value()

    return signature, emit


def emit_copy(
    builder: Any,
    target: tuple[Any, Any],
    source: tuple[Any, Any],
    count: Any,
    divisor: Any | None,
) -> None:
    """Emit target[:count] = source[:count] / divisor; no division where the divisor is None.

    ``target`` and ``source`` are pointers, each with Numba's type of its elements.
    """

    def copy(n: Any, lanes: int) -> None:
        (to, kind), (start, stored) = target, source
        to, start = (
            vector_pointer(builder, builder.gep(pointer, [n]), lanes) for pointer in (to, start)
        )
        value = builder.load(start, align=stored.bitwidth // 8)
        value = convert(builder, value, stored, kind, to.type.pointee)
        if divisor is not None:
            value = builder.fdiv(value, splat(builder, divisor, lanes))
        builder.store(value, to, align=kind.bitwidth // 8)

    emit_vector_loops(builder, count, VECTOR_BYTES // (target[1].bitwidth // 8), copy)


def emit_vector_loops(
    builder: Any, count: Any, lanes: int, emit: Callable[[Any, int], None]
) -> None:
    """Emit a loop over n from 0 to count in steps of ``lanes``, and one over the remainder."""
    whole = builder.and_(count, count.type(-lanes))
    for first, last, step in ((count.type(0), whole, lanes), (whole, count, 1)):
        with (
            builder.if_then(builder.icmp_signed("<", first, last)),
            emit_loop(builder, first, last, count.type(step)) as (n,),
        ):
            emit(n, step)


@intrinsic
def prefetch(typingctx: Any, array: Any, at: Any) -> tuple[Any, Emit]:
    """Prefetch the cache line of ``array[at]`` for reading; ``at`` may be outside the array."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        data = data_pointer(context, builder, signature.args[0], arguments[0])
        prefetch_line(builder, builder.gep(data, [arguments[1]]), write=False)
        return context.get_dummy_value()

    return types.void(array, types.intp), emit


@intrinsic
def lowest_bit(typingctx: Any, mask: Any) -> tuple[Any, Emit]:
    """Index of the lowest set bit of an int64 other than 0."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.int64), emit


@intrinsic
def count_bits(typingctx: Any, mask: Any) -> tuple[Any, Emit]:
    """Count the set bits of an int64."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.int64), emit


@intrinsic
def unchecked_get(typingctx: Any, array: Any, at: Any) -> tuple[Any, Emit]:
    """array[at] for ``at`` ≥ 0, without Numba's test for negative indices."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        data = data_pointer(context, builder, signature.args[0], arguments[0])
        value = builder.load(builder.gep(data, [arguments[1]]))
        return context.cast(builder, value, array.dtype, signature.return_type)

    kind = types.int64 if isinstance(array.dtype, types.Integer) else array.dtype
    return kind(array, types.intp), emit


@intrinsic
def unchecked_set(typingctx: Any, array: Any, at: Any, value: Any) -> tuple[Any, Emit]:
    """array[at] = value for ``at`` ≥ 0, in the array's type, without that test."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        data = data_pointer(context, builder, signature.args[0], arguments[0])
        number = context.cast(builder, arguments[2], signature.args[2], array.dtype)
        builder.store(number, builder.gep(data, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit
