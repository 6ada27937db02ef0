"""What a contestant is to the worker that runs it. No library is named here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.bench.material import Material
    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import FloatArray, IntArray


class UnsupportedError(Exception):
    """The peer cannot do the task, for the reason that the message gives."""


class Outcome(NamedTuple):
    """Mean loss and share predicted right over the rows of a call; None where not computed."""

    loss: float
    accuracy: float | None


class Training(ABC):
    """One network in training by one library, its data where the library wants it."""

    exact: bool = True
    """Whether the weights can be compared: not where the library draws its own dropout masks."""

    @abstractmethod
    def epoch(self, order: IntArray) -> Outcome:
        """Train on every batch of ``order``, the smaller last one too; finish before returning."""

    @abstractmethod
    def weights(self) -> list[FloatArray]:
        """Return W1, b1, W2, b2, … as host arrays, each W (fan-in, fan-out)."""

    def first_steps(self, order: IntArray) -> Outcome:
        """Train exactly in this order, for the parity check; the same as :meth:`epoch` for most."""
        return self.epoch(order)


Predict: TypeAlias = "Callable[[FloatArray], FloatArray]"
"""(N, D) rows to (N, K) probabilities, both NumPy arrays."""


class Operation(ABC):
    """One operation of an engine, on data that are in place."""

    @abstractmethod
    def call(self) -> None:
        """Do it once; finish before returning."""

    @abstractmethod
    def outcome(self) -> list[FloatArray]:
        """Do it once from the starting weights; return what has to agree."""


class Peer:
    """A library, ready in this process with its threads set.

    Parameters
    ----------
    threads
        CPU threads to use, at most.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions belong to the result."""

    counts: ClassVar[Literal["flops", "bytes"]] = "flops"
    """What :meth:`limit` counts."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def device(self) -> tuple[str, bool]:
        """Say what it computes on, where it knows, and whether that is a GPU."""
        return "", False

    def training(self, task: Task, material: Material) -> Training:
        """Build the network from ``material.start`` and put the data in place."""
        raise UnsupportedError("it does not train")

    def prediction(self, task: Task, material: Material) -> Predict:
        """Build the network from ``material.start``, to predict only."""
        raise UnsupportedError("not measured for prediction")

    def operation(self, task: Task, material: Material) -> Operation:
        """Build the network from ``material.start``, for one of its operations."""
        raise UnsupportedError("not measured operation by operation")

    def limit(self, task: Task) -> Callable[[], float] | None:
        """For a limit of the machine: a call that reaches it, and returns how much it did."""
        return None

    def handover(self) -> float:
        """For a limit of the machine: seconds until one thread sees what another has written."""
        raise UnsupportedError("it does not measure handovers")
