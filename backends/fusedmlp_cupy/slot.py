"""A chunk's way to the device, for data sets that are streamed: see streaming.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp_cupy.programs import CupyModule, DeviceArray


class Slot:
    """A chunk's way to the device: pinned memory, an array there, and the stream between.

    The copy runs beside the kernels, on a stream of its own. Nobody waits but those who must:
    the kernels for the copy (:meth:`send`), the copy for the kernels that still read the last
    chunk (:meth:`release`), and the host before it overwrites pinned memory (:meth:`await_sent`).

    Attributes
    ----------
    host
        The pinned memory as an array, to be filled.
    array
        What the kernels read.
    """

    def __init__(self, cupy: CupyModule, host: npt.NDArray[Any], array: DeviceArray) -> None:
        self.host = host
        self.array = array
        self._cupy = cupy
        # Non-blocking: one that takes no turns with the default stream, as others do.
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._sent = cupy.cuda.Event(disable_timing=True)
        self._read = cupy.cuda.Event(disable_timing=True)
        self._read.record(cupy.cuda.Stream.null)  # whoever had the array's memory before

    def await_sent(self) -> None:
        """Wait until the last chunk has left pinned memory."""
        self._sent.synchronize()

    def send(self, rows: int) -> None:
        """Queue the copy of the first rows; kernels queued from now on see them."""
        self._stream.wait_event(self._read)
        self.array[:rows].set(self.host[:rows], stream=self._stream)
        self._sent.record(self._stream)
        self._cupy.cuda.Stream.null.wait_event(self._sent)

    def release(self) -> None:
        """Let the array be overwritten once all kernels queued so far have run."""
        self._read.record(self._cupy.cuda.Stream.null)
