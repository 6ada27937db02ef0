"""How steps reach the device: launch by launch, replayed, or all in one kernel (persistent.py).

A group of steps is a function that queues launches. Which launches, and with which arguments, does
not depend on how it is run: a CUDA graph holds what the same function queued while a stream
recorded it. So every number that changes from one group to the next lies in device memory
(common.cu's cursor, and what it indexes), and every array is held for as long as the graph.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from weakref import WeakKeyDictionary

from fusedmlp.errors import BackendUnavailableError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from fusedmlp_cupy.cublas import Cublas
    from fusedmlp_cupy.data import CupyData
    from fusedmlp_cupy.device import CupyDevice, Recording

Way: TypeAlias = Literal["eager", "graph", "persistent", "cluster"]

WAYS: Final[dict[str, str]] = {
    "eager": "steps launched kernel by kernel",
    "graph": "steps replayed as CUDA graphs",
    "persistent": "steps in one persistent kernel",
    "cluster": "steps in one persistent kernel of clusters",
}

GROUP_STEPS: Final = 32
"""Steps of a graph. A call's remaining steps are graphs of one, its last partial batch another."""


def one_line(error: Exception) -> str:
    """Return the error's words on one line, or the name of its class where it has none."""
    return " ".join(str(error).split()) or type(error).__name__


@dataclass
class Launching:
    """What was asked for, what is used, and why: a backend and its last engine share one.

    Parameters
    ----------
    asked
        None where the engine chooses.
    used
        What the next steps are run as.
    why
        The reason, for people.
    """

    asked: Way | None
    used: Way
    why: str

    def __str__(self) -> str:
        return f"{WAYS[self.used]} ({self.why})"

    def fall_back(self, used: Way, why: str) -> None:
        """Use another way than was planned, and say so.

        Raises
        ------
        BackendUnavailableError
            The one that fails was asked for by name.
        """
        if self.asked == self.used:
            raise BackendUnavailableError(
                f"backend 'cupy+{self.asked}' was asked for, but {why}: leave +{self.asked} out"
            )
        self.used, self.why = used, why
        warnings.warn(f"backend 'cupy': {self}", RuntimeWarning, stacklevel=4)


class Graphs:
    """The recorded groups of one engine, by data set; a group is run as it is until its second use.

    The first use loads the kernels, which a recording stream must not; and a call that is never
    repeated is not worth recording.

    Parameters
    ----------
    blas
        The handle whose products are recorded too; None where nothing needs one.
    launching
        Says whether to record, and is told where that fails.
    """

    def __init__(self, device: CupyDevice, blas: Cublas | None, launching: Launching) -> None:
        self._device, self._blas, self._launching = device, blas, launching
        self._known: WeakKeyDictionary[CupyData, dict[Hashable, Recording | None]] = (
            WeakKeyDictionary()
        )
        self._generation = 0

    def forget_unless(self, generation: int) -> None:
        """Forget every recording whose buffers are of another generation."""
        if generation != self._generation:
            self._known.clear()
            self._generation = generation

    def run(self, data: CupyData, key: Hashable, launch: Callable[[], None]) -> None:
        """Run a group of steps on a data set: as it is, or as its recording.

        Parameters
        ----------
        key
            What tells this group from others on the same data and buffers.
        """
        if self._launching.used != "graph":
            launch()
            return
        known = self._known.setdefault(data, {})
        if key not in known:
            known[key] = None
            launch()
            return
        recording = known[key]
        if recording is None:
            try:
                recording = known[key] = self._device.record(launch, self._blas)
            except (RuntimeError, MemoryError) as error:
                why = f"recording them failed: {one_line(error)}"
                self._launching.fall_back("eager", why)
                launch()
                return
        self._device.replay(recording)
