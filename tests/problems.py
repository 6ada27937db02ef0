"""Small random problems that tests and benchmarks share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse

from fusedmlp.backend import State
from fusedmlp.network import Network, Objective, Parameters, initialise, zeros
from fusedmlp.optimizers import SGD, Adam

OPTIMIZERS = {
    "sgd": SGD(0.3),
    "momentum": SGD(0.1, 0.9),
    "nesterov": SGD(0.1, 0.9, nesterov=True),
    "adam": Adam(0.01),
    "adamw": Adam(0.01, weight_decay=0.1),
    # Large enough that it matters where it stands.
    "adam-hat": Adam(0.01, eps=1e-3, eps_hat=True),
}


@dataclass(frozen=True)
class Problem:
    """A network and a labelled data set of N rows."""

    network: Network
    x: np.ndarray
    y: np.ndarray
    sample_weight: np.ndarray | None = None


def problem(
    sizes=(13, 7, 5),
    hidden="sigmoid",
    output="softmax",
    dropout=0.0,
    *,
    rows=37,
    storage="float64",
    weighted=False,
    seed=0,
):
    """Draw a problem. ``storage`` is a dtype name, ``csr32`` or ``csr64``."""
    rng = np.random.default_rng(seed)
    network = Network(sizes, hidden, output, dropout)
    D, K = network.n_inputs, network.n_outputs
    x = rng.normal(size=(rows, D)) * (rng.random((rows, D)) < 0.6)
    if storage == "uint8":
        x = (rng.integers(0, 256, (rows, D)) * (rng.random((rows, D)) < 0.4)).astype(np.uint8)
    elif storage.startswith("csr"):
        x = scipy.sparse.csr_array(x.astype(f"float{storage[3:]}"))
    else:
        x = x.astype(storage)
    y = {
        "softmax": lambda: rng.integers(0, K, rows),
        "sigmoid": lambda: rng.integers(0, 2, (rows, K)).astype(float),
        "identity": lambda: rng.normal(size=(rows, K)),
        "exp": lambda: rng.poisson(1.0, (rows, K)).astype(float),
    }[output]()
    return Problem(network, x, y, rng.random(rows) * 3 if weighted else None)


def engine(
    backend, task, optimizer="sgd", objective=None, *, batch_size=8, dtype="float64", seed=5
):
    """Build an engine on drawn weights and stage the problem: (engine, data)."""
    optimizer = OPTIMIZERS.get(optimizer, optimizer)
    built = backend.compile(
        task.network,
        optimizer,
        objective or Objective(),
        batch_size=batch_size,
        dtype=dtype,
        seed=seed,
    )
    built.load(start(task.network, optimizer, dtype))
    return built, built.stage(task.x, task.y, task.sample_weight)


def start(network, optimizer, dtype="float64", seed=3):
    """Draw a starting state; biases are drawn too, so that no test is blind to them."""
    rng = np.random.default_rng(seed)
    weights = initialise(network, seed, dtype).weights
    biases = tuple(rng.normal(0, 0.3, W.shape[1]).astype(dtype) for W in weights)
    slots = tuple(zeros(network, dtype) for _ in optimizer.slots)
    return State(Parameters(weights, biases), slots, 0)


def order(rows, epochs=1, seed=1):
    """Shuffled row numbers of several epochs: (epochs · rows,)."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(rows) for _ in range(epochs)])


def flat(parameters):
    """All numbers in one vector."""
    return np.concatenate([np.ravel(array) for array in parameters])
