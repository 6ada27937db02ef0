"""MLPRegressor: one or several real targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn import neural_network
from sklearn.base import _fit_context
from sklearn.metrics import r2_score
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if

from fusedmlp.sklearn.base import EngineMLP
from fusedmlp.sklearn.parameters import CONSTRAINTS, set_parameters

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from fusedmlp.backend import Backend, BatchMetrics, Engine
    from fusedmlp.sklearn.solvers import ScoredRows
    from fusedmlp.training.callbacks import Callback
    from fusedmlp.training.schedules import Schedule
    from fusedmlp.types import FloatArray, FloatDtype, Inputs


class MLPRegressor(EngineMLP, neural_network.MLPRegressor):
    """Multilayer perceptron regressor, in place of scikit-learn's of the same name.

    All parameters, attributes and defaults are those of
    ``sklearn.neural_network.MLPRegressor``; ``dropout``, ``backend``, ``dtype``, ``threads`` and
    ``callbacks`` are added, and values of ``activation`` and ``learning_rate``. All but ``loss``
    are explained at :class:`fusedmlp.sklearn.MLPClassifier`.

    Parameters
    ----------
    loss
        ``squared_error``, or ``poisson`` for counts and rates of at least 0.
    """

    _kind = "MLPRegressor"
    _parameter_constraints: ClassVar[dict[str, list[object]]] = {
        **neural_network.MLPRegressor._parameter_constraints,  # noqa: SLF001 - for subclasses
        **CONSTRAINTS,
        "loss": [StrOptions({"squared_error", "poisson"})],
    }

    loss: str

    def __init__(
        self,
        loss: str = "squared_error",
        hidden_layer_sizes: Sequence[int] | int = (100,),
        activation: str = "relu",
        *,
        solver: str = "adam",
        alpha: float = 0.0001,
        batch_size: int | str = "auto",
        learning_rate: str | Schedule = "constant",
        learning_rate_init: float = 0.001,
        power_t: float = 0.5,
        max_iter: int = 200,
        shuffle: bool = True,
        random_state: int | np.random.RandomState | None = None,
        tol: float = 1e-4,
        verbose: bool | int = False,
        warm_start: bool = False,
        momentum: float = 0.9,
        nesterovs_momentum: bool = True,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        n_iter_no_change: float = 10,
        max_fun: int = 15000,
        dropout: float = 0.0,
        backend: str | Backend | None = None,
        dtype: FloatDtype | None = None,
        threads: int | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        set_parameters(self, locals())

    def predict(self, X: Inputs) -> FloatArray:
        """Return values: (N,), or (N, K) for several targets."""
        return self._values(self._forward_pass_fast(X))

    @available_if(neural_network.MLPRegressor._check_solver)  # noqa: SLF001 - for subclasses
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self, X: Inputs, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
    ) -> Self:
        """Train for one epoch on some of the data; the arguments are those of ``fit``."""
        return self._fit(X, y, sample_weight, incremental=True)

    def _output_activation(self) -> str:
        return "exp" if self.loss == "poisson" else "identity"

    def _engine_targets(self, y: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return y.reshape(len(y), -1)

    def _values(self, outputs: FloatArray) -> FloatArray:
        return outputs[:, 0] if self.n_outputs_ == 1 else outputs

    def _validation_score(self, engine: Engine, scored: ScoredRows, metrics: BatchMetrics) -> float:
        predicted = self._values(engine.forward(scored.X[scored.rows]))
        if not np.isfinite(predicted).all():
            return float("nan")
        return float(r2_score(scored.y, predicted, sample_weight=scored.sample_weight))
