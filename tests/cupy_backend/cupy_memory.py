"""Simulated device memory for :mod:`cupy_standin`: arrays, and the uses that must be in order.

It is strict where CuPy is: no implicit conversion to NumPy, uploads of exactly the right type.
Fresh arrays are NaN or -1, so that reading unwritten memory shows. Each begins after a guard of the
same bytes, which is checked after every launch, and ends at inaccessible memory. While a stream
records, everything that waits, copies or allocates fails.
"""

from __future__ import annotations

import ctypes
import mmap
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np

GUARD_BYTES = 256
FENCE_BYTES = 2**20

FORBIDDEN = 0  # PROT_NONE
libc = ctypes.CDLL(None, use_errno=True)
libc.mprotect.argtypes = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int


class OutOfMemoryError(MemoryError):
    """As ``cupy.cuda.memory.OutOfMemoryError``."""


class CUDARuntimeError(RuntimeError):
    """As ``cupy.cuda.runtime.CUDARuntimeError``."""


@dataclass(eq=False)
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

    shape = property(lambda self: self._host.shape)
    dtype = property(lambda self: self._host.dtype)
    nbytes = property(lambda self: self._host.nbytes)
    data = property(lambda self: SimpleNamespace(ptr=self._host.ctypes.data))
    device = property(lambda self: Device(self._owner, self._block.device))
    T = property(lambda self: self._view(self._host.T))
    __cuda_array_interface__ = property(
        lambda self: {"shape": self.shape, "typestr": self.dtype.str, "version": 3}
    )

    def _view(self, host):
        return DeviceArray(host, self._owner, self._block)

    def __getitem__(self, index):
        is_range = isinstance(index, slice) and index.step is None
        assert is_range or isinstance(index, tuple), "only ranges are taken on the device"
        return self._view(self._host[index])  # a tuple only in a user's own code

    def reshape(self, *shape):
        view = self._host.reshape(*shape)
        assert np.shares_memory(view, self._host) or not view.size, "a reshape that copies"
        return self._view(view)

    def set(self, host, stream=None):
        assert type(host) is np.ndarray, "CuPy sets NumPy arrays only"
        assert (host.dtype, host.shape) == (self.dtype, self.shape)
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
        assert 0 <= number < 2
        self._memory, self.id = memory, number

    def __enter__(self):
        self._memory.current.append(self.id)

    def __exit__(self, *_):
        self._memory.current.pop()


def unwrap(value):
    return value._host if isinstance(value, DeviceArray) else value


class Memory:
    """All arrays of a stand-in, and counts of what has been done with them."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.uploads = self.reads = self.synchronisations = self.launches = 0
        self.current = []  # numbers of the devices made current, the last one now
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

    def use(self, blocks):
        """Note that the default stream reads or writes these allocations."""
        self.launches += 1
        for block in blocks:
            assert not block.is_copied, "used while another stream writes it"
            block.used_at = self.launches

    def allocate(self, shape, dtype):
        self.refuse_while_recording("an allocation")
        dtype = np.dtype(dtype)
        n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if self.limit is not None and n_bytes > self.limit:
            raise OutOfMemoryError(f"Out of memory allocating {n_bytes:,} bytes")
        memory = fenced(n_bytes + GUARD_BYTES)
        memory[...] = 0xFF
        block = Block(memory[:GUARD_BYTES], self.current[-1] if self.current else 0)
        return DeviceArray(memory[GUARD_BYTES:].view(dtype).reshape(shape), self, block)


def check_guards(guards):
    for guard in guards:
        assert (guard == 0xFF).all(), "a kernel wrote before the beginning of an array"


def fenced(n_bytes):
    """Bytes whose end is the end of the accessible memory."""
    page = mmap.PAGESIZE
    n_pages = -(-n_bytes // page)
    pages = np.frombuffer(mmap.mmap(-1, n_pages * page + FENCE_BYTES), np.uint8)
    fence = pages.ctypes.data + n_pages * page
    assert libc.mprotect(fence, FENCE_BYTES, FORBIDDEN) == 0, ctypes.get_errno()
    return pages[n_pages * page - n_bytes : n_pages * page]
