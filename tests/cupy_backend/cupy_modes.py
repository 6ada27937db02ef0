"""The CuPy backend in each of its modes, for tests."""

from __future__ import annotations

from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.tuning import Tuning

MODES = ("eager", "eager, cuBLAS", "graph", "graph, cuBLAS", "persistent")


def cupy_backend(mode="", **tuning):
    """The backend with options as in ``"tf32+graph"``; ", cuBLAS": for products of any size."""
    options, _, products = mode.partition(", ")
    backend = CupyBackend(**dict.fromkeys(filter(None, options.split("+")), True))
    backend.tuning = Tuning(**({"small_product": 0} if products else {}) | tuning)
    return backend


def small_backend(mode="", **tuning):
    """The same for small networks: graphs of three steps, few rows at a time, two warps a block."""
    small = {"group_steps": 3, "forward_rows": 16, "persistent_threads": 64}
    return cupy_backend(mode, **small | tuning)
