"""A stand-in for the module ``cupy``: the small part that the backend uses, in host memory.

It is strict where CuPy is: no implicit conversion to NumPy, only C-ordered outputs,
uploads of exactly the right type. Fresh arrays are NaN or 0xFF, so that nothing
unwritten is ever used unnoticed. Each begins after a guard that every launch is checked against,
and ends at a page that must not be touched at all. Kernels run through :mod:`cupy_shim`.
"""

from __future__ import annotations

import ctypes
import mmap
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
from cupy_shim import dtype_of

from fusedmlp_cupy.device import kernel_source

GUARD_BYTES = 256
GUARD = 0xA5

FORBIDDEN = 0  # PROT_NONE
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


class OutOfMemoryError(MemoryError):
    """As ``cupy.cuda.memory.OutOfMemoryError``."""


class DeviceArray:
    """An array in pretended device memory."""

    def __init__(self, host: np.ndarray, owner: Memory, block: np.ndarray) -> None:
        self._host, self._owner, self._block = host, owner, block

    @property
    def shape(self):
        return self._host.shape

    @property
    def dtype(self):
        return self._host.dtype

    @property
    def T(self):
        return DeviceArray(self._host.T, self._owner, self._block)

    def __getitem__(self, index):
        assert isinstance(index, slice), "only ranges are taken on the device"
        assert index.step is None
        return DeviceArray(self._host[index], self._owner, self._block)

    def reshape(self, *shape):
        view = self._host.reshape(*shape)
        assert np.shares_memory(view, self._host) or not view.size, "a reshape that copies"
        return DeviceArray(view, self._owner, self._block)

    def set(self, host):
        if not isinstance(host, np.ndarray):
            raise TypeError("Only numpy.ndarray can be set to cupy.ndarray")
        if host.dtype != self.dtype or host.shape != self.shape:
            raise ValueError(f"{host.dtype}{host.shape} into {self.dtype}{self.shape}")
        self._host[...] = host
        self._owner.uploads += 1

    def get(self):
        self._owner.reads += 1
        return self._host.copy()

    def fill(self, value):
        self._host.fill(value)

    def _refuse(self, *_args, **_kwargs):
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Use .get().")

    __array__ = __float__ = __int__ = __bool__ = __iter__ = __len__ = __add__ = _refuse
    __array_ufunc__ = __array_function__ = _refuse


class Memory:
    """All arrays of a stand-in, with their guards."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.uploads = self.reads = self.synchronisations = 0

    def allocate(self, shape, dtype):
        dtype = np.dtype(dtype)
        n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if self.limit is not None and n_bytes > self.limit:
            raise OutOfMemoryError(f"Out of memory allocating {n_bytes:,} bytes")
        block = fenced(n_bytes + GUARD_BYTES)
        block[:GUARD_BYTES] = GUARD
        block[GUARD_BYTES:] = 0xFF
        return DeviceArray(block[GUARD_BYTES:].view(dtype).reshape(shape), self, block)

    def check_guards(self, arrays):
        for array in arrays:
            guard = array._block[:GUARD_BYTES]
            assert (guard == GUARD).all(), "a kernel wrote before the beginning of an array"


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


class NullStream:
    """The default stream: everything queued on it is done at once."""

    def __init__(self, memory):
        self._memory = memory

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    def synchronize(self):
        self._memory.synchronisations += 1


class RawKernel:
    """One kernel of a module."""

    def __init__(self, standin, run):
        self._standin, self._run = standin, run

    def __call__(self, grid, block, args):
        self._standin.check_current("launched")
        assert all(type(n) is int for n in (*grid, *block)), (grid, block)
        self._run(grid, block, tuple(unwrap(a) for a in args))
        self._standin.memory.check_guards([a for a in args if isinstance(a, DeviceArray)])


class RawModule:
    """The kernels of a source, compiled for the CPU."""

    def __init__(self, standin, kernels):
        self._standin, self._kernels = standin, kernels

    def compile(self):
        self._standin.check_current("compiled")

    def get_function(self, name):
        assert name in self._kernels.parameters, f"no kernel {name}"
        return RawKernel(self._standin, lambda *launch: self._kernels(name, *launch))


class StandIn:
    """The module itself.

    Parameters
    ----------
    kernels, strict_kernels
        {dtype: :class:`cupy_shim.Kernels`}, which its modules are taken from.
    devices
        Devices that the driver lists.
    limit
        Largest allocation that succeeds, in bytes.
    """

    __name__ = "cupy"
    __version__ = "14.2.0"

    def __init__(self, kernels=None, strict_kernels=None, *, devices=2, limit=None):
        self._kernels, self._strict_kernels, self._devices = kernels, strict_kernels, devices
        self._current = []
        self.memory = Memory(limit)
        self.empty = self.memory.allocate
        self.cuda = SimpleNamespace(
            Device=self._device,
            Stream=SimpleNamespace(null=NullStream(self.memory)),
            runtime=SimpleNamespace(
                getDeviceCount=lambda: devices,
                getDeviceProperties=lambda _number: PROPERTIES,
                driverGetVersion=lambda: 13000,
                runtimeGetVersion=lambda: 13020,
                memGetInfo=lambda: (1000, 2**34),
            ),
        )

    @contextmanager
    def _device(self, number):
        assert 0 <= number < self._devices
        self._current.append(number)
        try:
            yield
        finally:
            self._current.pop()

    def check_current(self, what):
        assert self._current, f"{what} outside a device's context"

    def RawModule(self, *, code, options=()):
        if code == kernel_source(strict=True):
            assert "-fmad=false" in options
            return RawModule(self, self._strict_kernels[dtype_of(options)])
        assert code == kernel_source()
        return RawModule(self, self._kernels[dtype_of(options)])

    def RawKernel(self, _code, name):
        """Only the probe compiles one: it adds 1."""
        assert name == "fusedmlp_probe"
        return RawKernel(self, lambda _grid, _block, args: args[0].__iadd__(1))

    def zeros(self, shape, dtype):
        array = self.empty(shape if isinstance(shape, tuple) else (shape,), dtype)
        array.fill(0)
        return array

    def dot(self, a, b, out=None):
        self.check_current("multiplied")
        out = self.empty((a.shape[0], b.shape[1]), a.dtype) if out is None else out
        a_host, b_host, out_host = unwrap(a), unwrap(b), unwrap(out)
        assert a.dtype == b.dtype == out.dtype
        for operand in (a_host, b_host):
            assert operand.flags.c_contiguous or operand.T.flags.c_contiguous, "CuPy would copy"
            assert not np.shares_memory(operand, out_host), "CuPy would copy"
        assert out_host.flags.c_contiguous, "CuPy refuses other outputs"
        assert out_host.shape == (a.shape[0], b.shape[1])
        with np.errstate(all="ignore"):  # a device warns of nothing
            np.matmul(a_host, b_host, out=out_host)
        self.memory.check_guards([out])
        return out


PROPERTIES = {
    "name": b"Pretended GPU",
    "major": 9,
    "minor": 0,
    "multiProcessorCount": 132,
    "totalGlobalMem": 2**34,
}
