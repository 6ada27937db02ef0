"""Matrix products, sparse sums, layouts: against matmul, and the same bits however cut."""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st

from fusedmlp.tolerance import check_close, kernel_bound
from fusedmlp_numba.compiler.host import IN_PLACE, panel_columns
from fusedmlp_numba.compiler.jit import OPTIONS
from fusedmlp_numba.constants import (
    A_BLOCK,
    BITMASK_ROWS,
    DTYPE_CODES,
    KC,
    PACKED_ALIGNMENT,
    SEGMENT_BOUNDS,
    SEGMENTS,
    packed_bytes,
)
from fusedmlp_numba.gemm import products
from fusedmlp_numba.gemm.microkernel import MR
from fusedmlp_numba.simd.dtype_dispatch import MASK_LANES
from fusedmlp_numba.sparse import entries as sparse
from fusedmlp_numba.sparse import gradient as masks
from fusedmlp_numba.sparse import packed_rows as packing
from kernel_inputs import as_stored

DTYPES = ("float32", "float64")
GUARD = 64

sizes = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 17, 31, 33, 37, 64, 67, 130])
heights = st.integers(1, 2 * MR + 1) | st.just(64)
numbered = st.booleans() if IN_PLACE else st.just(False)
updates = st.sampled_from([(1.0, False), (-0.25, False), (1.0, True), (-0.25, True)])
in_order = np.empty(0, np.int64)
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


def scattered(A, numbered, rng):
    """A's rows among others, and where they are: in order and alone, or not ``numbered``."""
    if not numbered:
        return A, in_order
    numbers = rng.permutation(2 * len(A))[: len(A)]
    among = np.full((2 * len(A), A.shape[1]), np.nan, A.dtype)
    among[numbers] = A
    return among, numbers


def expected_update(before, product, update):
    alpha, accumulate = update
    return before + alpha * product if accumulate else alpha * product


@few
@given(M=heights, K=sizes, N=sizes, update=updates, gap=st.sampled_from([0, 3]),
       cut=st.integers(0, 130), numbered=numbered, seed=st.integers(0, 99))  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_multiply(dtype, M, K, N, update, gap, cut, numbered, seed):
    rng = np.random.default_rng(seed)
    A, B = rng.normal(size=(M, K + gap)).astype(dtype), rng.normal(size=(K, N)).astype(dtype)
    columns, panels = columns_of(dtype), in_panels(B, dtype)
    width = len(panels) * columns
    # What lies between rows is neither read nor written; nor is C, where it is replaced, read.
    A[:, K:] = np.nan
    before = rng.normal(size=(M, width)).astype(dtype)
    among, numbers = scattered(A, numbered, rng)
    results = []
    for rows, parts in ((cuts(M, 0), cuts(len(panels), 0)),
                        (cuts(M, cut % M), cuts(len(panels), cut % len(panels)))):  # fmt: skip
        cells, flat = guarded(M * (width + gap), dtype)
        C = flat.reshape(M, width + gap)
        C[:, :width] = before if update[1] else np.nan
        for r, p in itertools.product(rows, parts):
            run(products.multiply, among.ravel(), 0, K + gap, numbers, panels.ravel(), 0, K, flat,
                0, width + gap, r, p, columns, *update)  # fmt: skip
        assert_guards(cells)
        assert (C[:, width:] == 777).all()
        results.append(C[:, :width].copy())
    expected = expected_update(before[:, :N], A[:, :K] @ B, update)
    check_close("product", results[0][:, :N], expected, kernel_bound(dtype, K))
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("K", [KC - 1, KC, KC + 1,
                               2 * KC + 3])  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_sums_longer_than_a_block_and_blocks_of_rows(dtype, K):
    rng = np.random.default_rng(0)
    M, N = 140, 9
    A, B = rng.normal(size=(M, K)).astype(dtype), rng.normal(size=(K, N)).astype(dtype)
    columns, panels = columns_of(dtype), in_panels(B, dtype)
    width = len(panels) * columns
    C, parts = np.zeros((2, M * width), dtype)
    arguments = A.ravel(), 0, K, in_order, panels.ravel(), 0, K
    for update in ((0.5, False), (0.5, True)):
        run(products.multiply, *arguments, C, 0, width, (0, M), (0, len(panels)), columns, *update)
        for rows in ((0, 1), (1, 3), (3, 71), (71, M)):
            run(products.multiply, *arguments, parts, 0, width, rows, (0, len(panels)), columns,
                *update)  # fmt: skip
    check_close("product", C.reshape(M, -1)[:, :N], A @ B, kernel_bound(dtype, K))
    np.testing.assert_array_equal(C, parts)


@few
@given(M=heights, K=sizes, N=sizes | st.just(300), update=updates, cut=st.integers(0, 130),
       packed=st.booleans(), numbered=st.booleans(), seed=st.integers(0, 99))  # fmt: skip
@pytest.mark.parametrize("dtype", DTYPES)
def test_multiply_transposed(dtype, M, K, N, update, cut, packed, numbered, seed):
    rng = np.random.default_rng(seed)
    A, B = rng.normal(size=(K, M)).astype(dtype), rng.normal(size=(K, N)).astype(dtype)
    columns = columns_of(dtype)
    panels = in_panels(B, dtype)
    n = len(panels)
    flat = np.ascontiguousarray(panels.transpose(1, 0, 2)).ravel()
    if packed:
        cells, right = guarded(n * K * columns, dtype)
        for part in cuts(n, cut % n):
            run(products.pack_panels, flat, 0, n * columns, K, right, part, columns)
        assert_guards(cells)
        np.testing.assert_array_equal(right, panels.ravel())
        steps = columns, K * columns
    else:
        right, steps = flat, (n * columns, columns)
    before = rng.normal(size=n * M * columns).astype(dtype)
    left_cells, left = guarded(A_BLOCK, dtype)
    among, numbers = scattered(A, numbered, rng)
    results = []
    for rows, parts in ((cuts(M, 0), cuts(n, 0)), (cuts(M, cut % M), cuts(n, cut % n))):
        cells, C = guarded(n * M * columns, dtype)
        C[:] = before if update[1] else np.nan
        for r, p in itertools.product(rows, parts):
            run(products.multiply_transposed, among.ravel(), 0, M, numbers, right, 0, *steps, C, 0,
                M, (0, K), r, p, columns, left, 0, *update)  # fmt: skip
        assert_guards(cells)
        assert_guards(left_cells)
        results.append(C.copy())
    found, old = (from_panels(x.reshape(n, M, columns), N) for x in (results[0], before))
    check_close("product", found, expected_update(old, A.T @ B, update), kernel_bound(dtype, K))
    np.testing.assert_array_equal(results[0], results[1])


@pytest.mark.parametrize("N", [5, 300])
@pytest.mark.parametrize("dtype", DTYPES)
def test_multiply_transposed_over_a_long_batch(dtype, N):
    rng = np.random.default_rng(0)
    K, M = KC + 70, 13
    A, B = rng.normal(size=(K, M)).astype(dtype), rng.normal(size=(K, N)).astype(dtype)
    columns, panels = columns_of(dtype), in_panels(B, dtype)
    n, most = len(panels), run(products.terms_per_chunk, K)
    left, results = np.empty(A_BLOCK, dtype), []
    for parts in ([(0, n)], [(p, p + 1) for p in range(n)]):
        C = np.zeros(M * columns * n, dtype)
        for first, p in itertools.product(range(0, K, most), parts):
            run(products.multiply_transposed, A.ravel(), 0, M, in_order, panels.ravel(), 0, columns,
                K * columns, C, 0, M, (first, min(first + most, K)), (0, M), p, columns, left, 0,
                1.0, True)  # fmt: skip
        results.append(C)
    check_close("product", from_panels(results[0].reshape(n, M, columns), N), A.T @ B,
                kernel_bound(dtype, K))  # fmt: skip
    np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("dtype", DTYPES)
def test_blocks_of_packed_tiles_fit_their_room_and_share_no_cache_sets(dtype):
    itemsize = np.dtype(dtype).itemsize
    for depth in (1, 64, KC, KC + 1, 3 * KC - 1):
        rows, terms = (
            run(products.rows_per_block, depth, itemsize),
            run(products.terms_per_chunk, depth),
        )
        stride = run(products.tile_stride, MR * terms, itemsize)
        assert rows % MR == 0
        assert rows > 0
        assert MR * terms <= stride
        assert rows // MR * stride <= A_BLOCK
        assert stride * itemsize % 128 == 64  # an odd number of lines


@pytest.mark.parametrize("dtype", DTYPES)
def test_chunks_cover_the_depth_in_equal_parts(dtype):
    for depth in (1, KC, KC + 1, 3 * KC - 1):
        most = run(products.terms_per_chunk, depth)
        parts = -(-depth // most)
        assert most <= KC
        assert parts == -(-depth // KC)
        assert depth > (parts - 1) * most


@few
@given(D=sizes, H=sizes, cut=st.integers(0, 130), seed=st.integers(0, 99))
@pytest.mark.parametrize("dtype", DTYPES)
def test_transpose_panels(dtype, D, H, cut, seed):
    W = np.random.default_rng(seed).normal(size=(D, H)).astype(dtype)
    columns, expected = columns_of(dtype), in_panels(W.T, dtype)
    cells, out = guarded(expected.size, dtype)
    out[:] = np.nan  # zeros that fill a panel up are written too
    for part in cuts(len(expected), cut % len(expected)):
        run(products.transpose_panels, in_panels(W, dtype).ravel(), 0, D, H, out, 0, part,
            columns)  # fmt: skip
    assert_guards(cells)
    np.testing.assert_array_equal(out, expected.ravel())


def packed_rows(x, dtype):
    """All of x, packed: (starts, places, memory); values are pixels, or of ``dtype``."""
    N, D = x.shape
    count_cells, counts = guarded(N, np.int64)
    for first, last in cuts(N, N // 3):
        run(packing.count_nonzero, *as_stored(x), first, last, D, counts)
    sizes = packed_bytes(counts, 1 if x.dtype == np.uint8 else np.dtype(dtype).itemsize)
    starts = np.append(0, np.cumsum(sizes))
    packed_cells, memory = guarded(starts[-1] // PACKED_ALIGNMENT, np.int64)
    places, pixels, values = (memory.view(kind) for kind in (np.uint16, np.uint8, dtype))
    for first, last in cuts(N, N // 2):
        run(packing.pack_rows, *as_stored(x), first, last, D, counts, starts, places, pixels,
            values)  # fmt: skip
    for cells in (count_cells, packed_cells):
        assert_guards(cells)
    return starts, places, pixels


def gathered(x, rows, kind, dtype):
    """A batch's entries by row, from storage of a kind: (index, value, bounds)."""
    B, D = len(rows), x.shape[1]
    index_cells, index = guarded(B * D, np.uint32)
    value_cells, value = guarded(B * D, dtype)
    bound_cells, bounds = guarded(B * SEGMENT_BOUNDS, np.int64)
    pixels = x.dtype == np.uint8
    csr = scipy.sparse.csr_array(x.astype(dtype) / np.dtype(dtype).type(255 if pixels else 1))
    indptr, indices = csr.indptr.astype(np.int64), csr.indices.astype(np.int32)
    packed = packed_rows(x, dtype)
    element = DTYPE_CODES[np.dtype("uint8" if pixels else dtype)]
    for first, last in cuts(B, B // 2):
        if kind == "dense":
            run(sparse.gather_dense, *as_stored(x), D, rows, first, last, D, index, value, bounds)
        elif kind == "csr":
            run(sparse.gather_csr, indptr, indices, csr.data, rows, first, last, D, D, index,
                value, bounds)  # fmt: skip
        else:
            run(packing.gather_packed, *packed, element, rows, first, last, D, index, value,
                bounds)  # fmt: skip
    for cells in (index_cells, value_cells, bound_cells):
        assert_guards(cells)
    return index, value, bounds


def turned(entries, block, inputs, D):
    """A block of rows by a range of inputs: (masks, places)."""
    index, _, bounds = entries
    mask_cells, mask = guarded(D, np.int64)
    place_cells, places = guarded(2 * BITMASK_ROWS, np.int64)
    mask[:], places[:] = 0, 0
    mask[slice(*inputs)] = -1
    run(masks.build_row_masks, index, bounds, *block, inputs, mask, places)
    for cells in (mask_cells, place_cells):
        assert_guards(cells)
    return mask, places


def assert_gathered(entries, exact):
    """Entries by row, and their bounds, are those of the exact rows."""
    (index, value, bounds), D = entries, exact.shape[1]
    span = -(-D // SEGMENTS)
    for i, row in enumerate(exact):
        ends = bounds[i * SEGMENT_BOUNDS : (i + 1) * SEGMENT_BOUNDS]
        part = slice(i * D, ends[-1])
        np.testing.assert_array_equal(index[part], np.flatnonzero(row))
        np.testing.assert_array_equal(value[part], row[row != 0])
        counts = [np.count_nonzero(row[: s * span]) for s in range(SEGMENT_BOUNDS)]
        np.testing.assert_array_equal(ends - i * D, counts)


def assert_turned(by_input, block, inputs, exact):
    """Masks and places of a block of rows and a range of inputs are those of the exact ones."""
    (mask, places), (first, last), (low, high) = by_input, block, inputs
    numbers = np.arange(last - first, dtype=np.uint64)
    bits = (mask[low:high].view(np.uint64)[:, None] >> numbers) & 1 == 1
    np.testing.assert_array_equal(bits, exact[first:last, low:high].T != 0)
    assert not mask[:low].any()
    assert not mask[high:].any()
    before = np.arange(first, last) * exact.shape[1]
    before += np.count_nonzero(exact[first:last, :low], axis=1)
    np.testing.assert_array_equal(places[: last - first], before)


def sparse_inputs(rng, N, D, density, stored):
    """Values with empty rows, empty columns and full rows among them; 0 or 1 as ``density``."""
    x = (rng.integers(1, 256, (N, D)) * (rng.random((N, D)) < density)).astype(stored)
    x[0] = 0
    x[:, D // 2] = 0
    x[-1] = rng.integers(1, 256, D)
    return x


@few
@given(B=sizes, D=sizes | st.just(257), H=sizes, kind=st.sampled_from(["dense", "csr", "packed"]),
       density=st.sampled_from([0.0, 0.2, 1.0]), cut=st.integers(0, 130),
       seed=st.integers(0, 99))  # fmt: skip
@pytest.mark.parametrize("stored", ["uint8", *DTYPES])
@pytest.mark.parametrize("dtype", DTYPES)
def test_sparse_products(dtype, stored, B, D, H, kind, density, cut, seed):
    rng = np.random.default_rng(seed)
    x = sparse_inputs(rng, B + 2, D, density, stored)
    rows = rng.integers(0, B + 2, B)
    exact = x[rows].astype(dtype)
    if stored == "uint8":
        exact /= np.dtype(dtype).type(255)
    entries = _, value, _ = gathered(x, rows, kind, dtype)
    assert_gathered(entries, exact)
    W, columns = rng.normal(size=(D, H)).astype(dtype), columns_of(dtype)
    panels = in_panels(W, dtype)
    n, width = len(panels), len(panels) * columns
    results = []
    for row_parts, panel_parts in ((cuts(B, 0), cuts(n, 0)), (cuts(B, cut % B), cuts(n, cut % n))):
        cells, z = guarded(B * width, dtype)
        for r, p in itertools.product(row_parts, panel_parts):
            run(sparse.sparse_product, *entries, panels.ravel(), 0, D, z, 0, width, r, p,
                columns)  # fmt: skip
        assert_guards(cells)
        results.append(z)
    np.testing.assert_array_equal(*results)
    # Measured against 1: a batch without nonzero inputs has the product 0.
    bound = kernel_bound(dtype, D)
    product = results[0].reshape(B, -1)[:, :H]
    check_close("product", np.append(product, 1), np.append(exact @ W, 1), bound)

    blocks = [(first, min(first + BITMASK_ROWS, B)) for first in range(0, B, BITMASK_ROWS)]
    for block, inputs in itertools.product(blocks, cuts(D, cut % D)):
        assert_turned(turned(entries, block, inputs, D), block, inputs, exact)
    delta = rng.normal(size=(B, width)).astype(dtype)
    reference = exact.T @ delta[:, :H]
    for alpha, accumulate in ((1.0, False), (-0.5, True)):
        results = []
        for parts in (cuts(n, 0), cuts(n, cut % n)):
            cells, C = guarded(n * D * columns, dtype)
            C[:] = panels.ravel() if accumulate else np.nan
            whole = len(parts) == 1
            for p, block in itertools.product(parts, blocks):
                add = accumulate or block[0] > 0
                for inputs in cuts(D, 0 if whole else cut % D):
                    by_input = turned(entries, block, inputs, D)
                    # The second half goes on from where the first has left the places.
                    middle = inputs[1] if whole else sum(inputs) // 2
                    for r in ((inputs[0], middle), (middle, inputs[1])):
                        run(masks.sparse_gradient_product, *by_input, value, delta.ravel(),
                            block[0] * width, width, C, 0, D, r, p, columns, alpha,
                            add)  # fmt: skip
            assert_guards(cells)
            results.append(C)
        np.testing.assert_array_equal(*results)
        found = from_panels(results[0].reshape(n, D, columns), H)
        expected = expected_update(W, reference, (alpha, accumulate))
        bound = kernel_bound(dtype, B)
        check_close("gradient", np.append(found, 1), np.append(expected, 1), bound)


@pytest.mark.parametrize("stored", DTYPES)
def test_dense_rows_keep_every_nonzero_value(stored):
    strange = [np.nan, np.inf, -np.inf, np.finfo(stored).smallest_subnormal, -1.0, -0.0]
    x = np.zeros((1, 2 * MASK_LANES + 5), stored)
    x[0, :: MASK_LANES // 3][: len(strange)] = strange
    index, value, bounds = gathered(x, np.zeros(1, np.int64), "dense", stored)
    np.testing.assert_array_equal(index[: bounds[-1]], np.flatnonzero(x[0] != 0))
    np.testing.assert_array_equal(value[: bounds[-1]], x[0][x[0] != 0])


def before_a_forbidden_page(x):
    """Copy x to the end of a page that a page follows which stops the process when touched."""
    page = mmap.PAGESIZE
    size = -(-x.nbytes // page) * page
    memory = mmap.mmap(-1, size + page)
    whole = np.frombuffer(memory, np.uint8)
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    if protect(whole.ctypes.data + size, page, 0) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")
    copy = whole[size - x.nbytes : size].view(x.dtype).reshape(x.shape)
    copy[...] = x
    return copy


def touch_the_ends():
    """Call every kernel with all of its arrays at the end of what may be touched."""
    end, rng = before_a_forbidden_page, np.random.default_rng(0)
    for dtype, M, K, N in itertools.product(DTYPES, (1, 2, MR - 1, MR + 1), (1, 2, 33), (1, 67)):
        columns = columns_of(dtype)
        n = -(-N // columns)
        A, B = end(rng.normal(size=M * K).astype(dtype)), end(np.ones(n * K * columns, dtype))
        left, square = end(np.empty(A_BLOCK, dtype)), end(np.ones(n * M * columns, dtype))
        for update in ((1.0, False), (1.0, True)):
            backwards = end(np.arange(M)[::-1].copy())
            for numbers in (in_order, backwards) if IN_PLACE else (in_order,):
                run(products.multiply, A, 0, K, numbers, B, 0, K, square, 0, n * columns, (0, M),
                    (0, n), columns, *update)  # fmt: skip
            stride = run(products.tile_stride, MR * K, A.itemsize)
            scratch = A_BLOCK - (-(-M // MR) - 1) * stride - MR * K
            for numbers in (in_order, end(np.arange(K)[::-1].copy())):
                run(products.multiply_transposed, A, 0, M, numbers, B, 0, n * columns, columns,
                    square, 0, M, (0, K), (0, M), (0, n), columns, left, scratch,
                    *update)  # fmt: skip
        run(products.pack_panels, B, 0, n * columns, K, end(B), (0, n), columns)
        turned = end(np.empty(-(-K // columns) * N * columns, dtype))
        run(products.transpose_panels, B, 0, K, N, turned, 0, (0, -(-K // columns)), columns)
        for stored in ("uint8", dtype):
            x, rows = end(np.ones((M, K), stored)), np.arange(M)
            csr = scipy.sparse.csr_array(x)
            index, value = end(np.empty(M * K, np.uint32)), end(np.empty(M * K, dtype))
            bounds = end(np.empty(M * SEGMENT_BOUNDS, np.int64))
            run(sparse.gather_dense, *as_stored(x), K, rows, 0, M, K, index, value, bounds)
            run(sparse.gather_csr, end(csr.indptr.astype(np.int64)),
                end(csr.indices.astype(np.int32)), end(csr.data.astype(dtype)), rows, 0, M, K, K,
                index, value, bounds)  # fmt: skip
            counts = end(np.full(M, K))
            run(packing.count_nonzero, *as_stored(x), 0, M, K, counts)
            starts = np.append(0, np.cumsum(packed_bytes(counts, x.itemsize)))
            memory = end(np.empty(starts[-1] // PACKED_ALIGNMENT, np.int64))
            packed = starts, memory.view(np.uint16), memory.view(np.uint8)
            run(packing.pack_rows, *as_stored(x), 0, M, K, counts, *packed, memory.view(dtype))
            run(packing.gather_packed, *packed, DTYPE_CODES[x.dtype], rows, 0, M, K, index, value,
                bounds)  # fmt: skip
        run(sparse.sparse_product, index, value, bounds, B, 0, K, square, 0, n * columns,
            (0, M), (0, n), columns)  # fmt: skip
        mask, places = end(np.empty(K, np.int64)), end(np.zeros(2 * BITMASK_ROWS, np.int64))
        run(masks.build_row_masks, index, bounds, 0, M, (0, K), mask, places)
        run(masks.sparse_gradient_product, mask, places, value, square, 0, n * columns, B, 0, K,
            (0, K), (0, n), columns, -1.0, True)  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="mprotect is POSIX")
def test_nothing_beyond_the_ends_is_touched():
    code = "import test_numba_products; test_numba_products.touch_the_ends(); print('alive')"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True,
        timeout=250, check=False, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )  # fmt: skip
    assert (result.returncode, result.stdout) == (0, "alive\n"), result.stderr
