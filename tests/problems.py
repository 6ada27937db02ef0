"""The random problems of the parity certificate, under the name that tests and benchmarks use."""

from fusedmlp.parity.problems import (
    OPTIMIZERS,
    STORAGES,
    Problem,
    engine,
    flat,
    order,
    problem,
    start,
)

__all__ = ["OPTIMIZERS", "STORAGES", "Problem", "engine", "flat", "order", "problem", "start"]
