"""A stand-in for the module ``cupy``: the small part that the backend uses, in host memory.

It is strict where CuPy is: no implicit conversion to NumPy, only C-ordered outputs, uploads of
exactly the right type. While a stream captures, launches are kept with their present arguments,
nothing runs, and everything that waits, copies or allocates fails, as on a device; a replay whose
memory has been freed fails too. A second stream makes its copies as late as it may, and every use
of memory that no event orders with them fails. Fresh arrays are NaN or 0xFF, so that reading
unwritten memory shows. Each begins after a guard that is checked after every launch, and ends at an
inaccessible page. Kernels run through :mod:`cupy_shim`.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import tempfile
import threading
import warnings
import weakref
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import cupy_shim
import numpy as np
from cupy_cublas import FakeCublas
from cupy_shim import dtype_of

from fusedmlp_cupy.kernels.source import checks_source, kernel_source, persistent_source

GUARD_BYTES = 256
GUARD = 0xA5

FORBIDDEN = 0  # PROT_NONE
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


class OutOfMemoryError(MemoryError):
    """As ``cupy.cuda.memory.OutOfMemoryError``."""


class CUDARuntimeError(RuntimeError):
    """As ``cupy.cuda.runtime.CUDARuntimeError``."""


class CUDADriverError(RuntimeError):
    """As ``cupy.cuda.driver.CUDADriverError``."""


@dataclass
class Block:
    """One allocation, which several arrays may view."""

    guard: np.ndarray
    device: int
    used_at: int = 0  # the launch that used it last
    is_copied: bool = False  # by a second stream, still


class DeviceArray:
    """An array in simulated device memory."""

    def __init__(self, host: np.ndarray, owner: Memory, block: Block) -> None:
        self._host, self._owner, self._block = host, owner, block

    @property
    def shape(self):
        return self._host.shape

    @property
    def dtype(self):
        return self._host.dtype

    @property
    def nbytes(self):
        return self._host.nbytes

    @property
    def data(self):
        return SimpleNamespace(ptr=self._host.ctypes.data)

    @property
    def device(self):
        return Device(self._owner, self._block.device)

    @property
    def __cuda_array_interface__(self):
        return {"shape": self.shape, "typestr": self.dtype.str, "version": 3}

    @property
    def T(self):
        return DeviceArray(self._host.T, self._owner, self._block)

    def __getitem__(self, index):
        if isinstance(index, tuple):  # as a user's own code may
            return DeviceArray(self._host[index], self._owner, self._block)
        assert isinstance(index, slice), "only ranges are taken on the device"
        assert index.step is None
        return DeviceArray(self._host[index], self._owner, self._block)

    def reshape(self, *shape):
        view = self._host.reshape(*shape)
        assert np.shares_memory(view, self._host) or not view.size, "a reshape that copies"
        return DeviceArray(view, self._owner, self._block)

    def set(self, host, stream=None):
        if not isinstance(host, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if host.dtype != self.dtype or host.shape != self.shape:
            raise ValueError(f"{host.dtype}{host.shape} into {self.dtype}{self.shape}")
        self._owner.refuse_while_recording("a copy from the host")
        self._owner.uploads += 1
        if stream is None:
            self._host[...] = host
        else:
            stream.copy(self, host)

    def get(self):
        self._owner.refuse_while_recording("a copy to the host")
        self._owner.reads += 1
        return self._host.copy()

    def fill(self, value):
        self._host.fill(value)

    # Operations of the model, or of a user, on outputs on the device.
    def argmax(self, axis):
        return self._computed(self._host.argmax(axis=axis))

    def astype(self, dtype):
        return self._computed(self._host.astype(dtype))

    def __gt__(self, value):
        return self._computed(self._host > value)

    def _computed(self, host):
        current = self._owner.current[-1] if self._owner.current else 0
        assert current == self.device.id, "Array device must be same as the current device"
        return self._owner.holding(host, self.device.id)

    def _refuse(self, *_args, **_kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use .get().")

    __array__ = __float__ = __int__ = __bool__ = __iter__ = __len__ = __add__ = _refuse
    __array_ufunc__ = __array_function__ = _refuse


class Device:
    """A device, which a ``with`` block makes current."""

    def __init__(self, memory, number):
        self._memory, self.id = memory, number

    def __enter__(self):
        self._memory.current.append(self.id)

    def __exit__(self, *_):
        self._memory.current.pop()


class Memory:
    """All arrays of a stand-in, with their guards."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.uploads = self.reads = self.synchronisations = 0
        self.current = []  # numbers of the devices made current, the last one now
        self.launches = 0
        self.recording = None  # launches of the stream that records now

    def refuse_while_recording(self, what):
        if self.recording is not None:
            raise CUDARuntimeError(f"cudaErrorStreamCaptureUnsupported: {what}")

    def holding(self, host, device=0):
        """A fresh array with these values."""
        array = self.allocate(host.shape, host.dtype)
        array._host[...] = host
        array._block.device = device
        return array

    def use(self, arrays):
        """Note that the default stream reads or writes these arrays."""
        self.launches += 1
        for array in arrays:
            assert not array._block.is_copied, "used while another stream writes it"
            array._block.used_at = self.launches

    def allocate(self, shape, dtype):
        self.refuse_while_recording("an allocation")
        dtype = np.dtype(dtype)
        n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if self.limit is not None and n_bytes > self.limit:
            raise OutOfMemoryError(f"Out of memory allocating {n_bytes:,} bytes")
        block = fenced(n_bytes + GUARD_BYTES)
        block[:GUARD_BYTES] = GUARD
        block[GUARD_BYTES:] = 0xFF
        host = block[GUARD_BYTES:].view(dtype).reshape(shape)
        device = self.current[-1] if self.current else 0
        return DeviceArray(host, self, Block(block[:GUARD_BYTES], device))

    def check_guards(self, arrays):
        for array in arrays:
            assert (array._block.guard == GUARD).all(), (
                "a kernel wrote before the beginning of an array"
            )


def fenced(n_bytes):
    """Bytes whose end is the end of the accessible memory."""
    page = mmap.PAGESIZE
    n_pages = -(-n_bytes // page)
    pages = np.frombuffer(mmap.mmap(-1, (n_pages + 1) * page), np.uint8)
    fence = pages.ctypes.data + n_pages * page
    assert libc.mprotect(fence, page, FORBIDDEN) == 0, ctypes.get_errno()
    return pages[n_pages * page - n_bytes : n_pages * page]


def unwrap(value):
    return value._host if isinstance(value, DeviceArray) else value


class Event:
    """A point in a stream."""

    def __init__(self, block=False, disable_timing=False):
        assert disable_timing, "timing would make it slower"
        self._stream, self._point = None, 0

    def record(self, stream):
        self._stream, self._point = stream, stream.now()

    def synchronize(self):
        if self._stream is not None:
            self._stream.run(self._point, by_host=True)


class Stream:
    """A second stream: copies wait until an event that follows them is waited for."""

    def __init__(self, memory, *, non_blocking):
        assert non_blocking, "a blocking stream takes turns with the default one"
        self._memory = memory
        self.ptr = id(self)
        self._copies = []  # (array, host array)
        self._done = self._awaited_by_host = self._launches_seen = 0
        self._lock = threading.Lock()

    def now(self):
        return len(self._copies)

    def __enter__(self):
        self._memory.streams.append(self)
        return self

    def __exit__(self, *_):
        self._memory.streams.pop()

    def begin_capture(self, mode):
        assert mode == THREAD_LOCAL, "other threads would be kept from allocating"
        assert self._memory.recording is None
        self._memory.recording = []

    def end_capture(self):
        launches, self._memory.recording = self._memory.recording, None
        return Graph(self._memory, launches)

    def wait_event(self, event):
        assert isinstance(event._stream, NullStream)
        self._launches_seen = max(self._launches_seen, event._point)

    def copy(self, array, host):
        assert array._block.used_at <= self._launches_seen, (
            "overwrites what a kernel may still read"
        )
        for number, (_, earlier) in enumerate(self._copies):
            if np.shares_memory(earlier, host):
                assert number < self._awaited_by_host, "pinned memory was written while it was read"
        self._copies.append((array, host))
        array._block.is_copied = True

    def run(self, point, *, by_host=False):
        with self._lock:
            for array, host in self._copies[self._done : point]:
                array._host[...] = host
                array._block.is_copied = False
            self._done = max(self._done, point)
            if by_host:
                self._awaited_by_host = max(self._awaited_by_host, point)


class NullStream:
    """The default stream: everything queued on it is done at once."""

    def __init__(self, memory):
        self._memory = memory

    def now(self):
        return self._memory.launches

    def run(self, point, *, by_host=False):
        assert point <= self._memory.launches

    def wait_event(self, event):
        event._stream.run(event._point)

    def __enter__(self):
        self._memory.streams.append(self)
        return self

    def __exit__(self, *_):
        self._memory.streams.pop()

    def synchronize(self):
        self._memory.refuse_while_recording("waiting")
        self._memory.synchronisations += 1


class Graph:
    """Recorded launches: functions that run them, and the memory that each needs."""

    def __init__(self, memory, launches):
        self._memory, self.launches, self.replays = memory, launches, 0

    def launch(self, stream):
        assert isinstance(stream, NullStream), "would run beside what the default stream does"
        self._memory.refuse_while_recording("a launch of a graph")
        self.replays += 1
        for run, arrays, blocks in self.launches:
            assert all(block() is not None for block in blocks), "memory of a graph was freed"
            self._memory.launches += 1
            run()
            self._memory.check_guards(arrays)


class RawKernel:
    """One kernel of a module."""

    def __init__(self, standin, run, name):
        self._standin, self._run, self._name = standin, run, name

    def __call__(self, grid, block, args):
        assert all(type(n) is int for n in (*grid, *block)), (grid, block)
        self._launch(grid, block, args)

    def _launch(self, grid, block, args, **options):
        arrays = [a for a in args if isinstance(a, DeviceArray)]
        # Scalars keep the values that they have now; arrays are addresses.
        values = tuple(unwrap(a) for a in args)
        self._standin.queue(lambda: self._run(grid, block, values, **options), arrays)


class CooperativeKernel(RawKernel):
    """A kernel whose blocks are all resident: a grid too large is shrunk, with a warning."""

    @property
    def max_dynamic_shared_size_bytes(self):
        return self._standin.dynamic_shared[self._name]

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, n_bytes):
        assert n_bytes <= PROPERTIES["sharedMemPerBlockOptin"]
        self._standin.dynamic_shared[self._name] = n_bytes

    @property
    def kernel(self):
        return SimpleNamespace(ptr=id(self))

    def __call__(self, grid, block, args, *, shared_mem=0):
        assert type(shared_mem) is int
        if shared_mem > self.max_dynamic_shared_size_bytes:
            raise CUDADriverError("CUDA_ERROR_INVALID_VALUE: invalid argument")
        (blocks,) = grid
        most = self._standin.resident(shared_mem) * PROPERTIES["multiProcessorCount"]
        if most == 0:
            raise CUDADriverError("CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE")
        if blocks > most:
            warnings.warn(
                f"The grid size will be reduced from {blocks} to {most}, "
                "as the specified grid size exceeds the limit.",
                stacklevel=2,
            )
        options = {"shared": shared_mem, "cooperative": True}
        self._launch((min(blocks, most),), block, args, **options)


class RawModule:
    """The kernels of a source, compiled for the CPU."""

    def __init__(self, standin, kernels, kind=RawKernel):
        self._standin, self._kernels, self._kind = standin, kernels, kind

    def compile(self):
        self._standin.check_current("compiled")
        self._standin.memory.refuse_while_recording("loading a module")

    def get_function(self, name):
        assert name in self._kernels.parameters, f"no kernel {name}"

        def run(*launch, **options):
            self._kernels(name, *launch, **options)

        return self._kind(self._standin, run, name)


class StandIn:
    """The module ``cupy``.

    Parameters
    ----------
    kernels, strict_kernels, persistent
        {dtype: :class:`cupy_shim.Kernels`}, which its modules are taken from; without the last
        the device has no cooperative launches.
    devices
        Devices that the driver lists.
    limit
        Largest allocation that succeeds, in bytes.
    free
        Bytes that the driver says are free.
    """

    __name__ = "cupy"
    __version__ = "14.2.0"

    def __init__(
        self,
        kernels=None,
        strict_kernels=None,
        persistent=None,
        *,
        devices=2,
        limit=None,
        free=2**33,
    ):
        self._kernels, self._strict_kernels, self._devices = kernels, strict_kernels, devices
        self._persistent = persistent
        # By kernel: CuPy keeps one module for each source, and it one function of a name.
        self.dynamic_shared = defaultdict(lambda: 48 * 1024)
        self.memory = memory = Memory(limit)
        self.free = free
        self.empty = self.memory.allocate
        null = NullStream(memory)
        memory.streams = [null]

        def stream(*, non_blocking=False):
            self.check_current("stream made")
            return Stream(memory, non_blocking=non_blocking)

        stream.null = null
        self.product_type = DEFAULT_PRODUCTS
        self.cublas_library = FakeCublas(self, lambda x: tf32(x))
        self._core = SimpleNamespace(
            _routines_linalg=SimpleNamespace(
                COMPUTE_TYPE_DEFAULT=DEFAULT_PRODUCTS,
                COMPUTE_TYPE_TF32=TF32_PRODUCTS,
                get_compute_type=lambda dtype: self.product_type,
                set_compute_type=self._set_product_type,
            )
        )
        self.cuda = SimpleNamespace(
            Device=self._device,
            Stream=stream,
            Event=Event,
            get_current_stream=lambda: null,
            alloc_pinned_memory=bytearray,
            driver=SimpleNamespace(
                occupancyMaxActiveBlocksPerMultiprocessor=lambda _function, _threads, shared: (
                    self.resident(shared)
                ),
            ),
            runtime=SimpleNamespace(
                getDeviceCount=lambda: devices,
                getDeviceProperties=lambda _number: (
                    PROPERTIES | {"cooperativeLaunch": int(persistent is not None)}
                ),
                driverGetVersion=lambda: 13000,
                runtimeGetVersion=lambda: 13020,
                memGetInfo=lambda: (self.free, 2**34),
                streamCaptureModeThreadLocal=THREAD_LOCAL,
            ),
        )

    def _set_product_type(self, dtype, kind):
        assert dtype == np.float32
        assert kind in (DEFAULT_PRODUCTS, TF32_PRODUCTS)
        self.product_type = kind

    def get_default_memory_pool(self):
        return SimpleNamespace(free_bytes=lambda: 0)

    def asarray(self, array):
        assert hasattr(array, "__cuda_array_interface__")
        return getattr(array, "lent", array)

    def from_dlpack(self, array):
        self.check_current("exchanged")
        return array.__dlpack__(stream=1)

    def ascontiguousarray(self, array, dtype=None):
        self.check_current("converted")
        host = np.ascontiguousarray(array._host, dtype)
        return array if np.shares_memory(host, array._host) else self.memory.holding(host)

    def _device(self, number):
        assert 0 <= number < self._devices
        return Device(self.memory, number)

    def queue(self, run, arrays):
        """Run a launch, or keep it where the current stream captures."""
        self.check_current("launched")
        memory = self.memory
        if memory.recording is None:
            assert isinstance(memory.streams[-1], NullStream), "not in order with anything"
            memory.use(arrays)
            run()
            memory.check_guards(arrays)
            return
        assert not isinstance(memory.streams[-1], NullStream), "the default stream cannot record"
        guards = [SimpleNamespace(_block=SimpleNamespace(guard=a._block.guard)) for a in arrays]
        memory.recording.append((run, guards, [weakref.ref(a._block) for a in arrays]))

    def resident(self, shared_bytes):
        """Blocks of a cooperative kernel that a multiprocessor runs at once."""
        return min(2, PROPERTIES["sharedMemPerMultiprocessor"] // max(1, shared_bytes + 1024))

    def check_current(self, what):
        assert self.memory.current, f"{what} outside a device's context"

    def RawModule(self, *, code, options=(), enable_cooperative_groups=False):
        if code == persistent_source():
            assert enable_cooperative_groups
            return RawModule(self, self._persistent[dtype_of(options)], CooperativeKernel)
        assert not enable_cooperative_groups
        if code == checks_source():
            return RawModule(self, built_checks())
        if code == kernel_source(strict=True):
            assert "-fmad=false" in options
            return RawModule(self, self._strict_kernels[dtype_of(options)])
        assert code == kernel_source()
        return RawModule(self, self._kernels[dtype_of(options)])

    def RawKernel(self, _code, name):
        """Only the probe compiles one: it adds 1."""
        assert name == "fusedmlp_probe"
        return RawKernel(self, lambda _grid, _block, args: args[0].__iadd__(1), name)

    def zeros(self, shape, dtype):
        array = self.empty(shape if isinstance(shape, tuple) else (shape,), dtype)
        array.fill(0)
        return array

    def dot(self, a, b, out=None):
        self.check_current("multiplied")
        if self.memory.recording is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is unsupported")
        out = self.empty((a.shape[0], b.shape[1]), a.dtype) if out is None else out
        a_host, b_host, out_host = unwrap(a), unwrap(b), unwrap(out)
        assert a.dtype == b.dtype == out.dtype
        for operand in (a_host, b_host):
            assert operand.flags.c_contiguous or operand.T.flags.c_contiguous, "CuPy would copy"
            assert not np.shares_memory(operand, out_host), "CuPy would copy"
        assert out_host.flags.c_contiguous, "CuPy refuses other outputs"
        assert out_host.shape == (a.shape[0], b.shape[1])
        if self.product_type == TF32_PRODUCTS and a.dtype == np.float32:
            a_host, b_host = tf32(a_host), tf32(b_host)
        with np.errstate(all="ignore"):  # a device warns of nothing
            np.matmul(a_host, b_host, out=out_host)
        self.memory.use([each for each in (a, b, out) if isinstance(each, DeviceArray)])
        self.memory.check_guards([out])
        return out


DEFAULT_PRODUCTS, TF32_PRODUCTS, THREAD_LOCAL = 1, 7, 1
"""CuPy's numbers."""


def tf32(x):
    """Finite float32 numbers rounded to 10 bits of mantissa, to nearest, ties away from zero."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)


@functools.cache
def built_checks():
    """checks.cu on the CPU; it does not depend on the floating type."""
    with tempfile.TemporaryDirectory() as folder:
        return cupy_shim.Kernels(checks_source(), "float", Path(folder))


PROPERTIES = {
    "name": b"Pretended GPU",
    "major": 9,
    "minor": 0,
    "multiProcessorCount": 3,
    "totalGlobalMem": 2**34,
    "sharedMemPerBlockOptin": 232448,
    "sharedMemPerMultiprocessor": 233472,
}
