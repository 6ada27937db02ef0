"""Whether the machine is itself at a moment: its cores may be shared with strangers, for seconds.

Two rates tell, each beside the best of the same task: multiply-adds in registers, which a core does
as fast as it lets them be; and handovers between threads, which are slow while two virtual
processors lie on cores without a common cache, and fast while they share one core, in which case
the multiply-adds are slow. Who is measured has no part in it: all wait by the same rule, and how
long their turns took decides nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from fusedmlp.bench.channel import Channel
    from fusedmlp.bench.document import Round

STEADY: Final = 0.85
"""Least share of the best rates, before a turn and after it, for the turn to be undisturbed. On a
machine that is, multiply-adds differ by some hundredths and handovers by a tenth."""

PATIENCE: Final = 2.0
"""Seconds to wait for the machine before a turn is taken anyway, or another one's first."""

AGAIN_SECONDS: Final = 5.0
"""Seconds that there are for each disturbed turn, all together, to take them again: after the last
round, since what disturbs a machine may well stay for longer than a turn."""

PAUSE: Final = 0.1
"""Seconds between two looks at a machine that is busy."""

TRIALS: Final = 8
"""Looks from which the best rates are known at first; faster ones raise them later."""


class Gauge:
    """The machine's rates on as many threads as somebody is to be measured with.

    Parameters
    ----------
    channel
        The worker of the peak, which must hold its task.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._looks: list[tuple[float, float]] = []
        for _ in range(TRIALS):
            self.steadiness()

    def steadiness(self) -> float:
        """Return the lesser of the rates' shares of the best so far, at most 1.

        Handovers are beside the best of those looks that found the multiply-adds steady.
        """
        answer = cast("Round", self._channel.ask("round", number=0))
        flops, handovers = answer["flops"] / answer["seconds"], 1.0
        if self._channel.contestant.threads > 1:
            handovers = 1 / cast("float", self._channel.ask("handover")["seconds"])
        self._looks.append((flops, handovers))
        most = max(flops for flops, _ in self._looks)
        best = max(each for flops, each in self._looks if flops >= STEADY * most)
        return min(flops / most, handovers / best)

    def wait(self) -> float:
        """Wait until the machine is steady, or for :data:`PATIENCE`; return how steady it is."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.steadiness()) < STEADY and time.monotonic() < deadline:
            time.sleep(PAUSE)
        return found
