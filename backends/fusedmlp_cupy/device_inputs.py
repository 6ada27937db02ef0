"""Inputs that are on the device already: checked there and used in place, not read by the host.

Rules and messages follow :mod:`fusedmlp.validation`. An array of a stored dtype in C order is not
copied: the caller must not overwrite it while it is staged.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.validation import STORED_DTYPES, check_input_dtype, check_input_shape, non_finite
from fusedmlp_cupy.kernels.arguments import SUM_THREADS

if TYPE_CHECKING:
    from fusedmlp.interop import ForeignArray
    from fusedmlp.network import Network
    from fusedmlp.types import FloatDtype
    from fusedmlp_cupy.runtime.device import CupyDevice
    from fusedmlp_cupy.runtime.types import DeviceArray

MAX_PARTS: Final = 1024
"""Most parts that an array is divided into for the search."""


def validate_device_inputs(
    device: CupyDevice, x: ForeignArray, network: Network, dtype: FloatDtype
) -> DeviceArray:
    """Check inputs (N, D) on the device, and convert them to a stored dtype in C order there.

    Raises
    ------
    InvalidInputError
        As :func:`fusedmlp.validation.validate_inputs` does; or the array lies on another device.
    DeviceMemoryError
        A conversion needs more memory than the device has.
    """
    array = device.wrap(x)
    check_input_dtype(array.dtype)
    check_input_shape(array.shape, network)
    array = device.converted(array, array.dtype if array.dtype in STORED_DTYPES else dtype)
    if array.dtype.kind == "f" and array.shape[0]:
        _check_finite(device, array)
    return array


def _check_finite(device: CupyDevice, array: DeviceArray) -> None:
    n = int(np.prod(array.shape, dtype=np.int64))
    parts = min(-(-n // SUM_THREADS), MAX_PARTS)
    found = device.empty((parts,), np.int64)
    name = f"first_non_finite_{array.dtype.name}"
    args = (array, np.int64(n), np.int32(parts), found)
    device.checks().launch(name, (parts,), (SUM_THREADS,), args)
    first = int(device.download(found).min())
    if first < n:
        row, column = divmod(first, array.shape[1])
        value = device.download(array[row : row + 1])[0, column]
        raise non_finite(f"x[{row}, {column}]", value)
