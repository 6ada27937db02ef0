"""Kernels whose blocks wait for each other: what a device offers them, and how they are compiled.

What they compute and how a network is spread over their blocks is in persistent.py and clusters.py.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fusedmlp_cupy import driver
from fusedmlp_cupy.sources import cluster_source, clustered, compile_options, persistent_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.types import FloatDtype
    from fusedmlp_cupy.programs import Argument, CupyModule

SHRUNK: Final = ".*grid size exceeds"
"""Words of CuPy's warning that it launches a cooperative grid smaller than it was asked to."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device offers a cooperative kernel.

    Parameters
    ----------
    multiprocessors
        How many there are.
    shared_bytes
        Shared memory that one block may have.
    cooperative
        Whether there are cooperative launches.
    capability
        Compute capability.
    """

    multiprocessors: int
    shared_bytes: int
    cooperative: bool
    capability: tuple[int, int]


class CooperativeKernel:
    """A kernel whose blocks wait for each other: all of them run at once, or none does.

    Parameters
    ----------
    function
        CuPy's kernel.
    threads, shared_bytes
        Of a block.
    resident
        Blocks that the device can run at once.
    seconds
        What compiling took.
    """

    def __init__(
        self,
        function: Callable[..., None],
        *,
        threads: int,
        shared_bytes: int,
        resident: int,
        seconds: float,
    ) -> None:
        self._function = function
        self._threads, self._shared_bytes = threads, shared_bytes
        self.resident = resident
        self.seconds = seconds

    def launch(self, blocks: int, args: tuple[Argument, ...]) -> None:
        """Queue it on the current device and stream.

        Raises
        ------
        RuntimeError
            The blocks cannot all be resident; nothing has been queued.
        """
        with warnings.catch_warnings():
            # CuPy warns before it launches a smaller grid.
            warnings.filterwarnings("error", SHRUNK)
            try:
                self._function((blocks,), (self._threads,), args, shared_mem=self._shared_bytes)
            except Warning as warning:
                raise RuntimeError(f"{blocks} blocks cannot be resident: {warning}") from warning


def compile_kernel(
    cupy: CupyModule,
    limits: Limits,
    dtype: FloatDtype,
    name: str,
    *,
    threads: int,
    shared_bytes: int,
    blocks: int,
    cluster: int,
) -> CooperativeKernel:
    """See :meth:`CupyDevice.persistent`; for the current device, whose limits these are."""
    start = time.perf_counter()
    options = compile_options(dtype)
    module = cupy.RawModule(
        code=persistent_source() if cluster == 1 else cluster_source(),
        options=options if cluster == 1 else (*options, *clustered(cluster)),
        enable_cooperative_groups=True,
    )
    module.compile()
    function = module.get_function(name)
    # All the device has, whatever this engine needs: CuPy keeps one module for a source, so that
    # a later engine's smaller number would be the earlier one's as well.
    function.max_dynamic_shared_size_bytes = limits.shared_bytes
    handle, asked = function.kernel.ptr, cupy.cuda.driver
    if cluster == 1:
        each = asked.occupancyMaxActiveBlocksPerMultiprocessor(handle, threads, shared_bytes)
        resident = int(each) * limits.multiprocessors
    else:
        if cluster > driver.PORTABLE_CLUSTER:
            asked.funcSetAttribute(handle, driver.NON_PORTABLE_CLUSTER, 1)
        library = driver.load(cupy)
        found = driver.active_clusters(library, handle, blocks, threads, shared_bytes)
        resident = cluster * found
    return CooperativeKernel(
        function,
        threads=threads,
        shared_bytes=shared_bytes,
        resident=resident,
        seconds=time.perf_counter() - start,
    )
