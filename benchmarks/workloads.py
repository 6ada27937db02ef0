"""The networks that every benchmark measures, and the data they are measured on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.backend import Backend, Data, Engine, State
from fusedmlp.network import Network, Objective, initialise, zeros
from fusedmlp.optimizers import SGD, Optimizer

if TYPE_CHECKING:
    from fusedmlp.types import FloatDtype


@dataclass(frozen=True)
class Workload:
    """A network, its batch size, and how many MNIST rows one measured call trains on."""

    name: str
    network: Network
    batch_size: int
    rows: int

    @property
    def n_steps(self) -> int:
        return -(-self.rows // self.batch_size)


SMALL = Workload("small", Network((784, 256, 10)), 64, 60_000)
BIG = Workload("big", Network((784, 1024, 1024, 10), hidden="relu"), 1024, 16_384)
WORKLOADS = (SMALL, BIG)


def mnist_rows(rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The first rows of MNIST's training part: (rows, 784) uint8 and (rows,) class numbers."""
    from fusedmlp.datasets import load_dataset  # the networks alone need no data

    data = load_dataset("mnist")
    return data.x_train[:rows], data.y_train[:rows]


def build(
    backend: Backend,
    workload: Workload,
    x: np.ndarray,
    y: np.ndarray,
    optimizer: Optimizer | None = None,
    dtype: FloatDtype = "float32",
) -> tuple[Engine, Data]:
    """An engine with drawn weights and its staged data."""
    optimizer = optimizer or SGD(0.1)
    engine = backend.compile(
        workload.network,
        optimizer,
        Objective(),
        batch_size=workload.batch_size,
        dtype=dtype,
        seed=0,
    )
    slots = tuple(zeros(workload.network, dtype) for _ in optimizer.slots)
    engine.load(State(initialise(workload.network, 0, dtype), slots, 0))
    return engine, engine.stage(x, y)


def epoch(engine: Engine, data: Data, workload: Workload, seed: int = 0) -> float:
    """Train one shuffled epoch to its end, on the device too; return the mean loss."""
    order = np.random.default_rng(seed).permutation(data.rows)
    sums = engine.train_epoch(data, order, np.full(workload.n_steps, 0.1))
    engine.synchronize()
    return sums.loss
