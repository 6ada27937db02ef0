"""The contract between the core and the engines: the interface alone, no implementation.

The interface is network-level: an engine owns one network on one device, with its parameters,
optimizer state and all buffers, in the memory layout that is fastest on that device. A backend
implements the abstract members and nothing else; no backend inherits from another, and none falls
back to another. Shapes follow the legend in :mod:`fusedmlp.types`. The formulas are in
:mod:`fusedmlp.reference`, which is the specification, and in :mod:`fusedmlp.optimizers`.

Rules for every engine
----------------------
- One floating dtype. ``uint8`` inputs are pixels, read as x / 255. CSR inputs stay sparse.
- A staged data set keeps its dtype: a memory-mapped input is read and converted batch by batch.
- Row losses are computed from logits and summed in float64, each capped at ``MAX_ROW_LOSS``.
- A batch's objective is that of :class:`fusedmlp.network.Objective`; a batch whose sample weights
  sum to 0 has the gradient of the L2 penalty alone.
- The same inputs give the same bits in every run, and for every number of threads unless the
  backend sets ``bits_depend_on_threads``.
- A non-finite loss does not raise: it is returned in :class:`BatchMetrics`, and the trainer stops.

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

from fusedmlp.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from fusedmlp.network import Network, Objective, Parameters
    from fusedmlp.optimizers import Optimizer
    from fusedmlp.types import Float64Vector, FloatArray, FloatDtype, Inputs, IntArray

MAX_ROW_LOSS: Final = 1e300
"""Cap of one row's loss, so that huge logits give a huge but finite sum in float64."""

EXP_OVERFLOWS: Final = 710.0
"""eᶻ is infinite in float64 from this logit on: the loss of an exp output clips logits to it."""

MAX_THREADS: Final = 4096
"""More than one machine has; engines have work space for each thread."""

Fact: TypeAlias = str | int | float | bool | None
"""A value in a device's description that JSON can hold."""


def keep_threshold(dropout: float) -> int:
    """Return ⌊(1 − dropout)·2³²⌋: a unit is kept if its random 32-bit word is below it."""
    return int((1.0 - dropout) * 2.0**32)


def check_threads(threads: int | None) -> None:
    """Raise InvalidInputError unless this number of CPU threads, or None, can be had."""
    if threads is not None and not 1 <= threads <= MAX_THREADS:
        bound = "at least 1" if threads < 1 else f"at most {MAX_THREADS}"
        raise InvalidInputError(f"threads {threads} is not {bound}")


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can be used on this machine.

    Parameters
    ----------
    state
        ``usable``, ``missing`` (its library is not installed), ``no-device`` (installed, nothing
        to run on) or ``broken`` (installed, a part of it does not load).
    detail
        What the probe found; for ``no-device`` and ``broken`` the driver's or loader's message.
    remedy
        The exact command that repairs it; empty when usable.
    """

    state: Literal["usable", "missing", "no-device", "broken"]
    detail: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class Workload:
    """The input of the ``auto`` choice: the network, the rows per step and in the data set."""

    network: Network
    batch_size: int
    rows: int | None = None

    @property
    def flops_per_step(self) -> int:
        """Floating-point operations of one training step's matrix products."""
        return self.network.flops_per_row * self.batch_size


@dataclass(frozen=True, slots=True)
class Preference:
    """How well a usable backend suits a workload: ``auto`` selects the highest score."""

    score: float
    reason: str


@dataclass(frozen=True, slots=True)
class Device:
    """The hardware and libraries of a backend: a readable line and its data."""

    description: str
    facts: Mapping[str, Fact] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.description


@dataclass(frozen=True, slots=True)
class BatchMetrics:
    """Loss and accuracy over consecutive batches: arrays of shape (n_batches,).

    Parameters
    ----------
    losses
        Σ wᵢ·lossᵢ over the batch's rows, without the L2 penalty.
    correct
        Σ wᵢ over the rows predicted right (for K labels, all of them right); 0 for outputs that
        predict values.
    weights
        Σ wᵢ; the number of rows when there are no sample weights.
    squares
        Σ W² of all weights before the batch's step, for engines built with ``sums_squares``; None
        for others, and in evaluation.
    """

    losses: Float64Vector
    correct: Float64Vector
    weights: Float64Vector
    squares: Float64Vector | None = None

    def __repr__(self) -> str:
        """Describe the batches in one line, without the arrays."""
        means = f"loss={self.loss:.5g}, accuracy={self.accuracy:.5g}"
        return f"BatchMetrics(n_batches={len(self.losses)}, {means})"

    @property
    def loss(self) -> float:
        """Weighted mean loss over all batches; 0 when the weights sum to 0."""
        return self._mean(self.losses)

    @property
    def accuracy(self) -> float:
        """Weighted fraction of the rows predicted right; 0 when the weights sum to 0."""
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
        """Concatenate parts; the result does not depend on how the batches were divided."""
        squares = [part.squares for part in parts if part.squares is not None]
        return cls(
            np.concatenate([part.losses for part in parts]),
            np.concatenate([part.correct for part in parts]),
            np.concatenate([part.weights for part in parts]),
            np.concatenate(squares) if squares else None,
        )


@dataclass(frozen=True, slots=True)
class State:
    """The state of a training, as plain host arrays: training resumes from it on any backend.

    Parameters
    ----------
    parameters
        Weights and biases.
    slots
        One :class:`Parameters` for each name in the optimizer's ``slots``.
    step
        Number of steps taken.
    """

    parameters: Parameters
    slots: tuple[Parameters, ...]
    step: int


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """What an engine is built for.

    Parameters
    ----------
    network, optimizer, objective
        What is computed.
    batch_size
        Most rows in one step.
    dtype
        The floating type of the parameters and of all arithmetic.
    seed
        Key of the dropout masks.
    sums_squares
        Whether the metrics of training batches have Σ W², from which a penalty is computed.
    """

    network: Network
    optimizer: Optimizer
    objective: Objective
    batch_size: int
    dtype: FloatDtype
    seed: int
    sums_squares: bool = False


class Data:
    """A data set on an engine's device, made by :meth:`Engine.stage`. Opaque to the core.

    Attributes
    ----------
    rows
        N.
    labelled
        Whether it has targets.
    """

    rows: int
    labelled: bool


class Engine(ABC):
    """One network on one device.

    Parameters
    ----------
    spec
        The network, the optimizer and the settings; its fields are attributes of the engine.
    """

    def __init__(self, spec: EngineSpec) -> None:
        self.spec = spec
        self.network, self.optimizer, self.objective = spec.network, spec.optimizer, spec.objective
        self.batch_size, self.dtype, self.seed = spec.batch_size, spec.dtype, spec.seed

    @property
    @abstractmethod
    def compile_seconds(self) -> float:
        """Seconds spent so far on compiling and on loading compiled code."""

    @abstractmethod
    def load(self, state: State) -> None:
        """Copy a state into the engine, converted to its dtype.

        Raises
        ------
        InvalidInputError
            The state does not fit the network or the optimizer.
        """

    @abstractmethod
    def parameters(self) -> Parameters:
        """Return weights and biases as new C-ordered host arrays of the engine's dtype."""

    @abstractmethod
    def state(self) -> State:
        """Return the state that :meth:`load` accepts, as new host arrays."""

    @abstractmethod
    def stage(
        self,
        x: Inputs,
        y: npt.ArrayLike | None = None,
        sample_weight: npt.ArrayLike | None = None,
    ) -> Data:
        """Validate a data set and place it on the device, once for any number of epochs.

        Parameters
        ----------
        x
            (N, D) ``uint8`` pixels, ``float32`` or ``float64``, or SciPy CSR of those floats.
            Arrays of other libraries are converted as in :mod:`fusedmlp.interop`. An array in the
            memory of the engine's device is not copied; one on another device is an error.
        y
            (N,) class indices for softmax; (N,) or (N, K) zeros and ones for sigmoid; (N,) or
            (N, K) real targets for identity, at least 0 for exp; None for prediction only.
        sample_weight
            (N,) finite, at least 0.

        Raises
        ------
        InvalidInputError
            A shape, dtype or label is wrong, or a value is not finite; nothing was computed.
        """

    @abstractmethod
    def forward(self, x: Inputs) -> FloatArray:
        """Return the network's outputs for any number of rows, without dropout.

        Returns
        -------
        (N, K) of the engine's dtype: probabilities for softmax and sigmoid, else the values. For
        x in the memory of the engine's device, the outputs are there too.
        """

    @abstractmethod
    def evaluate(self, data: Data, rows: IntArray | None = None) -> BatchMetrics:
        """Loss and accuracy of labelled data without dropout; the engine chooses the batches.

        Parameters
        ----------
        rows
            (n,) row indices into ``data``; None for all rows.
        """

    @abstractmethod
    def loss_and_gradients(self, data: Data, rows: IntArray) -> tuple[BatchMetrics, Parameters]:
        """Loss of one batch, and the gradient of its objective, with this step's dropout.

        Parameters
        ----------
        rows
            (B,) row indices into ``data``, 1 ≤ B ≤ batch size.

        Returns
        -------
        metrics, gradients
            Metrics of one batch; gradients in the parameters' shapes, the L2 term included.
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
            (n,) row indices, divided into consecutive batches; the last may be smaller. Several
            calls give the same bits as one, if all but the last have whole batches.
        lr
            (n_batches,) learning rate of each step.
        """

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until the device has finished all submitted work."""


class Backend(ABC):
    """A factory of engines, registered as an entry point.

    Hazard: importing a backend's module must not import its heavy library, such as Numba or CuPy.
    :meth:`probe` and the constructor import it.

    Parameters
    ----------
    device
        Device number, for backends with several devices; None for the default.
    threads
        Maximum number of CPU threads; None for all that the process may use, or as many as the
        variables of numerical libraries allow (``OMP_NUM_THREADS`` and the like).
    strict
        Build engines with the arithmetic of :mod:`fusedmlp.reference.arithmetic`, which gives the
        same bits on every backend with strict mode. A backend without strict mode may omit the
        parameter.

    Attributes
    ----------
    has_strict
        Whether the backend has strict mode.
    strict
        Whether this backend was built with it.

    Raises
    ------
    BackendNotInstalledError, NoUsableDeviceError
        The backend cannot be used here.
    InvalidInputError
        The backend has no numbered devices, or does not support the number of threads.
    """

    name: ClassVar[str]
    has_strict: ClassVar[bool] = False
    strict: bool = False

    options: ClassVar[Mapping[str, str]] = MappingProxyType({})
    """Options that a request may append to the name, as in ``cupy+tf32``, and their effects. Each
    is a keyword argument of the class, False by default."""

    bits_depend_on_threads: ClassVar[bool] = False
    """Whether results depend on the number of threads. For one number they are the same bits."""

    @abstractmethod
    def __init__(
        self, *, device: int | None = None, threads: int | None = None, strict: bool = False
    ) -> None: ...

    @classmethod
    @abstractmethod
    def probe(cls) -> Availability:
        """Test whether this backend works on this machine, by using it. Never raises."""

    @classmethod
    @abstractmethod
    def preference(cls, workload: Workload) -> Preference:
        """Return how well this backend suits a workload; called only if it is usable."""

    @abstractmethod
    def device(self) -> Device:
        """Describe the hardware and libraries of this backend."""

    @abstractmethod
    def compile(self, spec: EngineSpec) -> Engine:
        """Build an engine with parameters of zero, ready for :meth:`Engine.load`."""
