"""Rows of several batches, gathered in their order by one launch, at addresses that stay.

For the persistent kernels, which read all that a launch trains on, and for groups of steps, of
which each reads its own part. Which rows they are, and when they are gathered, is said there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedmlp.errors import DeviceMemoryError

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp_cupy.buffers import Buffers
    from fusedmlp_cupy.programs import DeviceArray


class Gathered:
    """Where an engine's gathered rows lie.

    Parameters
    ----------
    width
        Numbers in a row.
    most
        Batches at a time at most.

    Attributes
    ----------
    most
        The same, or fewer where memory has turned out to be short.
    """

    def __init__(self, buffers: Buffers, width: int, dtype: npt.DTypeLike, most: int) -> None:
        self._buffers, self._width, self._dtype = buffers, width, dtype
        self.most = max(1, most)

    def make_room(self, n_batches: int, size: int) -> int:
        """Have memory for the rows of so many batches, or as many as there is; return how many.

        A single one is not tried.
        """
        n_batches = min(n_batches, self.most)
        while n_batches > 1:
            try:
                self.rows(n_batches * size)
            except DeviceMemoryError:
                n_batches = self.most = n_batches // 2
            else:
                break
        return n_batches

    def rows(self, n: int) -> DeviceArray:
        """Return the place of so many rows.

        Raises
        ------
        DeviceMemoryError
            They do not fit.
        """
        return self._buffers.take("gathered", (n, self._width), self._dtype)
