"""The bounds of the parity check, and its verdict before anything is timed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedmlp.bench.tasks import Task

SGD_BOUND: Final = 1e-3
"""‖difference‖ / ‖movement‖ after five and a half float32 steps; a correct one is below 1e-5."""

ADAM_BOUND: Final = 3e-2
"""Several libraries add ε before they correct the bias of the second moment. In the first steps,
with 1 − β₂ᵗ near 0, that moves the weights of rarely lit pixels by a percent of their movement."""

PREDICTION_BOUND: Final = 1e-4
"""Largest difference of two probabilities."""

LOSS_BOUND: Final = 1e-3
"""Relative difference of mean losses, where weights are compared too."""

DRAWN_LOSS_BOUND: Final = 0.1
"""Relative difference of mean losses, where a library draws its own masks, or has one logistic
output for two classes, so that weights cannot be compared."""


def breach(task: Task, figures: Mapping[str, object]) -> str | None:
    """Say where a subject disagrees with the NumPy backend, or None.

    Parameters
    ----------
    figures
        The worker's answer. The multiply-add peak has no difference to judge.
    """
    if "difference" not in figures:
        return None
    loss, expected = float(str(figures["loss"])), float(str(figures["expected_loss"]))
    slack = float(str(figures.get("slack", 1.0)))
    gap = abs(loss - expected) / max(abs(expected), 1e-9)
    if not figures["exact"]:
        return _over("its mean loss", gap, DRAWN_LOSS_BOUND)
    if task.kind == "predict":
        bound, what = PREDICTION_BOUND, "a probability"
    else:
        what = "the movement of the weights"
        bound = SGD_BOUND if task.optimizer == "sgd" else ADAM_BOUND
    found = _over(what, float(str(figures["difference"])), slack * bound)
    return found or _over("its mean loss", gap, slack * LOSS_BOUND)


def _over(what: str, found: float, bound: float) -> str | None:
    if math.isfinite(found) and found <= bound:
        return None
    return f"{what} differs by {found:.3g} from the NumPy backend's, the bound is {bound:g}"
