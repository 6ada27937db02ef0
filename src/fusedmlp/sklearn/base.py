"""What both estimators share: how fit goes, and prediction.

Parameters and their types are in parameters.py, labels and targets in classifier.py and
regressor.py, the epoch in stochastic.py, and the mathematics in the engines. The order of all
random draws is scikit-learn's: with the same ``random_state`` an estimator starts from the same
weights and sees the same batches.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import train_test_split
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fusedmlp.backend import Backend, Engine, State, Workload
from fusedmlp.model import MLP
from fusedmlp.network import Network, Objective, Parameters, zeros
from fusedmlp.optimizers import SGD, Adam, Optimizer
from fusedmlp.registry import create, select
from fusedmlp.sklearn.lbfgs import minimise
from fusedmlp.sklearn.parameters import (
    CONSTRAINTS,
    HIDDEN,
    OUTPUTS,
    STOCHASTIC_SOLVERS,
    Fitted,
)
from fusedmlp.sklearn.stochastic import Epochs, LearningRate

if TYPE_CHECKING:
    import numpy.typing as npt
    from sklearn.utils import Tags

    from fusedmlp.types import FloatArray, FloatDtype, Inputs, IntArray

FEW_NUMBERS: Final = 2**17
"""Inputs to predict up to this size, some hundred rows, are checked by one fast call."""

MOST_AUTO_ROWS: Final = 200
"""Rows of a batch with ``batch_size="auto"``, at most; scikit-learn's."""


class BaseMLP(BaseEstimator, Fitted):
    """Parameters, fitting and prediction; not for direct use."""

    _parameter_constraints: ClassVar[dict[str, list[object]]] = CONSTRAINTS

    @abstractmethod
    def _encode(
        self, X: Inputs, y: npt.ArrayLike, incremental: bool, reset: bool
    ) -> tuple[Inputs, npt.NDArray[Any], npt.NDArray[Any]]:
        """Check X and y; return X, y as users wrote it, and y as an engine takes it.

        Sets ``out_activation_`` and ``n_outputs_``.
        """

    @abstractmethod
    def _decode(self, outputs: FloatArray) -> npt.NDArray[Any]:
        """Turn outputs (N, K) into what ``predict`` returns."""

    @abstractmethod
    def _score_of(
        self,
        y: npt.NDArray[Any],
        predicted: npt.NDArray[Any],
        sample_weight: npt.NDArray[Any] | None,
    ) -> float:
        """Return the score that early stopping watches."""

    def _row_weights(
        self, X: Inputs, y: npt.NDArray[Any], sample_weight: npt.ArrayLike | None
    ) -> npt.NDArray[Any] | None:
        """Check the sample weights."""
        if sample_weight is None:
            return None
        checked: npt.NDArray[Any] = _check_sample_weight(sample_weight, X)
        return checked

    @_fit_context(prefer_skip_nested_validation=True)
    def fit(self, X: Inputs, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None) -> Self:
        """Fit to X (N, D) and y; see scikit-learn's estimator of this name.

        Parameters
        ----------
        X
            Numbers, dense or sparse, or a data frame. Whole numbers are numbers here, not pixels.
        y
            (N,) or (N, K) labels or targets.
        sample_weight
            (N,), at least 0.
        """
        return self._fit(X, y, sample_weight, incremental=False)

    def _fit(
        self,
        X: Inputs,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None,
        *,
        incremental: bool,
    ) -> Self:
        hidden = self._hidden_sizes()
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        X, given, targets = self._encode(X, y, incremental, first)
        weights = self._row_weights(X, given, sample_weight)
        random_state = check_random_state(self.random_state)
        if first:
            self._start((self.n_features_in_, *hidden, self.n_outputs_), X, random_state)
        if self.solver == "lbfgs":
            self._fit_lbfgs(X, targets, weights)
        else:
            self._fit_stochastic(X, given, targets, weights, random_state, incremental)
        if not all(np.isfinite(array).all() for array in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large "
                "values and need to be preprocessed."
            )
        self._model = self._as_model()
        return self

    def _hidden_sizes(self) -> list[int]:
        sizes = np.atleast_1d(np.asarray(self.hidden_layer_sizes)).tolist()
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return [int(size) for size in sizes]

    def _start(
        self, sizes: tuple[int, ...], X: Inputs, random_state: np.random.RandomState
    ) -> None:
        """Draw the starting weights as scikit-learn does, and begin all curves anew."""
        self.n_iter_ = self.t_ = 0
        self.n_layers_ = len(sizes)
        factor = 2.0 if self.activation == "logistic" else 6.0
        dtype = self.dtype or X.dtype.name
        self.coefs_, self.intercepts_ = [], []
        for fan_in, fan_out in pairwise(sizes):
            # Glorot and Bengio (2010), with scikit-learn's factors; biases are drawn too.
            bound = np.sqrt(factor / (fan_in + fan_out))
            W = random_state.uniform(-bound, bound, (fan_in, fan_out))
            b = random_state.uniform(-bound, bound, fan_out)
            self.coefs_.append(W.astype(dtype))
            self.intercepts_.append(b.astype(dtype))
        self._dropout_seed = int(random_state.randint(2**31)) if self.dropout else 0
        if self.solver in STOCHASTIC_SOLVERS:
            self.loss_curve_, self._stalled = [], 0
            scored = self.early_stopping
            self.best_loss_ = None if scored else np.inf
            self.validation_scores_ = [] if scored else None
            self.validation_loss_curve_ = [] if scored else None
            self.best_validation_score_ = -np.inf if scored else None

    def _network(self) -> Network:
        sizes = (self.n_features_in_, *(len(b) for b in self.intercepts_))
        output = OUTPUTS[self.out_activation_]
        return Network(sizes, HIDDEN[self.activation], output, self.dropout)

    def _held(self) -> Parameters:
        return Parameters(tuple(self.coefs_), tuple(self.intercepts_))

    def _hold(self, parameters: Parameters) -> None:
        """Keep parameters as attributes; read-only, because engines have copies of their own."""
        copied = parameters.copy(cast("FloatDtype", self.coefs_[0].dtype.name))
        for array in copied:
            array.flags.writeable = False
        self.coefs_, self.intercepts_ = list(copied.weights), list(copied.biases)

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

    def _fit_lbfgs(
        self, X: Inputs, targets: npt.NDArray[Any], weights: npt.NDArray[Any] | None
    ) -> None:
        if self.dropout:
            raise ValueError(
                f"dropout={self.dropout} needs solver 'sgd' or 'adam': lbfgs minimises one "
                "function, and dropout changes it from step to step"
            )
        n_rows = int(X.shape[0])
        total = float(n_rows if weights is None else weights.sum())
        engine = self._engine(SGD(), self.alpha / total, n_rows, n_rows)
        found = minimise(
            engine,
            engine.stage(X, targets, weights),
            self._held(),
            max_iter=self.max_iter,
            max_fun=self.max_fun,
            tol=self.tol,
            verbose=bool(self.verbose),
        )
        self._hold(found.parameters)
        self.loss_, self.n_iter_ = found.loss, found.n_iter

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
        rows, held_out = self._split(targets, random_state)
        batch_size = self._batch_rows(len(rows))
        optimizer = self._optimizer()
        # With rows that weigh 1 on average, a batch weighs what it has rows.
        average = 1.0 if weights is None else float(weights[rows].mean()) or 1.0
        alpha = self.alpha / (batch_size * average)
        engine = self._engine(optimizer, alpha, batch_size, len(rows))
        if not (incremental and hasattr(self, "_slots")):
            self._new_optimizer(engine)
        engine.load(State(self._held(), self._slots, self._steps))
        data = engine.stage(X, targets, weights)
        drawing = random_state if self.shuffle else None
        outputs = self.n_outputs_ if self.out_activation_ == "identity" else 1
        epochs = Epochs(engine, data, rows, drawing, self.alpha, outputs)

        def validate() -> bool:
            score = self._score_of(
                given[held_out],
                self._decode(engine.forward(X[held_out])),
                None if weights is None else weights[held_out],
            )
            return self._note_score(score, engine.evaluate(data, held_out).loss / outputs)

        best: Parameters | None = None
        self.n_iter_ = 0
        try:
            while self.n_iter_ < (1 if incremental else self.max_iter):
                self._note_epoch(epochs.run(self._rate.now), len(rows))
                if not self.early_stopping:
                    self._note_loss()
                elif validate():
                    best = engine.parameters()
                if self._is_over():
                    break
                if not incremental and self.n_iter_ == self.max_iter:
                    warnings.warn(
                        f"Stochastic Optimizer: Maximum iterations ({self.max_iter}) reached and "
                        "the optimization hasn't converged yet.",
                        ConvergenceWarning,
                        stacklevel=4,
                    )
        except KeyboardInterrupt:
            warnings.warn("Training interrupted by user.", stacklevel=4)
        state = engine.state()
        self._slots, self._steps = state.slots, state.step
        self._hold(best or state.parameters)

    def _new_optimizer(self, engine: Engine) -> None:
        """Begin with empty moments at the first rate."""
        dtype = cast("FloatDtype", self.coefs_[0].dtype.name)
        self._slots = tuple(zeros(engine.network, dtype) for _ in engine.optimizer.slots)
        schedule = self.learning_rate if self.solver == "sgd" else "constant"
        self._rate = LearningRate(schedule, self.learning_rate_init, self.power_t)
        self._steps = 0

    def _note_epoch(self, loss: float, n_rows: int) -> None:
        self.loss_ = loss
        self.n_iter_ += 1
        self.t_ += n_rows
        self.loss_curve_.append(loss)
        if self.verbose:
            print(f"Iteration {self.n_iter_}, loss = {loss:.8f}")

    def _is_over(self) -> bool:
        """Move the rate after an epoch; True where nothing has improved for too long."""
        self._rate.epoch_ended(self.t_)
        if self._stalled <= self.n_iter_no_change:
            return False
        if self._rate.lowered():
            self._stalled = 0
            return False
        self._tell_why()
        return True

    def _split(
        self, targets: npt.NDArray[Any], random_state: np.random.RandomState
    ) -> tuple[IntArray, IntArray]:
        """Return the rows to train on and, for early stopping, those held out."""
        every = np.arange(len(targets))
        if not self.early_stopping:
            return every, every[:0]
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
        return rows, held_out

    def _batch_rows(self, n_rows: int) -> int:
        if self.batch_size == "auto":
            return min(MOST_AUTO_ROWS, n_rows)
        batch_size = int(self.batch_size)
        if batch_size > n_rows:
            warnings.warn(
                "Got `batch_size` less than 1 or larger than sample size. It is going to be "
                "clipped",
                stacklevel=5,
            )
        return min(batch_size, n_rows)

    def _note_score(self, score: float, loss: float) -> bool:
        """Note the validation score and loss of an epoch; True where the score is the best."""
        assert self.validation_scores_ is not None
        assert self.validation_loss_curve_ is not None
        assert self.best_validation_score_ is not None
        self.validation_scores_.append(score)
        self.validation_loss_curve_.append(loss)
        if self.verbose:
            print(f"Validation score: {score:f}")
        improved = not score < self.best_validation_score_ + self.tol
        self._stalled = 0 if improved else self._stalled + 1
        is_best = score > self.best_validation_score_
        if is_best:
            self.best_validation_score_ = score
        return is_best

    def _note_loss(self) -> None:
        assert self.best_loss_ is not None
        improved = not self.loss_ > self.best_loss_ - self.tol
        self._stalled = 0 if improved else self._stalled + 1
        self.best_loss_ = min(self.best_loss_, self.loss_)

    def _tell_why(self) -> None:
        if self.verbose:
            what = (
                "Validation score did not improve"
                if self.early_stopping
                else "Training loss did not improve"
            )
            print(
                f"{what} more than tol={self.tol:f} for {self.n_iter_no_change} consecutive "
                "epochs. Stopping."
            )

    def to_mlp(self) -> MLP:
        """Return the fitted network as a model of the core: to save, export or train on."""
        check_is_fitted(self)
        return self._as_model()

    def _as_model(self) -> MLP:
        network = self._network()
        model = MLP(
            network.sizes,
            network.hidden,
            network.output,
            backend=self.backend,
            dtype=cast("FloatDtype", self.coefs_[0].dtype.name),
            threads=self.threads,
        )
        model.parameters = self._held()
        labels = getattr(self, "classes_", None)
        if labels is not None and all(isinstance(label, str) for label in labels.tolist()):
            model.class_names = tuple(labels.tolist())
        self._modelled = *self.coefs_, *self.intercepts_
        return model

    def _outputs(self, X: Inputs) -> FloatArray:
        """Compute outputs (N, K) for X, checked as scikit-learn checks it."""
        check_is_fitted(self)
        held = (*self.coefs_, *self.intercepts_)
        if any(a is not b for a, b in zip(held, self._modelled, strict=True)):
            self._model = self._as_model()  # somebody has put other arrays there
        if not self._is_plain(X):
            X = validate_data(
                self, X, accept_sparse=["csr", "csc"], dtype=(np.float64, np.float32), reset=False
            )
        return self._model.forward(X)

    def _is_plain(self, X: object) -> bool:
        """Whether X needs none of scikit-learn's checks, which take longer than one row does."""
        return (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.dtype in (np.float32, np.float64)
            and X.shape[1] == self.n_features_in_
            and 0 < X.size <= FEW_NUMBERS
            and not hasattr(self, "feature_names_in_")
            and bool(np.isfinite(np.vdot(X, X)))
        )

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that sparse inputs are taken."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
