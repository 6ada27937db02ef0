"""Loads and stores of vectors: contiguous, strided, gathered, and partial at an array's end.

``at`` counts elements from the start of a C-ordered array of any dimensions. Arithmetic on vectors
is in vectors.py. No bounds are checked.
"""

# ruff: noqa: ANN401, ARG001 - see intrinsics.py

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types

from fusedmlp_numba.simd.emitter import convert
from fusedmlp_numba.simd.intrinsics import data_pointer, intrinsic
from fusedmlp_numba.simd.vectors import VectorType, vector_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp_numba.simd.intrinsics import Emit


def _pointer(
    context: Any, builder: Any, signature: Any, array: Any, at: Any, kind: Any = None
) -> Any:
    """Pointer to an element of the first argument's array, or to an LLVM ``kind`` at its place."""
    pointer = builder.gep(data_pointer(context, builder, signature.args[0], array), [at])
    return pointer if kind is None else builder.bitcast(pointer, kind.as_pointer())


def _alignment(signature: Any) -> int:
    """Bytes of an element of the first argument's array: vectors are aligned no better."""
    size: int = signature.args[0].dtype.bitwidth // 8
    return size


@intrinsic
def load(typingctx: Any, array: Any, at: Any) -> tuple[Any, Emit]:
    """array[at : at + lanes]."""
    kind = vector_of(array)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, at = arguments
        pointer = _pointer(context, builder, signature, array, at, context.get_value_type(kind))
        return builder.load(pointer, align=_alignment(signature))

    return kind(array, types.intp), emit


@intrinsic
def load_as(typingctx: Any, array: Any, at: Any, like: Any) -> tuple[Any, Emit]:
    """array[at : at + lanes] of any number type, converted to the type of the vector ``like``."""
    stored = VectorType(array.dtype, like.count)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, at, _ = arguments
        kind = context.get_value_type(stored)
        pointer = _pointer(context, builder, signature, array, at, kind)
        elements = builder.load(pointer, align=_alignment(signature))
        return convert(builder, elements, stored.dtype, like.dtype, context.get_value_type(like))

    return like(array, types.intp, like), emit


@intrinsic
def store(typingctx: Any, array: Any, at: Any, value: Any) -> tuple[Any, Emit]:
    """array[at : at + lanes] = value."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, at, vector = arguments
        pointer = _pointer(context, builder, signature, array, at, vector.type)
        builder.store(vector, pointer, align=_alignment(signature))
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


@intrinsic
def store_partial(typingctx: Any, array: Any, at: Any, value: Any, count: Any) -> tuple[Any, Emit]:
    """array[at : at + n] = value[:n] with n = min(count, lanes), for ``count`` ≥ 1."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, at, vector, count = arguments
        pointer = _pointer(context, builder, signature, array, at, vector.type)
        whole = builder.icmp_signed(">=", count, count.type(value.count))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                builder.store(vector, pointer, align=_alignment(signature))
            with otherwise:
                lanes = builder.bitcast(pointer, vector.type.element.as_pointer())
                _scatter(builder, vector, lanes, count.type(1), count)
        return context.get_dummy_value()

    return types.void(array, types.intp, value, types.intp), emit


@intrinsic
def load_strided(typingctx: Any, array: Any, at: Any, stride: Any, count: Any) -> tuple[Any, Emit]:
    """Lane n = array[at + n * stride]; lanes from ``count`` on repeat the one before."""
    kind = vector_of(array)

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, at, stride, count = arguments
        data = data_pointer(context, builder, signature.args[0], array)
        elements = [
            builder.load(builder.gep(data, [builder.add(at, offset)]))
            for offset in _clamped_offsets(builder, stride, count, kind.count)
        ]
        return _vector(context, builder, kind, elements)

    word = types.intp
    return kind(array, word, word, word), emit


@intrinsic
def gather_strided(
    typingctx: Any, array: Any, at: Any, stride: Any, rows: Any, first: Any, count: Any, like: Any
) -> tuple[Any, Emit]:
    """Lane n = array[at + rows[first + n] * stride], in the type of the vector ``like``.

    Lanes from ``count`` on repeat the one before.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, at, stride, rows, first, count, _ = arguments
        data = data_pointer(context, builder, signature.args[0], array)
        numbers = data_pointer(context, builder, signature.args[3], rows)
        elements = []
        for n in _clamped_offsets(builder, count.type(1), count, like.count):
            row = builder.load(builder.gep(numbers, [builder.add(first, n)]))
            element = builder.load(builder.gep(data, [builder.add(at, builder.mul(row, stride))]))
            elements.append(context.cast(builder, element, signature.args[0].dtype, like.dtype))
        return _vector(context, builder, like, elements)

    word = types.intp
    return like(array, word, word, types.Array(types.int64, 1, "C"), word, word, like), emit


@intrinsic
def store_strided(
    typingctx: Any, array: Any, at: Any, stride: Any, value: Any, count: Any
) -> tuple[Any, Emit]:
    """array[at + n * stride] = lane n, for n < min(count, lanes), ``count`` ≥ 1."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        array, at, stride, vector, count = arguments
        start = _pointer(context, builder, signature, array, at)
        _scatter(builder, vector, start, stride, count)
        return context.get_dummy_value()

    word = types.intp
    return types.void(array, word, word, value, word), emit


def _scatter(builder: Any, vector: Any, start: Any, stride: Any, count: Any) -> None:
    """Store lane n at ``start[n * stride]`` for n < count.

    The lanes from ``count`` on go to the address of lane count − 1, which is stored after them.
    """
    offsets = list(enumerate(_clamped_offsets(builder, stride, count, vector.type.count)))
    for lane, offset in reversed(offsets):
        element = builder.extract_element(vector, ir.IntType(32)(lane))
        builder.store(element, builder.gep(start, [offset]))


def _clamped_offsets(builder: Any, stride: Any, count: Any, lanes: int) -> list[Any]:
    """Offsets n·stride for n below ``lanes``, with (count − 1)·stride from n = count − 1 on."""
    final = builder.sub(count, count.type(1))
    last = builder.mul(final, stride)
    return [
        builder.select(
            builder.icmp_signed("<", count.type(n), final),
            # The product is selected, and not its factor: this one is loop-invariant.
            builder.mul(count.type(n), stride),
            last,
        )
        for n in range(lanes)
    ]


def _vector(context: Any, builder: Any, kind: VectorType, elements: list[Any]) -> Any:
    vector = ir.Constant(context.get_value_type(kind), ir.Undefined)
    for n, element in enumerate(elements):
        vector = builder.insert_element(vector, element, ir.IntType(32)(n))
    return vector
