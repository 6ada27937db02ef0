"""Staged data: what the compiled code is told of a data set, and which of its forms is chosen.

Inputs stay as the user holds them (pixels, floats, CSR), except that the nonzero entries of dense
inputs with many zeros are packed once (packing.py) where that is worth it. Checks are in
``fusedmlp.validation``; nothing is computed with the data here.
"""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

import numpy as np

from fusedmlp.backend import Data
from fusedmlp.validation import HostData, is_sparse
from fusedmlp_numba.compiler.host import IN_PLACE
from fusedmlp_numba.constants import (
    CSR,
    DENSE,
    DTYPE_CODES,
    DTYPE_UINT8,
    HEADER_BYTES,
    MAX_PACKED_INPUTS,
    PACKED,
    packed_bytes,
)
from fusedmlp_numba.layout import address, aligned, record_dtype

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from fusedmlp.types import DenseInputs, Inputs, IntArray

SPARSE_RATE: Final = 0.55
"""Rate of sums over nonzero inputs by that of the dense product, for each unit: the more units, the
nearer is this share of nonzero inputs to the one where both ways take as long."""

SEARCH_COST_TRAINING: Final = 16
SEARCH_COST_FORWARD: Final = 40
"""Units whose sums take as long as finding a nonzero input: once for a product and its gradient,
most often in packed rows; or for a product alone, in rows as they come. How these three numbers
were found is in docs/account.md, under Zeros."""

SAMPLED_ROWS: Final = 1024
"""Rows that the density is measured on, evenly spaced."""

MAPPED_COPY_BYTES: Final = 64 * 2**20
"""Most memory for the nonzero entries of inputs that are mapped from a file; MNIST needs 28 MB."""


class DataDescriptor(NamedTuple):
    """A data set for the compiled code; addresses of what is not there are 0.

    Parameters
    ----------
    kind, element
        How it is stored, and the type of its values: numbers of sizes.py.
    sparse
        Whether the first layer works on nonzero inputs only.
    in_place
        Whether its products can read dense inputs where they lie: they have the engine's type.
    capacity
        Entries that a sparse row may have.
    x
        Address of the dense inputs (N, D), of CSR's values, or of packed rows.
    indptr, indices
        Addresses of where rows start, in entries of CSR or in bytes of packed rows (N + 1,), and of
        CSR's column numbers.
    counts, packed
        While a dense data set is packed: addresses of how many nonzero inputs each row has (N,),
        and of where they go; they are counted while that is 0.
    labels, targets
        Address of (N,) class numbers or of (N, K) values.
    sample_weight
        Address of (N,) weights, where ``weighted``.
    value_bytes
        Bytes of an element of ``x``.
    """

    kind: int
    element: int
    sparse: bool
    in_place: bool
    capacity: int
    x: int
    indptr: int
    indices: int
    counts: int
    packed: int
    labels: int
    targets: int
    sample_weight: int
    weighted: bool
    value_bytes: int


Form: TypeAlias = tuple[int, int, str, str]
"""(inputs, outputs, output, dtype) of an engine."""

DATA_DESCRIPTOR: Final = record_dtype(DataDescriptor)


class DescriptorRecord:
    """The record that tells compiled code of one data set; it may be written anew for another.

    Attributes
    ----------
    source
        What the record says.
    address
        Where it is.
    """

    def __init__(self) -> None:
        self._record = np.zeros(1, DATA_DESCRIPTOR)
        self.address = address(self._record)

    def write(self, source: DataDescriptor) -> None:
        """Say something else."""
        self.source = source
        self._record[0] = source


@dataclass
class NumbaData(Data):
    """A staged data set.

    ``form`` is what an engine must have in common with the one that staged it: compiled code
    checks no bounds. ``arrays`` keeps alive what the description points to.
    """

    description: DescriptorRecord
    arrays: tuple[object, ...]
    rows: int
    labelled: bool
    form: Form


Run: TypeAlias = "Callable[[DataDescriptor, int], None]"
"""Has compiled code count the nonzero inputs of a dense data set of so many rows, or pack them."""


def stage(host: HostData, form: Form, units: int, run: Run) -> NumbaData:
    """Describe checked data for many calls; nonzero entries are packed once, not in every batch."""
    source, arrays = describe_data(
        host, form, sparse=skips_zeros(host.x, units, SEARCH_COST_TRAINING)
    )
    if source.sparse and isinstance(host.x, np.ndarray):
        packed = pack(host.x, source, form, run)
        if packed is not None:
            source, rows = packed
            arrays = (*rows, host.y, host.sample_weight)
    description = DescriptorRecord()
    description.write(source)
    return NumbaData(description, arrays, host.rows, host.y is not None, form)


def describe_data(
    host: HostData, form: Form, *, sparse: bool
) -> tuple[DataDescriptor, tuple[object, ...]]:
    """Return what is told of a data set, and the arrays that this points to."""
    x, y, w = host.x, host.y, host.sample_weight
    n_inputs, _, output, dtype = form
    indptr: npt.NDArray[Any] | None = None
    indices: npt.NDArray[Any] | None = None
    capacity = n_inputs
    if is_sparse(x):
        kind, values = CSR, np.ascontiguousarray(x.data, dtype)
        indptr = np.ascontiguousarray(x.indptr, np.int64)
        indices = np.ascontiguousarray(x.indices, np.int32)
        capacity = max(1, int(np.diff(x.indptr).max(initial=0)))
    else:
        values = x
        kind = DENSE
    source = DataDescriptor(
        kind=kind,
        element=DTYPE_CODES[values.dtype],
        sparse=sparse,
        in_place=IN_PLACE and not sparse and values.dtype == np.dtype(dtype),
        capacity=capacity,
        x=address(values),
        indptr=address(indptr),
        indices=address(indices),
        counts=0,
        packed=0,
        labels=address(y) if output == "softmax" else 0,
        targets=0 if output == "softmax" else address(y),
        sample_weight=address(w),
        weighted=w is not None,
        value_bytes=values.itemsize,
    )
    return source, (values, indptr, indices, y, w)


def pack(
    x: DenseInputs, source: DataDescriptor, form: Form, run: Run
) -> tuple[DataDescriptor, tuple[IntArray, npt.NDArray[np.generic]]] | None:
    """Pack the nonzero entries of x, where that is worth it; return what ``source`` becomes.

    Pixels stay pixels, other values become the engine's type. None where the copy would be larger
    than x, or larger than MAPPED_COPY_BYTES for an x that is mapped from a file, which may not fit
    into memory; or where x is too wide.
    """
    rows, D = x.shape
    dtype = np.dtype(np.uint8 if source.element == DTYPE_UINT8 else form[-1])
    most = min(x.nbytes, MAPPED_COPY_BYTES) if _is_mapped(x) else x.nbytes
    if D > MAX_PACKED_INPUTS or rows * (HEADER_BYTES + 8) > most:
        return None
    counts, starts = np.zeros(rows, np.int64), np.zeros(rows + 1, np.int64)
    source = source._replace(counts=address(counts))
    run(source, rows)
    np.cumsum(packed_bytes(counts, dtype.itemsize), out=starts[1:])
    needed = int(starts[-1])
    if needed + starts.nbytes > most:
        return None
    places = aligned(needed, np.uint8)
    source = source._replace(indptr=address(starts), packed=address(places))
    run(source, rows)
    packed = source._replace(
        kind=PACKED,
        element=DTYPE_CODES[dtype],
        capacity=max(1, int(counts.max())),
        x=address(places),
        counts=0,
        packed=0,
    )
    return packed, (starts, places)


def skips_zeros(x: Inputs, units: int, finding: int) -> bool:
    """Whether the first layer skips zeros: by the share of nonzero inputs in evenly spaced rows.

    ``units`` are those of the layer, with the empty ones that fill its last panel, and ``finding``
    is one of the numbers above. CSR has no zeros to read.
    """
    if is_sparse(x) or x.size == 0:
        return True
    sample = x if len(x) <= SAMPLED_ROWS else x[:: -(-len(x) // SAMPLED_ROWS)]
    share = np.count_nonzero(sample.astype(bool)) / sample.size  # faster than on numbers
    return bool(share * (units + finding) < SPARSE_RATE * units)


def _is_mapped(x: npt.NDArray[np.generic]) -> bool:
    base: object = x
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return isinstance(base, mmap.mmap)
