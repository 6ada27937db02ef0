"""The suite's common contract and parity tests, on the CuPy backend over its stand-in.

On a machine with a GPU they run on the device as well, where they stand. Here the backend is
found, probed and built as there, with its kernels on the CPU.
"""

from __future__ import annotations

import inspect
import sys

import cupy_standin
import pytest

import test_contract
import test_parity
from fusedmlp_cupy import CupyBackend


def take_over(module):
    """The tests of a module that run for each backend."""
    return {
        name: test
        for name, test in vars(module).items()
        if name.startswith("test_")
        and {"backend", "compiled_backend"} & set(inspect.signature(test).parameters)
    }


@pytest.fixture(scope="module", params=[False, True], ids=["", "strict"])
def backend(request, built_kernels, strict_kernels, persistent_kernels):
    """The CuPy backend, each launch run once: test_cupy_kernels.py repeats them."""
    everything = built_kernels, strict_kernels, persistent_kernels
    for kernels in everything:
        for each in kernels.values():
            each.checked = False
    standin = cupy_standin.StandIn(*everything)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", standin)
        yield CupyBackend(strict=request.param)


@pytest.fixture(scope="module")
def compiled_backend(backend):
    """The same, under the name that the parity tests know."""
    return backend


globals().update(take_over(test_contract))
globals().update(take_over(test_parity))
