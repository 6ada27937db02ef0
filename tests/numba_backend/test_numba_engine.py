"""The Numba engine against the NumPy engine, and what only this engine has: threads, sparse inputs,
mapped inputs, and the same bits for any number of workers."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import scipy.sparse

from fusedmlp.backend import EngineSpec, State, Workload
from fusedmlp.errors import InvalidInputError, MissingDependencyError, NoUsableDeviceError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Network, Objective, Parameters
from fusedmlp.tolerance import check_close, kernel_bound, trajectory_bound
from fusedmlp_numba import NumbaBackend, buffers
from fusedmlp_numba import data as data_module
from fusedmlp_numba import engine as engine_module
from fusedmlp_numba.backend import usable_cpus
from fusedmlp_numba.compiler.host import IN_PLACE
from fusedmlp_numba.constants import BITMASK_ROWS, FORWARD, FORWARD_ROWS, IN_PLACE_ROWS, KC, TRAIN
from fusedmlp_numpy import NumpyBackend
from problems import OPTIMIZERS, engine, flat, order, problem

DTYPES = ("float32", "float64")
STORAGES = ("uint8", "float32", "float64", "csr32", "csr64")


@pytest.fixture
def eager(monkeypatch):
    """Give every call as many workers as threads, however small it is."""
    monkeypatch.setattr(engine_module, "CALL_FLOPS", 0)
    monkeypatch.setattr(engine_module, "WORKER_FLOPS", 1)


@pytest.fixture(params=["dense", "sparse"])
def path(request, monkeypatch):
    """The first layer's path, whatever the data's density."""
    monkeypatch.setattr(data_module, "SPARSE_RATE", np.inf if request.param == "sparse" else 0.0)
    return request.param


def gradients(backend, task, dtype, **options):
    built, data = engine(backend, task, dtype=dtype, **options)
    return built.loss_and_gradients(data, order(len(task.y))[:8])


def trained(backend, task, optimizer="sgd", steps=50, lr=0.05, *, dtype="float64", **options):
    built, data = engine(backend, task, optimizer, dtype=dtype, **options)
    rows = np.resize(order(len(task.y), 20), steps * built.batch_size - 3)
    sums = built.train_epoch(data, rows, np.full(steps, lr))
    return built, data, sums


def compare(task, dtype, **options):
    depth = max(*task.network.sizes, 8) * task.network.n_layers
    mine, my_gradients = gradients(NumbaBackend(), task, dtype, **options)
    theirs, their_gradients = gradients(NumpyBackend(), task, dtype, **options)
    bound = kernel_bound(dtype, depth)
    check_close("loss", mine.losses, theirs.losses, bound)
    np.testing.assert_array_equal(mine.correct, theirs.correct)
    check_close("weights", mine.weights, theirs.weights, bound)
    for a, b in zip(my_gradients, their_gradients, strict=True):
        assert a.dtype == np.dtype(dtype)
        check_close(f"gradient {a.shape}", a, b, bound)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
def test_gradients(hidden, output, dtype, path):
    compare(problem((21, 18, 9, 5), hidden, output, weighted=True), dtype,
            objective=Objective(l2=0.1))  # fmt: skip


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("storage", STORAGES)
def test_storage(storage, dtype, path):
    compare(problem((21, 18, 5), storage=storage), dtype)


@pytest.mark.parametrize(
    "sizes", [(1, 1), (4, 1), (1, 3, 1), (784, 2), (2, 5, 2), (3, 1, 1, 1, 40), (9, 70, 33, 2)]
)
@pytest.mark.parametrize("rows", [1, 8])
def test_odd_shapes(sizes, rows, path):
    for dtype in DTYPES:
        compare(problem(sizes, output="sigmoid", dropout=0.3, rows=rows), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_fifty_steps(optimizer, dtype, path):
    task = problem((21, 18, 9, 5), "tanh", dropout=0.2, weighted=True, storage="uint8")
    # Small enough for a summed objective: chaotic steps would compare nothing.
    options = {"steps": 50, "lr": 0.005, "dtype": dtype, "objective": Objective("sum", l2=0.01)}
    mine, _, sums = trained(NumbaBackend(), task, optimizer, **options)
    theirs, _, expected = trained(NumpyBackend(), task, optimizer, **options)
    bound = trajectory_bound(dtype)
    check_close("losses", sums.losses, expected.losses, bound)
    check_close("weights", sums.weights, expected.weights, bound)
    for a, b in zip(mine.state().slots, theirs.state().slots, strict=True):
        check_close("slot", flat(a), flat(b), bound)
    check_close("parameters", flat(mine.parameters()), flat(theirs.parameters()), bound)
    assert mine.state().step == theirs.state().step == 50


@pytest.mark.parametrize("storage", ["uint8", "float64"])
@pytest.mark.parametrize("batch_size", [2 * BITMASK_ROWS + 22, KC + 70])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_batches_of_more_rows_than_a_mask_has_bits_or_a_sum_has_terms(
    optimizer, batch_size, storage, path
):
    task = problem((21, 18, 5), rows=2 * batch_size, storage=storage)
    options = {"steps": 4, "lr": 0.01, "batch_size": batch_size}
    mine, _, sums = trained(NumbaBackend(), task, optimizer, **options)
    theirs, _, expected = trained(NumpyBackend(), task, optimizer, **options)
    bound = kernel_bound("float64", batch_size)
    check_close("losses", sums.losses, expected.losses, bound)
    check_close("parameters", flat(mine.parameters()), flat(theirs.parameters()), bound)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_apply_gradients_is_the_epochs_step(optimizer, path):
    task = problem((21, 18, 5), storage="uint8")
    whole, data = engine(NumbaBackend(), task, optimizer)
    parts, other = engine(NumbaBackend(), task, optimizer)
    rows = order(len(task.y))
    for first in range(0, len(rows), 8):
        whole.train_epoch(data, rows[first : first + 8], np.array([0.1]))
        _, found = parts.loss_and_gradients(other, rows[first : first + 8])
        parts.apply_gradients(found, 0.1)
    check_close("parameters", flat(parts.parameters()), flat(whole.parameters()),
                kernel_bound("float64", 8))  # fmt: skip
    assert parts.state().step == whole.state().step


@pytest.mark.parametrize("output", OUTPUTS)
def test_forward_and_evaluate(output, path):
    task = problem((21, 18, 5), "relu", output, dropout=0.5, rows=300, weighted=True)
    mine, data = engine(NumbaBackend(), task)
    theirs, expected = engine(NumpyBackend(), task)
    bound = kernel_bound("float64", 40)
    check_close("forward", mine.forward(task.x), theirs.forward(task.x), bound)
    check_close("csr", mine.forward(scipy.sparse.csr_array(task.x)), theirs.forward(task.x), bound)
    for rows in (None, order(300)[:133]):
        a, b = mine.evaluate(data, rows), theirs.evaluate(expected, rows)
        assert a.loss == pytest.approx(b.loss, rel=bound)
        assert a.accuracy == pytest.approx(b.accuracy, rel=bound)
        assert a.weights.sum() == pytest.approx(b.weights.sum(), rel=bound)
    assert mine.forward(task.x[:0]).shape == (0, 5)
    np.testing.assert_array_equal(mine.forward(task.x[7:8]), mine.forward(task.x)[7:8])


NARROW = ((2, 5, 2), (1, 2), (8, 8, 8), (3, 1, 7, 5, 4))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("output", OUTPUTS)
@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
def test_narrow_networks(hidden, output, dtype):
    for sizes in NARROW:
        compare(problem(sizes, hidden, output, weighted=True), dtype, objective=Objective(l2=0.1))


@pytest.mark.parametrize("dtype", DTYPES)
def test_narrow_networks_of_sparse_inputs(dtype):
    """They go the panels' way."""
    for sizes in NARROW:
        compare(problem(sizes, "tanh", storage="csr64", weighted=True), dtype)


@pytest.mark.parametrize("storage", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_narrow_networks_train(optimizer, storage, monkeypatch):
    """Batches that are no multiple of a vector, and the panels' way as another opinion."""
    monkeypatch.setattr(data_module, "SPARSE_RATE", 0.0)
    task = problem((2, 5, 2), "tanh", rows=103, weighted=True, storage=storage)
    options = {"steps": 40, "lr": 0.01, "batch_size": 37, "objective": Objective(l2=0.01)}
    mine, data, sums = trained(NumbaBackend(), task, optimizer, **options)
    theirs, _, expected = trained(NumpyBackend(), task, optimizer, **options)
    bound = trajectory_bound("float64")
    check_close("losses", sums.losses, expected.losses, bound)
    check_close("parameters", flat(mine.parameters()), flat(theirs.parameters()), bound)
    wide, _ = engine(NumbaBackend(), task, optimizer, batch_size=37, objective=Objective(l2=0.01))
    wide.load(mine.state())
    wide._narrow_function = None
    rows, calls, narrow = order(103)[:37], [], mine._narrow_function
    monkeypatch.setattr(mine, "_narrow_function", lambda *call: calls.append(narrow(*call)))
    (_, one), (_, other) = (each.loss_and_gradients(data, rows) for each in (mine, wide))
    assert len(calls) == 1
    for a, b in zip(one, other, strict=True):
        check_close("gradient", a, b, kernel_bound("float64", 37))


def bits(built, sums):
    state = built.state()
    arrays = sums.losses, sums.correct, sums.weights, *map(flat, (state.parameters, *state.slots))
    return [array.tobytes() for array in arrays]


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    "sizes", [(40, 70, 33, 5), (3, 2), (5, 3, 100, 2), (20, 65, 100), (30, 150, 7)]
)
def test_same_bits_for_any_number_of_threads(sizes, optimizer, dtype, path):
    task = problem(sizes, dropout=0.2, rows=101, weighted=True)
    results = []
    for threads in (1, 1, 2, 3, 5):
        built, data, sums = trained(NumbaBackend(threads=threads), task, optimizer, 20,
                                    dtype=dtype, batch_size=70, sums_squares=True)  # fmt: skip
        evaluation = built.evaluate(data)
        loss, found = built.loss_and_gradients(data, np.arange(30))
        results.append([*bits(built, sums), sums.squares.tobytes(), flat(found).tobytes(),
                        loss.losses.tobytes(), evaluation.losses.tobytes(),
                        built.forward(task.x).tobytes()])  # fmt: skip
    assert all(result == results[0] for result in results)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("sizes", [(40, 70, 33, 5), (5, 3, 2), (30, 150, 7)])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_inputs_in_place_and_copied_give_the_same_bits(sizes, optimizer, monkeypatch):
    """Of float32 where they lie, of float64 converted on the way; the epoch's rest is copied."""
    monkeypatch.setattr(data_module, "SPARSE_RATE", 0.0)
    task, results = problem(sizes, rows=3 * IN_PLACE_ROWS + 7, dropout=0.2), []
    for storage, threads in itertools.product(("float32", "float64"), (1, 2, 5)):
        built, _ = engine(NumbaBackend(threads=threads), task, optimizer, dtype="float32",
                          batch_size=IN_PLACE_ROWS)  # fmt: skip
        x = task.x.astype(np.float32).astype(storage)
        data = built.stage(x, task.y)
        assert data.record.descriptor.in_place is (IN_PLACE and storage == "float32")
        rows = np.concatenate([order(len(x)), order(len(x))[::-1]])
        sums = built.train_epoch(data, rows, np.full(-(-len(rows) // IN_PLACE_ROWS), 0.05))
        losses, found = built.loss_and_gradients(data, rows[:IN_PLACE_ROWS])
        evaluation, outputs = built.evaluate(data), built.forward(x)
        results.append([*bits(built, sums), flat(found).tobytes(), losses.losses.tobytes(),
                        evaluation.losses.tobytes(), outputs.tobytes()])  # fmt: skip
    assert all(result == results[0] for result in results)


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("sizes", [(40, 70, 33, 5), (5, 3, 100, 2), (30, 150, 7)])
@pytest.mark.parametrize(("batch_size", "parts"), [(8, 16), (400, 16), (8, 2)])
def test_rows_apart_and_together_have_the_same_bits(sizes, batch_size, parts, path, monkeypatch):
    """Whole rounds of rows, a rest that is cut elsewhere, and one too small to be cut by rows."""
    monkeypatch.setattr(engine_module, "MAX_INFERENCE_PARTS", parts)
    task = problem(sizes, dropout=0.2, rows=300, weighted=True)
    results = []
    for threads in (1, 2, 3, 5):
        built, data = engine(NumbaBackend(threads=threads), task, batch_size=batch_size)
        for rows in (None, order(300)[: 2 * FORWARD_ROWS + 1], order(300)[:20]):
            found = built.evaluate(data, rows)
            assert len(found.losses) == -(-(300 if rows is None else len(rows))
                                          // FORWARD_ROWS)  # fmt: skip
            results.append((threads, found.losses.tobytes(), found.correct.tobytes(),
                            found.weights.tobytes()))  # fmt: skip
        results.append((threads, built.forward(task.x).tobytes()))
    first = [each[1:] for each in results if each[0] == 1]
    for threads in (2, 3, 5):
        assert [each[1:] for each in results if each[0] == threads] == first


def test_slices_of_an_epoch_give_the_bits_of_the_whole(path):
    task = problem((21, 18, 5), dropout=0.3, storage="uint8")
    rows, lr = order(37, 2), np.linspace(0.1, 0.2, 10)
    whole, data = engine(NumbaBackend(), task, "adam")
    sums = whole.train_epoch(data, rows, lr)
    cut, data = engine(NumbaBackend(), task, "adam")
    parts = [cut.train_epoch(data, rows[:24], lr[:3]), cut.train_epoch(data, rows[24:40], lr[3:5]),
             cut.train_epoch(data, rows[40:], lr[5:])]  # fmt: skip
    assert bits(whole, sums) == bits(cut, type(sums).joined(parts))


def test_measured_density_chooses_the_path():
    rng = np.random.default_rng(0)
    built, _ = engine(NumbaBackend(), problem((50, 4, 3)))
    for density, kind in ((0.1, True), (0.9, False)):
        x = (rng.integers(1, 256, (60, 50)) * (rng.random((60, 50)) < density)).astype(np.uint8)
        assert built.stage(x).record.descriptor.sparse is kind
    assert built.stage(scipy.sparse.csr_array(np.ones((60, 50)))).record.descriptor.sparse


def test_the_more_units_the_denser_the_inputs_of_which_zeros_are_skipped():
    """And in training, where an entry is found once for two products, rather than in forward."""
    x = (np.random.default_rng(0).random((60, 50)) < 0.4).astype(np.float32)
    assert not x.all()
    chosen = {}
    for units in (16, 80, 1024):
        built, _ = engine(NumbaBackend(), problem((50, units, 3)))
        built.forward(x)
        chosen[units] = (
            built.stage(x).record.descriptor.sparse,
            built._inputs.descriptor.sparse,
        )
    assert chosen == {16: (False, False), 80: (True, False), 1024: (True, True)}


def test_mapped_and_read_only_inputs(tmp_path, path):
    task = problem((21, 18, 5), storage="uint8", rows=64)
    np.save(tmp_path / "x.npy", task.x)
    frozen = task.x.copy()
    frozen.flags.writeable = False
    results = []
    for x in (task.x, np.load(tmp_path / "x.npy", mmap_mode="r"), frozen):
        built, _ = engine(NumbaBackend(), task)
        before = built.compile_seconds
        data = built.stage(x, task.y)
        if path == "dense":
            assert np.shares_memory(data.arrays[0], x)
        sums = built.train_epoch(data, order(64), np.full(8, 0.1))
        assert built.compile_seconds == before
        results.append(bits(built, sums))
    assert results[0] == results[1] == results[2]


def test_inputs_are_not_changed():
    task = problem()
    built, data = engine(NumbaBackend(), task)
    rows, lr = order(37), np.full(5, 0.1)
    copies = task.x.copy(), rows.copy(), lr.copy()
    built.train_epoch(data, rows, lr)
    for array, copy in zip((task.x, rows, lr), copies, strict=True):
        np.testing.assert_array_equal(array, copy)
        assert array.flags.writeable


@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_nan_reaches_the_sums(output, hidden, path):
    task = problem((21, 18, 5), hidden, output)
    for optimizer in ("sgd", "adam"):
        built, data = engine(NumbaBackend(), task, optimizer)
        built._buffers.theta[built._buffers.layout.weights[1]] = np.nan
        sums = built.train_epoch(data, order(37), np.full(5, 0.1))
        assert np.isnan(sums.losses[0])
        assert sums.first_non_finite() == 0


def test_divergence_is_told_and_not_raised():
    task = problem((21, 18, 5), "relu", "identity")
    built, data = engine(NumbaBackend(), task, dtype="float32")
    sums = built.train_epoch(data, order(37, 40), np.full(185, 1e6))
    assert sums.first_non_finite() is not None


def test_weights_of_zero_give_the_penalty_alone():
    task = problem((21, 18, 5))
    built, _ = engine(NumbaBackend(), task, objective=Objective(l2=0.5))
    data = built.stage(task.x, task.y, np.zeros(len(task.y)))
    sums, found = built.loss_and_gradients(data, np.arange(8))
    assert sums.losses[0] == sums.weights[0] == sums.loss == 0.0
    for g, W in zip(found.weights, built.parameters().weights, strict=True):
        np.testing.assert_allclose(g, 0.5 * W)
    assert not any(b.any() for b in found.biases)


def test_data_of_another_backend_is_refused():
    task = problem()
    built, data = engine(NumbaBackend(), task)
    other, foreign = engine(NumpyBackend(), task)
    rows, lr = np.arange(8), np.array([0.1])
    for call in (
        lambda e, d: e.evaluate(d),
        lambda e, d: e.loss_and_gradients(d, rows),
        lambda e, d: e.train_epoch(d, rows, lr),
    ):
        with pytest.raises(InvalidInputError, match="another backend") as mine:
            call(built, foreign)
        with pytest.raises(InvalidInputError) as theirs:
            call(other, data)
        assert str(mine.value).split("(")[0] == str(theirs.value).split("(")[0]
        with pytest.raises(InvalidInputError, match="without targets"):
            call(built, built.stage(task.x))


def test_data_of_another_engine(path):
    """Of the same form it may be used, with buffers that fit; else it is refused."""
    task = problem((21, 18, 5), storage="uint8")
    _, data = engine(NumbaBackend(), task)
    alike, _ = engine(NumbaBackend(), problem((21, 9, 5)), batch_size=30)
    assert np.isfinite(alike.train_epoch(data, order(37), np.full(2, 0.1)).loss)
    fresh = NumbaBackend().compile(
        EngineSpec(
            task.network, OPTIMIZERS["sgd"], Objective(), batch_size=200, dtype="float64", seed=0
        )
    )
    assert fresh.evaluate(data).weights.sum() == 37
    others = (
        engine(NumbaBackend(), problem((20, 18, 5)))[0],
        engine(NumbaBackend(), problem((21, 18, 4)))[0],
        engine(NumbaBackend(), problem((21, 18, 5), output="sigmoid"))[0],
        engine(NumbaBackend(), task, dtype="float32")[0],
    )
    for other in others:
        with pytest.raises(InvalidInputError, match="this engine's stage"):
            other.evaluate(data)


def test_wrong_arguments_are_refused():
    task = problem()
    built, data = engine(NumbaBackend(), task)
    with pytest.raises(InvalidInputError, match="batch size"):
        built.loss_and_gradients(data, np.arange(9))
    with pytest.raises(InvalidInputError, match="outside"):
        built.train_epoch(data, np.array([37]), np.array([0.1]))
    with pytest.raises(InvalidInputError, match="lr"):
        built.train_epoch(data, np.arange(9), np.array([0.1]))
    bad = Parameters(tuple(W * np.nan for W in built.parameters().weights),
                     built.parameters().biases)  # fmt: skip
    with pytest.raises(InvalidInputError, match="NaN"):
        built.apply_gradients(bad, 0.1)
    with pytest.raises(InvalidInputError, match="NaN"):
        built.load(State(bad, (), 0))


@pytest.mark.parametrize("path", ["sparse"], indirect=True)
def test_workers_with_entries_of_their_own_and_in_common_find_the_same_bits(
    eager, monkeypatch, path
):
    task, found = problem((40, 64, 5), rows=150), []
    for most in (buffers.MAX_PRIVATE_ENTRIES, 0):
        monkeypatch.setattr(buffers, "MAX_PRIVATE_ENTRIES", most)
        built, _, sums = trained(NumbaBackend(threads=2), task, batch_size=33)
        found.append(flat(built.parameters()).tobytes() + sums.losses.tobytes())
    assert found[0] == found[1]


@pytest.mark.usefixtures("eager")
def test_engines_train_at_once_in_several_threads():
    task = problem((40, 70, 5), rows=101)
    expected, _, sums = trained(NumbaBackend(threads=1), task, "adam", 30, batch_size=33)
    results, failures = [], []

    def work():
        try:
            built, _, found = trained(NumbaBackend(threads=2), task, "adam", 30, batch_size=33)
            results.append(bits(built, found))
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert results == [bits(expected, sums)] * 3


@pytest.mark.usefixtures("eager")
def test_a_failing_worker_ends_the_call(monkeypatch):
    task = problem((40, 70, 5), rows=101)
    built, data = engine(NumbaBackend(threads=3), task, batch_size=33)
    entry = built._run_function

    def fails(call, worker):
        if worker == 2:
            raise RuntimeError("worker 2 has failed")
        entry(call, worker)

    monkeypatch.setattr(built, "_run_function", fails)
    with pytest.raises(RuntimeError, match="worker 2"):
        built.train_epoch(data, order(101), np.full(4, 0.1))
    monkeypatch.undo()
    assert np.isfinite(built.evaluate(data).loss)


@pytest.mark.usefixtures("eager")
def test_a_thread_that_cannot_start_ends_the_call(monkeypatch):
    task = problem((40, 70, 5), rows=101)
    built, data = engine(NumbaBackend(threads=3), task, batch_size=33)
    begin = threading.Thread.start

    def start_once(thread):
        monkeypatch.setattr(threading.Thread, "start", refuse)
        begin(thread)

    def refuse(thread):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start_once)
    with pytest.raises(RuntimeError, match="can't start"):
        built.train_epoch(data, order(101), np.full(4, 0.1))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.usefixtures("eager")
def test_training_after_a_fork():
    task = problem((40, 70, 5), rows=101)
    built, data, _ = trained(NumbaBackend(threads=2), task, "sgd", 5, batch_size=33)
    child = os.fork()
    if child == 0:
        try:
            built.train_epoch(data, order(101), np.full(4, 0.1))
        except BaseException:  # noqa: BLE001 - nothing may leave the child but its exit code
            os._exit(1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert np.isfinite(built.train_epoch(data, order(101), np.full(4, 0.1)).loss)


def test_small_problems_use_one_worker():
    small, _ = engine(NumbaBackend(threads=64), problem((2, 5, 2)))
    assert small._workers(TRAIN, 200, 200) == 1
    large, _ = engine(NumbaBackend(threads=3), problem((200, 256, 10), rows=8), batch_size=64)
    assert large._workers(TRAIN, 10**4, 64) == 3
    # The forward pass is a third of the work, and starting threads takes as long as ever.
    assert large._workers(TRAIN, 1000, 1000) == 3
    assert large._workers(FORWARD, 1000, 1000) == 1


class TestBackend:
    def test_imports_no_numba(self):
        code = (
            "import sys, fusedmlp_numba; from fusedmlp_numba import NumbaBackend;"
            "sys.exit('numba' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_needs_no_numba_where_code_is_on_disk(self):
        engine(NumbaBackend(), problem((2, 5, 2)))
        code = (
            "import sys; from fusedmlp_numba import NumbaBackend; NumbaBackend().device();"
            "sys.exit('numba' in sys.modules)"
        )
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

    def test_probe_device_and_preference(self):
        assert NumbaBackend.probe().state == "usable"
        assert NumbaBackend(threads=3).device().facts["threads"] == 3
        assert "threads" in str(NumbaBackend().device())
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
    def test_threads_are_limited_by_the_environment(self, monkeypatch, variables, threads):
        """joblib sets these variables in its processes; a number that is given comes first."""
        for name in ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        assert NumbaBackend().device().facts["threads"] == threads
        assert NumbaBackend(threads=3).device().facts["threads"] == 3

    def test_device_numbers_and_threads(self):
        with pytest.raises(InvalidInputError, match="numba:0 names a device"):
            NumbaBackend(device=0)
        with pytest.raises(InvalidInputError, match="threads 0"):
            NumbaBackend(threads=0)

    def test_missing_numba(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "numba", None)
        found = NumbaBackend.probe()
        assert found.state == "missing"
        assert found.remedy == "pip install numba"
        with pytest.raises(MissingDependencyError, match="pip install numba"):
            NumbaBackend()

    def test_broken_numba(self, monkeypatch):
        from llvmlite import binding

        def fail():
            raise OSError("libLLVM: wrong ELF class")

        monkeypatch.setattr(binding, "initialize_native_target", fail)
        assert NumbaBackend.probe().state == "broken"
        with pytest.raises(NoUsableDeviceError, match="wrong ELF class"):
            NumbaBackend()

    def test_state_moves_between_engines(self):
        task = problem((21, 18, 5), dropout=0.2)
        mine, data, _ = trained(NumbaBackend(), task, "adam", 10)
        theirs, other = engine(NumpyBackend(), task, "adam")
        theirs.load(mine.state())
        rows = order(37)
        a = mine.train_epoch(data, rows, np.full(5, 0.01))
        b = theirs.train_epoch(other, rows, np.full(5, 0.01))
        check_close("losses", a.losses, b.losses, trajectory_bound("float64"))


@pytest.mark.parametrize(("threads", "words"), [(1, "1 thread"), (2, "2 threads")])
def test_the_device_counts_its_threads_in_english(threads, words):
    if threads > usable_cpus():
        pytest.skip("fewer CPUs")
    assert str(NumbaBackend(threads=threads).device()).endswith(f"at most {words}")
