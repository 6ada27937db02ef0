"""The persistent kernel of one engine: compilation, launches, and the arrays that blocks exchange.

persistent_plan.py distributes a network over blocks. One launch trains on all full batches of a
call, with the first layer's weights in shared memory; a last partial batch is another launch. The
rows are gathered in their order before it, for several batches at a time. Where Σ W² is asked for,
each batch is a launch, because the kernel does not compute it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.network import OUTPUTS
from fusedmlp.optimizers import UPDATE_FORMULAS
from fusedmlp_cupy.kernels.arguments import (
    NULL,
    Batch,
    activation_index,
    optimizer_constants,
    or_null,
)
from fusedmlp_cupy.messages import one_line
from fusedmlp_cupy.training.execution import unavailable
from fusedmlp_cupy.training.gathering import GatheredRows
from fusedmlp_cupy.training.persistent_plan import plan_persistent

if TYPE_CHECKING:
    from fusedmlp_cupy.batches import BatchSequence
    from fusedmlp_cupy.runtime.cooperative import CooperativeKernel
    from fusedmlp_cupy.runtime.types import Argument, DeviceArray
    from fusedmlp_cupy.training.context import Context
    from fusedmlp_cupy.training.parameters import ParameterArrays
    from fusedmlp_cupy.training.persistent_plan import PersistentPlan
    from fusedmlp_cupy.training.updates import Updates

KERNEL: Final = "persistent_steps"


class PersistentTraining:
    """The persistent kernel of one engine, and the arrays that its blocks exchange.

    Attributes
    ----------
    plan
        The distribution over blocks.
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
        self._gathered = GatheredRows(context.buffers, D, context.dtype, most)
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
        self._gathered.reserve(n_full, sequence.size)
        number = 0
        try:
            while number < n_full:
                most = self._gathered.max_batches if sequence.squares is None else 1
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
        x = self._gathered.rows(batch.size)
        sequence.gather(self._context.program, batch, x)
        sequence.square_weights(self._context.program, self._parameters.W, batch)
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
        """Return the arguments ``formula`` to ``c4``."""
        real = np.dtype(self._context.dtype).type
        constants = self._updates.constants(self._context.objective.l2)
        formula = np.int32(UPDATE_FORMULAS.index(self._updates.optimizer.kernel))
        return formula, rates, *optimizer_constants(constants, real)

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
