"""Network parameters in a safetensors file with a checked JSON header; never pickle.

Models, checkpoints and estimators are such files; what their headers mean is defined where they
are written. Loading executes nothing. Names, types and shapes of the arrays are compared with the
header before an array is read, so that no file can request more memory than its own size. A digest
of header and arrays tells damage that leaves a file well-formed; it is no protection from forgery.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from fusedmlp.errors import FileFormatError, FusedMLPError, InvalidInputError, StorageError
from fusedmlp.io.atomic import write_atomically
from fusedmlp.network import Network, Parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from fusedmlp.types import FloatArray

MOST_SLOTS: Final = 2
"""Largest number of arrays that an optimizer keeps beside each parameter: Adam's."""

_METADATA_KEY: Final = "fusedmlp"
_DIGEST_KEY: Final = "sha256"
_DTYPES: Final = ("F32", "F64")

Header: TypeAlias = dict[str, Any]
"""A JSON object from outside: its types are known only after the checks."""


@dataclass(frozen=True, slots=True)
class FileFormat:
    """A kind of file.

    Parameters
    ----------
    kind, version
        Both are in the header; a file of another kind or a newer version is refused.
    name
        What messages call such a file.
    groups
        Takes a header; returns the prefixes of its groups of arrays. Each group has the shapes of
        the parameters of the header's ``network``. Errors mean that the header is malformed.
    """

    kind: str
    version: int
    name: str
    groups: Callable[[Header], Sequence[str]]


@dataclass(frozen=True, slots=True)
class FileContents:
    """A checked file: its header, its network, and the groups of arrays by prefix."""

    header: Header
    network: Network
    groups: Mapping[str, Parameters]


def write_parameters(
    path: Path,
    file_format: FileFormat,
    header: Mapping[str, object],
    groups: Mapping[str, Parameters],
) -> None:
    """Write a file, atomically.

    Parameters
    ----------
    header
        JSON data; ``network`` is that of :func:`network_to_dict`.
    groups
        Parameters by prefix; the arrays are named ``<prefix>weights.0``, ``<prefix>biases.0``, ….

    Raises
    ------
    StorageError
        The file cannot be written; an older one is untouched.
    """
    arrays: dict[str, FloatArray] = {}
    for prefix, parameters in groups.items():
        arrays |= {f"{prefix}weights.{i}": W for i, W in enumerate(parameters.weights)}
        arrays |= {f"{prefix}biases.{i}": b for i, b in enumerate(parameters.biases)}
    write_arrays(path, file_format.kind, file_format.version, header, arrays)


def read_parameters(path: Path, file_format: FileFormat) -> FileContents:
    """Read what :func:`write_parameters` wrote.

    Raises
    ------
    FileFormatError
        The file is truncated, damaged, foreign, of another kind, or newer than this release.
    StorageError
        The file cannot be opened.
    """
    path = Path(path)
    with _read_errors(path):
        if not path.exists():
            raise StorageError(f"there is no file {path}")
        if not path.is_file():
            kind = "a folder" if path.is_dir() else "a pipe or a device"
            raise FileFormatError(f"{path} is {kind}, not a {file_format.name}")
        return _read(path, file_format)


def _read(path: Path, file_format: FileFormat) -> FileContents:
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        document = (file.metadata() or {}).get(_METADATA_KEY)
        header = _checked_header(path, document, file_format)
        digest = header.pop(_DIGEST_KEY, None)  # absent from files of older releases
        with format_errors(f"{path}: its header is not sound"):
            prefixes = file_format.groups(header)
            network = network_from_dict(header["network"])
            expected = _shapes(network, prefixes)
        slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
        for name, stored in slices.items():
            if stored.get_dtype() not in _DTYPES:
                raise FileFormatError(
                    f"{path}: array {name!r} has type {stored.get_dtype()}, not F32 or F64"
                )
        found = {name: tuple(stored.get_shape()) for name, stored in slices.items()}
        for name in sorted({*found, *expected}):
            if found.get(name) != expected.get(name):
                raise FileFormatError(
                    f"{path}: array {name!r} has shape {found.get(name)}, its header promises "
                    f"{expected.get(name)}"
                )
        arrays = {name: file.get_tensor(name) for name in found}
    with format_errors(f"{path} is damaged"):
        if digest is not None and digest != _digest(header, arrays):
            raise InvalidInputError("its content does not match its SHA-256")
    groups = {prefix: _group(prefix, arrays, network) for prefix in prefixes}
    with format_errors(f"{path} is not a sound {file_format.name}"):
        for parameters in groups.values():
            parameters.check(network)
    return FileContents(header, network, groups)


@contextmanager
def _read_errors(path: Path) -> Iterator[None]:
    """Turn the errors of the operating system and of safetensors into errors that name ``path``."""
    from safetensors import SafetensorError

    try:
        yield
    except FusedMLPError:
        raise
    except SafetensorError as error:
        raise FileFormatError(
            f"{path} is not a safetensors file, or is truncated: {error}"
        ) from error
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except MemoryError as error:
        raise StorageError(f"cannot read {path}: it does not fit into memory") from error


@contextmanager
def format_errors(message: str) -> Iterator[None]:
    """Turn errors of malformed content into :class:`FileFormatError`, ``message`` first."""
    try:
        yield
    except (
        AttributeError,
        LookupError,
        OverflowError,
        RecursionError,
        TypeError,
        ValueError,
        FusedMLPError,
    ) as error:
        raise FileFormatError(f"{message}: {error!s}") from error


def natural(value: object) -> int:
    """Return a whole number from 0 to 2**63 - 1 from a header, checked to be one."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise InvalidInputError(
            f"{value!r:.80} is not a whole number of at least 0 and below 2**63"
        )
    return value


def number(value: object) -> float:
    """Return a number from a header, checked to be one; NaN and infinity are numbers."""
    if type(value) not in (int, float):
        raise InvalidInputError(f"{value!r:.80} is not a number")
    return float(value)  # type: ignore[arg-type]


def slot_prefixes(count: object) -> tuple[str, ...]:
    """Return the prefixes of an optimizer's slots; ``count`` is their number in a header."""
    n_slots = natural(count)
    if n_slots > MOST_SLOTS:
        raise InvalidInputError(f"its optimizer has {n_slots} slots, more than {MOST_SLOTS}")
    return tuple(f"slot{index}." for index in range(n_slots))


def network_to_dict(network: Network) -> dict[str, object]:
    """Return plain data for a header; :func:`network_from_dict` reads it."""
    return asdict(network)


def network_from_dict(data: Header) -> Network:
    """Build a network from a header, with all of its checks."""
    return Network(**{**data, "sizes": tuple(data["sizes"])})


def write_arrays(
    path: Path,
    kind: str,
    version: int,
    header: Mapping[str, object],
    arrays: Mapping[str, FloatArray],
) -> None:
    """Write named arrays and a JSON header as one safetensors file, unchecked."""
    from safetensors.numpy import save

    document = signed_document({"kind": kind, "version": version, **header}, arrays)
    write_atomically(path, save(dict(arrays), metadata={_METADATA_KEY: document}))


def signed_document(header: Header, arrays: Mapping[str, FloatArray]) -> str:
    """Return a header as JSON with the SHA-256 of itself and of the arrays."""
    # Within the header: safetensors writes several entries of metadata in no fixed order.
    return json.dumps({**header, _DIGEST_KEY: _digest(header, arrays)})


def _digest(header: Header, arrays: Mapping[str, FloatArray]) -> str:
    """Return the SHA-256 of a header and of the arrays in the order of their names."""
    digest = hashlib.sha256(json.dumps(header).encode())
    for name in sorted(arrays):
        digest.update(f"{name}{arrays[name].dtype.str}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).data)
    return digest.hexdigest()


def _shapes(network: Network, prefixes: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all arrays by name."""
    shapes: dict[str, tuple[int, ...]] = {}
    for prefix in prefixes:
        for layer, shape in enumerate(network.layer_shapes):
            shapes[f"{prefix}weights.{layer}"] = shape
            shapes[f"{prefix}biases.{layer}"] = shape[1:]
    return shapes


def _group(prefix: str, arrays: Mapping[str, FloatArray], network: Network) -> Parameters:
    layers = range(network.n_layers)
    return Parameters(
        tuple(arrays[f"{prefix}weights.{i}"] for i in layers),
        tuple(arrays[f"{prefix}biases.{i}"] for i in layers),
    )


def _checked_header(path: Path, document: str | None, file_format: FileFormat) -> Header:
    if document is None:
        raise FileFormatError(f"{path} was not written by fusedmlp: its header is missing")
    try:
        header: Header = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"{path}: its header is not JSON: {error}") from error
    if not isinstance(header, dict) or header.get("kind") != file_format.kind:
        found = header.get("kind") if isinstance(header, dict) else header
        raise FileFormatError(f"{path} holds {found!r:.80}, expected {file_format.kind!r}")
    version = header.get("version")
    if type(version) is not int or not 1 <= version <= file_format.version:
        raise FileFormatError(
            f"{path} has format version {version!r:.80}, this release reads up to "
            f"{file_format.version}: upgrade fusedmlp"
        )
    return header
