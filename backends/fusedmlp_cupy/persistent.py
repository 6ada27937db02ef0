"""For which networks the kernel of persistent.cu is, and how it and cluster.cu's are launched.

One launch trains on all full batches of a call, with the first layer's weights on the chip; a last
partial batch is a launch of its own. The rows are gathered in their order before, for as many
batches at a time as :data:`GATHERED_BYTES`, or the chunk of a streamed data set, hold. Nothing that
a result depends on is chosen from the device: a smaller one gives each block more tiles, and the
same bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final

import numpy as np

from fusedmlp.backend import keep_threshold
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS
from fusedmlp_cupy.gathering import Gathered
from fusedmlp_cupy.kernels import NULL, Batch
from fusedmlp_cupy.products import is_small

if TYPE_CHECKING:
    from fusedmlp.network import Network, Objective
    from fusedmlp.types import FloatDtype
    from fusedmlp_cupy.buffers import Buffers
    from fusedmlp_cupy.call import Call
    from fusedmlp_cupy.cooperative import CooperativeKernel, Limits
    from fusedmlp_cupy.device import CupyDevice
    from fusedmlp_cupy.layout import Layout
    from fusedmlp_cupy.programs import Argument, DeviceArray, Program

KERNEL: Final = "persistent_steps"

THREADS: Final = 256
"""Of a block: whole warps. No result depends on it."""

# What tiles.cu is written for; the enums there hold the same numbers.
TILE_WIDTH: Final = 32
TILE_ROWS: Final = 64
PATCH_DOWN: Final = 4
STEPS: Final = ("sgd", "momentum", "nesterov", "adam")

TILES_WANTED: Final = 128
"""Tiles that W1 is cut into where it is large enough: about one for each multiprocessor of a large
device. A constant, so that the order of sums depends on the shapes alone."""

LEAST_DEPTH: Final = 16
MOST_DEPTH: Final = 64
"""Rows of a tile: more tiles cost more partial sums, deeper ones more shared memory."""

MOST_OUTPUTS: Final = 256
"""Outputs of a network at most: every thread reads all of a row's."""

GATHERED_BYTES: Final = 64 * 2**20
"""Rows that are gathered at a time; fewer where memory is short, one batch where that is more."""

MOST_STEPS: Final = 4096
"""Steps of a launch: some tens of milliseconds, so that a display's watchdog does not end it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How a network is spread over a device.

    Parameters
    ----------
    size
        B, D, H, K.
    depth
        Rows of W1 in a tile.
    blocks
        Of the grid.
    held
        Tiles that each block has room for.
    shared_bytes
        Dynamic shared memory of a block.
    """

    kernel: ClassVar[str] = KERNEL

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

    @property
    def exchanged(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of what the blocks exchange: ``partial`` and the arguments behind it."""
        B, _, H, K = self.size
        return (self.tiles[0], B, H), (B, H), (B, H), (B, K)

    def __str__(self) -> str:
        down, across = self.tiles
        n = down * across
        return (
            f"{n} tile{'s' * (n > 1)} of weights on {self.blocks} blocks, "
            f"{self.shared_bytes / 1024:.1f} KiB of shared memory each"
        )


def obstacle(network: Network, batch_size: int, limits: Limits) -> str | None:
    """Say why no persistent kernel is for a network, if none is."""
    if len(network.sizes) != 3:
        n = len(network.sizes) - 2
        return f"the persistent kernel is for one hidden layer, this network has {n}"
    if not limits.cooperative:
        return "the device has no cooperative launches, which a persistent kernel needs"
    if network.n_outputs > MOST_OUTPUTS:
        return (
            f"the persistent kernel is for up to {MOST_OUTPUTS} outputs, this network has "
            f"{network.n_outputs}"
        )
    for rows, columns in network.layer_shapes:
        if not is_small(batch_size, rows, columns):
            return (
                f"{batch_size * rows * columns / 1e6:,.1f} million multiplications of a batch with "
                "a layer's weights are too many for a persistent kernel"
            )
    return None


def too_large(shared_bytes: int, blocks: int, limits: Limits) -> str:
    """Say that a block needs more shared memory than it can have."""
    return (
        f"the weights do not fit on the chip: {shared_bytes:,} bytes of shared memory for each "
        f"of {blocks} blocks, the device has {limits.shared_bytes:,}"
    )


def choose(network: Network, batch_size: int, dtype: FloatDtype, limits: Limits) -> Plan | str:
    """Spread a network over a device, or say what is in the way."""
    why = obstacle(network, batch_size, limits)
    if why is not None:
        return why
    D, H, K = network.sizes
    across = -(-H // TILE_WIDTH)
    depth = depth_of(D, across)
    n_tiles = -(-D // depth) * across
    blocks = min(limits.multiprocessors, max(n_tiles, batch_size))
    held = -(-n_tiles // blocks)
    shared_bytes = shared_bytes_of(H, K, depth, held, np.dtype(dtype).itemsize)
    if shared_bytes > limits.shared_bytes:
        return too_large(shared_bytes, blocks, limits)
    return Plan((batch_size, D, H, K), depth, blocks, held, shared_bytes)


def depth_of(D: int, across: int) -> int:
    """Return the rows of a tile, a multiple of :data:`PATCH_DOWN`, from the shapes alone."""
    down = max(1, min(TILES_WANTED // across, -(-D // LEAST_DEPTH)))
    depth = min(-(-D // down), MOST_DEPTH)
    return -(-depth // PATCH_DOWN) * PATCH_DOWN


def shared_bytes_of(H: int, K: int, depth: int, held: int, itemsize: int) -> int:
    """Count a block's shared memory: what persistent.cu lays out."""
    own = H * K + H + -(-H // TILE_WIDTH) * K
    return carved_bytes(K, depth, held, 1, own, itemsize)


def carved_bytes(K: int, depth: int, held: int, rows: int, own: int, itemsize: int) -> int:
    """Count what ``carve`` in tiles.cu lays out, in its order, and a kernel's own behind it."""
    tile = depth * TILE_WIDTH
    inputs = TILE_ROWS * (depth + TILE_WIDTH)
    numbers = rows + held * tile + tile + inputs + TILE_WIDTH + 2 * rows * K + THREADS + own
    n_bytes = 8 * rows * (K + 2) + itemsize * numbers
    return -(-n_bytes // 8) * 8


class Persistent:
    """A persistent kernel, built for one engine, and the arrays that its blocks exchange.

    Parameters
    ----------
    program
        The other kernels: they gather.
    theta, slots
        The parameters and the optimizer's slots, in the order of ``layout``.
    step
        The optimizer's kernel, one of :data:`STEPS`.
    constants
        l2, then the optimizer's own.

    Attributes
    ----------
    gathered
        The rows that launches train on.
    """

    def __init__(
        self,
        kernel: CooperativeKernel,
        plan: Plan,
        program: Program,
        buffers: Buffers,
        *,
        network: Network,
        objective: Objective,
        layout: Layout,
        theta: DeviceArray,
        slots: tuple[DeviceArray, ...],
        step: str,
        constants: tuple[float, ...],
    ) -> None:
        self._kernel, self._plan = kernel, plan
        self._program = program
        self._network = network
        self._mean = objective.reduction == "mean"
        device, dtype = buffers.device, theta.dtype
        real = dtype.type
        B, D, H, K = plan.size
        self._dtype = dtype
        padded: tuple[Argument, ...] = (*slots, NULL, NULL)
        self._parameters: tuple[Argument, ...] = (
            theta,
            *padded[:2],
            np.int64(layout.weights[1]),
            *(np.int64(at) for at in layout.biases),
            *(np.int32(n) for n in (D, H, K)),
        )
        self._shape: tuple[Argument, ...] = (
            np.int32(plan.depth),
            np.int32(plan.held),
            np.int32(HIDDEN_ACTIVATIONS.index(network.hidden)),
            np.int32(OUTPUTS.index(network.output)),
            np.int32(STEPS.index(step)),
        )
        self._constants = tuple(real(c) for c in (*constants, *[0.0] * 5)[:5])
        self._exchanged: tuple[DeviceArray, ...] = (
            *(device.empty(shape, dtype) for shape in plan.exchanged),
            device.upload(np.zeros(1, np.uint32)),
        )
        batch_bytes = B * D * dtype.itemsize
        most = min(GATHERED_BYTES // batch_bytes, MOST_STEPS)
        self.gathered = Gathered(buffers, D, dtype, most)
        self.has_run = False

    @property
    def compile_seconds(self) -> float:
        """What compiling the kernel took."""
        return self._kernel.seconds

    def train(self, call: Call, rates: DeviceArray) -> None:
        """Queue all steps of a call.

        Raises
        ------
        RuntimeError
            The device refuses to run all blocks at once.
        DeviceMemoryError
            There is no room for the gathered rows of one batch.
        """
        n_full, rest = divmod(call.n, call.size)
        self.gathered.make_room(n_full, call.size)
        number = 0
        while number < n_full:
            n_batches = min(self.gathered.most, call.side_by_side(number), n_full - number)
            self._launch(call, rates, number, n_batches, call.size)
            number += n_batches
        if rest:
            self._launch(call, rates, n_full, 1, rest)

    def _launch(
        self, call: Call, rates: DeviceArray, number: int, n_batches: int, size: int
    ) -> None:
        """Queue batches of so many rows each, from batch ``number`` of the call."""
        batch = Batch(call.rows, number * call.size, number, n_batches * size)
        x = self.gathered.rows(batch.size)
        call.gather(self._program, batch, x)
        targets = call.targets
        is_class = self._network.output == "softmax"
        args: tuple[Argument, ...] = (
            x,
            *self._parameters,
            np.int32(size),
            np.int64(n_batches),
            np.int64(batch.first),
            np.int64(number),
            *self._shape,
            rates,
            *self._constants,
            targets.y if is_class else NULL,
            NULL if is_class else targets.y,
            NULL if targets.w is None else targets.w,
            NULL if call.rows is None else call.rows,
            np.int32(self._mean),
            NULL if targets.weights is None else targets.weights,
            targets.losses,
            targets.correct,
            *self._mask_arguments(call),
            *self._exchanged,
        )
        self._kernel.launch(self._plan.blocks, args)
        self.has_run = True

    def _mask_arguments(self, call: Call) -> tuple[Argument, ...]:
        """Return the arguments ``steps`` to ``unscale``."""
        real = self._dtype.type
        dropout = call.dropout_of(0)
        if dropout is None:
            return NULL, np.uint32(0), np.uint32(0), np.uint64(0), real(1), real(1)
        return (
            dropout.steps,
            np.uint32(dropout.seed % 2**32),
            np.uint32(dropout.seed // 2**32),
            np.uint64(keep_threshold(dropout.rate)),
            real(1.0 / (1.0 - dropout.rate)),
            real(1.0 - dropout.rate),
        )


def build(
    device: CupyDevice, network: Network, batch_size: int, dtype: FloatDtype
) -> tuple[CooperativeKernel, Plan] | str:
    """Compile the kernel and spread a network over its blocks, or say what is in the way."""
    plan = choose(network, batch_size, dtype, device.limits())
    if isinstance(plan, str):
        return plan
    kernel = device.persistent(dtype, plan.kernel, threads=THREADS, shared_bytes=plan.shared_bytes)
    if kernel.resident < plan.blocks:
        return (
            f"the device runs {kernel.resident} blocks of the persistent kernel at once, "
            f"{plan.blocks} are needed"
        )
    return kernel, plan
