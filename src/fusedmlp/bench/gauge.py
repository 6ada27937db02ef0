"""Whether the machine is itself at a moment: its cores may be shared with strangers, for seconds.

Multiply-adds in registers are as fast as a core lets them be. Their rate, beside the best of the
same task, says what share of the cores is there to be measured. Who is measured has no part in it:
all wait by the same rule, and how long their turns took decides nothing.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from fusedmlp.bench.channel import Channel
    from fusedmlp.bench.document import Round

STEADY: Final = 0.95
"""Least share of the best rate, before a turn and after it, for the turn to be undisturbed."""

ATTEMPTS: Final = 3
"""Turns at most of which the least disturbed one is kept."""

PATIENCE: Final = 3.0
"""Seconds to wait for the machine before a turn is taken anyway."""

PAUSE: Final = 0.1
"""Seconds between two looks at a machine that is busy."""

TRIALS: Final = 8
"""Looks from which the best rate is known at first; a faster one raises it later."""


class Gauge:
    """The rate of multiply-adds on as many threads as somebody is to be measured with.

    Parameters
    ----------
    channel
        The worker of the peak, which must hold its task.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._best = 0.0
        for _ in range(TRIALS):
            self.steadiness()

    def steadiness(self) -> float:
        """Return the rate's share of the best so far, at most 1."""
        answer = cast("Round", self._channel.ask("round", number=0))
        rate = answer["flops"] / answer["seconds"]
        self._best = max(self._best, rate)
        return rate / self._best

    def wait(self) -> float:
        """Wait until the machine is steady, or for :data:`PATIENCE`; return how steady it is."""
        deadline = time.monotonic() + PATIENCE
        while (found := self.steadiness()) < STEADY and time.monotonic() < deadline:
            time.sleep(PAUSE)
        return found
