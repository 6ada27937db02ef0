"""Fixtures of the test suite: the backends under test, and a backend of another package."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import settings

from fusedmlp.registry import availability, backend_class

# In CI the examples are fixed, so that only a code change can cause a failure.
settings.register_profile("fixed", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("fixed")

STRICT = "-strict"
"""Suffix of a backend's name in test parameters: the backend is built in strict mode."""

COMPILED = (
    "numba",
    "numpy" + STRICT,
    "numba" + STRICT,
    pytest.param("cupy", marks=pytest.mark.gpu),
    pytest.param("cupy" + STRICT, marks=pytest.mark.gpu),
)
"""Backends that are compared with the NumPy backend, the specification."""

ALL_BACKENDS = ("numpy", *COMPILED)


def build_backend(name):
    """Build the backend of a test parameter."""
    return backend_class(name.removesuffix(STRICT))(strict=name.endswith(STRICT))


def pytest_collection_modifyitems(items):
    """Skip tests marked ``gpu`` without a usable device; the reason is the probe's result."""
    gpu_items = [item for item in items if item.get_closest_marker("gpu")]
    if not gpu_items:
        return
    cupy = availability()["cupy"]
    if cupy.state != "usable":
        skip = pytest.mark.skip(reason=f"no GPU: cupy is {cupy.state}: {cupy.detail[:120]}")
        for item in gpu_items:
            item.add_marker(skip)


@pytest.fixture(scope="session", params=ALL_BACKENDS)
def backend(request):
    """Each backend in turn."""
    return build_backend(request.param)


@pytest.fixture(scope="session", params=COMPILED)
def compiled_backend(request):
    """Each backend except the specification."""
    return build_backend(request.param)


@pytest.fixture(scope="session")
def numpy_backend():
    """The specification."""
    return backend_class("numpy")()


PLUGIN_SOURCE = """
from fusedmlp_numpy import NumpyBackend
from fusedmlp.backend import Backend, Preference
class PluginBackend(Backend):
    name = "plugin"
    def __init__(self, *, device=None, threads=None): self.inner = NumpyBackend(threads=threads)
    @classmethod
    def probe(cls): return NumpyBackend.probe()
    @classmethod
    def preference(cls, workload): return Preference(1e9, "highest score")
    def device(self): return self.inner.device()
    def compile(self, *args, **settings): return self.inner.compile(*args, **settings)
not_a_backend = 3
"""
"""A backend without strict mode, and so without the constructor's parameter for it."""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Install a package with the backend ``plugin`` and two broken entry points."""
    (tmp_path / "plugin_backend.py").write_text(PLUGIN_SOURCE)
    info = tmp_path / "plugin_backend-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin_backend\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fusedmlp.backends]\nplugin = plugin_backend:PluginBackend\n"
        "not-a-backend = plugin_backend:not_a_backend\nnot-importable = no_such_module:X\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("plugin_backend", None)


@pytest.fixture(autouse=True)
def _no_environment_variables(monkeypatch):
    """Remove environment variables that select a backend or folders."""
    for name in ("FUSEDMLP_BACKEND", "FUSEDMLP_DATA", "FUSEDMLP_OUTPUT"):
        monkeypatch.delenv(name, raising=False)
