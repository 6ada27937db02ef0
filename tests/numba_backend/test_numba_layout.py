"""Where the Numba engine's memory lies, and what it keeps of the data that is staged."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedmlp.network import Network, initialise
from fusedmlp_numba import NumbaBackend
from fusedmlp_numba.constants import DENSE, PACKED
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
from problems import Problem, engine, flat

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


def staged(x, dtype="float32"):
    """An engine of three threads for these inputs, and the data."""
    network = Network((x.shape[1], 40, 3), output="identity")
    task = Problem(network, x, np.zeros((len(x), 3)))
    return engine(NumbaBackend(threads=3), task, dtype=dtype)


def kind_of(data):
    return data.record.descriptor.kind


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stored", ["uint8", *DTYPES])
def test_packed_rows_have_the_results_of_csr(stored, dtype):
    """So many that several threads pack them, with empty and full rows among them."""
    rng, x = np.random.default_rng(0), np.zeros((4200, 2000), stored)
    x.ravel()[rng.integers(0, x.size, x.size // 20)] = rng.integers(1, 256, x.size // 20)
    x[7], x[8] = 0, 200
    built, data = staged(x, dtype)
    assert kind_of(data) == PACKED
    values = x.astype(dtype) / np.dtype(dtype).type(255) if stored == "uint8" else x.astype(dtype)
    same = built.stage(scipy.sparse.csr_array(values), np.zeros((len(x), 3)))
    found = [built.evaluate(each).losses.tobytes() for each in (data, same)]
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("shape", "nonzero", "stored", "kind"),
    [
        ((40, 70), 16, "uint8", PACKED),  # 3 bytes for each, 8 for a row and 8 for its place
        ((40, 70), 17, "uint8", DENSE),
        ((40, 70), 17, "float32", PACKED),
        ((40, 16), 0, "uint8", DENSE),
        ((3, 65535), 1, "float32", PACKED),
        ((3, 65536), 1, "float32", DENSE),  # more than a 2-byte index can count
    ],
)
def test_rows_are_packed_where_that_takes_less_memory(shape, nonzero, stored, kind):
    x = np.zeros(shape, stored)
    x[:, shape[1] - nonzero :] = 1
    _, data = staged(x)
    assert data.record.descriptor.sparse
    assert kind_of(data) == kind


@pytest.mark.usefixtures("eager")
def test_data_is_staged_while_another_thread_trains():
    x = np.zeros((12_000, 700), np.uint8)  # two threads pack it
    x[:, ::50] = np.arange(14)
    results = []
    for staging in (False, True):
        built, data = staged(x[:200])
        steps = threading.Thread(
            target=built.train_epoch,
            args=(data, np.arange(200).repeat(40), np.full(1000, 0.01)),
            daemon=True,  # and so its workers: waiting for each other for ever, they would not end
        )
        steps.start()
        while staging and steps.is_alive():
            built.stage(x)
        steps.join()
        results.append(flat(built.parameters()).tobytes())
    assert results[0] == results[1]
