"""The memory of one engine: allocated once, described to compiled code by records of addresses.

layout.py says what lies in it. Only the room for inputs grows, with the data that comes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

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
    ENGINE_CONTEXTS,
    LAYER_DESCRIPTOR,
    EngineContext,
    LayerDescriptor,
    address,
    aligned,
    layout_of,
    parameter_count,
    row_stride,
)

if TYPE_CHECKING:
    from fusedmlp.network import Network
    from fusedmlp.types import FloatArray, FloatDtype, IntArray
    from fusedmlp_numba.data import DataDescriptor


PRIVATE_ENTRY_THREADS: Final = 4
"""Up to so many workers, each gathers all entries of a batch for itself: that takes as long for any
number of them, and the rest of a step gets shorter."""

MAX_PRIVATE_ENTRIES: Final = 2**23
"""Most entries in all copies together: 64 MiB in float32."""


class Buffers:
    """Flat arrays for everything that a step writes, and the Plan that points to them.

    Parameters
    ----------
    rows
        B, the most rows of a batch.
    slots
        How many arrays of the parameters' layout the optimizer needs.
    rules
        The settings among a Plan's fields.

    Attributes
    ----------
    theta, gradient, slots
        Parameters, their gradients, and the optimizer's slots.
    sync
        The barrier's three counters, a cache line apart.
    plan_address
        Address of the record for compiled code, always the same.
    """

    def __init__(
        self,
        network: Network,
        dtype: FloatDtype,
        rows: int,
        slots: int,
        threads: int,
        rules: dict[str, Any],
    ) -> None:
        self._dtype = dtype
        self._rows = rows
        self._rules = rules
        self.shape = layout_of(network, dtype)
        sizes, widths = self.shape.sizes, self.shape.widths
        itemsize = np.dtype(dtype).itemsize
        self._strides = [row_stride(int(width), itemsize) for width in (sizes[0], *widths[1:])]

        n = parameter_count(self.shape)
        self.theta, self.gradient = self._floats(n), self._floats(n)
        self.slots = tuple(self._floats(n) for _ in range(slots))
        self.sync: IntArray = np.zeros(3 * 8, np.int64)
        above = self._strides[1:]
        self._a = [self._floats(rows * stride) for stride in above[:-1]]
        self._delta = [self._floats(rows * stride) for stride in above]
        # The first layer's may lie in pieces, each filled up for itself (shares.delta_place).
        whole = int(widths[1]) + threads * self.shape.columns
        self._delta[0] = self._floats(rows * (whole + threads * row_stride(1, itemsize) * 2))
        self._kept = [
            np.zeros(rows * stride if network.dropout else 0, np.uint8) for stride in above
        ]
        # One for all layers: by the time that it is needed again, it is still in a cache.
        self._transposed = self._floats(int(max(sizes[2:] * widths[1:-1], default=0)))
        self._left = self._floats(A_BLOCK * threads + ALIGNMENT)
        self._most_panels = int(widths[1:].max()) // self.shape.columns
        self._right = self._floats(rows * (self._most_panels + threads) * self.shape.columns)
        self._scratch_size = scratch_size(int(widths[-1]), itemsize)
        self._scratch = self._floats(self._scratch_size * threads)
        self._row_loss, self._row_correct = np.zeros(rows), np.zeros(rows)
        # Whole cache lines for each worker, so that no line is written by two.
        self._mask_room = row_stride(int(sizes[0]), 8)
        self._masks = aligned(threads * self._mask_room, np.int64)
        self._mask_places = aligned(threads * 2 * BITMASK_ROWS, np.int64)
        self._threads = threads
        self._units, self._parameters = int(sizes.sum()), network.n_parameters
        self._narrow = self._floats(0)
        if is_narrow(network):
            self._narrow = self._floats((self._units + 1 + self._parameters) * self.shape.columns)
        self._x = self._floats(0)
        self._reserve_entries(0)
        self._layers = np.zeros(len(network.layer_shapes), LAYER_DESCRIPTOR)
        self._plan = np.zeros(1, ENGINE_CONTEXTS[dtype])
        self.plan_address = address(self._plan)
        self._describe()

    def reserve(self, source: DataDescriptor) -> None:
        """Let the room for inputs grow to a batch of this data's rows."""
        if source.sparse:
            if self._room >= self._rows * source.capacity:
                return
            self._reserve_entries(self._rows * source.capacity)
        else:
            copied = min(self._rows, IN_PLACE_ROWS - 1) if source.in_place else self._rows
            if len(self._x) >= copied * self._strides[0]:
                return
            self._x = self._floats(copied * self._strides[0])
        self._describe()

    def _reserve_entries(self, room: int) -> None:
        self._room = room
        self._copies = self._threads if self._threads <= PRIVATE_ENTRY_THREADS else 1
        if 2 * self._copies * room > MAX_PRIVATE_ENTRIES:
            self._copies = 1
        places = 2 * self._copies
        self._entry_bounds = np.zeros(places * SEGMENT_BOUNDS * self._rows, np.int64)
        self._entry_index = np.zeros(places * room, np.uint32)
        self._entry_value = self._floats(places * room)

    def _describe(self) -> None:
        """Write the records anew, where they are: described calls have the Plan's address."""
        shape, strides = self.shape, self._strides
        below = [self._x, *self._a]
        above = [*self._a, self._delta[-1]]
        layers = [
            LayerDescriptor(
                D=int(shape.sizes[n]),
                H=int(shape.sizes[n + 1]),
                panels=int(shape.widths[n + 1]) // shape.columns,
                width=int(shape.widths[n + 1]),
                weights=int(shape.weights[n]),
                bias=int(shape.biases[n]),
                below=address(below[n]),
                below_stride=strides[n],
                a=address(above[n]),
                delta=address(self._delta[n]),
                kept=address(self._kept[n]),
                stride=strides[n + 1],
            )
            for n in range(len(shape.weights))
        ]
        self._layers[:] = layers
        slots = [*map(address, self.slots), 0, 0]
        context = EngineContext(
            unit=1.0,
            depth=len(layers),
            layers=address(self._layers),
            columns=shape.columns,
            itemsize=np.dtype(self._dtype).itemsize,
            theta=address(self.theta),
            gradient=address(self.gradient),
            first=slots[0],
            second=slots[1],
            transposed=address(self._transposed),
            left=address(self._left),
            right=address(self._right),
            most_panels=self._most_panels,
            scratch=address(self._scratch),
            scratch_size=self._scratch_size,
            room=self._room,
            entry_index=address(self._entry_index),
            entry_value=address(self._entry_value),
            entry_bounds=address(self._entry_bounds),
            entry_copies=self._copies,
            masks=address(self._masks),
            mask_room=self._mask_room,
            mask_places=address(self._mask_places),
            narrow=address(self._narrow) if len(self._narrow) else 0,
            units=self._units,
            parameters=self._parameters,
            rows=self._rows,
            row_loss=address(self._row_loss),
            row_correct=address(self._row_correct),
            sync=address(self.sync),
            **self._rules,
        )
        self._plan[0] = context

    def _floats(self, n: int) -> FloatArray:
        return cast("FloatArray", aligned(n, self._dtype))
