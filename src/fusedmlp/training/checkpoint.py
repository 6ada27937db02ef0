"""Checkpoints: everything a training needs to go on with the same bits, in one safetensors file.

Random generators need no state here: weights, shuffles and masks follow from the seed, the epoch
and the step. Writing is atomic, so a process killed at any moment leaves a whole checkpoint.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.backend import State
from fusedmlp.errors import FileFormatError, FusedMLPError, InvalidInputError
from fusedmlp.interop import host_copy, on_device
from fusedmlp.io.model_files import (
    Header,
    network_from_dict,
    network_to_dict,
    parameter_shapes,
    parameters_from_arrays,
    parameters_to_arrays,
    read_arrays,
    state_shapes,
    whole,
    write_arrays,
)
from fusedmlp.training.history import EpochRecord, History
from fusedmlp.validation import is_sparse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from fusedmlp.network import Network, Parameters
    from fusedmlp.types import Inputs

CHECKPOINT_KIND: Final = "fusedmlp-checkpoint"
CHECKPOINT_VERSION: Final = 1

_ABSENT: Final = {"strict": str(False)}
"""Settings that older checkpoints do not hold, and what they were made with."""

_FINGERPRINT_ROWS: Final = 256


@dataclass(frozen=True)
class Checkpoint:
    """A training between two epochs.

    Parameters
    ----------
    state
        Parameters, optimizer slots and step.
    best
        Parameters of the best epoch so far, where early stopping keeps them.
    history
        Records of the finished epochs.
    settings
        What decides the bits that follow, as text by name: a resumed training must agree.
    """

    network: Network
    state: State
    best: Parameters | None
    history: History
    settings: Mapping[str, str]


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, atomically.

    Raises
    ------
    StorageError
        It cannot be written; the previous checkpoint is untouched.
    """
    header = {
        "network": network_to_dict(checkpoint.network),
        "step": checkpoint.state.step,
        "slots": len(checkpoint.state.slots),
        "has_best": checkpoint.best is not None,
        "history": [asdict(record) for record in checkpoint.history.records],
        "settings": dict(checkpoint.settings),
    }
    arrays = parameters_to_arrays("", checkpoint.state.parameters)
    for index, slot in enumerate(checkpoint.state.slots):
        arrays |= parameters_to_arrays(f"slot{index}.", slot)
    if checkpoint.best is not None:
        arrays |= parameters_to_arrays("best.", checkpoint.best)
    write_arrays(path, CHECKPOINT_KIND, CHECKPOINT_VERSION, header, arrays)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    FileFormatError
        The file is truncated, not a checkpoint, or from a newer version.
    StorageError
        The file cannot be opened.
    """
    header, arrays = read_arrays(path, CHECKPOINT_KIND, CHECKPOINT_VERSION, _promised)
    try:
        network = network_from_dict(header["network"])
        slots = tuple(
            parameters_from_arrays(f"slot{index}.", arrays, network)
            for index in range(header["slots"])
        )
        best = parameters_from_arrays("best.", arrays, network) if header["has_best"] else None
        history = History([EpochRecord(**record) for record in header["history"]])
        parameters = parameters_from_arrays("", arrays, network)
        state = State(parameters, slots, whole(header["step"]))
        return Checkpoint(network, state, best, history, dict(header["settings"]))
    except (KeyError, TypeError, ValueError, FusedMLPError) as error:
        raise FileFormatError(f"{path} is not a sound checkpoint: {error!s}") from error


def _promised(header: Header) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the arrays that the header promises, by name."""
    shapes = state_shapes(header["network"], header["slots"])
    if header["has_best"]:
        shapes |= parameter_shapes("best.", network_from_dict(header["network"]))
    return shapes


def check_settings(path: Path, checkpoint: Checkpoint, settings: Mapping[str, str]) -> None:
    """Raise :class:`InvalidInputError` unless a resumed training agrees with its checkpoint."""
    for name, value in settings.items():
        before = checkpoint.settings.get(name, _ABSENT.get(name))
        if before != value:
            raise InvalidInputError(
                f"{path} was made with {name} {before}, now it is {value}: "
                "resume with the same settings and data, or start anew"
            )


def fingerprint(x: Inputs, y: npt.ArrayLike, sample_weight: npt.ArrayLike | None) -> str:
    """Digest that tells one data set from another: all targets and a sample of rows."""
    digest = hashlib.sha256()
    n_rows = int(x.shape[0])
    rows = np.unique(np.linspace(0, n_rows - 1, _FINGERPRINT_ROWS).astype(np.int64))
    if is_sparse(x):
        sample = x[rows].toarray()
    elif on_device(x):
        # A row at a time: libraries differ in what else they take as an index.
        sample = np.concatenate([host_copy("x", x[int(row) : int(row) + 1]) for row in rows])
    else:
        sample = np.asarray(x[rows])
    for array in (sample, host_copy("y", y), host_copy("sample_weight", sample_weight)):
        digest.update(f"{array.shape}{array.dtype}".encode())
        if array.dtype != object:
            digest.update(np.ascontiguousarray(array).tobytes())
    return f"{n_rows} rows, {digest.hexdigest()[:16]}"
