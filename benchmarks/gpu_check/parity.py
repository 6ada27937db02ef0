"""Whether the CuPy engine agrees with NumPy on this device, in every way to launch its steps.

Every function is a part, or a case of one: see running.py. Nothing is timed here.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np

from fusedmlp.errors import BreachedError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Network
from fusedmlp.optimizers import OPTIMIZERS, make_optimizer
from fusedmlp.tolerance import difference, tf32_trajectory_bound, trajectory_bound
from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.kernels.arguments import Batch, Dropout
from fusedmlp_cupy.kernels.launches import KERNELS, dropout_mask
from fusedmlp_cupy.runtime.device import CupyDevice
from fusedmlp_cupy.tuning import Tuning
from fusedmlp_numpy import NumpyBackend, kernels
from gpu_check import engine
from gpu_check.running import several

GROUP_STEPS = Tuning().group_steps
DEEP, SHALLOW = (37, 65, 33, 5), (37, 65, 5)
BITS_SIZES = (784, 64, 10)
MASK_SHAPE = (129, 1031)

ROWS, SIZE, CALLS = 1000, 45, 2
"""Two calls of 22 whole batches and one of 10 rows: within ``tolerance.TRAJECTORY_STEPS``."""

WORKLOAD_STEPS = 3.5
"""The same of the measured networks, whose steps take the host long."""


@dataclass(frozen=True)
class Trajectory:
    """A training to be compared: calls of so many rows each, in drawn order."""

    network: Network
    optimizer: str
    dtype: str
    size: int
    rows: int

    def run(self, backend):
        """Losses of each call and the parameters after the last."""
        rng = np.random.default_rng(1)
        D, n, N = self.network.n_inputs, self.network.n_outputs, 200
        x = rng.integers(0, 256, (N, D), np.uint8)
        y = {
            "softmax": rng.integers(0, n, N),
            "sigmoid": rng.integers(0, 2, (N, n)),
            "identity": rng.standard_normal((N, n)),
            "exp": rng.poisson(1.0, (N, n)),
        }[self.network.output]
        w, optimizer = rng.uniform(0, 2, N), make_optimizer(self.optimizer)
        built, data = engine.build(backend, self.network, self.size, x, y, optimizer, self.dtype, w)
        rates = np.full(-(-self.rows // self.size), 0.01)
        # The second call meets what the first has recorded, at another place in the data.
        orders = [rng.integers(0, N, self.rows) for _ in range(CALLS)]
        losses = [built.train_epoch(data, order, rates).losses for order in orders]
        return [*losses, *built.parameters()]


def trajectories(dtypes):
    """Every optimizer on both networks, every activation and output; the measured networks."""
    cases = {}
    for dtype in dtypes:
        chosen = [(SHALLOW, o, "tanh", "softmax", 0.0) for o in OPTIMIZERS]
        chosen += [(DEEP, o, "tanh", "softmax", 0.2) for o in OPTIMIZERS]
        chosen += [
            (sizes, "momentum", *pair, 0.2 if sizes is DEEP else 0.0)
            for sizes in (SHALLOW, DEEP)
            for pair in product(HIDDEN_ACTIVATIONS, OUTPUTS)
        ]
        for sizes, optimizer, hidden, output, dropout in chosen:
            name = f"{dtype} {'-'.join(map(str, sizes))} {optimizer} {hidden} {output}"
            network = Network(sizes, hidden, output, dropout)
            cases[name] = Trajectory(network, optimizer, dtype, SIZE, ROWS)
    for name, (network, size) in engine.WORKLOADS.items():
        rows = int(WORKLOAD_STEPS * size)
        cases[f"{name} sgd"] = Trajectory(network, "sgd", "float32", size, rows)
    return cases


def parity(**options):
    """All trajectories in both types, and bits that must be equal."""
    backend = engine.backend_with(**options)
    cases = [
        (name, partial(compare, backend, each, trajectory_bound(each.dtype)))
        for name, each in trajectories(("float32", "float64")).items()
    ]
    yield from several([*cases, ("bits", partial(compare_bits, options))])


def parity_tf32():
    """Those in float32 with TF32's products, within a bound that float32's results meet as well."""
    backend, bound = engine.backend_with(tf32=True), tf32_trajectory_bound()
    yield from several(
        (name, partial(compare, backend, each, bound))
        for name, each in trajectories(("float32",)).items()
    )


def compare(backend, trajectory, bound):
    """The largest difference from NumPy, of losses and of parameters."""
    found = [trajectory.run(each) for each in (backend, NumpyBackend())]
    gap = max(difference(a, b) for a, b in zip(*found, strict=True))
    if not gap <= bound:
        raise BreachedError(f"differs from NumPy by {gap:.3g}, the bound is {bound:.3g}")
    return {"difference": float(gap), "bound": float(bound)}


def compare_bits(options):
    """Calls long enough for groups of steps, beside eager ones and beside themselves.

    Graphs hold the launches of eager steps, and so have their bits. Another way to launch may sum
    in another order: its difference is noted. Each repeats its own bits.
    """
    rng = np.random.default_rng(2)
    network = Network(BITS_SIZES, "tanh", dropout=0.2)
    size, n_steps, N = 16, 2 * Tuning().group_steps + 3, 500
    x = rng.integers(0, 256, (N, network.n_inputs), np.uint8)
    y = rng.integers(0, network.n_outputs, N)
    orders = [rng.integers(0, N, size * n_steps - 7) for _ in range(3)]
    found = []
    for each in (options, options, {"eager": True}):
        adamw = make_optimizer("adamw")
        built, data = engine.build(CupyBackend(**each), network, size, x, y, adamw)
        losses = [built.train_epoch(data, o, np.full(n_steps, 1e-3)).losses for o in orders]
        found.append(np.concatenate([*losses, *(a.ravel() for a in built.parameters())]))
    once, again, eager = (each.tobytes() for each in found)
    if once != again:
        raise BreachedError("a second run has other bits than the first")
    if once != eager and options == {"graph": True}:
        raise BreachedError("replayed graphs have other bits than eager steps")
    apart = difference(found[0], found[2])
    return {"repeat": "equal", "beside eager": f"{apart:.3g} apart" if apart else "equal"}


def masks():
    """Dropout masks, whose every unit must be the specification's."""
    device = CupyDevice(importlib.import_module("cupy"), 0)
    with device.active():
        out = device.empty(MASK_SHAPE, np.uint8)
        dropout = Dropout(device.upload(np.array([3], np.uint32)), 1, 2**40 + 1, 0.3)
        program = device.program("float32", tuple(KERNELS))
        dropout_mask(program, out, Batch(None, 0, 0, MASK_SHAPE[0]), dropout)
        mask = device.download(out)
    expected = np.empty(mask.shape, bool)
    kernels.dropout_mask(expected, 2**40 + 1, 3, 1, 0.3)
    if not np.array_equal(mask, expected):
        raise BreachedError("the dropout masks differ from the specification's")
    yield "bits", {"masks": "equal"}
