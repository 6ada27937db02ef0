"""The memory of one engine: allocated once, described to compiled code by an EngineContext.

Layouts are in layout.py, the records in records.py. Only the room for inputs grows, with the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import numpy as np

from fusedmlp_numba.constants import (
    A_BLOCK,
    BITMASK_ROWS,
    IN_PLACE_ROWS,
    SEGMENT_BOUNDS,
    is_narrow,
    scratch_size,
)
from fusedmlp_numba.layout import (
    ALIGNMENT,
    address,
    aligned,
    layout_of,
    parameter_count,
    row_stride,
)
from fusedmlp_numba.records import (
    ENGINE_CONTEXTS,
    LAYER_DESCRIPTOR,
    EngineContext,
    EntryBuffers,
    LayerDescriptor,
    ParameterBuffers,
    Workspace,
)

if TYPE_CHECKING:
    from fusedmlp.network import Network
    from fusedmlp.types import FloatArray, FloatDtype, IntArray
    from fusedmlp_numba.data import DataDescriptor
    from fusedmlp_numba.records import Settings


PRIVATE_ENTRY_THREADS: Final = 4
"""Up to this many workers, each one lists all entries of a batch for itself: that takes as long for
any number of workers, and shortens the rest of a step."""

MAX_PRIVATE_ENTRIES: Final = 2**23
"""Most entries in all private lists together: 64 MiB in float32."""


class Buffers:
    """Flat arrays for everything that a step writes, and the EngineContext that points to them.

    Parameters
    ----------
    rows
        B, the most rows of a batch.
    slots
        Number of arrays of the parameters' layout that the optimizer needs.
    settings
        What the context says beside the memory.

    Attributes
    ----------
    theta, gradient, slots
        Parameters, their gradients, and the optimizer's slots.
    barrier
        The barrier's three counters, a cache line apart.
    context_address
        Address of the EngineContext, which never changes.
    """

    def __init__(
        self,
        network: Network,
        dtype: FloatDtype,
        rows: int,
        slots: int,
        threads: int,
        settings: Settings,
    ) -> None:
        self._dtype = dtype
        self._rows = rows
        self._settings = settings
        self.layout = layout_of(network, dtype)
        sizes, widths = self.layout.sizes, self.layout.widths
        itemsize = np.dtype(dtype).itemsize
        self._strides = [row_stride(int(width), itemsize) for width in (sizes[0], *widths[1:])]

        n = parameter_count(self.layout)
        self.theta, self.gradient = self._floats(n), self._floats(n)
        self.slots = tuple(self._floats(n) for _ in range(slots))
        self.barrier: IntArray = np.zeros(3 * 8, np.int64)
        above = self._strides[1:]
        self._a = [self._floats(rows * stride) for stride in above[:-1]]
        self._delta = [self._floats(rows * stride) for stride in above]
        # The first layer's may be cut into padded pieces, one for each worker (delta_operand).
        whole = int(widths[1]) + threads * self.layout.columns
        self._delta[0] = self._floats(rows * (whole + threads * row_stride(1, itemsize) * 2))
        self._kept = [
            np.zeros(rows * stride if network.dropout else 0, np.uint8) for stride in above
        ]
        self._slope = [self._floats(rows * stride if network.keeps_z else 0) for stride in above]
        # One for all layers: when it is needed again, it is still in a cache.
        self._transposed = self._floats(int(max(sizes[2:] * widths[1:-1], default=0)))
        self._left = self._floats(A_BLOCK * threads + ALIGNMENT)
        self._max_panels = int(widths[1:].max()) // self.layout.columns
        self._right = self._floats(rows * (self._max_panels + threads) * self.layout.columns)
        self._scratch_size = scratch_size(int(widths[-1]), itemsize)
        self._scratch = self._floats(self._scratch_size * threads)
        self._row_loss, self._row_correct = np.zeros(rows), np.zeros(rows)
        self._squares = np.zeros(int(widths[1:].sum()) // self.layout.columns)
        # Whole cache lines for each worker, so that no two workers write to one line.
        self._mask_stride = row_stride(int(sizes[0]), 8)
        self._masks = aligned(threads * self._mask_stride, np.int64)
        self._positions = aligned(threads * 2 * BITMASK_ROWS, np.int64)
        self._threads = threads
        self._n_units, self._n_parameters = int(sizes.sum()), network.n_parameters
        self._narrow = self._floats(0)
        if is_narrow(network):
            vectors = self._n_units + 1 + self._n_parameters
            vectors += self._n_units if network.keeps_z else 0
            self._narrow = self._floats(vectors * self.layout.columns)
        self._x = self._floats(0)
        self._reserve_entries(0)
        self._layers = np.zeros(len(network.layer_shapes), LAYER_DESCRIPTOR)
        self._context = np.zeros(1, ENGINE_CONTEXTS[dtype])
        self.context_address = address(self._context)
        self._describe()

    def reserve(self, data: DataDescriptor) -> None:
        """Let the room for inputs grow to a batch of this data's rows."""
        if data.sparse:
            if self._entry_room >= self._rows * data.capacity:
                return
            self._reserve_entries(self._rows * data.capacity)
        else:
            copied = min(self._rows, IN_PLACE_ROWS - 1) if data.in_place else self._rows
            if len(self._x) >= copied * self._strides[0]:
                return
            self._x = self._floats(copied * self._strides[0])
        self._describe()

    def _reserve_entries(self, room: int) -> None:
        self._entry_room = room
        self._entry_copies = self._threads if self._threads <= PRIVATE_ENTRY_THREADS else 1
        if 2 * self._entry_copies * room > MAX_PRIVATE_ENTRIES:
            self._entry_copies = 1
        batches = 2 * self._entry_copies
        self._entry_bounds = np.zeros(batches * SEGMENT_BOUNDS * self._rows, np.int64)
        self._entry_index = np.zeros(batches * room, np.uint32)
        self._entry_value = self._floats(batches * room)

    def _describe(self) -> None:
        """Write the records again at their addresses, which prepared calls keep."""
        layers = self._layer_descriptors()
        self._layers[:] = layers
        slots = [*map(address, self.slots), 0, 0]
        self._context[0] = EngineContext(
            unit=1.0,
            depth=len(layers),
            layers=address(self._layers),
            columns=self.layout.columns,
            itemsize=np.dtype(self._dtype).itemsize,
            rows=self._rows,
            n_units=self._n_units,
            n_parameters=self._n_parameters,
            parameters=ParameterBuffers(
                theta=address(self.theta),
                gradient=address(self.gradient),
                first_slot=slots[0],
                second_slot=slots[1],
            ),
            work=Workspace(
                transposed=address(self._transposed),
                left=address(self._left),
                right=address(self._right),
                max_panels=self._max_panels,
                scratch=address(self._scratch),
                scratch_size=self._scratch_size,
                row_loss=address(self._row_loss),
                row_correct=address(self._row_correct),
                squares=address(self._squares),
                barrier=address(self.barrier),
                narrow=address(self._narrow) if len(self._narrow) else 0,
            ),
            entries=EntryBuffers(
                indices=address(self._entry_index),
                values=address(self._entry_value),
                bounds=address(self._entry_bounds),
                size=self._entry_room,
                copies=self._entry_copies,
                masks=address(self._masks),
                mask_stride=self._mask_stride,
                positions=address(self._positions),
            ),
            settings=self._settings,
        )

    def _layer_descriptors(self) -> list[LayerDescriptor]:
        layout, strides = self.layout, self._strides
        below = [self._x, *self._a]
        above = [*self._a, self._delta[-1]]
        return [
            LayerDescriptor(
                D=int(layout.sizes[n]),
                H=int(layout.sizes[n + 1]),
                panels=int(layout.widths[n + 1]) // layout.columns,
                width=int(layout.widths[n + 1]),
                weights=int(layout.weights[n]),
                bias=int(layout.biases[n]),
                below=address(below[n]),
                below_stride=strides[n],
                a=address(above[n]),
                delta=address(self._delta[n]),
                kept=address(self._kept[n]),
                slope=address(self._slope[n]),
                stride=strides[n + 1],
            )
            for n in range(len(layout.weights))
        ]

    def _floats(self, n: int) -> FloatArray:
        return cast("FloatArray", aligned(n, self._dtype))
