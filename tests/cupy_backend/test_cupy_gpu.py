"""What only a device can show; skipped, with the reason printed, where there is none.

The suite's common parity and contract tests run on the device too. Here: the masks, bits that
must repeat on real hardware, several devices, and a user's own stream.
"""

from __future__ import annotations

import numpy as np
import pytest

from bits import assert_same_bits, everything
from fusedmlp.network import Objective
from fusedmlp.tolerance import check_close, kernel_bound, trajectory_bound
from fusedmlp_cupy import CupyBackend
from fusedmlp_cupy import kernels as launches
from fusedmlp_cupy.device import CupyDevice
from fusedmlp_cupy.kernels import KERNELS, Batch, Dropout
from fusedmlp_numpy import NumpyBackend
from fusedmlp_numpy import kernels as twins
from problems import OPTIMIZERS, engine, flat, order, problem

pytestmark = pytest.mark.gpu


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
