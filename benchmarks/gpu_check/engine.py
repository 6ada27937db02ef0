"""The CuPy engine on the device: whether it agrees with NumPy, and how long its epochs take.

Every function is a part, or a case of one: see running.py. No peer and no bare CuPy call is
measured here.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import replace
from functools import partial
from itertools import product

import numpy as np

import workloads
from fusedmlp.backend import State
from fusedmlp.errors import BreachedError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Network, Objective, initialise, zeros
from fusedmlp.optimizers import OPTIMIZERS, SGD, make_optimizer
from fusedmlp.tolerance import difference, tf32_trajectory_bound, trajectory_bound
from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.device import CupyDevice
from fusedmlp_cupy.kernels import KERNELS, Batch, Dropout, dropout_mask
from fusedmlp_cupy.launching import GROUP_STEPS
from fusedmlp_numpy import NumpyBackend, kernels
from gpu_check.running import NotHereError, several
from gpu_check.timing import ROUNDS, epoch_figures, rounds_of

WORKLOADS = {each.name: (each.network, each.batch_size) for each in workloads.WORKLOADS}
MNIST_ROWS = 60_000
TF32_CAPABILITY = 8.0
PARITY_SIZES = (37, 65, 33, 5)
BITS_SIZES = (784, 64, 10)
MASK_SHAPE = (129, 1031)
PARITY_ROWS, PARITY_SIZE, PARITY_CALLS = 1000, 45, 2
"""Two calls of 22 whole batches and one of 10 rows: within ``tolerance.TRAJECTORY_STEPS``."""


def pixels(rows=None):
    """MNIST from a folder or the cache, or synthetic pixels, a fifth of them lit: (x, y, name)."""
    rows = rows or MNIST_ROWS
    try:
        from fusedmlp.datasets import load_dataset

        source = "dir" if os.environ.get("FUSEDMLP_DATA") else "cache"
        data = load_dataset("mnist", source=source)
        return data.x_train[:rows], data.y_train[:rows], "MNIST"
    except Exception as error:  # noqa: BLE001 - any reason will do to take synthetic pixels
        print(f"MNIST is not here ({error}): synthetic pixels instead", file=sys.stderr)
    rng = np.random.default_rng(0)
    x = rng.integers(1, 256, (rows, 784), dtype=np.uint8) * (rng.random((rows, 784)) < 0.19)
    return x.astype(np.uint8), rng.integers(0, 10, rows), "synthetic"


def build(backend, network, batch_size, x, y, optimizer=None, dtype="float32", w=None):
    """An engine with drawn weights and biases, and its staged data."""
    optimizer = optimizer or SGD(0.1)
    engine = backend.compile(
        network, optimizer, Objective(), batch_size=batch_size, dtype=dtype, seed=7
    )
    slots = tuple(zeros(network, dtype) for _ in optimizer.slots)
    engine.load(State(initialise(network, 0, dtype), slots, 0))
    return engine, engine.stage(x, y, w)


def with_tf32():
    """The backend with TF32, where the device has it."""
    capability = CupyBackend().device().facts["compute_capability"]
    if float(capability) < TF32_CAPABILITY:
        raise NotHereError(f"compute capability {capability}: TF32 needs {TF32_CAPABILITY}")
    return CupyBackend(tf32=True)


def parity(**options):
    """Steps of every optimizer, activation and output in both types, and the masks."""
    backend = CupyBackend(**options)
    cases = trajectories(backend, ("float32", "float64"), trajectory_bound)
    cases += [("dropout masks", check_masks), ("bits", partial(compare_bits, options))]
    yield from several(cases, may_refuse=True)


def parity_tf32():
    """The same trajectories in TF32, within its own bound, which float32's results meet as well."""
    bound = tf32_trajectory_bound()
    yield from several(trajectories(with_tf32(), ("float32",), lambda _dtype: bound))


def trajectories(backend, dtypes, bound_of):
    """Cases that compare with NumPy: (name, function)."""
    cases = [(o, "tanh", "softmax") for o in OPTIMIZERS]
    cases += [("momentum", *pair) for pair in product(HIDDEN_ACTIVATIONS, OUTPUTS)]
    return [
        (f"{dtype} {' '.join(case)}", partial(compare, backend, dtype, *case, bound_of(dtype)))
        for dtype, case in product(dtypes, cases)
    ]


def compare(backend, dtype, optimizer, hidden, output, bound):
    """Train as NumPy does, with dropout and weights; the largest difference of losses and weights.

    A second call like the first meets what that has recorded, with another place in its data.
    """
    rng = np.random.default_rng(1)
    network = Network(PARITY_SIZES, hidden, output, 0.2)
    x = rng.standard_normal((200, network.n_inputs)).astype(dtype)
    y = {
        "softmax": rng.integers(0, 5, 200),
        "sigmoid": rng.integers(0, 2, (200, 5)),
        "identity": rng.standard_normal((200, 5)),
        "exp": rng.poisson(1.0, (200, 5)),
    }[output]
    w = rng.uniform(0, 2, 200)
    orders = [rng.integers(0, 200, PARITY_ROWS) for _ in range(PARITY_CALLS)]
    rates = np.full(-(-PARITY_ROWS // PARITY_SIZE), 0.01)
    found = []
    for each in (backend, NumpyBackend()):
        built = make_optimizer(optimizer)
        engine, data = build(each, network, PARITY_SIZE, x, y, built, dtype, w)
        losses = [engine.train_epoch(data, order, rates).losses for order in orders]
        found.append([*losses, *engine.state().parameters])
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
    size, n_steps = 16, 2 * GROUP_STEPS + 3
    x, y = rng.integers(0, 256, (500, network.n_inputs), np.uint8), rng.integers(0, 10, 500)
    orders = [rng.integers(0, 500, size * n_steps - 7) for _ in range(3)]
    found = []
    for each in (options, options, {"eager": True}):
        engine, data = build(CupyBackend(**each), network, size, x, y, make_optimizer("adamw"))
        losses = [engine.train_epoch(data, o, np.full(n_steps, 1e-3)).losses for o in orders]
        found.append(np.concatenate([*losses, *(a.ravel() for a in engine.parameters())]))
    once, again, eager = (each.tobytes() for each in found)
    if once != again:
        raise BreachedError("a second run has other bits than the first")
    if once != eager and options == {"graph": True}:
        raise BreachedError("replayed graphs have other bits than eager steps")
    return {
        "repeat": "equal",
        "beside eager": "equal" if once == eager else f"{difference(found[0], found[2]):.3g} apart",
    }


def check_masks():
    """Raise where a dropout mask differs from the specification's in any unit."""
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
    return {"bits": "equal"}


def training(**options):
    """An MNIST-sized epoch of both networks, and what follows from its time."""
    backend = CupyBackend(**options)
    yield from epochs_of(backend)


def training_tf32():
    """The same with TF32."""
    yield from epochs_of(with_tf32())


def epochs_of(backend):
    x, y, _ = pixels()
    cases = [
        (name, partial(train, backend, network, size, x, y))
        for name, (network, size) in WORKLOADS.items()
    ]
    yield from several(cases, may_refuse=True)


def streaming():
    """Epochs whose inputs go up chunk by chunk: their time, and the bits of resident ones."""
    backend = CupyBackend()
    x, y, _ = pixels()

    def streamed(name, network, size):
        order = np.random.default_rng(0).permutation(len(x))
        rates = np.full(-(-len(x) // size), 0.1)
        states = []
        for on_host in (False, True):
            engine, data = build(backend, network, size, x, y)
            data = replace(data, x=x) if on_host else data
            engine.train_epoch(data, order, rates)
            states.append([array.tobytes() for array in engine.parameters()])
        if states[0] != states[1]:
            raise BreachedError(f"{name}: streamed epochs have other bits than resident ones")
        return train(backend, network, size, x, y, streamed=True) | {"bits": "equal"}

    yield from several(
        (name, partial(streamed, name, *workload)) for name, workload in WORKLOADS.items()
    )


def interop():
    """Predictions for an array on the device: left there, with the bits of those from the host."""
    cupy = importlib.import_module("cupy")
    backend = CupyBackend()
    x, _, _ = pixels()

    def predicted(name, network, size):
        engine, _ = build(backend, network, size, x[:size], np.zeros(size, np.int64))
        there = cupy.asarray(x)
        found = engine.forward(there)
        if not isinstance(found, cupy.ndarray):
            raise TypeError(f"{name}: forward gave a {type(found).__name__} for a CuPy array")
        if found.get().tobytes() != engine.forward(x).tobytes():
            raise BreachedError(f"{name}: other bits for an array on the device")
        return {
            "from the device": rounds_of(lambda: engine.forward(there)),
            "from the host": rounds_of(lambda: engine.forward(x)),
        }

    yield from several(
        (name, partial(predicted, name, *workload)) for name, workload in WORKLOADS.items()
    )


def train(backend, network, size, x, y, *, rounds=ROUNDS, streamed=False):
    """Time one epoch over x, all included; x may be kept on the host and streamed."""
    engine, data = build(backend, network, size, x, y)
    data = replace(data, x=x) if streamed else data
    order = np.random.default_rng(0).permutation(len(x))
    n_steps = -(-len(x) // size)
    losses = []

    def epoch():
        losses.append(engine.train_epoch(data, order, np.full(n_steps, 0.1)).loss)
        engine.synchronize()

    found = epoch_figures(network, size, len(x), rounds_of(epoch, rounds), losses)
    facts = backend.device().facts
    launches = {key: facts[key] for key in ("launches", "launches_because") if key in facts}
    return found | {"compile_s": engine.compile_seconds} | launches
