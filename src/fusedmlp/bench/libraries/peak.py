"""How many floating-point operations this machine can do: fused multiply-adds on registers.

Not a benchmark of a library. It reads no memory, so nothing that does can be faster. The vectors
are as wide as the CPU's, and there are enough independent ones to fill its pipelines: two FMAs
a cycle that each take four need eight, and CPUs with 32 registers may start four a cycle.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final, cast

import numba
import numpy as np
from llvmlite import binding, ir
from numba.core import types
from numba.extending import intrinsic

from fusedmlp.bench.contract import Peer
from fusedmlp.bench.libraries import handover

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import FloatDtype

_FEATURES: Final = binding.get_host_cpu_features()
IS_WIDE: Final = bool(_FEATURES.get("avx512f"))
VECTOR_BYTES: Final = 64 if IS_WIDE else 32 if _FEATURES.get("avx") else 16
ACCUMULATORS: Final = 12 if _FEATURES.get("avx") and not IS_WIDE else 24
"""AVX has 16 registers, and two hold the operands; AVX-512, NEON and others have 32."""

ITERATIONS: Final = 20_000_000
"""Of the loop over all accumulators: tens of milliseconds, against which a thread's start is
nothing."""


def _fma_loop(scalar: ir.Type, lanes: int) -> Callable[..., Any]:
    """Build the intrinsic: ``n`` rounds of a ← a·x + y on every accumulator; their sum."""
    vector = ir.VectorType(scalar, lanes)
    kind = types.float32 if isinstance(scalar, ir.FloatType) else types.float64

    def filled(builder: ir.IRBuilder, value: ir.Value) -> ir.Value:
        found = ir.Constant(vector, ir.Undefined)
        for lane in range(lanes):
            found = builder.insert_element(found, value, ir.Constant(ir.IntType(32), lane))
        return found

    def generate(
        _context: object, builder: ir.IRBuilder, _signature: object, args: Any
    ) -> ir.Value:
        n, x, y = args
        name = f"llvm.fma.v{lanes}f{32 if kind is types.float32 else 64}"
        fma = builder.module.declare_intrinsic(
            name, fnty=ir.FunctionType(vector, [vector, vector, vector])
        )
        xs, ys = filled(builder, x), filled(builder, y)
        starts = [
            filled(builder, ir.Constant(scalar, 1.0 + index / 64)) for index in range(ACCUMULATORS)
        ]
        before = builder.block
        loop, after = builder.append_basic_block("fma"), builder.append_basic_block("done")
        builder.branch(loop)
        builder.position_at_end(loop)
        counter = builder.phi(n.type)
        counter.add_incoming(ir.Constant(n.type, 0), before)
        found = []
        for start in starts:
            accumulator = builder.phi(vector)
            accumulator.add_incoming(start, before)
            found.append(accumulator)
        results = [builder.call(fma, [accumulator, xs, ys]) for accumulator in found]
        for accumulator, result in zip(found, results, strict=True):
            accumulator.add_incoming(result, loop)
        following = builder.add(counter, ir.Constant(n.type, 1))
        counter.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, n), loop, after)
        builder.position_at_end(after)
        total = results[0]
        for result in results[1:]:
            total = builder.fadd(total, result)
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    def typed(_typing: object, _n: object, _x: object, _y: object) -> Any:
        return kind(types.int64, kind, kind), generate

    built: Callable[..., Any] = intrinsic(typed)
    return built


_LOOPS: Final = {
    "float32": _fma_loop(ir.FloatType(), VECTOR_BYTES // 4),
    "float64": _fma_loop(ir.DoubleType(), VECTOR_BYTES // 8),
}


def compute(dtype: FloatDtype) -> Callable[[int], float]:
    """Compile the loop for a type: n iterations on one thread, without the GIL."""
    loop = _LOOPS[dtype]
    x, y = np.dtype(dtype).type(0.999), np.dtype(dtype).type(0.001)

    njit = cast("Callable[..., Callable[..., Callable[..., float]]]", numba.njit)

    @njit(nogil=True)
    def run(n: int, x: float, y: float) -> float:
        found: float = loop(n, x, y)
        return found

    run(np.int64(1), x, y)
    return lambda n: float(run(np.int64(n), x, y))


def flops(dtype: FloatDtype, iterations: int) -> float:
    """Operations of that many iterations on one thread: a fused multiply-add is two."""
    return 2.0 * iterations * ACCUMULATORS * (VECTOR_BYTES // np.dtype(dtype).itemsize)


class Peak(Peer):
    """The loop on as many threads as asked for; and how fast these meet."""

    packages = ("numba", "llvmlite")

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        self._loops: dict[FloatDtype, Callable[[int], float]] = {}
        self._relay: Callable[..., None] | None = None

    def limit(self, task: Task) -> Callable[[], float]:
        if task.dtype not in self._loops:
            self._loops[task.dtype] = compute(task.dtype)
        run = self._loops[task.dtype]

        def call() -> float:
            threads = [
                threading.Thread(target=run, args=(ITERATIONS,)) for _ in range(self.threads)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            return self.threads * flops(task.dtype, ITERATIONS)

        return call

    def handover(self) -> float:
        if self._relay is None:
            self._relay = handover.compile_relay()
        return handover.seconds(self._relay, self.threads)
