"""What the parameters of the estimators may be, where scikit-learn's own constraints differ.

Signatures with the defaults are in classifier.py and regressor.py.
"""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import TYPE_CHECKING, Final

# scikit-learn has no public form of these; other packages' estimators use them too.
from sklearn.utils._param_validation import HasMethods, Interval, StrOptions

from fusedmlp.backend import Backend
from fusedmlp.io.convert import SKLEARN_HIDDEN

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    import numpy.typing as npt

STOCHASTIC_SOLVERS: Final = ("sgd", "adam")

SKLEARN_RATES: Final = ("constant", "invscaling", "adaptive")
"""scikit-learn's learning rates, which only ``sgd`` follows."""

SCHEDULED_RATES: Final = ("step", "exponential", "cosine", "inverse-scaling", "one-cycle")
"""Schedules of :mod:`fusedmlp.training.schedules` by name; ``adam`` follows them too."""

CONSTRAINTS: Final[dict[str, list[object]]] = {
    "activation": [StrOptions(set(SKLEARN_HIDDEN))],
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
    """Set every parameter of a constructor unchanged, as scikit-learn's conventions require.

    Parameters
    ----------
    arguments
        ``locals()`` of the constructor.
    """
    vars(estimator).update((name, value) for name, value in arguments.items() if name != "self")


def check_class_weights(weights: Mapping[object, object], y: npt.NDArray[np.generic]) -> None:
    """Raise ``ValueError`` unless weights by class suit labels, (N,) or (N, K).

    Raises
    ------
    ValueError
        A weight is no finite number of at least 0, or a row has several labels.
    """
    for label, weight in weights.items():
        if not isinstance(weight, Real) or not 0.0 <= float(weight) < math.inf:
            raise ValueError(
                f"class_weight gives class {label!r} the weight {weight!r}: a weight is a finite "
                "number of at least 0"
            )
    if y.ndim == 2:
        raise ValueError(
            f"class_weight={weights} has a weight for each class, but a row of y has "
            f"{y.shape[1]} labels, each of which is 0 or 1: pass 'balanced' or sample_weight"
        )
