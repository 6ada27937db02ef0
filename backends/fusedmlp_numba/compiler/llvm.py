"""LLVM as this package enters it: under one lock, and not while the process forks.

A fork copies a lock as it is. Were another thread inside LLVM or Numba at that moment, the child
would wait for their locks for ever. A fork therefore waits until no thread is between
:data:`LOCK`'s two ends, which takes as long as a compilation where one is under way. What LLVM says
of the host is asked once, so that an engine whose code is loaded does not enter LLVM at all.
"""

from __future__ import annotations

import functools
import os
import threading
from typing import Any, Final, NamedTuple

from llvmlite import binding as untyped_binding

binding: Any = untyped_binding

LOCK: Final = threading.RLock()
"""Held while code is compiled or loaded, and while Numba is imported."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=LOCK.release
    )


class Host(NamedTuple):
    """The processor that this process runs on.

    Parameters
    ----------
    triple, cpu
        LLVM's names of the system and of the processor.
    features
        Whether the processor has each, by LLVM's names; empty where LLVM does not know it.
    """

    triple: str
    cpu: str
    features: dict[str, bool]


@functools.cache
def host() -> Host:
    """Ask LLVM about the host."""
    with LOCK:
        try:
            features = dict(binding.get_host_cpu_features())
        except RuntimeError:
            features = {}
        return Host(str(binding.get_process_triple()), str(binding.get_host_cpu_name()), features)


@functools.cache
def initialize() -> None:
    """Prepare LLVM for the host; raises where the installed LLVM does not suit it."""
    with LOCK:
        binding.initialize_native_target()
        binding.initialize_native_asmprinter()
        binding.Target.from_default_triple().create_target_machine(cpu=host().cpu)


def link(symbol: str, binary: bytes) -> tuple[object, int]:
    """Load an object file; return what owns its memory, and the address of a function in it."""
    with LOCK:
        initialize()
        machine = binding.Target.from_triple(host().triple).create_target_machine()
        owner = binding.create_mcjit_compiler(binding.parse_assembly(""), machine)
        owner.add_object_file(binding.ObjectFileRef.from_data(binary))
        owner.finalize_object()
        return owner, int(owner.get_function_address(symbol))
