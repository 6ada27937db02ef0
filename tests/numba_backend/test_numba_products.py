"""Matrix products, sparse sums, layouts: against matmul, and the same bits however cut."""

from __future__ import annotations

import functools

import numba
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedmlp.network import Network, initialise
from fusedmlp.tolerance import check_close, kernel_bound
from fusedmlp_numba import layout, products
from fusedmlp_numba.caching import OPTIONS
from fusedmlp_numba.intrinsics import TILE_ROWS, panel_columns
from fusedmlp_numba.layout import aligned, nonzero_entries, pack, parameter_count, shape_of, unpack

DTYPES = ("float32", "float64")
GUARD = 64

sizes = st.sampled_from([1, 2, 3, 5, 6, 7, 8, 11, 16, 17, 31, 33, 37, 64, 67, 130])
few = settings(max_examples=30, deadline=None)


@functools.cache
def callable_from_python(kernel):
    return numba.njit(**OPTIONS)(kernel.py_func)


def run(kernel, *arguments):
    return callable_from_python(kernel)(*arguments)


def columns_of(dtype):
    return panel_columns(np.dtype(dtype).itemsize)


def in_panels(B, dtype):
    """(K, N) as panels (panels, K, columns), filled up with zeros."""
    K, N = B.shape
    columns = columns_of(dtype)
    full = np.zeros((K, -(-N // columns) * columns), dtype)
    full[:, :N] = B
    return np.ascontiguousarray(full.reshape(K, -1, columns).transpose(1, 0, 2))


def from_panels(panels, N):
    return panels.transpose(1, 0, 2).reshape(panels.shape[1], -1)[:, :N]


def guarded(n, dtype):
    """n cells between others that nothing may touch."""
    cells = np.full(n + 2 * GUARD, 777, dtype)
    return cells, cells[GUARD : GUARD + n]


def assert_guards(cells):
    assert (cells[:GUARD] == 777).all()
    assert (cells[-GUARD:] == 777).all()


def cuts(n, at):
    return [(0, at), (at, n)] if 0 < at < n else [(0, n)]


@few
@given(M=sizes, K=sizes, N=sizes, cut=st.integers(0, 130), seed=st.integers(0, 99))
@pytest.mark.parametrize("dtype", DTYPES)
def test_multiply(dtype, M, K, N, cut, seed):
    rng = np.random.default_rng(seed)
    A, B = rng.normal(size=(M, K)).astype(dtype), rng.normal(size=(K, N)).astype(dtype)
    columns, panels = columns_of(dtype), in_panels(B, dtype)
    width = len(panels) * columns
    results = []
    for rows, parts in ((cuts(M, 0), cuts(len(panels), 0)),
                        (cuts(M, cut % M), cuts(len(panels), cut % len(panels)))):  # fmt: skip
        cells, C = guarded(M * width, dtype)
        for r in rows:
            for p in parts:
                run(products.multiply, A.ravel(), 0, K, panels.ravel(), 0, K, C, 0, width, r, p,
                    columns)  # fmt: skip
        assert_guards(cells)
        results.append(C.reshape(M, width)[:, :N].copy())
    check_close("product", results[0], A @ B, kernel_bound(dtype, K))
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_longer_than_a_block_and_blocks_of_rows(dtype):
    rng = np.random.default_rng(0)
    M, K, N = 140, 2 * products.DEPTH + 3, 9
    A, B = rng.normal(size=(M, K)).astype(dtype), rng.normal(size=(K, N)).astype(dtype)
    columns, panels = columns_of(dtype), in_panels(B, dtype)
    width = len(panels) * columns
    C = np.empty(M * width, dtype)
    run(products.multiply, A.ravel(), 0, K, panels.ravel(), 0, K, C, 0, width, (0, M),
        (0, len(panels)), columns)  # fmt: skip
    check_close("product", C.reshape(M, -1)[:, :N], A @ B, kernel_bound(dtype, K))


@few
@given(M=sizes, K=sizes, N=sizes, cut=st.integers(0, 130), packed=st.booleans(),
       seed=st.integers(0, 99))  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_multiply_transposed(dtype, M, K, N, cut, packed, seed):
    rng = np.random.default_rng(seed)
    A, B = rng.normal(size=(K, M)).astype(dtype), rng.normal(size=(K, N)).astype(dtype)
    columns = columns_of(dtype)
    panels = in_panels(B, dtype)
    n = len(panels)
    flat = np.ascontiguousarray(panels.transpose(1, 0, 2)).ravel()
    if packed:
        cells, right = guarded(n * K * columns, dtype)
        run(products.pack_panels, flat, 0, n * columns, K, right, (0, n), columns)
        assert_guards(cells)
        np.testing.assert_array_equal(right, panels.ravel())
        steps = columns, K * columns
    else:
        right, steps = flat, (n * columns, columns)
    left = np.empty(products.BLOCK, dtype)
    results = []
    for rows, parts in ((cuts(M, 0), cuts(n, 0)), (cuts(M, cut % M), cuts(n, cut % n))):
        cells, C = guarded(n * M * columns, dtype)
        for r in rows:
            for p in parts:
                run(products.multiply_transposed, A.ravel(), 0, M, right, 0, *steps, K, C, 0, M,
                    r, p, columns, left, 0)  # fmt: skip
        assert_guards(cells)
        results.append(from_panels(C.reshape(n, M, columns), N).copy())
    check_close("product", results[0], A.T @ B, kernel_bound(dtype, K))
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_multiply_transposed_over_a_long_batch(dtype):
    rng = np.random.default_rng(0)
    K, M, N = products.DEPTH + 70, 13, 5
    A, B = rng.normal(size=(K, M)).astype(dtype), rng.normal(size=(K, N)).astype(dtype)
    columns, panels = columns_of(dtype), in_panels(B, dtype)
    C, left = np.empty(M * columns * len(panels), dtype), np.empty(products.BLOCK, dtype)
    assert run(products.block_rows, K) % TILE_ROWS == 0
    assert run(products.block_rows, K) * min(K, products.DEPTH) <= products.BLOCK
    run(products.multiply_transposed, A.ravel(), 0, M, panels.ravel(), 0, columns, K * columns, K,
        C, 0, M, (0, M), (0, len(panels)), columns, left, 0)  # fmt: skip
    check_close("product", from_panels(C.reshape(len(panels), M, columns), N), A.T @ B,
                kernel_bound(dtype, K))  # fmt: skip


@few
@given(D=sizes, H=sizes, seed=st.integers(0, 99))
@pytest.mark.parametrize("dtype", DTYPES)
def test_transpose_panels(dtype, D, H, seed):
    W = np.random.default_rng(seed).normal(size=(D, H)).astype(dtype)
    columns, expected = columns_of(dtype), in_panels(W.T, dtype)
    cells, out = guarded(expected.size, dtype)
    out[:] = 0
    run(products.transpose_panels, in_panels(W, dtype).ravel(), 0, D, H, out, 0,
        (0, len(expected)), columns)  # fmt: skip
    assert_guards(cells)
    np.testing.assert_array_equal(out, expected.ravel())


def gathered(x, rows, kind, dtype):
    """A batch's entries by row, from dense or CSR storage: (index, value, stop, capacity)."""
    B, D = len(rows), x.shape[1]
    index, value = np.zeros(B * D, np.uint32), np.zeros(B * D, dtype)
    stop, pixels = np.zeros(B, np.int64), x.dtype == np.uint8
    for first, last in cuts(B, B // 2):
        if kind == "dense":
            run(products.gather_dense, x, rows, pixels, first, last, D, index, value, stop)
        else:
            csr = scipy.sparse.csr_array(x)
            indices = csr.indices.astype(np.int32 if kind == "csr" else np.uint16)
            run(products.gather_csr, csr.indptr.astype(np.int64), indices, csr.data, rows, pixels,
                first, last, D, index, value, stop)  # fmt: skip
    return index, value, stop, D


@few
@given(B=sizes, D=sizes, H=sizes, kind=st.sampled_from(["dense", "csr", "short"]),
       density=st.sampled_from([0.0, 0.2, 1.0]), cut=st.integers(0, 130),
       seed=st.integers(0, 99))  # fmt: skip
@pytest.mark.parametrize("stored", ["uint8", *DTYPES])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sparse_products(dtype, stored, B, D, H, kind, density, cut, seed):
    rng = np.random.default_rng(seed)
    x = (rng.integers(1, 256, (B + 2, D)) * (rng.random((B + 2, D)) < density)).astype(stored)
    rows = rng.integers(0, B + 2, B)
    exact = x[rows].astype(dtype)
    if stored == "uint8":
        exact /= np.dtype(dtype).type(255)
    index, value, stop, capacity = gathered(x, rows, kind, dtype)
    for i in range(B):
        part = slice(i * capacity, stop[i])
        np.testing.assert_array_equal(index[part], np.flatnonzero(exact[i]))
        np.testing.assert_array_equal(value[part], exact[i][exact[i] != 0])

    W, columns = rng.normal(size=(D, H)).astype(dtype), columns_of(dtype)
    panels = in_panels(W, dtype)
    n, width = len(panels), len(panels) * columns
    cells, z = guarded(B * width, dtype)
    for p in cuts(n, cut % n):
        run(products.gather_product, index, value, stop, capacity, panels.ravel(), 0, D, z, 0,
            width, (0, B), p, columns)  # fmt: skip
    assert_guards(cells)
    # Measured against 1: a batch without nonzero inputs has the product 0.
    bound = kernel_bound(dtype, D)
    check_close("product", np.append(z.reshape(B, -1)[:, :H], 1), np.append(exact @ W, 1), bound)

    list_row, list_value = np.zeros(B * D, np.uint32), np.zeros(B * D, dtype)
    start, end = np.zeros(D, np.int64), np.zeros(D, np.int64)
    for first, last in cuts(D, cut % D):
        run(products.list_columns, index, value, stop, B, capacity, first, last, list_row,
            list_value, start, end)  # fmt: skip
    delta = rng.normal(size=(B, width)).astype(dtype)
    reference = exact.T @ delta[:, :H]
    for descend, scale in ((False, 1.0), (True, -0.5)):
        cells, C = guarded(n * D * columns, dtype)
        C[:] = panels.ravel() if descend else np.nan
        for p in cuts(n, cut % n):
            run(products.gather_gradient, list_row, list_value, start, end, delta.ravel(), 0,
                width, C, 0, D, (0, D), p, columns, scale, descend)  # fmt: skip
        assert_guards(cells)
        expected = W + scale * reference if descend else reference
        found = from_panels(C.reshape(n, D, columns), H)
        bound = kernel_bound(dtype, B)
        check_close("gradient", np.append(found, 1), np.append(expected, 1), bound)


@few
@given(layers=st.lists(sizes, min_size=2, max_size=5), batch=sizes)
@pytest.mark.parametrize("dtype", DTYPES)
def test_layout_there_and_back(dtype, layers, batch):
    network = Network(tuple(layers), output="identity")
    shape = shape_of(network, dtype, batch)
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


@pytest.mark.parametrize("stored", ["uint8", *DTYPES])
def test_nonzero_entries(stored):
    rng = np.random.default_rng(0)
    x = (rng.integers(1, 256, (40, 70)) * (rng.random((40, 70)) < 0.1)).astype(stored)
    expected = scipy.sparse.csr_array(x)
    found = nonzero_entries(x)
    assert found is not None
    for mine, theirs in zip(found, (expected.indptr, expected.indices, expected.data), strict=True):
        np.testing.assert_array_equal(mine, theirs)
    assert nonzero_entries(np.ones((40, 70), stored)) is None  # would grow


def test_entries_of_mapped_inputs_have_a_bound(tmp_path, monkeypatch):
    path, x = tmp_path / "x.npy", np.zeros((40, 70), np.uint8)
    x[:, 5] = 1
    np.save(path, x)
    mapped = np.load(path, mmap_mode="r")
    needed = 41 * 8 + 40 * 3
    for bound, fits in ((needed, True), (needed - 1, False), (8 * 40 - 1, False)):
        monkeypatch.setattr(layout, "MAPPED_COPY_BYTES", bound)
        assert (nonzero_entries(mapped) is not None) == fits
        assert (nonzero_entries(np.asarray(mapped)) is not None) == fits
        assert nonzero_entries(x) is not None
