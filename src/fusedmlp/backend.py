"""The contract between the core and the engines: what a backend is, and nothing of how.

The interface is network-level: an engine owns one network on one device, with its parameters,
optimizer state and every buffer, in whatever layout is fastest there. Only abstract members are
implemented; no backend inherits from another, and nothing falls through to another backend.
Shapes follow the legend in :mod:`fusedmlp.types`; formulas are in the NumPy backend, which is the
specification, and in :mod:`fusedmlp.optimizers`.

Rules for every engine
----------------------
- One floating dtype. ``uint8`` inputs are pixels, read as x / 255. CSR inputs stay sparse.
- A staged row's storage is never widened: a memory-mapped input is read batch by batch.
- Row losses are computed from logits and summed in float64, each capped at ``MAX_ROW_LOSS``.
- A batch's objective is that of :class:`fusedmlp.network.Objective`; a batch whose sample weights
  sum to 0 has the gradient of the L2 penalty alone.
- The same inputs give the same bits in every run, and for every number of threads unless the
  backend says that its ``bits_depend_on_threads``.
- A non-finite loss does not raise: it comes back in :class:`BatchMetrics`, and the trainer stops.

Dropout masks
-------------
Unit ``j`` of row ``i`` of the batch, in hidden layer ``l`` (from 0) at step ``t`` (steps taken
before this one) is kept when word ``j % 4`` of Philox4x32-10 (Salmon et al., 2011) with counter
``(j // 4, i, t mod 2³², l)`` and key ``(seed mod 2³², seed // 2³²)`` is below
``keep_threshold(dropout)``. A kept activation is multiplied by 1 / (1 − dropout).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar, Final, Literal, TypeAlias

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from fusedmlp.network import Network, Objective, Parameters
    from fusedmlp.optimizers import Optimizer
    from fusedmlp.types import Float64Vector, FloatArray, FloatDtype, Inputs, IntArray

MAX_ROW_LOSS: Final = 1e300
"""Cap of one row's loss, so that huge logits give a huge but finite sum in float64."""

EXP_OVERFLOWS: Final = 710.0
"""Logit from which on eᶻ is infinite in float64: losses of an exp output need none above it."""

Fact: TypeAlias = str | int | float | bool | None


def keep_threshold(dropout: float) -> int:
    """Return the bound under which a 32-bit random word keeps its unit: ⌊(1 − dropout)·2³²⌋."""
    return int((1.0 - dropout) * 2.0**32)


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can be used here, in words and as data.

    Parameters
    ----------
    state
        ``usable``, ``missing`` (its library is not installed), ``no-device`` (installed, nothing
        to run on) or ``broken`` (installed, a part of it does not load).
    detail
        What was found; for ``no-device`` and ``broken`` the driver's or loader's own text.
    remedy
        The exact line that would repair it; empty when usable.
    """

    state: Literal["usable", "missing", "no-device", "broken"]
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Workload:
    """What ``auto`` weighs: the network, the rows per step and the rows in the data set."""

    network: Network
    batch_size: int
    rows: int | None = None

    @property
    def flops_per_step(self) -> int:
        """Floating-point operations of one training step's matrix products."""
        return self.network.flops_per_row * self.batch_size


@dataclass(frozen=True, slots=True)
class Preference:
    """How well a usable backend suits a workload: ``auto`` takes the highest score."""

    score: float
    reason: str


@dataclass(frozen=True, slots=True)
class Device:
    """What a backend runs on: a line for people and the facts behind it."""

    description: str
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.description


@dataclass(frozen=True, slots=True)
class BatchMetrics:
    """Loss and accuracy over consecutive batches, one entry a batch: each array (n_batches,).

    Parameters
    ----------
    losses
        Σ wᵢ·lossᵢ over the batch's rows, without the L2 penalty.
    correct
        Σ wᵢ over the rows that were predicted right (all K labels, for several); 0 for outputs
        that predict values.
    weights
        Σ wᵢ; the number of rows when there are no sample weights.
    """

    losses: Float64Vector
    correct: Float64Vector
    weights: Float64Vector

    @property
    def loss(self) -> float:
        """Weighted mean loss over all batches; 0 when the weights sum to 0."""
        return self._mean(self.losses)

    @property
    def accuracy(self) -> float:
        """Weighted share of rows predicted right."""
        return self._mean(self.correct)

    def first_non_finite(self) -> int | None:
        """Index of the first batch whose loss is NaN or infinite; None when there is none."""
        bad = np.flatnonzero(~np.isfinite(self.losses))
        return int(bad[0]) if bad.size else None

    def _mean(self, sums: Float64Vector) -> float:
        weight = float(self.weights.sum())
        return float(sums.sum()) / weight if weight else 0.0

    @classmethod
    def joined(cls, parts: list[BatchMetrics]) -> BatchMetrics:
        """Concatenate; the result does not depend on how the batches were cut into parts."""
        return cls(
            np.concatenate([part.losses for part in parts]),
            np.concatenate([part.correct for part in parts]),
            np.concatenate([part.weights for part in parts]),
        )


@dataclass(frozen=True, slots=True)
class State:
    """All that training needs to go on elsewhere, as plain host arrays.

    Parameters
    ----------
    parameters
        Weights and biases.
    slots
        One :class:`Parameters` for each name in the optimizer's ``slots``.
    step
        Steps taken.
    """

    parameters: Parameters
    slots: tuple[Parameters, ...]
    step: int


class Data:
    """A data set that :meth:`Engine.stage` has put on an engine's device. Opaque to the core.

    ``rows`` is N, ``labelled`` tells whether it was staged with targets.
    """

    rows: int
    labelled: bool


class Engine(ABC):
    """One network on one device."""

    network: Network
    optimizer: Optimizer
    objective: Objective
    batch_size: int
    dtype: FloatDtype
    seed: int

    @property
    @abstractmethod
    def compile_seconds(self) -> float:
        """Seconds that this engine has spent compiling or loading compiled code so far."""

    @abstractmethod
    def load(self, state: State) -> None:
        """Copy a state into the engine, converting to its dtype.

        Raises
        ------
        InvalidInputError
            The state does not fit the network or the optimizer.
        """

    @abstractmethod
    def parameters(self) -> Parameters:
        """Return weights and biases as fresh C-ordered host arrays of the engine's dtype."""

    @abstractmethod
    def state(self) -> State:
        """Return everything :meth:`load` takes, as fresh host arrays."""

    @abstractmethod
    def stage(
        self,
        x: Inputs,
        y: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Data:
        """Check a data set and put it on the device, once.

        Parameters
        ----------
        x
            (N, D) ``uint8`` pixels, ``float32`` or ``float64``, or SciPy CSR of those floats. An
            array of another library is taken as :mod:`fusedmlp.interop` says; one that lies in
            the memory of the engine's own device is not copied, one of another device is refused.
        y
            (N,) class numbers for softmax; (N,) or (N, K) zeros and ones for sigmoid; (N,) or
            (N, K) real targets for identity, at least 0 for exp; None to predict only.
        sample_weight
            (N,) finite, at least 0.

        Raises
        ------
        InvalidInputError
            A wrong shape, type, label or a non-finite value; nothing was computed.
        """

    @abstractmethod
    def forward(self, x: Inputs) -> FloatArray:
        """Return the network's outputs for any number of rows, without dropout.

        Returns
        -------
        (N, K) of the engine's dtype: probabilities for softmax and sigmoid, else the values. An
        engine that takes x from its device's memory leaves them there.
        """

    @abstractmethod
    def evaluate(self, data: Data, rows: IntArray | None = None) -> BatchMetrics:
        """Loss and accuracy of labelled data without dropout; the engine chooses the batches.

        Parameters
        ----------
        rows
            (n,) row numbers of ``data``; None for all of them.
        """

    @abstractmethod
    def loss_and_gradients(self, data: Data, rows: IntArray) -> tuple[BatchMetrics, Parameters]:
        """Loss of one batch, and the gradient of its objective, with this step's dropout.

        Parameters
        ----------
        rows
            (B,) row numbers of ``data``, 1 ≤ B ≤ batch size.

        Returns
        -------
        sums, gradients
            One-entry sums; gradients in the parameters' shapes, the L2 term included.
        """

    @abstractmethod
    def apply_gradients(self, gradients: Parameters, lr: float) -> None:
        """Take one optimizer step with the given gradients."""

    @abstractmethod
    def train_epoch(self, data: Data, order: IntArray, lr: Float64Vector) -> BatchMetrics:
        """Train on every batch of ``order`` in one call, without host work per batch.

        Parameters
        ----------
        order
            (n,) row numbers, cut into consecutive batches; the last may be smaller. A slice of an
            epoch at a multiple of the batch size gives the same bits as one call.
        lr
            (n_batches,) learning rate of each step.
        """

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has finished all work given to it."""


class Backend(ABC):
    """A way to run networks: found by entry point, built with a device number and threads.

    Importing a backend's module and calling :meth:`probe` and :meth:`preference` must not import
    its heavy library at import time; building the backend does.

    Parameters
    ----------
    device
        Number of the device, for backends that have several; None for the default.
    threads
        CPU threads to use at most; None for all that the process may use.
    strict
        Build engines that compute as :mod:`fusedmlp.reference.arithmetic` states, with the same
        bits on every backend that has it. A backend without it need not have the parameter.

    Attributes
    ----------
    has_strict
        Whether the backend can be built so.
    strict
        Whether it was.

    Raises
    ------
    MissingDependencyError, NoUsableDeviceError
        The backend cannot be used here.
    InvalidInputError
        The backend has no numbered devices, or a thread count it cannot honour.
    """

    name: ClassVar[str]
    has_strict: ClassVar[bool] = False
    strict: bool = False

    options: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """What may be asked for behind the name, as in ``cupy+tf32``, and what it does. Each is a
    keyword of the class, False where it is not given."""

    bits_depend_on_threads: ClassVar[bool] = False
    """Whether another number of threads may round differently; the same number never does."""

    @abstractmethod
    def __init__(
        self, *, device: int | None = None, threads: int | None = None, strict: bool = False
    ) -> None: ...

    @classmethod
    @abstractmethod
    def probe(cls) -> Availability:
        """Find out, by really trying, whether this backend can be used here. Never raises."""

    @classmethod
    @abstractmethod
    def preference(cls, workload: Workload) -> Preference:
        """Say how well this backend suits a workload; called only where it is usable."""

    @abstractmethod
    def device(self) -> Device:
        """Describe what this backend runs on."""

    @abstractmethod
    def compile(
        self,
        network: Network,
        optimizer: Optimizer,
        objective: Objective,
        *,
        batch_size: int,
        dtype: FloatDtype,
        seed: int,
    ) -> Engine:
        """Build an engine with zeroed parameters, ready for :meth:`Engine.load`.

        Parameters
        ----------
        batch_size
            Most rows in one step.
        seed
            Key of the dropout masks.
        """
