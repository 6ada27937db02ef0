"""Whether a contestant computes the same thing: the bounds, and the verdict before any timing."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedmlp.bench.tasks import Task

SGD_BOUND: Final = 1e-3
"""‖difference‖ / ‖way gone‖ after five and a half float32 steps; what is right stays under 1e-5."""

ADAM_BOUND: Final = 3e-2
"""Several libraries add ε before they correct the second moment's bias: in the first steps, with
1 − β₂ᵗ near 0, that moves the weights of rarely lit pixels by a percent of the way."""

PREDICTION_BOUND: Final = 1e-4
"""Largest difference of two probabilities."""

OPERATION_BOUND: Final = SGD_BOUND
"""The same for the result of a single operation: ‖difference‖ / ‖result‖."""

LOSS_BOUND: Final = 1e-3
"""Relative, where weights are compared too: the sums are right."""

DRAWN_LOSS_BOUND: Final = 0.1
"""Relative, where a peer draws its own masks, or has one logistic output for two classes."""


def breach(task: Task, figures: Mapping[str, object]) -> str | None:
    """Say in what a peer disagrees with the NumPy backend, or None.

    Parameters
    ----------
    figures
        What the worker answered; none at all from the peak, which has nothing to agree with.
    """
    if "difference" not in figures:
        return None
    loss, expected = float(str(figures["loss"])), float(str(figures["expected_loss"]))
    gap = abs(loss - expected) / max(abs(expected), 1e-9)
    if not figures["exact"]:
        return _over("its mean loss", gap, DRAWN_LOSS_BOUND)
    if task.kind == "predict":
        bound, what = PREDICTION_BOUND, "a probability"
    elif task.kind != "train":
        bound, what = OPERATION_BOUND, f"the result of {task.kind}"
    else:
        what = "the weights' way"
        bound = SGD_BOUND if task.optimizer == "sgd" else ADAM_BOUND
    found = _over(what, float(str(figures["difference"])), bound)
    return found or _over("its mean loss", gap, LOSS_BOUND)


def _over(what: str, found: float, bound: float) -> str | None:
    if math.isfinite(found) and found <= bound:
        return None
    return f"{what} differs by {found:.3g} from the NumPy backend's, the bound is {bound:g}"
