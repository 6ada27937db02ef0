"""The persistent kernel: the networks that it can train, its distribution over blocks, its launch.

One launch trains on all full batches of a call, with the first layer's weights in shared memory; a
last partial batch is another launch. The rows are gathered in their order before it, for several
batches at a time. Nothing that a result depends on is chosen from the device: a smaller device
gives each block more tiles, and the same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.network import OUTPUTS
from fusedmlp_cupy.kernels.arguments import NULL, Batch, activation_index, or_null
from fusedmlp_cupy.messages import one_line
from fusedmlp_cupy.training.execution import unavailable
from fusedmlp_cupy.training.gathering import GatheredRows

if TYPE_CHECKING:
    from fusedmlp.network import Network
    from fusedmlp.types import FloatDtype
    from fusedmlp_cupy.batches import BatchSequence
    from fusedmlp_cupy.runtime.cooperative import CooperativeKernel, Limits
    from fusedmlp_cupy.runtime.types import Argument, DeviceArray
    from fusedmlp_cupy.training.context import Context
    from fusedmlp_cupy.training.parameters import ParameterArrays
    from fusedmlp_cupy.training.updates import Updates
    from fusedmlp_cupy.tuning import Tuning

KERNEL: Final = "persistent_steps"

# The enumerations of tiles.cu hold the same numbers.
TILE_WIDTH: Final = 32
TILE_ROWS: Final = 64
PATCH_DOWN: Final = 4
STEPS: Final = ("sgd", "momentum", "nesterov", "adam", "lion")

WANTED_TILES: Final = 128
"""Tiles that W1 is cut into where it is large enough: about one for each multiprocessor of a large
device. A constant, so that the order of sums depends on the shapes alone."""

MIN_DEPTH: Final = 16
MAX_DEPTH: Final = 64
"""Rows of a tile: more tiles need more partial sums, deeper ones more shared memory."""

MAX_OUTPUTS: Final = 256
"""Most outputs of a network: every thread reads all outputs of a row."""

MAX_CONSTANTS: Final = 5
"""Optimizer constants of the kernel, ``l2`` to ``c4``."""


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


class PersistentTraining:
    """The persistent kernel of one engine, and the arrays that its blocks exchange.

    Attributes
    ----------
    plan
        The distribution over blocks.
    gathered
        The rows that launches train on.
    """

    def __init__(
        self,
        context: Context,
        parameters: ParameterArrays,
        updates: Updates,
        kernel: CooperativeKernel,
        plan: PersistentPlan,
    ) -> None:
        self._context, self._parameters, self._updates = context, parameters, updates
        self._kernel, self.plan = kernel, plan
        B, D, H, K = plan.size
        empty, dtype = context.device.empty, context.dtype
        self._exchanged: tuple[Argument, ...] = (
            *(empty(shape, dtype) for shape in ((plan.tiles[0], B, H), (B, H), (B, H), (B, K))),
            empty((B, H), dtype) if context.network.keeps_z else NULL,
            context.device.upload(np.zeros(1, np.uint32)),
        )
        batch_bytes = B * D * np.dtype(context.dtype).itemsize
        tuning = context.tuning
        most = min(tuning.persistent_gather_bytes // batch_bytes, tuning.persistent_steps)
        self.gathered = GatheredRows(context.buffers, D, context.dtype, most)
        self._has_run = False

    @property
    def compile_seconds(self) -> float:
        """Time that compiling the kernel took."""
        return self._kernel.seconds

    def train(self, sequence: BatchSequence, rates: DeviceArray) -> None:
        """Queue all steps of a call.

        Raises
        ------
        BackendUnavailableError
            The device refuses the first launch; no step has been taken.
        RuntimeError
            It refuses a later one.
        DeviceMemoryError
            There is no room for the gathered rows of one batch.
        """
        n_full, rest = divmod(sequence.n, sequence.size)
        self.gathered.reserve(n_full, sequence.size)
        number = 0
        try:
            while number < n_full:
                most = self.gathered.max_batches
                n_batches = min(most, sequence.contiguous(number), n_full - number)
                self._launch(sequence, rates, number, n_batches, sequence.size)
                number += n_batches
            if rest:
                self._launch(sequence, rates, n_full, 1, rest)
        except RuntimeError as error:
            if self._has_run:
                raise
            raise unavailable("persistent", f"the device refuses it: {one_line(error)}") from error

    def _launch(
        self, sequence: BatchSequence, rates: DeviceArray, number: int, n_batches: int, size: int
    ) -> None:
        """Queue batches of so many rows each, from batch ``number`` of the call on."""
        batch = Batch(sequence.rows, number * sequence.size, number, n_batches * size)
        x = self.gathered.rows(batch.size)
        sequence.gather(self._context.program, batch, x)
        network, plan, targets = self._context.network, self.plan, sequence.targets
        is_class = network.output == "softmax"
        args: tuple[Argument, ...] = (
            x,
            *self._parameter_arguments(),
            np.int32(size),
            np.int64(n_batches),
            np.int64(batch.first),
            np.int64(number),
            np.int32(plan.depth),
            np.int32(plan.held),
            activation_index(network.hidden),
            np.int32(OUTPUTS.index(network.output)),
            *self._optimizer_arguments(rates),
            targets.y if is_class else NULL,
            NULL if is_class else targets.y,
            or_null(targets.w),
            or_null(sequence.rows),
            *targets.objective_arguments(),
            *self._dropout_arguments(sequence),
            *self._exchanged,
        )
        self._kernel.launch(plan.blocks, args)
        self._has_run = True

    def _parameter_arguments(self) -> tuple[Argument, ...]:
        """Return the arguments ``theta`` to ``K``."""
        own, layout = self._parameters, self._parameters.layout
        slots: tuple[Argument, ...] = (*own.slots, NULL, NULL)
        offsets = (layout.weights[1], *layout.biases)
        sizes = self.plan.size[1:]
        return own.theta, *slots[:2], *map(np.int64, offsets), *map(np.int32, sizes)

    def _optimizer_arguments(self, rates: DeviceArray) -> tuple[Argument, ...]:
        """Return the arguments ``optimizer_kind`` to ``c4``."""
        real = np.dtype(self._context.dtype).type
        constants = self._updates.constants(self._context.objective.l2)
        padded = (*constants, *[0.0] * MAX_CONSTANTS)[:MAX_CONSTANTS]
        kind = np.int32(STEPS.index(self._updates.optimizer.kernel))
        return kind, rates, *(real(c) for c in padded)

    def _dropout_arguments(self, sequence: BatchSequence) -> tuple[Argument, ...]:
        """Return the arguments ``steps`` to ``unscale``."""
        dtype = np.dtype(self._context.dtype)
        dropout = sequence.dropout_of(0)
        if dropout is None:
            one = dtype.type(1)
            return NULL, np.uint32(0), np.uint32(0), np.uint64(0), one, one
        scales = dropout.scales(dtype, self._context.network.hidden)
        return dropout.steps, *dropout.seed_arguments(), *scales


def build_persistent(
    context: Context, parameters: ParameterArrays, updates: Updates
) -> PersistentTraining:
    """Compile the kernel and distribute a network over its blocks.

    Raises
    ------
    BackendUnavailableError
        The network or the device is not suitable, or compilation fails.
    """
    device, tuning = context.device, context.tuning
    network, size, dtype = context.network, context.batch_size, context.dtype
    plan = plan_persistent(network, size, dtype, device.limits(), tuning)
    threads, shared_bytes = tuning.persistent_threads, plan.shared_bytes
    try:
        kernel = device.cooperative_kernel(
            dtype, KERNEL, threads=threads, shared_bytes=shared_bytes
        )
    except RuntimeError as error:
        raise unavailable("persistent", one_line(error)) from error
    if kernel.resident < plan.blocks:
        why = (
            f"the device runs {kernel.resident} blocks of the persistent kernel at once, "
            f"{plan.blocks} are needed"
        )
        raise unavailable("persistent", why)
    return PersistentTraining(context, parameters, updates, kernel, plan)
