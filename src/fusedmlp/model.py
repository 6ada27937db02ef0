"""The public model: a network, its parameters, its backend, prediction and files.

Training is in :mod:`fusedmlp.training`; the numerical work is done by the backends.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import numpy as np

from fusedmlp.backend import Backend, EngineSpec, State, Workload
from fusedmlp.class_labels import Targets, checked_labels
from fusedmlp.errors import InvalidInputError, UnknownNameError
from fusedmlp.html_table import html_table
from fusedmlp.interop import device_of, host_copy
from fusedmlp.io.model_files import ModelFile, load_model, save_model
from fusedmlp.network import Network, Objective, initialise
from fusedmlp.optimizers import SGD
from fusedmlp.registry import Selection, create, parse, select
from fusedmlp.seeding import checked_seed
from fusedmlp.validation import as_inputs
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from fusedmlp.backend import BatchMetrics, Engine
    from fusedmlp.class_labels import Label, Labels
    from fusedmlp.network import HiddenActivation, Initialisation, Output, Parameters
    from fusedmlp.preprocessing import Preprocessing
    from fusedmlp.training.history import History
    from fusedmlp.types import FloatArray, FloatDtype, Inputs, InputsLike

DTYPES: Final = ("float32", "float64")

_LAYER_COLUMNS: Final = ("layer", "shape", "activation", "parameters")

PREDICT_BATCH: Final = 256
"""Batch size of the prediction engine; an engine may compute more rows at a time."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """What an evaluation found.

    Parameters
    ----------
    loss
        Mean over the rows, without the L2 penalty.
    accuracy
        Fraction of the rows that are predicted right; None for real targets.
    """

    loss: float
    accuracy: float | None


class MLP:
    """A multilayer perceptron.

    Parameters
    ----------
    sizes
        ``(D, H1, …, K)``.
    hidden, output, dropout
        See :class:`fusedmlp.network.Network`.
    init
        Initialisation of the weights; see :func:`fusedmlp.network.initialise`.
    backend
        ``numpy``, ``numba``, ``cupy``, ``cupy:1``, ``cupy+tf32``, ``auto``, or a built backend.
        None selects the value of ``FUSEDMLP_BACKEND``, or ``auto`` if it is not set. The backend is
        built at the first computation.
    dtype
        ``float32`` or ``float64``, for the parameters and all arithmetic.
    seed
        Seed of the weights, the shuffles and the dropout masks.
    threads
        Maximum number of CPU threads; None for all that the process may use, or as many as
        ``OMP_NUM_THREADS`` allows.
    strict
        Use the arithmetic of :mod:`fusedmlp.reference.arithmetic`: slow, with the same bits on
        NumPy, Numba and CuPy. For a built backend, False means that the backend's mode applies.

    Attributes
    ----------
    network
        The architecture.
    parameters
        Weights and biases on the host; assign to replace them.
    history
        History of the last training, or None.
    class_names
        Names of the classes, stored with the model; None if there are none.
    labels
        Labels of the classes in the order of the outputs: text, whole numbers, floats or booleans,
        all of one type. A training on such targets sets them; ``predict`` returns them, and
        ``evaluate`` and a further training take them. None where targets are class indices from 0
        to K-1. Assigned labels also become ``class_names``, as text.
    feature_names
        Names of the D inputs: the columns of the data frame of the first training, stored with the
        model. In later data frames these columns are found by name, in any order, and others are
        ignored; arrays have no names and are taken in this order. None where training was on
        arrays, and for models with a preprocessing, which has names of its own.
    preprocessing
        Makes the network's inputs of the columns of a table, stored with the model. Methods that
        take ``x`` then take data frames and arrays with these columns. None for inputs as they are.

    Raises
    ------
    InvalidInputError
        A value is out of range or a name is unknown.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        hidden: HiddenActivation = "sigmoid",
        output: Output = "softmax",
        dropout: float = 0.0,
        *,
        init: Initialisation = "auto",
        backend: str | Backend | None = None,
        dtype: FloatDtype = "float32",
        seed: int = 0,
        threads: int | None = None,
        strict: bool = False,
    ) -> None:
        if dtype not in DTYPES:
            raise UnknownNameError.of("dtype", str(dtype), DTYPES)
        self.network = Network(tuple(sizes), hidden, output, dropout)
        self.seed = checked_seed(seed)
        self.threads = threads
        self.strict = strict
        self.backend = backend
        if isinstance(backend, str) and backend != "auto":
            parse(backend)  # report a misspelled name now, not at the first computation
        self.history: History | None = None
        self.class_names: tuple[str, ...] | None = None
        self._labels: Labels | None = None
        self.feature_names: tuple[str, ...] | None = None
        self.preprocessing: Preprocessing | None = None
        self._engine: Engine | None = None
        self._engine_lock = threading.Lock()
        self._parameters = initialise(self.network, self.seed, dtype, init)

    @property
    def parameters(self) -> Parameters:
        """Weights (D, H) and biases (H,) of each layer, on the host."""
        return self._parameters

    @parameters.setter
    def parameters(self, parameters: Parameters) -> None:
        parameters.check(self.network)
        copied = parameters.copy(self.dtype)
        with self._engine_lock:
            self._parameters, self._engine = copied, None

    @property
    def labels(self) -> Labels | None:
        """Label of each class; None where targets and predictions are class indices."""
        return self._labels

    @labels.setter
    def labels(self, labels: Sequence[Label] | None) -> None:
        self._labels = None if labels is None else checked_labels(labels, self.network)
        if self._labels is not None:
            self.class_names = tuple(map(str, self._labels))

    @property
    def dtype(self) -> FloatDtype:
        """``float32`` or ``float64``."""
        return cast("FloatDtype", self._parameters.dtype.name)

    def select_backend(
        self, batch_size: int = PREDICT_BATCH, rows: int | None = None
    ) -> tuple[Selection, Backend]:
        """Select and build the backend for batches of ``batch_size`` rows.

        Raises
        ------
        BackendUnavailableError
            The requested backend cannot be used on this machine; the message has the remedy.
        InvalidInputError
            The model is strict, and the backend is not strict or has no strict mode.
        """
        if isinstance(self.backend, Backend):
            if self.strict and not self.backend.strict:
                raise InvalidInputError(
                    f"strict=True was requested, but the given backend {self.backend.name!r} was "
                    "built without it: build it with strict=True"
                )
            chosen = Selection(self.backend.name, None, "argument", "a built backend was given")
            return chosen, self.backend
        workload = Workload(self.network, batch_size, rows)
        selection = select(self.backend, workload, strict=self.strict)
        return selection, create(selection, threads=self.threads, strict=self.strict)

    def forward(self, x: InputsLike) -> FloatArray:
        """Compute the network's outputs.

        Parameters
        ----------
        x
            (N, D) numbers: an array of any library, a data frame or nested sequences. ``uint8``
            means pixels, read as x / 255; SciPy's sparse matrices stay sparse. ``uint8``,
            ``float32``, ``float64`` in C order and CSR are not copied. The backend ``cupy`` also
            accepts an array on its device, without a copy.

        Returns
        -------
        (N, K) probabilities for softmax and sigmoid outputs, else values, in the model's dtype. A
        NumPy array, or a CuPy array for inputs on the device; this holds for the methods below too.

        Raises
        ------
        InvalidInputError
            x has a wrong number of columns, or contains text, missing values, NaN or infinity.
        """
        inputs = self.network_inputs(x)
        with self._engine_lock:
            engine = self._engine or self._inference_engine()
            return engine.forward(inputs)

    def network_inputs(self, x: InputsLike, feature_names: tuple[str, ...] | None = None) -> Inputs:
        """Convert inputs, through the preprocessing if the model has one, for an engine.

        Parameters
        ----------
        feature_names
            In place of those of a model that has none yet.
        """
        if self.preprocessing is not None:
            return as_inputs(self.preprocessing.transform(x))
        return as_inputs(x, self.feature_names or feature_names)

    def predict_proba(self, x: InputsLike) -> FloatArray:
        """Probabilities (N, K): of each class for softmax, of each label for sigmoid outputs."""
        if self.network.predicts_values:
            raise InvalidInputError(
                f"an output {self.network.output!r} predicts values, not probabilities: "
                "use predict()"
            )
        return self.forward(x)

    def predict(self, x: InputsLike) -> npt.NDArray[np.generic]:
        """Predict classes, labels or values.

        Returns
        -------
        For softmax (N,) int64 class indices. Otherwise (N,) for one output and (N, K) for several:
        int64 zeros and ones for sigmoid (the step output of a perceptron), else values. A model
        with ``labels`` returns these in place of indices, always in a NumPy array.
        """
        outputs = self.forward(x)
        with device_of(outputs):
            if self.network.output == "softmax":
                values: npt.NDArray[np.generic] = outputs.argmax(axis=1)
            elif self.network.output == "sigmoid":
                values = (outputs > 0.5).astype(np.int64)
            else:
                values = outputs
            if self.network.n_outputs == 1:
                values = values[:, 0]
        if self._labels is None:
            return values
        labels: npt.NDArray[np.generic] = np.array(self._labels)[host_copy("indices", values)]
        return labels

    def evaluate(
        self, x: InputsLike, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None = None
    ) -> Metrics:
        """Mean loss and accuracy on labelled rows.

        Parameters
        ----------
        x, y, sample_weight
            See :meth:`fusedmlp.Trainer.fit`; a model with ``labels`` takes these as targets.
        """
        inputs, targets = self.network_inputs(x), Targets("y", y, self.network)
        encoded = targets.encoded(targets.named_by(self._labels, self.class_names))
        with self._engine_lock:
            engine = self._inference_engine()
            return self.metrics(engine.evaluate(engine.stage(inputs, encoded, sample_weight)))

    def metrics(self, sums: BatchMetrics) -> Metrics:
        """Convert an engine's sums to means."""
        return Metrics(sums.loss, None if self.network.predicts_values else sums.accuracy)

    def summary(self) -> str:
        """Return a table of the layers, their shapes and parameter counts, as text."""
        rows = [_LAYER_COLUMNS, *self.network.layer_rows()]
        lines = [str(self.network), *(f"{a:<10}{b:>16}{c:>14}{d:>14}" for a, b, c, d in rows)]
        size = self.network.n_parameters * self._parameters.dtype.itemsize
        lines.append(
            f"{counted(self.network.n_parameters, 'parameter')}, {size:,} bytes as {self.dtype}"
        )
        return "\n".join(lines)

    def save(self, path: str | Path) -> None:
        """Write the model as a safetensors file, atomically.

        Raises
        ------
        StorageError
            The file cannot be written; an existing file is unchanged.
        """
        content = ModelFile(
            self.network,
            self._parameters,
            self.seed,
            self.class_names,
            self._labels,
            self.preprocessing,
            self.feature_names,
        )
        save_model(Path(path), content)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        backend: str | Backend | None = None,
        threads: int | None = None,
        strict: bool = False,
    ) -> MLP:
        """Load a model that :meth:`save` has written, on any backend.

        Raises
        ------
        FileFormatError
            The file is truncated, not a model, or from a newer release.
        StorageError
            The file cannot be opened.
        """
        file = load_model(Path(path))
        network = file.network
        mlp = cls(
            network.sizes,
            network.hidden,
            network.output,
            network.dropout,
            backend=backend,
            dtype=cast("FloatDtype", file.parameters.dtype.name),
            seed=file.seed,
            threads=threads,
            strict=strict,
        )
        mlp.parameters = file.parameters
        mlp.labels = file.labels
        mlp.class_names = file.class_names
        mlp.preprocessing = file.preprocessing
        mlp.feature_names = file.feature_names
        return mlp

    def _repr_html_(self) -> str:
        """Return what notebooks show: the layers, the parameters and the backend."""
        named = self.backend.name if isinstance(self.backend, Backend) else self.backend
        backend = f"backend {named or 'not named'}"
        parameters = counted(self.network.n_parameters, "parameter")
        trained = "" if not self.history else f", trained for {counted(len(self.history), 'epoch')}"
        title = f"MLP {self.network}: {parameters}, {self.dtype}, {backend}{trained}"
        return html_table(title, _LAYER_COLUMNS, self.network.layer_rows())

    def __repr__(self) -> str:
        return f"MLP({self.network}, dtype={self.dtype!r}, backend={self.backend!r})"

    def __getstate__(self) -> dict[str, object]:
        """Omit the engine, which has device buffers, from pickles and copies."""
        return {k: v for k, v in self.__dict__.items() if k != "_engine_lock"} | {"_engine": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        # Models that were pickled before there were labels and names of inputs lack them.
        absent = {"_labels": None, "feature_names": None}
        self.__dict__.update(absent | state, _engine_lock=threading.Lock())

    def _inference_engine(self) -> Engine:
        """Return the engine, built if needed. Callers hold the lock: an engine is not reentrant."""
        if self._engine is None:
            _, backend = self.select_backend()
            engine = backend.compile(
                EngineSpec(
                    self.network,
                    SGD(),
                    Objective(),
                    batch_size=PREDICT_BATCH,
                    dtype=self.dtype,
                    seed=self.seed,
                )
            )
            engine.load(State(self._parameters, (), 0))
            self._engine = engine
        return self._engine
