"""Where the Numba engine's memory lies, and what it keeps of the data that is staged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedmlp.backend import EngineSpec
from fusedmlp.network import Network, Objective, initialise
from fusedmlp.optimizers import SGD
from fusedmlp_numba import NumbaBackend, engine
from fusedmlp_numba import data as data_module
from fusedmlp_numba.constants import DENSE, DTYPE_CODES, HEADER_BYTES, PACKED
from fusedmlp_numba.layout import (
    ALIGNMENT,
    aligned,
    layout_of,
    pack,
    parameter_count,
    row_stride,
    unpack,
)
from fusedmlp_numba.records import (
    ENGINE_CONTEXTS,
    KERNEL_ARGUMENTS,
    EngineContext,
    KernelArguments,
    Settings,
    as_record,
)

DTYPES = ("float32", "float64")

sizes = st.sampled_from([1, 2, 3, 5, 8, 16, 17, 33, 64, 130])
few = settings(max_examples=30, deadline=None)


def test_records_have_the_fields_of_their_tuples():
    arguments = KernelArguments(*range(1, len(KernelArguments._fields)), check_finite=True)
    assert KERNEL_ARGUMENTS.names == KernelArguments._fields
    assert tuple(as_record(arguments, KERNEL_ARGUMENTS)[0]) == arguments
    for dtype, record in ENGINE_CONTEXTS.items():
        assert record.names == EngineContext._fields
        assert record["unit"] == dtype
        assert record["settings"].names == Settings._fields
        assert record["settings"]["seed"] == np.uint64


@pytest.mark.parametrize("itemsize", [4, 8])
@pytest.mark.parametrize("width", [1, 15, 16, 17, 256, 1000, 1024])
def test_rows_lie_an_odd_number_of_cache_lines_apart(width, itemsize):
    stride = row_stride(width, itemsize) * itemsize
    assert stride >= width * itemsize
    assert stride % ALIGNMENT == 0
    assert stride // ALIGNMENT % 2 == 1


@few
@given(layers=st.lists(sizes, min_size=2, max_size=5))
@pytest.mark.parametrize("dtype", DTYPES)
def test_layout_there_and_back(dtype, layers):
    network = Network(tuple(layers), output="identity")
    shape = layout_of(network, dtype)
    parameters = initialise(network, 1, dtype)
    biases = tuple(np.arange(len(b), dtype=dtype) + 1 for b in parameters.biases)
    parameters = type(parameters)(parameters.weights, biases)
    flat = aligned(parameter_count(shape), dtype)
    assert flat.ctypes.data % 64 == 0
    flat[:] = 9
    pack(parameters, shape, flat)
    for mine, theirs in zip(unpack(flat, shape), parameters, strict=True):
        assert mine.flags.c_contiguous
        assert not np.shares_memory(mine, flat)
        np.testing.assert_array_equal(mine, theirs)
    assert np.count_nonzero(flat) == sum(np.count_nonzero(p) for p in parameters)


def staged(x, dtype):
    network = Network((x.shape[1], 40, 3), output="identity")
    options = {"batch_size": 8, "dtype": dtype, "seed": 0}
    built = NumbaBackend(threads=3).compile(EngineSpec(network, SGD(), Objective(), **options))
    return built.stage(x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stored", ["uint8", *DTYPES])
def test_packed_rows(stored, dtype, monkeypatch):
    monkeypatch.setattr(engine, "WORKER_INPUTS", 70)
    rng = np.random.default_rng(0)
    x = (rng.integers(1, 256, (40, 70)) * (rng.random((40, 70)) < 0.1)).astype(stored)
    x[7], x[8] = 0, 200
    data = staged(x, dtype)
    kept = np.dtype("uint8" if stored == "uint8" else dtype)
    source = data.record.descriptor
    assert (source.kind, source.dtype) == (PACKED, DTYPE_CODES[kept])
    assert source.capacity == 70
    starts, memory = data.arrays[:2]
    assert len(memory) == starts[-1]
    for row, start, stop in zip(x, starts, starts[1:], strict=False):
        ends = memory[start : start + HEADER_BYTES].view(np.uint16)
        places = memory[start + HEADER_BYTES :][: 2 * ends[-1]].view(np.uint16)
        first = start + HEADER_BYTES + 2 * int(ends[-1])
        first += -first % kept.itemsize
        values = memory[first : first + ends[-1] * kept.itemsize].view(kept)
        np.testing.assert_array_equal(places, np.flatnonzero(row))
        np.testing.assert_array_equal(values, row[places].astype(kept))
        assert list(ends) == [np.count_nonzero(row[: s * 18]) for s in range(1, 5)]
        assert start % 8 == 0
        assert 0 <= stop - first - values.nbytes < 8
    # 20 of 70 inputs: 3 bytes for each and 16 for the row are more than 70 pixels have.
    fuller = staged(np.repeat((np.arange(70) < 20).astype(stored)[None], 40, axis=0), dtype)
    assert fuller.record.descriptor.sparse
    assert (fuller.record.descriptor.kind == source.kind) == (stored != "uint8")


def test_packing_leaves_the_barrier_to_whoever_trains(monkeypatch):
    monkeypatch.setattr(engine, "WORKER_INPUTS", 70)
    options = {"batch_size": 8, "dtype": "float32", "seed": 0}
    network = Network((70, 4, 3), output="identity")
    built = NumbaBackend(threads=2).compile(EngineSpec(network, SGD(), Objective(), **options))
    built._buffers.barrier[:] = 5
    x = np.zeros((40, 70), np.float32)
    assert built.stage(x).record.descriptor.kind == PACKED
    assert (built._buffers.barrier == 5).all()


def test_packed_rows_have_a_bound(tmp_path, monkeypatch):
    path, x = tmp_path / "x.npy", np.zeros((40, 70), np.uint8)
    x[:, 5] = 1
    np.save(path, x)
    mapped = np.load(path, mmap_mode="r")

    def is_packed(x):
        return staged(x, "float32").record.descriptor.kind == PACKED

    needed = 41 * 8 + 40 * 16
    for bound, fits in ((needed, True), (needed - 1, False), (40 * 16 - 1, False)):
        monkeypatch.setattr(data_module, "MAPPED_COPY_BYTES", bound)
        assert is_packed(mapped) == fits
        assert is_packed(np.asarray(mapped)) == fits
        assert is_packed(x)
    assert not is_packed(x[:, :20])  # as large as packed rows


def test_inputs_too_many_for_packed_rows():
    for D, kind in ((65535, PACKED), (65536, DENSE)):
        x = np.zeros((3, D), np.float32)
        x[:, -1] = 2
        assert staged(x, "float32").record.descriptor.kind == kind
