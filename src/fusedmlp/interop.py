"""Conversion of other libraries' arrays to NumPy arrays. No such library is imported here.

Data frames and object arrays are converted by tables.py.

The location of an array follows from DLPack's ``__dlpack_device__`` (the array API standard,
2021.12), or from the presence of ``__cuda_array_interface__``. Arrays in host memory are used
without a copy. Arrays in GPU memory are used without a copy by engines on the same GPU, and
rejected by all others: the caller has to copy a data set from the device explicitly.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import numpy as np

from fusedmlp.data_frames import as_numbers, columns_of, stacked
from fusedmlp.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

ForeignArray: TypeAlias = Any
"""An array of a library that is not imported here."""

HOST_DEVICES: Final = frozenset({1, 3, 11})
"""DLPack device types of host memory: kDLCPU, kDLCUDAHost, kDLROCMHost (dlpack.h)."""

CUDA_DEVICES: Final = frozenset({2, 13})
"""DLPack's kDLCUDA and kDLCUDAManaged."""

NUMERIC: Final = "buif"
"""Kinds of NumPy's dtypes that are real numbers."""


def dlpack_device(array: object) -> tuple[int, int] | None:
    """Return the DLPack type and number of an array's device; None without DLPack support."""
    device: Callable[[], tuple[int, int]] | None = getattr(array, "__dlpack_device__", None)
    if device is None:
        return None
    kind, number = device()
    return int(kind), int(number)


def on_device(array: object) -> bool:
    """Whether an array is in device memory, which NumPy cannot read."""
    if isinstance(array, np.ndarray):  # the common case, without slow attribute look-ups
        return False
    if hasattr(array, "__cuda_array_interface__"):
        return True
    device = dlpack_device(array)
    return device is not None and device[0] not in HOST_DEVICES


def device_of(array: ForeignArray) -> AbstractContextManager[object]:
    """Return a context in which an array's device is the current one, for libraries such as CuPy.

    CuPy's ``array.device`` is such a context. NumPy's is a string; its context does nothing.
    """
    if isinstance(array, np.ndarray):
        return nullcontext()
    device = getattr(array, "device", None)
    return device if isinstance(device, AbstractContextManager) else nullcontext()


def host_array(name: str, array: ForeignArray) -> npt.NDArray[Any]:
    """Convert numbers in host memory to a NumPy array, without a copy if possible.

    Parameters
    ----------
    name
        Its name in messages.
    array
        An array of any library, a data frame, nested sequences.

    Raises
    ------
    InvalidInputError
        It is in device memory, or NumPy cannot convert it, or it holds something but numbers.
    """
    if type(array) is np.ndarray and array.dtype.kind in NUMERIC:
        return array
    if on_device(array):
        raise InvalidInputError(
            f"{name} is a {_type_of(array)} in GPU memory, and this backend computes on the CPU: "
            f"pass a copy in host memory ({name}.get() of CuPy, {name}.cpu() of PyTorch), or use "
            "backend 'cupy'"
        )
    columns = columns_of(array)
    if columns is not None:
        return stacked(name, columns, len(array))
    return as_numbers(name, _from_host(name, array))


def host_copy(name: str, array: ForeignArray) -> npt.NDArray[Any]:
    """Convert an array-like object to a NumPy array; an array in device memory is copied.

    Its elements need not be numbers. A data frame of one column is (N, 1).

    For targets, weights and samples of rows, which all backends read on the host.
    """
    if not on_device(array):
        columns = columns_of(array)
        if columns is None:
            return _from_host(name, array)
        if len(columns) == 1:
            return columns[0].values.reshape(-1, 1)
        return stacked(name, columns, len(array))
    for method in ("get", "copy_to_host", "cpu"):  # of CuPy, Numba and PyTorch
        if hasattr(array, method):
            return np.asarray(getattr(array, method)())
    try:
        return np.asarray(array)  # JAX arrays copy themselves to the host
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{name} is a {_type_of(array)} in device memory that cannot be copied to the host: "
            f"{error}; pass a NumPy array"
        ) from error


def _from_host(name: str, array: ForeignArray) -> npt.NDArray[Any]:
    try:
        if hasattr(array, "__dlpack__") and not hasattr(array, "__array__"):
            return np.from_dlpack(array)
        found = np.asanyarray(array)
        if found.dtype.kind in "US" and not hasattr(array, "dtype"):
            # NumPy turns the numbers beside a text into text: messages shall name the text.
            found = np.asanyarray(array, dtype=object)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{name} is a {_type_of(array)} that NumPy cannot convert: "
            f"{_uneven(name, array) or error}"
        ) from error
    return cast("npt.NDArray[Any]", found)


def _uneven(name: str, rows: object) -> str | None:
    """Return which row of nested sequences has another length than the first; None if none has."""
    if not isinstance(rows, list | tuple):
        return None
    lengths = [len(row) if hasattr(row, "__len__") else 0 for row in rows]
    other = next((i for i, length in enumerate(lengths) if length != lengths[0]), None)
    if other is None:
        return None
    return (
        f"{name}[0] has {lengths[0]} values, {name}[{other}] has {lengths[other]}; "
        "rows need the same length"
    )


def _type_of(array: object) -> str:
    return f"{type(array).__module__}.{type(array).__qualname__}"
