"""The random problems of the parity certificate, and those with few nonzero inputs."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

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

__all__ = [
    "OPTIMIZERS",
    "STORAGES",
    "Problem",
    "engine",
    "flat",
    "order",
    "problem",
    "start",
    "thinned",
]


def thinned(*arguments, **options):
    """Draw a problem with few nonzero inputs: the Numba engine's first layer skips the zeros."""
    task = problem(*arguments, **options)
    if not isinstance(task.x, np.ndarray):
        return task  # CSR has no zeros to read
    return replace(task, x=task.x * (np.random.default_rng(1).random(task.x.shape) < 0.15))
