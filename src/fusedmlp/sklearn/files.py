"""Fitted estimators as safetensors files: labels, curves and optimizer state, never pickle.

The arrays are the parameters and the optimizer's slots. The header holds the rest as JSON, and
every part of it is checked before it is used. ``backend``, ``threads`` and ``callbacks`` are not
stored. The container format is that of :mod:`fusedmlp.io.parameter_files`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from fusedmlp.errors import FileFormatError, InvalidInputError
from fusedmlp.io.convert import SKLEARN_HIDDEN, SKLEARN_OUTPUTS
from fusedmlp.io.parameter_files import (
    FileContents,
    FileFormat,
    Header,
    format_errors,
    natural,
    network_to_dict,
    number,
    read_parameters,
    slot_prefixes,
    write_parameters,
)
from fusedmlp.network import Parameters
from fusedmlp.sklearn.estimator import EngineOptimizer
from fusedmlp.sklearn.file_labels import classes_from_json, labels_to_json
from fusedmlp.sklearn.file_values import (
    Json,
    fitted_numbers,
    numbers_to_json,
    parameter_from_json,
    parameter_to_json,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from fusedmlp.network import Network

LEFT_OUT: Final = ("backend", "threads", "callbacks")
"""Parameters that do not change what a fit computes; they are not stored."""


def _groups(header: Header) -> tuple[str, ...]:
    optimizer = header["optimizer"]
    return ("", *slot_prefixes(0 if optimizer is None else optimizer["slots"]))


ESTIMATOR_FORMAT: Final = FileFormat("fusedmlp-estimator", 1, "estimator file", _groups)


@dataclass(frozen=True)
class EstimatorFile:
    """Contents of an estimator file.

    Parameters
    ----------
    kind
        ``MLPClassifier`` or ``MLPRegressor``.
    parameters
        Parameters of the estimator without :data:`LEFT_OUT`.
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
    fitted: Mapping[str, Any] = file.fitted
    optimizer: EngineOptimizer | None = fitted.get("_optimizer")
    header = {
        "estimator": file.kind,
        "parameters": {
            name: parameter_to_json(name, value)
            for name, value in file.parameters.items()
            if name not in LEFT_OUT
        },
        "network": network_to_dict(file.network),
        "out_activation": fitted["out_activation_"],
        "labels": labels_to_json(fitted) if "classes_" in fitted else None,
        "feature_names": [str(name) for name in fitted.get("feature_names_in_", ())],
        "numbers": numbers_to_json(fitted),
        "optimizer": None if optimizer is None else _optimizer_to_json(optimizer),
    }
    groups = {"": Parameters(tuple(fitted["coefs_"]), tuple(fitted["intercepts_"]))}
    if optimizer is not None:
        groups |= zip(slot_prefixes(len(optimizer.slots)), optimizer.slots, strict=True)
    write_parameters(path, ESTIMATOR_FORMAT, header, groups)


def load_estimator(path: Path, kind: str) -> EstimatorFile:
    """Read a fitted estimator; its parameters are validated by its class, not here.

    Raises
    ------
    FileFormatError
        The file is truncated, foreign, of another kind of estimator, or from a newer release.
    StorageError
        The file cannot be opened.
    """
    file = read_parameters(path, ESTIMATOR_FORMAT)
    found = file.header.get("estimator")
    if found != kind:
        raise FileFormatError(
            f"{path} holds {found!r:.80}, not {kind!r}: load it with the class of that name"
        )
    with format_errors(f"{path} is not a sound estimator file"):
        return _from_contents(kind, file)


def _from_contents(kind: str, file: FileContents) -> EstimatorFile:
    header, network = file.header, file.network
    parameters = {
        str(name): parameter_from_json(value) for name, value in header["parameters"].items()
    }
    if not parameters.keys().isdisjoint(LEFT_OUT):
        raise InvalidInputError(f"its parameters have one of {', '.join(LEFT_OUT)}")
    activations = parameters["activation"], header["out_activation"]
    if (SKLEARN_HIDDEN[str(activations[0])], SKLEARN_OUTPUTS[str(activations[1])]) != (
        network.hidden,
        network.output,
    ):
        raise InvalidInputError(f"activations {activations} do not go with {network}")
    arrays = [array for group in file.groups.values() for array in group]
    if len({array.dtype for array in arrays}) != 1:
        raise InvalidInputError("its arrays are of several types")
    for array in arrays:
        array.flags.writeable = False  # as after a fit
    parameters_read = file.groups[""]
    fitted: dict[str, Any] = {
        "coefs_": list(parameters_read.weights),
        "intercepts_": list(parameters_read.biases),
        "out_activation_": activations[1],
        "n_features_in_": network.n_inputs,
        "n_outputs_": network.n_outputs,
        "n_layers_": len(network.sizes),
    }
    fitted |= fitted_numbers(header["numbers"], trained=header["optimizer"] is not None)
    fitted |= _feature_names(header["feature_names"], network)
    if kind == "MLPClassifier":
        fitted |= classes_from_json(header["labels"], network)
    if header["optimizer"] is not None:
        fitted["_optimizer"] = _optimizer_from_json(header["optimizer"], file.groups)
    return EstimatorFile(kind, parameters, network, fitted)


def _feature_names(names: Json, network: Network) -> dict[str, npt.NDArray[np.object_]]:
    if not names:
        return {}
    if len(names) != network.n_inputs or not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"feature_names {names!r:.80} are not {network.n_inputs} texts")
    return {"feature_names_in_": np.array(names, dtype=object)}


def _optimizer_to_json(optimizer: EngineOptimizer) -> Json:
    return {
        "slots": len(optimizer.slots),
        "step": optimizer.step,
        "rate": {
            "schedule": optimizer.lr_schedule,
            "initial": optimizer.learning_rate_init,
            "power": optimizer.power_t,
            "now": optimizer.learning_rate,
        },
    }


def _optimizer_from_json(document: Json, groups: Mapping[str, Parameters]) -> EngineOptimizer:
    rate = document["rate"]
    optimizer = EngineOptimizer(
        tuple(groups[prefix] for prefix in slot_prefixes(document["slots"])),
        natural(document["step"]),
        lr_schedule=str(rate["schedule"]),
        learning_rate_init=number(rate["initial"]),
        power_t=number(rate["power"]),
    )
    optimizer.learning_rate = number(rate["now"])
    return optimizer
