"""Predictions of a few dense rows, whose calls are prepared once for each shape and dtype.

Computing one row takes less time than describing it. So the inputs are copied into a buffer whose
call record stays valid: shape and dtype need no further check, and whether values are finite is
left to the compiled code that reads them. Nothing is computed here.
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
    from fusedmlp_numba.data import DataDescriptor, DescriptorRecord, EngineForm

MAX_ROWS: Final = 16
MAX_VALUES: Final = 2**13
"""Most rows, and most values in them, that are copied into a buffer: that takes a microsecond or
two, half of what describing them takes."""


class PreparedCall(NamedTuple):
    """A call that compiled code can begin at once.

    Parameters
    ----------
    record, address
        The KernelArguments, and their address.
    workers
        Number of workers of the call.
    inputs
        The descriptor of the buffer's inputs.
    """

    record: npt.NDArray[np.void]
    address: ctypes.c_int64
    workers: int
    inputs: DescriptorRecord


PrepareCall: TypeAlias = "Callable[[DataDescriptor, IntArray, FloatArray], PreparedCall]"
"""Prepares the call that predicts rows with these numbers into an array of outputs."""


class PredictionBuffer(NamedTuple):
    """Inputs of one shape and dtype, their outputs, and the calls that predict them.

    Parameters
    ----------
    inputs, outputs
        (n, D) and (n, K). The first output is NaN where an input is not finite; the others are
        then not computed.
    sparse, dense
        Calls that skip zero inputs, and that do not. For one row they are the same call where that
        changes no bit: every weight is then read once in either.
    units
        Units of the first layer, padded to whole panels.
    """

    inputs: DenseInputs
    outputs: FloatArray
    sparse: PreparedCall
    dense: PreparedCall
    units: int

    def call(self) -> PreparedCall:
        """Return the faster call for the current inputs."""
        if self.sparse is self.dense or skips_zeros(self.inputs, self.units, SEARCH_COST_FORWARD):
            return self.sparse
        return self.dense


class SmallBatchPredictor:
    """The prediction buffers of one engine, for at most MAX_ROWS rows each.

    Parameters
    ----------
    form, units
        The engine's form, and the units of its first layer, padded to whole panels.
    prepare_call
        Prepares a call, and reserves the engine's memory for it.
    """

    def __init__(self, form: EngineForm, units: int, prepare_call: PrepareCall) -> None:
        self._form = form
        self._units = units
        self._prepare_call = prepare_call
        self._row_numbers = np.arange(MAX_ROWS)
        self._buffers: dict[tuple[np.dtype[Any], tuple[int, ...]], PredictionBuffer] = {}

    @staticmethod
    def fits(inputs: Inputs) -> TypeGuard[DenseInputs]:
        """Whether :meth:`copy` accepts the inputs."""
        small = inputs.shape[0] <= MAX_ROWS and inputs.shape[0] * inputs.shape[1] <= MAX_VALUES
        return small and isinstance(inputs, np.ndarray)

    def copy_unchecked(self, x: object) -> PredictionBuffer | None:
        """Copy inputs as the user passes them; None where no buffer of their form exists yet.

        Their values are not checked: see :class:`PredictionBuffer`.
        """
        if type(x) is not np.ndarray:
            return None
        buffer = self._buffers.get((x.dtype, x.shape))
        if buffer is None:
            return None
        buffer.inputs[...] = x
        return buffer

    def copy(self, inputs: DenseInputs) -> PredictionBuffer:
        """Copy validated inputs that fit."""
        key = inputs.dtype, inputs.shape
        if key not in self._buffers:
            self._buffers[key] = self._new_buffer(inputs)
        buffer = self._buffers[key]
        buffer.inputs[...] = inputs
        return buffer

    def _new_buffer(self, like: DenseInputs) -> PredictionBuffer:
        n_rows = len(like)
        inputs = np.zeros(like.shape, like.dtype)
        outputs = np.zeros((n_rows, self._form[1]), self._form[3])
        descriptor, _ = describe_data(HostData(inputs, None, None), self._form, sparse=True)
        order = self._row_numbers[:n_rows]
        sparse = dense = self._prepare_call(descriptor, order, outputs)
        if n_rows > 1 or like.shape[1] > KC:
            dense = self._prepare_call(descriptor._replace(sparse=False), order, outputs)
        return PredictionBuffer(inputs, outputs, sparse, dense, self._units)
