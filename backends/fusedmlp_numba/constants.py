"""Numbers that Python and compiled code have in common: tasks, kinds, counts, sizes of memory.

The kernels that they belong to import them from here, and so do the engine and its buffers, which
therefore need no compiler where compiled code is found on disk. No arithmetic of the network is
here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp_numba.compiler.host import panel_columns

if TYPE_CHECKING:
    from fusedmlp.network import Network
    from fusedmlp.types import IntArray

TRAIN, GRADIENTS, EVALUATE, FORWARD, PACK = range(5)
"""What a call does: a pass over batches; or, the last, pack a dense data set's rows."""

RUN_ARGUMENTS: Final = (int, int)
APPLY_ARGUMENTS: Final = (int, float, int)
"""Types of the arguments of the functions of steps.py that Python calls."""

FORWARD_ROWS: Final = 64
"""Rows that EVALUATE and FORWARD take for each worker at a time: what is read and written of them
stays in L2. They are summed by so many, too, whatever the number of workers."""

ARRIVED, ROUND, FAILED = 0, 8, 16
"""The barrier's counters in ``sync``, a cache line apart."""

OPTIMIZER_KERNELS: Final = ("sgd", "momentum", "nesterov", "adam")
SGD, MOMENTUM, NESTEROV = range(3)

DENSE, CSR, PACKED = range(3)
"""Kinds of a Source: (N, D) elements; CSR of the engine's type with int32 indices; rows as
packing.py packs them, of pixels or of the engine's type."""

DTYPE_UINT8, DTYPE_FLOAT32, DTYPE_FLOAT64 = range(3)
"""Elements of a Source: uint8, float32 and float64."""

PIXEL_MAX: Final = 255
"""What pixels are divided by."""

DTYPE_CODES: Final = {
    np.dtype(np.uint8): DTYPE_UINT8,
    np.dtype(np.float32): DTYPE_FLOAT32,
    np.dtype(np.float64): DTYPE_FLOAT64,
}

IN_PLACE_ROWS: Final = 64
"""Rows of a batch from which on products read them where they lie, if they can: of fewer, each has
so little work that copying them first is faster."""

SEGMENTS: Final = 4
"""Stretches into which a sparse row's inputs are cut: the weights of one stay in the L1 cache."""

SEGMENT_BOUNDS: Final = SEGMENTS + 1
"""Numbers that say where in its entries a row's stretches begin and end."""

BITMASK_ROWS: Final = 64
"""Rows whose entries are turned round together: the bits of a word."""

A_BLOCK: Final = 2**16
"""Elements of a product's left operand in one block: a share of the L2 cache."""

KC: Final = 1024
"""Most terms of a product summed in one go: a panel of the right operand then stays in the L1 or L2
cache. Up to so many inputs, sums over the nonzero ones have the same bits as sums over all."""

NARROW_MAX_UNITS: Final = 8
"""Units of a layer, and inputs, up to which narrow.py is faster than panels."""

PACKED_INDEX_BYTES: Final = 2
"""Bytes of an input's number in packed rows."""

MAX_PACKED_INPUTS: Final = int(np.iinfo(np.uint16).max)
"""Inputs, and so entries, that have such a number."""

HEADER_BYTES: Final = PACKED_INDEX_BYTES * SEGMENTS
"""Bytes at the start of a packed row."""

PACKED_ALIGNMENT: Final = 8
"""Bytes of which packed rows begin at a multiple."""


def packed_bytes(counts: IntArray, itemsize: int) -> IntArray:
    """Bytes (N,) of packed rows with so many entries each (N,), of ``itemsize`` bytes a value."""
    places = HEADER_BYTES + PACKED_INDEX_BYTES * counts
    used = _up(places, itemsize) + itemsize * counts
    return _up(used, PACKED_ALIGNMENT)


def _up(n: IntArray, multiple: int) -> IntArray:
    return -(-n // multiple) * multiple


def scratch_size(K: int, itemsize: int) -> int:
    """Elements of ``scratch`` that a worker's output kernels need: K vectors, and one."""
    return (K + 1) * panel_columns(itemsize)


def is_narrow(network: Network) -> bool:
    """Whether narrow.py trains a network, where its inputs are not sparse."""
    return max(network.sizes) <= NARROW_MAX_UNITS and network.dropout == 0.0
