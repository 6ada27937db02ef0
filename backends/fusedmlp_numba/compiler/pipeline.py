"""The part of Numba's compiler that is replaced: kernels stop at LLVM's intermediate code.

Numba optimises every function by itself, and once more inside each of its callers. Here a kernel
is translated once, and linked and optimised once, with the entry that calls it: a third of the
time, for the same code. Numba also compiles a kernel anew for each constant that it is called with,
and runs passes that find nothing in a kernel: see :func:`ignore_literals` and
:data:`SKIPPED_PASSES`.

This is the only file that uses ``numba.core``, which may change between releases; the imports name
all that is used. Python cannot call a kernel that is compiled so; tests compile its Python function
anew.
"""

# ruff: noqa: ANN401 - Numba's compiler has no static types.

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import numba
from llvmlite import binding as untyped_binding
from numba import types as untyped_types
from numba.core import codegen as untyped_codegen
from numba.core import compiler as untyped_compiler
from numba.core import compiler_machinery as untyped_machinery
from numba.core import typed_passes as untyped_passes

if TYPE_CHECKING:
    from collections.abc import Iterable

codegen: Any = untyped_codegen
compiler: Any = untyped_compiler
binding: Any = untyped_binding
dynfunc: Any = vars(numba)["_dynfunc"]
machinery: Any = untyped_machinery
passes: Any = untyped_passes
types: Any = untyped_types


SKIPPED_PASSES = frozenset(
    (
        "AnnotateTypes",  # for reports
        "DeadBranchPrune",  # LLVM does it too
        "DumpParforDiagnostics",
        "FindLiterallyCalls",
        "InlineClosureLikes",
        "InlineInlinables",
        "InlineOverloads",
        "LiteralPropagationSubPipelinePass",
        "LiteralUnroll",
        "MakeFunctionToJitFunction",
        "NoPythonSupportedFeatureValidation",
        "NopythonRewrites",  # of expressions with whole arrays
        "RewriteDynamicRaises",
        "RewriteSemanticConstants",
        "WithLifting",
    )
)
"""Numba's passes that find nothing in a kernel: no closures, no ``with``, no ``literal_unroll``, no
expressions with whole arrays, nothing raised. After each pass Numba analyses the function anew.
Names rather than classes, so that a version of Numba without one of them does no harm."""


class _KernelLibrary(codegen.JITCodeLibrary):
    """A kernel's own intermediate code, without that of the kernels it calls.

    Numba would link every callee into every caller, again on each level of calls. Here an entry
    links all kernels, each once.
    """

    def finalize(self) -> None:
        """Leave linking and optimisation to the entry."""
        self._raise_if_finalized()
        self._finalize_dynamic_globals()
        self._finalized = True

    def own_module(self) -> Any:
        """Return the module of this kernel alone, for linking."""
        return super()._get_module_for_linking()

    def _get_module_for_linking(self) -> Any:
        # For Numba's ordinary functions, such as those of tests, which link direct callees only.
        module = self.own_module().clone()
        for library in _reachable(self._linking_libraries):
            module.link_in(_module_of(library), preserve=True)
        return module


def _reachable(libraries: Iterable[Any]) -> list[Any]:
    """Libraries and all that they call, each once and callers before their callees."""
    found: dict[Any, None] = {}
    waiting = list(libraries)[::-1]
    while waiting:
        library = waiting.pop()
        if library in found:
            continue
        found[library] = None
        if isinstance(library, _KernelLibrary):
            waiting += list(library._linking_libraries)[::-1]  # noqa: SLF001 - as its base does
    return list(found)


def _module_of(library: Any) -> Any:
    if isinstance(library, _KernelLibrary):
        return library.own_module()
    return library._get_module_for_linking()  # noqa: SLF001 - as its base does


class EntryLibrary(codegen.JITCodeLibrary):
    """An entry with all kernels that it calls, under names that nothing else has.

    Numba would leave the kernels' names as they are, and visible. Their numbering begins anew in
    every process: two entries, compiled by two processes and loaded from disk by a third, would
    share kernels that are not the same. Hazard: LLVM's linker finds names even where they are
    internal, and an internal function may have lost arguments; hence the new names too.
    """

    def finalize(self) -> None:
        """Link all kernels, then optimise and compile the whole."""
        self._raise_if_finalized()
        for library in _reachable(self._linking_libraries):
            self._final_module.link_in(_module_of(library), preserve=True)
        self._linking_libraries: Any = []
        super().finalize()

    def _optimize_final_module(self) -> None:
        token = secrets.token_hex(8)
        for n, function in enumerate(self._final_module.functions):
            if not function.is_declaration and function.linkage == binding.Linkage.linkonce_odr:
                function.name = f"{self.name}.{token}.{n}"
                function.linkage = "internal"
        super()._optimize_final_module()

    def object_file(self) -> bytes:
        """Return the machine code."""
        binary: bytes = self._get_compiled_object()
        return binary


@machinery.register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(passes.NativeLowering):
    """Numba's last pass, without the translation to machine code."""

    _name = "kernel_lowering"

    def run_pass(self, state: Any) -> bool:
        state.library = _KernelLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        state.flags.no_compile = True
        passes.NativeLowering.run_pass(self, state)
        lowered = state["cr"]
        # Numba wants an object for each compiled function, to know it by and to call it from
        # Python; at address 0 there is nothing to call.
        entry_point = dynfunc.make_function(
            lowered.fndesc.lookup_module(), state.func_id.func_name, "not callable", 0, lowered.env,
            (state.library,),
        )  # fmt: skip
        state.targetctx.insert_user_function(entry_point, lowered.fndesc, [state.library])
        state["cr"] = lowered._replace(cfunc=entry_point)
        return True


class EntryCompiler(compiler.Compiler):
    """Numba's compiler for what Python calls; for ``njit(pipeline_class=...)``."""

    def compile_extra(self, function: Any) -> Any:
        """Compile into a library of our own."""
        self.state.library = EntryLibrary(self.state.targetctx.codegen(), function.__qualname__)
        self.state.library.enable_object_caching()
        return super().compile_extra(function)


class KernelCompiler(compiler.Compiler):
    """Numba's compiler with that last pass; for ``njit(pipeline_class=...)``."""

    def define_pipelines(self) -> list[Any]:
        """Return Numba's own pipelines, with the last pass exchanged, and without the needless."""
        pipelines: list[Any] = super().define_pipelines()
        for pipeline in pipelines:
            pipeline.passes = [
                (_Lowering if each is passes.NativeLowering else each, description)
                for each, description in pipeline.passes
                if each.__name__ not in SKIPPED_PASSES
            ]
            pipeline.finalize()
        return pipelines


def ignore_literals(dispatcher: Any) -> Any:
    """Have a kernel compiled for its arguments' types, whatever their values.

    Numba gives constants types of their own: for callers that pass ``True``, ``False`` and a
    variable, it would compile the same function three times.
    """
    of_types = dispatcher.get_call_template

    def get_call_template(args: Any, kws: Any) -> Any:
        return of_types(
            tuple(map(types.unliteral, args)),
            {name: types.unliteral(kind) for name, kind in kws.items()},
        )

    dispatcher.get_call_template = get_call_template
    return dispatcher
