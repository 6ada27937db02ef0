"""How training steps reach the device, and the CUDA graphs of one engine.

A group of steps is a function that queues launches. The launches and their arguments do not depend
on how the group is run: a CUDA graph holds what the same function queued during stream capture. So
every number that changes from one group to the next lies in device memory (common.cu's cursor, and
what it indexes), and every array is kept for as long as the graph.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias
from weakref import WeakKeyDictionary

from fusedmlp.errors import BackendUnavailableError
from fusedmlp_cupy.messages import one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from fusedmlp_cupy.data import CupyData
    from fusedmlp_cupy.runtime.cublas import CublasHandle
    from fusedmlp_cupy.runtime.device import CupyDevice, Recording

Mode: TypeAlias = Literal["graph", "eager", "persistent"]

MODES: Final[dict[str, str]] = {
    "graph": "steps replayed as CUDA graphs",
    "eager": "steps launched kernel by kernel",
    "persistent": "steps in one persistent kernel",
}


def unavailable(mode: Mode, why: str) -> BackendUnavailableError:
    """Return the error for a mode that was requested by name and cannot be had."""
    return BackendUnavailableError(
        f"backend 'cupy+{mode}' was asked for, but {why}: leave +{mode} out"
    )


@dataclass
class Execution:
    """How steps are run; a backend and the engine that it compiled last share one.

    Parameters
    ----------
    requested
        The mode that was requested by name, which is never replaced; None for the default.
    mode
        The mode of the next steps.
    reason
        Why, as a phrase.
    """

    requested: Mode | None
    mode: Mode
    reason: str

    def __str__(self) -> str:
        return f"{MODES[self.mode]} ({self.reason})"

    def fall_back_to_eager(self, why: str) -> None:
        """Launch kernel by kernel from now on, and warn.

        Raises
        ------
        BackendUnavailableError
            The mode that fails was requested by name.
        """
        if self.requested is not None:
            raise unavailable(self.requested, why)
        self.mode, self.reason = "eager", why
        warnings.warn(f"backend 'cupy': {self}", RuntimeWarning, stacklevel=4)


class GraphCache:
    """The CUDA graphs of one engine, by data set and group of steps.

    The first use of a group is eager: it loads the kernels, which a capturing stream must not, and
    a group that is never repeated is not worth a capture. The second use is captured.

    Parameters
    ----------
    blas
        The handle whose products are captured; None where no step uses cuBLAS.
    """

    def __init__(self, device: CupyDevice, blas: CublasHandle | None, execution: Execution) -> None:
        self._device, self._blas, self._execution = device, blas, execution
        self._known: WeakKeyDictionary[CupyData, dict[Hashable, Recording | None]] = (
            WeakKeyDictionary()
        )
        self._generation = 0

    def forget_unless(self, generation: int) -> None:
        """Forget all graphs if the buffers have moved since they were captured."""
        if generation != self._generation:
            self._known.clear()
            self._generation = generation

    def run(self, data: CupyData, key: Hashable, launch: Callable[[], None]) -> None:
        """Run a group of steps on a data set, eagerly or as its graph.

        Parameters
        ----------
        key
            Identifies the group among those on the same data and buffers.
        """
        if self._execution.mode != "graph":
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
                why = f"capturing them failed: {one_line(error)}"
                self._execution.fall_back_to_eager(why)
                launch()
                return
        self._device.replay(recording)
