"""How each solver trains, from a checked data set to the fitted attributes.

``sgd`` and ``adam`` run the loop of :mod:`fusedmlp.training.loop` with scikit-learn's row order,
learning rates and stopping rule; ``lbfgs`` is in lbfgs.py. The mathematics is in the engines.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from fusedmlp.backend import BatchMetrics, Data, Engine, State
from fusedmlp.network import Parameters, zeros
from fusedmlp.optimizers import SGD
from fusedmlp.sklearn.callbacks import (
    EpochTasks,
    FitTasks,
    checked_callbacks,
)
from fusedmlp.sklearn.curves import Curves
from fusedmlp.sklearn.epochs import PenalisedEpochs, row_order
from fusedmlp.sklearn.estimator import EngineOptimizer, FitData
from fusedmlp.sklearn.lbfgs import minimise
from fusedmlp.sklearn.parameters import SKLEARN_RATES
from fusedmlp.training.loop import LoopSettings, TrainingLoop, ValidationRows
from fusedmlp.training.schedules import make_schedule

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.training.loop import FinishedEpoch
    from fusedmlp.training.schedules import Span
    from fusedmlp.types import Float64Vector, FloatDtype, Inputs, IntArray

MOST_AUTO_ROWS: Final = 200
"""Largest batch with ``batch_size="auto"``; scikit-learn's."""

STACKLEVEL: Final = 6
"""``stacklevel`` that attributes a warning to the caller of ``fit``, from a method's helper."""


NOTHING_TO_LEARN: Final = (
    "there is nothing to learn from the rows to train on: give some of them a sample weight and a "
    "class weight above 0"
)


class ScoredRows(NamedTuple):
    """The rows that early stopping scores.

    Parameters
    ----------
    rows
        (n,) row numbers of the data set.
    X
        (N, D), the whole data set.
    y, sample_weight
        Of these rows: (n,) or (n, K), and (n,) or None.
    """

    rows: IntArray
    X: Inputs
    y: npt.NDArray[Any]
    sample_weight: npt.NDArray[Any] | None


class EpochFit(NamedTuple):
    """A fit by epochs, ready to run.

    Parameters
    ----------
    rows
        (n,) row numbers to train on.
    scored
        The rows held out for early stopping, or None.
    optimizer
        The optimizer; its rate changes with the epochs.
    data, trainer
        The staged data set, and what trains the engine on it.
    """

    rows: IntArray
    scored: ScoredRows | None
    optimizer: EngineOptimizer
    data: Data
    trainer: PenalisedEpochs


class Solvers(Curves):
    """The solvers ``sgd``, ``adam`` and ``lbfgs``; a base class of the estimators."""

    @abstractmethod
    def _validation_score(self, engine: Engine, scored: ScoredRows, metrics: BatchMetrics) -> float:
        """Return the score that early stopping monitors; ``metrics`` are of the scored rows."""

    def _train_epochs(self, data: FitData, *, incremental: bool) -> None:
        """Train with ``sgd`` or ``adam``: ``max_iter`` epochs at most, or one of partial_fit."""
        fit = self._prepare_epochs(data, incremental=incremental)
        own = () if incremental else checked_callbacks(self.callbacks)
        tasks = None if incremental else self._begin_tasks("epoch", data)
        best: Parameters | None = None

        def rates(span: Span) -> Float64Vector:
            # A schedule sees the losses of this fit with the penalty, as the loss curve has them.
            first = len(self.loss_curve_) - self.n_iter_
            span = replace(span, losses=self.loss_curve_[first:])
            return self._epoch_rates(fit.optimizer, span)

        def stopping(epoch: FinishedEpoch) -> str | None:
            nonlocal best
            if self._monitor(fit, epoch):
                best = fit.trainer.engine.parameters()
            return self._stop_reason(fit.optimizer)

        settings = LoopSettings(
            epochs=1 if incremental else self.max_iter,
            rows=len(fit.rows),
            order=row_order(fit.rows, self._random_state if self.shuffle else None),
            rates=rates,
            stopping=stopping,
            validation=None if fit.scored is None else ValidationRows(fit.data, fit.scored.rows),
            callbacks=own if tasks is None else (*own, EpochTasks(tasks)),
            raise_if_diverged=False,
        )
        self.n_iter_ = 0
        with TrainingLoop(fit.trainer, settings) as loop:
            try:
                loop.run()
            except KeyboardInterrupt:
                warnings.warn("Training interrupted by user.", stacklevel=STACKLEVEL - 1)
            else:
                if not incremental:
                    self._warn_if_not_converged()
            state = loop.engine.state()
            fit.optimizer.slots, fit.optimizer.step = state.slots, state.step
            self._set_parameters(best or state.parameters)
            if tasks is not None:
                tasks.end()

    def _prepare_epochs(self, data: FitData, *, incremental: bool) -> EpochFit:
        """Split the rows, build and load the engine, and stage the data on it."""
        if incremental:
            self._check_incremental()
        self._start_missing_curves()
        rows, scored = self._split(data)
        batch_size = self._batch_rows(len(rows))
        weights = None if data.weights is None else data.weights[rows]
        _check_weight(weights, NOTHING_TO_LEARN)
        # Normalised to a mean weight of 1, the weights of a batch sum to about its rows.
        mean_weight = 1.0 if weights is None else float(weights.mean())
        alpha = float(self.alpha)  # a float32 would make all losses float32
        l2 = alpha / (batch_size * mean_weight)
        engine = self._engine(self._core_optimizer(), l2, batch_size, len(rows))
        optimizer = self._optimizer if incremental else None
        if optimizer is None or len(optimizer.slots) != len(engine.optimizer.slots):
            optimizer = self._optimizer = self._new_optimizer(engine)
        engine.load(State(self._parameters(), optimizer.slots, optimizer.step))
        staged = engine.stage(data.X, data.targets, data.weights)
        trainer = PenalisedEpochs(engine, staged, len(rows), alpha)
        return EpochFit(rows, scored, optimizer, staged, trainer)

    def _monitor(self, fit: EpochFit, epoch: FinishedEpoch) -> bool:
        """Add an epoch to the curves; return whether its validation score is the best so far."""
        self._add_loss(fit.trainer.mean_loss(epoch.training), len(fit.rows))
        if fit.scored is None or epoch.validation is None:
            self._monitor_loss()
            return False
        score = self._validation_score(fit.trainer.engine, fit.scored, epoch.validation)
        return self._monitor_score(score, epoch.validation.loss / fit.trainer.loss_divisor)

    def _check_incremental(self) -> None:
        """Raise ``ValueError`` for parameters that ``partial_fit`` does not support."""
        if self.early_stopping:
            raise ValueError("partial_fit does not support early_stopping=True")
        if self.learning_rate not in SKLEARN_RATES:
            raise ValueError(
                f"partial_fit does not support learning_rate={self.learning_rate!r}, which is "
                f"planned for all epochs of a fit: use one of {', '.join(SKLEARN_RATES)}"
            )

    def _warn_if_not_converged(self) -> None:
        if self.n_iter_ == self.max_iter and not self._has_converged:
            warnings.warn(
                f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and the "
                "optimization hasn't converged yet.",
                ConvergenceWarning,
                stacklevel=STACKLEVEL,
            )

    def _new_optimizer(self, engine: Engine) -> EngineOptimizer:
        """Return an optimizer with empty moments at its first rate."""
        dtype = cast("FloatDtype", self.coefs_[0].dtype.name)
        slots = tuple(zeros(engine.network, dtype) for _ in engine.optimizer.slots)
        if self.learning_rate not in SKLEARN_RATES:
            rule = "planned"
        else:
            rule = str(self.learning_rate) if self.solver == "sgd" else "constant"
        rate = float(self.learning_rate_init)
        return EngineOptimizer(slots, 0, rate, rule, float(self.power_t))

    def _epoch_rates(self, optimizer: EngineOptimizer, span: Span) -> Float64Vector:
        """Return the learning rate of each step of an epoch: (n_steps,)."""
        if self.learning_rate in SKLEARN_RATES:
            return np.full(span.n_steps, optimizer.learning_rate)
        planned = self.learning_rate
        schedule = make_schedule(planned) if isinstance(planned, str) else planned
        rates = schedule.rates(float(self.learning_rate_init), span)
        optimizer.learning_rate = float(rates[-1])
        return rates

    def _split(self, data: FitData) -> tuple[IntArray, ScoredRows | None]:
        """Return the rows to train on and, for early stopping, those to score."""
        every = np.arange(len(data.targets))
        if not self.early_stopping:
            return every, None
        binary = self.out_activation_ == "logistic" and self.n_outputs_ == 1
        rows, held_out = train_test_split(
            every,
            random_state=self._random_state,
            test_size=self.validation_fraction,
            stratify=data.targets.astype(bool) if binary else None,
        )
        if len(held_out) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        weights = None if data.weights is None else data.weights[held_out]
        remedy = "give some of them weight, or change 'validation_fraction' or 'random_state'"
        _check_weight(weights, f"the rows that early_stopping holds out have no score: {remedy}")
        return rows, ScoredRows(held_out, data.X, data.y[held_out], weights)

    def _batch_rows(self, n_rows: int) -> int:
        if self.batch_size == "auto":
            return min(MOST_AUTO_ROWS, n_rows)
        batch_size = int(self.batch_size)
        if batch_size > n_rows:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be "
                "clipped",
                stacklevel=STACKLEVEL + 1,
            )
        return min(batch_size, n_rows)

    def _minimise(self, data: FitData) -> None:
        """Train with ``lbfgs``."""
        if self.dropout:
            raise ValueError(
                f"dropout={self.dropout} needs solver 'sgd' or 'adam': lbfgs minimises one "
                "function, and dropout changes it from step to step"
            )
        if checked_callbacks(self.callbacks):
            raise ValueError(
                f"callbacks={self.callbacks} need solver 'sgd' or 'adam': lbfgs has no epochs; "
                "set_callbacks() takes scikit-learn's, which also follow iterations"
            )
        n_rows = int(data.X.shape[0])
        _check_weight(data.weights, NOTHING_TO_LEARN)
        total = float(n_rows if data.weights is None else data.weights.sum())
        engine = self._engine(SGD(), float(self.alpha) / total, n_rows, n_rows)
        tasks = self._begin_tasks("iteration", data)
        found = minimise(
            engine,
            engine.stage(data.X, data.targets, data.weights),
            self._parameters(),
            {"maxiter": self.max_iter, "maxfun": self.max_fun, "gtol": self.tol},
            verbose=bool(self.verbose),
            tasks=tasks,
            stacklevel=STACKLEVEL,
        )
        self._set_parameters(found.parameters)
        self._optimizer = None  # its moments were of other weights
        self.loss_, self.n_iter_ = found.loss, found.n_iter
        tasks.end()
        if found.interrupt is not None:
            raise found.interrupt

    def _begin_tasks(self, name: str, data: FitData) -> FitTasks:
        """Begin the fit for scikit-learn's callbacks."""
        # scikit-learn documents this method for estimators, its underscore notwithstanding.
        begin = getattr(self, "_init_callback_context", None)
        root = None if begin is None else begin(max_subtasks=self.max_iter)
        metadata = None if data.weights is None else {"sample_weight": data.weights}
        arguments = {"estimator": self, "X": data.X, "y": data.y, "metadata": metadata}
        return FitTasks(root, name, self.max_iter, arguments)


def _check_weight(weights: npt.NDArray[Any] | None, consequence: str) -> None:
    """Raise ``ValueError`` where the weights of some rows are all 0."""
    if weights is not None and not weights.any():
        raise ValueError(f"all {len(weights)} weights are 0, so that {consequence}")
