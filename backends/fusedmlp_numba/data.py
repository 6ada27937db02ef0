"""Staged data: the descriptor that compiled code reads, and the choice of storage.

Inputs stay as the user holds them (pixels, floats, CSR). Dense inputs with many zeros are the
exception: their nonzero entries are packed once (sparse/packed_rows.py) where that is worth it.
Validation is in ``fusedmlp.validation``; nothing is computed with the data here.
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
from fusedmlp_numba.layout import address, aligned
from fusedmlp_numba.records import record_dtype

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    from fusedmlp.types import DenseInputs, Inputs, IntArray

SPARSE_RATE: Final = 0.55
"""Speed of sums over nonzero inputs relative to the dense product, per unit. The more units, the
nearer this is to the share of nonzero inputs at which both take the same time."""

SEARCH_COST_TRAINING: Final = 16
SEARCH_COST_FORWARD: Final = 40
"""Units whose sums take as long as the search for a nonzero input: in training once for a product
and its gradient, mostly in packed rows; in predictions for a product alone, in rows as they come.
benchmarks/README.md says how these three numbers were found."""

SAMPLED_ROWS: Final = 1024
"""Evenly spaced rows that the density is measured on."""

MAPPED_COPY_BYTES: Final = 64 * 2**20
"""Most memory for the packed entries of inputs that are mapped from a file; MNIST needs 28 MB."""


class DataDescriptor(NamedTuple):
    """A data set, for compiled code; unused addresses are 0.

    Parameters
    ----------
    kind, dtype
        Storage, and type of the values: codes of constants.py.
    sparse
        Whether the first layer skips zero inputs.
    in_place
        Whether its products can read dense inputs in place: they have the engine's type.
    capacity
        Most entries of a sparse row.
    x
        Address of the dense inputs (N, D), of CSR's values, or of packed rows.
    indptr, indices
        Addresses of the starts of rows (N + 1,), in entries of CSR or bytes of packed rows, and of
        CSR's column indices.
    counts, packed
        While a dense data set is packed: addresses of each row's number of nonzero inputs (N,),
        and of the packed rows. While ``packed`` is 0, the inputs are counted.
    labels, targets
        Address of (N,) class numbers or of (N, K) values.
    sample_weight
        Address of (N,) weights, where ``weighted``.
    value_bytes
        Bytes of an element of ``x``.
    """

    kind: int
    dtype: int
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


EngineForm: TypeAlias = tuple[int, int, str, str]
"""(inputs, outputs, output, dtype) of an engine."""

DATA_DESCRIPTOR: Final = record_dtype(DataDescriptor)


class DescriptorRecord:
    """A DataDescriptor in memory for compiled code; it may be overwritten.

    Attributes
    ----------
    descriptor
        The record's content.
    address
        The record's address, which never changes.
    """

    def __init__(self) -> None:
        self._record = np.zeros(1, DATA_DESCRIPTOR)
        self.address = address(self._record)

    def write(self, descriptor: DataDescriptor) -> None:
        """Overwrite the record."""
        self.descriptor = descriptor
        self._record[0] = descriptor


@dataclass
class NumbaData(Data):
    """A staged data set.

    An engine may use it if its ``form`` is the same: compiled code checks no bounds. ``arrays``
    keeps alive what the record points to.
    """

    record: DescriptorRecord
    arrays: tuple[object, ...]
    rows: int
    labelled: bool
    form: EngineForm


RunPacking: TypeAlias = "Callable[[DataDescriptor, int], None]"
"""Counts or packs, in compiled code, the nonzero inputs of a dense data set of so many rows."""


def stage(host: HostData, form: EngineForm, units: int, run_packing: RunPacking) -> NumbaData:
    """Describe validated data for many calls; pack nonzero entries once, not in every batch."""
    sparse = skips_zeros(host.x, units, SEARCH_COST_TRAINING)
    descriptor, arrays = describe_data(host, form, sparse=sparse)
    if descriptor.sparse and isinstance(host.x, np.ndarray):
        packed = pack_nonzero(host.x, descriptor, form, run_packing)
        if packed is not None:
            descriptor, rows = packed
            arrays = (*rows, host.y, host.sample_weight)
    record = DescriptorRecord()
    record.write(descriptor)
    return NumbaData(record, arrays, host.rows, host.y is not None, form)


def describe_data(
    host: HostData, form: EngineForm, *, sparse: bool
) -> tuple[DataDescriptor, tuple[object, ...]]:
    """Return the descriptor of a data set, and the arrays that it points to."""
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
    descriptor = DataDescriptor(
        kind=kind,
        dtype=DTYPE_CODES[values.dtype],
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
    return descriptor, (values, indptr, indices, y, w)


def pack_nonzero(
    x: DenseInputs, descriptor: DataDescriptor, form: EngineForm, run_packing: RunPacking
) -> tuple[DataDescriptor, tuple[IntArray, npt.NDArray[np.generic]]] | None:
    """Pack the nonzero entries of x, where that is worth it; return the descriptor of the result.

    Pixels stay pixels, other values take the engine's type. None where the copy would be larger
    than x, or larger than MAPPED_COPY_BYTES for an x that is mapped from a file, which may not fit
    into memory; or where x has too many inputs.
    """
    rows, D = x.shape
    dtype = np.dtype(np.uint8 if descriptor.dtype == DTYPE_UINT8 else form[-1])
    most = min(x.nbytes, MAPPED_COPY_BYTES) if _is_mapped(x) else x.nbytes
    if D > MAX_PACKED_INPUTS or rows * (HEADER_BYTES + 8) > most:
        return None
    counts, starts = np.zeros(rows, np.int64), np.zeros(rows + 1, np.int64)
    descriptor = descriptor._replace(counts=address(counts))
    run_packing(descriptor, rows)
    np.cumsum(packed_bytes(counts, dtype.itemsize), out=starts[1:])
    needed = int(starts[-1])
    if needed + starts.nbytes > most:
        return None
    memory = aligned(needed, np.uint8)
    descriptor = descriptor._replace(indptr=address(starts), packed=address(memory))
    run_packing(descriptor, rows)
    packed = descriptor._replace(
        kind=PACKED,
        dtype=DTYPE_CODES[dtype],
        capacity=max(1, int(counts.max())),
        x=address(memory),
        counts=0,
        packed=0,
    )
    return packed, (starts, memory)


def skips_zeros(x: Inputs, units: int, search_cost: int) -> bool:
    """Whether the first layer skips zeros, by the density of evenly spaced rows.

    ``units`` are those of the layer, padded to whole panels; ``search_cost`` is one of the numbers
    above. CSR has no zeros to read.
    """
    if is_sparse(x) or x.size == 0:
        return True
    sample = x if len(x) <= SAMPLED_ROWS else x[:: -(-len(x) // SAMPLED_ROWS)]
    density = np.count_nonzero(sample.astype(bool)) / sample.size  # faster than on numbers
    return bool(density * (units + search_cost) < SPARSE_RATE * units)


def _is_mapped(x: npt.NDArray[np.generic]) -> bool:
    base: object = x
    while isinstance(base, np.ndarray):
        if isinstance(base, np.memmap):
            return True
        base = base.base
    return isinstance(base, mmap.mmap)
