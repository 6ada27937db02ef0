"""Trained networks from scikit-learn, and from and to PyTorch's state dictionaries.

Files of other libraries are not read here: load them with the library that wrote them. ONNX is in
onnx.py.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from fusedmlp.errors import InvalidInputError
from fusedmlp.model import MLP
from fusedmlp.network import HIDDEN_ACTIVATIONS, Parameters
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    import numpy.typing as npt
    import torch

    from fusedmlp.backend import Backend
    from fusedmlp.network import HiddenActivation, Output
    from fusedmlp.types import FloatArray, FloatDtype


SKLEARN_HIDDEN: Final[dict[str, HiddenActivation]] = {
    {"sigmoid": "logistic"}.get(name, name): name for name in HIDDEN_ACTIVATIONS
}
"""The hidden activation for each ``activation`` of an estimator; scikit-learn has four of them."""

SKLEARN_OUTPUTS: Final[dict[str, Output]] = {
    "identity": "identity",
    "logistic": "sigmoid",
    "softmax": "softmax",
    "exp": "exp",
}
"""The output for each ``out_activation_`` of a fitted estimator."""


class FittedMLP(Protocol):
    """A fitted MLP of scikit-learn or of :mod:`fusedmlp.sklearn`."""

    activation: str
    out_activation_: str
    coefs_: Sequence[FloatArray]
    intercepts_: Sequence[FloatArray]


def from_sklearn(estimator: FittedMLP, *, backend: str | Backend | None = None) -> MLP:
    """Copy a fitted MLPClassifier or MLPRegressor of scikit-learn, or of :mod:`fusedmlp.sklearn`.

    Text labels become ``class_names``; predictions are class numbers in the order of ``classes_``.

    Parameters
    ----------
    estimator
        Fitted; a pipeline's last step, not the pipeline.
    backend
        As :class:`fusedmlp.MLP` takes it.

    Raises
    ------
    InvalidInputError
        The estimator is not fitted, or engines do not have its output.
    """
    if not hasattr(estimator, "out_activation_"):
        raise InvalidInputError(_why_not_taken(estimator))
    if estimator.out_activation_ not in SKLEARN_OUTPUTS:
        raise InvalidInputError(
            f"the estimator's output is {estimator.out_activation_!r}: "
            f"engines have {', '.join(SKLEARN_OUTPUTS)}"
        )
    mlp = _build(
        list(estimator.coefs_),
        list(estimator.intercepts_),
        SKLEARN_HIDDEN[estimator.activation],
        SKLEARN_OUTPUTS[estimator.out_activation_],
        backend,
    )
    mlp.class_names = _class_names(getattr(estimator, "classes_", ()))
    return mlp


def from_state_dict(
    state: Mapping[str, torch.Tensor | npt.ArrayLike],
    hidden: HiddenActivation,
    output: Output,
    *,
    backend: str | Backend | None = None,
) -> MLP:
    """Build a network from a ``state_dict`` of linear layers, in their order in the dictionary.

    Parameters
    ----------
    state
        ``….weight`` (H, D) and ``….bias`` (H,) of each ``torch.nn.Linear``; tensors or arrays.
        Layers without a bias get zeros.
    hidden, output
        Activation between the layers and output, which the dictionary does not contain. A model
        trained with a loss on logits has the output of that loss: softmax for cross-entropy.
        PyTorch's modules are ``Sigmoid``, ``Tanh``, ``ReLU``, ``Identity``, ``LeakyReLU``,
        ``ELU``, ``GELU`` and ``SiLU``, each with its default arguments.
    backend
        As :class:`fusedmlp.MLP` takes it.

    Raises
    ------
    InvalidInputError
        An entry is not of a linear layer, or the sizes of successive layers disagree.
    """
    entries = {name: _array(value) for name, value in state.items()}
    weights, biases = [], []
    for name, W in entries.items():
        layer, _, kind = name.rpartition(".")
        if kind == "weight" and W.ndim == 2:
            weights.append(W.T)
            biases.append(entries.get(f"{layer}.bias" if layer else "bias", np.zeros(len(W))))
        elif kind != "bias" or W.ndim != 1:
            raise InvalidInputError(
                f"state_dict entry {name!r} with shape {W.shape} is not of a linear layer: only "
                "networks of torch.nn.Linear and activations can be taken"
            )
    if not weights:
        raise InvalidInputError("the state_dict has no '….weight' of a linear layer")
    return _build(weights, biases, hidden, output, backend)


def to_state_dict(mlp: MLP) -> dict[str, torch.Tensor]:
    """Return the parameters for ``torch.nn.Sequential(Linear, activation, Linear, …)``.

    ``activation`` is the module that :func:`from_state_dict` names. The last layer returns
    logits, which PyTorch's losses take. Dropout modules would shift the numbers in the names.

    Parameters
    ----------
    mlp
        A network of any sizes, of float32 or float64 weights.

    Raises
    ------
    ImportError
        PyTorch is not installed.
    """
    import torch

    found = {}
    pairs = zip(mlp.parameters.weights, mlp.parameters.biases, strict=True)
    for layer, (W, b) in enumerate(pairs):
        found[f"{2 * layer}.weight"] = torch.tensor(W.T)
        found[f"{2 * layer}.bias"] = torch.tensor(b)
    return found


def _why_not_taken(estimator: object) -> str:
    """Say why an object is not a fitted MLP, and what to pass instead."""
    kind = type(estimator).__name__
    if hasattr(estimator, "hidden_layer_sizes"):
        return f"{estimator!r} is not fitted: call its fit() first"
    if hasattr(estimator, "steps"):
        remedy = "pass its last step, pipeline[-1]; the steps before it are not part of a network"
    elif hasattr(estimator, "best_estimator_"):
        remedy = "pass the estimator that it found, search.best_estimator_"
    else:
        remedy = "pass an MLPClassifier or MLPRegressor, such as the one that it contains"
    return f"{kind} is not a multilayer perceptron: {remedy}"


def _class_names(labels: Iterable[object]) -> tuple[str, ...] | None:
    """Return labels that are text; None where there are none."""
    names = [label for label in labels if isinstance(label, str)]
    return tuple(map(str, names)) or None


def _array(value: torch.Tensor | npt.ArrayLike) -> npt.NDArray[Any]:
    """Return a tensor or an array as a NumPy array."""
    return np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)


def _build(
    weights: Sequence[npt.NDArray[Any]],
    biases: Sequence[npt.NDArray[Any]],
    hidden: HiddenActivation,
    output: Output,
    backend: str | Backend | None,
) -> MLP:
    """Build a model from weights (D, H) and biases (H,); in float64 if they are, else float32."""
    for number, (before, after) in enumerate(pairwise(weights), 1):
        if before.shape[1] != after.shape[0]:
            raise InvalidInputError(
                f"layer {number} has {counted(before.shape[1], 'output')}, but layer "
                f"{number + 1} takes {counted(after.shape[0], 'input')}"
            )
    sizes = (weights[0].shape[0], *(W.shape[1] for W in weights))
    dtype: FloatDtype = "float64" if weights[0].dtype == np.float64 else "float32"
    mlp = MLP(sizes, hidden, output, backend=backend, dtype=dtype)
    mlp.parameters = Parameters(tuple(weights), tuple(biases))
    return mlp
