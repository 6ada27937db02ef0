"""The JSON document of a run: its fields, its version, reading and writing.

Only measurements are stored, with every round; medians and ratios are in results.py.
"""

from __future__ import annotations

import datetime
import json
import math
from typing import TYPE_CHECKING, Final, NotRequired, TypedDict, cast

from fusedmlp.bench import machine
from fusedmlp.errors import FileFormatError, StorageError
from fusedmlp.io.atomic import write_atomically

if TYPE_CHECKING:
    from pathlib import Path

    from fusedmlp.bench.adapter import Figures

SCHEMA: Final = 1


class Round(TypedDict, total=False):
    """One timed round.

    ``waited`` is the share of the round in which its threads waited for a CPU; ``flops`` are the
    operations of the multiply-add peak.
    """

    seconds: float
    samples: int
    flops: float
    loss: float
    accuracy: float | None
    waited: float


class Entry(TypedDict):
    """One subject on one task; ``peer`` is its name.

    ``status`` is ``measured``, ``parity`` (excluded for that), ``unsupported`` or ``failed``.
    """

    peer: str
    threads: int
    status: str
    reason: str
    parity: Figures
    prepare_seconds: float | None
    rounds: list[Round]
    is_gpu: NotRequired[bool]


class TaskEntries(TypedDict):
    """One task and its entries."""

    task: dict[str, object]
    flops_per_sample: float
    entries: list[Entry]


class Document(TypedDict, total=False):
    """A whole run. The fields besides ``tasks`` depend on the command."""

    schema: int
    kind: str
    date: str
    command: list[str]
    machine: dict[str, object]
    environment: dict[str, object]
    versions: dict[str, str]
    settings: dict[str, object]
    skipped: dict[str, str]
    tasks: list[TaskEntries]
    startup: list[dict[str, object]]
    devices: dict[str, str]
    dataset: dict[str, object]
    predictions: list[TaskEntries]


def new(settings: dict[str, object], command: list[str]) -> Document:
    """Begin a document with the facts of this machine and the date.

    Parameters
    ----------
    settings
        The options of the run.
    command
        The command line that would measure the same again.
    """
    return Document(
        schema=SCHEMA,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=command,
        machine=machine.describe(),
        versions={},
        settings=settings,
        skipped={},
        tasks=[],
    )


def write(document: Document, path: Path) -> None:
    """Write a document; numbers that are not finite become null, as JSON has none."""
    text = json.dumps(_finite(document), indent=1, allow_nan=False, ensure_ascii=False)
    write_atomically(path, (text + "\n").encode())


def read(path: Path, kind: str | None = None) -> Document:
    """Read a document.

    Parameters
    ----------
    kind
        The expected ``kind``; None for documents without one.

    Raises
    ------
    FileFormatError
        It is not a document, or of another kind or version.
    StorageError
        It cannot be read.
    """
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise FileFormatError(f"{path} is truncated or not JSON: {error}") from error
    if not isinstance(found, dict) or "schema" not in found:
        raise FileFormatError(f"{path} is not a result of a benchmark")
    if found["schema"] != SCHEMA:
        raise FileFormatError(f"{path} has schema {found['schema']!r}, this release reads {SCHEMA}")
    if found.get("kind") != kind:
        raise FileFormatError(f"{path} holds {found.get('kind')!r}, expected {kind!r}")
    return cast("Document", found)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
