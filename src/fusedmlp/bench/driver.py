"""Runs the workers: parity first, then round after round, every contestant in turn.

A round goes once through all of them, so that a machine that slows down slows everybody; and
every round begins one further on, so that nobody always follows the same neighbour. Where asked
for, turns in which the machine was not itself (gauge.py) are taken again in the end.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from fusedmlp.bench import machine, material, parity
from fusedmlp.bench.channel import Channel, UnsupportedTaskError, WorkerError
from fusedmlp.bench.contestants import PEAK
from fusedmlp.bench.document import Entry, Round, TaskEntries
from fusedmlp.bench.gauge import AGAIN_SECONDS, STEADY, Gauge

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from types import TracebackType

    from fusedmlp.bench.contestants import Contestant
    from fusedmlp.bench.document import Document
    from fusedmlp.bench.material import Source
    from fusedmlp.bench.tasks import Task

    Say = Callable[[str], None]

CALM_SECONDS: Final = 0.01
CALM_SHARE: Final = 0.05
"""Workers count as idle when together they use less than this share of a CPU for that long."""

LEAST_ROUNDS: Final = 3
"""So that a median is not the one round that was disturbed."""

PATIENCE: Final = 1.0
"""Thread pools may spin for some 0.2 s after their last task; after this, measure anyway."""


class Contest:
    """The workers of a run, started once for all tasks. Use it as a context.

    Parameters
    ----------
    contestants
        Who may take part; the absent are skipped and named.
    document
        Where versions, absences and results go.
    say
        Receives lines for people.
    source
        Gives the rows of a task; :func:`fusedmlp.bench.material.rows` where None.
    steady
        Whether turns wait for a steady machine, where the peak takes part.
    """

    def __init__(
        self,
        contestants: Sequence[Contestant],
        document: Document,
        say: Say,
        source: Source | None = None,
        *,
        steady: bool = False,
    ) -> None:
        self._contestants, self._document, self._say = contestants, document, say
        self._source, self._steady = source, steady
        self._stack = ExitStack()
        self._channels: list[Channel] = []
        self._folder = Path()
        self._is_gpu: dict[str, bool] = {}
        self.breaches = 0
        self.failures = 0

    def __enter__(self) -> Contest:
        with ExitStack() as stack:
            self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            cpus = machine.usable_cpus()
            for contestant in self._contestants:
                absence = contestant.absence()
                if absence is None:
                    limit = cpus[: contestant.threads]
                    self._channels.append(stack.enter_context(Channel(contestant, limit)))
                elif contestant.name not in self._document["skipped"]:
                    self._document["skipped"][contestant.name] = absence
                    self._say(f"{contestant.name} is skipped: {absence}")
            for channel in list(self._channels):
                try:
                    self._meet(channel)
                except WorkerError as error:
                    self._lose(channel, str(error))
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
        """Time nothing, check everybody's parity on a task; return who breaches it, and how.

        Who fails altogether is not named here: :meth:`run` will say it.
        """
        found = []
        for channel in self._entering(task):
            own = channel.contestant.task_for(task)
            with contextlib.suppress(UnsupportedTaskError, WorkerError):
                answer = channel.ask("check", task=own.to_dict(), material=self._material(own))
                breach = parity.breach(own, answer)
                if breach is not None:
                    found.append((channel.contestant.name, breach))
            self._release(channel)
        return found

    def run(
        self,
        task: Task,
        rounds: int,
        begin: Callable[[int], None] | None = None,
        threads: int | None = None,
        patience: float = float("inf"),
    ) -> TaskEntries:
        """Measure everybody who can do a task.

        Parameters
        ----------
        begin
            Receives the number of each round before it begins.
        threads
            Only those of as many threads take part; all where None.
        patience
            Seconds after which ``LEAST_ROUNDS`` have to do.
        """
        found = TaskEntries(task=task.to_dict(), flops_per_sample=task.flops_per_sample, entries=[])
        entering = self._entering(task, threads)
        # One after another: spinning threads on shared cores lose more than compilers would gain.
        entries = [self._prepared(channel, task) for channel in entering]
        found["entries"] = entries
        ready = [
            pair for pair in zip(entering, entries, strict=True) if pair[1]["status"] == "measured"
        ]
        gauges = self._gauges(channel for channel, _ in ready)
        deadline = time.monotonic() + patience
        for number in range(1, rounds + 1):
            if number > LEAST_ROUNDS and time.monotonic() > deadline:
                break
            if begin is not None:
                begin(number)
            start = number % max(len(ready), 1)
            for channel, entry in ready[start:] + ready[:start]:
                if entry["status"] == "measured":
                    self._round(channel, entry, number, gauges)
        self._again(ready, gauges)
        for channel in entering:
            self._release(channel)
        return found

    def _meet(self, channel: Channel) -> None:
        greeting, label = channel.hello(), channel.contestant.label
        self._document["versions"] |= greeting["versions"]
        self._is_gpu[label] = greeting["is_gpu"]
        if greeting["device"]:
            self._document.setdefault("devices", {})[label] = greeting["device"]

    def _entering(self, task: Task, threads: int | None = None) -> list[Channel]:
        return [
            channel
            for channel in self._channels
            if channel.contestant.enters(task)
            and (threads is None or channel.contestant.threads == threads)
        ]

    def _material(self, task: Task) -> str:
        """Write a task's material, unless it is there; return its folder."""
        folder = self._folder / task.name
        if task.kind != "triad" and not folder.exists():
            material.write(task, folder, self._source)
        return str(folder)

    def forget(self, task: Task) -> None:
        """Remove a task's material."""
        shutil.rmtree(self._folder / task.name, ignore_errors=True)

    def _prepared(self, channel: Channel, task: Task) -> Entry:
        contestant = channel.contestant
        own = contestant.task_for(task)
        entry = Entry(
            peer=contestant.name,
            threads=contestant.threads,
            status="measured",
            reason="",
            parity={},
            prepare_seconds=None,
            rounds=[],
        )
        if self._is_gpu[contestant.label]:
            entry["is_gpu"] = True
        try:
            answer = channel.ask("prepare", task=own.to_dict(), material=self._material(own))
        except UnsupportedTaskError as unable:
            entry["status"], entry["reason"] = "unsupported", str(unable)
            return entry
        except WorkerError as error:
            self._fail(entry, f"{contestant.label} on {task.name}", str(error))
            return entry
        entry["prepare_seconds"] = cast("float", answer.pop("prepare_seconds"))
        entry["parity"] = answer
        breach = parity.breach(own, answer)
        if breach is not None:
            self.breaches += 1
            entry["status"], entry["reason"] = "parity", breach
            self._say(f"{contestant.label} is excluded from {task.name}: {breach}")
        return entry

    def _gauges(self, ready: Iterable[Channel]) -> dict[int, Gauge]:
        """Return the peak's, by their threads."""
        found: dict[int, Gauge] = {}
        for channel in ready if self._steady else ():
            if channel.contestant.name == PEAK:
                try:
                    found[channel.contestant.threads] = Gauge(channel)
                except WorkerError as error:
                    self._say(f"{channel.contestant.label} is no gauge: {error}")
        return found

    def _round(self, channel: Channel, entry: Entry, number: int, gauges: dict[int, Gauge]) -> None:
        """Take a contestant's turn, on a steady machine if it becomes so in a moment."""
        settle(self._channels)
        before = self._look(gauges, channel.contestant.threads, Gauge.wait)
        turn = self._watched(channel, entry, number, gauges, before)
        if turn is not None:
            entry["rounds"].append(turn)

    def _again(self, ready: Sequence[tuple[Channel, Entry]], gauges: dict[int, Gauge]) -> None:
        """Take disturbed turns again, in turn, until all were steady or their time is over."""
        waiting = deque(
            (channel, entry, place)
            for channel, entry in ready
            for place, turn in enumerate(entry["rounds"])
            if turn.get("steadiness", 1.0) < STEADY
        )
        deadline = time.monotonic() + AGAIN_SECONDS * len(waiting)
        while waiting and time.monotonic() < deadline:
            channel, entry, place = waiting.popleft()
            settle(self._channels)
            before = self._look(gauges, channel.contestant.threads, Gauge.wait)
            if before is None or entry["status"] != "measured":
                continue
            if before >= STEADY:
                turn = self._watched(channel, entry, place + 1, gauges, before)
                kept = entry["rounds"][place]
                if turn is None or "steadiness" not in turn:
                    continue
                if turn["steadiness"] > kept["steadiness"]:
                    kept = entry["rounds"][place] = turn
                if kept["steadiness"] >= STEADY:
                    continue
            waiting.append((channel, entry, place))

    def _watched(
        self,
        channel: Channel,
        entry: Entry,
        number: int,
        gauges: dict[int, Gauge],
        before: float | None,
    ) -> Round | None:
        """Return a turn, and how steady the machine was before and after; None where it failed."""
        try:
            turn = self._turn(channel, number)
        except WorkerError as error:
            self._fail(entry, channel.contestant.label, str(error))
            return None
        if before is not None:
            settle(self._channels)  # thread pools spin on after their last task
            after = self._look(gauges, channel.contestant.threads, Gauge.steadiness)
            if after is not None:
                turn["steadiness"] = min(before, after)
        return turn

    def _look(
        self, gauges: dict[int, Gauge], threads: int, look: Callable[[Gauge], float]
    ) -> float | None:
        """Return how steady the machine is; a gauge that fails is named, and not asked again."""
        if threads not in gauges:
            return None
        try:
            return look(gauges[threads])
        except WorkerError as error:
            del gauges[threads]
            self._say(f"turns on as many threads as {PEAK} ×{threads} wait no more: {error}")
            return None

    def _turn(self, channel: Channel, number: int) -> Round:
        others = [each for each in self._channels if each is not channel]
        before = burned(others)
        answer = cast("Round", channel.ask("round", number=number))
        after = burned(others)
        seconds = answer["seconds"]
        answer["disturbance"] = (
            None if before is None or after is None else (after - before) / seconds
        )
        return answer

    def _release(self, channel: Channel) -> None:
        try:
            channel.ask("release")
        except WorkerError as error:
            self._lose(channel, str(error))

    def _fail(self, entry: Entry, who: str, why: str) -> None:
        self.failures += 1
        entry["status"], entry["reason"] = "failed", why
        self._say(f"{who} failed: {why}")

    def _lose(self, channel: Channel, why: str) -> None:
        self.failures += 1
        self._channels.remove(channel)
        self._document["skipped"][channel.contestant.label] = why
        self._say(f"{channel.contestant.label} is gone: {why}")


def burned(channels: Iterable[Channel]) -> float | None:
    """CPU seconds that these workers have used so far; None where one cannot ask."""
    spent = [seconds for each in channels if (seconds := each.cpu_seconds()) is not None]
    return sum(spent) if spent else None


def settle(channels: Sequence[Channel]) -> None:
    """Wait until no worker computes or spins any more."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        before = burned(channels)
        time.sleep(CALM_SECONDS)
        after = burned(channels)
        if before is None or after is None:
            time.sleep(0.25)
            return
        if after - before < CALM_SHARE * CALM_SECONDS:
            return
