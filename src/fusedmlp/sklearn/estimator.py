"""An estimator's data, optimizer, network and engine, and the types of its attributes.

The attributes are set elsewhere, some of them by scikit-learn's base classes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

from sklearn.base import BaseEstimator
from sklearn.neural_network._stochastic_optimizers import SGDOptimizer

from fusedmlp.backend import Backend, Engine, EngineSpec, Workload
from fusedmlp.io.convert import SKLEARN_HIDDEN, SKLEARN_OUTPUTS
from fusedmlp.network import Network, Objective, Parameters
from fusedmlp.optimizers import SGD, Adam, Optimizer
from fusedmlp.registry import create, select

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    import numpy.typing as npt

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
        Labels or targets as users write them: (N,) or (N, K).
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


class NetworkEstimator(BaseEstimator):
    """The network of an estimator, and the types of its attributes; a base class of both."""

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

    def _network(self) -> Network:
        sizes = (self.n_features_in_, *(len(b) for b in self.intercepts_))
        output = SKLEARN_OUTPUTS[self.out_activation_]
        return Network(sizes, SKLEARN_HIDDEN[self.activation], output, self.dropout)

    def _parameters(self) -> Parameters:
        return Parameters(tuple(self.coefs_), tuple(self.intercepts_))

    def _set_parameters(self, parameters: Parameters) -> None:
        """Set the weights; read-only, because engines compute with copies of them."""
        dtype = cast("FloatDtype", self.coefs_[0].dtype.name)
        kept = parameters if parameters.dtype == dtype else parameters.copy(dtype)
        for array in kept:
            array.flags.writeable = False
        self.coefs_, self.intercepts_ = list(kept.weights), list(kept.biases)

    def _engine(self, optimizer: Optimizer, l2: float, batch_size: int, rows: int) -> Engine:
        """Build the engine that trains, which also reports what a penalty is computed from."""
        network = self._network()
        if isinstance(self.backend, Backend):
            backend = self.backend
        else:
            chosen = select(self.backend, Workload(network, batch_size, rows))
            backend = create(chosen, threads=self.threads)
        return backend.compile(
            EngineSpec(
                network,
                optimizer,
                Objective("mean", l2),
                batch_size=batch_size,
                dtype=cast("FloatDtype", self.coefs_[0].dtype.name),
                seed=self._dropout_seed,
                sums_squares=l2 != 0.0,
            )
        )

    def _core_optimizer(self) -> Optimizer:
        if self.solver == "adam":
            rate = self.learning_rate_init
            return Adam(rate, self.beta_1, self.beta_2, self.epsilon, eps_hat=True)
        nesterov = self.nesterovs_momentum and self.momentum > 0
        return SGD(self.learning_rate_init, self.momentum, nesterov)
