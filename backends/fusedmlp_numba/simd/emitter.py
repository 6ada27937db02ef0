"""Vector registers in generated code, as tiles use them: loads, stores, sums of products. LLVM.

Beside lanes.py, whose vectors are values of compiled code: these are pieces of one intrinsic, whose
sums stay in registers from the first term to the last. Nothing here loops, and nothing checks
bounds.

Hazard: ``fmuladd`` fuses only where the host has FMA, so results differ between hosts, never
between two runs or two splits of the work on one host.
"""

# ruff: noqa: ANN401 - see intrinsics.py

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils as untyped_cgutils

from fusedmlp_numba.compiler.host import CACHE_LINE, VECTOR_BYTES, VECTORS
from fusedmlp_numba.simd.control_flow import prefetch_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

cgutils: Any = untyped_cgutils


class VectorEmitter:
    """Loads, stores and arithmetic on vectors of one floating type, in one builder."""

    def __init__(self, context: Any, builder: Any, element: Any, lanes: int | None = None) -> None:
        self.builder = builder
        self.itemsize: int = element.bitwidth // 8
        self.lanes = lanes or VECTOR_BYTES // self.itemsize
        self.vector = ir.VectorType(context.get_value_type(element), self.lanes)
        self.zero = ir.Constant(self.vector, [0.0] * self.lanes)

    def load(self, base: Any, offset: Any) -> Any:
        """Read a vector at an offset, aligned as elements are."""
        return self.builder.load(self._pointer(base, offset), align=self.itemsize)

    def store(self, value: Any, base: Any, offset: Any) -> None:
        """Write a vector likewise."""
        self.builder.store(value, self._pointer(base, offset), align=self.itemsize)

    def splat(self, value: Any) -> Any:
        """Give a number to every lane."""
        lane = ir.IntType(32)
        first = self.builder.insert_element(ir.Constant(self.vector, ir.Undefined), value, lane(0))
        return shuffled(self.builder, first, first, [0] * self.lanes)

    def joined(self, parts: list[Any]) -> Any:
        """Make one vector of shorter ones, whose number is a power of 2, one behind the other."""
        while len(parts) > 1:
            lanes = range(2 * parts[0].type.count)
            pairs = zip(parts[::2], parts[1::2], strict=True)
            parts = [shuffled(self.builder, low, high, lanes) for low, high in pairs]
        return parts[0]

    def fma(self, x: Any, y: Any, z: Any) -> Any:
        """x·y + z, rounded once where the host can."""
        name = f"llvm.fmuladd.v{self.lanes}f{8 * self.itemsize}"
        kind = ir.FunctionType(self.vector, [self.vector] * 3)
        function = cgutils.get_or_insert_function(self.builder.module, kind, name)
        return self.builder.call(function, [x, y, z])

    def sums(self, count: int) -> list[Any]:
        """Make accumulators, zero at the start; LLVM keeps them in registers."""
        places = [cgutils.alloca_once(self.builder, self.vector) for _ in range(count)]
        for place in places:
            self.builder.store(self.zero, place)
        return places

    def add_product(self, sums: list[Any], factor: Any, vectors: list[Any]) -> None:
        """Add factor·vector to each sum."""
        many = self.splat(factor)
        for place, vector in zip(sums, vectors, strict=True):
            self.builder.store(self.fma(many, vector, self.builder.load(place)), place)

    def panel(self, offset: Any) -> list[Any]:
        """Offsets of a panel row's registers."""
        word = offset.type
        return [self.builder.add(offset, word(v * self.lanes)) for v in range(VECTORS)]

    def prefetch(self, base: Any, offsets: list[Any]) -> None:
        """Begin to load the panels' rows at these offsets, to be written."""
        for at in offsets:
            for line in range(0, VECTORS * VECTOR_BYTES, CACHE_LINE):
                offset = self.builder.add(at, at.type(line // self.itemsize))
                prefetch_line(self.builder, self.builder.gep(base, [offset]), write=True)

    def write_sums(
        self, sums: list[Any], C: Any, offsets: list[Any], alpha: Any, accumulate: Any
    ) -> None:
        """C = α·sums or C += α·sums, the panels' rows at their offsets; C is read only for +=."""
        scale = self.splat(alpha)
        places = [at for offset in offsets for at in self.panel(offset)]
        totals = [self.builder.load(place) for place in sums]
        with self.builder.if_else(accumulate) as (add, replace):
            with add:
                values = [
                    self.fma(scale, total, self.load(C, at))
                    for total, at in zip(totals, places, strict=True)
                ]
                for value, at in zip(values, places, strict=True):
                    self.store(value, C, at)
            with replace:
                for total, at in zip(totals, places, strict=True):
                    self.store(self.builder.fmul(scale, total), C, at)

    def _pointer(self, base: Any, offset: Any) -> Any:
        pointer = self.builder.gep(base, [offset])
        return self.builder.bitcast(pointer, self.vector.as_pointer())


def shuffled(builder: Any, x: Any, y: Any, lanes: Sequence[int]) -> Any:
    """Make a vector of lanes of x and, numbered on from there, of y."""
    kind = ir.VectorType(ir.IntType(32), len(lanes))
    return builder.shuffle_vector(x, y, ir.Constant(kind, list(lanes)))


def strided_offsets(builder: Any, start: Any, step: Any, numbers: Iterable[Any]) -> list[Any]:
    """Return start + n·step for each n."""
    return [builder.add(start, builder.mul(n, step)) for n in numbers]


def clamped_indices(builder: Any, count: Any, most: int) -> list[Any]:
    """0 to most − 1, but from ``count`` on count − 1 again."""
    last = builder.sub(count, count.type(1))
    numbers = [count.type(n) for n in range(most)]
    return [builder.select(builder.icmp_signed("<", n, last), n, last) for n in numbers]
