"""A buffer through which a chunk of rows is copied to the device: see streaming.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp_cupy.runtime.types import CupyModule, DeviceArray


class TransferBuffer:
    """Pinned host memory, a device array of its size, and the stream that copies between them.

    The copy runs beside the kernels. Events order only what must be ordered: kernels after the copy
    (:meth:`send`), the copy after the kernels that read the last chunk (:meth:`release`), and the
    host's next write to pinned memory after the copy (:meth:`await_sent`).

    Attributes
    ----------
    host
        The pinned memory as an array, to be filled.
    array
        The array that the kernels read.
    """

    def __init__(self, cupy: CupyModule, host: npt.NDArray[Any], array: DeviceArray) -> None:
        self.host = host
        self.array = array
        self._cupy = cupy
        # A stream is by default synchronised with the default stream; a non-blocking one is not.
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._sent = cupy.cuda.Event(disable_timing=True)
        self._read = cupy.cuda.Event(disable_timing=True)
        self._read.record(cupy.cuda.Stream.null)  # kernels that used the memory before

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
        """Allow overwriting the array once all kernels queued so far have run."""
        self._read.record(self._cupy.cuda.Stream.null)
