"""Models as safetensors files: plain arrays and a versioned JSON header, never pickle.

Loading executes nothing, and checks names, types and shapes in the header before it reads an
array. Checkpoints, in checkpoint.py, share the reading and writing below.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from fusedmlp.errors import FileFormatError, FusedMLPError, InvalidInputError, StorageError
from fusedmlp.io.atomic import write_atomically
from fusedmlp.network import Network, Parameters
from fusedmlp.seeding import checked_seed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from fusedmlp.types import FloatArray

MODEL_KIND: Final = "fusedmlp-model"
MODEL_VERSION: Final = 1

MOST_SLOTS: Final = 2
"""Arrays that an optimizer keeps beside each parameter, at most: Adam's."""

_METADATA_KEY: Final = "fusedmlp"
Header: TypeAlias = dict[str, Any]
"""A JSON object from outside: its types are known only after the checks."""

_DTYPES: Final = {"F32": "float32", "F64": "float64"}


@dataclass(frozen=True)
class ModelFile:
    """What a model file holds: the network, its parameters and the names of its classes."""

    network: Network
    parameters: Parameters
    seed: int
    class_names: tuple[str, ...] | None = None


def save_model(path: Path, model: ModelFile) -> None:
    """Write a model file, atomically.

    Raises
    ------
    StorageError
        It cannot be written; an older file of that name is untouched.
    """
    header = {
        "network": network_to_dict(model.network),
        "seed": model.seed,
        "class_names": model.class_names,
    }
    arrays = parameters_to_arrays("", model.parameters)
    write_arrays(path, MODEL_KIND, MODEL_VERSION, header, arrays)


def load_model(path: Path) -> ModelFile:
    """Read a model file.

    Raises
    ------
    FileFormatError
        The file is truncated, not a model, or from a newer version.
    StorageError
        The file cannot be opened.
    """
    header, arrays = read_arrays(
        path, MODEL_KIND, MODEL_VERSION, lambda header: state_shapes(header["network"], 0)
    )
    try:
        network = network_from_dict(header["network"])
        names = header["class_names"]
        parameters = parameters_from_arrays("", arrays, network)
        class_names = None if names is None else tuple(str(name) for name in names)
        return ModelFile(network, parameters, checked_seed(header["seed"]), class_names)
    except (KeyError, TypeError, ValueError, FusedMLPError) as error:
        raise FileFormatError(f"{path} is not a sound model file: {error!s}") from error


def whole(value: object) -> int:
    """Return a whole number of at least 0 from a header, checked to be one."""
    if type(value) is not int or value < 0:
        raise InvalidInputError(f"{value!r:.80} is not a whole number of at least 0")
    return value


def network_to_dict(network: Network) -> dict[str, object]:
    """Plain data for a header; :func:`network_from_dict` reads it."""
    return asdict(network)


def network_from_dict(data: Header) -> Network:
    """Rebuild a network, with all of its checks."""
    return Network(**{**data, "sizes": tuple(data["sizes"])})


def parameters_to_arrays(prefix: str, parameters: Parameters) -> dict[str, FloatArray]:
    """Name the arrays ``<prefix>weights.0``, ``<prefix>biases.0``, …."""
    named = {f"{prefix}weights.{i}": W for i, W in enumerate(parameters.weights)}
    return named | {f"{prefix}biases.{i}": b for i, b in enumerate(parameters.biases)}


def parameters_from_arrays(
    prefix: str, arrays: Mapping[str, FloatArray], network: Network
) -> Parameters:
    """Collect the arrays that :func:`parameters_to_arrays` named, and check them."""
    layers = range(network.n_layers)
    parameters = Parameters(
        tuple(arrays[f"{prefix}weights.{i}"] for i in layers),
        tuple(arrays[f"{prefix}biases.{i}"] for i in layers),
    )
    parameters.check(network)
    return parameters


def parameter_shapes(prefix: str, network: Network) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays that :func:`parameters_to_arrays` names."""
    shapes: dict[str, tuple[int, ...]] = {}
    for layer, shape in enumerate(network.layer_shapes):
        shapes[f"{prefix}weights.{layer}"] = shape
        shapes[f"{prefix}biases.{layer}"] = shape[1:]
    return shapes


def state_shapes(network: Header, slots: object) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the parameters and optimizer slots that a header promises, by name.

    Parameters
    ----------
    network, slots
        As the header has them.
    """
    n_slots, built = whole(slots), network_from_dict(network)
    if n_slots > MOST_SLOTS:
        raise InvalidInputError(f"its optimizer has {n_slots} slots, more than {MOST_SLOTS}")
    shapes = parameter_shapes("", built)
    for index in range(n_slots):
        shapes |= parameter_shapes(f"slot{index}.", built)
    return shapes


def write_arrays(
    path: Path,
    kind: str,
    version: int,
    header: Mapping[str, object],
    arrays: Mapping[str, FloatArray],
) -> None:
    """Write named arrays and a JSON header as one safetensors file."""
    from safetensors.numpy import save

    document = json.dumps({"kind": kind, "version": version, **header})
    write_atomically(path, save(dict(arrays), metadata={_METADATA_KEY: document}))


def read_arrays(
    path: Path,
    kind: str,
    version: int,
    expected: Callable[[Header], Mapping[str, tuple[int, ...]]],
) -> tuple[Header, dict[str, FloatArray]]:
    """Read what :func:`write_arrays` wrote.

    Parameters
    ----------
    expected
        Returns the names and shapes that the header promises; they are compared with the file's
        before an array is read.

    Raises
    ------
    FileFormatError
        The file is truncated, foreign, of another kind, or newer than this release.
    StorageError
        The file cannot be opened.
    """
    from safetensors import SafetensorError, safe_open

    if not Path(path).is_file():
        raise StorageError(f"there is no file {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            header = _checked_header(path, file.metadata(), kind, version)
            names = list(file.keys())
            shapes = {}
            for name in names:
                stored = file.get_slice(name)
                shapes[name] = tuple(stored.get_shape())
                if stored.get_dtype() not in _DTYPES:
                    raise FileFormatError(
                        f"{path}: array {name!r} has type {stored.get_dtype()}, not F32 or F64"
                    )
            _compare_shapes(path, shapes, _promised(path, expected, header))
            return header, {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise FileFormatError(
            f"{path} is not a safetensors file, or is truncated: {error}"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error


def _promised(
    path: Path, expected: Callable[[Header], Mapping[str, tuple[int, ...]]], header: Header
) -> Mapping[str, tuple[int, ...]]:
    try:
        return expected(header)
    except (KeyError, TypeError, ValueError, FusedMLPError) as error:
        raise FileFormatError(f"{path}: its header is not sound: {error!s}") from error


def _compare_shapes(
    path: Path, found: Mapping[str, tuple[int, ...]], promised: Mapping[str, tuple[int, ...]]
) -> None:
    for name in sorted({*found, *promised}):
        if found.get(name) != promised.get(name):
            raise FileFormatError(
                f"{path}: array {name!r} has shape {found.get(name)}, its header promises "
                f"{promised.get(name)}"
            )


def _checked_header(
    path: Path, metadata: Mapping[str, str] | None, kind: str, version: int
) -> Header:
    document = (metadata or {}).get(_METADATA_KEY)
    if document is None:
        raise FileFormatError(f"{path} was not written by fusedmlp: its header is missing")
    try:
        header: Header = json.loads(document)
    except ValueError as error:
        raise FileFormatError(f"{path}: its header is not JSON: {error}") from error
    if not isinstance(header, dict) or header.get("kind") != kind:
        found = header.get("kind") if isinstance(header, dict) else header
        raise FileFormatError(f"{path} holds {found!r}, expected {kind!r}")
    if not isinstance(header.get("version"), int) or header["version"] > version:
        raise FileFormatError(
            f"{path} has format version {header.get('version')!r}, this release reads up to "
            f"{version}: upgrade fusedmlp"
        )
    return header
