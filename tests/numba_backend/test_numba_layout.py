"""Where the Numba engine's memory lies, and what it keeps of the data that is staged."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedmlp.network import Network, initialise
from fusedmlp_numba import sources
from fusedmlp_numba.layout import (
    ALIGNMENT,
    PLANS,
    Plan,
    aligned,
    as_record,
    pack,
    parameter_count,
    row_stride,
    shape_of,
    unpack,
)
from fusedmlp_numba.sources import nonzero_entries

DTYPES = ("float32", "float64")

sizes = st.sampled_from([1, 2, 3, 5, 8, 16, 17, 33, 64, 130])
few = settings(max_examples=30, deadline=None)


def test_records_have_the_fields_of_their_tuples():
    plan = Plan(*(1.0 if kind is float else 1 for kind in Plan.__annotations__.values()))
    for dtype, record in PLANS.items():
        assert record.names == Plan._fields
        assert record["unit"] == dtype
        assert tuple(as_record(plan, record)[0]) == plan


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
    shape = shape_of(network, dtype)
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


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stored", ["uint8", *DTYPES])
def test_nonzero_entries(stored, dtype):
    rng = np.random.default_rng(0)
    x = (rng.integers(1, 256, (40, 70)) * (rng.random((40, 70)) < 0.1)).astype(stored)
    expected = scipy.sparse.csr_array(x)
    found = nonzero_entries(x, dtype)
    assert found is not None
    for mine, theirs in zip(found, (expected.indptr, expected.indices, expected.data), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert found[2].dtype == (np.uint8 if stored == "uint8" else dtype)
    assert nonzero_entries(np.ones((40, 70), stored), stored) is None  # would grow


def test_entries_of_mapped_inputs_have_a_bound(tmp_path, monkeypatch):
    path, x = tmp_path / "x.npy", np.zeros((40, 70), np.uint8)
    x[:, 5] = 1
    np.save(path, x)
    mapped = np.load(path, mmap_mode="r")
    needed = 41 * 8 + 40 * 3
    for bound, fits in ((needed, True), (needed - 1, False), (8 * 40 - 1, False)):
        monkeypatch.setattr(sources, "MAPPED_COPY_BYTES", bound)
        assert (nonzero_entries(mapped, "float32") is not None) == fits
        assert (nonzero_entries(np.asarray(mapped), "float32") is not None) == fits
        assert nonzero_entries(x, "float32") is not None
