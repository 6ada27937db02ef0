"""LLVM control flow inside an intrinsic: loops, branches on a number, prefetches.

A loop loads only what it needs to continue. The vectors that are processed in these loops are in
emitter.py, memory.py and dtype_dispatch.py.
"""

# ruff: noqa: ANN401 - see intrinsics.py

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

from llvmlite import ir
from numba.core import cgutils as untyped_cgutils

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

cgutils: Any = untyped_cgutils


def switch(builder: Any, number: Any, cases: Mapping[int, Callable[[], None]]) -> None:
    """Emit a block for each upper bound, ascending; run the first whose bound is ≥ ``number``."""
    done = builder.append_basic_block("done")
    for bound, emit in cases.items():
        block, other = (builder.append_basic_block(f"{name}{bound}") for name in ("to", "above"))
        builder.cbranch(builder.icmp_signed("<=", number, number.type(bound)), block, other)
        builder.position_at_end(block)
        emit()
        builder.branch(done)
        builder.position_at_end(other)
    builder.branch(done)
    builder.position_at_end(done)


@contextlib.contextmanager
def emit_loop(
    builder: Any, start: Any, stop: Any, step: Any, strides: Sequence[Any] = ()
) -> Iterator[list[Any]]:
    """Emit a loop over n from start to stop, of at least one turn.

    Yields n, and the iteration count times each stride. LLVM may neither unroll nor vectorise the
    loop: its body has enough independent work already, and copies of it take long to compile.
    """
    word = start.type
    before, body = builder.block, builder.append_basic_block("loop")
    builder.branch(body)
    builder.position_at_end(body)
    steps = [step, *strides]
    variables = [builder.phi(word) for _ in steps]
    for variable, first in zip(variables, [start, *[word(0)] * len(strides)], strict=True):
        variable.add_incoming(first, before)
    yield variables
    following = [builder.add(n, by) for n, by in zip(variables, steps, strict=True)]
    for variable, value in zip(variables, following, strict=True):
        variable.add_incoming(value, builder.block)
    _repeat(builder, builder.icmp_signed("<", following[0], stop), body)


@contextlib.contextmanager
def emit_prefetched_loop(
    builder: Any, array: Any, start: Any, stop: Any
) -> Iterator[tuple[Any, Any]]:
    """Emit a loop over n from start to stop, of at least one turn, with n and ``array[n]``.

    The element is loaded one turn ahead; the last turn loads its own once more. Otherwise loads
    at addresses that depend on the element wait for it, and occupy the load queue meanwhile: a
    Zen 1 takes 4.4 ns in place of 3.6 for a sparse entry times eight vectors.
    """
    before, one = builder.block, start.type(1)
    first = builder.load(builder.gep(array, [start]))
    with emit_loop(builder, start, stop, one) as (n,):
        element = builder.phi(first.type)
        element.add_incoming(first, before)
        following = builder.add(n, one)
        ahead = builder.select(builder.icmp_signed("<", following, stop), following, n)
        upcoming = _pin(builder, builder.load(builder.gep(array, [ahead])))
        yield n, element
        element.add_incoming(upcoming, builder.block)


def _pin(builder: Any, value: Any) -> Any:
    """Return a value through empty assembly, so that it is computed no later than here.

    LLVM would move the load to the use of its value, which is in the next turn.
    """
    kind = ir.FunctionType(value.type, [value.type])
    return builder.asm(kind, "", "=r,0", [value], side_effect=True)


@contextlib.contextmanager
def emit_bit_loop(builder: Any, mask: Any) -> Iterator[Any]:
    """Emit a loop over the indices of a mask's set bits, ascending; at least one is set."""
    before, body = builder.block, builder.append_basic_block("bits")
    builder.branch(body)
    builder.position_at_end(body)
    left = builder.phi(mask.type)
    left.add_incoming(mask, before)
    yield builder.cttz(left, ir.IntType(1)(1))
    rest = builder.and_(left, builder.sub(left, mask.type(1)))
    left.add_incoming(rest, builder.block)
    _repeat(builder, builder.icmp_unsigned("!=", rest, mask.type(0)), body)


def _repeat(builder: Any, condition: Any, body: Any) -> None:
    """End a loop: branch back to ``body`` while the condition holds; no LLVM loop transforms."""
    done = builder.append_basic_block("done")
    jump = builder.cbranch(condition, body, done)
    module = builder.module
    rules = [
        module.add_metadata(["llvm.loop.unroll.disable"]),
        module.add_metadata(["llvm.loop.vectorize.enable", ir.IntType(1)(0)]),
    ]
    # LLVM identifies a loop by metadata that refers to itself.
    node = module.add_metadata([*rules, ir.IntType(64)(len(module.metadata))])
    node.operands = (node, *rules)
    jump.set_metadata("llvm.loop", node)
    builder.position_at_end(done)


def prefetch_line(builder: Any, pointer: Any, *, write: bool) -> None:
    """Emit a prefetch of the cache line at a pointer."""
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.bitcast(pointer, byte), word(int(write)), word(3), word(1)])
