"""Compiled code on disk: used again, not when any source has changed, and never in the way.

Some tests run a copy of the package in processes of their own. They take the update step, the entry
that compiles fastest; its formula is in a callee in another file. It is compiled once for all
tests: copies with the same sources find each other's code.
"""

from __future__ import annotations

import gc
import os
import shutil
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numba
import numpy as np
import pytest

import fusedmlp_numba
from fusedmlp_numba.compiler import object_cache
from fusedmlp_numba.compiler.cached_function import CachedFunction
from fusedmlp_numba.compiler.jit import OPTIONS, kernel, object_code
from fusedmlp_numba.compiler.object_cache import KEPT
from fusedmlp_numba.network import entry_points
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
    return copy_to(tmp_path)


def copy_to(folder):
    package = folder / "fusedmlp_numba"
    shutil.copytree(
        Path(fusedmlp_numba.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__")
    )

    def run(cache, dtypes="float64", *options):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-B", "-c", SCRIPT, str(folder), dtypes, *options],
            env={**os.environ, "NUMBA_CACHE_DIR": str(cache)},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        values, hits = zip(*map(str.split, done.stdout.splitlines()), strict=True)
        return float(*set(values)), sum(map(int, hits))

    return package, run


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """A cache with the update step of both types, compiled by this process and by another."""
    folder = tmp_path_factory.mktemp("compiled")
    _, run = copy_to(folder)
    assert run(folder / "cache", "float64") == (0.75, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NUMBA_CACHE_DIR", str(folder / "cache"))
        object_cache.write("apply_float32", entry_points.apply("float32"))
    return folder / "cache"


@pytest.fixture
def cache(compiled, tmp_path):
    """A copy of that cache."""
    return Path(shutil.copytree(compiled, tmp_path / "cache"))


@pytest.mark.parametrize("order", ["float32,float64", "float64,float32"])
def test_code_compiled_by_several_processes_is_loaded_together(copied, cache, order):
    """Names of compiled functions begin anew in every process, and must not meet in a third."""
    _, run = copied
    assert run(cache, order, "--without-numba") == (0.75, 2)


def test_a_changed_callee_is_compiled_again_beside_the_old_code(copied, cache):
    package, run = copied
    before = set(cache.iterdir())
    updates = package / "network" / "updates.py"
    source = updates.read_text()
    step = "load(gradient, i), -lr, load(theta"
    assert source.count(step) == 1
    updates.write_text(source.replace(step, step.replace("-lr", "+lr")))
    # Same length; and even with the same time, only the contents tell.
    os.utime(updates, (0, 0))
    assert run(cache) == (1.25, 0)
    assert run(cache) == (1.25, 1)
    after = set(cache.iterdir())
    assert after > before
    assert len(after - before) == 1
    updates.write_text(source)
    assert run(cache) == (0.75, 1)


def entering(factor):
    """Code that writes a number, times a factor, at a place of an array of float64."""

    def enter(target, value, place):
        array_at(target, FLOAT64)[place] = factor * value

    return object_code(enter, (int, float, int))


@pytest.fixture(scope="session")
def code():
    """The code of a function of numbers."""
    return entering(1.0)


@pytest.fixture(scope="session")
def planted():
    """Code of another author under the same name."""
    return entering(-7.0)


class Cached:
    """A function of numbers as in a new process, and how often it was compiled."""

    def __init__(self, code, name="enter"):
        self.compiled = 0
        self._code = code
        self._cached = CachedFunction(name, (int, float, int), self._build)

    def _build(self):
        self.compiled += 1
        return self._code

    def run(self):
        """Return the number that is written in place of 2.5, and whether code was compiled."""
        out = np.zeros(3)
        assert self._cached.compile() > 0.0
        assert self._cached.compile() == 0.0
        self._cached.function(out.ctypes.data, 2.5, 1)
        assert out[0] == out[2] == 0.0
        return out[1], self.compiled


@pytest.fixture
def folders(monkeypatch, tmp_path):
    """Every folder in which code may be kept, by the variable that names it."""
    found = {}
    for name in ("NUMBA_CACHE_DIR", "FUSEDMLP_CACHE", "TMPDIR"):
        found[name] = tmp_path / name
        found[name].mkdir()
        monkeypatch.setenv(name, str(found[name]))
    return found


def object_files(folder):
    return sorted(folder.rglob("*.o"))


def test_a_function_of_numbers(folders, code):
    assert Cached(code).run() == (2.5, 1)
    assert Cached(code).run() == (2.5, 0)
    assert len(object_files(folders["NUMBA_CACHE_DIR"])) == 1


def test_the_users_cache_and_nothing_in_the_package(folders, code, monkeypatch):
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    package = Path(fusedmlp_numba.__file__).parent
    before = set(package.rglob("*.o")) | set(package.rglob("*.nb?"))
    assert Cached(code).run() == (2.5, 1)
    assert Cached(code).run() == (2.5, 0)
    (file,) = object_files(folders["FUSEDMLP_CACHE"])
    assert file.parent == folders["FUSEDMLP_CACHE"] / "compiled"
    assert set(package.rglob("*.o")) | set(package.rglob("*.nb?")) == before == set()


def test_strict_mode_s_code_lies_there_too(folders):
    """Numba's own cache would have it in the package, and would unpickle what it finds."""
    from fusedmlp_numba import functions

    cached = functions.STRICT["product"]["float64"]
    again = CachedFunction("product_float64", (int,) * 6, cached._build)
    assert again.compile() > 0.0
    assert again.is_on_disk()
    assert len(object_files(folders["NUMBA_CACHE_DIR"])) == 1


@pytest.mark.parametrize("setting", ["NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_OPT"])
def test_other_processors_and_settings_have_files_of_their_own(folders, code, monkeypatch, setting):
    assert Cached(code).run() == (2.5, 1)
    monkeypatch.setenv(setting, "1" if setting == "NUMBA_OPT" else "generic")
    assert Cached(code).run() == (2.5, 1)
    assert Cached(code).run() == (2.5, 0)
    monkeypatch.delenv(setting)
    assert Cached(code).run() == (2.5, 0)
    assert len(object_files(folders["NUMBA_CACHE_DIR"])) == 2


@pytest.mark.parametrize("damage", [lambda content: b"", lambda content: content[:-1] + b"!"])
def test_damaged_files(folders, code, damage):
    assert Cached(code).run() == (2.5, 1)
    (damaged,) = object_files(folders["NUMBA_CACHE_DIR"])
    damaged.write_bytes(damage(damaged.read_bytes()))
    assert Cached(code).run() == (2.5, 1)
    assert Cached(code).run() == (2.5, 0)


def test_old_files_go_and_those_in_use_stay(folders, code):
    folder = folders["NUMBA_CACHE_DIR"]
    assert Cached(code).run() == (2.5, 1)
    (first,) = object_files(folder)
    assert Cached(code, "other").run() == (2.5, 1)
    others = [folder / f"enter-{n:016x}-{n:016x}.o" for n in range(2 * KEPT)]
    for age, other in enumerate(others):
        other.touch()
        os.utime(other, (time.time() - 1e6 - age,) * 2)
    os.utime(first, (0, 0))
    killed, running = folder / f".{first.name}.9-a.tmp", folder / f".{first.name}.9-b.tmp"
    foreign = folder / ".something.tmp"
    for temporary in (killed, running, foreign):
        temporary.touch()
    for old in (killed, foreign):
        os.utime(old, (0, 0))
    assert Cached(code).run() == (2.5, 0)  # which renews it
    os.environ["NUMBA_OPT"] = "1"  # as another release would write
    try:
        assert Cached(code).run() == (2.5, 1)
    finally:
        del os.environ["NUMBA_OPT"]
    assert Cached(code).run() == (2.5, 0)
    left = object_files(folder)
    assert len([each for each in left if each.name.startswith("enter-")]) == KEPT
    assert len([each for each in left if each.name.startswith("other-")]) == 1
    assert [each for each in others if each.exists()] == others[: KEPT - 2]
    assert [killed.exists(), running.exists(), foreign.exists()] == [False, True, True]


def test_writers_and_pruners_at_the_same_time(folders, code):
    """Each finds the code, whoever wrote it, and no half-written file."""
    results, threads = [], []

    def work(name):
        for _ in range(10):
            for path in object_files(folders["NUMBA_CACHE_DIR"]):
                path.unlink(missing_ok=True)
            results.append(Cached(code, name).run()[0])

    for n in range(4):
        threads.append(threading.Thread(target=work, args=(f"enter_{n % 2}",)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    assert results == [2.5] * 40


def test_a_folder_that_others_can_write(folders, code, planted):
    """Whatever its owner and content, code there is not loaded, and another folder is used."""
    shared, own = folders["NUMBA_CACHE_DIR"], folders["FUSEDMLP_CACHE"] / "compiled"
    assert Cached(planted).run() == (-17.5, 1)
    (file,) = object_files(shared)
    for mode in (0o777, 0o1777):
        shared.chmod(mode)
        shutil.rmtree(own, ignore_errors=True)
        for compiled in (1, 0):
            message = f"users can write to {shared} .*chmod go-w.* is kept in {own}$"
            with pytest.warns(UserWarning, match=message):
                assert Cached(code).run() == (2.5, compiled)
        assert object_files(shared) == [file]
        assert len(object_files(own)) == 1
    shared.chmod(0o700)
    assert Cached(code).run() == (-17.5, 0)


def test_a_file_that_others_can_write_is_replaced(folders, code, planted):
    assert Cached(planted).run() == (-17.5, 1)
    (file,) = object_files(folders["NUMBA_CACHE_DIR"])
    file.chmod(0o666)
    assert Cached(code).run() == (2.5, 1)
    assert Cached(code).run() == (2.5, 0)
    assert not file.stat().st_mode & 0o022


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be a second user")
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv, to be a second user")
@pytest.mark.parametrize("folder_is_theirs", [False, True])
def test_code_that_another_user_planted(folders, code, planted, folder_is_theirs):
    """As the user nobody: a file with the right name and digest, in a folder open to all."""
    shared = folders["NUMBA_CACHE_DIR"]
    assert Cached(planted).run() == (-17.5, 1)
    (file,) = object_files(shared)
    content = file.read_bytes()
    file.unlink()
    shared.chmod(0o1777)
    if folder_is_theirs:
        os.chown(shared, 65534, 65534)
    # From inside the folder, because those above it are root's alone.
    plant = "setpriv --reuid=65534 --regid=65534 --clear-groups sh -c 'cat > \"$0\"'"
    subprocess.run(["sh", "-c", f"exec {plant} {file.name}"], cwd=shared, input=content, check=True)
    assert file.stat().st_uid == 65534
    with pytest.warns(UserWarning, match=f"{shared}.* is kept in "):
        assert Cached(code).run() == (2.5, 1)
    shared.chmod(0o755)
    os.chown(shared, 0, 0)
    # The folder is in order now, and the file still is not this user's.
    assert Cached(code).run() == (2.5, 1)
    assert file.stat().st_uid == 0


def test_no_folder_that_can_be_written(folders, code, monkeypatch):
    # Not by permissions, which root does not feel: a device stands where the folders would be.
    for name in folders:
        monkeypatch.setenv(name, "/dev/null/none")
    for _ in range(2):
        with pytest.warns(UserWarning, match="/dev/null.* is compiled again in each process"):
            assert Cached(code).run() == (2.5, 1)


def test_a_full_disk(folders, code, monkeypatch):
    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.warns(UserWarning, match=r"No space left on device.* again in each process"):
        assert Cached(code).run() == (2.5, 1)
    assert list(folders["NUMBA_CACHE_DIR"].iterdir()) == []


def test_a_warning_that_is_an_error_comes_once(folders, code):
    """The function works none the less."""
    folders["NUMBA_CACHE_DIR"].chmod(0o777)
    cached = Cached(code)
    with warnings.catch_warnings(action="error"):
        with pytest.raises(UserWarning, match="users can write"):
            cached.run()
        out = np.zeros(1)
        cached._cached.function(out.ctypes.data, 2.5, 0)
    assert out[0] == 2.5


FORKING = """
import faulthandler, os, sys, threading, time
from fusedmlp_numba.compiler.cached_function import CachedFunction
from fusedmlp_numba.compiler.jit import object_code

def work(name):
    def enter(number):
        pass
    CachedFunction(name, (int,), lambda: object_code(enter, (int,))).compile()

work("first")
stop, n = threading.Event(), 0
def busy():
    for n in range(10**9):
        if stop.is_set():
            return
        work(f"busy_{n}")
thread = threading.Thread(target=busy)
thread.start()
hung = 0
for n in range(6):
    time.sleep(0.03 * n)
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(10, exit=True)
        work(f"child_{n}")
        os._exit(0)
    hung += os.waitpid(child, 0)[1] != 0
stop.set()
thread.join()
sys.exit(hung)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_process_may_fork_while_another_thread_compiles(folders):
    """The child compiles too: no lock of the compiler must be held where the fork copies it."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING],
        capture_output=True, text=True, check=False, timeout=200,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_compiled_code_that_raises_is_heard(folders):
    def enter(number):
        if number > 1:
            raise ValueError

    entry = CachedFunction("raising", (int,), lambda: object_code(enter, (int,)))
    entry.function(1)
    with pytest.raises(RuntimeError, match="raising ended with status"):
        entry.function(2)


def compile_loop(enter):
    """Compile a function of an address, as the package's entries are; return a caller."""
    cached = CachedFunction("entry", (int,), lambda: object_code(enter, (int,)))
    cached.compile()
    return lambda out: cached.function(out.ctypes.data)


def test_an_error_in_the_source_is_shown(folders):
    def wrong(out):
        array_at(out, FLOAT64).nothing_of_the_kind()

    with pytest.raises(Exception, match="nothing_of_the_kind"):
        compile_loop(wrong)


def test_an_entrys_kernels_are_its_own(folders):
    """LLVM may take an argument from a kernel inside an entry; others must not meet that one."""

    @kernel
    def add(out, unused, first, second, place):
        no_inline()
        out[place] += first - second

    def enter(address):
        out = array_at(address, FLOAT64)
        add(out, out, 5.0, 3.0, 1)
        add(out, out, 5.0, 3.0, 1)

    def enter_array(out):
        add(out, out, 5.0, 3.0, 1)
        add(out, out, 5.0, 3.0, 1)

    out = np.zeros(2)
    compile_loop(enter)(out)
    assert out.tolist() == [0.0, 4.0]
    numba.njit(**OPTIONS)(enter_array)(out)
    assert out.tolist() == [0.0, 8.0]


def test_a_constant_is_of_the_same_type_as_a_variable(folders):
    """Numba alone would compile ``write`` three times here."""

    @kernel
    def write(out, place, doubled):
        out[place] = 2.0 * place if doubled else 1.0 * place

    def enter(address):
        out = array_at(address, FLOAT64)
        write(out, 1, True)
        write(out, 2, False)
        write(out, doubled=out[0] == 0.0, place=3)

    out = np.zeros(4)
    compile_loop(enter)(out)
    assert out.tolist() == [0.0, 2.0, 2.0, 6.0]
    assert len(write.signatures) == 1


@pytest.mark.parametrize("collecting", [True, False])
def test_garbage_is_collected_again_after_compiling(collecting):
    def wrong(out):
        array_at(out, FLOAT64).nothing_of_the_kind()

    was = gc.isenabled()
    try:
        (gc.enable if collecting else gc.disable)()
        with pytest.raises(Exception, match="nothing_of_the_kind"):
            object_code(wrong, (int,))
        assert gc.isenabled() == collecting
    finally:
        (gc.enable if was else gc.disable)()


def test_no_fastmath():
    assert "fastmath" not in OPTIONS


def test_strict_mode_s_shared_source_is_part_of_the_key(tmp_path, monkeypatch):
    """Its functions are compiled here and lie elsewhere."""
    uncached = object_cache.source_hash.__wrapped__
    assert uncached() == object_cache.source_hash()
    changed = tmp_path / "strict.py"
    changed.write_bytes(Path(object_cache.strict.__file__).read_bytes() + b"#")
    monkeypatch.setattr(object_cache.strict, "__file__", str(changed))
    assert uncached() != object_cache.source_hash()
