"""What a task is: all that a worker needs to know of it. Nothing is loaded or run here."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal, TypeAlias

import numpy as np

from fusedmlp.bench.work import product_flops
from fusedmlp.network import Network
from fusedmlp.optimizers import SGD, Adam

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedmlp.network import HiddenActivation
    from fusedmlp.types import FloatDtype, IntArray

Kind: TypeAlias = Literal["train", "predict", "forward", "gradients", "update", "evaluate", "triad"]


@dataclass(frozen=True, slots=True)
class Task:
    """One workload.

    Parameters
    ----------
    kind
        ``train`` on batch after batch; ``predict`` from NumPy rows to NumPy probabilities; one of
        an engine's operations alone; or the ``triad`` on arrays of ``rows`` numbers.
    sizes, hidden, dropout
        See :class:`fusedmlp.network.Network`; the output is softmax.
    inputs
        ``normal`` for drawn numbers, else the name of a data set.
    rows
        N, rows of the data set.
    samples
        Rows that one timed call sees: N for an epoch, less for a part of one, more for several.
    density
        Share of the inputs that are not zero, for ``normal`` inputs.
    seconds
        A round repeats the timed call until this much time has passed; 0 for a single call. Its
        figure is a median, see :meth:`fusedmlp.bench.runner.Runner.round`.
    is_pixels
        Whether the inputs are bytes. Only :func:`fusedmlp.bench.work.work` asks.
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
        """The network, in the package's terms."""
        return Network(self.sizes, self.hidden, "softmax", self.dropout)

    def make_optimizer(self) -> SGD | Adam:
        """Build the optimizer, in the package's terms."""
        return SGD(self.lr) if self.optimizer == "sgd" else Adam(self.lr)

    @property
    def has_pixels(self) -> bool:
        """Whether the inputs reach the engine as bytes; a prediction is given floats."""
        return self.is_pixels and self.kind != "predict"

    @property
    def n_steps(self) -> int:
        """Batches, or calls of predict, in one timed call."""
        return -(-self.samples // self.batch_size)

    @property
    def is_full_batch(self) -> bool:
        """Whether every step sees all rows, so that there is nothing to shuffle or gather."""
        return self.kind == "train" and self.batch_size >= self.rows

    @property
    def is_counted_in_steps(self) -> bool:
        """Whether people ask for µs per step here, not for samples/s."""
        return self.is_full_batch or (self.kind == "predict" and self.batch_size == 1)

    @property
    def flops_per_sample(self) -> float:
        """Operations of the dense matrix products: see :mod:`fusedmlp.bench.work`."""
        return product_flops(self)

    def order(self, seed: int) -> IntArray:
        """Draw the row numbers of one timed call. Drawing them is part of what is timed."""
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
        found = cls(**data)  # type: ignore[arg-type] # it is what to_dict wrote
        return replace(found, sizes=tuple(found.sizes))
