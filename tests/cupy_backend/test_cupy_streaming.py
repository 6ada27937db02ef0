"""Data sets larger than the device's memory, over the stand-in: the same bits, in the right order.

The stand-in's second stream copies as late as it may, and fails on a use that no event puts in
order with a copy. Not shown here: that copies and kernels really run side by side.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from test_cupy_engine import B, data_set, engines

from conftest import mode_and_tuning
from fusedmlp.errors import DeviceMemoryError
from fusedmlp.network import Network, Objective
from fusedmlp.optimizers import SGD, make_optimizer
from fusedmlp_cupy import streaming
from fusedmlp_cupy.runtime.transfer import TransferBuffer

NETWORK = Network((8, 7, 4), "relu", "softmax", 0.5)
N = 9 * B + 2


def trained(standin, data, *, streamed, cuts=(0, N), mode=("eager", None)):
    """Bits of all that an epoch, evaluations and a gradient leave."""
    x, y, w = data
    objective = Objective("mean", 0.01)
    adam = make_optimizer("adam")
    engine, _ = engines(standin, NETWORK, adam, objective, "float64", mode=mode)
    if streamed:
        standin.free = x.nbytes // 4
    staged = engine.stage(x, y, w)
    assert isinstance(staged.x, np.ndarray) == streamed
    order, rates = np.random.default_rng(4).permutation(N), np.linspace(0.01, 0.02, -(-N // B))
    found = []
    for a, b in itertools.pairwise(cuts):
        sums = engine.train_epoch(staged, order[a:b], rates[a // B : -(-b // B)])
        found.append((sums.losses.tobytes(), sums.correct.tobytes(), sums.weights.tobytes()))
    found = [b"".join(parts) for parts in zip(*found, strict=True)]
    for rows in (None, order[::2]):
        sums = engine.evaluate(staged, rows)
        found += [sums.losses.tobytes(), sums.correct.tobytes()]
    sums, gradients = engine.loss_and_gradients(staged, order[:B])
    state = engine.state()
    arrays = (*gradients, *state.parameters, *state.slots[0], *state.slots[1])
    return [*found, sums.losses.tobytes(), *(array.tobytes() for array in arrays)]


@pytest.mark.parametrize("storage", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("name", ["eager", "persistent"])
def test_the_bits_are_those_of_a_data_set_on_the_device(fast, storage, weighted, name):
    mode = mode_and_tuning(name, forward_rows=2 * B)
    data = data_set(NETWORK, N, "float64", storage, weighted=weighted)
    expected = trained(fast, data, streamed=False, mode=mode)
    assert trained(fast, data, streamed=True, mode=mode) == expected
    assert trained(fast, data, streamed=True, cuts=(0, 4 * B, 5 * B, N), mode=mode) == expected


@pytest.mark.parametrize("chunk_batches", [1, 2, 3, 4, 9, 10, 50])
@pytest.mark.parametrize("name", ["eager", "persistent"])
def test_chunks_of_any_length(fast, monkeypatch, chunk_batches, name):
    """A part of a batch at the end, one chunk for all, one chunk a batch."""
    data = data_set(NETWORK, N, "float64", "float32")
    mode = mode_and_tuning(name, chunk_share=1, chunk_bytes=chunk_batches * B * 8 * 4)
    expected = trained(fast, data, streamed=False, mode=mode)
    sent, send = [], TransferBuffer.send
    monkeypatch.setattr(
        TransferBuffer, "send", lambda self, rows: (sent.append(rows), send(self, rows))
    )
    fast.free = needed(data[0]) - 1
    adam, objective = make_optimizer("adam"), Objective("mean", 0.01)
    engine, _ = engines(fast, NETWORK, adam, objective, "float64", mode=mode)
    staged = engine.stage(*data)
    order, rates = np.random.default_rng(4).permutation(N), np.linspace(0.01, 0.02, -(-N // B))
    sums = engine.train_epoch(staged, order, rates)
    assert sums.losses.tobytes() == expected[0]
    whole, rest = divmod(N, chunk_batches * B)
    assert sent == [chunk_batches * B] * whole + [rest] * (rest > 0)


def test_a_mapped_file_is_read_in_chunks(fast, tmp_path):
    x, y, w = data_set(NETWORK, N, "float64", "float32")
    np.save(tmp_path / "x.npy", x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    expected = trained(fast, (x, y, w), streamed=False)
    assert trained(fast, (mapped, y, w), streamed=True) == expected


def needed(x):
    """Bytes of a data set without weights, and of a call over all its rows."""
    return x.nbytes + 8 * len(x) + streaming.ROW_BYTES * len(x)


def test_what_fits_is_decided_by_the_bytes(fast):
    engine, _ = engines(fast, NETWORK, SGD())
    x, y, _ = data_set(NETWORK, N, "float32")
    for free, streamed in ((needed(x), False), (needed(x) - 1, True)):
        fast.free = free
        assert isinstance(engine.stage(x, y).x, np.ndarray) == streamed


def test_a_batch_that_does_not_fit_names_the_bytes(fast):
    network = Network((200, 4))
    engine, _ = engines(fast, network, SGD())
    x, y, _ = data_set(network, N, "float32")
    fast.free = 100
    staged = engine.stage(x, y)
    fast.memory.limit = B * 200 * 4 - 1
    with pytest.raises(DeviceMemoryError, match=r"cannot hold 5,600 bytes more, 100 of"):
        engine.train_epoch(staged, np.arange(N), np.zeros(-(-N // B)))


FAULTS = {
    "the copy does not wait for the kernels": ("release", "overwrites what a kernel may still"),
    "the host does not wait for the copy": ("await_sent", "pinned memory was written"),
    "the kernels do not wait for the copy": ("send", "used while another stream writes it"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_the_stand_in_catches(fast, monkeypatch, fault):
    """Each part of the ordering between the streams, left out in turn."""
    method, message = FAULTS[fault]

    def send_only(self, rows):
        self._stream.wait_event(self._read)
        self.array[:rows].set(self.host[:rows], stream=self._stream)
        self._sent.record(self._stream)

    monkeypatch.setattr(
        TransferBuffer, method, send_only if method == "send" else lambda self: None
    )
    data = data_set(NETWORK, N, "float64", "float32")
    with pytest.raises(AssertionError, match=message):
        trained(fast, data, streamed=True)
