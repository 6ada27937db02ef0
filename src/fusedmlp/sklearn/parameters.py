"""Parameters of the estimators: names that differ from the core's, and what each may be.

Only what is added to scikit-learn's estimators, or restricted, is here; signatures with the
defaults are in classifier.py and regressor.py.
"""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING, Final

# scikit-learn has no public form of these; other packages' estimators use them too.
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from fusedmlp.backend import Backend

if TYPE_CHECKING:
    from collections.abc import Mapping

    from fusedmlp.network import HiddenActivation, Output

STOCHASTIC_SOLVERS: Final = ("sgd", "adam")

SKLEARN_RATES: Final = ("constant", "invscaling", "adaptive")
"""scikit-learn's learning rates, which only ``sgd`` follows."""

SCHEDULED_RATES: Final = ("step", "exponential", "cosine", "inverse-scaling", "one-cycle")
"""Schedules of :mod:`fusedmlp.training.schedules` by name; ``adam`` follows them too."""

HIDDEN: Final[dict[str, HiddenActivation]] = {
    "identity": "identity",
    "logistic": "sigmoid",
    "tanh": "tanh",
    "relu": "relu",
}
"""The core's hidden activation for each value of ``activation``."""

OUTPUTS: Final[dict[str, Output]] = {
    "identity": "identity",
    "logistic": "sigmoid",
    "softmax": "softmax",
    "exp": "exp",
}
"""The core's output for each value of ``out_activation_``."""

CONSTRAINTS: Final[dict[str, list[object]]] = {
    "activation": [StrOptions(set(HIDDEN))],
    "learning_rate": [StrOptions({*SKLEARN_RATES, *SCHEDULED_RATES}), HasMethods("rates")],
    "momentum": [Interval(Real, 0, 1, closed="left")],
    "dropout": [Interval(Real, 0, 1, closed="left")],
    "backend": [str, Backend, None],
    "dtype": [StrOptions({"float32", "float64"}), None],
    "threads": [Interval(Integral, 1, None, closed="left"), None],
    "callbacks": [list, tuple, None],
}
"""What is checked before a fit, beside or in place of scikit-learn's own constraints."""


def set_parameters(estimator: object, arguments: Mapping[str, object]) -> None:
    """Set every parameter of a constructor, unchanged, as scikit-learn's conventions ask.

    Parameters
    ----------
    arguments
        ``locals()`` of the constructor.
    """
    vars(estimator).update((name, value) for name, value in arguments.items() if name != "self")
