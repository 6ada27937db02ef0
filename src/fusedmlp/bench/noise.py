"""Detects interference from other processes and virtual machines on the measuring machine.

Two rates are compared with their best so far. Multiply-adds on registers run as fast as the core is
allowed to. Handovers between threads are slow while two virtual processors are on cores without a
common cache, and fast while they share one core, in which case the multiply-adds are slow. The
subjects have no part in it: the same rule holds for all of them, and their times decide nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, cast

from fusedmlp.bench.channel import WorkerError
from fusedmlp.bench.subjects import PEAK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from fusedmlp.bench.channel import Channel
    from fusedmlp.bench.document import Round

STEADY: Final = 0.85
"""Least share of the best rates, before and after a turn, for the turn to count as undisturbed. On
an idle machine, multiply-adds vary by some hundredths and handovers by a tenth."""

WAIT_SECONDS: Final = 2.0
"""Longest wait for a steady machine before a turn is taken anyway, or another subject's first."""

REPEAT_SECONDS: Final = 5.0
"""Time for repeating one disturbed turn. Repeats come after the last round, since interference
often lasts longer than a turn."""

PAUSE: Final = 0.1
"""Seconds between two samples of a busy machine."""

FIRST_SAMPLES: Final = 8
"""Samples from which the best rates are known at first; faster ones raise them later."""


class NoiseMonitor:
    """The machine's rates on a number of threads.

    Parameters
    ----------
    channel
        The worker of the multiply-add peak, which must hold its task.
    """

    def __init__(self, channel: Channel, wait_seconds: float = WAIT_SECONDS) -> None:
        self._channel, self._wait_seconds = channel, wait_seconds
        self._samples: list[tuple[float, float]] = []
        for _ in range(FIRST_SAMPLES):
            self.steadiness()

    def steadiness(self) -> float:
        """Return the lesser of both rates' shares of their best, at most 1.

        Handovers are compared with the best of those samples whose multiply-adds were steady.
        """
        answer = cast("Round", self._channel.ask("round", number=0))
        flops, handovers = answer["flops"] / answer["seconds"], 1.0
        if self._channel.subject.threads > 1:
            handovers = 1 / cast("float", self._channel.ask("handover")["seconds"])
        self._samples.append((flops, handovers))
        most = max(flops for flops, _ in self._samples)
        best = max(each for flops, each in self._samples if flops >= STEADY * most)
        return min(flops / most, handovers / best)

    def wait(self) -> float:
        """Wait until the machine is steady, or at most for the given time; return steadiness."""
        deadline = time.monotonic() + self._wait_seconds
        while (found := self.steadiness()) < STEADY and time.monotonic() < deadline:
            time.sleep(PAUSE)
        return found


class NoiseMonitors:
    """A monitor for each number of threads on which the multiply-add peak takes part.

    A monitor whose worker fails is reported and used no more.
    """

    def __init__(self, say: Callable[[str], None], wait_seconds: float) -> None:
        self._say, self._wait_seconds = say, wait_seconds
        self._monitors: dict[int, NoiseMonitor] = {}

    def start(self, channels: Iterable[Channel]) -> None:
        """Start with the workers of a task."""
        self._monitors = {}
        for channel in channels:
            if channel.subject.name == PEAK:
                try:
                    monitor = NoiseMonitor(channel, self._wait_seconds)
                except WorkerError as error:
                    self._say(f"noise is not monitored by {channel.subject.label}: {error}")
                else:
                    self._monitors[channel.subject.threads] = monitor

    def steadiness(self, threads: int, *, wait: bool) -> float | None:
        """Return how steady the machine is on so many threads; None where unknown."""
        monitor = self._monitors.get(threads)
        if monitor is None:
            return None
        try:
            return monitor.wait() if wait else monitor.steadiness()
        except WorkerError as error:
            del self._monitors[threads]
            self._say(f"noise is no longer monitored on {threads} threads: {error}")
            return None
