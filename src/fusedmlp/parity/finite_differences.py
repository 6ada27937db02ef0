"""An engine's gradients against central differences of its own loss, in float64.

This comparison needs no second backend: it finds a fault that all backends have in common.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.backend import State
from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS, Objective, Parameters
from fusedmlp.parity.comparison import Finding
from fusedmlp.parity.problems import engine, problem
from fusedmlp.tolerance import GRADIENT_BOUND, GRADIENT_STEP

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedmlp.backend import Backend, Data, Engine
    from fusedmlp.network import HiddenActivation, Output
    from fusedmlp.types import IntArray

PROBES: Final = 6
"""Number of entries of each array that are moved."""

OBJECTIVES: Final = (Objective("mean", 0.2), Objective("sum"))


@dataclass(frozen=True, slots=True)
class GradientCheck(Finding):
    """Gradients of one network on one backend; ``found`` is relative to max(1, |gradient|)."""

    backend: str
    hidden: HiddenActivation
    output: Output
    reduction: str
    found: float
    at: str
    bound: float = GRADIENT_BOUND

    @property
    def is_met(self) -> bool:
        """See :class:`~fusedmlp.parity.comparison.Finding`."""
        return self.found <= self.bound

    def describe(self) -> str:
        """See :class:`~fusedmlp.parity.comparison.Finding`."""
        return (
            f"gradient of {self.at}, {self.hidden} units, {self.output} output, {self.reduction}, "
            f"on {self.backend}: {self.found:.3g} from the slope of its loss, allowed "
            f"{self.bound:.3g}"
        )


def gradient_checks(name: str, backend: Backend) -> Iterator[GradientCheck]:
    """Check every activation with every output and both reductions."""
    for hidden, output, objective in product(HIDDEN_ACTIVATIONS, OUTPUTS, OBJECTIVES):
        yield gradient_check(name, backend, hidden, output, objective)


def gradient_check(
    name: str, backend: Backend, hidden: HiddenActivation, output: Output, objective: Objective
) -> GradientCheck:
    """Move drawn parameters by ±GRADIENT_STEP, and compare slopes with gradients.

    The network has dropout, the rows have weights, and one row comes twice.
    """
    task = problem((4, 6, 5, 3), hidden, output, dropout=0.3, weighted=True, rows=9)
    built, data = engine(backend, task, "sgd", objective, batch_size=9)
    rows = np.array([0, 3, 3, 8, 5])
    parameters = built.parameters()
    _, gradients = built.loss_and_gradients(data, rows)
    rng = np.random.default_rng(0)
    worst, worst_at = 0.0, "nowhere"
    for index, gradient in enumerate(gradients):
        for _ in range(PROBES):
            at = tuple(int(rng.integers(n)) for n in gradient.shape)
            values = []
            for sign in (1.0, -1.0):
                arrays = [array.copy() for array in parameters]
                arrays[index][at] += sign * GRADIENT_STEP
                moved = Parameters(tuple(arrays[0::2]), tuple(arrays[1::2]))
                values.append(_objective_value(built, data, rows, moved))
            slope = (values[0] - values[1]) / (2.0 * GRADIENT_STEP)
            apart = float(abs(slope - gradient[at])) / max(1.0, abs(slope))
            if not apart <= worst:  # so that NaN counts
                worst = apart if np.isfinite(apart) else np.inf
                worst_at = f"{'Wb'[index % 2]}{index // 2 + 1}{list(at)}"
    return GradientCheck(name, hidden, output, objective.reduction, worst, worst_at)


def _objective_value(built: Engine, data: Data, rows: IntArray, parameters: Parameters) -> float:
    """Reduced loss plus penalty, from the engine's sums at the same step, with the same masks."""
    built.load(State(parameters, (), 0))
    sums, _ = built.loss_and_gradients(data, rows)
    reduced = float(sums.losses[0])
    if built.objective.reduction == "mean":
        reduced = reduced / float(sums.weights[0])
    penalty = sum(float((W**2).sum()) for W in parameters.weights)
    return reduced + 0.5 * built.objective.l2 * penalty
