"""Calls for a few rows of dense inputs, described once for each number of rows and type.

One row takes less time to compute than its description takes to write. So the inputs are copied to
where they are expected, and all that was told of earlier ones holds: their shape and type need not
be checked again either, and whether values are finite is left to the compiled code that reads them.
Nothing is computed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias, TypeGuard

import numpy as np

from fusedmlp.validation import HostData
from fusedmlp_numba.constants import KC
from fusedmlp_numba.data import SEARCH_COST_FORWARD, describe_data, skips_zeros

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Callable

    import numpy.typing as npt

    from fusedmlp.types import DenseInputs, FloatArray, Inputs, IntArray
    from fusedmlp_numba.data import DataDescriptor, DescriptorRecord, Form

MAX_ROWS: Final = 16
MAX_VALUES: Final = 2**13
"""Rows, and numbers in them, that are copied to be computed with: a microsecond or two, half of
what describing takes."""


class PreparedCall(NamedTuple):
    """A call that compiled code is ready to begin.

    Parameters
    ----------
    record, address
        The Call, and where it is.
    workers
        How many it is for.
    inputs
        What it is told of them.
    """

    record: npt.NDArray[np.void]
    address: ctypes.c_int64
    workers: int
    inputs: DescriptorRecord


Describe: TypeAlias = "Callable[[DataDescriptor, IntArray, FloatArray], PreparedCall]"
"""Describes the call that predicts rows of these numbers, and where it puts the outputs."""


class PredictionBuffer(NamedTuple):
    """Where so many rows of a type go, and the ways to take them.

    Parameters
    ----------
    inputs, outputs
        (n, D) and (n, K). The first output is NaN where an input is not finite: the others are then
        not computed.
    sparse, dense
        For inputs with many zeros, and with few. For one row they are the same where that changes
        no bit: every weight is read once, zeros or not.
    units
        Of the first layer, with the empty ones of its last panel.
    """

    inputs: DenseInputs
    outputs: FloatArray
    sparse: PreparedCall
    dense: PreparedCall
    units: int

    def call(self) -> PreparedCall:
        """Return the better way for the inputs that were copied last."""
        if self.sparse is self.dense or skips_zeros(self.inputs, self.units, SEARCH_COST_FORWARD):
            return self.sparse
        return self.dense


class SmallBatchPredictor:
    """Places for at most FEW_ROWS rows of an engine.

    Parameters
    ----------
    form, units
        The engine's, and those of its first layer, with the empty ones of its last panel.
    call
        Has the engine describe a call, and make room for it.
    """

    def __init__(self, form: Form, units: int, call: Describe) -> None:
        self._form = form
        self._units = units
        self._call = call
        self._numbers = np.arange(MAX_ROWS)
        self._places: dict[tuple[np.dtype[Any], tuple[int, ...]], PredictionBuffer] = {}

    @staticmethod
    def fits(inputs: Inputs) -> TypeGuard[DenseInputs]:
        """Whether :meth:`copy` takes them."""
        small = inputs.shape[0] <= MAX_ROWS and inputs.shape[0] * inputs.shape[1] <= MAX_VALUES
        return small and isinstance(inputs, np.ndarray)

    def take(self, x: object) -> PredictionBuffer | None:
        """Copy rows as they come from a user; None where there is no place for such rows yet.

        Their values are not checked: see :class:`Place`.
        """
        if type(x) is not np.ndarray:
            return None
        place = self._places.get((x.dtype, x.shape))
        if place is None:
            return None
        place.inputs[...] = x
        return place

    def copy(self, inputs: DenseInputs) -> PredictionBuffer:
        """Copy rows that are checked, and fit."""
        key = inputs.dtype, inputs.shape
        if key not in self._places:
            self._places[key] = self._place(inputs)
        place = self._places[key]
        place.inputs[...] = inputs
        return place

    def _place(self, like: DenseInputs) -> PredictionBuffer:
        n_rows = len(like)
        inputs = np.zeros(like.shape, like.dtype)
        outputs = np.zeros((n_rows, self._form[1]), self._form[3])
        source, _ = describe_data(HostData(inputs, None, None), self._form, sparse=True)
        order = self._numbers[:n_rows]
        sparse = dense = self._call(source, order, outputs)
        if n_rows > 1 or like.shape[1] > KC:
            dense = self._call(source._replace(sparse=False), order, outputs)
        return PredictionBuffer(inputs, outputs, sparse, dense, self._units)
