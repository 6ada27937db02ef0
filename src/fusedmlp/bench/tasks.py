"""A benchmark task: what is computed, on how many rows, and how much work that is.

Nothing is loaded or run here. The work counted is that of the dense matrix products and of the
update. An engine that skips zeros does not lower the count; activations, losses and masks do not
raise it. With W the number of weights, P that of weights and biases, S the optimizer's arrays per
parameter, e the bytes of a number and x the bytes of an input:

==========  =========================================  =========================================
kind        operations for a batch of B rows           least bytes moved
==========  =========================================  =========================================
forward,    2·B·W                                      B·D·x + B·K·e + P·e
predict
evaluate    2·B·W                                      B·D·x + P·e
gradients   B·(6·W − 2·D·H₁): forward, gradient of     B·D·x + 2·P·e
            the weights, and the delta, which the
            first layer does not need
update      2·P for plain SGD, 12·P for Adam           P·e·(3 + 2·S): parameters and gradients
            (corrections are part of the rate)         read, parameters written, S read, written
train       gradients + update                         B·D·x + P·e·(2 + 2·S): fused, gradients
                                                       need not move
==========  =========================================  =========================================

The least traffic assumes that each number is read and written once and that intermediates stay in
caches (Williams, Waterman and Patterson, 2009).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from fusedmlp.network import Network
from fusedmlp.optimizers import SGD, Adam

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedmlp.network import HiddenActivation
    from fusedmlp.types import FloatDtype, IntArray

Kind: TypeAlias = Literal["train", "predict", "forward", "gradients", "update", "evaluate", "triad"]

UPDATE_FLOPS: Final = {"sgd": 2, "adam": 12}
"""Operations of one parameter's update, by optimizer; a square root or division counts as 1."""

TRIAD_ARRAYS: Final = 3
"""a ← b + s·c reads two arrays and writes one (McCalpin, 1995)."""


@dataclass(frozen=True, slots=True)
class Work:
    """Floating-point operations and least bytes moved of one timed call.

    Parameters
    ----------
    footprint
        Bytes that the call touches. When the call is repeated, a cache of this size holds them.
    """

    flops: float
    bytes: float
    footprint: float

    @property
    def intensity(self) -> float:
        """Operations per byte."""
        return self.flops / self.bytes


@dataclass(frozen=True, slots=True)
class Task:
    """One workload.

    Parameters
    ----------
    kind
        ``train`` on batch after batch; ``predict`` from NumPy rows to NumPy probabilities; one
        operation of an engine; or the ``triad`` on arrays of ``rows`` numbers.
    sizes, hidden, dropout
        See :class:`fusedmlp.network.Network`; the output is softmax.
    inputs
        ``normal`` for drawn numbers, else the name of a data set.
    rows
        N, rows of the data set.
    samples
        Rows that one timed call processes: N for an epoch, less for a part, more for several.
    density
        Share of nonzero inputs, for ``normal`` inputs.
    seconds
        A round repeats the timed call for this long; 0 for a single call. See
        :meth:`fusedmlp.bench.runner.Runner.round`.
    is_pixels
        Whether the inputs are bytes; used by :attr:`work` only.
    """

    name: str
    kind: Kind = "train"
    sizes: tuple[int, ...] = (784, 256, 10)
    hidden: HiddenActivation = "sigmoid"
    dropout: float = 0.0
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.1
    batch_size: int = 64
    dtype: FloatDtype = "float32"
    inputs: str = "mnist"
    density: float = 1.0
    rows: int = 60_000
    samples: int = 60_000
    seconds: float = 0.0
    is_pixels: bool = False

    @property
    def network(self) -> Network:
        """The network."""
        return Network(self.sizes, self.hidden, "softmax", self.dropout)

    def make_optimizer(self) -> SGD | Adam:
        """Build the optimizer."""
        return SGD(self.lr) if self.optimizer == "sgd" else Adam(self.lr)

    @property
    def n_steps(self) -> int:
        """Batches, or calls of predict, in one timed call."""
        return -(-self.samples // self.batch_size)

    @property
    def is_full_batch(self) -> bool:
        """Whether every step uses all rows, so that nothing is shuffled or gathered."""
        return self.kind == "train" and self.batch_size >= self.rows

    @property
    def is_counted_in_steps(self) -> bool:
        """Whether µs per step is the usual unit, instead of samples/s."""
        return self.is_full_batch or (self.kind == "predict" and self.batch_size == 1)

    @property
    def flops_per_sample(self) -> float:
        """Operations of the dense matrix products for one row; 0 where there are none."""
        if self.kind in ("train", "gradients"):
            return self.network.flops_per_row
        if self.kind in ("update", "triad"):
            return 0
        return sum(2 * fan_in * fan_out for fan_in, fan_out in self.network.layer_shapes)

    @property
    def work(self) -> Work:
        """Work of one timed call, update included: see the table above."""
        network, optimizer = self.network, self.make_optimizer()
        e = np.dtype(self.dtype).itemsize
        x = 1 if self.is_pixels and self.kind != "predict" else e  # predict takes floats
        S, P = len(optimizer.slots), network.n_parameters
        steps, rows = self.n_steps, self.samples
        inputs, flops = rows * network.n_inputs * x, rows * self.flops_per_sample
        update = steps * P * UPDATE_FLOPS[optimizer.kernel]
        match self.kind:
            case "train":
                touched = min(rows, self.rows) * network.n_inputs * x + P * e * (1 + S)
                return Work(flops + update, inputs + steps * P * e * (2 + 2 * S), touched)
            case "gradients":
                moved = inputs + steps * P * e * 2
            case "update":
                return Work(update, steps * P * e * (3 + 2 * S), P * e * (2 + S))
            case "evaluate":
                moved = inputs + P * e
            case "triad":
                n = TRIAD_ARRAYS * self.rows * e
                return Work(2 * self.rows, n, n)
            case _:
                moved = inputs + rows * network.n_outputs * e + steps * P * e
        return Work(flops, moved, moved)

    def order(self, seed: int) -> IntArray:
        """Draw the row numbers of one timed call. Drawing them is part of the timed call."""
        if self.is_full_batch:
            return np.tile(np.arange(self.rows), self.n_steps)
        rng = np.random.default_rng(seed)
        drawn = [rng.permutation(self.rows) for _ in range(-(-self.samples // self.rows))]
        return np.concatenate(drawn)[: self.samples] if len(drawn) > 1 else drawn[0][: self.samples]

    def to_dict(self) -> dict[str, object]:
        """Plain data for JSON; :meth:`from_dict` reads it."""
        return asdict(self) | {"sizes": list(self.sizes)}

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> Task:
        """Rebuild a task."""
        found = cls(**data)  # type: ignore[arg-type] # written by to_dict
        return replace(found, sizes=tuple(found.sizes))
