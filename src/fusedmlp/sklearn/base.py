"""What both estimators share: what is checked and drawn before a fit, and prediction.

Parameters and their types are in parameters.py, labels and targets in classifier.py and
regressor.py, training in solvers.py, and the mathematics in the engines. The order of all random
draws is scikit-learn's: with the same ``random_state`` an estimator starts from the same weights
and sees the same batches.
"""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise
from operator import is_not
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

import numpy as np
from sklearn.base import BaseEstimator, _fit_context
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fusedmlp.errors import FileFormatError, InvalidInputError
from fusedmlp.model import MLP
from fusedmlp.sklearn.callbacks import CallbackSupport
from fusedmlp.sklearn.files import EstimatorFile, load_estimator, save_estimator
from fusedmlp.sklearn.parameters import CONSTRAINTS
from fusedmlp.sklearn.solvers import Solvers

if TYPE_CHECKING:
    import numpy.typing as npt
    from sklearn.utils import Tags

    from fusedmlp.backend import Backend
    from fusedmlp.types import FloatArray, FloatDtype, Inputs

SPARSE: Final = ("csr", "csc")
"""Sparse inputs that are taken as they are; others become the first."""

FLOATS: Final = (np.dtype(np.float64), np.dtype(np.float32))
"""Types of inputs that are taken as they are; the first is that of all other numbers."""


class BaseMLP(CallbackSupport, BaseEstimator, Solvers):
    """Parameters, fitting and prediction; not for direct use."""

    _parameter_constraints: ClassVar[dict[str, list[object]]] = CONSTRAINTS
    _kind: ClassVar[str]

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

    def _row_weights(
        self, X: Inputs, y: npt.NDArray[Any], sample_weight: npt.ArrayLike | None
    ) -> npt.NDArray[Any] | None:
        """Check the sample weights."""
        if sample_weight is None:
            return None
        checked: npt.NDArray[Any] = _check_sample_weight(sample_weight, X, ensure_non_negative=True)
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
        if not first and len(hidden) + 2 != self.n_layers_:
            raise ValueError(
                f"hidden_layer_sizes={self.hidden_layer_sizes} are not the layers of the network "
                f"that this fit continues, which has {self.n_layers_ - 2}: fit anew, without "
                "warm_start"
            )
        X, given, targets = self._encode(X, y, incremental, first)
        weights = self._row_weights(X, given, sample_weight)
        random_state = check_random_state(self.random_state)
        if first:
            self._start((self.n_features_in_, *hidden, self.n_outputs_), X, random_state)
        if self.solver == "lbfgs":
            self._fit_lbfgs(X, given, targets, weights)
        else:
            self._fit_stochastic(X, given, targets, weights, random_state, incremental)
        if not all(np.isfinite(array).all() for array in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large "
                "values and need to be preprocessed."
            )
        self._keep_model()
        return self

    def _hidden_sizes(self) -> list[int]:
        sizes: list[int] = np.atleast_1d(np.asarray(self.hidden_layer_sizes)).tolist()
        if not all(isinstance(size, int) for size in sizes):
            raise TypeError(f"hidden_layer_sizes must be whole numbers, got {sizes}.")
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return sizes

    def _start(
        self, sizes: tuple[int, ...], X: Inputs, random_state: np.random.RandomState
    ) -> None:
        """Draw the starting weights as scikit-learn does, and begin all curves anew."""
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
        self._begin_curves()

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator as a safetensors file, atomically.

        The file has what ``partial_fit`` needs to go on with the same bits. ``backend``,
        ``threads`` and ``callbacks`` are not part of it.

        Raises
        ------
        InvalidInputError
            A label or parameter is of a type that such a file cannot hold.
        StorageError
            The file cannot be written; an older one is untouched.
        """
        check_is_fitted(self)
        parameters = self.get_params(deep=False)
        file = EstimatorFile(self._kind, parameters, self._network(), vars(self))
        save_estimator(Path(path), file)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        backend: str | Backend | None = None,
        threads: int | None = None,
    ) -> Self:
        """Read an estimator that :meth:`save` wrote; nothing in the file is executed.

        Parameters
        ----------
        backend, threads
            Where it is to run from now on.

        Raises
        ------
        FileFormatError
            The file is truncated, foreign, another kind of estimator, or from a newer release.
        StorageError
            The file cannot be opened.
        """
        file = load_estimator(Path(path), cls._kind)
        parameters = {**file.parameters, "backend": backend, "threads": threads}
        try:
            estimator = cls(**parameters)
            validate_parameter_constraints(cls._parameter_constraints, parameters, cls.__name__)
        except (TypeError, ValueError) as error:
            raise FileFormatError(f"{path} is not a sound estimator file: {error}") from error
        estimator.__dict__.update(file.fitted)
        return estimator

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
        return model

    def _keep_model(self) -> None:
        """Make the model that predicts, and note the arrays that it holds."""
        self._model = self._as_model()
        self._modelled = *self.coefs_, *self.intercepts_

    def _outputs(self, X: Inputs) -> FloatArray:
        """Compute outputs (N, K) for X, checked as scikit-learn checks it."""
        if "coefs_" not in vars(self):
            check_is_fitted(self)
        held = (*self.coefs_, *self.intercepts_)
        modelled = getattr(self, "_modelled", ())
        if len(held) != len(modelled) or any(map(is_not, held, modelled)):
            self._keep_model()  # it was loaded, or somebody has put other arrays there
        checked = X if self._is_plain(X) else self._checked(X)
        try:
            return self._model.forward(checked)
        except InvalidInputError:
            # Says it in scikit-learn's words.
            check_array(X, accept_sparse=SPARSE, estimator=self, input_name="X")
            raise

    def _checked(self, X: Inputs) -> Inputs:
        """Check all but that X is finite, which engines do, and make its numbers floating ones."""
        found = validate_data(self, X, accept_sparse=SPARSE, reset=False, ensure_all_finite=False)
        inputs: Inputs = found if found.dtype in FLOATS else found.astype(FLOATS[0])
        return inputs

    def _is_plain(self, X: object) -> bool:
        """Whether X needs none of scikit-learn's checks, which take longer than one row does."""
        return (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.dtype in FLOATS
            and X.shape[1] == self.n_features_in_
            and X.size > 0
            and not hasattr(self, "feature_names_in_")
        )

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that sparse inputs are taken."""
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
