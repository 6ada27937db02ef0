"""A stand-in for the module ``cupy``: the small part that the backend uses, in host memory.

It is strict where CuPy is: no implicit conversion to NumPy, no mixed devices' arrays, only C-ordered
outputs, uploads of exactly the right type. Fresh arrays are NaN or 0xFF, so that nothing
unwritten is ever used unnoticed, and lie between guards that every launch is checked against.
Kernels run through :mod:`cupy_shim`.
"""

from __future__ import annotations

from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np

GUARD_BYTES = 256
GUARD = 0xA5


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
        self._owner.check_guards()
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
        self.limit, self.blocks = limit, []
        self.uploads = self.reads = self.synchronisations = 0

    def allocate(self, shape, dtype):
        dtype = np.dtype(dtype)
        n_bytes = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if self.limit is not None and n_bytes > self.limit:
            raise OutOfMemoryError(f"Out of memory allocating {n_bytes:,} bytes")
        block = np.full(n_bytes + 2 * GUARD_BYTES, GUARD, np.uint8)
        block[GUARD_BYTES : GUARD_BYTES + n_bytes] = 0xFF
        host = block[GUARD_BYTES : GUARD_BYTES + n_bytes].view(dtype).reshape(shape)
        self.blocks.append(block)
        return DeviceArray(host, self, block)

    def check_guards(self, arrays=None):
        blocks = self.blocks if arrays is None else [a._block for a in arrays]
        for block in blocks:
            for guard in (block[:GUARD_BYTES], block[-GUARD_BYTES:]):
                assert (guard == GUARD).all(), "a kernel wrote outside an array"


def unwrap(value):
    return value._host if isinstance(value, DeviceArray) else value


def make(kernels_for, *, devices: int = 2, limit: int | None = None, free: int = 1000):
    """Build a stand-in module.

    Parameters
    ----------
    kernels_for
        Maps the compile options of a module to a :class:`cupy_shim.Kernels`.
    devices
        Devices that the driver lists.
    limit
        Largest allocation that succeeds, in bytes.
    """
    memory = Memory(limit)
    stack: list[int] = []

    @contextmanager
    def device(number):
        assert 0 <= number < devices
        stack.append(number)
        try:
            yield
        finally:
            stack.pop()

    class Null:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            return None

        def synchronize(self):
            memory.synchronisations += 1

    class RawKernel:
        def __init__(self, run):
            self._run = run

        def compile(self):
            assert stack, "compiled outside a device's context"

        def __call__(self, grid, block, args):
            assert stack, "launched outside a device's context"
            assert all(type(n) is int for n in (*grid, *block)), (grid, block)
            self._run(grid, block, tuple(unwrap(a) for a in args))
            memory.check_guards([a for a in args if isinstance(a, DeviceArray)])

    class RawModule:
        def __init__(self, *, code, options=()):
            self._kernels = kernels_for(code, options)

        def get_function(self, name):
            kernels = self._kernels
            assert name in kernels.parameters, f"no kernel {name}"
            return RawKernel(lambda *launch: kernels(name, *launch))

    def probe_kernel(_code, _name):
        def add_one(_grid, _block, args):
            args[0]._host[...] += 1

        return RawKernel(lambda grid, block, args: None) if False else add_one

    def zeros(shape, dtype):
        array = memory.allocate(shape if isinstance(shape, tuple) else (shape,), dtype)
        array._host[...] = 0
        return array

    def dot(a, b, out=None):
        assert stack, "multiplied outside a device's context"
        a_host, b_host = unwrap(a), unwrap(b)
        out = memory.allocate((a.shape[0], b.shape[1]), a.dtype) if out is None else out
        assert a.dtype == b.dtype == out.dtype
        for operand in (a_host, b_host):
            assert operand.flags.c_contiguous or operand.T.flags.c_contiguous, "CuPy would copy"
            assert not np.shares_memory(operand, unwrap(out)), "CuPy would copy"
        assert unwrap(out).flags.c_contiguous, "CuPy refuses other outputs"
        assert unwrap(out).shape == (a.shape[0], b.shape[1])
        np.matmul(a_host, b_host, out=unwrap(out))
        memory.check_guards([out])
        return out

    properties = {
        "name": b"Pretended GPU",
        "major": 9,
        "minor": 0,
        "multiProcessorCount": 132,
        "totalGlobalMem": 2**34,
    }
    runtime = SimpleNamespace(
        getDeviceCount=lambda: devices,
        getDeviceProperties=lambda _number: properties,
        driverGetVersion=lambda: 13000,
        runtimeGetVersion=lambda: 13020,
        memGetInfo=lambda: (free, 2**34),
    )
    return SimpleNamespace(
        __name__="cupy",
        __version__="14.2.0",
        empty=memory.allocate,
        zeros=zeros,
        dot=dot,
        RawModule=RawModule,
        RawKernel=probe_kernel,
        cuda=SimpleNamespace(
            Device=device, Stream=SimpleNamespace(null=Null()), runtime=runtime
        ),
        memory=memory,
    )
