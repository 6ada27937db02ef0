"""Arrays of other libraries: where they lie, and how they become NumPy's. None is imported here.

An array tells where it lies through DLPack's ``__dlpack_device__`` (the array API standard,
2021.12), or by having ``__cuda_array_interface__``. What is in host memory is used as it is. What
is in a GPU's memory goes into an engine of that GPU as it is, and into no other: a copy of a whole
data set across the bus should be seen in the program that asks for it.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from fusedmlp.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

ForeignArray: TypeAlias = Any
"""An array of a library that this one does not know."""

HOST_DEVICES: Final = frozenset({1, 3, 11})
"""DLPack's device types in host memory: kDLCPU, kDLCUDAHost, kDLROCMHost (dlpack.h)."""

CUDA_DEVICES: Final = frozenset({2, 13})
"""DLPack's kDLCUDA and kDLCUDAManaged."""


def dlpack_device(array: object) -> tuple[int, int] | None:
    """DLPack's type and number of the device that holds an array; None where it does not say."""
    ask: Callable[[], tuple[int, int]] | None = getattr(array, "__dlpack_device__", None)
    if ask is None:
        return None
    kind, number = ask()
    return int(kind), int(number)


def on_device(array: object) -> bool:
    """Tell whether an array lies in a device's memory, where NumPy cannot read it."""
    if isinstance(array, np.ndarray):  # most are, and need not be asked
        return False
    if hasattr(array, "__cuda_array_interface__"):
        return True
    device = dlpack_device(array)
    return device is not None and device[0] not in HOST_DEVICES


def device_of(array: ForeignArray) -> AbstractContextManager[object]:
    """Make an array's device current for a while, where its library works on the current one only.

    CuPy does; its ``device`` is a context for this. NumPy's is a word, and nothing happens.
    """
    if isinstance(array, np.ndarray):
        return nullcontext()
    device = getattr(array, "device", None)
    return device if isinstance(device, AbstractContextManager) else nullcontext()


def count_rows(x: ForeignArray) -> int:
    """N of anything array-like, wherever it lies."""
    shape = x.shape if hasattr(x, "shape") else np.shape(x)
    return int(shape[0])


def host_array(name: str, array: object) -> npt.NDArray[Any]:
    """Take anything array-like in host memory as a NumPy array, without a copy where there is none.

    Parameters
    ----------
    name
        What messages call it.

    Raises
    ------
    InvalidInputError
        It lies in a device's memory, or NumPy cannot take it.
    """
    if isinstance(array, np.ndarray):
        return array
    if on_device(array):
        raise InvalidInputError(
            f"{name} is a {_type_of(array)} in a GPU's memory, and this backend computes on the "
            f"CPU: pass a copy in host memory ({name}.get() of CuPy, {name}.cpu() of PyTorch), or "
            "use backend 'cupy'"
        )
    try:
        if hasattr(array, "__dlpack__") and not hasattr(array, "__array__"):
            return np.from_dlpack(array)
        return np.asanyarray(array)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{name} is a {_type_of(array)} that NumPy does not take: {error}"
        ) from error


def host_copy(name: str, array: ForeignArray) -> npt.NDArray[Any]:
    """Take anything array-like as a NumPy array; what lies in a device's memory is copied.

    For targets, weights and samples of rows, which every backend looks at on the host.
    """
    if not on_device(array):
        return np.asarray(host_array(name, array))
    for method in ("get", "copy_to_host", "cpu"):  # of CuPy, Numba and PyTorch
        if hasattr(array, method):
            return np.asarray(getattr(array, method)())
    try:
        return np.asarray(array)  # JAX copies of itself
    except (RuntimeError, TypeError, ValueError) as error:
        raise InvalidInputError(
            f"{name} is a {_type_of(array)} in a device's memory that cannot be read from here: "
            f"{error}; pass a NumPy array"
        ) from error


def _type_of(array: object) -> str:
    return f"{type(array).__module__}.{type(array).__qualname__}"
