"""Fixtures for the whole suite: the backends to test, and why one is skipped."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings

from fusedmlp.registry import availability, backend_class

# A fixed set of examples where a failure should mean a change, new ones at every run elsewhere.
settings.register_profile("fixed", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("fixed")

STRICT = "-strict"
"""What follows a backend's name below where it is built with strict arithmetic."""

COMPILED = (
    "numba",
    "numpy" + STRICT,
    "numba" + STRICT,
    pytest.param("cupy", marks=pytest.mark.gpu),
    pytest.param("cupy" + STRICT, marks=pytest.mark.gpu),
)
"""Backends that are compared with NumPy, the specification."""

EVERY = ("numpy", *COMPILED)


def built(name):
    """Build a backend by one of these names."""
    return backend_class(name.removesuffix(STRICT))(strict=name.endswith(STRICT))


def pytest_collection_modifyitems(items):
    """Skip tests that need a device, with what the probe found as the reason."""
    needing = [item for item in items if item.get_closest_marker("gpu")]
    if not needing:
        return
    found = availability()["cupy"]
    if found.state != "usable":
        skip = pytest.mark.skip(reason=f"no GPU: cupy is {found.state}: {found.detail[:120]}")
        for item in needing:
            item.add_marker(skip)


@pytest.fixture(scope="session", params=EVERY)
def backend(request):
    """Each backend in turn."""
    return built(request.param)


@pytest.fixture(scope="session", params=COMPILED)
def compiled_backend(request):
    """Each backend but the specification."""
    return built(request.param)


@pytest.fixture(scope="session")
def numpy_backend():
    """The specification."""
    return backend_class("numpy")()


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch):
    """Keep the tester's own choice of backend and data out of the tests."""
    for name in ("FUSEDMLP_BACKEND", "FUSEDMLP_DATA", "FUSEDMLP_OUTPUT"):
        monkeypatch.delenv(name, raising=False)
