"""Fitted estimators as safetensors files: labels, curves and optimizer state, never pickle.

The arrays are those of a model file, with the optimizer's beside them; all the rest is JSON, of
which every part is checked before it is used. Loading executes nothing. Where an estimator ran is
left out: ``backend``, ``threads`` and ``callbacks`` are given anew. The writing and the reading
themselves are in :mod:`fusedmlp.io.model_files`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from sklearn.preprocessing import LabelBinarizer

from fusedmlp.errors import FileFormatError, InvalidInputError
from fusedmlp.io.model_files import (
    Header,
    network_from_dict,
    network_to_dict,
    parameters_from_arrays,
    parameters_to_arrays,
    read_arrays,
    state_shapes,
    whole,
    write_arrays,
)
from fusedmlp.network import Parameters
from fusedmlp.sklearn.parameters import HIDDEN, OUTPUTS
from fusedmlp.sklearn.plain import Json, parameter_from_json, parameter_to_json, real
from fusedmlp.sklearn.stochastic import LearningRate

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from fusedmlp.network import Network
    from fusedmlp.types import FloatArray

ESTIMATOR_KIND: Final = "fusedmlp-estimator"
ESTIMATOR_VERSION: Final = 1

LEFT_OUT: Final = ("backend", "threads", "callbacks")
"""Parameters that say where a fit runs and who is told, not what it computes."""

RATE_FIELDS: Final = ("schedule", "initial", "power", "now")
"""What partial_fit needs of the learning rate; a plan is for one fit."""

NUMBERS: Final[dict[str, type]] = {
    "n_iter_": int,
    "t_": int,
    "loss_": float,
    "best_loss_": float,
    "best_validation_score_": float,
    "loss_curve_": list,
    "validation_scores_": list,
    "validation_loss_curve_": list,
    "_stalled": int,
    "_dropout_seed": int,
}
"""Fitted attributes that are numbers or lists of them; some solvers have not all."""

SCORED: Final = ("best_validation_score_", "validation_scores_", "validation_loss_curve_")
"""Those that are None without early stopping; ``best_loss_`` is None with it."""


@dataclass(frozen=True)
class EstimatorFile:
    """What a file holds.

    Parameters
    ----------
    kind
        ``MLPClassifier`` or ``MLPRegressor``.
    parameters
        Those of the estimator, but for :data:`LEFT_OUT`.
    network
        The fitted network.
    fitted
        Fitted attributes by name, private ones among them.
    """

    kind: str
    parameters: Mapping[str, object]
    network: Network
    fitted: Mapping[str, Any]


def save_estimator(path: Path, file: EstimatorFile) -> None:
    """Write a fitted estimator, atomically.

    Raises
    ------
    InvalidInputError
        A parameter or a label is of a type that such a file cannot hold.
    StorageError
        The file cannot be written; an older one is untouched.
    """
    fitted, slots = file.fitted, file.fitted.get("_slots")
    optimizer = None
    if slots is not None:
        rate = {name: getattr(fitted["_rate"], name) for name in RATE_FIELDS}
        optimizer = {"slots": len(slots), "step": fitted["_steps"], "rate": rate}
    header = {
        "estimator": file.kind,
        "parameters": {
            name: parameter_to_json(name, value)
            for name, value in file.parameters.items()
            if name not in LEFT_OUT
        },
        "network": network_to_dict(file.network),
        "out_activation": fitted["out_activation_"],
        "labels": _labels_to_json(fitted) if "classes_" in fitted else None,
        "feature_names": [str(name) for name in fitted.get("feature_names_in_", ())],
        "numbers": {name: fitted[name] for name in NUMBERS if name in fitted},
        "optimizer": optimizer,
    }
    held = Parameters(tuple(fitted["coefs_"]), tuple(fitted["intercepts_"]))
    arrays = parameters_to_arrays("", held)
    for index, slot in enumerate(slots or ()):
        arrays |= parameters_to_arrays(f"slot{index}.", slot)
    write_arrays(path, ESTIMATOR_KIND, ESTIMATOR_VERSION, header, arrays)


def load_estimator(path: Path, kind: str) -> EstimatorFile:
    """Read a fitted estimator; whether its parameters make sense together is not checked here.

    Raises
    ------
    FileFormatError
        The file is truncated, foreign, of another kind of estimator, or from a newer release.
    StorageError
        The file cannot be opened.
    """
    header, arrays = read_arrays(path, ESTIMATOR_KIND, ESTIMATOR_VERSION, _promised)
    if header.get("estimator") != kind:
        raise FileFormatError(
            f"{path} holds {header.get('estimator')!r:.80}, not {kind!r}: load it with the class "
            "of that name"
        )
    try:
        return _read(kind, header, arrays)
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path} is not a sound estimator file: {error!s}") from error


def _read(kind: str, header: Header, arrays: Mapping[str, FloatArray]) -> EstimatorFile:
    network = network_from_dict(header["network"])
    parameters = {
        str(name): parameter_from_json(value) for name, value in header["parameters"].items()
    }
    if not parameters.keys().isdisjoint(LEFT_OUT):
        raise InvalidInputError(f"its parameters have one of {', '.join(LEFT_OUT)}")
    activations = parameters["activation"], header["out_activation"]
    if (HIDDEN[str(activations[0])], OUTPUTS[str(activations[1])]) != (
        network.hidden,
        network.output,
    ):
        raise InvalidInputError(f"activations {activations} do not go with {network}")
    if len({array.dtype for array in arrays.values()}) != 1:
        raise InvalidInputError("its arrays are of several types")
    for array in arrays.values():
        array.flags.writeable = False  # as after a fit
    held = parameters_from_arrays("", arrays, network)
    fitted: dict[str, Any] = {
        "coefs_": list(held.weights),
        "intercepts_": list(held.biases),
        "out_activation_": activations[1],
        "n_features_in_": network.n_inputs,
        "n_outputs_": network.n_outputs,
        "n_layers_": len(network.sizes),
    }
    fitted |= _numbers(header["numbers"], trained=header["optimizer"] is not None)
    fitted |= _feature_names(header["feature_names"], network)
    if kind == "MLPClassifier":
        fitted |= _classes(header["labels"], network)
    optimizer = header["optimizer"]
    if optimizer is not None:
        fitted["_slots"] = tuple(
            parameters_from_arrays(f"slot{index}.", arrays, network)
            for index in range(optimizer["slots"])
        )
        fitted["_steps"], fitted["_rate"] = whole(optimizer["step"]), _rate(optimizer["rate"])
    return EstimatorFile(kind, parameters, network, fitted)


def _promised(header: Header) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays that the header promises, by name."""
    optimizer = header["optimizer"]
    return state_shapes(header["network"], 0 if optimizer is None else optimizer["slots"])


def _feature_names(names: Json, network: Network) -> dict[str, npt.NDArray[np.object_]]:
    if not names:
        return {}
    if len(names) != network.n_inputs or not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"feature_names {names!r:.80} are not {network.n_inputs} texts")
    return {"feature_names_in_": np.array(names, dtype=object)}


def _labels_to_json(fitted: Mapping[str, Any]) -> Json:
    """Return a classifier's labels and how they are encoded."""
    labels = fitted["classes_"]
    text = all(isinstance(label, str) for label in labels.tolist())
    if labels.dtype.kind not in "biufU" and not text:
        raise InvalidInputError(
            f"class labels {labels[:3]!r}… are neither numbers nor text: a file cannot hold them"
        )
    # Text has no length here, so that no file can ask for long elements.
    dtype = {"U": "text", "O": "object"}.get(labels.dtype.kind, labels.dtype.name)
    binarizer = fitted["_label_binarizer"]
    return {
        "dtype": dtype,
        "values": labels.tolist(),
        "kind": binarizer.y_type_,
        "sparse": binarizer.sparse_input_,
    }


def _classes(document: Json, network: Network) -> dict[str, object]:
    """Return a classifier's labels and their encoder, checked against the network's outputs."""
    labels, kind = _labels(document["dtype"], document["values"]), document["kind"]
    fits = {
        "binary": (network.output, network.n_outputs) == ("sigmoid", 1) and len(labels) <= 2,
        "multiclass": (network.output, network.n_outputs) == ("softmax", len(labels)),
        "multilabel-indicator": (network.output, network.n_outputs) == ("sigmoid", len(labels)),
    }
    if not fits[kind]:
        raise InvalidInputError(f"{len(labels)} labels of kind {kind!r} do not fit {network}")
    several = kind == "multilabel-indicator"
    indicator = np.eye(max(2, len(labels)), len(labels), dtype=np.int64)
    binarizer = LabelBinarizer().fit(indicator if several else labels)
    sparse = document.get("sparse", False)  # absent from older files
    if type(sparse) is not bool:
        raise InvalidInputError(f"{sparse!r:.80} is neither true nor false")
    binarizer.sparse_input_ = sparse
    return {"classes_": labels, "_label_binarizer": binarizer}


def _labels(dtype: Json, values: Json) -> npt.NDArray[Any]:
    """Return class labels (K,), sorted and distinct, each of the type that is promised."""
    if dtype in ("text", "object"):
        allowed: type = str
        found = np.array(values, dtype=str if dtype == "text" else object)
    else:
        kind = np.dtype(str(dtype))
        if kind.kind not in "biuf":
            raise InvalidInputError(f"labels of type {dtype!r} are neither numbers nor text")
        allowed = {"b": bool, "f": float}.get(kind.kind, int)
        found = np.array(values, dtype=kind)
    if not (isinstance(values, list) and all(type(value) is allowed for value in values)):
        raise InvalidInputError(f"labels {values!r:.80} are not a list of {allowed.__name__}")
    if found.ndim != 1 or not found.size or len(np.unique(found)) != len(found):
        raise InvalidInputError(f"labels {values!r:.80} are not distinct")
    if (found[:-1] > found[1:]).any():
        raise InvalidInputError(f"labels {values!r:.80} are not in order")
    return found


def _numbers(document: Json, *, trained: bool) -> dict[str, object]:
    """Return the fitted attributes that are numbers or lists of them.

    Parameters
    ----------
    trained
        An optimizer is among what a fit needs to go on, and so must the curves be.
    """
    found: dict[str, object] = {name: _number(name, value) for name, value in document.items()}
    curves = trained or "loss_curve_" in found
    needed = ["n_iter_", "t_", *(["loss_curve_", "best_loss_", "_stalled", *SCORED] * curves)]
    missing = [name for name in needed if name not in found]
    if missing:
        raise InvalidInputError(f"it has no {', '.join(missing)}")
    scored = [found[name] is not None for name in SCORED] if curves else []
    if curves and (any(scored) != all(scored) or all(scored) == (found["best_loss_"] is not None)):
        raise InvalidInputError(f"best_loss_ and {', '.join(SCORED)} do not go together")
    return found


def _number(name: str, value: Json) -> float | list[float] | None:
    """Return a number or a list of them."""
    kind = NUMBERS[name]
    if value is None and name in ("best_loss_", *SCORED):
        return None
    if kind is list:
        return [real(each) for each in value]
    return whole(value) if kind is int else real(value)


def _rate(document: Json) -> LearningRate:
    rate = LearningRate(
        str(document["schedule"]), real(document["initial"]), real(document["power"])
    )
    rate.now = real(document["now"])
    return rate
