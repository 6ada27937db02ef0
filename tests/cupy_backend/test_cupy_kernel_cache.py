"""The folder of CuPy's compiled kernels: one in which no other user can plant any."""

from __future__ import annotations

import os
import sys

import cupy_standin
import pytest

from fusedmlp_cupy import CupyBackend, probing


@pytest.fixture
def variables(monkeypatch, tmp_path):
    """Variables in which all of CuPy's and this user's folders are private."""
    for name in ("CUPY_CACHE_DIR", "CUPY_CACHE_IN_MEMORY"):
        # Set first, so that what the code sets is undone even where there was nothing.
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("FUSEDMLP_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o777)
    return monkeypatch


@pytest.fixture
def not_imported(monkeypatch):
    """A usable CuPy that is not imported before the backend is probed."""
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    module = cupy_standin.StandIn()
    monkeypatch.setattr(probing.importlib, "import_module", lambda _: module)
    monkeypatch.setattr(probing, "driver_major", lambda: 13)


def chosen():
    return os.environ.get("CUPY_CACHE_DIR"), os.environ.get("CUPY_CACHE_IN_MEMORY")


def test_a_private_folder_is_left_alone(variables, not_imported, tmp_path):
    CupyBackend.probe()
    assert chosen() == (None, None)
    variables.setenv("CUPY_CACHE_DIR", str(tmp_path / "mine"))
    CupyBackend.probe()
    assert chosen() == (str(tmp_path / "mine"), None)


def test_a_shared_folder_is_replaced_and_that_is_said(variables, not_imported, tmp_path):
    shared = tmp_path / "shared"
    variables.setenv("CUPY_CACHE_DIR", str(shared))
    with pytest.warns(UserWarning, match=f"write to {shared}.*keeps its kernels in .*/own/cupy"):
        CupyBackend.probe()
    assert chosen() == (str((tmp_path / "own" / "cupy").resolve()), None)
    CupyBackend.probe()


def test_without_a_home_folder_none_is_made_in_the_working_folder(
    variables, not_imported, tmp_path
):
    variables.setenv("CUPY_CACHE_DIR", "~unknown-user/kernels")
    with pytest.warns(UserWarning, match="needs a home folder"):
        CupyBackend.probe()
    assert chosen() == (str((tmp_path / "own" / "cupy").resolve()), None)


def test_a_cupy_that_is_imported_keeps_its_kernels_in_memory(variables, tmp_path):
    variables.setitem(sys.modules, "cupy", cupy_standin.StandIn())
    variables.setattr(probing, "driver_major", lambda: 13)
    variables.setenv("CUPY_CACHE_DIR", str(tmp_path / "shared"))
    with pytest.warns(UserWarning, match="compiles its kernels again in each process"):
        CupyBackend.probe()
    assert chosen()[1] == "1"
    CupyBackend.probe()


def test_no_folder_at_all(variables, not_imported, tmp_path):
    for name in ("HOME", "FUSEDMLP_CACHE", "TMPDIR"):
        variables.setenv(name, "/dev/null/none")
    with pytest.warns(UserWarning, match="compiles its kernels again in each process"):
        CupyBackend.probe()
    assert chosen() == ("/", "1")
