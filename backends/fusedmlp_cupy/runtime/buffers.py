"""Device arrays that calls use one after another, at fixed addresses.

A CUDA graph holds addresses. So what every call brings along (order, rates, losses, …) goes into
arrays that are allocated once, for the largest call so far. There are no kernels here.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp_cupy.runtime.device import CupyDevice
    from fusedmlp_cupy.runtime.types import DeviceArray


class Buffers:
    """Arrays by name. A call must be over before the next one uses them.

    Attributes
    ----------
    generation
        Changes whenever an array has moved.
    """

    def __init__(self, device: CupyDevice) -> None:
        self.device = device
        self.generation = 0
        self._arrays: dict[str, DeviceArray] = {}
        self._rows = self._batches = 0

    def reserve(self, rows: int, size: int) -> None:
        """Make later allocations long enough for calls of so many rows in batches of ``size``."""
        self._rows, self._batches = max(self._rows, rows), max(self._batches, -(-rows // size))

    def take(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: npt.DTypeLike,
        *,
        by_row: bool = False,
        each: int = 1,
    ) -> DeviceArray:
        """Return an array whose values are left over from earlier calls.

        Parameters
        ----------
        by_row, each
            Whether it has entries for rows or for batches, and elements of an entry.
        """
        n = math.prod(shape)
        kept = self._arrays.get(name)
        if kept is None or kept.shape[0] < n:
            longest = each * (self._rows if by_row else self._batches)
            kept = self._arrays[name] = self.device.empty((max(n, longest),), dtype)
            self.generation += 1
        return kept[:n].reshape(*shape)

    def upload(
        self, name: str, host: npt.NDArray[Any], *, by_row: bool = False, each: int = 1
    ) -> DeviceArray:
        """Copy a host array into the array of that name."""
        array = self.take(name, host.shape, host.dtype, by_row=by_row, each=each)
        self.device.copy_in(array, host)
        return array
