"""Problems for both paths of the Numba engine's first layer, and calls of many workers."""

from __future__ import annotations

import pytest

from fusedmlp_numba import calls
from problems import problem, thinned


@pytest.fixture(params=[problem, thinned], ids=["dense", "sparse"])
def drawn(request):
    """Draw problems whose first layer reads all inputs, and such that it skips zeros."""
    return request.param


@pytest.fixture
def eager(monkeypatch):
    """Give every call as many workers as threads, however small it is."""
    monkeypatch.setattr(calls, "CALL_FLOPS", 0)
    monkeypatch.setattr(calls, "WORKER_FLOPS", 1)
