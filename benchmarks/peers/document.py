"""The JSON that a run writes and that tables, verdicts and plots read: its fields and its version.

Only what was measured is stored, with every round; medians and ratios are in figures.py.
"""

from __future__ import annotations

import datetime
import json
import math
import sys
from typing import TYPE_CHECKING, Final, TypedDict, cast

from fusedmlp.errors import FileFormatError
from peers import machine

if TYPE_CHECKING:
    from pathlib import Path

SCHEMA: Final = 1


class Round(TypedDict, total=False):
    """One timed round; ``disturbance`` is CPU time of all idle workers, as a share of it."""

    seconds: float
    samples: int
    flops: float
    loss: float
    accuracy: float | None
    disturbance: float | None


class Entry(TypedDict):
    """One contestant on one task.

    ``status`` is ``measured``, ``parity`` (excluded for that), ``unsupported`` or ``failed``.
    """

    peer: str
    threads: int
    status: str
    reason: str
    parity: dict[str, object]
    prepare_seconds: float | None
    rounds: list[Round]


class TaskEntries(TypedDict):
    """One task: what it was, and who did it."""

    task: dict[str, object]
    flops_per_sample: int
    entries: list[Entry]


class Document(TypedDict, total=False):
    """A whole run. ``startup`` and ``sweep`` are there after those modes."""

    schema: int
    date: str
    command: list[str]
    machine: dict[str, object]
    versions: dict[str, str]
    settings: dict[str, object]
    skipped: dict[str, str]
    tasks: list[TaskEntries]
    startup: list[dict[str, object]]


def new(settings: dict[str, object]) -> Document:
    """Begin a document with the facts of this machine and moment."""
    return Document(
        schema=SCHEMA,
        date=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        command=["python", "-m", "peers", *_without_paths(sys.argv[1:])],
        machine=machine.describe(),
        versions={},
        settings=settings,
        skipped={},
        tasks=[],
    )


def _without_paths(words: list[str]) -> list[str]:
    """Leave out where the result goes: it says nothing about how it was measured."""
    found: list[str] = []
    for before, word in zip(["", *words], words, strict=False):
        if before != "--json" and not word.startswith("--json"):
            found.append(word)
    return found


def write(document: Document, path: Path) -> None:
    """Write a document; a number that is not finite becomes null, which JSON can say."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_finite(document), indent=1, allow_nan=False, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")


def read(path: Path) -> Document:
    """Read a document.

    Raises
    ------
    FileFormatError
        It is none, or one of another version.
    """
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise FileFormatError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise FileFormatError(f"{path} is not a result with schema {SCHEMA}")
    return cast("Document", found)


def _finite(value: object) -> object:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
