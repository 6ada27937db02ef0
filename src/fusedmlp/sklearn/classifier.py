"""MLPClassifier: labels in, labels and probabilities out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from sklearn import neural_network
from sklearn.base import _fit_context
from sklearn.preprocessing import LabelBinarizer
from sklearn.utils import column_or_1d, compute_class_weight, compute_sample_weight
from sklearn.utils._param_validation import StrOptions
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import _check_partial_fit_first_call, type_of_target, unique_labels
from sklearn.utils.validation import validate_data

from fusedmlp.sklearn.base import SPARSE, EngineMLP
from fusedmlp.sklearn.parameters import CONSTRAINTS, check_class_weights, set_parameters

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy.typing as npt

    from fusedmlp.backend import Backend, BatchMetrics, Engine
    from fusedmlp.sklearn.solvers import ScoredRows
    from fusedmlp.training.callbacks import Callback
    from fusedmlp.training.schedules import Schedule
    from fusedmlp.types import FloatArray, FloatDtype, Inputs


class MLPClassifier(EngineMLP, neural_network.MLPClassifier):
    """Multilayer perceptron classifier, in place of scikit-learn's of the same name.

    All parameters, attributes and defaults are those of
    ``sklearn.neural_network.MLPClassifier``; ``dropout``, ``backend``, ``dtype``, ``threads``,
    ``class_weight`` and ``callbacks`` are added, and values of ``activation`` and
    ``learning_rate``.

    Parameters
    ----------
    hidden_layer_sizes
        Units of each hidden layer; a number for a single one.
    activation
        Of the hidden layers: ``identity``, ``logistic``, ``tanh``, ``relu``; also ``leaky_relu``,
        ``elu``, ``gelu`` and ``silu``, the core's activations of these names.
    solver
        ``adam``, ``sgd`` or ``lbfgs``; the last takes all rows at once, for small data sets.
    alpha
        L2 penalty λ: ½·λ·ΣW² / B is added to the mean loss of a batch of B rows.
    batch_size
        Rows of a step; ``auto`` for 200, or all where there are fewer.
    learning_rate
        ``constant``, ``invscaling`` or ``adaptive``, for ``sgd``. Also ``step``, ``exponential``,
        ``cosine``, ``inverse-scaling`` and ``one-cycle``, or an object of
        :mod:`fusedmlp.training.schedules`: planned for ``max_iter`` epochs, also for ``adam``.
    learning_rate_init
        Learning rate of the first step, for ``sgd`` and ``adam``.
    power_t
        Power of t in ``invscaling``.
    max_iter
        Epochs at most; for ``lbfgs`` its iterations.
    shuffle
        Draw a new row order for every epoch, for ``sgd`` and ``adam``.
    random_state
        Seed or generator of the starting weights, the batches and the validation rows.
    tol
        A loss or score that improves by less than this for ``n_iter_no_change`` epochs ends the
        training.
    verbose
        Print the loss of each epoch.
    warm_start
        ``fit`` goes on from the present weights.
    momentum, nesterovs_momentum
        μ of ``sgd``, and whether it is Nesterov's.
    early_stopping
        Hold out ``validation_fraction`` of the rows, end when their score no longer improves, and
        keep the best weights.
    validation_fraction
        Share of the rows that are held out for ``early_stopping``.
    beta_1, beta_2, epsilon
        Decay rates of the moments of ``adam``, and its ε.
    n_iter_no_change
        Epochs without improvement before the training ends.
    max_fun
        Evaluations of the loss at most, for ``lbfgs``.
    dropout
        Probability in [0, 1) with which a hidden unit is silenced in a training step.
    backend
        ``numpy``, ``numba``, ``cupy``, ``cupy:1``, ``auto`` or a built backend; None takes
        ``FUSEDMLP_BACKEND``, and without it chooses as ``auto`` does.
    dtype
        ``float32`` or ``float64``, of weights and arithmetic; None follows X.
    threads
        CPU threads at most; None for all that the process may use, or as many as
        ``OMP_NUM_THREADS`` allows, which joblib sets in its processes.
    class_weight
        ``balanced`` or a weight for each label; multiplies the sample weights.
    callbacks
        Objects of :class:`fusedmlp.training.callbacks.Callback`, called by ``fit``.
        ``set_callbacks`` takes those of scikit-learn, such as its ``ProgressBar``.

    Attributes
    ----------
    validation_loss_curve_
        With ``early_stopping``, the loss of the validation rows after each epoch.
    """

    _kind = "MLPClassifier"
    _parameter_constraints: ClassVar[dict[str, list[object]]] = {
        **neural_network.MLPClassifier._parameter_constraints,  # noqa: SLF001 - for subclasses
        **CONSTRAINTS,
        "class_weight": [StrOptions({"balanced"}), dict, None],
    }

    loss: ClassVar[str] = "log_loss"
    """What is minimised; an attribute, and no parameter, of scikit-learn's classifier too."""

    classes_: npt.NDArray[Any]
    class_weight: Mapping[object, float] | str | None

    def __init__(
        self,
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
        class_weight: Mapping[object, float] | str | None = None,
        callbacks: Sequence[Callback] | None = None,
    ) -> None:
        set_parameters(self, locals())

    def predict(self, X: Inputs) -> npt.NDArray[Any]:
        """Return labels: (N,), or (N, K) zeros and ones for several labels a row.

        They are sparse where the labels of ``fit`` were sparse.
        """
        outputs = self._forward_pass_fast(X)
        if self.out_activation_ == "softmax":
            numbers = outputs.argmax(axis=1)
        elif self.n_outputs_ > 1:
            several: npt.NDArray[Any] = self._label_binarizer.inverse_transform(outputs)
            return several
        else:
            # With a single class, its label is that of all rows.
            numbers = (outputs[:, 0] > 0.5) * (len(self.classes_) - 1)
        labels: npt.NDArray[Any] = self.classes_[numbers]
        return labels

    def predict_proba(self, X: Inputs) -> FloatArray:
        """Return probabilities (N, K), classes in the order of ``classes_``."""
        outputs = self._forward_pass_fast(X)
        if self.n_outputs_ > 1:
            return outputs
        return np.concatenate([1 - outputs, outputs], axis=1)

    @available_if(neural_network.MLPClassifier._check_solver)  # noqa: SLF001 - for subclasses
    @_fit_context(prefer_skip_nested_validation=True)
    def partial_fit(
        self,
        X: Inputs,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
        classes: npt.ArrayLike | None = None,
    ) -> Self:
        """Train for one epoch on some of the data.

        Parameters
        ----------
        X, y, sample_weight
            As for ``fit``.
        classes
            All labels that will occur; required by the first call.
        """
        if self.class_weight == "balanced":
            raise ValueError(
                "class_weight='balanced' is not supported by partial_fit, which does not see all "
                "labels: pass a weight for each, such as the result of "
                "sklearn.utils.compute_class_weight('balanced', classes=classes, y=all_labels)"
            )
        if _check_partial_fit_first_call(self, classes):
            several = type_of_target(y).startswith("multilabel")
            self._label_binarizer = LabelBinarizer().fit(y if several else classes)
        return self._fit(X, y, sample_weight, incremental=True)

    def _validate_input(
        self,
        X: Inputs,
        y: npt.ArrayLike,
        incremental: bool,
        reset: bool,
    ) -> tuple[Inputs, npt.NDArray[Any]]:
        """Return X and the labels, validated; the binarizer is fitted unless the fit continues.

        scikit-learn's method also encodes the labels as zeros and ones, which takes longer than a
        step on a small batch; for several classes an engine takes class numbers.
        """
        labels: npt.NDArray[Any]
        X, labels = validate_data(
            self,
            X,
            y,
            accept_sparse=SPARSE,
            multi_output=True,
            dtype=(np.float64, np.float32),
            reset=reset,
        )
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = column_or_1d(labels, warn=True)
        if not hasattr(self, "classes_") or not (self.warm_start or incremental):
            self._label_binarizer = LabelBinarizer().fit(labels)
            self.classes_ = self._label_binarizer.classes_
        else:
            self._check_classes(unique_labels(labels))
        return X, labels

    def _check_classes(self, found: npt.NDArray[Any]) -> None:
        """Raise ``ValueError`` unless the classes match the fit that this one continues."""
        if self.warm_start:
            if set(found) != set(self.classes_):
                raise ValueError(
                    "warm_start can only be used where `y` has the same classes as in the "
                    f"previous call to fit. Previously got {self.classes_}, `y` has {found}"
                )
        elif len(np.setdiff1d(found, self.classes_, assume_unique=True)):
            raise ValueError(
                "`y` has classes not in `self.classes_`. "
                f"`self.classes_` has {self.classes_}. 'y' has {found}."
            )

    def _output_activation(self) -> str:
        return "softmax" if self._label_binarizer.y_type_ == "multiclass" else "logistic"

    def _engine_targets(self, y: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if self.out_activation_ == "softmax":
            return np.searchsorted(self.classes_, y)
        encoded: npt.NDArray[Any] = self._label_binarizer.transform(y)
        return encoded.astype(bool)

    def _validation_score(self, engine: Engine, scored: ScoredRows, metrics: BatchMetrics) -> float:
        return metrics.accuracy

    def _row_weights(
        self, X: Inputs, y: npt.NDArray[Any], sample_weight: npt.ArrayLike | None
    ) -> npt.NDArray[Any] | None:
        weights = super()._row_weights(X, y, sample_weight)
        if self.class_weight is None:
            return weights
        by_class = self._class_weights(y)
        return by_class if weights is None else by_class * weights

    def _class_weights(self, y: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return the weight that the class of each row gives it: (N,)."""
        found: npt.NDArray[Any]
        if isinstance(self.class_weight, dict):
            check_class_weights(self.class_weight, y)
        elif y.ndim == 2:
            found = compute_sample_weight(self.class_weight, y)
            return found
        # In partial_fit some of the classes may not be in these rows.
        found = compute_class_weight(self.class_weight, classes=self.classes_, y=y)
        return found[np.searchsorted(self.classes_, y)]
