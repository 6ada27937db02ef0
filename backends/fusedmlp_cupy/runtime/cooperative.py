"""Kernels whose blocks wait for each other: the device's limits, compilation and launch.

persistent.py decides how a network is distributed over their blocks.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fusedmlp_cupy.kernels.source import compile_options, persistent_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.types import FloatDtype
    from fusedmlp_cupy.runtime.types import Argument, CupyModule

SHRUNK: Final = ".*grid size exceeds"
"""Pattern of CuPy's warning before it launches a smaller cooperative grid than requested."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a device offers a cooperative kernel.

    Parameters
    ----------
    multiprocessors
        Their number.
    shared_bytes
        Most shared memory of one block.
    cooperative
        Whether it has cooperative launches.
    """

    multiprocessors: int
    shared_bytes: int
    cooperative: bool


@dataclass(frozen=True, slots=True)
class CooperativeKernel:
    """A kernel whose blocks wait for each other: all of them run at once, or none does.

    Parameters
    ----------
    function
        CuPy's kernel.
    threads, shared_bytes
        Of a block.
    resident
        Most blocks that the device can run at once.
    seconds
        Time that compiling took.
    """

    function: Callable[..., None]
    threads: int
    shared_bytes: int
    resident: int
    seconds: float

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
                self.function((blocks,), (self.threads,), args, shared_mem=self.shared_bytes)
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
) -> CooperativeKernel:
    """Compile a kernel for the current device, and count the blocks that can be resident."""
    start = time.perf_counter()
    module = cupy.RawModule(
        code=persistent_source(), options=compile_options(dtype), enable_cooperative_groups=True
    )
    module.compile()
    function = module.get_function(name)
    # The device's limit, whatever this engine needs: CuPy keeps one module for each source, so a
    # smaller number for a later engine would also apply to an earlier one.
    function.max_dynamic_shared_size_bytes = limits.shared_bytes
    each = cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
        function.kernel.ptr, threads, shared_bytes
    )
    resident, seconds = int(each) * limits.multiprocessors, time.perf_counter() - start
    return CooperativeKernel(function, threads, shared_bytes, resident, seconds)
