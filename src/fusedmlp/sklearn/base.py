"""What both estimators share: fitting, prediction, files.

The estimators are subclasses of scikit-learn's. Its code validates parameters and targets, draws
the starting weights and changes the learning rate, so these agree by construction, and
``isinstance`` holds. Training and the forward pass are replaced.

The price is a dependence on private names: ``_init_coef``, ``_check_solver``,
``_parameter_constraints`` and ``SGDOptimizer`` are used, ``_fit``, ``_validate_input`` and
``_forward_pass_fast`` are overridden. They are the same in releases 1.6 to 1.9, with which the
tests pass; the dependency is bounded to these. ``_fit`` is overridden as a whole, and not its
solvers, because it takes no sample weights in 1.6 and allocates gradients that engines have
themselves. The label conversion and ``predict`` are overridden because scikit-learn's take longer
than a step on a small batch, or the prediction of one row.

Solvers are in solvers.py, the mathematics in the engines.
"""

from __future__ import annotations

from abc import abstractmethod
from itertools import pairwise
from operator import is_not
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

import numpy as np
from sklearn.base import _fit_context
from sklearn.utils import check_array, check_random_state
from sklearn.utils._param_validation import validate_parameter_constraints
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from fusedmlp.errors import FileFormatError, InvalidInputError
from fusedmlp.model import MLP
from fusedmlp.sklearn.callbacks import CallbackSupport
from fusedmlp.sklearn.estimator import FitData
from fusedmlp.sklearn.files import EstimatorFile, load_estimator, save_estimator
from fusedmlp.sklearn.solvers import Solvers

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.backend import Backend
    from fusedmlp.types import FloatArray, FloatDtype, Inputs

SPARSE: Final = ("csr", "csc")
"""Sparse formats that are taken as they are; others are converted to the first."""

FLOATS: Final = (np.dtype(np.float64), np.dtype(np.float32))
"""Dtypes of inputs that are taken as they are; other numbers are converted to the first."""


class EngineMLP(CallbackSupport, Solvers):
    """Fitting and prediction on engines; a base class of the estimators, before scikit-learn's."""

    _kind: ClassVar[str]

    @abstractmethod
    def _output_activation(self) -> str:
        """Return ``out_activation_``, after the targets have been validated."""

    @abstractmethod
    def _engine_targets(self, y: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Return validated targets as an engine takes them: (N,) class numbers or (N, K)."""

    def _row_weights(
        self, X: Inputs, y: npt.NDArray[Any], sample_weight: npt.ArrayLike | None
    ) -> npt.NDArray[Any] | None:
        """Return the sample weights (N,), validated, or None."""
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
            Numbers, dense or sparse, or a data frame. Integers are numbers here, not pixels.
        y
            (N,) or (N, K) labels or targets.
        sample_weight
            (N,), at least 0.
        """
        return self._fit(X, y, sample_weight)

    def _fit(
        self,
        X: Inputs,
        y: npt.ArrayLike,
        sample_weight: npt.ArrayLike | None = None,
        incremental: bool = False,
    ) -> Self:
        hidden = self._hidden_sizes()
        first = not hasattr(self, "coefs_") or not (self.warm_start or incremental)
        if not first and len(hidden) + 2 != self.n_layers_:
            raise ValueError(
                f"hidden_layer_sizes={self.hidden_layer_sizes} are not the layers of the network "
                f"that this fit continues, which has {self.n_layers_ - 2}: fit anew, without "
                "warm_start"
            )
        X, validated = self._validate_input(X, y, incremental, reset=first)
        weights = self._row_weights(X, validated, sample_weight)
        self.out_activation_ = self._output_activation()
        targets = self._engine_targets(validated)
        data = FitData(X, validated, targets, weights)
        self._random_state = check_random_state(self.random_state)
        if first:
            self.n_outputs_ = targets.shape[1] if targets.ndim == 2 else len(self.classes_)
            self._draw_weights((self.n_features_in_, *hidden, self.n_outputs_), X.dtype.name)
        if self.solver == "lbfgs":
            self._minimise(data)
        else:
            self._train_epochs(data, incremental=incremental)
        if not all(np.isfinite(array).all() for array in (*self.coefs_, *self.intercepts_)):
            raise ValueError(
                "Solver produced non-finite parameter weights. The input data may contain large "
                "values and need to be preprocessed."
            )
        self._build_model()
        return self

    def _hidden_sizes(self) -> list[int]:
        sizes: list[int] = np.atleast_1d(np.asarray(self.hidden_layer_sizes)).tolist()
        if not all(isinstance(size, int) for size in sizes):
            raise TypeError(f"hidden_layer_sizes must be whole numbers, got {sizes}.")
        if any(size <= 0 for size in sizes):
            raise ValueError(f"hidden_layer_sizes must be > 0, got {sizes}.")
        return sizes

    def _draw_weights(self, sizes: tuple[int, ...], dtype: str) -> None:
        """Draw the starting weights and biases as scikit-learn does, and start all curves."""
        self.n_layers_ = len(sizes)
        layers = [self._init_coef(*layer, self.dtype or dtype) for layer in pairwise(sizes)]
        self.coefs_, self.intercepts_ = ([*arrays] for arrays in zip(*layers, strict=True))
        self._dropout_seed = int(self._random_state.randint(2**31)) if self.dropout else 0
        self._start_curves()

    def save(self, path: str | Path) -> None:
        """Write the fitted estimator as a safetensors file, atomically.

        The file holds what ``partial_fit`` needs to continue with the same bits. ``backend``,
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
            Where it runs from now on.

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

    def __getstate__(self) -> dict[str, Any]:
        """Omit the model that predicts, which is built again from the weights."""
        state: dict[str, Any] = super().__getstate__()
        return {name: each for name, each in state.items() if name not in ("_model", "_modelled")}

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
        model.parameters = self._parameters()
        labels = getattr(self, "classes_", None)
        if labels is not None and all(isinstance(label, str) for label in labels.tolist()):
            model.class_names = tuple(labels.tolist())
        return model

    def _build_model(self) -> None:
        """Build the model that predicts, and remember the arrays that it was built from."""
        self._model = self._as_model()
        self._modelled = *self.coefs_, *self.intercepts_

    def _forward_pass_fast(self, X: Inputs, check_input: bool = True) -> FloatArray:
        """Return the outputs (N, K) for X, with scikit-learn's checks where they are needed."""
        if "coefs_" not in vars(self):
            check_is_fitted(self)
        arrays = (*self.coefs_, *self.intercepts_)
        modelled = getattr(self, "_modelled", ())
        if len(arrays) != len(modelled) or any(map(is_not, arrays, modelled)):
            self._build_model()  # after loading, or after other arrays were assigned
        checked = X if not check_input or self._is_plain(X) else self._checked(X)
        try:
            return self._model.forward(checked)
        except InvalidInputError:
            # Raises with scikit-learn's message.
            check_array(X, accept_sparse=SPARSE, estimator=self, input_name="X")
            raise

    def _checked(self, X: Inputs) -> Inputs:
        """Return X as floats, with all checks but that for NaN, which engines make."""
        found = validate_data(self, X, accept_sparse=SPARSE, reset=False, ensure_all_finite=False)
        inputs: Inputs = found if found.dtype in FLOATS else found.astype(FLOATS[0])
        return inputs

    def _is_plain(self, X: object) -> bool:
        """Tell whether X needs none of scikit-learn's checks, which cost more than one row."""
        return (
            type(X) is np.ndarray
            and X.ndim == 2
            and X.dtype in FLOATS
            and X.shape[1] == self.n_features_in_
            and X.size > 0
            and not hasattr(self, "feature_names_in_")
        )
