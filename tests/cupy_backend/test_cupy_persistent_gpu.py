"""The persistent kernel on a device; skipped, with the reason printed, where there is none.

test_cupy_persistent.py shows on the CPU that it trains as NumPy does. Here: that it still does with
the device's own barrier, caches and rounding, for thousands of steps and on any grid, and that what
cannot be resident is refused before anything runs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conftest import cupy_backend
from fusedmlp.errors import BackendUnavailableError
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Objective
from fusedmlp.tolerance import check_close, trajectory_bound
from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy.runtime.device import CupyDevice
from fusedmlp_cupy.training.persistent import KERNEL
from fusedmlp_cupy.training.persistent_plan import plan_persistent
from fusedmlp_cupy.tuning import Tuning
from fusedmlp_numpy import NumpyBackend
from problems import OPTIMIZERS, engine, flat, order, problem

pytestmark = pytest.mark.gpu

NETWORK = (784, 256, 10)


@pytest.fixture(autouse=True)
def cooperative():
    """A device that has cooperative launches, or a skip with its reason."""
    import cupy

    if not cupy.cuda.runtime.getDeviceProperties(0)["cooperativeLaunch"]:
        pytest.skip("this device has no cooperative launches")


def fits(sizes, size, dtype, n_rows=640):
    """A problem whose network this device has room for, or a skip with the reason."""
    task = problem(sizes, rows=n_rows, storage="uint8", dropout=0.2, weighted=True)
    import cupy

    try:
        plan_persistent(task.network, size, dtype, CupyDevice(cupy, 0).limits(), Tuning())
    except BackendUnavailableError as error:
        pytest.skip(str(error))
    return task


def trained(task, dtype, size=64, *, optimizer="adamw", epochs=5, backend=None, tuning=None):
    """Every array that some epochs leave, the sums first; the last batch is a partial one."""
    asked = backend or cupy_backend(tuning or Tuning(), persistent=True)
    built, data = engine(asked, task, optimizer, Objective(l2=0.01), batch_size=size, dtype=dtype)
    rows = order(len(task.y), epochs)[:-7]
    sums = built.train_epoch(data, rows, np.linspace(0.02, 0.01, -(-len(rows) // size)))
    if backend is None:
        assert asked.device().facts["launches"] == "persistent"
    state = built.state()
    parts = (state.parameters, *state.slots)
    return [sums.losses, sums.correct, *(array for part in parts for array in part)]


def bits(arrays):
    return [array.tobytes() for array in arrays]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_trains_as_the_specification_does(optimizer, dtype):
    task = fits(NETWORK, 64, dtype)
    found = trained(task, dtype, optimizer=optimizer)
    expected = trained(task, dtype, optimizer=optimizer, backend=NumpyBackend())
    for number, (a, b) in enumerate(zip(found, expected, strict=True)):
        if number == 1:  # accuracy flips a row at a time; nearly all must agree
            assert np.abs(a - b).sum() <= 0.01 * b.sum()
        else:
            check_close(f"array {number}", a, b, trajectory_bound(dtype))


@pytest.mark.parametrize("hidden", HIDDEN_ACTIVATIONS)
@pytest.mark.parametrize("output", OUTPUTS)
def test_every_activation_and_output(hidden, output):
    task = problem((37, 65, 5), hidden, output, 0.2, rows=200, weighted=True)
    arguments = task, "float64", 45
    found = trained(*arguments, optimizer="momentum")
    expected = trained(*arguments, optimizer="momentum", backend=NumpyBackend())
    for number in (0, *range(2, len(found))):
        bound = trajectory_bound("float64")
        check_close(f"array {number}", found[number], expected[number], bound)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_thousands_of_steps_repeat_bit_for_bit(dtype):
    """A barrier that releases a thread too early would show, sooner or later."""
    task = fits(NETWORK, 64, dtype)
    found = [trained(task, dtype, epochs=400) for _ in range(3)]
    assert all(np.isfinite(array).all() for array in found[0])
    assert bits(found[0]) == bits(found[1]) == bits(found[2])


@pytest.mark.parametrize("sizes", [NETWORK, (67, 65, 11), (5, 33, 3)], ids=str)
def test_no_grid_and_no_block_changes_a_bit(monkeypatch, sizes):
    """Fewer blocks hold more tiles each, as on a smaller device."""
    task = fits(sizes, 64, "float32")
    limits, grids, results = CupyDevice.limits, set(), []
    import cupy

    most = limits(CupyDevice(cupy, 0)).multiprocessors
    for blocks, threads in ((most, 256), (most // 2, 128), (37, 192), (2, 64)):
        monkeypatch.setattr(
            CupyDevice, "limits", lambda d, n=blocks: replace(limits(d), multiprocessors=n)
        )
        tuning, few = Tuning(persistent_threads=threads), CupyDevice(cupy, 0).limits()
        try:
            plan = plan_persistent(task.network, 64, "float32", few, tuning)
        except BackendUnavailableError:
            continue  # so few blocks have no room for all tiles
        grids.add(plan.blocks)
        results.append(bits(trained(task, "float32", tuning=tuning)))
    if len(grids) < 2:
        pytest.skip(f"the device gives one grid alone: {grids}")
    assert all(result == results[0] for result in results)


def test_streamed_rows_and_many_launches_have_the_same_bits(monkeypatch):
    task = fits(NETWORK, 64, "float32", n_rows=2000)
    expected = bits(trained(task, "float32"))
    assert bits(trained(task, "float32", tuning=Tuning(persistent_steps=3))) == expected
    monkeypatch.setattr("fusedmlp_cupy.data.fits", lambda *_: False)
    tuning = Tuning(persistent_steps=3, chunk_bytes=5 * 64 * 784)
    assert bits(trained(task, "float32", tuning=tuning)) == expected


def test_two_engines_in_turn():
    """One function for both, and one counter of the barrier for each."""
    tasks = fits(NETWORK, 64, "float32"), fits((5, 33, 3), 64, "float32")
    alone = [flat_of(*start(task), turns=2) for task in tasks]
    started = [start(task) for task in tasks]
    for _ in range(2):
        in_turn = [flat_of(*each, turns=1) for each in started]
    assert in_turn == alone


def start(task):
    return engine(CupyBackend(persistent=True), task, "adam", batch_size=64, dtype="float32")


def flat_of(built, data, *, turns):
    for _ in range(turns):
        built.train_epoch(data, order(640, 1), np.full(10, 0.01))
    return flat(built.parameters()).tobytes()


def test_what_cannot_be_resident_is_refused_and_nothing_runs():
    """CuPy would launch a smaller grid, with a warning."""
    built, data = start(fits(NETWORK, 64, "float32"))
    before, persistent = flat(built.parameters()), built.steps.persistent
    persistent.plan = replace(persistent.plan, blocks=100_000)
    with pytest.raises(BackendUnavailableError, match="cannot be resident"):
        built.train_epoch(data, order(640, 1), np.full(10, 0.01))
    assert flat(built.parameters()).tobytes() == before.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_is_spilled(dtype):
    import cupy

    task, device, threads = fits(NETWORK, 64, dtype), CupyDevice(cupy, 0), 256
    with device.active():
        plan = plan_persistent(task.network, 64, dtype, device.limits(), Tuning())
        shared_bytes = plan.shared_bytes
        kernel = device.cooperative_kernel(
            dtype, KERNEL, threads=threads, shared_bytes=shared_bytes
        )
        attributes = kernel.function.attributes
    assert attributes["local_size_bytes"] == 0
    assert attributes["num_regs"] * threads <= 65_536
    assert kernel.resident >= plan.blocks
