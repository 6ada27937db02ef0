"""How each solver trains: from checked arrays to parameters that are kept.

What is checked and drawn before is in base.py, an epoch in stochastic.py, its curves in curves.py,
L-BFGS in lbfgs.py. The mathematics is in the engines.
"""

from __future__ import annotations

import time
import warnings
from abc import abstractmethod
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split

from fusedmlp.backend import Backend, BatchMetrics, Data, Engine, State, Workload
from fusedmlp.network import Network, Objective, Parameters, zeros
from fusedmlp.optimizers import SGD, Adam, Optimizer
from fusedmlp.registry import create, select
from fusedmlp.sklearn.callbacks import Fit, Tasks, checked
from fusedmlp.sklearn.curves import Curves
from fusedmlp.sklearn.lbfgs import minimise
from fusedmlp.sklearn.parameters import HIDDEN, KNOWN_RATES, OUTPUTS, PLANNED_RATES
from fusedmlp.sklearn.stochastic import Epochs, HeldOut, LearningRate
from fusedmlp.training.history import EpochRecord
from fusedmlp.training.schedules import Span, make_schedule

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.types import FloatDtype, Inputs, IntArray

MOST_AUTO_ROWS: Final = 200
"""Rows of a batch with ``batch_size="auto"``, at most; scikit-learn's."""

TO_CALLER: Final = 6
"""``stacklevel`` that lays a warning to whoever called ``fit``."""


class Solvers(Curves):
    """The solvers ``sgd``, ``adam`` and ``lbfgs``; not for direct use."""

    @abstractmethod
    def _score_of(self, engine: Engine, held_out: HeldOut, sums: BatchMetrics) -> float:
        """Return the score that early stopping watches; ``sums`` are of the rows held out."""

    def _network(self) -> Network:
        sizes = (self.n_features_in_, *(len(b) for b in self.intercepts_))
        output = OUTPUTS[self.out_activation_]
        return Network(sizes, HIDDEN[self.activation], output, self.dropout)

    def _held(self) -> Parameters:
        return Parameters(tuple(self.coefs_), tuple(self.intercepts_))

    def _hold(self, parameters: Parameters) -> None:
        """Keep parameters as attributes; read-only, because engines have copies of their own."""
        dtype = cast("FloatDtype", self.coefs_[0].dtype.name)
        kept = parameters if parameters.dtype == dtype else parameters.copy(dtype)
        for array in kept:
            array.flags.writeable = False
        self.coefs_, self.intercepts_ = list(kept.weights), list(kept.biases)

    def _engine(self, optimizer: Optimizer, l2: float, batch_size: int, rows: int) -> Engine:
        network = self._network()
        if isinstance(self.backend, Backend):
            backend = self.backend
        else:
            chosen = select(self.backend, Workload(network, batch_size, rows))
            backend = create(chosen, threads=self.threads)
        return backend.compile(
            network,
            optimizer,
            Objective("mean", l2),
            batch_size=batch_size,
            dtype=cast("FloatDtype", self.coefs_[0].dtype.name),
            seed=self._dropout_seed,
        )

    def _optimizer(self) -> Optimizer:
        if self.solver == "adam":
            rate = self.learning_rate_init
            return Adam(rate, self.beta_1, self.beta_2, self.epsilon, eps_hat=True)
        nesterov = self.nesterovs_momentum and self.momentum > 0
        return SGD(self.learning_rate_init, self.momentum, nesterov)

    def _fit_stochastic(
        self,
        X: Inputs,
        given: npt.NDArray[Any],
        targets: npt.NDArray[Any],
        weights: npt.NDArray[Any] | None,
        random_state: np.random.RandomState,
        incremental: bool,
    ) -> None:
        if self.early_stopping and incremental:
            raise ValueError("partial_fit does not support early_stopping=True")
        if incremental and self.learning_rate not in KNOWN_RATES:
            raise ValueError(
                f"partial_fit does not support learning_rate={self.learning_rate!r}, which is "
                f"planned for all epochs of a fit: use one of {', '.join(KNOWN_RATES)}"
            )
        self._begin_missing_curves()
        rows, held_out = self._split(X, given, targets, weights, random_state)
        batch_size = self._batch_rows(len(rows))
        # With rows that weigh 1 on average, a batch weighs what it has rows.
        average = 1.0 if weights is None else float(weights[rows].mean()) or 1.0
        alpha = self.alpha / (batch_size * average)
        engine = self._engine(self._optimizer(), alpha, batch_size, len(rows))
        slots = getattr(self, "_slots", None) if incremental else None
        if slots is None or len(slots) != len(engine.optimizer.slots):
            self._new_optimizer(engine)
        elif self._rate.plan is not None:
            self._rate.plan = None  # which has ended: its last rate stays
        engine.load(State(self._held(), self._slots, self._steps))
        data = engine.stage(X, targets, weights)
        drawing = random_state if self.shuffle else None
        outputs = self.n_outputs_ if self.out_activation_ == "identity" else 1
        epochs = Epochs(engine, data, rows, drawing, self.alpha, outputs)
        most = 1 if incremental else self.max_iter
        callbacks = () if incremental else checked(self.callbacks)
        validated = held_out is not None
        fit = Fit(engine, callbacks, epochs=most, rows=len(rows), validated=validated)
        tasks = None if incremental else self._tasks("epoch", X, given, weights)
        self.n_iter_ = 0
        try:
            best = self._run(epochs, fit, tasks, data, held_out)
            state = engine.state()
            self._slots, self._steps = state.slots, state.step
            self._hold(best or state.parameters)
            if tasks is not None:
                tasks.end()
        finally:
            fit.end()

    def _run(
        self, epochs: Epochs, fit: Fit, tasks: Tasks | None, data: Data, held_out: HeldOut | None
    ) -> Parameters | None:
        """Train epoch after epoch until it is over; return the parameters of the best score."""
        best: Parameters | None = None
        try:
            fit.begin()
            while self.n_iter_ < fit.epochs and fit.history.stopped is None:
                if self._epoch(epochs, fit, tasks, data, held_out):
                    best = fit.engine.parameters()
                if self._is_over():
                    break
                if tasks is not None and self.n_iter_ == self.max_iter:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and "
                        "the optimization hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=TO_CALLER,
                    )
        except KeyboardInterrupt:
            fit.stop("interrupted")
            warnings.warn("Training interrupted by user.", stacklevel=TO_CALLER)
        return best

    def _epoch(
        self, epochs: Epochs, fit: Fit, tasks: Tasks | None, data: Data, held_out: HeldOut | None
    ) -> bool:
        """Train for an epoch, note what it came to and tell; True where its score is the best."""
        engine, is_best, valued = fit.engine, False, fit.engine.network.predicts_values
        if tasks is not None:
            tasks.next_begins()
        losses = self.loss_curve_[len(self.loss_curve_) - self.n_iter_ :]
        steps, done = epochs.steps, self.n_iter_ * epochs.steps
        rates = self._rate.rates(Span(done, steps, steps, fit.epochs, losses))
        began = time.perf_counter()
        sums = epochs.run(rates, fit.rows_done)
        seconds = time.perf_counter() - began
        self._note_epoch(epochs.loss(sums), fit.rows)
        validated: BatchMetrics | None = None
        if held_out is None:
            self._note_best_loss()
        else:
            validated = engine.evaluate(data, held_out.rows)
            score = self._score_of(engine, held_out, validated)
            is_best = self._note_score(score, validated.loss / epochs.outputs)
        fit.epoch_ended(
            EpochRecord(
                epoch=self.n_iter_,
                step=self.n_iter_ * fit.steps_per_epoch,
                lr=float(rates[-1]),
                train_loss=sums.loss,
                train_accuracy=None if valued else sums.accuracy,
                validation_loss=None if validated is None else validated.loss,
                validation_accuracy=None if valued or validated is None else validated.accuracy,
                seconds=seconds,
                samples_per_s=fit.rows / seconds,
            )
        )
        if tasks is not None and tasks.ended(engine.parameters):
            fit.stop("a callback asked for it")
        return is_best

    def _new_optimizer(self, engine: Engine) -> None:
        """Begin with empty moments at the first rate."""
        dtype = cast("FloatDtype", self.coefs_[0].dtype.name)
        self._slots = tuple(zeros(engine.network, dtype) for _ in engine.optimizer.slots)
        asked, plan = self.learning_rate, None
        if not isinstance(asked, str) or asked in PLANNED_RATES:
            asked, plan = "planned", make_schedule(asked) if isinstance(asked, str) else asked
        elif self.solver != "sgd":
            asked = "constant"
        self._rate = LearningRate(asked, self.learning_rate_init, self.power_t, plan=plan)
        self._steps = 0

    def _split(
        self,
        X: Inputs,
        given: npt.NDArray[Any],
        targets: npt.NDArray[Any],
        weights: npt.NDArray[Any] | None,
        random_state: np.random.RandomState,
    ) -> tuple[IntArray, HeldOut | None]:
        """Return the rows to train on and, for early stopping, those held out."""
        every = np.arange(len(targets))
        if not self.early_stopping:
            return every, None
        binary = self.out_activation_ == "logistic" and self.n_outputs_ == 1
        rows, held_out = train_test_split(
            every,
            random_state=random_state,
            test_size=self.validation_fraction,
            stratify=targets.astype(bool) if binary else None,
        )
        if len(held_out) < 2:
            raise ValueError(
                "The validation set is too small. Increase 'validation_fraction' or the size of "
                "your dataset."
            )
        their_weights = None if weights is None else weights[held_out]
        return rows, HeldOut(held_out, X, given[held_out], their_weights)

    def _batch_rows(self, n_rows: int) -> int:
        if self.batch_size == "auto":
            return min(MOST_AUTO_ROWS, n_rows)
        batch_size = int(self.batch_size)
        if batch_size > n_rows:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be "
                "clipped",
                stacklevel=TO_CALLER,
            )
        return min(batch_size, n_rows)

    def _fit_lbfgs(
        self,
        X: Inputs,
        given: npt.NDArray[Any],
        targets: npt.NDArray[Any],
        weights: npt.NDArray[Any] | None,
    ) -> None:
        if self.dropout:
            raise ValueError(
                f"dropout={self.dropout} needs solver 'sgd' or 'adam': lbfgs minimises one "
                "function, and dropout changes it from step to step"
            )
        if checked(self.callbacks):
            raise ValueError(
                f"callbacks={self.callbacks} need solver 'sgd' or 'adam': lbfgs has no epochs; "
                "set_callbacks() takes scikit-learn's, which hear of iterations too"
            )
        n_rows = int(X.shape[0])
        total = float(n_rows if weights is None else weights.sum())
        engine = self._engine(SGD(), self.alpha / total, n_rows, n_rows)
        tasks = self._tasks("iteration", X, given, weights)
        found = minimise(
            engine,
            engine.stage(X, targets, weights),
            self._held(),
            max_iter=self.max_iter,
            max_fun=self.max_fun,
            tol=self.tol,
            verbose=bool(self.verbose),
            tasks=tasks,
            stacklevel=TO_CALLER,
        )
        self._hold(found.parameters)
        vars(self).pop("_slots", None)  # of an optimizer that trained other weights
        self.loss_, self.n_iter_ = found.loss, found.n_iter
        tasks.end()

    def _tasks(
        self, name: str, X: Inputs, y: npt.NDArray[Any], weights: npt.NDArray[Any] | None
    ) -> Tasks:
        """Begin the fit as scikit-learn's callbacks see it."""
        # Documented as the way in, its underscore notwithstanding.
        begin = getattr(self, "_init_callback_context", None)
        root = None if begin is None else begin(max_subtasks=self.max_iter)
        metadata = None if weights is None else {"sample_weight": weights}
        told = {"estimator": self, "X": X, "y": y, "metadata": metadata}
        return Tasks(root, name, self.max_iter, told)
