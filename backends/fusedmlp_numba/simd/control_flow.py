"""What generated code is made of beside arithmetic: loops, choices, prefetches. LLVM by hand.

The vectors that go through these loops are in vectors.py, runs.py and stored.py; nothing is loaded
or computed here but what a loop needs to go on.
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
    """Emit a block for each upper bound, ascending; run the first whose bound is not below."""
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
    """Emit a loop over n from start to stop, at least one, with n and n·stride for each stride.

    LLVM may neither unroll nor vectorise it: the body has enough independent work or little to do
    altogether, and copies of it take long to compile.
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
    done = builder.append_basic_block("done")
    jump = builder.cbranch(builder.icmp_signed("<", following[0], stop), body, done)
    jump.set_metadata("llvm.loop", _as_written(builder.module))
    builder.position_at_end(done)


@contextlib.contextmanager
def emit_prefetched_loop(
    builder: Any, array: Any, start: Any, stop: Any
) -> Iterator[tuple[Any, Any]]:
    """Emit a loop over n from start to stop, at least one, with n and ``array[n]``.

    The element is loaded one turn ahead, the last turn's own once more. Loads whose addresses
    follow from an element that is still on its way would wait, most likely in the place of others
    that need not: a Zen 1 takes 4.4 ns in place of 3.6 for a sparse entry times eight vectors.
    """
    before, one = builder.block, start.type(1)
    first = builder.load(builder.gep(array, [start]))
    with emit_loop(builder, start, stop, one) as (n,):
        element = builder.phi(first.type)
        element.add_incoming(first, before)
        following = builder.add(n, one)
        ahead = builder.select(builder.icmp_signed("<", following, stop), following, n)
        upcoming = _pinned(builder, builder.load(builder.gep(array, [ahead])))
        yield n, element
        element.add_incoming(upcoming, builder.block)


def _pinned(builder: Any, value: Any) -> Any:
    """Return the value, computed no later than here, by assembly of no instructions.

    LLVM would move a load to where its value is used, here back into the turn that needs it.
    """
    kind = ir.FunctionType(value.type, [value.type])
    return builder.asm(kind, "", "=r,0", [value], side_effect=True)


@contextlib.contextmanager
def emit_bit_loop(builder: Any, mask: Any) -> Iterator[Any]:
    """Emit a loop over the numbers of a mask's bits, ascending; at least one is set."""
    before, body = builder.block, builder.append_basic_block("bits")
    builder.branch(body)
    builder.position_at_end(body)
    left = builder.phi(mask.type)
    left.add_incoming(mask, before)
    yield builder.cttz(left, ir.IntType(1)(1))
    rest = builder.and_(left, builder.sub(left, mask.type(1)))
    left.add_incoming(rest, builder.block)
    done = builder.append_basic_block("done")
    jump = builder.cbranch(builder.icmp_unsigned("!=", rest, mask.type(0)), body, done)
    jump.set_metadata("llvm.loop", _as_written(builder.module))
    builder.position_at_end(done)


def _as_written(module: Any) -> Any:
    """Metadata of a loop, which LLVM tells from that of other loops by its pointing at itself."""
    rules = [
        module.add_metadata(["llvm.loop.unroll.disable"]),
        module.add_metadata(["llvm.loop.vectorize.enable", ir.IntType(1)(0)]),
    ]
    node = module.add_metadata([*rules, ir.IntType(64)(len(module.metadata))])
    node.operands = (node, *rules)
    return node


def prefetch_line(builder: Any, pointer: Any, *, write: bool) -> None:
    """Emit a prefetch of the cache line at a pointer."""
    byte, word = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [byte, word, word, word])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    builder.call(function, [builder.bitcast(pointer, byte), word(int(write)), word(3), word(1)])
