"""The CuPy engine on the device: how long its epochs take, streamed ones and predictions too.

Functions without arguments are parts, others cases of one: see running.py. Whether the engine
agrees with NumPy is checked in parity.py; no peer and no bare CuPy call is measured here.
"""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import replace
from functools import partial

import numpy as np

import workloads
from fusedmlp.backend import State
from fusedmlp.errors import BackendUnavailableError, BreachedError
from fusedmlp.network import Objective, initialise, zeros
from fusedmlp.optimizers import SGD
from fusedmlp_cupy import CupyBackend
from gpu_check.running import NotHereError, RefusedError, several
from gpu_check.timing import ROUNDS, epoch_figures, rounds_of

WORKLOADS = {each.name: (each.network, each.batch_size) for each in workloads.WORKLOADS}
MNIST_ROWS = 60_000

CAPABILITIES = {"tf32": ("TF32", 8.0)}
"""Options that not every device has: their names, and the compute capability that they need."""


def pixels(rows=None):
    """MNIST from a folder or the cache, or synthetic pixels, a fifth of them lit: (x, y, name).

    Their classes are those of a linear map, so that there is something to learn, and a loss tells
    one training from another. Nothing is ever downloaded.
    """
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
    y = (x.astype(np.float32) @ rng.standard_normal((784, 10), np.float32)).argmax(axis=1)
    return x.astype(np.uint8), y, "synthetic"


def build(backend, network, batch_size, x, y, optimizer=None, dtype="float32", w=None):
    """An engine with drawn weights and biases, and its staged data.

    Raises
    ------
    RefusedError
        The way to launch steps that was asked for is not for this network.
    """
    optimizer = optimizer or SGD(0.1)
    try:
        engine = backend.compile(
            network, optimizer, Objective(), batch_size=batch_size, dtype=dtype, seed=7
        )
    except BackendUnavailableError as error:
        raise RefusedError(str(error)) from error
    slots = tuple(zeros(network, dtype) for _ in optimizer.slots)
    engine.load(State(initialise(network, 0, dtype), slots, 0))
    return engine, engine.stage(x, y, w)


def backend_with(**options):
    """The backend with options, where the device has them."""
    capability = CupyBackend().device().facts["compute_capability"]
    for option in options.keys() & CAPABILITIES.keys():
        name, needed = CAPABILITIES[option]
        if float(capability) < needed:
            raise NotHereError(f"compute capability {capability}: {name} needs {needed}")
    return CupyBackend(**options)


def training(**options):
    """An MNIST-sized epoch of both networks, and what follows from its time."""
    backend = backend_with(**options)
    x, y, _ = pixels()
    cases = [
        (name, partial(train, backend, network, size, x, y))
        for name, (network, size) in WORKLOADS.items()
    ]
    yield from several(cases)


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
    """Time one epoch over x, all included; x may be kept on the host and streamed.

    The order goes up and the losses come back within it, and a last partial batch is trained on;
    peers have the order on the device beforehand, and whole batches alone. ``first_loss`` is that
    of the whole batches, and so is theirs.
    """
    engine, data = build(backend, network, size, x, y)
    data = replace(data, x=x) if streamed else data
    order = np.random.default_rng(0).permutation(len(x))
    n_steps, n_whole = -(-len(x) // size), len(x) // size
    losses = []

    def epoch():
        sums = engine.train_epoch(data, order, np.full(n_steps, 0.1))
        losses.append(sums.losses[:n_whole].sum() / (n_whole * size))
        engine.synchronize()

    found = epoch_figures(network, size, len(x), rounds_of(epoch, rounds), losses)
    facts = backend.device().facts
    launches = {key: facts[key] for key in ("launches", "launches_because") if key in facts}
    return found | {"compile_s": engine.compile_seconds} | launches
