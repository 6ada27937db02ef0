"""Matrix products, sparse sums, layouts: against matmul, and the same bits however cut."""

from __future__ import annotations

import ctypes
import functools
import itertools
import mmap
import multiprocessing
import os

import numpy as np
import pytest
import scipy.sparse
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fusedmlp.tolerance import check_close, kernel_bound
from fusedmlp_numba.compiler.host import IN_PLACE, panel_columns
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
from fusedmlp_numba.gemm import packing, products
from fusedmlp_numba.gemm.microkernel import MR
from fusedmlp_numba.gemm.operands import Block, Operand, Update
from fusedmlp_numba.simd.dtype_dispatch import MASK_LANES
from fusedmlp_numba.sparse import entries as lists
from fusedmlp_numba.sparse import packed_rows
from fusedmlp_numba.sparse import products as sparse
from fusedmlp_numba.sparse.operands import CsrRows, Entries, PackedRows, RowMasks
from kernel_inputs import as_stored, run

DTYPES = ("float32", "float64")
GUARD = 64

sizes = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 8, 11, 16, 17, 31, 33, 37, 64, 67, 130])
heights = st.integers(1, 2 * MR + 1) | st.just(64)
numbered = st.booleans() if IN_PLACE else st.just(False)
updates = st.sampled_from([(1.0, False), (-0.25, False), (1.0, True), (-0.25, True)])
in_order = np.empty(0, np.int64)
few = settings(max_examples=30, deadline=None)
dtypes = pytest.mark.parametrize("dtype", DTYPES)
long_sum = functools.partial(example, M=140, N=9, update=(0.5, True), gap=0, cut=71,
                             numbered=False, seed=0)  # fmt: skip
"""An example of a product over more terms than one chunk, for more rows than one block."""


def columns_of(dtype):
    return panel_columns(np.dtype(dtype).itemsize)


def by_rows(values, row):
    """A row-major operand whose rows are ``row`` elements apart."""
    return Operand(values, 0, row, columns_of(values.dtype))


def by_panels(values, height):
    """An operand in panels of ``height`` rows."""
    columns = columns_of(values.dtype)
    return Operand(values, 0, columns, height * columns)


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
@long_sum(K=KC - 1)
@long_sum(K=KC)
@long_sum(K=KC + 1)
@long_sum(K=2 * KC + 3)
@dtypes
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
            run(products.multiply, by_rows(among.ravel(), K + gap), numbers,
                by_panels(panels.ravel(), K), by_rows(flat, width + gap), K,
                Block(*r, *p), Update(*update))  # fmt: skip
        assert_guards(cells)
        assert (C[:, width:] == 777).all()
        results.append(C[:, :width].copy())
    expected = expected_update(before[:, :N], A[:, :K] @ B, update)
    check_close("product", results[0][:, :N], expected, kernel_bound(dtype, K))
    np.testing.assert_array_equal(results[0], results[1])


@few
@given(M=heights, K=sizes, N=sizes | st.just(300), update=updates, cut=st.integers(0, 130),
       packed=st.booleans(), numbered=st.booleans(), seed=st.integers(0, 99))  # fmt: skip
@example(M=13, K=KC + 70, N=300, update=(1.0, False), cut=7, packed=True, numbered=False, seed=0)
@example(M=13, K=KC + 70, N=5, update=(1.0, True), cut=7, packed=False, numbered=False, seed=0)
@dtypes
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
            run(packing.pack_panels, by_rows(flat, n * columns), K, by_panels(right, K), part)
        assert_guards(cells)
        np.testing.assert_array_equal(right, panels.ravel())
        right = by_panels(right, K)
    else:
        right = by_rows(flat, n * columns)
    before = rng.normal(size=n * M * columns).astype(dtype)
    left_cells, left = guarded(A_BLOCK, dtype)
    among, numbers = scattered(A, numbered, rng)
    chunk, results = run(products.terms_per_chunk, K), []
    for rows, parts in ((cuts(M, 0), cuts(n, 0)), (cuts(M, cut % M), cuts(n, cut % n))):
        cells, C = guarded(n * M * columns, dtype)
        C[:] = before if update[1] else np.nan
        for first, r, p in itertools.product(range(0, K, chunk), rows, parts):
            run(products.multiply_transposed, by_rows(among.ravel(), M), numbers, right,
                by_panels(C, M), (first, min(first + chunk, K)), Block(*r, *p), by_rows(left, 0),
                Update(*update))  # fmt: skip
        assert_guards(cells)
        assert_guards(left_cells)
        results.append(C.copy())
    found, old = (from_panels(x.reshape(n, M, columns), N) for x in (results[0], before))
    check_close("product", found, expected_update(old, A.T @ B, update), kernel_bound(dtype, K))
    np.testing.assert_array_equal(results[0], results[1])


@dtypes
@pytest.mark.parametrize("depth", [1, 64, KC, KC + 1, 3 * KC - 1])
def test_chunks_and_blocks_of_packed_tiles(depth, dtype):
    """Chunks are equal parts; blocks fit their room, and their tiles share no cache sets."""
    itemsize, terms = np.dtype(dtype).itemsize, run(products.terms_per_chunk, depth)
    assert terms <= KC
    assert -(-depth // terms) == -(-depth // KC)
    rows, stride = (
        run(products.rows_per_block, depth, itemsize),
        run(products.tile_stride, MR * terms, itemsize),
    )
    assert rows > 0
    assert rows % MR == 0
    assert MR * terms <= stride
    assert rows // MR * stride <= A_BLOCK
    assert stride * itemsize % 128 == 64  # an odd number of lines


@few
@given(D=sizes, H=sizes, cut=st.integers(0, 130), seed=st.integers(0, 99))
@dtypes
def test_transpose_panels(dtype, D, H, cut, seed):
    W = np.random.default_rng(seed).normal(size=(D, H)).astype(dtype)
    expected = in_panels(W.T, dtype)
    cells, out = guarded(expected.size, dtype)
    out[:] = np.nan  # zeros that fill a panel up are written too
    for part in cuts(len(expected), cut % len(expected)):
        run(packing.transpose_panels, by_panels(in_panels(W, dtype).ravel(), D), D, H,
            by_panels(out, H), part)  # fmt: skip
    assert_guards(cells)
    np.testing.assert_array_equal(out, expected.ravel())


def pack_all(x, dtype):
    """All of x as PackedRows; values are pixels, or of ``dtype``."""
    N, D = x.shape
    count_cells, counts = guarded(N, np.int64)
    for span in cuts(N, N // 3):
        run(packed_rows.count_nonzero, as_stored(x), span, D, counts)
    sizes = packed_bytes(counts, 1 if x.dtype == np.uint8 else np.dtype(dtype).itemsize)
    starts = np.append(0, np.cumsum(sizes))
    packed_cells, memory = guarded(starts[-1] // PACKED_ALIGNMENT, np.int64)
    packed = PackedRows(starts, *(memory.view(kind) for kind in (np.uint16, np.uint8, dtype)))
    for span in cuts(N, N // 2):
        run(packed_rows.pack_rows, as_stored(x), span, D, counts, packed)
    for cells in (count_cells, packed_cells):
        assert_guards(cells)
    return packed


def gathered(x, rows, kind, dtype):
    """A batch's Entries, from storage of a kind."""
    B, D = len(rows), x.shape[1]
    index_cells, index = guarded(B * D, np.uint32)
    value_cells, value = guarded(B * D, dtype)
    bound_cells, bounds = guarded(B * SEGMENT_BOUNDS, np.int64)
    entries = Entries(index, value, bounds, D)
    pixels = x.dtype == np.uint8
    csr = scipy.sparse.csr_array(x.astype(dtype) / np.dtype(dtype).type(255 if pixels else 1))
    csr = CsrRows(csr.indptr.astype(np.int64), csr.indices.astype(np.int32), csr.data)
    packed, code = pack_all(x, dtype), DTYPE_CODES[np.dtype("uint8" if pixels else dtype)]
    for span in cuts(B, B // 2):
        if kind == "dense":
            run(lists.list_dense, as_stored(x), D, rows, span, entries)
        elif kind == "csr":
            run(lists.copy_csr, csr, D, rows, span, entries)
        else:
            run(packed_rows.list_packed, packed, code, rows, span, entries)
    for cells in (index_cells, value_cells, bound_cells):
        assert_guards(cells)
    return entries


def transposed(entries, block, inputs, D):
    """A block of rows by a range of inputs: RowMasks."""
    mask_cells, mask = guarded(D, np.int64)
    place_cells, positions = guarded(2 * BITMASK_ROWS, np.int64)
    mask[:], positions[:] = 0, 0
    mask[slice(*inputs)] = -1
    found = RowMasks(mask, positions)
    run(sparse.build_row_masks, entries, block, inputs, found)
    for cells in (mask_cells, place_cells):
        assert_guards(cells)
    return found


def assert_gathered(entries, exact):
    """Entries by row, and their bounds, are those of the exact rows."""
    index, value, bounds, D = entries
    span = -(-D // SEGMENTS)
    for i, row in enumerate(exact):
        ends = bounds[i * SEGMENT_BOUNDS : (i + 1) * SEGMENT_BOUNDS]
        part = slice(i * D, ends[-1])
        np.testing.assert_array_equal(index[part], np.flatnonzero(row))
        np.testing.assert_array_equal(value[part], row[row != 0])
        counts = [np.count_nonzero(row[: s * span]) for s in range(SEGMENT_BOUNDS)]
        np.testing.assert_array_equal(ends - i * D, counts)


def assert_transposed(by_input, block, inputs, exact):
    """Masks and positions of a block of rows and a range of inputs are those of the exact ones."""
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
@dtypes
def test_sparse_products(dtype, stored, B, D, H, kind, density, cut, seed):
    rng = np.random.default_rng(seed)
    x = sparse_inputs(rng, B + 2, D, density, stored)
    rows = rng.integers(0, B + 2, B)
    exact = x[rows].astype(dtype)
    if stored == "uint8":
        exact /= np.dtype(dtype).type(255)
    entries = gathered(x, rows, kind, dtype)
    assert_gathered(entries, exact)
    W, columns = rng.normal(size=(D, H)).astype(dtype), columns_of(dtype)
    panels = in_panels(W, dtype)
    n, width = len(panels), len(panels) * columns
    results = []
    for row_parts, panel_parts in ((cuts(B, 0), cuts(n, 0)), (cuts(B, cut % B), cuts(n, cut % n))):
        cells, z = guarded(B * width, dtype)
        for r, p in itertools.product(row_parts, panel_parts):
            run(sparse.sparse_product, entries, by_panels(panels.ravel(), D), by_rows(z, width),
                Block(*r, *p))  # fmt: skip
        assert_guards(cells)
        results.append(z)
    np.testing.assert_array_equal(*results)
    # Measured against 1: a batch without nonzero inputs has the product 0.
    bound = kernel_bound(dtype, D)
    product = results[0].reshape(B, -1)[:, :H]
    check_close("product", np.append(product, 1), np.append(exact @ W, 1), bound)

    blocks = [(first, min(first + BITMASK_ROWS, B)) for first in range(0, B, BITMASK_ROWS)]
    for block, inputs in itertools.product(blocks, cuts(D, cut % D)):
        assert_transposed(transposed(entries, block, inputs, D), block, inputs, exact)
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
                    by_input = transposed(entries, block, inputs, D)
                    # The second half goes on from where the first has left the places.
                    middle = inputs[1] if whole else sum(inputs) // 2
                    for r in ((inputs[0], middle), (middle, inputs[1])):
                        run(sparse.sparse_gradient_product, by_input, entries.values,
                            by_rows(delta[block[0]:].ravel(), width), by_panels(C, D),
                            Block(*r, *p), Update(alpha, add))  # fmt: skip
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
    index, value, bounds, _ = gathered(x, np.zeros(1, np.int64), "dense", stored)
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
        weights, out = by_panels(B, K), by_rows(square, n * columns)
        whole = Block(0, M, 0, n)
        for update in (Update(1.0, False), Update(1.0, True)):
            backwards = end(np.arange(M)[::-1].copy())
            for numbers in (in_order, backwards) if IN_PLACE else (in_order,):
                run(products.multiply, by_rows(A, K), numbers, weights, out, K, whole, update)
            stride = run(products.tile_stride, MR * K, A.itemsize)
            start = A_BLOCK - (-(-M // MR) - 1) * stride - MR * K
            for numbers in (in_order, end(np.arange(K)[::-1].copy())):
                run(products.multiply_transposed, by_rows(A, M), numbers, by_rows(B, n * columns),
                    by_panels(square, M), (0, K), whole, Operand(left, start, 0, 0),
                    update)  # fmt: skip
        run(packing.pack_panels, by_rows(B, n * columns), K, by_panels(end(B), K), (0, n))
        turned = end(np.empty(-(-K // columns) * N * columns, dtype))
        run(packing.transpose_panels, weights, K, N, by_panels(turned, N), (0, -(-K // columns)))
        for stored in ("uint8", dtype):
            x, rows = end(np.ones((M, K), stored)), np.arange(M)
            csr = scipy.sparse.csr_array(x)
            index, value = end(np.empty(M * K, np.uint32)), end(np.empty(M * K, dtype))
            entries = Entries(index, value, end(np.empty(M * SEGMENT_BOUNDS, np.int64)), K)
            run(lists.list_dense, as_stored(x), K, rows, (0, M), entries)
            csr = CsrRows(end(csr.indptr.astype(np.int64)), end(csr.indices.astype(np.int32)),
                          end(csr.data.astype(dtype)))  # fmt: skip
            run(lists.copy_csr, csr, K, rows, (0, M), entries)
            counts = end(np.full(M, K))
            run(packed_rows.count_nonzero, as_stored(x), (0, M), K, counts)
            starts = np.append(0, np.cumsum(packed_bytes(counts, x.itemsize)))
            memory = end(np.empty(starts[-1] // PACKED_ALIGNMENT, np.int64))
            packed = PackedRows(starts, *(memory.view(t) for t in (np.uint16, np.uint8, dtype)))
            run(packed_rows.pack_rows, as_stored(x), (0, M), K, counts, packed)
            run(packed_rows.list_packed, packed, DTYPE_CODES[x.dtype], rows, (0, M), entries)
        run(sparse.sparse_product, entries, weights, out, whole)
        row_masks = RowMasks(end(np.empty(K, np.int64)), end(np.zeros(2 * BITMASK_ROWS, np.int64)))
        run(sparse.build_row_masks, entries, (0, M), (0, K), row_masks)
        run(sparse.sparse_gradient_product, row_masks, value, out, weights, Block(0, K, 0, n),
            Update(-1.0, True))  # fmt: skip


@pytest.mark.skipif(not hasattr(os, "fork"), reason="mprotect and fork are POSIX")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_nothing_beyond_the_ends_is_touched():
    """In a process of its own, which has the kernels that the tests above have compiled."""
    process = multiprocessing.get_context("fork").Process(target=touch_the_ends)
    process.start()
    process.join()
    assert process.exitcode == 0
