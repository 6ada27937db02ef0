"""The machine's peak of fused multiply-adds, and the time of handovers between its threads.

This is no benchmark of a library: shares of the peak, comparisons with earlier runs and the noise
monitor need it. The two loops are compiled by LLVM itself, because neither the number of vector
registers in use nor the order of memory accesses can be left to an optimiser. ctypes releases the
GIL, so that threads run side by side.
"""

from __future__ import annotations

import ctypes
import threading
import time
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
from llvmlite import binding, ir

from fusedmlp.bench.adapter import Adapter

if TYPE_CHECKING:
    from collections.abc import Callable

    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import FloatDtype

_FEATURES: Final = binding.get_host_cpu_features()
_IS_WIDE: Final = bool(_FEATURES.get("avx512f"))
VECTOR_BYTES: Final = 64 if _IS_WIDE else 32 if _FEATURES.get("avx") else 16
ACCUMULATORS: Final = 12 if _FEATURES.get("avx") and not _IS_WIDE else 24
"""Independent vectors, to fill the pipelines: two FMAs per cycle of latency four need eight, and
CPUs with 32 registers may start four per cycle. AVX has 16 registers, of which two hold the
operands; AVX-512, NEON and others have 32."""

PEAK_ITERATIONS: Final = 20_000_000
"""Of the loop over all accumulators: tens of milliseconds; starting a thread takes some µs."""

HANDOVER_ROUNDS: Final = 1_000
HANDOVER_REPEATS: Final = 10
"""The fastest of the repeats was not interrupted."""


def native(
    build: Callable[[ir.Module], tuple[str, Callable[[int], Any]]],
) -> Callable[..., Any]:
    """Compile a function of LLVM IR for this CPU.

    Parameters
    ----------
    build
        Fills an empty module with a function; returns its name and ctypes signature.
    """
    module = ir.Module()
    name, signature = build(module)
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_triple(binding.get_process_triple())
    machine = target.create_target_machine(
        cpu=binding.get_host_cpu_name(), features=_FEATURES.flatten(), opt=2
    )
    parsed = binding.parse_assembly(str(module))
    parsed.verify()
    engine = binding.create_mcjit_compiler(parsed, machine)
    engine.finalize_object()
    function = signature(engine.get_function_address(name))
    function.engine = engine  # which owns the machine code
    return cast("Callable[..., Any]", function)


def fma_loop(dtype: FloatDtype) -> Callable[..., Any]:
    """Compile ``run(n)``: n rounds of a ← a·x + y on every accumulator, and their sum."""

    def build(module: ir.Module) -> tuple[str, Callable[[int], Any]]:
        scalar = ir.FloatType() if dtype == "float32" else ir.DoubleType()
        lanes, count = VECTOR_BYTES // np.dtype(dtype).itemsize, ir.IntType(64)
        vector = ir.VectorType(scalar, lanes)
        function = ir.Function(module, ir.FunctionType(scalar, [count]), "run")
        entry, loop, done = (function.append_basic_block(n) for n in ("entry", "loop", "done"))
        ir.IRBuilder(entry).branch(loop)
        builder = ir.IRBuilder(loop)

        def constant(value: float) -> ir.Constant:
            return ir.Constant(vector, [value] * lanes)

        counter = builder.phi(count)
        phis = [builder.phi(vector) for _ in range(ACCUMULATORS)]
        fma = module.declare_intrinsic(
            f"llvm.fma.v{lanes}f{8 * np.dtype(dtype).itemsize}",
            fnty=ir.FunctionType(vector, [vector] * 3),
        )
        results = [builder.call(fma, [phi, constant(0.999), constant(0.001)]) for phi in phis]
        for index, (phi, result) in enumerate(zip(phis, results, strict=True)):
            phi.add_incoming(constant(1.0 + index / 64), entry)
            phi.add_incoming(result, loop)
        following = builder.add(counter, ir.Constant(count, 1))
        counter.add_incoming(ir.Constant(count, 0), entry)
        counter.add_incoming(following, loop)
        builder.cbranch(builder.icmp_signed("<", following, function.args[0]), loop, done)
        builder = ir.IRBuilder(done)
        total = results[0]
        for result in results[1:]:
            total = builder.fadd(total, result)
        builder.ret(builder.extract_element(total, ir.Constant(ir.IntType(32), 0)))
        kind = ctypes.c_float if dtype == "float32" else ctypes.c_double
        return "run", ctypes.CFUNCTYPE(kind, ctypes.c_int64)

    return native(build)


def relay_loop() -> Callable[..., Any]:
    """Compile ``run(counter, first, last, step)``, one thread of a relay.

    The thread waits until the counter has its number, adds one, and goes on to the number that
    comes ``step`` later, up to ``last``.
    """

    def build(module: ir.Module) -> tuple[str, Callable[[int], Any]]:
        i64 = ir.IntType(64)
        kind = ir.FunctionType(ir.VoidType(), [i64.as_pointer(), i64, i64, i64])
        function = ir.Function(module, kind, "run")
        counter, first, last, step = function.args
        names = ("entry", "turn", "wait", "write", "done")
        entry, turn, wait, write, done = (function.append_basic_block(n) for n in names)
        ir.IRBuilder(entry).branch(turn)
        builder = ir.IRBuilder(turn)
        number = builder.phi(i64)
        builder.cbranch(builder.icmp_signed("<", number, last), wait, done)
        builder = ir.IRBuilder(wait)
        seen = builder.load_atomic(counter, "acquire", 8)
        builder.cbranch(builder.icmp_signed("==", seen, number), write, wait)
        builder = ir.IRBuilder(write)
        builder.store_atomic(builder.add(number, ir.Constant(i64, 1)), counter, "release", 8)
        number.add_incoming(first, entry)
        number.add_incoming(builder.add(number, step), write)
        builder.branch(turn)
        ir.IRBuilder(done).ret_void()
        return "run", ctypes.CFUNCTYPE(
            None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64
        )

    return native(build)


def handover_seconds(
    relay: Callable[..., Any], threads: int, rounds: int = HANDOVER_ROUNDS
) -> float:
    """Time one handover of a counter between spinning threads: the fastest of some repeats.

    A few tens of nanoseconds between cores that share a cache, several times as much between
    others. Virtual processors may be moved at any moment, and threads that meet in every training
    step notice it, though each computes as fast as before.

    Parameters
    ----------
    relay
        The compiled :func:`relay_loop`.
    """
    counter = np.zeros(1, np.int64)
    turns = rounds * threads
    last = (1 + HANDOVER_REPEATS) * turns  # the first repeat waits until all threads have started
    others = [
        threading.Thread(target=relay, args=(counter.ctypes.data, place, last, threads))
        for place in range(1, threads)
    ]
    for other in others:
        other.start()
    times = []
    for begin in range(0, last, turns):
        relay(counter.ctypes.data, begin, begin + turns, threads)
        times.append(time.perf_counter())
    for other in others:
        other.join()
    return float(np.diff(times).min()) / turns


def run_threads(count: int, call: Callable[..., object], *arguments: object) -> None:
    """Call a function on several threads at once, and wait for all of them."""
    threads = [threading.Thread(target=call, args=arguments) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class Peak(Adapter):
    """Fused multiply-adds on registers: nothing that reads memory can be faster."""

    packages = ("numba", "llvmlite")

    def __init__(self, threads: int, iterations: int = PEAK_ITERATIONS) -> None:
        super().__init__(threads)
        self._iterations = iterations
        self._loops: dict[FloatDtype, Callable[..., Any]] = {}
        self._relay: Callable[..., Any] | None = None

    def peak(self, task: Task) -> Callable[[], float]:
        """Return a call that does so many operations on each thread; an FMA counts as two."""
        if task.dtype not in self._loops:
            self._loops[task.dtype] = fma_loop(task.dtype)
        run, lanes = self._loops[task.dtype], VECTOR_BYTES // np.dtype(task.dtype).itemsize

        def call() -> float:
            run_threads(self.threads, run, self._iterations)
            return 2.0 * self.threads * self._iterations * ACCUMULATORS * lanes

        return call

    def handover(self) -> float:
        """See :func:`handover_seconds`."""
        if self._relay is None:
            self._relay = relay_loop()
        return handover_seconds(self._relay, self.threads)
