"""Problems for both paths of the Numba engine's first layer, and calls of many workers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from fusedmlp_numba import engine as engine_module
from problems import problem


def thinned(*arguments, **options):
    """Draw a problem with so few nonzero inputs that the first layer skips the zeros."""
    task = problem(*arguments, **options)
    if not isinstance(task.x, np.ndarray):
        return task  # CSR has no zeros to read
    return replace(task, x=task.x * (np.random.default_rng(1).random(task.x.shape) < 0.15))


@pytest.fixture(params=[problem, thinned], ids=["dense", "sparse"])
def drawn(request):
    """Draw problems whose first layer reads all inputs, and such that it skips zeros."""
    return request.param


@pytest.fixture
def eager(monkeypatch):
    """Give every call as many workers as threads, however small it is."""
    monkeypatch.setattr(engine_module, "CALL_FLOPS", 0)
    monkeypatch.setattr(engine_module, "WORKER_FLOPS", 1)
