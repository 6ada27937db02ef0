"""Choosing a backend: precedence, three different errors, and a fourth backend from outside."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from fusedmlp import registry
from fusedmlp.backend import Availability, Preference, Workload
from fusedmlp.errors import (
    BackendUnavailableError,
    ExitCode,
    InvalidInputError,
    MissingDependencyError,
    NoUsableDeviceError,
    UnknownNameError,
)
from fusedmlp.network import Network

WORK = Workload(Network((784, 256, 10)), 64, 60_000)


def test_the_argument_wins_over_the_environment():
    environment = {"FUSEDMLP_BACKEND": "cupy"}
    chosen = registry.select("numpy", WORK, environment)
    assert (chosen.name, chosen.origin) == ("numpy", "argument")
    chosen = registry.select(None, WORK, environment)
    assert (chosen.name, chosen.origin) == ("cupy", "FUSEDMLP_BACKEND")
    chosen = registry.select("auto", WORK, environment)
    assert chosen.origin == "auto"
    assert registry.select(None, WORK, {"FUSEDMLP_BACKEND": ""}).origin == "auto"


def test_auto_takes_the_highest_score_of_the_usable(monkeypatch):
    class Fake:
        def __init__(self, score, state="usable"):
            self.score, self.state = score, state

        def probe(self):
            return Availability(self.state, "")

        def preference(self, workload):
            assert workload is WORK
            return Preference(self.score, f"scores {self.score}")

    fakes = {"a": Fake(1), "b": Fake(3), "c": Fake(9, "no-device")}
    monkeypatch.setattr(registry, "known_backends", lambda: fakes)
    monkeypatch.setattr(registry, "backend_class", fakes.__getitem__)
    chosen = registry.select(None, WORK, {})
    assert (chosen.name, chosen.reason) == ("b", "scores 3")
    fakes["a"].state = fakes["b"].state = "missing"
    with pytest.raises(BackendUnavailableError, match="fusedmlp backends"):
        registry.select(None, WORK, {})


def test_auto_prefers_a_compiled_engine_here():
    assert registry.select(None, WORK, {}).name != "numpy"


def test_names_and_device_numbers():
    assert registry.parse("cupy:1") == ("cupy", 1, ())
    assert str(registry.Selection("cupy", 1, "argument", "")) == "cupy:1"
    assert str(registry.Selection("numpy", None, "argument", "")) == "numpy"
    with pytest.raises(
        UnknownNameError, match="unknown backend 'torch': choose one of cupy, numba"
    ):
        registry.select("torch", WORK, {})
    with pytest.raises(InvalidInputError, match="'x' is not a device number; write cupy:0"):
        registry.select("cupy:x", WORK, {})
    assert UnknownNameError.exit_code is ExitCode.USAGE


def test_options_of_a_backend():
    assert registry.parse("cupy+tf32") == ("cupy", None, ("tf32",))
    chosen = registry.select("cupy:1+tf32", WORK, {})
    assert (chosen.name, chosen.device, chosen.options) == ("cupy", 1, ("tf32",))
    assert str(chosen) == "cupy:1+tf32"
    with pytest.raises(UnknownNameError, match="option of backend cupy 'fast': choose one of tf32"):
        registry.parse("cupy+fast")
    with pytest.raises(InvalidInputError, match="numpy has no options; write numpy"):
        registry.parse("numpy+tf32")
    with pytest.raises(InvalidInputError, match="name each option once"):
        registry.parse("cupy+tf32+tf32")
    with pytest.raises(UnknownNameError, match="unknown backend"):
        registry.parse("auto+tf32")


def test_what_cannot_be_used_is_told_apart():
    kinds = {
        "missing": MissingDependencyError,
        "no-device": NoUsableDeviceError,
        "broken": BackendUnavailableError,
    }
    for state, kind in kinds.items():
        error = registry.unavailable("cupy", Availability(state, "said so", "pip install x"))
        assert type(error) is kind
        assert str(error) == f"backend 'cupy' is {state}: said so. Remedy: pip install x"
        assert error.exit_code is ExitCode.BACKEND_UNAVAILABLE


def test_a_backend_without_its_library_names_the_install_line():
    """Block the libraries' imports in a fresh process: probe says missing, building raises."""
    code = """
    import sys
    for name in ("numba", "cupy"):
        sys.modules[name] = None
    from fusedmlp.registry import availability, backend_class, select
    from fusedmlp.errors import MissingDependencyError
    found = availability()
    for name, line in (("numba", "pip install numba"), ("cupy", "pip install 'fusedmlp[cuda")):
        assert found[name].state == "missing", found[name]
        assert line in found[name].remedy, found[name]
        try:
            backend_class(name)()
        except MissingDependencyError as error:
            assert line in str(error), error
        else:
            raise AssertionError(name)
    from fusedmlp.backend import Workload
    from fusedmlp.network import Network
    assert select(None, Workload(Network((2, 2)), 1), {}).name == "numpy"
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


FOURTH = """
from fusedmlp_numpy import NumpyBackend as Base
from fusedmlp.backend import Backend, Preference
class Fourth(Backend):
    name = "fourth"
    def __init__(self, *, device=None, threads=None): self.inner = Base(threads=threads)
    @classmethod
    def probe(cls): return Base.probe()
    @classmethod
    def preference(cls, workload): return Preference(1e9, "always first")
    def device(self): return self.inner.device()
    def compile(self, *a, **k): return self.inner.compile(*a, **k)
not_a_backend = 3
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "fourth.py").write_text(FOURTH)
    info = tmp_path / "fourth-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: fourth\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[fusedmlp.backends]\nfourth = fourth:Fourth\nodd = fourth:not_a_backend\n"
        "gone = no_such_module:X\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("fourth", None)


@pytest.mark.usefixtures("plugin")
def test_anyone_can_add_a_backend():
    from fusedmlp import MLP

    assert registry.select("fourth", WORK, {}).name == "fourth"
    assert registry.select(None, WORK, {}).name == "fourth"
    assert MLP([3, 2], backend="fourth").predict([[1.0, 2.0, 3.0]]).shape == (1,)


@pytest.mark.usefixtures("plugin")
def test_a_broken_plugin_breaks_nothing_else():
    found = registry.availability()
    assert found["odd"].state == found["gone"].state == "broken"
    assert "not a fusedmlp.backend.Backend" in found["odd"].detail
    assert "no_such_module" in found["gone"].detail
    assert found["numpy"].state == "usable"
    with pytest.raises(BackendUnavailableError, match="does not import: No module named"):
        registry.backend_class("gone")
