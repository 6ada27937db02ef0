"""Whether the machine is itself at a moment: its cores may be shared with strangers, for seconds.

Two rates tell, each beside the best of the same task: multiply-adds in registers, which a core does
as fast as it lets them be; and handovers between threads, which are slow while two virtual
processors lie on cores without a common cache. Who is measured has no part in it: all wait by the
same rule, and how long their turns took decides nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from fusedmlp.bench.channel import Channel
    from fusedmlp.bench.document import Round

STEADY: Final = 0.9
"""Least share of the best rates, before a turn and after it, for the turn to be undisturbed. Both
differ by some hundredths on a machine that is."""

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
        self._best: dict[str, float] = {}
        for _ in range(TRIALS):
            self.steadiness()

    def steadiness(self) -> float:
        """Return the lesser of the rates' shares of the best so far, at most 1."""
        answer = cast("Round", self._channel.ask("round", number=0))
        rates = {"flops": answer["flops"] / answer["seconds"]}
        if self._channel.contestant.threads > 1:
            rates["handovers"] = 1 / cast("float", self._channel.ask("handover")["seconds"])
        for name, rate in rates.items():
            self._best[name] = max(self._best.get(name, 0.0), rate)
        return min(rate / self._best[name] for name, rate in rates.items())

    def wait(self) -> float:
        """Wait until the machine is steady, or for :data:`PATIENCE`; return how steady it is."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.steadiness()) < STEADY and time.monotonic() < deadline:
            time.sleep(PAUSE)
        return found
