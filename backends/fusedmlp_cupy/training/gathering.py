"""Rows of several batches, gathered in their order by one launch, at a fixed address.

The persistent kernel reads all rows that a launch trains on; in a group of steps each step reads
its part. This file only provides the memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedmlp.errors import DeviceMemoryError

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp_cupy.runtime.buffers import Buffers
    from fusedmlp_cupy.runtime.types import DeviceArray


class GatheredRows:
    """Memory for an engine's gathered rows.

    Parameters
    ----------
    width
        Numbers in a row.

    Attributes
    ----------
    max_batches
        Most batches gathered at a time; fewer once memory has turned out to be short.
    """

    def __init__(
        self, buffers: Buffers, width: int, dtype: npt.DTypeLike, max_batches: int
    ) -> None:
        self._buffers, self._width, self._dtype = buffers, width, dtype
        self.max_batches = max(1, max_batches)

    def reserve(self, n_batches: int, size: int) -> None:
        """Allocate the rows of so many batches, or of as many as fit; a single one is not tried."""
        n_batches = min(n_batches, self.max_batches)
        while n_batches > 1:
            try:
                self.rows(n_batches * size)
            except DeviceMemoryError:
                n_batches = self.max_batches = n_batches // 2
            else:
                break

    def rows(self, n: int) -> DeviceArray:
        """Return memory for n rows.

        Raises
        ------
        DeviceMemoryError
            They do not fit.
        """
        return self._buffers.take("gathered", (n, self._width), self._dtype)
