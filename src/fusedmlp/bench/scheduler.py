"""Runs the workers: parity first, then rounds in which every subject takes one turn.

A machine that slows down during a round slows all subjects. Each round begins with another subject,
so that none always follows the same one.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from fusedmlp.bench import parity
from fusedmlp.bench.adapter import UnsupportedError
from fusedmlp.bench.document import Entry, TaskEntries
from fusedmlp.bench.prepare import prepare
from fusedmlp.bench.worker import TIMEOUT, Worker, WorkerError, settle
from fusedmlp.registry import backend_class

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from fusedmlp.backend import Backend
    from fusedmlp.bench.document import Document
    from fusedmlp.bench.prepare import Source
    from fusedmlp.bench.subjects import Subject
    from fusedmlp.bench.tasks import Inputs, Task

LEAST_ROUNDS: Final = 3
"""Rounds that a task gets at least, so that one disturbed round is not the median."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a :class:`RoundRobin` measures.

    Parameters
    ----------
    source
        Returns the rows of a task.
    say
        Receives messages for the user.
    reference
        The NumPy backend, for the expected results; the registered one where None.
    timeout
        Seconds after which a worker that does not answer is killed.
    most_seconds
        Once the rounds of a task have taken so long, LEAST_ROUNDS of them are enough.
    worker
        Starts the worker of a subject.
    clock
        Returns seconds, for ``most_seconds``.
    """

    source: Source
    say: Callable[[str], None]
    reference: Backend | None = None
    timeout: float = TIMEOUT
    most_seconds: float = float("inf")
    worker: Callable[[Subject, float], Worker] = Worker
    clock: Callable[[], float] = time.monotonic


class RoundRobin:
    """The workers of a run, started once for all tasks. Use it as a context.

    Parameters
    ----------
    subjects
        Those that are not installed are skipped and named.
    document
        Receives versions, absences and devices.
    """

    def __init__(self, subjects: Sequence[Subject], document: Document, options: Options) -> None:
        self._subjects, self._document, self._options = subjects, document, options
        self._workers: list[Worker] = []
        self._gpus: set[str] = set()
        self._prepared: tuple[Task, Inputs] | None = None
        self._stack = ExitStack()
        self.breaches = self.failures = 0

    def __enter__(self) -> RoundRobin:
        with ExitStack() as stack:
            for subject in self._subjects:
                absence = subject.absence()
                if absence is None:
                    worker = self._options.worker(subject, self._options.timeout)
                    self._workers.append(stack.enter_context(worker))
                elif subject.name not in self._document["skipped"]:
                    self._skip(subject.name, absence)
            for worker in tuple(self._workers):
                try:
                    self._greet(worker)
                except UnsupportedError as reason:
                    self._workers.remove(worker)
                    self._skip(worker.subject.label, str(reason))
                except WorkerError as error:
                    self._drop(worker, str(error))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def check(self, task: Task) -> list[str]:
        """Check the parity of all subjects on a task; return a line for each that breaches it.

        A subject that fails altogether is not named here; :meth:`run` names it.
        """
        entries = [self._entry(each, own, "check") for each, own in self._taking(task)]
        self._release()
        return [
            f"{entry['peer']} on {task.name}: {entry['reason']}"
            for entry in entries
            if entry["status"] == "parity"
        ]

    def run(
        self, task: Task, rounds: int, begin: Callable[[int], None] = lambda _number: None
    ) -> TaskEntries:
        """Measure all subjects that can do a task.

        Parameters
        ----------
        begin
            Receives the number of each round before it begins.
        """
        # One after another: spinning threads on shared cores cost more than compilers would gain.
        entries = [(each, self._entry(each, own, "prepare")) for each, own in self._taking(task)]
        for _, entry in entries:
            self._report(entry, task)
        ready = [pair for pair in entries if pair[1]["status"] == "measured"]
        clock = self._options.clock
        deadline = clock() + self._options.most_seconds
        for number in range(1, rounds + 1):
            if number > LEAST_ROUNDS and clock() > deadline:
                break
            begin(number)
            first = number % max(len(ready), 1)
            for worker, entry in ready[first:] + ready[:first]:
                if entry["status"] == "measured":
                    self._turn(worker, entry, number, task)
        self._release()
        return TaskEntries(
            task=task.to_dict(),
            flops_per_sample=task.flops_per_sample,
            entries=[entry for _, entry in entries],
        )

    def _greet(self, worker: Worker) -> None:
        greeting, label = worker.greeting(), worker.subject.label
        self._document["versions"] |= greeting.versions
        if greeting.is_gpu:
            self._gpus.add(label)
        if greeting.device:
            self._document.setdefault("devices", {})[label] = greeting.device

    def _taking(self, task: Task) -> list[tuple[Worker, Task]]:
        """Return the workers that take part in a task, each with the task as it does it."""
        found = [(each, each.subject.task_for(task)) for each in self._workers]
        return [(each, own) for each, own in found if own is not None]

    def _inputs(self, task: Task) -> Inputs:
        if self._prepared is None or self._prepared[0] != task:
            reference = self._options.reference or backend_class("numpy")()
            self._prepared = task, prepare(task, self._options.source, reference)
        return self._prepared[1]

    def _entry(self, worker: Worker, task: Task, method: str) -> Entry:
        """Return an entry without rounds, after the call that checks or prepares the task."""
        subject = worker.subject
        entry = Entry(
            peer=subject.name,
            threads=subject.threads,
            status="measured",
            reason="",
            parity={},
            prepare_seconds=None,
            rounds=[],
        )
        if subject.label in self._gpus:
            entry["is_gpu"] = True
        inputs = self._inputs(task)
        try:
            if method == "check":
                entry["parity"] = worker.ask("check", task, inputs)
            else:
                entry["parity"], entry["prepare_seconds"] = worker.ask("prepare", task, inputs)
        except UnsupportedError as unable:
            entry["status"], entry["reason"] = "unsupported", str(unable)
            return entry
        except WorkerError as error:
            entry["status"], entry["reason"] = "failed", str(error)
            return entry
        breach = parity.breach(task, entry["parity"])
        if breach is not None:
            entry["status"], entry["reason"] = "parity", breach
        return entry

    def _turn(self, worker: Worker, entry: Entry, number: int, task: Task) -> None:
        settle(self._workers)
        try:
            entry["rounds"].append(worker.ask("round", number))
        except (WorkerError, UnsupportedError) as error:
            entry["status"], entry["reason"] = "failed", str(error)
            self._report(entry, task)

    def _report(self, entry: Entry, task: Task) -> None:
        """Count and name a subject that failed, or is excluded."""
        name, reason = f"{entry['peer']} ×{entry['threads']} on {task.name}", entry["reason"]
        if entry["status"] == "failed":
            self.failures += 1
            self._options.say(f"{name} failed: {reason}")
        elif entry["status"] == "parity":
            self.breaches += 1
            self._options.say(f"{name} is excluded: {reason}")

    def _release(self) -> None:
        for worker in tuple(self._workers):
            try:
                worker.ask("release")
            except WorkerError as error:
                self._drop(worker, str(error))

    def _drop(self, worker: Worker, why: str) -> None:
        self.failures += 1
        self._workers.remove(worker)
        self._skip(worker.subject.label, why)

    def _skip(self, name: str, why: str) -> None:
        self._document["skipped"][name] = why
        self._options.say(f"{name} is left out: {why}")
