"""What a peer is to the worker that runs it. No library is named here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.types import FloatArray, IntArray
    from peers.material import Material
    from peers.tasks import Task


class UnsupportedError(Exception):
    """This peer cannot do that task, for the reason that the message gives."""


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


class Peer:
    """A library, ready in this process with its threads set.

    Parameters
    ----------
    threads
        CPU threads to use, at most.
    """

    packages: ClassVar[tuple[str, ...]] = ()
    """Distributions whose versions belong to the result."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def training(self, task: Task, material: Material) -> Training:
        """Build the network from ``material.start`` and put the data in place."""
        raise UnsupportedError("it does not train")

    def prediction(self, task: Task, material: Material) -> Predict:
        """Build the network from ``material.start``, to predict only."""
        raise UnsupportedError("not measured for prediction")

    def speed(self, task: Task) -> Callable[[], float] | None:
        """For the peak alone: a call that computes, and returns how many operations it did."""
        return None
