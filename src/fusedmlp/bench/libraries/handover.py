"""How long one thread takes to see what another has written: a baton that goes round, by spinning.

A few tens of nanoseconds between cores that share a cache, several times as much between others. A
virtual machine's processors may be moved from one to the other at any moment, and workers that meet
in every step of training feel it, though none computes more slowly.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any, Final, cast

import numba
import numpy as np
from numba.core import types
from numba.extending import intrinsic

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy.typing as npt

    Baton = npt.NDArray[np.int64]

ROUNDS: Final = 1_000
"""Of the baton, when timed once: less than a tenth of a millisecond between near cores."""

TIMES: Final = 10
"""That it is timed in a row: the fastest is not the one in which a thread was interrupted."""

FIRST_ROUNDS: Final = 100
"""Until all threads are there."""


def _load(_typing: object, baton: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        return builder.load_atomic(data, "acquire", 8)

    return types.int64(baton), generate


def _store(_typing: object, baton: Any, number: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        builder.store_atomic(arguments[1], data, "release", 8)
        return context.get_dummy_value()

    return types.void(baton, number), generate


def compile_relay() -> Callable[[Baton, int, int, int, int], None]:
    """Compile a runner: (baton, its place, how many run, rounds from, rounds to)."""
    holder = cast("Callable[[Baton], int]", intrinsic(_load))
    hand_on = cast("Callable[[Baton, int], None]", intrinsic(_store))
    njit = cast("Callable[..., Callable[..., Callable[..., None]]]", numba.njit)

    @njit(nogil=True)
    def relay(baton: Baton, place: int, runners: int, first: int, last: int) -> None:
        for turn in range(first * runners + place, last * runners + place, runners):
            while holder(baton) != turn:
                pass
            hand_on(baton, turn + 1)

    relay(np.zeros(1, np.int64), 0, 1, 0, 1)
    return relay


def seconds(relay: Callable[[Baton, int, int, int, int], None], threads: int) -> float:
    """Time a handover between this many threads, of which each needs a processor: the fastest."""
    baton, last = np.zeros(1, np.int64), FIRST_ROUNDS + TIMES * ROUNDS
    others = [
        threading.Thread(target=relay, args=(baton, place, threads, 0, last))
        for place in range(1, threads)
    ]
    for other in others:
        other.start()
    relay(baton, 0, threads, 0, FIRST_ROUNDS)
    times = [time.perf_counter()]
    for first in range(FIRST_ROUNDS, last, ROUNDS):
        relay(baton, 0, threads, first, first + ROUNDS)
        times.append(time.perf_counter())
    for other in others:
        other.join()
    return float(np.diff(times).min()) / (ROUNDS * threads)
