"""Data sets on the device: what :meth:`CupyEngine.stage` keeps.

Inputs keep their storage: uint8 pixels stay uint8, CSR stays CSR, floats keep their width; the
gather kernels convert a batch at a time. Nothing is checked here: see :mod:`fusedmlp.staging`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.backend import Data
from fusedmlp.staging import is_sparse

if TYPE_CHECKING:
    from fusedmlp.staging import HostData
    from fusedmlp.types import Inputs as HostInputs
    from fusedmlp_cupy.device import CupyDevice, DeviceArray
    from fusedmlp_cupy.kernels import Inputs


@dataclass
class CupyData(Data):
    """A staged data set.

    Parameters
    ----------
    device
        Number of the device that holds it.
    x
        (N, D), or the three arrays of a CSR matrix.
    y
        (N,) int64 class numbers, or (N, K) of the engine's dtype; or None.
    w
        (N,) sample weights, or None.
    """

    device: int
    rows: int
    x: Inputs
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
    """Copy a checked data set to the device."""
    return CupyData(
        device.number,
        host.rows,
        upload_inputs(device, host.x),
        None if host.y is None else device.upload(host.y),
        None if host.sample_weight is None else device.upload(host.sample_weight),
    )
