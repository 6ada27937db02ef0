"""A benchmark task: what is computed, on how many rows, how much work that is, and its inputs.

Nothing is loaded or run here. The work counted is that of the dense matrix products: an engine that
skips zeros does not lower the count; updates, activations, losses and masks do not raise it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np

from fusedmlp.network import Network
from fusedmlp.optimizers import SGD, Adam

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from fusedmlp.network import HiddenActivation, Parameters
    from fusedmlp.types import DenseInputs, FloatArray, FloatDtype, IntArray

Kind: TypeAlias = Literal["train", "predict"]

FORMER_FIELDS: Final = ("is_pixels", "density")
"""In tasks of older documents; both follow from the inputs."""


@dataclass(frozen=True, slots=True)
class Task:
    """One workload.

    Parameters
    ----------
    kind
        ``train`` on batch after batch, or ``predict`` from NumPy rows to NumPy probabilities.
    sizes, hidden, dropout
        See :class:`fusedmlp.network.Network`; the output is softmax.
    inputs
        ``normal`` for drawn numbers, else the name of a data set.
    rows
        N, rows of the data set.
    samples
        Rows that one timed call processes: N for an epoch, less for a part, more for several.
    seconds
        A round repeats the timed call for this long; 0 for a single call. See
        :meth:`fusedmlp.bench.adapter.Runner.round`.
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
    rows: int = 60_000
    samples: int = 60_000
    seconds: float = 0.0

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
        """Operations of the dense matrix products for one row."""
        if self.kind == "train":
            return self.network.flops_per_row
        return sum(2 * fan_in * fan_out for fan_in, fan_out in self.network.layer_shapes)

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
        kept = {name: value for name, value in data.items() if name not in FORMER_FIELDS}
        found = cls(**kept)  # type: ignore[arg-type] # written by to_dict
        return replace(found, sizes=tuple(found.sizes))


@dataclass(frozen=True, slots=True)
class Inputs:
    """Data and starting weights of a task, and the NumPy backend's results on them.

    Parameters
    ----------
    x, y
        (N, D) inputs, uint8 pixels or of the task's dtype; (N,) class numbers.
    start
        Starting weights and biases.
    order
        Row numbers for the parity check of a training.
    expected, expected_loss
        Results of the NumPy backend. For a training: W1, b1, … and the mean loss over ``order``;
        for a prediction: its probabilities, and 0.
    """

    x: DenseInputs
    y: IntArray
    start: Parameters
    order: IntArray
    expected: list[FloatArray]
    expected_loss: float

    def floats(self, dtype: npt.DTypeLike) -> FloatArray:
        """Return the inputs as floats of this type, pixels divided by 255."""
        return as_floats(self.x, dtype)


def as_floats(x: DenseInputs, dtype: npt.DTypeLike) -> FloatArray:
    """Convert inputs to floats; pixels are divided by 255."""
    if x.dtype == np.uint8:
        scaled: FloatArray = x.astype(dtype) / np.asarray(255, dtype)
        return scaled
    return x.astype(dtype)
