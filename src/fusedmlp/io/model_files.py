"""Model files: a network, its parameters, its seed, its classes and its preprocessing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fusedmlp.class_labels import checked_labels
from fusedmlp.errors import InvalidInputError
from fusedmlp.io.parameter_files import (
    FileFormat,
    format_errors,
    network_to_dict,
    read_parameters,
    write_parameters,
)
from fusedmlp.preprocessing import Preprocessing
from fusedmlp.seeding import checked_seed
from fusedmlp.wording import counted

if TYPE_CHECKING:
    from pathlib import Path

    from fusedmlp.class_labels import Labels
    from fusedmlp.network import Network, Parameters

# Version 2 has the preprocessing, without which a release predicts from unscaled inputs.
MODEL_FORMAT: Final = FileFormat("fusedmlp-model", 2, "model file", lambda _: ("",))


@dataclass(frozen=True)
class ModelFile:
    """Contents of a model file."""

    network: Network
    parameters: Parameters
    seed: int
    class_names: tuple[str, ...] | None = None
    labels: Labels | None = None
    preprocessing: Preprocessing | None = None
    feature_names: tuple[str, ...] | None = None


def save_model(path: Path, model: ModelFile) -> None:
    """Write a model file, atomically.

    Raises
    ------
    StorageError
        The file cannot be written; an older one is untouched.
    """
    header: dict[str, object] = {
        "network": network_to_dict(model.network),
        "seed": model.seed,
        "class_names": model.class_names,
        "labels": model.labels,
    }
    if model.preprocessing is not None:
        header["preprocessing"] = model.preprocessing.to_dict()
    if model.feature_names is not None:
        header["feature_names"] = model.feature_names
    write_parameters(path, MODEL_FORMAT, header, {"": model.parameters})


def load_model(path: Path) -> ModelFile:
    """Read a model file.

    Raises
    ------
    FileFormatError
        The file is truncated, not a model, or from a newer version.
    StorageError
        The file cannot be opened.
    """
    file = read_parameters(path, MODEL_FORMAT)
    with format_errors(f"{path} is not a sound model file"):
        names = file.header["class_names"]
        class_names = None if names is None else tuple(str(name) for name in names)
        seed = checked_seed(file.header["seed"])
        stored = file.header.get("labels")  # absent from older files
        labels = None if stored is None else checked_labels(stored, file.network)
        found = file.header.get("preprocessing")
        preprocessing = None if found is None else Preprocessing.from_dict(found)
        if preprocessing is not None and preprocessing.n_inputs != file.network.n_inputs:
            raise InvalidInputError(
                f"its preprocessing makes {counted(preprocessing.n_inputs, 'input')}, its network "
                f"has {file.network.n_inputs}"
            )
        inputs = file.header.get("feature_names")
        feature_names = None if inputs is None else tuple(str(name) for name in inputs)
        if feature_names is not None and (
            len(feature_names) != len(set(feature_names))
            or len(feature_names) != file.network.n_inputs
        ):
            raise InvalidInputError(
                f"its names of inputs are not {file.network.n_inputs} different ones"
            )
        parameters = file.groups[""]
        return ModelFile(
            file.network, parameters, seed, class_names, labels, preprocessing, feature_names
        )
