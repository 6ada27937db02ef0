"""What needs a device; skipped, with the reason printed, where there is none.

The suite's common parity and contract tests run on the device too. Here: the masks, bits that
must repeat on real hardware, several devices, a user's own stream, and graphs of a real driver.
"""

from __future__ import annotations

import gc

import numpy as np
import pytest

import twins
from bits import assert_same_bits, everything
from conftest import cupy_backend
from fusedmlp.errors import InvalidInputError
from fusedmlp.network import Objective
from fusedmlp.tolerance import check_close, kernel_bound, tf32_trajectory_bound, trajectory_bound
from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.kernels import launches
from fusedmlp_cupy.kernels.arguments import Batch, Dropout
from fusedmlp_cupy.kernels.launches import KERNELS
from fusedmlp_cupy.runtime.device import CupyDevice
from fusedmlp_cupy.training.execution import GraphCache
from fusedmlp_cupy.tuning import Tuning
from fusedmlp_numpy import NumpyBackend
from problems import OPTIMIZERS, engine, flat, order, problem

pytestmark = pytest.mark.gpu
GROUP_STEPS = Tuning().group_steps


@pytest.fixture(scope="module")
def backend():
    return CupyBackend()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_strict_mode_has_the_cpu_s_bits(optimizer, dtype):
    task = problem((13, 9, 7, 5), dropout=0.3, weighted=True)
    results = [
        everything(each(strict=True), task, optimizer, Objective(l2=0.01), dtype, epochs=8)
        for each in (CupyBackend, NumpyBackend)
    ]
    assert_same_bits(*results)


def train(backend, task, dtype, size=64, epochs=5):
    built, data = engine(backend, task, "adam", batch_size=size, dtype=dtype)
    rows = order(len(task.y), epochs)
    sums = built.train_epoch(data, rows, np.full(-(-len(rows) // size), 0.01))
    return flat(built.parameters()), sums


def test_masks_are_bit_identical(backend):
    import cupy

    device = CupyDevice(cupy, 0)
    with device.active():
        out = device.empty((67, 1031), np.uint8)
        dropout = Dropout(device.upload(np.array([41], np.uint32)), 2, 2**63 + 5, 0.3)
        program = device.program("float32", tuple(KERNELS))
        launches.dropout_mask(program, out, Batch(None, 0, 0, 67), dropout)
        found = device.download(out)
    expected = np.empty((67, 1031), bool)
    twins.dropout_mask(expected, 2**63 + 5, 41, 2, 0.3)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_wide_networks_train_as_the_specification_does(backend, dtype):
    task = problem((784, 256, 10), rows=640, storage="uint8", dropout=0.2)
    parameters, sums = train(backend, task, dtype)
    reference, reference_sums = train(NumpyBackend(), task, dtype)
    check_close("parameters", parameters, reference, trajectory_bound(dtype))
    check_close("losses", sums.losses, reference_sums.losses, trajectory_bound(dtype))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_runs_repeat_bit_for_bit(backend, dtype):
    task = problem((784, 256, 10), rows=640, storage="uint8", dropout=0.2)
    a, b = train(backend, task, dtype)[0], train(backend, task, dtype)[0]
    assert a.tobytes() == b.tobytes()


def test_a_users_own_stream_changes_nothing(backend):
    import cupy

    task = problem((64, 32, 10), rows=256)
    expected = train(backend, task, "float32")[0]
    with cupy.cuda.Stream(non_blocking=True):
        found = train(backend, task, "float32")[0]
    assert found.tobytes() == expected.tobytes()


def test_the_last_device_works_as_the_first(backend):
    import cupy

    last = cupy.cuda.runtime.getDeviceCount() - 1
    if last == 0:
        pytest.skip("there is only one device")
    task = problem((64, 32, 10), rows=256)
    found = train(CupyBackend(device=last), task, "float64")[0]
    bound = kernel_bound("float64", 256)
    check_close("parameters", found, train(backend, task, "float64")[0], bound)
    assert cupy.cuda.runtime.getDevice() == 0, "the current device was changed"


def test_inputs_on_the_device_stay_there(backend):
    import cupy

    task = problem((64, 32, 10), rows=5000, storage="float32")
    built, data = engine(backend, task, batch_size=64, dtype="float32")
    there = cupy.asarray(task.x)
    found = built.forward(there)
    assert isinstance(found, cupy.ndarray)
    assert found.get().tobytes() == built.forward(task.x).tobytes()
    staged = built.stage(there, task.y)
    assert staged.x.data.ptr == there.data.ptr
    a, b = built.evaluate(data), built.evaluate(staged)
    assert a.losses.tobytes() == b.losses.tobytes()
    there[4321, 7] = np.nan
    with pytest.raises(InvalidInputError, match=r"x\[4321, 7\] is nan"):
        built.stage(there)


@pytest.mark.parametrize("storage", ["uint8", "float32"])
def test_streamed_epochs_have_the_bits_of_resident_ones(backend, monkeypatch, storage):
    task = problem((784, 256, 10), rows=2000, storage=storage, dropout=0.2)
    expected = train(backend, task, "float32")
    monkeypatch.setattr("fusedmlp_cupy.data.fits", lambda *_: False)
    found = train(cupy_backend(Tuning(chunk_bytes=100_000)), task, "float32")
    assert found[0].tobytes() == expected[0].tobytes()
    assert found[1].losses.tobytes() == expected[1].losses.tobytes()


def test_tf32_is_used_where_asked_for_and_within_its_bound(backend):
    capability = backend.device().facts["compute_capability"]
    if float(capability) < 8.0:
        pytest.skip(f"compute capability {capability}: TF32 needs 8.0")
    task = problem((784, 256, 10), rows=640, storage="uint8")
    rows, found = order(640, 5), []
    for each in (CupyBackend(tf32=True), backend, NumpyBackend()):
        built, data = engine(each, task, batch_size=64, dtype="float32")
        built.train_epoch(data, rows, np.full(50, 0.1))
        found.append(flat(built.parameters()))
    check_close("parameters", found[0], found[2], tf32_trajectory_bound())
    check_close("parameters", found[1], found[2], trajectory_bound("float32"))
    assert found[0].tobytes() != found[1].tobytes(), "TF32 changed nothing"


GRAPH_NETWORKS = {
    "own products": ((784, 256, 10), 64),
    "cuBLAS": ((784, 1024, 1024, 10), 256),  # products of more than 2^24 multiplications
}


def calls(backend, task, optimizer, size, n_rows, *, between=None, dtype="float32"):
    """Everything that comes out of four calls, the last of them with another number of rows."""
    built, data = engine(backend, task, optimizer, batch_size=size, dtype=dtype)
    rng, found = np.random.default_rng(3), []
    for n in (n_rows, n_rows, n_rows, n_rows + 5 * size):
        rows = rng.integers(0, len(task.y), n)
        rates = np.linspace(0.02, 0.01, -(-n // size))
        found.append(built.train_epoch(data, rows, rates).losses)
        if between is not None:
            data = between(built, data)
    state = built.state()
    arrays = [*found, *state.parameters, *(a for slot in state.slots for a in slot)]
    return [a.tobytes() for a in arrays]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", GRAPH_NETWORKS)
def test_replayed_graphs_have_the_bits_of_eager_steps(monkeypatch, name, optimizer, dtype):
    """Groups of steps, single ones, and a last partial batch; rates, rows and masks that change.

    Eager steps multiply through CuPy's handle, where cuBLAS may choose another order of sums than
    for the separate handle: large products are compared with the same handle, without capture.
    """
    sizes, size = GRAPH_NETWORKS[name]
    task = problem(sizes, rows=900, storage="uint8", dropout=0.2, weighted=True)
    n_rows = (2 * GROUP_STEPS + 2) * size + size // 3
    arguments = task, optimizer, size, n_rows
    found = calls(CupyBackend(graph=True), *arguments, dtype=dtype)
    if name == "own products":
        assert found == calls(CupyBackend(eager=True), *arguments, dtype=dtype)
    monkeypatch.setattr(GraphCache, "run", lambda _self, _data, _key, launch: launch())
    assert found == calls(CupyBackend(graph=True), *arguments, dtype=dtype)


def test_graphs_are_captured_and_replayed(monkeypatch):
    task = problem((784, 256, 10), rows=900, storage="uint8")
    recorded, replayed = [], []
    record, replay = CupyDevice.record, CupyDevice.replay

    def recording(*args):
        recorded.append(record(*args))
        return recorded[-1]

    def replaying(device, recording):
        replayed.append(recording)
        replay(device, recording)

    monkeypatch.setattr(CupyDevice, "record", recording)
    monkeypatch.setattr(CupyDevice, "replay", replaying)
    backend = CupyBackend(graph=True)
    built, data = engine(backend, task, batch_size=64, dtype="float32")
    rows = order(900, 3)[: (GROUP_STEPS + 2) * 64 + 20]
    for _ in range(3):
        built.train_epoch(data, rows, np.full(GROUP_STEPS + 3, 0.1))
    assert len(recorded) == 3  # groups, single steps, the last rows
    assert len(replayed) == 2 + 5 + 2  # every use but the first
    assert backend.device().facts["launches"] == "graph"


def test_graphs_outlive_neither_data_nor_memory_that_is_given_back():
    """A data set goes away between calls, another takes its memory, and the bits stay the same."""
    import cupy

    task = problem((784, 256, 10), rows=900, storage="uint8", dropout=0.2)

    def anew(built, data):
        del data
        gc.collect()
        cupy.get_default_memory_pool().free_all_blocks()
        other = built.stage(255 - task.x, task.y)  # takes what the old one had
        built.train_epoch(other, order(900, 1), np.full(15, 0.0))
        return built.stage(task.x, task.y)

    results = [
        calls(CupyBackend(**{way: True}), task, "momentum", 64, 64 * 5 + 9, between=anew)
        for way in ("eager", "graph")
    ]
    assert results[0] == results[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("transposed", ["", "a", "b"])
def test_a_separate_handle_is_captured(dtype, transposed):
    """Inputs change between replays, as they do from one batch to the next."""
    import cupy

    device, (m, k, n) = CupyDevice(cupy, 0), (256, 784, 1024)
    rng = np.random.default_rng(0)

    def drawn():
        a = rng.standard_normal((k, m) if transposed == "a" else (m, k)).astype(dtype)
        b = rng.standard_normal((n, k) if transposed == "b" else (k, n)).astype(dtype)
        return a, b

    with device.active():
        blas = device.cublas_handle()
        a, b = (device.upload(each) for each in drawn())
        queued, replayed = (device.empty((m, n), dtype) for _ in range(2))
        blas.product(a, b, queued, transposed)  # loads the kernels
        recording = device.record(lambda: blas.product(a, b, replayed, transposed), blas)
        for _ in range(3):
            hosts = drawn()
            for array, host in zip((a, b), hosts, strict=True):
                device.copy_in(array, host)
            device.copy_in(replayed, np.zeros((m, n), dtype))
            device.replay(recording)
            blas.product(a, b, queued, transposed)
            found = device.download(replayed)
            assert found.tobytes() == device.download(queued).tobytes()
            left = hosts[0].T if transposed == "a" else hosts[0]
            right = hosts[1].T if transposed == "b" else hosts[1]
            expected = left.astype("float64") @ right.astype("float64")
            check_close("product", found, expected, kernel_bound(dtype, k))


def test_cupy_s_own_cublas_refuses_capture():
    """The reason for the separate handle; when this fails, it can be removed."""
    import cupy

    device = CupyDevice(cupy, 0)
    with device.active():
        a, b, out = (device.upload(np.ones((64, 64), np.float32)) for _ in range(3))
        device.product(a, b, out)
        with pytest.raises((RuntimeError, NotImplementedError)):
            device.record(lambda: device.product(a, b, out))
        device.product(a, b, out)  # it works on as before
        assert (device.download(out) == 64).all()
