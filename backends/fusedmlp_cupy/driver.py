"""What is asked of CUDA's driver beside CuPy, which has no call for it: clusters of blocks.

The library is the one that CuPy has loaded. Nothing is launched from here. Of the launch that is
asked about only its size is told: the kernel itself says how many blocks its clusters have.
"""

from __future__ import annotations

import ctypes
import sys
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from fusedmlp_cupy.programs import CupyModule

Library: TypeAlias = Any
"""A ctypes library: its functions have no static types."""

# The numbers of cuda.h and of the programming guide.
NON_PORTABLE_CLUSTER: Final = 14
"""Attribute of a function whose clusters may have more than :data:`PORTABLE_CLUSTER` blocks."""

PORTABLE_CLUSTER: Final = 8

OLDEST: Final = 11080
"""CUDA 11.8, the first with clusters, as drivers count."""


class LaunchConfig(ctypes.Structure):
    """``CUlaunchConfig`` of cuda.h, from CUDA 11.8 on."""

    _fields_ = (
        ("grid", ctypes.c_uint * 3),
        ("block", ctypes.c_uint * 3),
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("n_attributes", ctypes.c_uint),
    )


def load(cupy: CupyModule) -> Library:
    """Open the driver's library, which CuPy has loaded by the same name.

    Raises
    ------
    RuntimeError
        The driver is older than clusters.
    OSError, AttributeError
        There is none of that name, or it lacks the function.
    """
    version = int(cupy.cuda.runtime.driverGetVersion())
    if version < OLDEST:
        raise RuntimeError(
            f"the driver is for CUDA {version // 1000}.{version % 1000 // 10}, and clusters need "
            "one for 11.8"
        )
    library = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    entry = library.cuOccupancyMaxActiveClusters
    entry.argtypes = (
        ctypes.POINTER(ctypes.c_int),
        ctypes.c_void_p,
        ctypes.POINTER(LaunchConfig),
    )
    entry.restype = ctypes.c_int
    return library


def active_clusters(
    library: Library, function: int, blocks: int, threads: int, shared_bytes: int
) -> int:
    """Count the clusters of a kernel that the current device can run at once.

    Parameters
    ----------
    function
        The driver's handle of a kernel whose source says how many blocks a cluster has.
    blocks, threads, shared_bytes
        Of the grid, and of each of its blocks.

    Raises
    ------
    RuntimeError
        The driver refuses to say.
    """
    config = LaunchConfig((blocks, 1, 1), (threads, 1, 1), shared_bytes)
    found = ctypes.c_int()
    status = library.cuOccupancyMaxActiveClusters(
        ctypes.byref(found), ctypes.c_void_p(function), ctypes.byref(config)
    )
    if status:
        raise RuntimeError(f"cuOccupancyMaxActiveClusters failed with status {status}")
    return found.value
