"""Early stopping: the settings, and the best epoch of a history. keeper.py applies it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from fusedmlp.errors import InvalidInputError
from fusedmlp.scalars import flag, store_reals, whole

if TYPE_CHECKING:
    from fusedmlp.training.history import History


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """Stop when a metric has not improved for some epochs, and restore the best epoch's weights.

    Parameters
    ----------
    monitor
        ``loss`` (lower is better) or ``accuracy`` (higher is better): of the validation rows where
        there are any, else of the training rows.
    patience
        Number of successive epochs without improvement that ends the training.
    min_delta
        Smallest change that counts as an improvement.
    restore_best
        Leave the model with the weights of the best epoch instead of the last.
    """

    monitor: Literal["loss", "accuracy"] = "loss"
    patience: int = 10
    min_delta: float = 0.0
    restore_best: bool = True

    def __post_init__(self) -> None:
        if self.monitor not in ("loss", "accuracy"):
            raise InvalidInputError(f"monitor {self.monitor!r} is not 'loss' or 'accuracy'")
        object.__setattr__(self, "patience", whole("patience", self.patience))
        object.__setattr__(self, "restore_best", flag("restore_best", self.restore_best))
        store_reals(self, "min_delta")
        if not self.min_delta >= 0.0:
            raise InvalidInputError(f"min_delta {self.min_delta} is not at least 0")

    def best_epoch(self, history: History, *, validated: bool) -> int:
        """Return the number of the best epoch, from 1; it depends on the history alone.

        Raises
        ------
        InvalidInputError
            Accuracy is monitored, and the network's output has no accuracy.
        """
        values = history.column(f"{'validation' if validated else 'train'}_{self.monitor}")
        sign = 1.0 if self.monitor == "loss" else -1.0
        best, best_epoch = math.inf, 0
        for epoch, value in enumerate(values, start=1):
            if value is None:
                raise InvalidInputError(
                    f"early stopping monitors {self.monitor}, which an identity output does not "
                    "have: monitor 'loss'"
                )
            if sign * value < best - self.min_delta or not best_epoch:
                best, best_epoch = sign * value, epoch
        return best_epoch


def as_early_stopping(request: EarlyStopping | bool | int | None) -> EarlyStopping | None:
    """Return the settings of early stopping; None to train all epochs.

    Parameters
    ----------
    request
        The settings; True for the defaults, a whole number for that ``patience``; False or None.

    Raises
    ------
    InvalidInputError
        It is none of these.
    """
    if request is None or isinstance(request, EarlyStopping):
        return request
    if isinstance(request, bool | np.bool_):
        return EarlyStopping() if request else None
    if isinstance(request, int | np.integer):
        return EarlyStopping(patience=int(request))
    raise InvalidInputError(
        f"early_stopping {request!r:.80} is no EarlyStopping(…), True or a whole number of epochs"
    )
