"""Types for CuPy's objects, which has none of its own: arrays, compiled kernels, arguments.

The engine sees these and never CuPy itself; device.py makes the objects. Nothing is compiled or
allocated here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np
    import numpy.typing as npt

CupyModule: TypeAlias = Any
"""The module ``cupy``, which publishes no types."""

Geometry: TypeAlias = tuple[int, ...]
Argument: TypeAlias = "DeviceArray | np.generic"
"""Argument of a kernel: a device array, or a NumPy scalar of exactly the parameter's width."""

Transposed: TypeAlias = Literal["", "a", "b"]
"""Operand of a product, if any, that is given as its transpose, in C order."""


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
        """Address of the first element."""

    def __getitem__(self, index: slice) -> DeviceArray:
        """View of a range of rows."""

    def reshape(self, *shape: int) -> DeviceArray:
        """View of another shape."""

    def set(self, host: npt.NDArray[Any], stream: object = None) -> None:
        """Copy from the host, on a stream or on the current one."""

    def get(self) -> npt.NDArray[Any]:
        """Copy to the host and wait."""


class Module(Protocol):
    """The part of ``cupy.RawModule`` that this backend uses."""

    def get_function(self, name: str) -> Callable[..., None]:
        """Return a kernel."""


class Program:
    """A compiled program for one floating type; every launch but the persistent is made here.

    Parameters
    ----------
    module
        CuPy's module of it.
    seconds
        Time that compiling took.
    strict
        Whether it is the strict program, whose sums have one thread each.
    """

    def __init__(self, module: Module, seconds: float, *, strict: bool = False) -> None:
        self._module = module
        self._functions: dict[str, Callable[..., None]] = {}
        self.seconds = seconds
        self.strict = strict

    def launch(
        self, name: str, grid: Geometry, block: Geometry, args: tuple[Argument, ...]
    ) -> None:
        """Queue one kernel on the current device and stream."""
        function = self._functions.get(name)
        if function is None:
            function = self._functions[name] = self._module.get_function(name)
        function(grid, block, args)
