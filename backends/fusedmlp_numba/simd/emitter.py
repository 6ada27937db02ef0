"""LLVM code for vector registers inside an intrinsic: splat, convert, FMA, tiles of sums.

The intrinsics of this package emit LLVM instructions through these functions. Values of type
``Vector`` that kernels see are in vectors.py, loops in control_flow.py. No bounds are checked.

Hazard: ``fmuladd`` fuses only where the target has FMA. Results differ between targets, and never
between two runs or two partitions of the work on one target.
"""

# ruff: noqa: ANN401 - see intrinsics.py

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba import types
from numba.core import cgutils as untyped_cgutils

from fusedmlp_numba.compiler.host import CACHE_LINE, VECTOR_BYTES, VECTORS
from fusedmlp_numba.simd.control_flow import prefetch_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

cgutils: Any = untyped_cgutils


def splat(builder: Any, value: Any, lanes: int) -> Any:
    """Vector with a scalar in every lane."""
    empty = ir.Constant(ir.VectorType(value.type, lanes), ir.Undefined)
    first = builder.insert_element(empty, value, ir.IntType(32)(0))
    return shuffle(builder, first, first, [0] * lanes)


def shuffle(builder: Any, x: Any, y: Any, lanes: Sequence[int]) -> Any:
    """Vector of the given lanes of x followed by y; lane numbers of y continue those of x."""
    kind = ir.VectorType(ir.IntType(32), len(lanes))
    return builder.shuffle_vector(x, y, ir.Constant(kind, list(lanes)))


def convert(builder: Any, value: Any, source: Any, target: Any, kind: Any) -> Any:
    """Convert a scalar or vector between Numba's number types; ``kind`` is the LLVM result type."""
    narrower = target.bitwidth < source.bitwidth
    if isinstance(source, types.Float):
        if target.bitwidth == source.bitwidth:
            return value
        return (builder.fptrunc if narrower else builder.fpext)(value, kind)
    if isinstance(target, types.Float):
        return (builder.sitofp if source.signed else builder.uitofp)(value, kind)
    if target.bitwidth == source.bitwidth:
        return value
    return (builder.trunc if narrower else builder.zext)(value, kind)


def vector_operation(builder: Any, name: str, operands: Sequence[Any]) -> Any:
    """Call LLVM's intrinsic ``llvm.<name>`` on floating vectors of one type."""
    kind = operands[0].type
    bits = 64 if isinstance(kind.element, ir.DoubleType) else 32
    function = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(kind, [kind] * len(operands)),
        f"llvm.{name}.v{kind.count}f{bits}",
    )
    return builder.call(function, operands)


def fma(builder: Any, x: Any, y: Any, z: Any) -> Any:
    """x·y + z for vectors, with one rounding where the target has FMA."""
    return vector_operation(builder, "fmuladd", (x, y, z))


def vector_pointer(builder: Any, pointer: Any, lanes: int) -> Any:
    """Cast a pointer to elements into a pointer to a vector of ``lanes`` elements."""
    return builder.bitcast(pointer, ir.VectorType(pointer.type.pointee, lanes).as_pointer())


class VectorEmitter:
    """Emits loads, stores and arithmetic on vectors of one floating type.

    Parameters
    ----------
    element
        Numba's type of a lane.
    lanes
        Lanes of a vector; those of one register of the target by default.
    """

    def __init__(self, context: Any, builder: Any, element: Any, lanes: int | None = None) -> None:
        self.builder = builder
        self.itemsize: int = element.bitwidth // 8
        self.lanes = lanes or VECTOR_BYTES // self.itemsize
        self.vector = ir.VectorType(context.get_value_type(element), self.lanes)
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    def load(self, base: Any, offset: Any) -> Any:
        """Load the vector at ``base[offset]``, aligned as an element."""
        return self.builder.load(self._pointer(base, offset), align=self.itemsize)

    def store(self, value: Any, base: Any, offset: Any) -> None:
        """Store a vector at ``base[offset]``, aligned as an element."""
        self.builder.store(value, self._pointer(base, offset), align=self.itemsize)

    def concatenate(self, parts: list[Any]) -> Any:
        """Join shorter vectors, a power of 2 of them, into one."""
        while len(parts) > 1:
            lanes = range(2 * parts[0].type.count)
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [shuffle(self.builder, low, high, lanes) for low, high in pairs]
        return parts[0]

    def accumulators(self, count: int) -> list[Any]:
        """Allocate vectors that start at zero; LLVM keeps them in registers."""
        sums = [cgutils.alloca_once(self.builder, self.vector) for _ in range(count)]
        for total in sums:
            self.builder.store(self.zero, total)
        return sums

    def add_product(self, sums: list[Any], factor: Any, vectors: list[Any]) -> None:
        """Add scalar ``factor`` times each vector to the accumulator at the same position."""
        factors = splat(self.builder, factor, self.lanes)
        for total, vector in zip(sums, vectors, strict=True):
            updated = fma(self.builder, factors, vector, self.builder.load(total))
            self.builder.store(updated, total)

    def panel(self, offset: Any) -> list[Any]:
        """Return offsets of the registers of a panel's row."""
        return [self.builder.add(offset, offset.type(v * self.lanes)) for v in range(VECTORS)]

    def prefetch(self, base: Any, offsets: list[Any]) -> None:
        """Prefetch panel rows at these offsets for writing."""
        for at in offsets:
            for line in range(0, VECTORS * VECTOR_BYTES, CACHE_LINE):
                offset = self.builder.add(at, at.type(line // self.itemsize))
                prefetch_line(self.builder, self.builder.gep(base, [offset]), write=True)

    def write_sums(
        self, sums: list[Any], C: Any, offsets: list[Any], alpha: Any, accumulate: Any
    ) -> None:
        """C = α·sums or C += α·sums for panel rows at these offsets; only += reads C."""
        scale = splat(self.builder, alpha, self.lanes)
        targets = [at for offset in offsets for at in self.panel(offset)]
        totals = [self.builder.load(total) for total in sums]
        with self.builder.if_else(accumulate) as (add, replace):
            with add:
                values = [
                    fma(self.builder, scale, total, self.load(C, at))
                    for total, at in zip(totals, targets, strict=True)
                ]
                for value, at in zip(values, targets, strict=True):
                    self.store(value, C, at)
            with replace:
                for total, at in zip(totals, targets, strict=True):
                    self.store(self.builder.fmul(scale, total), C, at)

    def _pointer(self, base: Any, offset: Any) -> Any:
        return vector_pointer(self.builder, self.builder.gep(base, [offset]), self.lanes)


def strided_offsets(builder: Any, start: Any, stride: Any, indices: Iterable[Any]) -> list[Any]:
    """Return offsets start + n·stride for each index n."""
    return [builder.add(start, builder.mul(n, stride)) for n in indices]


def clamped_indices(builder: Any, count: Any, limit: int) -> list[Any]:
    """Return indices 0 to limit − 1; each that is not below ``count`` becomes count − 1."""
    last = builder.sub(count, count.type(1))
    indices = [count.type(n) for n in range(limit)]
    return [builder.select(builder.icmp_signed("<", n, last), n, last) for n in indices]
