"""scikit-learn's parameters and attributes of an MLP: names, types and what each may be.

Signatures with the defaults are in classifier.py and regressor.py.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Final

import numpy as np

# scikit-learn has no public form of these; estimators outside it have long used them.
from sklearn.utils._param_validation import HasMethods, Interval, Options, StrOptions

from fusedmlp.backend import Backend

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp.network import HiddenActivation, Output, Parameters
    from fusedmlp.sklearn.stochastic import LearningRate
    from fusedmlp.training.callbacks import Callback
    from fusedmlp.training.schedules import Schedule
    from fusedmlp.types import FloatArray, FloatDtype

STOCHASTIC_SOLVERS: Final = ("sgd", "adam")

KNOWN_RATES: Final = ("constant", "invscaling", "adaptive")
"""scikit-learn's learning rates, which ``sgd`` alone obeys."""

PLANNED_RATES: Final = ("step", "exponential", "cosine", "inverse-scaling", "one-cycle")
"""Those of :mod:`fusedmlp.training.schedules` that go by other names; ``adam`` obeys them too."""

HIDDEN: Final[dict[str, HiddenActivation]] = {
    "identity": "identity",
    "logistic": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
}
"""Our names of scikit-learn's activations."""

OUTPUTS: Final[dict[str, Output]] = {
    "identity": "identity",
    "logistic": "sigmoid",
    "softmax": "softmax",
    "exp": "exp",
}
"""Our names of scikit-learn's output activations."""

CONSTRAINTS: Final[dict[str, list[object]]] = {
    "hidden_layer_sizes": ["array-like", Interval(Integral, 1, None, closed="left")],
    "activation": [StrOptions(set(HIDDEN))],
    "solver": [StrOptions({"lbfgs", *STOCHASTIC_SOLVERS})],
    "alpha": [Interval(Real, 0, None, closed="left")],
    "batch_size": [StrOptions({"auto"}), Interval(Integral, 1, None, closed="left")],
    "learning_rate": [StrOptions({*KNOWN_RATES, *PLANNED_RATES}), HasMethods("rates")],
    "learning_rate_init": [Interval(Real, 0, None, closed="neither")],
    "power_t": [Interval(Real, 0, None, closed="left")],
    "max_iter": [Interval(Integral, 1, None, closed="left")],
    "shuffle": ["boolean"],
    "random_state": ["random_state"],
    "tol": [Interval(Real, 0, None, closed="left")],
    "verbose": ["verbose"],
    "warm_start": ["boolean"],
    "momentum": [Interval(Real, 0, 1, closed="left")],
    "nesterovs_momentum": ["boolean"],
    "early_stopping": ["boolean"],
    "validation_fraction": [Interval(Real, 0, 1, closed="left")],
    "beta_1": [Interval(Real, 0, 1, closed="left")],
    "beta_2": [Interval(Real, 0, 1, closed="left")],
    "epsilon": [Interval(Real, 0, None, closed="neither")],
    "n_iter_no_change": [
        Interval(Integral, 1, None, closed="left"),
        Options(Real, {np.inf}),
    ],
    "max_fun": [Interval(Integral, 1, None, closed="left")],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "backend": [str, Backend, None],
    "dtype": [StrOptions({"float32", "float64"}), None],
    "threads": [Interval(Integral, 1, None, closed="left"), None],
    "callbacks": [list, tuple, None],
}
"""What scikit-learn checks of each parameter before a fit."""


def trains_in_epochs(estimator: Fitted) -> bool:
    """Raise unless ``partial_fit`` makes sense: the form that ``available_if`` asks for."""
    if estimator.solver not in STOCHASTIC_SOLVERS:
        raise AttributeError(
            "partial_fit is only available for stochastic optimizers. "
            f"{estimator.solver} is not stochastic."
        )
    return True


class Fitted:
    """Parameters and fitted attributes by type; the estimators give them their values."""

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
    random_state: int | np.random.RandomState | None
    tol: float
    verbose: bool | int
    warm_start: bool
    momentum: float
    nesterovs_momentum: bool
    early_stopping: bool
    validation_fraction: float
    beta_1: float
    beta_2: float
    epsilon: float
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

    _dropout_seed: int = 0
    _stalled: int = 0
    _slots: tuple[Parameters, ...]
    _steps: int
    _rate: LearningRate
