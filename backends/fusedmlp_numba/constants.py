"""Numbers that Python and compiled code share: tasks, codes, block sizes, sizes of memory.

They are separate from the kernels, so that the engine and its buffers need no compiler where
compiled code is on disk. The network's arithmetic is elsewhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_numba.compiler.host import panel_columns

if TYPE_CHECKING:
    from fusedmlp.network import Network
    from fusedmlp.types import IntArray

TRAIN, GRADIENTS, EVALUATE, FORWARD, PACK = range(5)
"""Tasks of a call: a pass over batches; or, the last, packing the rows of a dense data set."""

RUN_ARGUMENTS: Final = (int, int)
APPLY_ARGUMENTS: Final = (int, float, int)
"""Types of the arguments of the functions of network/entry_points.py."""

ELEMENTWISE: Final = ("exp", "expm1", "log", "log_1p", "tanh", "logistic", "normal_cdf")
"""The functions of fusedmlp.reference.arithmetic that strict mode compiles for arrays."""

STRICT_ARGUMENTS: Final = {
    "product": (int,) * 6,
    "dropout_mask": (int,) * 7,
    **dict.fromkeys(ELEMENTWISE, (int,) * 3),
}
"""Types of the arguments of the functions of strict_kernels.py."""

SUMS: Final = 4
"""Numbers that a batch returns: sums of losses, hits and weights; Σ W², where asked for."""

FORWARD_ROWS: Final = 64
"""Rows that EVALUATE and FORWARD process for each worker at a time: their activations stay in L2.
Losses are summed over as many rows, too, for any number of workers."""

ARRIVED, ROUND, FAILED = 0, 8, 16
"""Positions of the barrier's counters, a cache line apart."""

DENSE, CSR, PACKED = range(3)
"""Storage of a data set: (N, D) elements; CSR of the engine's type with int32 indices; rows in the
format of sparse/packed_rows.py, of uint8 or of the engine's type."""

DTYPE_UINT8, DTYPE_FLOAT32, DTYPE_FLOAT64 = range(3)
"""Codes of the type of a data set's values."""

PIXEL_MAX: Final = 255
"""Divisor of uint8 inputs."""

DTYPE_CODES: Final = {
    np.dtype(np.uint8): DTYPE_UINT8,
    np.dtype(np.float32): DTYPE_FLOAT32,
    np.dtype(np.float64): DTYPE_FLOAT64,
}

IN_PLACE_ROWS: Final = 64
"""Least rows of a batch whose products read the data set in place, if they can. With fewer, each
row has so little work that copying it first is faster."""

SEGMENTS: Final = 4
"""Segments into which a sparse row's inputs are cut: the weights of one stay in the L1 cache."""

SEGMENT_BOUNDS: Final = SEGMENTS + 1
"""Positions at which a row's segments begin and end."""

BITMASK_ROWS: Final = 64
"""Rows whose entries are transposed together: the bits of a word."""

A_BLOCK: Final = 2**16
"""MC·KC, elements of a product's left operand in one block: part of the L2 cache."""

KC: Final = 1024
"""Most terms of a product that are summed in one go: a panel of the right operand then stays in the
L1 or L2 cache. With at most so many inputs, sums over the nonzero ones have the bits of sums over
all."""

NARROW_MAX_UNITS: Final = 8
"""Most units of a layer, and most inputs, for which narrow.py is faster than panels."""

PACKED_INDEX_BYTES: Final = 2
"""Bytes of an input's index in packed rows."""

MAX_PACKED_INPUTS: Final = int(np.iinfo(np.uint16).max)
"""Most inputs, and so entries, whose numbers fit such an index."""

HEADER_BYTES: Final = PACKED_INDEX_BYTES * SEGMENTS
"""Bytes at the start of a packed row."""

PACKED_ALIGNMENT: Final = 8
"""Packed rows begin at multiples of so many bytes."""


def packed_bytes(counts: IntArray, itemsize: int) -> IntArray:
    """Bytes (N,) of packed rows with ``counts`` entries (N,) of ``itemsize`` bytes a value."""
    indices = HEADER_BYTES + PACKED_INDEX_BYTES * counts
    used = _round_up(indices, itemsize) + itemsize * counts
    return _round_up(used, PACKED_ALIGNMENT)


def _round_up(n: IntArray, multiple: int) -> IntArray:
    return -(-n // multiple) * multiple


def scratch_size(K: int, itemsize: int) -> int:
    """Elements of work space that a worker's output kernels need: K + 1 vectors."""
    return (K + 1) * panel_columns(itemsize)


def is_narrow(network: Network) -> bool:
    """Whether narrow.py trains a network, unless its inputs are sparse."""
    return max(network.sizes) <= NARROW_MAX_UNITS and network.dropout == 0.0
