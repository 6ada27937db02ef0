"""The Numba engine against the NumPy engine, and what only this engine has: threads, inputs of
which zeros are skipped, inputs in place, and the same bits for any number of workers."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse

from fusedmlp.backend import BatchMetrics, EngineSpec, Workload
from fusedmlp.errors import BackendUnavailableError, InvalidInputError, MissingDependencyError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Network, Objective
from fusedmlp.tolerance import check_close, kernel_bound, trajectory_bound
from fusedmlp_numba import NumbaBackend, calls
from fusedmlp_numba.backend import usable_cpus
from fusedmlp_numba.compiler import llvm
from fusedmlp_numba.constants import BITMASK_ROWS, FORWARD_ROWS, IN_PLACE_ROWS, KC
from fusedmlp_numba.data import SEARCH_COST_FORWARD, SEARCH_COST_TRAINING, skips_zeros
from fusedmlp_numpy import NumpyBackend
from problems import OPTIMIZERS, STORAGES, engine, flat, order, problem

NARROW = ((2, 5, 2), (1, 2), (8, 8, 8), (3, 1, 7, 5, 4))
"""Dense inputs of these are computed by narrow.py."""

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])


def trained(backend, task, optimizer="sgd", steps=50, lr=0.05, *, dtype="float64", **options):
    built, data = engine(backend, task, optimizer, dtype=dtype, **options)
    rows = np.resize(order(len(task.y), 20), steps * built.batch_size - 3)
    return built, data, built.train_epoch(data, rows, np.full(steps, lr))


def compare(task, dtype, **options):
    """One batch's losses and gradients agree with NumPy's."""
    (mine, found), (theirs, expected) = (
        built.loss_and_gradients(data, order(len(task.y))[:8])
        for built, data in (
            engine(backend, task, dtype=dtype, **options)
            for backend in (NumbaBackend(), NumpyBackend())
        )
    )
    bound = kernel_bound(dtype, max(*task.network.sizes, 8) * task.network.n_layers)
    check_close("loss", mine.losses, theirs.losses, bound)
    np.testing.assert_array_equal(mine.correct, theirs.correct)
    check_close("weights", mine.weights, theirs.weights, bound)
    for a, b in zip(found, expected, strict=True):
        check_close(f"gradient {a.shape}", a, b, bound)


def compare_training(task, optimizer, bound, **options):
    """Sums, parameters and slots of a training agree with NumPy's."""
    (mine, _, sums), (theirs, _, expected) = (
        trained(backend, task, optimizer, **options) for backend in (NumbaBackend(), NumpyBackend())
    )
    check_close("losses", sums.losses, expected.losses, bound)
    check_close("weights", sums.weights, expected.weights, bound)
    state, reference = mine.state(), theirs.state()
    assert state.step == reference.step == len(sums.losses)
    check_close("parameters", flat(state.parameters), flat(reference.parameters), bound)
    for a, b in zip(state.slots, reference.slots, strict=True):
        check_close("slot", flat(a), flat(b), bound)


def bits(built, sums):
    state = built.state()
    arrays = sums.losses, sums.correct, sums.weights, *map(flat, (state.parameters, *state.slots))
    return [array.tobytes() for array in arrays]


def all_bits(built, data, sums, x, rows):
    """Bits of a training, and of what the trained engine computes."""
    batch, gradients = built.loss_and_gradients(data, rows)
    arrays = flat(gradients), batch.losses, built.evaluate(data).losses, built.forward(x)
    return [*bits(built, sums), *(array.tobytes() for array in arrays)]


# ------------------------------------------------------------------------- against NumPy


@dtypes
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
def test_gradients(hidden, output, dtype, drawn):
    for sizes in ((21, 18, 9, 5), *NARROW):
        task = drawn(sizes, hidden, output, weighted=True)
        compare(task, dtype, objective=Objective(l2=0.1))


@dtypes
@pytest.mark.parametrize("storage", STORAGES)
def test_storage(storage, dtype, drawn):
    compare(drawn((21, 18, 5), storage=storage), dtype)


@dtypes
@pytest.mark.parametrize("rows", [1, 8])
@pytest.mark.parametrize(
    "sizes", [(1, 1), (4, 1), (1, 3, 1), (784, 2), (2, 5, 2), (3, 1, 1, 1, 40), (9, 70, 33, 2)]
)
def test_odd_shapes(sizes, rows, dtype, drawn):
    compare(drawn(sizes, output="sigmoid", dropout=0.3, rows=rows), dtype)


@dtypes
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fifty_steps(optimizer, dtype, drawn):
    task = drawn((21, 18, 9, 5), "tanh", dropout=0.2, weighted=True, storage="uint8")
    # Small enough for a summed objective: chaotic steps would compare nothing.
    options = {"lr": 0.005, "dtype": dtype, "objective": Objective("sum", l2=0.01)}
    compare_training(task, optimizer, trajectory_bound(dtype), **options)


@pytest.mark.parametrize("storage", ["uint8", "float64"])
@pytest.mark.parametrize("batch_size", [2 * BITMASK_ROWS + 22, KC + 70])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_batches_of_more_rows_than_a_mask_has_bits_or_a_sum_has_terms(
    optimizer, batch_size, storage, drawn
):
    task = drawn((21, 18, 5), rows=2 * batch_size, storage=storage)
    options = {"steps": 4, "lr": 0.01, "batch_size": batch_size, "objective": Objective(l2=0.1)}
    compare_training(task, optimizer, kernel_bound("float64", batch_size), **options)


@pytest.mark.parametrize("storage", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_narrow_networks_train_on_batches_that_are_no_multiple_of_a_vector(optimizer, storage):
    task = problem(NARROW[0], "tanh", rows=103, weighted=True, storage=storage)
    options = {"steps": 40, "lr": 0.01, "batch_size": 37, "objective": Objective(l2=0.01)}
    compare_training(task, optimizer, trajectory_bound("float64"), **options)


@pytest.mark.parametrize("output", OUTPUTS)
def test_forward_and_evaluate(output, drawn):
    task = drawn((21, 18, 5), "relu", output, dropout=0.5, rows=300, weighted=True)
    mine, data = engine(NumbaBackend(), task)
    theirs, reference = engine(NumpyBackend(), task)
    bound, expected = kernel_bound("float64", 40), theirs.forward(task.x)
    for x in (task.x, scipy.sparse.csr_array(task.x)):
        check_close("forward", mine.forward(x), expected, bound)
    for rows in (None, order(300)[:133]):
        a, b = mine.evaluate(data, rows), theirs.evaluate(reference, rows)
        found = a.loss, a.accuracy, a.weights.sum()
        assert found == pytest.approx((b.loss, b.accuracy, b.weights.sum()), rel=bound)
    assert mine.forward(task.x[:0]).shape == (0, 5)
    np.testing.assert_array_equal(mine.forward(task.x[7:8]), mine.forward(task.x)[7:8])


# ----------------------------------------------------------------------------- the same bits


@pytest.mark.usefixtures("eager")
@dtypes
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    "sizes", [(40, 70, 33, 5), (3, 2), (5, 3, 100, 2), (20, 65, 100), (30, 150, 7)]
)
def test_same_bits_for_any_number_of_threads(sizes, optimizer, dtype, drawn):
    """Up to four workers list the nonzero inputs each for itself, five have one list."""
    task, results = drawn(sizes, dropout=0.2, rows=101, weighted=True), []
    for threads in (1, 1, 2, 3, 5):
        trained_one = trained(NumbaBackend(threads=threads), task, optimizer, 20, dtype=dtype,
                              batch_size=70, sums_squares=True)  # fmt: skip
        results.append(all_bits(*trained_one, task.x, np.arange(30)))
    assert all(result == results[0] for result in results)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("sizes", [(40, 70, 33, 5), (5, 3, 2), (30, 150, 7)])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_inputs_in_place_and_copied_give_the_same_bits(sizes, optimizer):
    """Of float32 where they lie, of float64 converted on the way; the epoch's rest is copied."""
    task, results = problem(sizes, rows=3 * IN_PLACE_ROWS + 7, dropout=0.2), []
    for storage, threads in itertools.product(("float32", "float64"), (1, 2, 5)):
        built, _ = engine(NumbaBackend(threads=threads), task, optimizer, dtype="float32",
                          batch_size=IN_PLACE_ROWS)  # fmt: skip
        x = task.x.astype(np.float32).astype(storage)
        data = built.stage(x, task.y)
        rows = np.concatenate([order(len(x)), order(len(x))[::-1]])
        sums = built.train_epoch(data, rows, np.full(-(-len(rows) // IN_PLACE_ROWS), 0.05))
        results.append(all_bits(built, data, sums, x, rows[:IN_PLACE_ROWS]))
    assert all(result == results[0] for result in results)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("sizes", [(40, 70, 33, 5), (5, 3, 100, 2), (30, 150, 7)])
@pytest.mark.parametrize("batch_size", [8, 400])
def test_rows_apart_and_together_have_the_same_bits(sizes, batch_size, drawn):
    """Whole rounds of rows, a rest that is cut elsewhere, and one too small to be cut by rows."""
    task, results = drawn(sizes, dropout=0.2, rows=300, weighted=True), []
    for threads in (1, 2, 3, 5):
        built, data = engine(NumbaBackend(threads=threads), task, batch_size=batch_size)
        found = [built.forward(task.x).tobytes()]
        for n in (300, 2 * FORWARD_ROWS + 1, 20):
            sums = built.evaluate(data, order(300)[:n])
            assert len(sums.losses) == -(-n // FORWARD_ROWS)
            found += [array.tobytes() for array in (sums.losses, sums.correct, sums.weights)]
        results.append(found)
    assert all(result == results[0] for result in results)


def test_slices_of_an_epoch_have_the_bits_of_the_whole(drawn):
    task, rows, lr = drawn((21, 18, 5), dropout=0.3), order(37, 2), np.linspace(0.1, 0.2, 10)
    results = []
    for cuts in ((0, 10), (0, 3, 5, 10)):
        built, data = engine(NumbaBackend(), task, "adam")
        parts = [built.train_epoch(data, rows[a * 8 : b * 8], lr[a:b])
                 for a, b in itertools.pairwise(cuts)]  # fmt: skip
        results.append(bits(built, BatchMetrics.joined(parts)))
    assert results[0] == results[1]


def test_mapped_and_read_only_inputs(tmp_path, drawn):
    task, results = drawn((21, 18, 5), storage="uint8", rows=64), []
    np.save(tmp_path / "x.npy", task.x)
    frozen = task.x.copy()
    frozen.flags.writeable = False
    for x in (task.x, np.load(tmp_path / "x.npy", mmap_mode="r"), frozen):
        built, _ = engine(NumbaBackend(), task)
        before, data = built.compile_seconds, built.stage(x, task.y)
        if drawn is problem:
            assert np.shares_memory(data.arrays[0], x)
        sums = built.train_epoch(data, order(64), np.full(8, 0.1))
        assert built.compile_seconds == before
        results.append(bits(built, sums))
    assert results[0] == results[1] == results[2]


# ------------------------------------------------------------------------------- staged data


def test_the_more_units_the_denser_the_inputs_of_which_zeros_are_skipped(drawn):
    """And in training, where an entry is found once for two products, rather than in forward."""
    x = (np.random.default_rng(0).random((60, 50)) < 0.4).astype(np.float32)
    chosen = {
        units: tuple(skips_zeros(x, units, c) for c in (SEARCH_COST_TRAINING, SEARCH_COST_FORWARD))
        for units in (16, 80, 1024)
    }
    assert chosen == {16: (False, False), 80: (True, False), 1024: (True, True)}
    full = np.ones((60, 50))
    assert not skips_zeros(full, 1024, 0)
    assert skips_zeros(scipy.sparse.csr_array(full), 1024, 0)
    _, data = engine(NumbaBackend(), drawn((21, 18, 5)))
    assert data.record.descriptor.sparse is (drawn is not problem)


def test_data_of_another_engine(drawn):
    """Of the same form it may be used, with buffers that fit; else it is refused."""
    task = drawn((21, 18, 5), storage="uint8")
    _, data = engine(NumbaBackend(), task)
    alike, _ = engine(NumbaBackend(), problem((21, 9, 5)), batch_size=30)
    assert np.isfinite(alike.train_epoch(data, order(37), np.full(2, 0.1)).loss)
    settings = {"batch_size": 200, "dtype": "float64", "seed": 0}
    spec = EngineSpec(task.network, OPTIMIZERS["sgd"], Objective(), **settings)
    assert NumbaBackend().compile(spec).evaluate(data).weights.sum() == 37
    for other, options in (
        (problem((20, 18, 5)), {}),
        (problem((21, 18, 4)), {}),
        (problem((21, 18, 5), output="sigmoid"), {}),
        (task, {"dtype": "float32"}),
    ):
        with pytest.raises(InvalidInputError, match="this engine's stage"):
            engine(NumbaBackend(), other, **options)[0].evaluate(data)


# ----------------------------------------------------------------------------------- threads


@pytest.mark.usefixtures("eager")
def test_engines_train_at_once_in_several_threads():
    task, results = problem((40, 70, 5), rows=101), {}

    def work(name, threads):
        built, _, found = trained(NumbaBackend(threads=threads), task, "adam", 30, batch_size=33)
        results[name] = bits(built, found)

    work("alone", threads=1)
    threads = [threading.Thread(target=work, args=(n, 2)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [results.get(n) for n in range(3)] == [results["alone"]] * 3


def three_workers():
    return engine(NumbaBackend(threads=3), problem((40, 70, 5), rows=101), batch_size=33)


def train(built, data):
    return built.train_epoch(data, order(101), np.full(4, 0.1))


@pytest.mark.usefixtures("eager")
def test_a_failing_worker_ends_the_call(monkeypatch):
    compiled = calls.RUN["float64"]
    entry, broken = compiled.function, [2]

    def run(call, worker):
        if worker in broken:
            raise RuntimeError(f"worker {worker} has failed")
        entry(call, worker)

    failing = SimpleNamespace(compile=compiled.compile, function=run)
    monkeypatch.setitem(calls.RUN, "float64", failing)
    built, data = three_workers()
    with pytest.raises(RuntimeError, match="worker 2"):
        train(built, data)
    broken.clear()
    assert np.isfinite(train(built, data).loss)


@pytest.fixture
def started(monkeypatch):
    """The threads that are started; a test may set how many can be."""
    begin, counter = threading.Thread.start, SimpleNamespace(threads=0, most=100)

    def start(thread):
        if counter.threads >= counter.most:
            raise RuntimeError("can't start new thread")
        counter.threads += 1
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    return counter


@pytest.mark.usefixtures("eager")
def test_a_thread_that_cannot_start_ends_the_call(started):
    started.most = 1
    with pytest.raises(RuntimeError, match="can't start"):
        train(*three_workers())


@pytest.mark.parametrize(
    ("sizes", "rows", "call", "workers"),
    [
        ((2, 5, 2), 200, "train", 1),
        ((200, 256, 10), 1000, "train", 3),
        # The forward pass is a third of the work, and starting threads takes as long as ever.
        ((200, 256, 10), 1000, "forward", 1),
        ((200, 256, 10), 3000, "forward", 3),
    ],
)
def test_small_calls_use_one_worker(started, sizes, rows, call, workers):
    task = problem(sizes, rows=rows)
    built, data = engine(NumbaBackend(threads=3), task, batch_size=64)
    if call == "train":
        built.train_epoch(data, np.arange(rows), np.zeros(-(-rows // 64)))
    else:
        built.forward(task.x)
    assert started.threads == workers - 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.usefixtures("eager")
def test_training_after_a_fork():
    built, data = three_workers()
    train(built, data)
    child = os.fork()
    if child == 0:
        try:
            train(built, data)
        except BaseException:  # noqa: BLE001 - nothing may leave the child but its exit code
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert np.isfinite(train(built, data).loss)


# ----------------------------------------------------------------------------------- backend


@pytest.mark.parametrize(
    "code",
    [
        "NumbaBackend().device()",
        # Where code is on disk.
        "engine(NumbaBackend(), problem((2, 5, 2)))",
    ],
)
def test_needs_no_numba(code):
    engine(NumbaBackend(), problem((2, 5, 2)))
    code = (
        "import sys; from fusedmlp_numba import NumbaBackend; from problems import engine, problem;"
        f"{code}; sys.exit('numba' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", code], check=False, env=environment)
    assert done.returncode == 0


def test_probe_device_and_preference():
    assert NumbaBackend.probe().state == "usable"
    assert NumbaBackend().device().facts["threads"] == usable_cpus() >= 1
    workload = Workload(Network((2, 5, 2)), 64)
    mine, theirs = NumbaBackend.preference(workload), NumpyBackend.preference(workload)
    assert mine.score > theirs.score


@pytest.mark.parametrize(
    ("variables", "threads"),
    [
        ({}, usable_cpus()),
        ({"OMP_NUM_THREADS": "1"}, 1),
        ({"OMP_NUM_THREADS": "1,4"}, 1),
        ({"NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "9"}, 1),
        ({"OMP_NUM_THREADS": "9999"}, usable_cpus()),
        ({"OMP_NUM_THREADS": "0"}, usable_cpus()),
        ({"OMP_NUM_THREADS": "all"}, usable_cpus()),
    ],
)
def test_threads_are_limited_by_the_environment(monkeypatch, variables, threads):
    """joblib sets these variables in its processes; a number that is given comes first."""
    for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert NumbaBackend().device().facts["threads"] == threads
    assert NumbaBackend(threads=3).device().facts["threads"] == 3


@pytest.mark.parametrize(("threads", "words"), [(1, "1 thread"), (2, "2 threads")])
def test_the_device_counts_its_threads_in_english(threads, words):
    device = NumbaBackend(threads=threads).device()
    assert device.facts["threads"] == threads
    if threads <= usable_cpus():
        assert str(device).endswith(f"at most {words}")


def test_missing_numba(monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    found = NumbaBackend.probe()
    assert found.state == "missing"
    assert found.remedy == "pip install numba"
    with pytest.raises(MissingDependencyError, match="pip install numba"):
        NumbaBackend()


def test_broken_numba(monkeypatch):
    def fail():
        raise OSError("libLLVM: wrong ELF class")

    monkeypatch.setattr(llvm, "initialize", fail)
    assert NumbaBackend.probe().state == "broken"
    with pytest.raises(BackendUnavailableError, match="wrong ELF class"):
        NumbaBackend()


@pytest.mark.parametrize("value", ["1", "2", "0", "", "no"])
def test_a_disabled_compiler_is_reported(value):
    """Whether code is on disk or not; Numba reads its variable as a whole number."""
    code = (
        "from fusedmlp.network import Network; from fusedmlp.registry import *;"
        "from fusedmlp.backend import Workload; print(availability()['numba'].detail);"
        "print(select('auto', Workload(Network((2, 5, 2)), 64)).reason)"
    )
    environment = {**os.environ, "NUMBA_DISABLE_JIT": value}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, check=True
    )
    detail, reason = done.stdout.decode().splitlines()
    refused = "NUMBA_DISABLE_JIT is set" in detail
    assert refused == (value in ("1", "2"))
    assert refused == ("numba is broken: NUMBA_DISABLE_JIT is set" in reason)


def test_engines_of_several_threads_do_not_share_memory():
    """A call's arguments live until it has ended, also where other threads allocate memory."""
    task, rates = problem((4, 3, 3), rows=60), np.full(8, 0.1)

    def train_some(_number):
        built, data = engine(NumbaBackend(threads=1), task, batch_size=8)
        for _ in range(300):
            built.train_epoch(data, np.arange(60), rates)
            [bytes(n) for n in range(64, 512, 8)]  # memory of the arguments' size
        return flat(built.parameters()).tobytes()

    with ThreadPoolExecutor(4) as pool:
        assert len(set(pool.map(train_some, range(12)))) == 1
