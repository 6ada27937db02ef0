"""For which networks the kernel of cluster.cu is, and how it is spread over clusters of blocks.

It computes what that of persistent.cu does, to the same bits; persistent.py launches both. How many
clusters there are, and of how many blocks, is chosen by what the device can run at once: no result
depends on it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from fusedmlp_cupy import persistent
from fusedmlp_cupy.launching import one_line
from fusedmlp_cupy.persistent import TILE_ROWS, TILE_WIDTH, Plan

if TYPE_CHECKING:
    from fusedmlp.network import Network
    from fusedmlp.types import FloatDtype
    from fusedmlp_cupy.cooperative import CooperativeKernel
    from fusedmlp_cupy.device import CupyDevice

CAPABILITY: Final = (9, 0)
"""Compute capability from which on devices have clusters (CUDA programming guide)."""

SIZES: Final = (16, 8, 4, 2)
"""Blocks of a cluster, tried from the largest on, which leaves each block the fewest tiles. All
divide :data:`TILE_ROWS`. Some devices have no clusters of more than 8."""


@dataclass(frozen=True, slots=True)
class ClusterPlan(Plan):
    """How a network is spread over clusters.

    Parameters
    ----------
    cluster
        Blocks of each.
    """

    kernel: ClassVar[str] = "cluster_steps"

    cluster: int

    @property
    def exchanged(self) -> tuple[tuple[int, ...], ...]:
        """See :class:`Plan`: sums of the output layer and its biases, of this step and the next."""
        B, _, _, K = self.size
        return (2, self.tiles[1], B, K), (2, K)

    def __str__(self) -> str:
        down, across = self.tiles
        n, n_tiles = self.blocks // self.cluster, down * across
        return (
            f"{n_tiles} tile{'s' * (n_tiles > 1)} of weights on {n} cluster{'s' * (n > 1)} of "
            f"{self.cluster} blocks, {self.shared_bytes / 1024:.1f} KiB of shared memory each"
        )


def spread(
    network: Network, batch_size: int, dtype: FloatDtype, cluster: int, n_clusters: int
) -> ClusterPlan:
    """Spread a network of one hidden layer over so many clusters of so many blocks."""
    D, H, K = network.sizes
    across = -(-H // TILE_WIDTH)
    depth = persistent.depth_of(D, across)
    down = -(-D // depth)
    columns, rows = -(-across // n_clusters), -(-batch_size // cluster)
    held = columns * -(-down // cluster)
    own = held * TILE_ROWS * TILE_WIDTH  # what cluster.cu lays out behind the common part
    own += columns * TILE_WIDTH * (2 * rows + K + 1) + K
    itemsize = np.dtype(dtype).itemsize
    shared_bytes = persistent.carved_bytes(K, depth, held, rows, own, itemsize)
    size = (batch_size, D, H, K)
    return ClusterPlan(size, depth, n_clusters * cluster, held, shared_bytes, cluster)


def build(
    device: CupyDevice, network: Network, batch_size: int, dtype: FloatDtype
) -> tuple[CooperativeKernel, ClusterPlan] | str:
    """Compile the kernel for the clusters that leave a block the fewest tiles, or say why not."""
    limits = device.limits()
    why = persistent.obstacle(network, batch_size, limits)
    if why is not None:
        return why
    if limits.capability < CAPABILITY:
        return (
            f"clusters of blocks need compute capability 9.0, the device has "
            f"{'.'.join(map(str, limits.capability))}"
        )
    best: tuple[CooperativeKernel, ClusterPlan] | None = None
    refusals: list[str] = []
    for cluster in SIZES:
        try:
            found = _fitted(device, network, batch_size, dtype, cluster)
        except RuntimeError as error:
            found = one_line(error)
        if isinstance(found, str):
            refusals.append(f"clusters of {cluster}: {found}")
        elif best is None or found[1].held < best[1].held:
            best = found
        if best is not None and best[1].blocks == best[1].cluster * best[1].tiles[1]:
            break  # smaller clusters can only have more tiles to a block
    return best or "; ".join(refusals)


def _fitted(
    device: CupyDevice, network: Network, batch_size: int, dtype: FloatDtype, cluster: int
) -> tuple[CooperativeKernel, ClusterPlan] | str:
    """Take as many clusters of a size as the device runs at once, one for each column of tiles."""
    n_clusters = -(-network.sizes[1] // TILE_WIDTH)
    limits = device.limits()
    while n_clusters:
        plan = spread(network, batch_size, dtype, cluster, n_clusters)
        if plan.shared_bytes > limits.shared_bytes:
            return persistent.too_large(plan.shared_bytes, plan.blocks, limits)
        kernel = device.persistent(
            dtype,
            plan.kernel,
            threads=persistent.THREADS,
            shared_bytes=plan.shared_bytes,
            blocks=plan.blocks,
            cluster=cluster,
        )
        if kernel.resident >= plan.blocks:
            return kernel, plan
        # The fewer there are, the more shared memory each takes, so ask again.
        n_clusters = kernel.resident // cluster
    return "the device runs none at once"
