"""Records of sparse inputs: a batch's entries, CSR rows, packed rows, transposed entries."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from fusedmlp.types import FloatArray, IntArray


class Entries(NamedTuple):
    """The nonzero inputs of a batch, row by row.

    Parameters
    ----------
    indices, values
        Row i's entries from ``i * capacity`` on, by ascending input.
    bounds
        (B·SEGMENT_BOUNDS,) positions at which row i's entries of each segment of the inputs begin,
        and at which those of the last segment end.
    capacity
        Room for the entries of a row.
    """

    indices: npt.NDArray[np.uint32]
    values: FloatArray
    bounds: IntArray
    capacity: int


class CsrRows(NamedTuple):
    """A CSR matrix: ``indptr`` (N + 1,), ``indices`` and ``values`` (nnz,)."""

    indptr: IntArray
    indices: npt.NDArray[np.int32]
    values: FloatArray


class PackedRows(NamedTuple):
    """A data set in the format of packed_rows.py.

    Parameters
    ----------
    starts
        (N + 1,) byte at which each packed row begins.
    indices, pixels, values
        The same memory as uint16, as bytes, and as the engine's floats.
    """

    starts: IntArray
    indices: npt.NDArray[np.uint16]
    pixels: npt.NDArray[np.uint8]
    values: FloatArray


class RowMasks(NamedTuple):
    """Transposed entries of up to BITMASK_ROWS rows: for each input, the rows that have it.

    Parameters
    ----------
    masks
        (D,) bit i of input d: whether row i has the input.
    positions
        (2·BITMASK_ROWS,) position of row i's next value in ``Entries.values``. The second half is
        work space.
    """

    masks: IntArray
    positions: IntArray
