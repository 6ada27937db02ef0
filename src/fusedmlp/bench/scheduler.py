"""Runs the workers: parity first, then rounds in which every subject takes one turn.

A machine that slows down during a round slows all subjects. Each round begins with another subject,
so that none always follows the same one. With a noise monitor, turns during which the machine was
disturbed are repeated at the end.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from fusedmlp.bench import inputs, machine, parity
from fusedmlp.bench.channel import (
    TIMEOUT,
    Channel,
    UnsupportedTaskError,
    WorkerError,
    cpu_seconds,
    settle,
)
from fusedmlp.bench.document import Entry, Round, TaskEntries
from fusedmlp.bench.noise import REPEAT_SECONDS, STEADY, WAIT_SECONDS, NoiseMonitors
from fusedmlp.bench.prepare import named_rows, prepare
from fusedmlp.registry import backend_class

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from fusedmlp.backend import Backend
    from fusedmlp.bench.document import Document
    from fusedmlp.bench.prepare import Source
    from fusedmlp.bench.subjects import Subject
    from fusedmlp.bench.tasks import Task

LEAST_ROUNDS: Final = 3
"""Rounds that a task gets at least, so that one disturbed round is not the median."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a :class:`RoundRobin` measures.

    Parameters
    ----------
    source
        Returns the rows of a task.
    reference
        The NumPy backend, for the expected results; the registered one where None.
    monitor_noise
        Whether turns wait for a steady machine; needs the multiply-add peak among the subjects.
    wait_seconds, repeat_seconds
        See :data:`fusedmlp.bench.noise.WAIT_SECONDS` and ``REPEAT_SECONDS``.
    timeout
        Seconds after which a worker that does not answer is killed.
    channel
        Starts the worker of a subject.
    """

    source: Source = named_rows
    reference: Backend | None = None
    monitor_noise: bool = False
    wait_seconds: float = WAIT_SECONDS
    repeat_seconds: float = REPEAT_SECONDS
    timeout: float = TIMEOUT
    channel: Callable[[Subject, list[int], float], Channel] = Channel


@dataclass(slots=True)
class Participant:
    """A worker and its entry for the current task."""

    channel: Channel
    entry: Entry

    @property
    def is_measured(self) -> bool:
        """Whether it has not failed so far."""
        return self.entry["status"] == "measured"


class RoundRobin:
    """The workers of a run, started once for all tasks. Use it as a context.

    Parameters
    ----------
    subjects
        Those that are not installed are skipped and named.
    document
        Receives versions, absences and devices.
    say
        Receives messages for the user.
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        document: Document,
        say: Callable[[str], None],
        options: Options | None = None,
    ) -> None:
        self._subjects, self._document, self._say = subjects, document, say
        self._options = options or Options()
        self._stack = ExitStack()
        self._channels: list[Channel] = []
        self._noise = NoiseMonitors(say, self._options.wait_seconds)
        self._folder = Path()
        self._is_gpu: dict[str, bool] = {}
        self.breaches = 0
        self.failures = 0

    def __enter__(self) -> RoundRobin:
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            cpus = machine.usable_cpus()
            for subject in self._subjects:
                absence = subject.absence()
                if absence is None:
                    own = cpus[: subject.threads]
                    channel = self._options.channel(subject, own, self._options.timeout)
                    self._channels.append(stack.enter_context(channel))
                elif subject.name not in self._document["skipped"]:
                    self._document["skipped"][subject.name] = absence
                    self._say(f"{subject.name} is skipped: {absence}")
            for channel in list(self._channels):
                try:
                    self._greet(channel)
                except UnsupportedTaskError as reason:
                    self._channels.remove(channel)
                    self._document["skipped"][channel.subject.label] = str(reason)
                    self._say(f"{channel.subject.label} is skipped: {reason}")
                except WorkerError as error:
                    self._drop(channel, str(error))
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    def check(self, task: Task) -> list[tuple[str, str]]:
        """Check the parity of all subjects on a task; return each one that breaches it, and why.

        A subject that fails altogether is not named here; :meth:`run` names it.
        """
        found = []
        for channel in self._taking(task):
            own = channel.subject.task_for(task)
            with contextlib.suppress(UnsupportedTaskError, WorkerError):
                answer = channel.ask("check", task=own.to_dict(), inputs=self._inputs(own))
                breach = parity.breach(own, answer)
                if breach is not None:
                    found.append((channel.subject.name, breach))
            self._release(channel)
        return found

    def run(
        self,
        task: Task,
        rounds: int,
        begin: Callable[[int], None] = lambda _number: None,
        most_seconds: float = float("inf"),
    ) -> TaskEntries:
        """Measure all subjects that can do a task.

        Parameters
        ----------
        begin
            Receives the number of each round before it begins.
        most_seconds
            Once they have passed, LEAST_ROUNDS are enough.
        """
        # One after another: spinning threads on shared cores cost more than compilers would gain.
        participants = [
            Participant(channel, self._prepared(channel, task)) for channel in self._taking(task)
        ]
        ready = [each for each in participants if each.is_measured]
        if self._options.monitor_noise:
            self._noise.start(each.channel for each in ready)
        deadline = time.monotonic() + most_seconds
        for number in range(1, rounds + 1):
            if number > LEAST_ROUNDS and time.monotonic() > deadline:
                break
            begin(number)
            first = number % max(len(ready), 1)
            for each in ready[first:] + ready[:first]:
                if each.is_measured:
                    turn = self._turn(each, number, self._steadiness(each, wait=True))
                    if turn is not None:
                        each.entry["rounds"].append(turn)
        self._repeat_disturbed(ready)
        for each in participants:
            self._release(each.channel)
        return TaskEntries(
            task=task.to_dict(),
            flops_per_sample=task.flops_per_sample,
            entries=[each.entry for each in participants],
        )

    def forget(self, task: Task) -> None:
        """Remove the inputs of a task."""
        shutil.rmtree(self._folder / task.name, ignore_errors=True)

    def _greet(self, channel: Channel) -> None:
        greeting, label = channel.greeting(), channel.subject.label
        self._document["versions"] |= greeting["versions"]
        self._is_gpu[label] = greeting["is_gpu"]
        if greeting["device"]:
            self._document.setdefault("devices", {})[label] = greeting["device"]

    def _taking(self, task: Task) -> list[Channel]:
        return [channel for channel in self._channels if channel.subject.takes(task)]

    def _inputs(self, task: Task) -> str:
        """Prepare a task's inputs, unless they exist; return their folder."""
        folder = self._folder / task.name
        if not folder.exists():
            reference = self._options.reference or backend_class("numpy")()
            inputs.write(prepare(task, self._options.source, reference), folder)
        return str(folder)

    def _prepared(self, channel: Channel, task: Task) -> Entry:
        subject, own = channel.subject, channel.subject.task_for(task)
        entry = Entry(
            peer=subject.name,
            threads=subject.threads,
            status="measured",
            reason="",
            parity={},
            prepare_seconds=None,
            rounds=[],
        )
        if self._is_gpu[subject.label]:
            entry["is_gpu"] = True
        try:
            answer = channel.ask("prepare", task=own.to_dict(), inputs=self._inputs(own))
        except UnsupportedTaskError as unable:
            entry["status"], entry["reason"] = "unsupported", str(unable)
            return entry
        except WorkerError as error:
            self._fail(entry, f"{subject.label} on {task.name}", str(error))
            return entry
        entry["prepare_seconds"] = cast("float", answer.pop("prepare_seconds"))
        entry["parity"] = answer
        breach = parity.breach(own, answer)
        if breach is not None:
            self.breaches += 1
            entry["status"], entry["reason"] = "parity", breach
            self._say(f"{subject.label} is excluded from {task.name}: {breach}")
        return entry

    def _steadiness(self, participant: Participant, *, wait: bool) -> float | None:
        """Return how steady the machine is; None where noise is not monitored."""
        settle(self._channels)
        return self._noise.steadiness(participant.channel.subject.threads, wait=wait)

    def _turn(self, participant: Participant, number: int, before: float | None) -> Round | None:
        """Return a round, with the machine's steadiness before and after; None where it failed."""
        channel = participant.channel
        others = [each for each in self._channels if each is not channel]
        burned = cpu_seconds(others)
        try:
            turn = cast("Round", channel.ask("round", number=number))
        except WorkerError as error:
            self._fail(participant.entry, channel.subject.label, str(error))
            return None
        after = cpu_seconds(others)
        turn["disturbance"] = (
            None if burned is None or after is None else (after - burned) / turn["seconds"]
        )
        if before is not None:
            later = self._steadiness(participant, wait=False)
            if later is not None:
                turn["steadiness"] = min(before, later)
        return turn

    def _repeat_disturbed(self, ready: Sequence[Participant]) -> None:
        """Repeat disturbed turns, one after another, until all were steady or time is up."""
        waiting = deque(
            (each, place)
            for each in ready
            for place, turn in enumerate(each.entry["rounds"])
            if turn.get("steadiness", 1.0) < STEADY
        )
        deadline = time.monotonic() + self._options.repeat_seconds * len(waiting)
        while waiting and time.monotonic() < deadline:
            each, place = waiting.popleft()
            before = self._steadiness(each, wait=True)
            if before is None or not each.is_measured:
                continue
            if before >= STEADY:
                turn = self._turn(each, place + 1, before)
                if turn is None or "steadiness" not in turn:
                    continue
                rounds = each.entry["rounds"]
                if turn["steadiness"] > rounds[place]["steadiness"]:
                    rounds[place] = turn
                if rounds[place]["steadiness"] >= STEADY:
                    continue
            waiting.append((each, place))

    def _release(self, channel: Channel) -> None:
        try:
            channel.ask("release")
        except WorkerError as error:
            self._drop(channel, str(error))

    def _fail(self, entry: Entry, what: str, why: str) -> None:
        self.failures += 1
        entry["status"], entry["reason"] = "failed", why
        self._say(f"{what} failed: {why}")

    def _drop(self, channel: Channel, why: str) -> None:
        self.failures += 1
        self._channels.remove(channel)
        self._document["skipped"][channel.subject.label] = why
        self._say(f"{channel.subject.label} is gone: {why}")
