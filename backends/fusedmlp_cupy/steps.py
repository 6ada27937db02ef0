"""A call's training steps, and the way they are run: launch by launch, recorded, in one kernel.

Which way is chosen and named in backend.py and launching.py; here is what each needs, and where one
that cannot be had gives way to the next. What a step computes is in passes.py and updates.py.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_cupy import clusters, kernels, persistent, products
from fusedmlp_cupy.gathering import Gathered
from fusedmlp_cupy.kernels import Batch
from fusedmlp_cupy.launching import GROUP_STEPS, Graphs, one_line
from fusedmlp_cupy.products import is_small

if TYPE_CHECKING:
    from fusedmlp.network import Network
    from fusedmlp.types import FloatDtype
    from fusedmlp_cupy.buffers import Buffers
    from fusedmlp_cupy.call import Call
    from fusedmlp_cupy.cooperative import CooperativeKernel
    from fusedmlp_cupy.cublas import Cublas
    from fusedmlp_cupy.data import CupyData
    from fusedmlp_cupy.device import CupyDevice
    from fusedmlp_cupy.launching import Launching
    from fusedmlp_cupy.passes import Passes
    from fusedmlp_cupy.persistent import Persistent, Plan
    from fusedmlp_cupy.programs import DeviceArray, Program
    from fusedmlp_cupy.updates import Updates


AHEAD_BYTES: Final = 16 * 2**20
"""Inputs that one launch gathers for steps to come: few enough to be in the second-level cache of a
large device when they are read. An estimate that no device has confirmed."""

ALIGNMENT: Final = 256
"""Bytes at whose multiples CuPy's arrays begin, at least."""


def own_handle(
    device: CupyDevice, network: Network, batch_size: int, launching: Launching
) -> Cublas | None:
    """Make the cuBLAS handle that graphs need, unless a network's products are all small."""
    small = all(is_small(batch_size, D, H) for D, H in network.layer_shapes)
    if launching.used != "graph" or (small and not device.tf32):
        return None
    try:
        return device.cublas()
    except (OSError, AttributeError, RuntimeError) as error:
        launching.fall_back("eager", f"cuBLAS gives no handle for recording: {one_line(error)}")
        return None


def persistent_kernel(
    device: CupyDevice,
    network: Network,
    batch_size: int,
    dtype: FloatDtype,
    launching: Launching,
) -> tuple[CooperativeKernel, Plan] | None:
    """Build a persistent kernel, where steps are to be run in one and it can be had."""
    if launching.used not in ("persistent", "cluster"):
        return None
    build = clusters.build if launching.used == "cluster" else persistent.build
    try:
        found = build(device, network, batch_size, dtype)
    except (OSError, AttributeError, RuntimeError) as error:
        found = one_line(error)
    if isinstance(found, str):
        launching.fall_back("graph", found)
        return None
    if launching.asked is not None:
        launching.why = f"asked for: {found[1]}"
    return found


def most_ahead(size: int, shape: tuple[int, int], itemsize: int, *, own: bool) -> int:
    """Return the steps whose rows are gathered by one launch.

    cuBLAS may choose its kernel, and so the order of sums, by where its operands lie: where it
    multiplies the inputs, each batch must begin as whole arrays do, or is gathered alone.

    Parameters
    ----------
    shape
        Of the first layer.
    own
        Whether small products are the kernels of products.cu.
    """
    batch_bytes = size * shape[0] * itemsize
    if batch_bytes % ALIGNMENT and not (own and is_small(size, *shape)):
        return 1
    return min(GROUP_STEPS, AHEAD_BYTES // batch_bytes)


class Steps:
    """The steps of one engine.

    Parameters
    ----------
    gradients
        dW and db of each layer, where they are kept.
    blas
        The handle whose products are recorded.
    persistent
        The one kernel, or None where steps are not run in it.
    l2
        Weight of the penalty.
    strict
        Whether every step is launched by itself, and nothing counts from a cursor.

    Attributes
    ----------
    gathered
        Rows of some steps of a group; what a step gathers alone is in ``passes``.
    """

    def __init__(
        self,
        device: CupyDevice,
        buffers: Buffers,
        program: Program,
        passes: Passes,
        updates: Updates,
        gradients: tuple[tuple[DeviceArray, ...], tuple[DeviceArray, ...]],
        launching: Launching,
        blas: Cublas | None,
        persistent: Persistent | None,
        *,
        l2: float,
        batch_size: int,
        strict: bool,
    ) -> None:
        self._program, self._passes, self._updates = program, passes, updates
        self._dW, self._db = gradients
        self._launching = launching
        self._l2, self._strict = l2, strict
        self.graphs = Graphs(device, blas, launching)
        self.persistent = persistent
        self.cursor = device.empty((2,), np.int64)
        shapes = passes.network.layer_shapes
        x = passes.a[0]
        most = most_ahead(batch_size, shapes[0], x.dtype.itemsize, own=passes.layers.own)
        self.gathered = Gathered(buffers, shapes[0][0], x.dtype, most)
        self._descends = updates.is_plain and passes.layers.can_descend(batch_size, shapes)

    @property
    def compile_seconds(self) -> float:
        """What compiling the persistent kernel took."""
        return self.persistent.compile_seconds if self.persistent else 0.0

    def run(self, data: CupyData, call: Call, rates: DeviceArray) -> None:
        """Queue all steps of a call."""
        if self._run_persistently(call, rates):
            return
        if self._strict or call.is_streamed:
            for batch in call.batches():
                self._take_step(batch, call, rates)
        else:
            self._run_in_groups(data, call, rates)

    def _run_persistently(self, call: Call, rates: DeviceArray) -> bool:
        """Run them in the persistent kernel, if there is one that runs."""
        if self.persistent is None:
            return False
        try:
            self.persistent.train(call, rates)
        except RuntimeError as error:
            if self.persistent.has_run:  # steps have been taken: again would be another training
                raise
            self.persistent = None
            why = f"the persistent kernel is refused: {one_line(error)}"
            self._launching.fall_back("graph", why)
            return False
        return True

    def _run_in_groups(self, data: CupyData, call: Call, rates: DeviceArray) -> None:
        """Run them in groups that another call can repeat.

        Nothing that a group queues depends on where in the call it is: the cursor does.
        """
        n_full, rest = divmod(call.n, call.size)
        n_groups, n_single = divmod(n_full, GROUP_STEPS)
        if n_groups:
            self.gathered.make_room(GROUP_STEPS, call.size)
        kernels.advance_cursor(self._program, self.cursor, 0, 0, restart=True)
        self.graphs.forget_unless(call.buffers.generation)
        groups = [(GROUP_STEPS, call.size)] * n_groups + [(1, call.size)] * n_single
        for n_steps, size in groups + [(1, rest)] * (rest > 0):
            group = partial(self._queue_group, n_steps, size, call, rates)
            self.graphs.run(data, (n_steps, size), group)

    def _queue_group(self, n_steps: int, size: int, call: Call, rates: DeviceArray) -> None:
        """Queue steps of so many rows each, counted from the cursor, and move it on.

        The rows of many are gathered by one launch: into fewer than all where memory is short.
        """
        for first in range(0, n_steps, self.gathered.most):
            n = min(self.gathered.most, n_steps - first)
            ahead = self._gather_ahead(first, n, size, call) if n > 1 else None
            for i, number in enumerate(range(first, first + n)):
                batch = Batch(call.rows, number * size, number, size, self.cursor)
                x = None if ahead is None else ahead[i * size : (i + 1) * size]
                self._take_step(batch, call, rates, x)
        kernels.advance_cursor(self._program, self.cursor, n_steps, n_steps * size)

    def _gather_ahead(self, first: int, n_steps: int, size: int, call: Call) -> DeviceArray:
        """Queue the gathering of some steps' rows, counted from the cursor."""
        rows = Batch(call.rows, first * size, first, n_steps * size, self.cursor)
        x = self.gathered.rows(rows.size)
        call.gather(self._program, rows, x)
        return x

    def _take_step(
        self, batch: Batch, call: Call, rates: DeviceArray, x: DeviceArray | None = None
    ) -> None:
        """Queue one step: gradients and update, at once for plain SGD on small products.

        Parameters
        ----------
        x
            (B, D) inputs where they have been gathered.
        """
        passes = self._passes
        for layer, delta, a in passes.backward(batch, call, x):
            if self._descends:
                W, b = passes.weights[layer], passes.biases[layer]
                products.sgd_gradients(self._program, a, delta, W, b, rates, batch, self._l2)
            else:
                passes.layers.gradients(a, delta, self._dW[layer], self._db[layer])
        if not self._descends:
            self._updates.take_step(rates, batch, l2=self._l2)
