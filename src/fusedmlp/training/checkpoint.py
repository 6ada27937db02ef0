"""Checkpoints: everything that a training needs to continue with the same bits, in one file.

Random generators need no state here: weights, shuffles and masks follow from the seed, the epoch
and the step. Writing is atomic, so a process killed at any moment leaves a complete checkpoint.
"""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.backend import State
from fusedmlp.errors import InvalidInputError
from fusedmlp.interop import host_copy, on_device
from fusedmlp.io.parameter_files import (
    FileFormat,
    Header,
    format_errors,
    natural,
    network_to_dict,
    read_parameters,
    slot_prefixes,
    write_parameters,
)
from fusedmlp.training.history import EpochRecord, History
from fusedmlp.validation import is_sparse

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy.typing as npt

    from fusedmlp.network import Network, Parameters
    from fusedmlp.types import Inputs

BEST_PREFIX: Final = "best."


def _groups(header: Header) -> tuple[str, ...]:
    best = (BEST_PREFIX,) if header["has_best"] else ()
    return ("", *slot_prefixes(header["slots"]), *best)


CHECKPOINT_FORMAT: Final = FileFormat("fusedmlp-checkpoint", 1, "checkpoint", _groups)

_ABSENT: Final = {"strict": str(False), "labels": str(None)}
"""Settings that older checkpoints do not hold, and the values that they were made with."""

_FINGERPRINT_ROWS: Final = 256


@dataclass(frozen=True)
class Checkpoint:
    """A training between two epochs.

    Parameters
    ----------
    state
        Parameters, optimizer slots and step.
    best
        Parameters of the best epoch so far; None without early stopping.
    history
        Records of the finished epochs.
    settings
        What decides the results, as text by name: a resumed training must agree.
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
        The file cannot be written; the previous checkpoint is untouched.
    """
    state = checkpoint.state
    header = {
        "network": network_to_dict(checkpoint.network),
        "step": state.step,
        "slots": len(state.slots),
        "has_best": checkpoint.best is not None,
        "history": [asdict(record) for record in checkpoint.history.records],
        "settings": dict(checkpoint.settings),
    }
    groups = {"": state.parameters}
    groups |= zip(slot_prefixes(len(state.slots)), state.slots, strict=True)
    if checkpoint.best is not None:
        groups[BEST_PREFIX] = checkpoint.best
    write_parameters(path, CHECKPOINT_FORMAT, header, groups)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises
    ------
    FileFormatError
        The file is truncated, not a checkpoint, or from a newer version.
    StorageError
        The file cannot be opened.
    """
    file = read_parameters(path, CHECKPOINT_FORMAT)
    header, groups = file.header, file.groups
    with format_errors(f"{path} is not a sound checkpoint"):
        slots = tuple(groups[prefix] for prefix in slot_prefixes(header["slots"]))
        state = State(groups[""], slots, natural(header["step"]))
        history = History([EpochRecord(**record) for record in header["history"]])
        settings = dict(header["settings"])
        return Checkpoint(file.network, state, groups.get(BEST_PREFIX), history, settings)


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
    """Return a digest of a data set: of all targets and weights, and of a sample of rows."""
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
