"""Records that describe the operands of a product inside flat arrays. Nothing is computed here."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from fusedmlp.types import FloatArray, IntArray


class Operand(NamedTuple):
    """A matrix in a flat array: row i of panel p begins at ``start + i * row + p * panel``.

    A panel is NR neighbouring columns, which are contiguous in each row. A row-major matrix has
    ``panel`` = NR; a matrix in panels has ``row`` = NR and ``panel`` = NR times its rows.

    Parameters
    ----------
    values
        The flat array.
    start
        Position of the first element.
    row, panel
        Elements from one row to the next, and from one panel to the next.
    """

    values: FloatArray
    start: int
    row: int
    panel: int


class TiledOperand(NamedTuple):
    """The left operand of the micro-kernel, tile by tile of MR rows.

    Element (i, k) of tile n is ``values[start + n * tile + i * row + k * column]``. Where
    ``indexed``, row i through all tiles is row ``row_indices[first_row + i]`` of ``values``, and
    ``tile`` is 0; this needs ``IN_PLACE`` of compiler/host.py.
    """

    values: FloatArray
    start: int
    row: int
    column: int
    tile: int
    row_indices: IntArray
    first_row: int
    indexed: bool


class Block(NamedTuple):
    """The part of a result that a call computes: ranges of rows and of panels."""

    first_row: int
    last_row: int
    first_panel: int
    last_panel: int


class Update(NamedTuple):
    """How a product changes its result: C = α·A·B, or C += α·A·B with ``accumulate``."""

    alpha: float
    accumulate: bool
