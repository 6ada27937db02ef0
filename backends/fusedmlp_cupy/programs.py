"""What stands between this backend and CuPy's objects: arrays, compiled kernels, their arguments.

Types for the files above, which never see CuPy itself; what makes these is in device.py. Nothing is
compiled or allocated here.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

CupyModule: TypeAlias = Any
"""The module ``cupy``, which publishes no types."""

Geometry: TypeAlias = tuple[int, ...]
Argument: TypeAlias = "DeviceArray | np.generic"
"""What a kernel takes: a device array, or a NumPy scalar of exactly the parameter's width."""

SHRUNK: Final = ".*grid size exceeds"
"""Words of CuPy's warning that it launches a cooperative grid smaller than it was asked to."""


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


class CooperativeKernel:
    """A kernel whose blocks wait for each other: all of them run at once, or none does.

    Parameters
    ----------
    function
        CuPy's kernel.
    threads, shared_bytes
        Of a block.
    resident
        Blocks that the device can run at once.
    seconds
        What compiling took.
    """

    def __init__(
        self,
        function: Callable[..., None],
        *,
        threads: int,
        shared_bytes: int,
        resident: int,
        seconds: float,
    ) -> None:
        self._function = function
        self._threads, self._shared_bytes = threads, shared_bytes
        self.resident = resident
        self.seconds = seconds

    def launch(self, blocks: int, args: tuple[Argument, ...]) -> None:
        """Queue it on the current device and stream.

        Raises
        ------
        RuntimeError
            The blocks cannot all be resident; nothing has been queued.
        """
        with warnings.catch_warnings():
            # CuPy warns before it launches a smaller grid.
            warnings.filterwarnings("error", SHRUNK)
            try:
                self._function((blocks,), (self._threads,), args, shared_mem=self._shared_bytes)
            except Warning as warning:
                raise RuntimeError(f"{blocks} blocks cannot be resident: {warning}") from warning
