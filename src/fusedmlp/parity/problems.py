"""Small random problems on which engines are compared, by the tests and by the certificate.

This module draws data and starting states. The comparisons are in checks.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias, cast

import numpy as np

from fusedmlp.backend import EngineSpec, State
from fusedmlp.network import Network, Objective, Parameters, initialise, zeros
from fusedmlp.optimizers import OPTIMIZER_NAMES, Adam, Lion, make_optimizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from fusedmlp.backend import Backend, Data, Engine
    from fusedmlp.network import HiddenActivation, Output
    from fusedmlp.optimizers import Optimizer
    from fusedmlp.types import Float64Vector, FloatArray, FloatDtype, Inputs, IntArray

    Targets: TypeAlias = npt.NDArray[np.int64] | npt.NDArray[np.float64]

_RATES: Final = {"sgd": 0.3, "momentum": 0.1, "nesterov": 0.1}
"""Learning rates; 0.01 for the optimizers whose steps do not depend on the gradient's size."""

OPTIMIZERS: Final[dict[str, Optimizer]] = {
    name: make_optimizer(name, _RATES.get(name, 0.01)) for name in OPTIMIZER_NAMES
} | {
    # Decays and an ε̂ that are large enough for an error in their place to show.
    "adamw": Adam(0.01, weight_decay=0.1),
    "lion": Lion(0.01, weight_decay=0.1),
    "adam with ε̂": Adam(0.01, eps=1e-3, eps_hat=True),
}
"""Every optimizer by name, with hyper-parameters for a comparison."""

STORAGES: Final = ("uint8", "float32", "float64", "csr32", "csr64")
"""Storages of inputs; the number after ``csr`` is the size of its floats in bits."""


@dataclass(frozen=True)
class Problem:
    """A network and a labelled data set of N rows."""

    network: Network
    x: Inputs
    y: Targets
    sample_weight: Float64Vector | None = None


def problem(
    sizes: Sequence[int] = (13, 7, 5),
    hidden: HiddenActivation = "sigmoid",
    output: Output = "softmax",
    dropout: float = 0.0,
    *,
    rows: int = 37,
    storage: str = "float64",
    weighted: bool = False,
    seed: int = 0,
) -> Problem:
    """Draw a problem; ``storage`` is one of :data:`STORAGES`."""
    rng = np.random.default_rng(seed)
    network = Network(tuple(sizes), hidden, output, dropout)
    D, K = network.n_inputs, network.n_outputs
    drawn = rng.normal(size=(rows, D)) * (rng.random((rows, D)) < 0.6)
    x: Inputs
    if storage == "uint8":
        x = (rng.integers(0, 256, (rows, D)) * (rng.random((rows, D)) < 0.4)).astype(np.uint8)
    elif storage.startswith("csr"):
        import scipy.sparse  # the other storages do without it

        x = scipy.sparse.csr_array(drawn.astype(f"float{storage[3:]}"))
    else:
        x = cast("FloatArray", drawn.astype(storage))
    y: Targets
    match output:
        case "softmax":
            y = rng.integers(0, K, rows)
        case "sigmoid":
            y = rng.integers(0, 2, (rows, K)).astype(np.float64)
        case "identity":
            y = rng.normal(size=(rows, K))
        case "exp":
            y = rng.poisson(1.0, (rows, K)).astype(np.float64)
    return Problem(network, x, y, rng.random(rows) * 3 if weighted else None)


def engine(
    backend: Backend,
    task: Problem,
    optimizer: Optimizer | str = "sgd",
    objective: Objective | None = None,
    *,
    batch_size: int = 8,
    dtype: FloatDtype = "float64",
    seed: int = 5,
    sums_squares: bool = False,
) -> tuple[Engine, Data]:
    """Build an engine with drawn weights and stage the problem's data.

    Parameters
    ----------
    optimizer
        An optimizer, or a name in :data:`OPTIMIZERS`.
    """
    chosen = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
    built = backend.compile(
        EngineSpec(
            task.network,
            chosen,
            objective or Objective(),
            batch_size=batch_size,
            dtype=dtype,
            seed=seed,
            sums_squares=sums_squares,
        )
    )
    built.load(start(task.network, chosen, dtype))
    return built, built.stage(task.x, task.y, task.sample_weight)


def start(
    network: Network, optimizer: Optimizer, dtype: FloatDtype = "float64", seed: int = 3
) -> State:
    """Draw a starting state; biases are not zero, so that every comparison covers them."""
    rng = np.random.default_rng(seed)
    weights = initialise(network, seed, dtype).weights
    biases = tuple(
        cast("FloatArray", rng.normal(0, 0.3, W.shape[1:]).astype(dtype)) for W in weights
    )
    slots = tuple(zeros(network, dtype) for _ in optimizer.slots)
    return State(Parameters(weights, biases), slots, 0)


def order(rows: int, epochs: int = 1, seed: int = 1) -> IntArray:
    """Shuffled row numbers of several epochs: (epochs · rows,)."""
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.permutation(rows) for _ in range(epochs)])


def flat(parameters: Parameters) -> FloatArray:
    """All parameters in one vector."""
    return cast("FloatArray", np.concatenate([np.ravel(array) for array in parameters]))
