"""Selection of a backend: precedence, errors, options, and backends of other packages."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

from fusedmlp import MLP, registry
from fusedmlp.backend import Availability, Preference, Workload
from fusedmlp.errors import (
    BackendNotInstalledError,
    BackendUnavailableError,
    ExitCode,
    InvalidInputError,
    NoUsableDeviceError,
    UnknownNameError,
)
from fusedmlp.network import Network

WORK = Workload(Network((784, 256, 10)), 64, 60_000)


def test_the_argument_overrides_the_environment():
    environment = {"FUSEDMLP_BACKEND": "cupy"}
    chosen = registry.select("numpy", WORK, environment)
    assert (chosen.name, chosen.origin) == ("numpy", "argument")
    chosen = registry.select(None, WORK, environment)
    assert (chosen.name, chosen.origin) == ("cupy", "FUSEDMLP_BACKEND")
    chosen = registry.select("auto", WORK, environment)
    assert chosen.origin == "auto"
    assert registry.select(None, WORK, {"FUSEDMLP_BACKEND": ""}).origin == "auto"


def test_auto_selects_the_usable_backend_with_the_highest_score(monkeypatch):
    class Fake:
        def __init__(self, score, state="usable"):
            self.score, self.state = score, state

        def probe(self):
            return Availability(self.state, "why")

        def preference(self, workload):
            assert workload is WORK
            return Preference(self.score, f"scores {self.score}")

    fakes = {"a": Fake(1), "b": Fake(3), "c": Fake(9, "no-device")}
    monkeypatch.setattr(registry, "known_backends", lambda: fakes)
    monkeypatch.setattr(registry, "backend_class", fakes.__getitem__)
    chosen = registry.select(None, WORK, {})
    assert (chosen.name, chosen.reason) == ("b", "scores 3")
    fakes["a"].state = "broken"
    assert registry.select(None, WORK, {}).reason == "scores 3; a is broken: why"
    fakes["a"].state = fakes["b"].state = "missing"
    with pytest.raises(BackendUnavailableError, match="fusedmlp backends"):
        registry.select(None, WORK, {})


def test_auto_prefers_a_compiled_engine():
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


def test_each_reason_for_an_unusable_backend_has_its_exception():
    kinds = {
        "missing": BackendNotInstalledError,
        "no-device": NoUsableDeviceError,
        "broken": BackendUnavailableError,
    }
    for state, kind in kinds.items():
        error = registry.unavailable("cupy", Availability(state, "driver message", "pip install x"))
        assert type(error) is kind
        assert str(error) == f"backend 'cupy' is {state}: driver message. Remedy: pip install x"
        assert error.exit_code is ExitCode.BACKEND_UNAVAILABLE


def test_a_missing_library_is_reported_with_its_install_command():
    """With the libraries blocked in a new process, probe reports missing and building raises."""
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


@pytest.mark.usefixtures("plugin")
def test_another_package_can_add_a_backend():
    assert registry.select("plugin", WORK, {}).name == "plugin"
    assert registry.select(None, WORK, {}).name == "plugin"
    assert MLP([3, 2], backend="plugin").predict([[1.0, 2.0, 3.0]]).shape == (1,)


@pytest.mark.usefixtures("plugin")
def test_a_broken_plugin_does_not_affect_other_backends():
    probed = registry.availability()
    assert probed["not-a-backend"].state == probed["not-importable"].state == "broken"
    assert "not a fusedmlp.backend.Backend" in probed["not-a-backend"].detail
    assert "no_such_module" in probed["not-importable"].detail
    assert probed["numpy"].state == "usable"
    with pytest.raises(BackendUnavailableError, match="does not import: No module named"):
        registry.backend_class("not-importable")
