"""What an engine does with the device's memory: waits, copies, and errors where it is too small."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from cupy_modes import MODES, cupy_backend, small_backend

from fusedmlp.errors import DeviceMemoryError, InvalidInputError
from problems import engine, order, problem


@pytest.mark.parametrize("mode", MODES)
def test_an_epoch_waits_for_the_device_once(cupy, mode):
    """No host work hides between batches: reads and uploads do not grow with their number."""
    traffic = []
    for n_batches in (2, 20):
        task = problem((5, 4, 3), dropout=0.1, rows=8 * n_batches)
        built, data = engine(small_backend(mode), task, "adam")
        memory = cupy.memory
        before = memory.uploads, memory.reads, memory.synchronisations
        built.train_epoch(data, order(8 * n_batches), np.full(n_batches, 0.01))
        after = memory.uploads, memory.reads, memory.synchronisations
        traffic.append(tuple(b - a for a, b in zip(before, after, strict=True)))
    # Uploads: order, steps and rates, each waited for. Reads: the sums.
    assert traffic == [(3, 1, 3), (3, 1, 3)]


def test_large_inputs_go_up_in_pieces(cupy):
    """A mapped file is never read whole."""
    built, _ = engine(cupy_backend(), problem((1000, 3)), dtype="float32")
    x = np.zeros((70_000, 1000), np.uint8)
    x[::997] = 255
    before = cupy.memory.uploads
    data = built.stage(x, np.zeros(len(x), int))
    assert cupy.memory.uploads - before == 2 + 1
    expected = built.evaluate(built.stage(x[-100:], np.zeros(100, int)))
    found = built.evaluate(data, np.arange(len(x) - 100, len(x)))
    assert found.losses.tobytes() == expected.losses.tobytes()


def stream_a_batch(built, cupy):
    data = built.stage(np.ones((3000, 4), np.float32), np.zeros(3000, int))
    cupy.memory.limit = 7 * 4 * 4 - 1
    built.train_epoch(data, np.arange(7), np.zeros(1))


TOO_LARGE = {
    "an engine": lambda *_: engine(cupy_backend(), problem((4, 3)), batch_size=10_000),
    "a sparse data set": lambda built, _: built.stage(scipy.sparse.csr_array(np.ones((10_000, 4)))),
    "a streamed batch": stream_a_batch,
}


@pytest.mark.parametrize("what", TOO_LARGE)
def test_too_little_device_memory_names_the_bytes(cupy, what):
    built, _ = engine(cupy_backend(), problem((4, 3)), batch_size=7, dtype="float32")
    cupy.memory.limit, cupy.free = 10_000, 1000
    with pytest.raises(DeviceMemoryError, match=r"cannot hold [\d,]+ bytes more, 1,000 of 17,179,"):
        TOO_LARGE[what](built, cupy)


def test_data_of_another_device_and_states_of_another_type(cupy):
    task = problem((4, 5, 3))
    built, _ = engine(cupy_backend(), task, dtype="float32")
    other, there = engine(type(cupy_backend())(device=1), task, dtype="float64")
    with pytest.raises(InvalidInputError, match="staged on device 1"):
        built.evaluate(there)
    built.load(other.state())
    for found, expected in zip(built.parameters(), other.parameters(), strict=True):
        assert found.tobytes() == expected.astype(np.float32).tobytes()
    built.synchronize()
    assert built.compile_seconds > 0
