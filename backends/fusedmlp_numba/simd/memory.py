"""Runs of memory, by elements or vectors: read, convert, prefetch. LLVM by hand.

What the sparse kernels need beside tiles: no products here, and nothing that checks bounds.
"""

# ruff: noqa: ANN401, ARG001 - see intrinsics.py

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped_cgutils

from fusedmlp_numba.compiler.host import VECTOR_BYTES
from fusedmlp_numba.simd.control_flow import emit_loop, prefetch_line
from fusedmlp_numba.simd.intrinsics import data_of, intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from fusedmlp_numba.simd.intrinsics import Emit

cgutils: Any = untyped_cgutils


@intrinsic
def copy_convert(
    typingctx: Any, target: Any, at: Any, source: Any, start: Any, count: Any, divisor: Any
) -> tuple[Any, Emit]:
    """target[at : at + count] = source[start : start + count] / divisor, in target's type.

    Whole numbers become whole numbers as they are, without the division.
    """
    word = types.intp
    signature = types.void(target, word, source, word, word, divisor)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        target, at, source, start, count, divisor = arguments
        kinds = signature.args[0].dtype, signature.args[2].dtype
        divisor = context.cast(builder, divisor, signature.args[5], kinds[0])
        target, source = (
            builder.gep(data_of(context, builder, signature.args[i], value), [offset])
            for i, value, offset in ((0, target, at), (2, source, start))
        )
        divided = divisor if isinstance(kinds[0], types.Float) else None
        copy_elements(builder, (target, kinds[0]), (source, kinds[1]), count, divided)
        return context.get_dummy_value()

    return signature, emit


def copy_elements(
    builder: Any,
    target: tuple[Any, Any],
    source: tuple[Any, Any],
    count: Any,
    divisor: Any,
) -> None:
    """Emit target[:count] = source[:count] / divisor; not divided where that is None.

    ``target`` and ``source`` are pointers, each with Numba's type of its elements.
    """

    def copy(n: Any, lanes: int) -> None:
        (to, kind), (start, stored) = target, source
        places = []
        for pointer in (to, start):
            many = ir.VectorType(pointer.type.pointee, lanes)
            places.append(builder.bitcast(builder.gep(pointer, [n]), many.as_pointer()))
        value = builder.load(places[1], align=stored.bitwidth // 8)
        value = converted(builder, value, stored, kind, places[0].type.pointee)
        if divisor is not None:
            value = builder.fdiv(value, splat(builder, divisor, lanes))
        builder.store(value, places[0], align=kind.bitwidth // 8)

    in_vectors(builder, count, VECTOR_BYTES // (target[1].bitwidth // 8), copy)


def in_vectors(builder: Any, count: Any, lanes: int, emit: Callable[[Any, int], None]) -> None:
    """Emit loops over n from 0 to count, in whole vectors first and then one by one."""
    whole = builder.and_(count, count.type(-lanes))
    for first, last, step in ((count.type(0), whole, lanes), (whole, count, 1)):
        with (
            builder.if_then(builder.icmp_signed("<", first, last)),
            emit_loop(builder, first, last, count.type(step)) as (n,),
        ):
            emit(n, step)


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """Give a number to every lane."""
    lane = ir.IntType(32)
    empty = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    mask = ir.Constant(ir.VectorType(lane, lanes), [0] * lanes)
    return builder.shuffle_vector(builder.insert_element(empty, value, lane(0)), empty, mask)


def converted(builder: Any, value: Any, source: Any, target: Any, kind: Any) -> Any:
    """Convert lanes of Numba's type ``source`` to ``target``, which LLVM calls ``kind``."""
    if isinstance(source, types.Float):
        if source.bitwidth == target.bitwidth:
            return value
        return (builder.fpext if source.bitwidth < target.bitwidth else builder.fptrunc)(
            value, kind
        )
    if isinstance(target, types.Float):
        return builder.uitofp(value, kind)
    return builder.zext(value, kind) if source.bitwidth < target.bitwidth else value


@intrinsic
def prefetch(typingctx: Any, array: Any, at: Any) -> tuple[Any, Emit]:
    """Begin to load the cache line of ``array[at]``; any place is allowed, even outside."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        pointer = builder.gep(data_of(context, builder, signature.args[0], arguments[0]),
                              [arguments[1]])  # fmt: skip
        prefetch_line(builder, pointer, write=False)
        return context.get_dummy_value()

    return types.void(array, types.intp), emit


@intrinsic
def lowest_bit(typingctx: Any, mask: Any) -> tuple[Any, Emit]:
    """Find the lowest bit that is set in an int64 that is not 0."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.cttz(arguments[0], ir.IntType(1)(1))

    return types.int64(types.int64), emit


@intrinsic
def count_bits(typingctx: Any, mask: Any) -> tuple[Any, Emit]:
    """Count the bits that are set in an int64."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.ctpop(arguments[0])

    return types.int64(types.int64), emit


@intrinsic
def unchecked_get(typingctx: Any, array: Any, at: Any) -> tuple[Any, Emit]:
    """Read the element at place ``at``, never negative: saves the test that Numba would make."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        data = data_of(context, builder, signature.args[0], arguments[0])
        value = builder.load(builder.gep(data, [arguments[1]]))
        return context.cast(builder, value, array.dtype, signature.return_type)

    kind = types.int64 if isinstance(array.dtype, types.Integer) else array.dtype
    return kind(array, types.intp), emit


@intrinsic
def unchecked_set(typingctx: Any, array: Any, at: Any, value: Any) -> tuple[Any, Emit]:
    """Write a number to place ``at``, not negative, of an array's memory, in the array's type."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        data = data_of(context, builder, signature.args[0], arguments[0])
        number = context.cast(builder, arguments[2], signature.args[2], array.dtype)
        builder.store(number, builder.gep(data, [arguments[1]]))
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit
