"""Data sets on the device: the result of :meth:`CupyEngine.stage`.

Inputs keep their storage: uint8 pixels stay uint8, CSR stays CSR, floats keep their width; the
gather kernels convert a batch at a time. Nothing is checked here: see :mod:`fusedmlp.validation`.
Dense inputs that do not fit into the device's free memory stay on the host: see streaming.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.backend import Data
from fusedmlp.validation import is_sparse
from fusedmlp_cupy.streaming import fits

if TYPE_CHECKING:
    from fusedmlp.types import DenseInputs, FloatArray, IntArray
    from fusedmlp.types import Inputs as HostInputs
    from fusedmlp.validation import HostData
    from fusedmlp_cupy.kernels.arguments import Inputs
    from fusedmlp_cupy.runtime.device import CupyDevice
    from fusedmlp_cupy.runtime.types import DeviceArray


@dataclass(eq=False)
class CupyData(Data):
    """A staged data set; compared by identity.

    Parameters
    ----------
    device
        Number of the device that holds it.
    x
        (N, D), or the three arrays of a CSR matrix; a host array where it is streamed.
    y
        (N,) int64 class numbers, or (N, K) of the engine's dtype; or None.
    w
        (N,) sample weights, or None.
    """

    device: int
    rows: int
    x: Inputs | DenseInputs
    y: DeviceArray | None
    w: DeviceArray | None

    def __post_init__(self) -> None:
        self.labelled = self.y is not None


def upload_inputs(device: CupyDevice, x: HostInputs) -> Inputs:
    """Copy checked inputs to the device in their own storage.

    CSR index arrays become int64 row bounds and int32 columns, whatever SciPy chose.
    """
    if is_sparse(x):
        return (
            device.upload(np.asarray(x.indptr, np.int64)),
            device.upload(np.asarray(x.indices, np.int32)),
            device.upload(np.asarray(x.data)),
        )
    return device.upload(x)


def upload(device: CupyDevice, host: HostData) -> CupyData:
    """Copy a checked data set to the device, except dense inputs that do not fit there."""
    x: Inputs | DenseInputs
    if is_sparse(host.x):
        x = upload_inputs(device, host.x)
        return with_targets(device, x, host.rows, host.y, host.sample_weight)
    n_bytes = sum(a.nbytes for a in (host.x, host.y, host.sample_weight) if a is not None)
    x = upload_inputs(device, host.x) if fits(device, n_bytes, host.rows) else host.x
    return with_targets(device, x, host.rows, host.y, host.sample_weight)


def with_targets(
    device: CupyDevice,
    x: Inputs | DenseInputs,
    rows: int,
    y: IntArray | FloatArray | None,
    sample_weight: FloatArray | None,
) -> CupyData:
    """Combine inputs with checked targets and weights, which are copied to the device."""
    return CupyData(
        device.number,
        rows,
        x,
        None if y is None else device.upload(y),
        None if sample_weight is None else device.upload(sample_weight),
    )
