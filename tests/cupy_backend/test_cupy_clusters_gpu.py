"""The persistent kernel's form with clusters on a device; skipped, with the reason, where none is.

That its bits are those of the form without is shown on the CPU: see test_cupy_clusters.py. Here:
that they are so with the hardware's barrier and memory, for thousands of steps and for every size
of clusters that the device runs, and that what cannot be resident is refused before anything runs.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_cupy_persistent_gpu import WORKSHOP, bits, trained

from fusedmlp.tolerance import check_close, trajectory_bound
from fusedmlp_cupy import CupyBackend, clusters, driver, persistent
from fusedmlp_cupy.device import CupyDevice
from fusedmlp_numpy import NumpyBackend
from problems import OPTIMIZERS, engine, flat, order, problem

pytestmark = pytest.mark.gpu


@pytest.fixture
def device():
    """A device that has clusters, or a skip with its reason."""
    import cupy

    device = CupyDevice(cupy, 0)
    limits = device.limits()
    if not limits.cooperative or limits.capability < clusters.CAPABILITY:
        pytest.skip(f"compute capability {limits.capability}: no clusters of blocks here")
    return device


def task_of(sizes, n_rows=640):
    return problem(sizes, rows=n_rows, storage="uint8", dropout=0.2, weighted=True)


def with_clusters(task, dtype, **options):
    backend = CupyBackend(cluster=True)
    found = trained(task, dtype, backend=backend, **options)
    assert backend.device().facts["launches"] == "cluster"
    return found


def without(task, dtype, **options):
    return trained(task, dtype, backend=CupyBackend(persistent=True), **options)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_it_has_the_bits_of_the_form_without(device, optimizer, dtype):
    """And trains as the specification does; for several batches of 45 rows and a partial one."""
    task = task_of((37, 165, 5))
    options = {"optimizer": optimizer, "size": 45}
    found = with_clusters(task, dtype, **options)
    assert bits(found) == bits(without(task, dtype, **options))
    expected = trained(task, dtype, **options, backend=NumpyBackend())
    for number in (0, *range(2, len(found))):
        check_close(f"array {number}", found[number], expected[number], trajectory_bound(dtype))


def sizes_that_run(device, network, size, dtype):
    """Sizes of clusters, of which the device takes one at least."""
    with device.active():
        for cluster in clusters.SIZES:
            try:
                found = clusters._fitted(device, network, size, dtype, cluster)
            except RuntimeError:
                continue
            if not isinstance(found, str):
                yield cluster


@pytest.mark.parametrize("sizes", [WORKSHOP, (67, 65, 11), (5, 33, 3)], ids=str)
@pytest.mark.parametrize("size", [64, 150])
def test_no_size_of_clusters_and_no_block_changes_a_bit(device, monkeypatch, sizes, size):
    task = task_of(sizes)
    expected = bits(without(task, "float32", size=size))
    found = list(sizes_that_run(device, task.network, size, "float32"))
    assert 8 in found  # which all devices with clusters have
    for cluster in found:
        monkeypatch.setattr(clusters, "SIZES", (cluster,))
        for threads in (256, 128):
            monkeypatch.setattr(persistent, "THREADS", threads)
            assert bits(with_clusters(task, "float32", size=size)) == expected


def test_few_clusters_have_the_bits_of_many(device, monkeypatch):
    """Each then has several columns of tiles, as on a smaller device, without having one."""
    task = task_of(WORKSHOP)
    expected = bits(without(task, "float32"))
    count, counts = driver.active_clusters, set()
    monkeypatch.setattr(clusters, "SIZES", (8,))
    for most in (99, 5, 3):
        monkeypatch.setattr(driver, "active_clusters", lambda *a, n=most: min(count(*a), n))
        with device.active():
            found = clusters.build(device, task.network, 64, "float32")
        if isinstance(found, str):
            continue  # so few have no room for all tiles
        counts.add(found[1].blocks)
        assert bits(with_clusters(task, "float32")) == expected
    if len(counts) < 2:
        pytest.skip(f"the device has room in one number of clusters alone: {counts}")


@pytest.mark.parametrize("sizes", [WORKSHOP, (784, 32, 10)], ids=str)
def test_thousands_of_steps_repeat_bit_for_bit(device, sizes):
    """A barrier that lets one thread through too soon would show, sooner or later."""
    task = task_of(sizes)
    found = [with_clusters(task, "float32", epochs=400) for _ in range(3)]
    assert all(np.isfinite(array).all() for array in found[0])
    assert bits(found[0]) == bits(found[1]) == bits(found[2])
    assert bits(found[0]) == bits(without(task, "float32", epochs=400))


def test_what_cannot_be_resident_is_refused_and_nothing_runs(device):
    task = task_of(WORKSHOP)
    built, data = engine(CupyBackend(cluster=True), task, "adam", batch_size=64, dtype="float32")
    steps = built._steps.persistent
    kernel, plan = steps._kernel, steps._plan
    before = flat(built.parameters()).tobytes()
    launch = kernel.launch
    kernel.launch = lambda _blocks, args: launch(kernel.resident + plan.cluster, args)
    with pytest.raises(RuntimeError):
        built.train_epoch(data, order(640, 1), np.full(10, 0.01))
    assert flat(built.parameters()).tobytes() == before


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nothing_is_spilled(device, dtype):
    with device.active():
        kernel, plan = clusters.build(device, task_of(WORKSHOP).network, 64, dtype)
        attributes = kernel._function.attributes
    assert attributes["local_size_bytes"] == 0
    assert attributes["num_regs"] * persistent.THREADS <= 65_536
    assert kernel.resident >= plan.blocks


def test_a_device_without_them_would_be_refused(device, monkeypatch):
    older = replace(device.limits(), capability=(8, 9))
    monkeypatch.setattr(CupyDevice, "limits", lambda _device: older)
    found = clusters.build(device, task_of(WORKSHOP).network, 64, "float32")
    assert "9.0, the device has 8.9" in found
