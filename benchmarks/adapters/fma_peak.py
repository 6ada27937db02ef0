"""The machine's peak of fused multiply-adds on registers: nothing that reads memory can be faster.

It is no library, but what shares of the peak are related to. The loop is compiled by LLVM itself,
because the number of vector registers in use cannot be left to an optimiser. ctypes releases the
GIL, so that threads run side by side.
"""

from __future__ import annotations

import ctypes
import threading
import time

import numpy as np
from llvmlite import binding, ir

from fusedmlp.bench.adapter import Adapter, Runner

FEATURES = binding.get_host_cpu_features()
IS_WIDE = bool(FEATURES.get("avx512f"))
VECTOR_BYTES = 64 if IS_WIDE else 32 if FEATURES.get("avx") else 16
ACCUMULATORS = 12 if FEATURES.get("avx") and not IS_WIDE else 24
"""Independent vectors, to fill the pipelines: two FMAs per cycle of latency four need eight, and
CPUs with 32 registers may start four per cycle. AVX has 16 registers, of which two hold the
operands; AVX-512, NEON and others have 32."""

ITERATIONS = 20_000_000
"""Of the loop over all accumulators: tens of milliseconds; starting a thread takes some µs."""


def fma_loop(dtype):
    """Compile ``run(n)``: n rounds of a ← a·x + y on every accumulator, and their sum."""
    module = ir.Module()
    scalar = ir.FloatType() if dtype == "float32" else ir.DoubleType()
    lanes, count = VECTOR_BYTES // np.dtype(dtype).itemsize, ir.IntType(64)
    vector = ir.VectorType(scalar, lanes)
    function = ir.Function(module, ir.FunctionType(scalar, [count]), "run")
    entry, loop, done = (function.append_basic_block(name) for name in ("entry", "loop", "done"))
    ir.IRBuilder(entry).branch(loop)
    builder = ir.IRBuilder(loop)

    def constant(value):
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
    return _native(module, ctypes.c_float if dtype == "float32" else ctypes.c_double)


def _native(module, result):
    """Compile the module's function ``run`` of a 64-bit integer for this CPU."""
    binding.initialize_native_target()
    binding.initialize_native_asmprinter()
    target = binding.Target.from_triple(binding.get_process_triple())
    machine = target.create_target_machine(
        cpu=binding.get_host_cpu_name(), features=FEATURES.flatten(), opt=2
    )
    engine = binding.create_mcjit_compiler(binding.parse_assembly(str(module)), machine)
    engine.finalize_object()
    function = ctypes.CFUNCTYPE(result, ctypes.c_int64)(engine.get_function_address("run"))
    function.engine = engine  # which owns the machine code
    return function


class PeakRunner(Runner):
    """So many multiply-adds on each thread. There is no result to compare."""

    def __init__(self, task, threads, iterations):
        super().__init__(task)
        self._run, self._threads, self._iterations = fma_loop(task.dtype), threads, iterations

    def parity(self):
        return {}

    def call(self, number):
        threads = [
            threading.Thread(target=self._run, args=(self._iterations,))
            for _ in range(self._threads)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        lanes = VECTOR_BYTES // np.dtype(self.task.dtype).itemsize
        return {"flops": 2.0 * self._threads * self._iterations * ACCUMULATORS * lanes}

    def round(self, number):
        """Time one call, whatever the task's seconds."""
        began = time.perf_counter()
        found = self.call(number)
        return found | {"seconds": time.perf_counter() - began}


class FmaPeak(Adapter):
    packages = ("numba", "llvmlite")

    def __init__(self, threads, iterations=ITERATIONS):
        super().__init__(threads)
        self._iterations = iterations

    def runner(self, task, inputs):
        return PeakRunner(task, self.threads, self._iterations)
