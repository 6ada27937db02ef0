"""What needs a device; skipped, with the reason printed, where there is none.

The suite's common parity and contract tests run on the device too. Here: the modes on networks of a
real size, bits that must repeat on real hardware and for thousands of steps, several devices, a
user's own stream, graphs of a real driver, and grids that a device cannot hold.
"""

from __future__ import annotations

import gc
from dataclasses import replace

import numpy as np
import pytest
from cupy_modes import cupy_backend

from bits import assert_same_bits, everything
from fusedmlp.errors import BackendUnavailableError, InvalidInputError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Objective
from fusedmlp.tolerance import check_close, kernel_bound, tf32_trajectory_bound, trajectory_bound
from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.runtime.device import CupyDevice
from fusedmlp_cupy.training.execution import GraphCache
from fusedmlp_cupy.training.persistent import KERNEL
from fusedmlp_cupy.training.persistent_plan import plan_persistent
from fusedmlp_cupy.tuning import Tuning
from fusedmlp_numpy import NumpyBackend
from problems import OPTIMIZERS, engine, flat, order, problem

pytestmark = pytest.mark.gpu
GROUP_STEPS = Tuning().group_steps
NETWORK = (784, 256, 10)

dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
modes = pytest.mark.parametrize("mode", ["eager", "graph", "persistent"])


def digits(sizes=NETWORK, **options):
    defaults = {"rows": 640, "storage": "uint8", "dropout": 0.2, "weighted": True}
    return problem(sizes, **defaults | options)


def train(mode, task, dtype="float32", optimizer="adamw", *, size=64, epochs=5, **tuning):
    """All that some epochs leave, the last batch a partial one; in "numpy" by the specification."""
    backend = NumpyBackend() if mode == "numpy" else cupy_backend(mode, **tuning)
    try:
        built, data = engine(
            backend, task, optimizer, Objective(l2=0.01), batch_size=size, dtype=dtype
        )
    except BackendUnavailableError as error:
        if mode != "persistent":
            raise
        pytest.skip(str(error))
    rows = order(len(task.y), epochs)[:-7]
    sums = built.train_epoch(data, rows, np.linspace(0.02, 0.01, -(-len(rows) // size)))
    if mode in ("eager", "graph", "persistent"):
        assert backend.device().facts["launches"] == mode
    state = built.state()
    parts = {
        f"{i} {j}": a
        for i, p in enumerate((state.parameters, *state.slots))
        for j, a in enumerate(p)
    }
    return {"losses": sums.losses, **parts}


def agree(found, expected, bound):
    for name, array in found.items():
        check_close(name, array, expected[name], bound)


@dtypes
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_strict_mode_has_the_cpu_s_bits(optimizer, dtype):
    task = problem((13, 9, 7, 5), dropout=0.3, weighted=True)
    results = [
        everything(each(strict=True), task, optimizer, Objective(l2=0.01), dtype, epochs=8)
        for each in (CupyBackend, NumpyBackend)
    ]
    assert_same_bits(*results)


@modes
@dtypes
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_wide_networks_train_as_the_specification_does(mode, optimizer, dtype):
    found = train(mode, digits(), dtype, optimizer)
    agree(found, train("numpy", digits(), dtype, optimizer), trajectory_bound(dtype))


@modes
@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_activation_and_output(mode, hidden, output):
    task = problem((37, 65, 5), hidden, output, 0.2, rows=200, weighted=True)
    arguments = task, "float64", "momentum"
    found = train(mode, *arguments, size=45)
    agree(found, train("numpy", *arguments, size=45), trajectory_bound("float64"))


@modes
@dtypes
def test_thousands_of_steps_repeat_bit_for_bit(mode, dtype):
    """A barrier that releases a thread too early would show, sooner or later."""
    first, *others = [train(mode, digits(), dtype, epochs=400) for _ in range(3)]
    assert all(np.isfinite(array).all() for array in first.values())
    for each in others:
        assert_same_bits(each, first)


def test_tf32_is_used_where_asked_for_and_within_its_bound():
    capability = CupyBackend().device().facts["compute_capability"]
    if float(capability) < 8.0:
        pytest.skip(f"compute capability {capability}: TF32 needs 8.0")
    task = digits(dropout=0.0)
    found = {mode: train(mode, task, optimizer="sgd") for mode in ("tf32", "graph", "numpy")}
    agree(found["tf32"], found["numpy"], tf32_trajectory_bound())
    agree(found["graph"], found["numpy"], trajectory_bound("float32"))
    assert found["tf32"]["0 0"].tobytes() != found["graph"]["0 0"].tobytes(), "it changed nothing"


def test_a_users_own_stream_changes_nothing():
    import cupy

    expected = train("", digits())
    with cupy.cuda.Stream(non_blocking=True):
        assert_same_bits(train("", digits()), expected)


def test_the_last_device_works_as_the_first():
    import cupy

    last = cupy.cuda.runtime.getDeviceCount() - 1
    if last == 0:
        pytest.skip("there is only one device")
    results = []
    for number in (0, last):
        built, data = engine(CupyBackend(device=number), digits(), batch_size=64)
        built.train_epoch(data, order(640), np.full(10, 0.01))
        results.append(flat(built.parameters()))
    check_close("parameters", *results, kernel_bound("float64", 784))
    assert cupy.cuda.runtime.getDevice() == 0, "the current device was changed"


def test_inputs_on_the_device_stay_there():
    import cupy

    task = problem((64, 32, 10), rows=5000, storage="float32")
    built, data = engine(CupyBackend(), task, batch_size=64, dtype="float32")
    there = cupy.asarray(task.x)
    found = built.forward(there)
    assert isinstance(found, cupy.ndarray)
    assert found.get().tobytes() == built.forward(task.x).tobytes()
    free = cupy.cuda.runtime.memGetInfo()[0]
    staged = built.stage(there, task.y)
    assert free - cupy.cuda.runtime.memGetInfo()[0] < there.nbytes
    a, b = built.evaluate(data), built.evaluate(staged)
    assert a.losses.tobytes() == b.losses.tobytes()
    there[4321, 7] = np.nan
    with pytest.raises(InvalidInputError, match=r"x\[4321, 7\] is nan"):
        built.stage(there)


@pytest.mark.parametrize("mode", ["graph", "persistent"])
@pytest.mark.parametrize("storage", ["uint8", "float32"])
def test_streamed_epochs_and_many_launches_have_the_same_bits(monkeypatch, mode, storage):
    task, few = digits(rows=2000, storage=storage), {"persistent_steps": 3}
    expected = train(mode, task)
    assert_same_bits(train(mode, task, **few), expected)
    monkeypatch.setattr("fusedmlp_cupy.data.fits", lambda *_: False)
    tuning = {"chunk_bytes": 5 * 64 * 784}
    backend_mode = "" if mode == "graph" else mode  # graphs on request do not stream
    assert_same_bits(train(backend_mode, task, **few, **tuning), expected)


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
        found.append(built.train_epoch(data, rows, np.linspace(0.02, 0.01, -(-n // size))).losses)
        if between is not None:
            data = between(built, data)
    state = built.state()
    return [a.tobytes() for a in (*found, *state.parameters, *(a for s in state.slots for a in s))]


@dtypes
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("name", GRAPH_NETWORKS)
def test_replayed_graphs_have_the_bits_of_eager_steps(monkeypatch, name, optimizer, dtype):
    """Groups of steps, single ones, and a last partial batch; rates, rows and masks that change.

    Eager steps multiply through CuPy's handle, where cuBLAS may choose another order of sums than
    for the separate handle: large products are compared with the same handle, without capture.
    """
    sizes, size = GRAPH_NETWORKS[name]
    n_rows = (2 * GROUP_STEPS + 2) * size + size // 3
    arguments = digits(sizes, rows=900), optimizer, size, n_rows
    found = calls(CupyBackend(graph=True), *arguments, dtype=dtype)
    if name == "own products":
        assert found == calls(CupyBackend(eager=True), *arguments, dtype=dtype)
    monkeypatch.setattr(GraphCache, "run", lambda _self, _data, _key, launch: launch())
    assert found == calls(CupyBackend(graph=True), *arguments, dtype=dtype)


def test_graphs_are_captured_and_replayed(monkeypatch):
    counts = {"record": 0, "replay": 0}
    for name in counts:
        sound = getattr(CupyDevice, name)

        def counted(*arguments, name=name, sound=sound):
            counts[name] += 1
            return sound(*arguments)

        monkeypatch.setattr(CupyDevice, name, counted)
    built, data = engine(CupyBackend(graph=True), digits(), batch_size=64, dtype="float32")
    rows = order(640, 4)[: (GROUP_STEPS + 2) * 64 + 20]
    for _ in range(3):
        built.train_epoch(data, rows, np.full(GROUP_STEPS + 3, 0.1))
    # Groups, single steps, the last rows: captured at the second use, and replayed from then on.
    assert counts == {"record": 3, "replay": 2 + 5 + 2}


def test_graphs_outlive_neither_data_nor_memory_that_is_given_back():
    """A data set goes away between calls, another takes its memory, and the bits stay the same."""
    import cupy

    task = digits(rows=900)

    def anew(built, data):
        del data
        gc.collect()
        cupy.get_default_memory_pool().free_all_blocks()
        other = built.stage(255 - task.x, task.y)  # takes what the old one had
        built.train_epoch(other, order(900, 1), np.full(15, 0.0))
        return built.stage(task.x, task.y)

    results = [
        calls(cupy_backend(mode), task, "momentum", 64, 64 * 5 + 9, between=anew)
        for mode in ("eager", "graph")
    ]
    assert results[0] == results[1]


@dtypes
@pytest.mark.parametrize("transposed", ["", "a", "b"])
def test_a_separate_handle_is_captured(dtype, transposed):
    """Inputs change between replays, as they do from one batch to the next."""
    import cupy

    device, (m, k, n) = CupyDevice(cupy, 0), (256, 784, 1024)
    rng = np.random.default_rng(0)
    shapes = (k, m) if transposed == "a" else (m, k), (n, k) if transposed == "b" else (k, n)
    with device.active():
        blas = device.cublas_handle()
        a, b, queued, replayed = (device.empty(s, dtype) for s in (*shapes, (m, n), (m, n)))
        blas.product(a, b, queued, transposed)  # loads the kernels
        recording = device.record(lambda: blas.product(a, b, replayed, transposed), blas)
        for _ in range(3):
            hosts = [rng.standard_normal(shape).astype(dtype) for shape in shapes]
            for array, host in zip((a, b), hosts, strict=True):
                device.copy_in(array, host)
            device.copy_in(replayed, np.zeros((m, n), dtype))
            device.replay(recording)
            blas.product(a, b, queued, transposed)
            found = device.download(replayed)
            assert found.tobytes() == device.download(queued).tobytes()
            left, right = (host.astype("float64") for host in hosts)
            left, right = (
                left.T if transposed == "a" else left,
                right.T if transposed == "b" else right,
            )
            check_close("product", found, left @ right, kernel_bound(dtype, k))


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


# --------------------------------------------------------------------------- the persistent kernel


def planned(sizes, dtype="float32", **tuning):
    """The distribution over this device's blocks, or a skip with the reason."""
    import cupy

    limits = CupyDevice(cupy, 0).limits()
    try:
        return plan_persistent(digits(sizes).network, 64, dtype, limits, Tuning(**tuning))
    except BackendUnavailableError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("sizes", [NETWORK, (67, 65, 11), (5, 33, 3)], ids=str)
def test_no_grid_and_no_block_changes_a_bit(monkeypatch, sizes):
    """Fewer blocks hold more tiles each, as on a smaller device."""
    blocks, limits = planned(sizes).blocks, CupyDevice.limits
    expected = train("persistent", digits(sizes))
    for fewer, threads in ((blocks // 2, 128), (37, 192), (2, 64)):
        monkeypatch.setattr(
            CupyDevice, "limits", lambda d, n=fewer: replace(limits(d), multiprocessors=n)
        )
        backend = cupy_backend("persistent", persistent_threads=threads)
        try:
            engine(backend, digits(sizes), batch_size=64, dtype="float32")
        except BackendUnavailableError:
            continue  # so few blocks have no room for all tiles
        found = train("persistent", digits(sizes), persistent_threads=threads)
        assert_same_bits(found, expected)


def test_two_engines_in_turn():
    """One function for both, and one counter of the barrier for each."""
    planned(NETWORK)

    def start(sizes):
        backend = CupyBackend(persistent=True)
        return engine(backend, digits(sizes), "adam", batch_size=64, dtype="float32")

    def step(built, data):
        built.train_epoch(data, order(640, 1), np.full(10, 0.01))
        return flat(built.parameters()).tobytes()

    both = NETWORK, (5, 33, 3)
    alone = [[step(*each) for _ in range(2)][-1] for each in map(start, both)]
    started = list(map(start, both))
    assert [[step(*each) for each in started] for _ in range(2)][-1] == alone


def test_what_cannot_be_resident_is_refused_and_nothing_runs(monkeypatch):
    """CuPy would launch a smaller grid, with a warning."""
    planned(NETWORK)
    monkeypatch.setattr(
        "fusedmlp_cupy.training.persistent.plan_persistent",
        lambda *arguments: replace(plan_persistent(*arguments), blocks=100_000),
    )
    with pytest.raises(BackendUnavailableError, match="100000 are needed"):
        engine(CupyBackend(persistent=True), digits(), batch_size=64, dtype="float32")
    import cupy

    device = CupyDevice(cupy, 0)
    with device.active():
        kernel = device.cooperative_kernel("float32", KERNEL, threads=256, shared_bytes=1024)
        with pytest.raises(RuntimeError, match="cannot be resident"):
            kernel.launch(100_000, ())


@dtypes
def test_nothing_is_spilled(dtype):
    import cupy

    plan, device, threads = planned(NETWORK, dtype), CupyDevice(cupy, 0), 256
    with device.active():
        kernel = device.cooperative_kernel(
            dtype, KERNEL, threads=threads, shared_bytes=plan.shared_bytes
        )
        attributes = kernel.function.attributes
    assert attributes["local_size_bytes"] == 0
    assert attributes["num_regs"] * threads <= 65_536
    assert kernel.resident >= plan.blocks
