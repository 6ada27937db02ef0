"""One CUDA device behind a few typed calls; creates every CuPy object of this backend.

CuPy publishes no types, so its module is ``Any`` here; code above this file uses the types of
types.py. There is no network and no kernel here. Nothing is changed for other users of CuPy in the
same process: device, stream and the type of products are set for the length of a ``with`` block,
and no allocator or option is touched.
"""

from __future__ import annotations

import math
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fusedmlp.errors import DeviceMemoryError, InvalidInputError
from fusedmlp.interop import CUDA_DEVICES, dlpack_device
from fusedmlp_cupy.kernels.source import (
    COMPILE_OPTIONS,
    checks_source,
    compile_options,
    kernel_source,
)
from fusedmlp_cupy.runtime import cublas
from fusedmlp_cupy.runtime.cooperative import Limits, compile_kernel
from fusedmlp_cupy.runtime.cublas import CublasHandle
from fusedmlp_cupy.runtime.transfer import TransferBuffer
from fusedmlp_cupy.runtime.types import Program

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy.typing as npt

    from fusedmlp.interop import ForeignArray
    from fusedmlp.types import FloatDtype
    from fusedmlp_cupy.runtime.cooperative import CooperativeKernel
    from fusedmlp_cupy.runtime.types import CupyModule, DeviceArray, Transposed

UPLOAD_BYTES = 64 * 2**20
"""Data sets are uploaded in pieces of this size, so that a mapped file is never read whole."""


@dataclass(frozen=True, slots=True)
class Recording:
    """A CUDA graph, ready to be launched, and the stream that captured it."""

    graph: Any
    stream: Any


class CupyDevice:
    """Device ``number`` as CuPy counts them.

    Parameters
    ----------
    cupy
        The imported module, or a substitute with the same interface.
    tf32
        Whether float32 products round their operands to TF32.
    """

    def __init__(self, cupy: CupyModule, number: int, *, tf32: bool = False) -> None:
        self._cupy = cupy
        self.number = number
        self.tf32 = tf32

    @contextmanager
    def active(self) -> Iterator[None]:
        """Make this device and its default stream current for a ``with`` block.

        The default stream replaces the caller's current one: otherwise two calls of one engine
        could be queued on two streams, in no order.
        """
        with (
            self._cupy.cuda.Device(self.number),
            self._cupy.cuda.Stream.null,
            self._product_type(),
        ):
            yield

    @contextmanager
    def _product_type(self) -> Iterator[None]:
        """Set CuPy's type of float32 products to this device's, and restore it afterwards.

        The setting is global to the process: float32 products of other threads are affected while
        a call lasts. It is written only where it differs.
        """
        linalg = self._cupy._core._routines_linalg  # noqa: SLF001 - there is no public way
        wanted = linalg.COMPUTE_TYPE_TF32 if self.tf32 else linalg.COMPUTE_TYPE_DEFAULT
        before = linalg.get_compute_type(np.float32)
        if before == wanted:
            yield
            return
        linalg.set_compute_type(np.float32, wanted)
        try:
            yield
        finally:
            linalg.set_compute_type(np.float32, before)

    def free_bytes(self) -> int:
        """Bytes that can be allocated: free in the driver, or kept by CuPy's pool."""
        free, _total = self._cupy.cuda.runtime.memGetInfo()
        return int(free) + int(self._cupy.get_default_memory_pool().free_bytes())

    def empty(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> DeviceArray:
        """Allocate without filling."""
        try:
            array: DeviceArray = self._cupy.empty(shape, dtype)
        except MemoryError as error:
            asked = math.prod(shape) * np.dtype(dtype).itemsize
            free, total = self.free_bytes(), self._cupy.cuda.runtime.memGetInfo()[1]
            raise DeviceMemoryError(
                f"device {self.number} cannot hold {asked:,} bytes more, {free:,} of {total:,} "
                "are free: use fewer rows at a time, float32 or uint8 inputs, or a smaller batch"
            ) from error
        return array

    def upload(self, host: npt.NDArray[Any]) -> DeviceArray:
        """Copy a C-ordered host array to the device."""
        array = self.empty(host.shape, host.dtype)
        self.copy_in(array, host)
        return array

    def copy_in(self, array: DeviceArray, host: npt.NDArray[Any]) -> None:
        """Overwrite a device array with a host array of its shape and dtype, piece by piece."""
        rows = max(1, UPLOAD_BYTES // max(1, host[:1].nbytes))
        for start in range(0, len(host), rows):
            array[start : start + rows].set(np.asarray(host[start : start + rows]))
            # A copy from pageable memory may still be reading when it returns, and the caller may
            # change or free the host array.
            self.synchronize()

    def download(self, array: DeviceArray) -> npt.NDArray[Any]:
        """Copy to a fresh host array; waits for the work that fills it."""
        return array.get()

    def wrap(self, array: ForeignArray) -> DeviceArray:
        """Wrap an array that lies on this device as CuPy's, without a copy.

        Raises
        ------
        InvalidInputError
            It lies on another device, or CuPy does not accept it.
        """
        kind = type(array).__qualname__
        place = dlpack_device(array)
        if (
            not hasattr(array, "__cuda_array_interface__")
            and place
            and place[0] not in CUDA_DEVICES
        ):
            raise InvalidInputError(
                f"x is a {kind} on a device of DLPack's type {place[0]}, which is not CUDA's: "
                "pass a CuPy or NumPy array"
            )
        try:
            if hasattr(array, "__cuda_array_interface__"):
                own = self._cupy.asarray(array)
            else:
                own = self._cupy.from_dlpack(array)
        except (BufferError, RuntimeError, TypeError, ValueError) as error:
            raise InvalidInputError(
                f"x is a {kind} that CuPy does not take: {error}; pass a CuPy or NumPy array"
            ) from error
        if own.device.id != self.number:
            raise InvalidInputError(
                f"x lies on device {own.device.id}, this engine runs on device {self.number}: "
                f"copy it there, or use backend 'cupy:{own.device.id}'"
            )
        wrapped: DeviceArray = own
        return wrapped

    def converted(self, array: DeviceArray, dtype: npt.DTypeLike) -> DeviceArray:
        """Return the array in C order and a dtype: itself where it is so, else a copy."""
        found: DeviceArray = self._cupy.ascontiguousarray(array, dtype=dtype)
        return found

    def await_caller(self) -> None:
        """Wait for the caller's current stream, which may still be writing its arrays."""
        with self._cupy.cuda.Device(self.number):
            self._cupy.cuda.get_current_stream().synchronize()

    def transfer_buffer(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> TransferBuffer:
        """Allocate a buffer through which chunks of this shape are copied to the device."""
        n_bytes = math.prod(shape) * np.dtype(dtype).itemsize
        pinned = self._cupy.cuda.alloc_pinned_memory(max(1, n_bytes))
        host = np.frombuffer(pinned, dtype, math.prod(shape)).reshape(shape)
        return TransferBuffer(self._cupy, host, self.empty(shape, dtype))

    def product(
        self, a: DeviceArray, b: DeviceArray, out: DeviceArray, transposed: Transposed = ""
    ) -> None:
        """Out = a·b, aᵀ·b or a·bᵀ, each array in C order.

        ``cupy.dot`` makes the same cuBLAS call as ``cupy.matmul`` with less overhead; with a
        C-ordered ``out`` that overlaps neither operand it copies nothing. Float32 is multiplied
        in float32, or in TF32: see :meth:`active`.
        """
        a, b = a.T if transposed == "a" else a, b.T if transposed == "b" else b
        self._cupy.dot(a, b, out=out)

    def cublas_handle(self) -> CublasHandle:
        """Create a cuBLAS handle whose products can be captured.

        Raises
        ------
        OSError, AttributeError, RuntimeError
            The library is not found under its name, or fails.
        DeviceMemoryError
            There is no room for its workspace.
        """
        library = cublas.load(self._cupy)
        workspace = self.empty((cublas.WORKSPACE_BYTES,), np.uint8)
        return CublasHandle(library, workspace, tf32=self.tf32)

    def record(self, launch: Callable[[], None], blas: CublasHandle | None = None) -> Recording:
        """Capture what ``launch`` queues as a CUDA graph, and run none of it.

        The capturing stream is non-blocking, so it does not wait for the default stream, and the
        capture restricts this thread alone.

        Raises
        ------
        RuntimeError, MemoryError
            Something that was queued cannot be captured, or there is no memory for the graph.
        """
        cuda = self._cupy.cuda
        stream = cuda.Stream(non_blocking=True)
        if blas is not None:
            blas.use_stream(stream.ptr)
        try:
            with stream:
                stream.begin_capture(cuda.runtime.streamCaptureModeThreadLocal)
                try:
                    launch()
                except BaseException:
                    with suppress(RuntimeError):  # the capture is invalid already
                        stream.end_capture()
                    raise
                return Recording(stream.end_capture(), stream)
        finally:
            if blas is not None:
                blas.use_stream(0)

    def replay(self, recording: Recording) -> None:
        """Queue a graph on the default stream, in order with everything else."""
        recording.graph.launch(self._cupy.cuda.Stream.null)

    def synchronize(self) -> None:
        """Wait for everything queued on the current stream."""
        self._cupy.cuda.Stream.null.synchronize()

    def program(self, dtype: FloatDtype, *, strict: bool = False) -> Program:
        """Compile the kernels for a floating type, or load them from CuPy's cache on disk."""
        options = compile_options(dtype, strict=strict)
        return self._compiled(kernel_source(strict=strict), options, strict=strict)

    def checks(self) -> Program:
        """Compile ``checks.cu``, or load it from CuPy's cache on disk."""
        return self._compiled(checks_source(), COMPILE_OPTIONS)

    def _compiled(self, source: str, options: tuple[str, ...], *, strict: bool = False) -> Program:
        start = time.perf_counter()
        module = self._cupy.RawModule(code=source, options=options)
        module.compile()
        return Program(module, time.perf_counter() - start, strict=strict)

    def limits(self) -> Limits:
        """Return what the device offers a cooperative kernel."""
        properties = self._cupy.cuda.runtime.getDeviceProperties(self.number)
        return Limits(
            int(properties["multiProcessorCount"]),
            int(properties["sharedMemPerBlockOptin"]),
            bool(properties["cooperativeLaunch"]),
        )

    def cooperative_kernel(
        self, dtype: FloatDtype, name: str, *, threads: int, shared_bytes: int
    ) -> CooperativeKernel:
        """Compile the persistent kernel, and count the blocks that can be resident."""
        return compile_kernel(
            self._cupy, self.limits(), dtype, name, threads=threads, shared_bytes=shared_bytes
        )
