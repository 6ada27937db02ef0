"""The attributes of an estimator that training reads and writes, with their types.

The estimators and scikit-learn's base classes give them their values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sklearn.base import BaseEstimator
from sklearn.neural_network._stochastic_optimizers import SGDOptimizer

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

    from fusedmlp.backend import Backend
    from fusedmlp.network import Parameters
    from fusedmlp.training.callbacks import Callback
    from fusedmlp.training.schedules import Schedule
    from fusedmlp.types import FloatArray, FloatDtype, Inputs


class FitData(NamedTuple):
    """A checked data set.

    Parameters
    ----------
    X
        (N, D) floats, dense or sparse.
    y
        What scikit-learn's validation returns: (N, K) booleans of a classifier, (N,) or (N, K)
        values of a regressor.
    targets
        What an engine takes: (N,) class numbers or (N, K).
    weights
        (N,) or None.
    """

    X: Inputs
    y: npt.NDArray[Any]
    targets: npt.NDArray[Any]
    weights: npt.NDArray[Any] | None


class EngineOptimizer(SGDOptimizer):
    """The optimizer of an estimator: scikit-learn's learning rate, and the engine's state.

    Of scikit-learn's class only the rules for the learning rate are used: ``learning_rate``,
    ``iteration_ends`` and ``trigger_stopping``. Steps are taken by the engine.

    Parameters
    ----------
    slots
        Moments or velocities, each in the shapes of the parameters.
    step
        Steps taken.
    learning_rate_init, power_t
        As in the estimator.
    lr_schedule
        ``constant``, ``invscaling`` or ``adaptive``; any other name keeps the rate.
    """

    learning_rate: float
    learning_rate_init: float
    lr_schedule: str
    power_t: float

    def __init__(
        self,
        slots: tuple[Parameters, ...],
        step: int,
        learning_rate_init: float,
        lr_schedule: str,
        power_t: float,
    ) -> None:
        super().__init__([], learning_rate_init, lr_schedule, power_t=power_t)
        self.slots, self.step = slots, step


class FittedMLP(BaseEstimator):
    """Types of parameters and fitted attributes; a base class of the estimators."""

    hidden_layer_sizes: Sequence[int] | int
    activation: str
    solver: str
    alpha: float
    batch_size: int | str
    learning_rate: str | Schedule
    learning_rate_init: float
    power_t: float
    max_iter: int
    shuffle: bool
    tol: float
    verbose: bool | int
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: float
    n_iter_no_change: float
    max_fun: int
    dropout: float
    backend: str | Backend | None
    dtype: FloatDtype | None
    threads: int | None
    callbacks: Sequence[Callback] | None

    coefs_: list[FloatArray]
    intercepts_: list[FloatArray]
    n_features_in_: int
    n_outputs_: int
    n_layers_: int
    n_iter_: int
    t_: int
    out_activation_: str
    loss_: float
    loss_curve_: list[float]
    best_loss_: float | None
    validation_scores_: list[float] | None
    validation_loss_curve_: list[float] | None
    best_validation_score_: float | None

    _random_state: np.random.RandomState
    _no_improvement_count: int
    _dropout_seed: int = 0
    _optimizer: EngineOptimizer | None = None
