"""Compares a document with an earlier one: which backends have become slower.

On a CPU the share of the multiply-add peak is compared, which was measured in the same rounds, so
that a machine that is slower today does not look like a regression.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from fusedmlp.bench import document
from fusedmlp.bench.measure import KIND
from fusedmlp.bench.results import records
from fusedmlp.bench.tasks import Task
from fusedmlp.errors import FileFormatError, InvalidInputError, StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from fusedmlp.bench.document import Document
    from fusedmlp.bench.plan import Plan
    from fusedmlp.bench.results import Record

Key = tuple[Task, str, int]
Verdict: TypeAlias = Literal["held", "unclear", "slower", "not judged"]


@dataclass(frozen=True, slots=True)
class Change:
    """One engine on one task, before and now.

    Parameters
    ----------
    before, now
        Samples per second.
    ratio
        Now by before: of the shares of the peak where ``is_normalised``, else of the rates.
    best
        The same of the fastest round now.
    """

    task: str
    engine: str
    threads: int
    before: float
    now: float
    ratio: float
    best: float
    is_normalised: bool
    is_judged: bool

    def verdict(self, threshold: float) -> Verdict:
        """Return ``slower`` if no round reaches ``threshold``, ``unclear`` if some round does.

        Slower code is slower in every round; a machine that other processes use is not.
        """
        if not self.is_judged:
            return "not judged"
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


def check_comparable(path: Path, old: Document, plan: Plan) -> None:
    """Raise :class:`InvalidInputError` if ``old`` has no task of the plan."""
    known = {task for task, _, _ in _by_key(old)}
    if known.isdisjoint(plan.trainings + plan.predictions):
        raise InvalidInputError(
            f"{path} has none of the tasks that would be measured: "
            f"it was written by {' '.join(old['command'])!r}"
        )


def compare(old: Document, new: Document, threshold: float) -> Comparison:
    """Compare the tasks and engines that both documents have, in the order of the new one."""
    before = _by_key(old)
    changes = [_change(before[key], now) for key, now in _by_key(new).items() if key in before]
    return Comparison(changes, threshold)


def _by_key(found: Document) -> dict[Key, Record]:
    tasks = {
        str(each["task"]["name"]): Task.from_dict(each["task"])
        for each in [*found["tasks"], *found["predictions"]]
    }
    return {(tasks[each.task], each.engine, each.threads): each for each in records(found)}


def _change(before: Record, now: Record) -> Change:
    ratio, is_normalised = now.samples_per_s / before.samples_per_s, False
    if before.share_of_peak and now.share_of_peak:
        ratio, is_normalised = now.share_of_peak / before.share_of_peak, True
    return Change(
        now.task,
        now.engine,
        now.threads,
        before.samples_per_s,
        now.samples_per_s,
        ratio,
        ratio * now.fastest / now.samples_per_s,
        is_normalised,
        not now.is_peer,
    )
