"""Data sets larger than the device's memory, over the stand-in: the same bits, in the right order.

The stand-in's second stream copies as late as it may, and fails on a use that no event puts in
order with a copy. Not shown here: that copies and kernels really run side by side.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from cupy_modes import small_backend

from fusedmlp.backend import BatchMetrics
from fusedmlp.network import Objective
from fusedmlp_cupy.runtime.transfer import TransferBuffer
from problems import engine, order, problem

B = 8
N = 9 * B + 2


def needed(x):
    """Bytes of a data set of N rows without weights, and of a call over all of them."""
    return x.nbytes + (8 + 32) * len(x)


def trained(standin, task, mode, *, free, x=None, cuts=(0, N), **tuning):
    """Bits of all that an epoch, evaluations and a gradient leave, and the uploads of the epoch."""
    backend = small_backend(mode, **tuning)
    built, _ = engine(backend, task, "adam", Objective(l2=0.01), batch_size=B)
    standin.free = free
    data = built.stage(task.x if x is None else x, task.y, task.sample_weight)
    rows, rates = order(N), np.linspace(0.01, 0.02, -(-N // B))
    before = standin.memory.uploads
    parts = [
        built.train_epoch(data, rows[a:b], rates[a // B : -(-b // B)]) for a, b in pairwise(cuts)
    ]
    uploads = standin.memory.uploads - before
    sums = BatchMetrics.joined(parts), built.evaluate(data), built.evaluate(data, rows[::2])
    one, gradients = built.loss_and_gradients(data, rows[:B])
    arrays = [each for s in (*sums, one) for each in (s.losses, s.correct, s.weights)]
    state = built.state()
    arrays += [array for part in (gradients, state.parameters, *state.slots) for array in part]
    return b"".join(array.tobytes() for array in arrays), uploads


def streamed_task(storage="float32", *, weighted=False):
    return problem((13, 7, 5), "relu", dropout=0.5, rows=N, storage=storage, weighted=weighted)


@pytest.mark.parametrize("storage", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("mode", ["eager", "persistent"])
def test_the_bits_are_those_of_a_data_set_on_the_device(cupy, storage, weighted, mode):
    task = streamed_task(storage, weighted=weighted)
    expected, _ = trained(cupy, task, mode, free=2**33)
    free = task.x.nbytes // 4
    assert trained(cupy, task, mode, free=free)[0] == expected
    assert trained(cupy, task, mode, free=free, cuts=(0, 4 * B, 5 * B, N))[0] == expected


@pytest.mark.parametrize("batches", [1, 2, 3, 4, 9, 10, 50])
@pytest.mark.parametrize("mode", ["eager", "persistent"])
def test_chunks_of_any_length(cupy, batches, mode):
    """A part of a batch at the end, one chunk for all, one chunk a batch."""
    task = streamed_task()
    expected, uploads = trained(cupy, task, mode, free=needed(task.x))
    n_bytes = batches * B * task.x[0].nbytes
    tuning = {"chunk_share": 1, "chunk_bytes": n_bytes}
    found, more = trained(cupy, task, mode, free=needed(task.x) - 1, **tuning)
    assert found == expected
    assert more - uploads == -(-N // (batches * B)), "chunks of another length"


def test_a_mapped_file_is_read_in_chunks(cupy, tmp_path):
    task = streamed_task()
    np.save(tmp_path / "x.npy", task.x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected, _ = trained(cupy, task, "eager", free=2**33)
    assert trained(cupy, task, "eager", free=1000, x=mapped)[0] == expected


FAULTS = {
    "the copy does not wait for the kernels": ("release", "overwrites what a kernel may still"),
    "the host does not wait for the copy": ("await_sent", "pinned memory was written"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_stand_in_catches(cupy, monkeypatch, fault):
    """Parts of the ordering between the streams, left out in turn."""
    method, message = FAULTS[fault]
    monkeypatch.setattr(TransferBuffer, method, lambda self: None)
    with pytest.raises(AssertionError, match=message):
        trained(cupy, streamed_task(), "eager", free=1000)
