"""How much there is to do: operations and least traffic of every task. The one place for both.

Operations are those of the dense matrix products, and of the update, which has none: what an
engine saves by skipping zeros does not lower the count, and what else it computes (activations,
losses, masks) does not raise it. Below, W is the number of weights, P that of weights and biases,
S the optimizer's arrays beside each parameter, e the bytes of a number and x those of an input.

==========  =========================================  =========================================
kind        operations of a batch of B rows            bytes that must move, at least
==========  =========================================  =========================================
forward,    2·B·W                                      B·D·x + B·K·e + P·e
predict
evaluate    2·B·W                                      B·D·x + P·e
gradients   B·(6·W − 2·D·H₁): forward, the weights'    B·D·x + P·e read, P·e written
            gradient, and the delta handed down,
            which the first layer does not need
update      2·P for plain descent, 12·P for Adam       P·e·(3 + 2·S): parameters and gradients
            (its corrections are part of the rate)     read, parameters written, S read, written
train       gradients + update                         B·D·x + P·e·(2 + 2·S): fused, the gradients
                                                       need not move
==========  =========================================  =========================================

The update's operations are counted in the formulas of :mod:`fusedmlp.optimizers`, a square root
and a division as one each; the throughput tables leave them out, as is usual, and the roofline
has them. The least traffic is that of an engine which reads and writes each number once and keeps
whatever lies between in its caches (Williams, Waterman and Patterson, 2009).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from fusedmlp.bench.tasks import Task

UPDATE_FLOPS: Final = {"sgd": 2, "adam": 12}
"""Operations of each parameter's update, by kernel."""

TRIAD_ARRAYS: Final = 3
"""a ← b + s·c reads two arrays and writes one (McCalpin, 1995)."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one timed call of a task has to do.

    Parameters
    ----------
    flops, bytes
        See the table above.
    footprint
        Bytes that the call touches: where it is repeated, a cache of this size keeps them.
    """

    flops: float
    bytes: float
    footprint: float

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.bytes


def product_flops(task: Task) -> float:
    """Operations of the matrix products of one sample; 0 for what has none."""
    if task.kind in ("train", "gradients"):
        return task.network.flops_per_row
    if task.kind in ("update", "triad"):
        return 0
    return sum(2 * fan_in * fan_out for fan_in, fan_out in task.network.layer_shapes)


def work(task: Task) -> Work:
    """Count what one timed call does, update and all."""
    network, optimizer = task.network, task.make_optimizer()
    e = np.dtype(task.dtype).itemsize
    x = 1 if task.has_pixels else e
    S, P = len(optimizer.slots), network.n_parameters
    steps, rows = task.n_steps, task.samples
    inputs, flops = rows * network.n_inputs * x, rows * product_flops(task)
    update = steps * P * UPDATE_FLOPS[optimizer.kernel]
    match task.kind:
        case "train":
            touched = min(rows, task.rows) * network.n_inputs * x + P * e * (1 + S)
            return Work(flops + update, inputs + steps * P * e * (2 + 2 * S), touched)
        case "gradients":
            moved = inputs + steps * P * e * 2
        case "update":
            flops, moved = update, steps * P * e * (3 + 2 * S)
            return Work(flops, moved, P * e * (2 + S))
        case "evaluate":
            moved = inputs + P * e
        case "triad":
            n = TRIAD_ARRAYS * task.rows * e
            return Work(2 * task.rows, n, n)
        case _:
            moved = inputs + rows * network.n_outputs * e + steps * P * e
    return Work(flops, moved, moved)
