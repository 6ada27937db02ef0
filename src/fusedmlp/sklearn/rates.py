"""Learning rates of the solvers sgd and adam: scikit-learn's rules, or a schedule of the core."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.sklearn.parameters import SCHEDULED_RATES
from fusedmlp.training.schedules import make_schedule

if TYPE_CHECKING:
    from fusedmlp.training.schedules import Schedule, Span
    from fusedmlp.types import Float64Vector

SMALLEST_RATE: Final = 1e-6
"""An adaptive rate is not divided below this; scikit-learn's bound."""

DIVISOR: Final = 5.0
"""Divisor of an adaptive rate; scikit-learn's."""


@dataclass(slots=True)
class LearningRate:
    """A learning rate. scikit-learn's rules change it between epochs, a schedule every step.

    Parameters
    ----------
    rule
        ``constant``, ``invscaling``, ``adaptive``, or ``planned`` for a schedule.
    initial, power
        ``invscaling`` is initial / (t + 1)^power after t rows.
    current
        Rate of the next step, or of the last step of a schedule.
    schedule
        Gives the rates of a planned fit; None otherwise, and after that fit.
    """

    rule: str
    initial: float
    power: float
    current: float
    schedule: Schedule | None = None

    @classmethod
    def of_parameters(
        cls, learning_rate: str | Schedule, solver: str, initial: float, power: float
    ) -> LearningRate:
        """Return the rate at the start of a fit with these parameters of an estimator."""
        if not isinstance(learning_rate, str):
            return cls("planned", initial, power, initial, learning_rate)
        if learning_rate in SCHEDULED_RATES:
            return cls("planned", initial, power, initial, make_schedule(learning_rate))
        return cls(learning_rate if solver == "sgd" else "constant", initial, power, initial)

    def rates(self, span: Span) -> Float64Vector:
        """Return the rate of each step of an epoch: (n_steps,)."""
        if self.schedule is None:
            return np.full(span.n_steps, self.current)
        rates = self.schedule.rates(self.initial, span)
        self.current = float(rates[-1])
        return rates

    def epoch_finished(self, rows_seen: int) -> None:
        """Change the rate after an epoch; ``rows_seen`` counts those of all epochs."""
        if self.rule == "invscaling":
            self.current = self.initial / (rows_seen + 1) ** self.power

    @property
    def is_smallest(self) -> bool:
        """Whether an adaptive rate cannot be lowered any more."""
        return self.rule == "adaptive" and self.current <= SMALLEST_RATE

    def lower(self) -> bool:
        """Divide an adaptive rate; return False where training should end instead."""
        if self.rule != "adaptive" or self.is_smallest:
            return False
        self.current /= DIVISOR
        return True
