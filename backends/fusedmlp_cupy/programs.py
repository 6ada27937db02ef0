"""What stands between this backend and CuPy's objects: arrays, compiled kernels, their arguments.

Types for the files above, which never see CuPy itself; what makes these is in device.py. Nothing is
compiled or allocated here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

CupyModule: TypeAlias = Any
"""The module ``cupy``, which publishes no types."""

Geometry: TypeAlias = tuple[int, ...]
Argument: TypeAlias = "DeviceArray | np.generic"
"""What a kernel takes: a device array, or a NumPy scalar of exactly the parameter's width."""


class Pointer(Protocol):
    """The part of ``cupy.cuda.MemoryPointer`` that this backend uses."""

    ptr: int


class DeviceArray(Protocol):
    """The part of ``cupy.ndarray`` that this backend uses."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    T: DeviceArray
    nbytes: int

    @property
    def data(self) -> Pointer:
        """Where it begins."""

    def __getitem__(self, index: slice) -> DeviceArray:
        """View of a range of rows."""

    def reshape(self, *shape: int) -> DeviceArray:
        """View of another shape."""

    def set(self, host: npt.NDArray[Any], stream: object = None) -> None:
        """Copy from the host, on a stream or on the current one."""

    def get(self) -> npt.NDArray[Any]:
        """Copy to the host and wait."""


class Program:
    """The compiled kernels for one floating type; every launch goes through here."""

    def __init__(self, functions: dict[str, Callable[..., None]], seconds: float) -> None:
        self._functions = functions
        self.seconds = seconds

    def launch(
        self, name: str, grid: Geometry, block: Geometry, args: tuple[Argument, ...]
    ) -> None:
        """Queue one kernel on the current device and stream."""
        self._functions[name](grid, block, args)
