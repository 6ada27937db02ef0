"""A stand-in for the module ``cupy``: the small part that the backend uses, in host memory.

While a stream records, launches are kept with their present arguments and nothing runs, as on a
device; a replay whose memory has been freed fails. A second stream makes its copies as late as it
may, and every use of memory that no event orders with them fails. Kernels run through
:mod:`cupy_shim`, on the arrays of :mod:`cupy_memory`.
"""

from __future__ import annotations

import functools
import tempfile
import threading
import warnings
import weakref
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace

import cupy_shim
import numpy as np
from cupy_cublas import FakeCublas
from cupy_memory import Device, DeviceArray, Memory, check_guards, unwrap

from fusedmlp_cupy.kernels.source import checks_source, kernel_source, persistent_source

PROPERTIES = {
    "name": b"Pretended GPU",
    "major": 9,
    "minor": 0,
    "multiProcessorCount": 3,
    "totalGlobalMem": 2**34,
    "sharedMemPerBlockOptin": 232448,
    "sharedMemPerMultiprocessor": 233472,
}

DEFAULT_PRODUCTS, TF32_PRODUCTS, THREAD_LOCAL = 1, 7, 1
"""CuPy's numbers."""


class CUDADriverError(RuntimeError):
    """As ``cupy.cuda.driver.CUDADriverError``."""


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


class NullStream:
    """The default stream: everything queued on it is done at once."""

    def __init__(self, memory):
        self._memory = memory

    def __enter__(self):
        self._memory.streams.append(self)
        return self

    def __exit__(self, *_):
        self._memory.streams.pop()

    def now(self):
        return self._memory.launches

    def run(self, point, *, by_host=False):
        assert point <= self._memory.launches

    def wait_event(self, event):
        event._stream.run(event._point)

    def synchronize(self):
        self._memory.refuse_while_recording("waiting")
        self._memory.synchronisations += 1


class Stream(NullStream):
    """A second stream: copies wait until an event that follows them is waited for."""

    def __init__(self, memory, *, non_blocking):
        assert non_blocking, "a blocking stream takes turns with the default one"
        super().__init__(memory)
        self.ptr = id(self)
        self._copies = []  # (array, host array)
        self._done = self._awaited_by_host = self._launches_seen = 0
        self._lock = threading.Lock()

    def begin_capture(self, mode):
        assert mode == THREAD_LOCAL, "other threads would be kept from allocating"
        assert self._memory.recording is None
        self._memory.recording = []

    def end_capture(self):
        launches, self._memory.recording = self._memory.recording, None
        return Graph(self._memory, launches)

    def now(self):
        return len(self._copies)

    def wait_event(self, event):
        assert not isinstance(event._stream, Stream)
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


class Graph:
    """Recorded launches: functions that run them, the memory of each, and its guards."""

    def __init__(self, memory, launches):
        self._memory, self._launches, self.replays = memory, launches, 0
        memory.graphs.add(self)

    def launch(self, stream):
        assert not isinstance(stream, Stream), "would run beside what the default stream does"
        self._memory.refuse_while_recording("a launch of a graph")
        self.replays += 1
        for run, blocks, guards in self._launches:
            held = [block() for block in blocks]
            assert None not in held, "memory of a graph was freed"
            self._memory.use(held)
            run()
            check_guards(guards)


class Kernel:
    """One kernel of a module; a cooperative grid that is too large is shrunk, with a warning."""

    def __init__(self, standin, run, name, *, cooperative=False):
        self._standin, self._run, self._name = standin, run, name
        self._cooperative = cooperative
        self.kernel = SimpleNamespace(ptr=id(self))

    @property
    def max_dynamic_shared_size_bytes(self):
        return self._standin.dynamic_shared[self._name]

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, n_bytes):
        assert n_bytes <= PROPERTIES["sharedMemPerBlockOptin"]
        self._standin.dynamic_shared[self._name] = n_bytes

    def __call__(self, grid, block, args, *, shared_mem=0):
        assert all(type(n) is int for n in (*grid, *block, shared_mem)), (grid, block, shared_mem)
        options = {}
        if self._cooperative:
            grid = self._resident_grid(grid, shared_mem)
            options = {"shared": shared_mem, "cooperative": True}
        # Scalars keep the values that they have now; arrays are addresses.
        values = tuple(unwrap(a) for a in args)
        arrays = [a for a in args if isinstance(a, DeviceArray)]
        self._standin.queue(lambda: self._run(grid, block, values, **options), arrays)

    def _resident_grid(self, grid, shared_mem):
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
                stacklevel=3,
            )
        return (min(blocks, most),)


class Module:
    """The kernels of a source, compiled for the CPU."""

    def __init__(self, standin, kernels, *, cooperative=False):
        self._standin, self._kernels, self._cooperative = standin, kernels, cooperative

    def compile(self):
        self._standin.check_current("compiled")
        self._standin.memory.refuse_while_recording("loading a module")

    def get_function(self, name):
        assert name in self._kernels.parameters, f"no kernel {name}"
        run = functools.partial(self._kernels, name)
        return Kernel(self._standin, run, name, cooperative=self._cooperative)


class StandIn:
    """The module ``cupy``, with two devices.

    Parameters
    ----------
    kernels, strict_kernels, persistent
        {dtype: :class:`cupy_shim.Kernels`}, which its modules are taken from; without the last
        the device has no cooperative launches.

    Attributes
    ----------
    free
        Bytes that the driver says are free.
    """

    __name__ = "cupy"
    __version__ = "14.2.0"

    def __init__(self, kernels=None, strict_kernels=None, persistent=None):
        self._kernels, self._strict_kernels = kernels, strict_kernels
        self._persistent = persistent
        # By kernel: CuPy keeps one module for each source, and it one function of a name.
        self.dynamic_shared = defaultdict(lambda: 48 * 1024)
        self.memory = memory = Memory()
        self.free = 2**33
        self.empty = memory.allocate
        self.product_type = DEFAULT_PRODUCTS
        self.cublas_library = FakeCublas(self, lambda x: tf32(x))
        null = NullStream(memory)
        memory.streams, memory.graphs = [null], weakref.WeakSet()

        def stream(*, non_blocking=False):
            self.check_current("stream made")
            return Stream(memory, non_blocking=non_blocking)

        stream.null = null
        self._core = SimpleNamespace(
            _routines_linalg=SimpleNamespace(
                COMPUTE_TYPE_DEFAULT=DEFAULT_PRODUCTS,
                COMPUTE_TYPE_TF32=TF32_PRODUCTS,
                get_compute_type=lambda _dtype: self.product_type,
                set_compute_type=self._set_product_type,
            )
        )
        self.cuda = SimpleNamespace(
            Device=functools.partial(Device, memory),
            Stream=stream,
            Event=Event,
            get_current_stream=lambda: memory.streams[-1],
            alloc_pinned_memory=bytearray,
            driver=SimpleNamespace(
                occupancyMaxActiveBlocksPerMultiprocessor=lambda _function, _threads, shared: (
                    self.resident(shared)
                ),
            ),
            runtime=SimpleNamespace(
                getDeviceCount=lambda: 2,
                getDeviceProperties=lambda _number: (
                    PROPERTIES | {"cooperativeLaunch": int(persistent is not None)}
                ),
                driverGetVersion=lambda: 13000,
                runtimeGetVersion=lambda: 13020,
                memGetInfo=lambda: (self.free, 2**34),
                streamCaptureModeThreadLocal=THREAD_LOCAL,
            ),
        )

    @property
    def graphs(self):
        """Replays of each graph that still exists, in ascending order."""
        return sorted(graph.replays for graph in self.memory.graphs)

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

    def check_current(self, what):
        assert self.memory.current, f"{what} outside a device's context"

    def resident(self, shared_bytes):
        """Blocks of a cooperative kernel that a multiprocessor runs at once."""
        return min(2, PROPERTIES["sharedMemPerMultiprocessor"] // max(1, shared_bytes + 1024))

    def queue(self, run, arrays):
        """Run a launch, or keep it where the current stream records."""
        self.check_current("launched")
        memory, blocks = self.memory, [each._block for each in arrays]
        guards = [block.guard for block in blocks]
        is_null = not isinstance(memory.streams[-1], Stream)
        if memory.recording is None:
            assert is_null, "not in order with anything"
            memory.use(blocks)
            run()
            check_guards(guards)
            return
        assert not is_null, "the default stream cannot record"
        memory.recording.append((run, [weakref.ref(block) for block in blocks], guards))

    def RawModule(self, *, code, options=(), enable_cooperative_groups=False):
        cooperative = code == persistent_source()
        assert enable_cooperative_groups == cooperative
        if code == checks_source():
            return Module(self, built_checks())
        strict = code == kernel_source(strict=True)
        assert not strict or "-fmad=false" in options
        assert cooperative or strict or code == kernel_source()
        kernels = self._strict_kernels if strict else self._kernels
        kernels = self._persistent if cooperative else kernels
        return Module(self, kernels[cupy_shim.dtype_of(options)], cooperative=cooperative)

    def RawKernel(self, _code, name):
        """Only the probe compiles one: it adds 1."""
        assert name == "fusedmlp_probe"
        return Kernel(self, lambda _grid, _block, args: args[0].__iadd__(1), name)

    def zeros(self, shape, dtype):
        array = self.empty(shape if isinstance(shape, tuple) else (shape,), dtype)
        array.fill(0)
        return array

    def dot(self, a, b, out=None):
        self.check_current("multiplied")
        if self.memory.recording is not None:
            raise NotImplementedError("calling cuBLAS API during stream capture is unsupported")
        out = self.empty((a.shape[0], b.shape[1]), a.dtype) if out is None else out
        hosts, out_host = [unwrap(a), unwrap(b)], unwrap(out)
        assert a.dtype == b.dtype == out.dtype
        for operand in hosts:
            assert operand.flags.c_contiguous or operand.T.flags.c_contiguous, "CuPy would copy"
            assert not np.shares_memory(operand, out_host), "CuPy would copy"
        assert out_host.flags.c_contiguous, "CuPy refuses other outputs"
        if self.product_type == TF32_PRODUCTS and a.dtype == np.float32:
            hosts = [tf32(each) for each in hosts]

        def run():
            with np.errstate(all="ignore"):  # a device warns of nothing
                np.matmul(*hosts, out=out_host)

        self.queue(run, [a, b, out])
        return out


def tf32(x):
    """Finite float32 numbers rounded to 10 bits of mantissa, to nearest, ties away from zero."""
    bits = np.ascontiguousarray(x).view(np.uint32)
    return ((bits + np.uint32(1 << 12)) & np.uint32(0xFFFFE000)).view(np.float32)


@functools.cache
def built_checks():
    """checks.cu on the CPU; it does not depend on the floating type."""
    with tempfile.TemporaryDirectory() as folder:
        return cupy_shim.Kernels(checks_source(), "float", Path(folder))
