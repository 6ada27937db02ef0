"""Compares a document with an earlier one: which backends have become slower.

The ratio to the reference, NumPy, is compared, which was measured in the same rounds, so that a
machine that is slower today does not look like a regression.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from fusedmlp.bench import document
from fusedmlp.bench.measure import KIND
from fusedmlp.bench.results import records
from fusedmlp.bench.tasks import Task
from fusedmlp.errors import FileFormatError, InvalidInputError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from fusedmlp.bench.document import Document
    from fusedmlp.bench.results import Record

Key = tuple[Task, str, int]
Verdict: TypeAlias = Literal["held", "unclear", "slower", "reference"]


@dataclass(frozen=True, slots=True)
class Change:
    """One engine on one task, before and now.

    Parameters
    ----------
    before, now
        Samples per second.
    ratio
        Now by before: of the ratios to the reference, or of the rates of an engine that was
        measured alone. None for the reference itself.
    best
        The best round now by the worst one before; infinite where other processes disturbed one of
        two ratios.
    """

    task: str
    engine: str
    threads: int
    before: float
    now: float
    ratio: float | None
    best: float

    def verdict(self, threshold: float) -> Verdict:
        """Return ``slower`` if every round now is below ``threshold`` of every round before.

        Slower code is slower in every round; a machine that other processes use is not.
        """
        if self.ratio is None:
            return "reference"
        if self.ratio >= threshold:
            return "held"
        return "slower" if self.best < threshold else "unclear"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two documents compared.

    Parameters
    ----------
    threshold
        A backend below this share of its earlier speed counts as slower.
    """

    changes: list[Change]
    threshold: float

    @property
    def slower(self) -> list[Change]:
        """The backends that have become slower."""
        return [each for each in self.changes if each.verdict(self.threshold) == "slower"]


def read(path: Path) -> Document:
    """Read an earlier document.

    Raises
    ------
    InvalidInputError
        It cannot be read, or is truncated, not a document, of another version, or damaged.
    """
    remedy = "write it with 'fusedmlp bench --json > FILE', of this release"
    try:
        found = document.read(path, KIND)
        _by_key(found)
    except (FileFormatError, StorageError) as error:
        raise InvalidInputError(f"{error}: {remedy}") from error
    except (KeyError, TypeError, ValueError, ArithmeticError, AttributeError) as error:
        what = f"{type(error).__name__}: {error}"
        raise InvalidInputError(f"{path} is damaged ({what}): {remedy}") from error
    return found


def check_comparable(path: Path, old: Document, tasks: Iterable[Task]) -> None:
    """Raise :class:`InvalidInputError` if ``old`` has none of the tasks."""
    known = {task for task, _, _ in _by_key(old)}
    if known.isdisjoint(tasks):
        raise InvalidInputError(
            f"{path} has none of the tasks that would be measured: "
            f"it was written by {' '.join(old['command'])!r}"
        )


def compare(old: Document, new: Document, threshold: float) -> Comparison:
    """Compare the tasks and engines that both documents have, in the order of the new one."""
    before, now = _by_key(old), _by_key(new)
    related = {each.reference for each in now.values() if not each.is_reference}
    changes = [_change(before[key], each, related) for key, each in now.items() if key in before]
    return Comparison(changes, threshold)


def _by_key(found: Document) -> dict[Key, Record]:
    tasks = {
        str(each["task"]["name"]): Task.from_dict(each["task"])
        for each in [*found["tasks"], *found["predictions"]]
    }
    return {(tasks[each.task], each.engine, each.threads): each for each in records(found)}


def _change(before: Record, now: Record, related: set[str]) -> Change:
    """Compare two records; ``related`` are the engines that others are compared with now."""
    ratio: float | None = now.samples_per_s / before.samples_per_s
    best = now.fastest / before.slowest
    if now.is_reference and now.engine in related:
        ratio = None
    elif not now.is_reference and now.reference == before.reference:
        ends = now.highest_ratio, before.lowest_ratio
        if now.ratio and before.ratio and ends[0] and ends[1]:
            ratio, best = now.ratio / before.ratio, ends[0] / ends[1]
        if before.is_disturbed or now.is_disturbed:
            best = math.inf
    return Change(
        now.task, now.engine, now.threads, before.samples_per_s, now.samples_per_s, ratio, best
    )
