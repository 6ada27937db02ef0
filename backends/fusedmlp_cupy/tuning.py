"""Thresholds and sizes that trade speed for memory, in one place.

All are estimates that no device has confirmed. Only ``small_product`` has an influence on results:
it selects the kernels of a product, and so the order of its sums.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tuning:
    """The engine's thresholds and sizes.

    Parameters
    ----------
    small_product
        Most multiplications of a product that the kernels of products.cu compute instead of
        cuBLAS. At a few TFLOP/s it takes about as long as the launches that these kernels save.
    group_steps
        Steps of a CUDA graph. A call's remaining full batches are graphs of one step, its last
        partial batch is another.
    gather_ahead_bytes
        Most bytes of inputs that one launch gathers for a group of steps: few enough to be in the
        second-level cache of a large device when they are read.
    forward_rows
        Rows that forward and evaluate take at a time, or the batch size where that is larger.
    chunk_bytes, chunk_share
        Most bytes of a chunk of streamed inputs, and the fraction (1 / chunk_share) of the device's
        free memory that it takes at most; one batch where that is more.
    persistent_threads
        Threads of a block of the persistent kernel: whole warps. No result depends on it.
    persistent_gather_bytes
        Most bytes of rows that are gathered for one persistent launch; one batch where that is
        more.
    persistent_steps
        Most steps of a persistent launch: some tens of milliseconds, so that a display's watchdog
        does not end it.
    """

    small_product: int = 2**24
    group_steps: int = 32
    gather_ahead_bytes: int = 16 * 2**20
    forward_rows: int = 4096
    chunk_bytes: int = 64 * 2**20
    chunk_share: int = 8
    persistent_threads: int = 256
    persistent_gather_bytes: int = 64 * 2**20
    persistent_steps: int = 4096

    def is_small(self, m: int, k: int, n: int) -> bool:
        """Tell whether products.cu computes a product of (m, k) and (k, n)."""
        return m * k * n <= self.small_product
