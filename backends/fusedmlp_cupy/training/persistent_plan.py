"""Which networks the persistent kernel can train, and their distribution over a device's blocks.

Nothing is compiled or launched here. Nothing that a result depends on is chosen from the device: a
smaller device gives each block more tiles, and the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_cupy.training.execution import unavailable

if TYPE_CHECKING:
    from fusedmlp.network import Network
    from fusedmlp.types import FloatDtype
    from fusedmlp_cupy.runtime.cooperative import Limits
    from fusedmlp_cupy.tuning import Tuning

# The enumerations of tiles.cu hold the same numbers.
TILE_WIDTH: Final = 32
TILE_ROWS: Final = 64
PATCH_DOWN: Final = 4

WANTED_TILES: Final = 128
"""Tiles that W1 is cut into where it is large enough: about one for each multiprocessor of a large
device. A constant, so that the order of sums depends on the shapes alone."""

MIN_DEPTH: Final = 16
MAX_DEPTH: Final = 64
"""Rows of a tile: more tiles need more partial sums, deeper ones more shared memory."""

MAX_OUTPUTS: Final = 256
"""Most outputs of a network: every thread reads all outputs of a row."""


@dataclass(frozen=True, slots=True)
class PersistentPlan:
    """How a network is distributed over a device's blocks.

    Parameters
    ----------
    size
        B, D, H, K.
    depth
        Rows of W1 in a tile.
    blocks
        Blocks of the grid.
    held
        Most tiles of one block.
    shared_bytes
        Dynamic shared memory of a block.
    """

    size: tuple[int, int, int, int]
    depth: int
    blocks: int
    held: int
    shared_bytes: int

    @property
    def tiles(self) -> tuple[int, int]:
        """Tiles down and across."""
        _, D, H, _ = self.size
        return -(-D // self.depth), -(-H // TILE_WIDTH)

    def __str__(self) -> str:
        down, across = self.tiles
        n = down * across
        return (
            f"{n} tile{'s' * (n > 1)} of weights on {self.blocks} blocks, "
            f"{self.shared_bytes / 1024:.1f} KiB of shared memory each"
        )


def plan_persistent(
    network: Network, batch_size: int, dtype: FloatDtype, limits: Limits, tuning: Tuning
) -> PersistentPlan:
    """Distribute a network over a device's blocks.

    Raises
    ------
    BackendUnavailableError
        The network or the device is not suitable; the message says why.
    """
    why = _obstacle(network, batch_size, limits, tuning)
    if why is not None:
        raise unavailable("persistent", why)
    D, H, K = network.sizes
    across = -(-H // TILE_WIDTH)
    depth = tile_depth(D, across)
    n_tiles = -(-D // depth) * across
    blocks = min(limits.multiprocessors, max(n_tiles, batch_size))
    held = -(-n_tiles // blocks)
    size = (batch_size, D, H, K)
    shared_bytes = count_shared_bytes(
        size, depth, held, tuning.persistent_threads, np.dtype(dtype).itemsize
    )
    if shared_bytes > limits.shared_bytes:
        why = (
            f"the weights do not fit on the chip: {shared_bytes:,} bytes of shared memory for each "
            f"of {blocks} blocks, the device has {limits.shared_bytes:,}"
        )
        raise unavailable("persistent", why)
    return PersistentPlan(size, depth, blocks, held, shared_bytes)


def _obstacle(network: Network, batch_size: int, limits: Limits, tuning: Tuning) -> str | None:
    """Say why the kernel cannot train a network, or return None."""
    if len(network.sizes) != 3:
        n = len(network.sizes) - 2
        return f"the persistent kernel is for one hidden layer, this network has {n}"
    if not limits.cooperative:
        return "the device has no cooperative launches, which a persistent kernel needs"
    if network.n_outputs > MAX_OUTPUTS:
        return (
            f"the persistent kernel is for up to {MAX_OUTPUTS} outputs, this network has "
            f"{network.n_outputs}"
        )
    for D, H in network.layer_shapes:
        if not tuning.is_small(batch_size, D, H):
            return (
                f"{batch_size * D * H / 1e6:,.1f} million multiplications of a batch with "
                "a layer's weights are too many for a persistent kernel"
            )
    return None


def tile_depth(D: int, across: int) -> int:
    """Return the rows of a tile, a multiple of :data:`PATCH_DOWN`, from the shapes alone."""
    down = max(1, min(WANTED_TILES // across, -(-D // MIN_DEPTH)))
    depth = min(-(-D // down), MAX_DEPTH)
    return -(-depth // PATCH_DOWN) * PATCH_DOWN


def count_shared_bytes(
    size: tuple[int, int, int, int], depth: int, held: int, threads: int, itemsize: int
) -> int:
    """Count a block's shared memory: ``shared_layout`` of tiles.cu, in its order."""
    _, _, H, K = size
    tile = depth * TILE_WIDTH
    inputs = TILE_ROWS * (depth + TILE_WIDTH)
    row = 2 * K + threads + H * K + H + -(-H // TILE_WIDTH) * K
    n_bytes = 8 * K + itemsize * (held * tile + tile + inputs + TILE_WIDTH + row)
    return -(-n_bytes // 8) * 8
