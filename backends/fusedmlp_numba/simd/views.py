"""Numba arrays and records over memory given by an address: no copies, no bounds.

Compiled code receives the address of a record in place of dozens of arrays. Each array would cost
a call from Python half a microsecond, and the compiler seven values to pass along. The price is
that nothing here knows how long a stretch of memory is: the engine allocates it, and keeps it
alive while a call runs. Arithmetic is elsewhere.
"""

# ruff: noqa: ANN401, ARG001 - values of LLVM's builder and Numba's types have no static types, and
# an intrinsic's own parameters are types: the values come to the function that it returns.

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numba import types
from numba.core import cgutils as untyped_cgutils
from numba.np import arrayobj as untyped_arrayobj

from fusedmlp_numba.simd.intrinsics import intrinsic

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp_numba.simd.intrinsics import Emit

arrayobj: Any = untyped_arrayobj
cgutils: Any = untyped_cgutils

UINT8, UINT16, UINT32 = np.dtype(np.uint8), np.dtype(np.uint16), np.dtype(np.uint32)
INT32, INT64 = np.dtype(np.int32), np.dtype(np.int64)
FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)

UNBOUNDED: Final = 2**40
"""Length of a view over an address: more than any memory, so that no slice is shortened."""


def _array(
    context: Any, builder: Any, kind: Any, address: Any, shape: list[Any], strides: list[Any]
) -> Any:
    """Build an array value over an address; strides count elements."""
    element = context.get_data_type(kind.dtype)
    itemsize = context.get_constant(types.intp, context.get_abi_sizeof(element))
    array = context.make_array(kind)(context, builder)
    arrayobj.populate_array(
        array,
        data=builder.inttoptr(address, element.as_pointer()),
        shape=shape,
        strides=[builder.mul(stride, itemsize) for stride in strides],
        itemsize=itemsize,
        meminfo=None,
    )
    return _value(array)


def _vector(context: Any, builder: Any, kind: Any, address: Any) -> Any:
    length, one = (context.get_constant(types.intp, n) for n in (UNBOUNDED, 1))
    return _array(context, builder, kind, address, [length], [one])


def _value(array: Any) -> Any:
    return array._getvalue()  # noqa: SLF001 - as Numba's own code generators do


@intrinsic
def record_at(typingctx: Any, address: Any, dtype: Any) -> tuple[Any, Emit]:
    """View of the record of a structured dtype at an address."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(dtype.dtype))

    return dtype.dtype(types.intp, dtype), emit


@intrinsic
def array_at(typingctx: Any, address: Any, dtype: Any) -> tuple[Any, Emit]:
    """View of the elements of a dtype from an address on, as a flat array."""
    kind = types.Array(dtype.dtype, 1, "C")

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return _vector(context, builder, kind, arguments[0])

    return kind(types.intp, dtype), emit


@intrinsic
def table_at(typingctx: Any, address: Any, dtype: Any, width: Any) -> tuple[Any, Emit]:
    """View of rows of ``width`` elements of a dtype from an address on."""
    kind = types.Array(dtype.dtype, 2, "C")

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        address, _, width = arguments
        rows, one = (context.get_constant(types.intp, n) for n in (UNBOUNDED, 1))
        return _array(context, builder, kind, address, [rows, width], [width, one])

    return kind(types.intp, dtype, types.intp), emit


def _float_type(engine: Any) -> Any:
    """Return the floating type of an EngineContext: that of its field ``unit``."""
    return engine.typeof("unit")


@intrinsic
def floats_at(typingctx: Any, engine: Any, address: Any) -> tuple[Any, Emit]:
    """View of an engine's floats from an address on, as a flat array."""
    kind = types.Array(_float_type(engine), 1, "C")

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return _vector(context, builder, kind, arguments[1])

    return kind(engine, types.intp), emit


@intrinsic
def float_rows_at(
    typingctx: Any, engine: Any, address: Any, first: Any, last: Any, stride: Any
) -> tuple[Any, Emit]:
    """View of rows first to last of an engine's matrix at an address, ``stride`` elements each."""
    kind = types.Array(_float_type(engine), 2, "C")

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        _, address, first, last, stride = arguments
        itemsize = context.get_constant(
            types.intp, context.get_abi_sizeof(context.get_data_type(kind.dtype))
        )
        start = builder.add(address, builder.mul(builder.mul(first, stride), itemsize))
        one = context.get_constant(types.intp, 1)
        shape, strides = [builder.sub(last, first), stride], [stride, one]
        return _array(context, builder, kind, start, shape, strides)

    word = types.intp
    return kind(engine, word, word, word, word), emit


def _slice(context: Any, builder: Any, kind: Any, value: Any, first: Any, last: Any) -> Any:
    """View of a C-ordered array from ``first`` to ``last`` of its first dimension."""
    array = context.make_array(kind)(context, builder, value)
    strides = cgutils.unpack_tuple(builder, array.strides, kind.ndim)
    shape = cgutils.unpack_tuple(builder, array.shape, kind.ndim)
    offset = builder.mul(first, strides[0])
    data = builder.gep(builder.bitcast(array.data, cgutils.voidptr_t), [offset])
    array.data = builder.bitcast(data, array.data.type)
    array.shape = cgutils.pack_array(builder, [builder.sub(last, first), *shape[1:]])
    return _value(array)


@intrinsic
def unchecked_slice(typingctx: Any, array: Any, first: Any, last: Any) -> tuple[Any, Emit]:
    """array[first:last] for 0 ≤ first ≤ last ≤ len(array), without code for other bounds."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        return _slice(context, builder, array, *arguments)

    return array(array, types.intp, types.intp), emit


@intrinsic
def unchecked_tail(typingctx: Any, array: Any, first: Any) -> tuple[Any, Emit]:
    """array[first:] for 0 ≤ first ≤ len(array), without code for other bounds."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Sequence[Any]) -> Any:
        value, first = arguments
        shape = context.make_array(array)(context, builder, value).shape
        last = cgutils.unpack_tuple(builder, shape, array.ndim)[0]
        return _slice(context, builder, array, value, first, last)

    return array(array, types.intp), emit
