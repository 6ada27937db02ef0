"""Compiled code on disk: used again, not when any source has changed, and never in the way.

Each test runs a copy of the package in processes of their own. They take the update step, the
entry that compiles fastest; its formula is in a callee in another file.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
from llvmlite import binding

import fusedmlp_numba
from fusedmlp_numba import strict_kernels
from fusedmlp_numba.compiler import object_cache
from fusedmlp_numba.compiler.jit import OPTIONS, Entry, kernel, object_code
from fusedmlp_numba.compiler.object_cache import SOURCE_HASH, CachedFunction
from fusedmlp_numba.simd.intrinsics import no_inline
from fusedmlp_numba.simd.views import FLOAT64, array_at

SCRIPT = """
import sys
sys.path.insert(0, sys.argv[1])
import numpy as np
import fusedmlp_numba
from fusedmlp.backend import EngineSpec, State
from fusedmlp.network import Network, Objective, Parameters
from fusedmlp.optimizers import SGD
from fusedmlp_numba import engine, functions
assert fusedmlp_numba.__file__.startswith(sys.argv[1])
network = Network((1, 1), output="identity")
for dtype in sys.argv[2].split(","):
    # Nothing of these is run, and this one is compiled faster.
    functions.RUN[dtype] = functions.NARROW[dtype] = functions.APPLY[dtype]
    found = functions.APPLY[dtype].is_on_disk()
    spec = EngineSpec(network, SGD(), Objective(), batch_size=1, dtype=dtype, seed=0)
    built = engine.NumbaEngine(spec, threads=1)
    one = Parameters((np.ones((1, 1), dtype),), (np.ones(1, dtype),))
    built.load(State(one, (), 0))
    built.apply_gradients(one, 0.25)
    assert found or "numba" in sys.modules
    print(float(built.parameters().weights[0][0, 0]), int(found))
if "--without-numba" in sys.argv:
    assert "numba" not in sys.modules
"""


@pytest.fixture
def copied(tmp_path):
    """The package in a folder of its own, and a function that runs the script on it."""
    package = tmp_path / "fusedmlp_numba"
    shutil.copytree(
        Path(fusedmlp_numba.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )

    def run(dtypes="float64", *options, **environment):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-B", "-c", SCRIPT, str(tmp_path), dtypes, *options],
            env={**os.environ, "HOME": str(tmp_path / "home"), **environment},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        values, hits = zip(*map(str.split, done.stdout.splitlines()), strict=True)
        return float(*set(values)), sum(map(int, hits))

    return package, run


def files(folder, suffix):
    return sorted(folder.rglob(f"*.{suffix}"))


def test_a_changed_callee_is_compiled_again(copied):
    package, run = copied
    assert run() == (0.75, 0)
    assert run("float64", "--without-numba") == (0.75, 1)
    (code,) = files(package, "o")
    updates = package / "network" / "updates.py"
    source = updates.read_text()
    step = "load(gradient, i), -lr, load(theta"
    assert source.count(step) == 1
    updates.write_text(source.replace(step, step.replace("-lr", "+lr")))
    # Same length; and even with the same time, only the contents tell.
    os.utime(updates, (0, 0))
    assert run() == (1.25, 0)
    assert run() == (1.25, 1)
    assert not code.exists()
    assert len(files(package, "o")) == 1


def test_other_processors_and_settings_have_files_of_their_own(copied):
    package, run = copied
    generic = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": "", "NUMBA_OPT": "3"}
    kinds = [generic, {**generic, "NUMBA_OPT": "1"}]
    if binding.get_host_cpu_name() != "generic":
        kinds.append({**generic, "NUMBA_CPU_NAME": binding.get_host_cpu_name()})
    for found in (0, 1):
        for kind in kinds:
            assert run(**kind) == (0.75, found)
    assert len(files(package, "o")) == len(kinds)


@pytest.mark.parametrize("order", ["float32,float64", "float64,float32"])
def test_code_compiled_by_several_processes_is_loaded_together(copied, order):
    """Names of compiled functions begin anew in every process, and must not meet in a third."""
    _, run = copied
    assert run("float32") == (0.75, 0)
    assert run("float64") == (0.75, 0)
    assert run(order) == (0.75, 2)


def test_the_users_folder_is_respected(copied, tmp_path):
    package, run = copied
    folder = tmp_path / "chosen"
    assert run(NUMBA_CACHE_DIR=str(folder)) == (0.75, 0)
    assert files(folder, "o")
    assert files(package, "o") == []


def test_no_folder_that_can_be_written(copied, tmp_path):
    package, run = copied
    # Not by permissions, which root does not feel: files stand where the folders would be.
    (package / "__pycache__").write_text("")
    nowhere = {"FUSEDMLP_CACHE": "/dev/null/none"}
    assert run(**nowhere) == run(**nowhere) == (0.75, 0)
    assert run(NUMBA_CACHE_DIR="/dev/null/none") == (0.75, 0)
    assert files(tmp_path, "o") == []


def test_the_users_cache_where_the_package_cannot_be_written(copied, tmp_path):
    package, run = copied
    (package / "__pycache__").write_text("")
    users = {"FUSEDMLP_CACHE": str(tmp_path / "cache")}
    assert run(**users) == (0.75, 0)
    assert run(**users) == (0.75, 1)
    assert files(tmp_path / "cache", "o")


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-1] + b"!"])
def test_damaged_files(copied, damage):
    package, run = copied
    assert run() == (0.75, 0)
    (damaged,) = files(package, "o")
    damaged.write_bytes(damage(damaged.read_bytes()))
    assert run() == (0.75, 0)
    assert run() == (0.75, 1)


def test_a_function_of_numbers(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    built = []

    def enter(target, value, place):
        array_at(target, FLOAT64)[place] = value

    def build():
        built.append(1)
        return object_code(enter, (int, float, int))

    out = np.zeros(3)
    for value in (2.5, -1.0):
        entry = CachedFunction("enter", (int, float, int), build)
        assert entry.compile() > 0.0
        assert entry.compile() == 0.0
        entry.function(out.ctypes.data, value, 1)
        assert out.tolist() == [0.0, value, 0.0]
    assert built == [1]


def test_compiled_code_that_raises_is_heard(tmp_path, monkeypatch):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))

    def enter(number):
        if number > 1:
            raise ValueError

    entry = CachedFunction("raising", (int,), lambda: object_code(enter, (int,)))
    entry.function(1)
    with pytest.raises(RuntimeError, match="raising ended with status"):
        entry.function(2)


class FullDisk:
    """A dispatcher whose code cannot be written."""

    overloads = ()

    def compile(self, signature):
        raise OSError(28, "No space left on device")


def test_a_full_disk():
    def fill(out):
        out[:] = 3.0

    entry = Entry(fill)
    entry._dispatcher = FullDisk()
    out = np.zeros(2)
    assert entry.compile(out) > 0.0
    entry(out)
    assert (out == 3.0).all()
    assert entry.compile(out) == 0.0


def test_an_error_in_the_source_is_shown():
    def wrong(out):
        out.nothing_of_the_kind()

    with pytest.raises(Exception, match="nothing_of_the_kind"):
        Entry(wrong).compile(np.zeros(1))


def test_an_entrys_kernels_are_its_own():
    """LLVM may take an argument from a kernel inside an entry; others must not meet that one."""

    @kernel
    def add(out, unused, first, second, place):
        no_inline()
        out[place] += first - second

    def enter(out):
        add(out, out, 5.0, 3.0, 1)
        add(out, out, 5.0, 3.0, 1)

    out = np.zeros(2)
    Entry(enter)(out)
    assert out.tolist() == [0.0, 4.0]
    numba.njit(**OPTIONS)(enter)(out)
    assert out.tolist() == [0.0, 8.0]


def test_a_constant_is_of_the_same_type_as_a_variable():
    """Numba alone would compile ``write`` three times here."""

    @kernel
    def write(out, place, doubled):
        out[place] = 2.0 * place if doubled else 1.0 * place

    def enter(out):
        write(out, 1, True)
        write(out, 2, False)
        write(out, doubled=len(out) == 4, place=3)

    out = np.zeros(4)
    Entry(enter)(out)
    assert out.tolist() == [0.0, 2.0, 2.0, 6.0]
    assert len(write.signatures) == 1


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_is_collected_again_after_compiling(collecting, monkeypatch):
    seen = []

    def fail(*_):
        seen.append(gc.isenabled())
        raise OSError(28, "No space left on device")

    def wrong(out):
        out.nothing_of_the_kind()

    monkeypatch.setattr(FullDisk, "compile", fail)
    entry, was = Entry(wrong), gc.isenabled()
    entry._dispatcher = FullDisk()
    try:
        (gc.enable if collecting else gc.disable)()
        with pytest.raises(Exception, match="nothing_of_the_kind"):
            entry.compile(np.zeros(1))
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if was else gc.disable)()
    assert seen == [False]


def test_no_fastmath():
    assert "fastmath" not in OPTIONS


def test_strict_mode_s_shared_source_is_part_of_the_key(tmp_path, monkeypatch):
    """Its functions are compiled here and lie elsewhere, and its entries are no closures."""
    assert object_cache._source_hash() == SOURCE_HASH
    assert strict_kernels.product._function.__qualname__ == f"product_{SOURCE_HASH[:16]}"
    changed = tmp_path / "strict.py"
    changed.write_bytes(Path(object_cache.strict.__file__).read_bytes() + b"#")
    monkeypatch.setattr(object_cache.strict, "__file__", str(changed))
    assert object_cache._source_hash() != SOURCE_HASH
