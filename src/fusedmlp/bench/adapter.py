"""The interface between the benchmark worker and whatever it measures. No library is named here.

``backend_adapter.py`` implements it for fusedmlp's backends, ``peak.py`` for the machine's peak of
multiply-adds. Adapters to other libraries are in the checkout's ``benchmarks/adapters``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.bench.inputs import Inputs
    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import FloatArray, IntArray


class UnsupportedError(Exception):
    """The subject cannot do the task, or cannot run on this machine; the message says why."""


class Outcome(NamedTuple):
    """Mean loss, and share of rows classified correctly; None where it is not computed."""

    loss: float
    accuracy: float | None


class Training(ABC):
    """One network in training, with its data in place."""

    exact: bool = True
    """Whether the weights can be compared. False where the library draws its own dropout masks."""

    slack: float = 1.0
    """Factor of the parity bounds, above 1 for products of reduced precision."""

    @abstractmethod
    def epoch(self, order: IntArray) -> Outcome:
        """Train on every batch of ``order``, the smaller last one too; finish before returning."""

    @abstractmethod
    def weights(self) -> list[FloatArray]:
        """Return W1, b1, W2, b2, … as host arrays, each W (fan-in, fan-out)."""

    def first_steps(self, order: IntArray) -> Outcome:
        """Train exactly in this order, for the parity check; :meth:`epoch` may shuffle anew."""
        return self.epoch(order)


Predict: TypeAlias = "Callable[[FloatArray], FloatArray]"
"""(N, D) rows to (N, K) probabilities, both NumPy arrays."""


class Adapter:
    """One library, loaded in this process.

    Parameters
    ----------
    threads
        CPU threads to use, at most.

    Raises
    ------
    UnsupportedError
        It cannot run on this machine.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions belong in the result."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def device(self) -> tuple[str, bool]:
        """Return the device's description, empty where unknown, and whether it is a GPU."""
        return "", False

    def training(self, task: Task, inputs: Inputs) -> Training:
        """Build the network from ``inputs.start`` and put the data in place."""
        raise UnsupportedError("it does not train")

    def prediction(self, task: Task, inputs: Inputs) -> Predict:
        """Build the network from ``inputs.start``, to predict only."""
        raise UnsupportedError("not measured for prediction")

    def peak(self, task: Task) -> Callable[[], float] | None:
        """For the multiply-add peak: a call that reaches it and returns its operations (FLOP)."""
        return None

    def handover(self) -> float:
        """For the multiply-add peak: seconds until one thread sees what another has written."""
        raise UnsupportedError("it does not measure handovers")
