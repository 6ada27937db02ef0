"""The benchmark subjects: fusedmlp in several forms, and the other libraries."""

from __future__ import annotations

from dataclasses import replace

from fusedmlp.bench.subjects import NUMBA, PEAK, Subject, backend_subject, is_own
from fusedmlp.errors import UnknownNameError
from workloads import SMALL


def library(name, target, module, *arguments):
    """Return the subject of another library, on the CPU and without its log messages."""
    quiet = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    return Subject(name, f"adapters.{target}", module, arguments=arguments, environment=quiet)


def numba_variant(suffix, task, variant):
    """The Numba backend on a variant of a task, measured in the same rounds as the task."""
    numba = backend_subject("numba")
    return replace(numba, name=f"{NUMBA}-{suffix}", variant=(task, variant))


def without_dropout(task):
    return replace(task, name=f"{task.name}-without", dropout=0.0)


def with_sgd(task):
    name = f"{task.name}-by-{SMALL.optimizer}"
    return replace(task, name=name, optimizer=SMALL.optimizer, lr=SMALL.lr)


SUBJECTS = (
    Subject(PEAK, "adapters.fma_peak:FmaPeak", "llvmlite"),
    backend_subject("numba"),
    numba_variant("no-dropout", "small-dropout", without_dropout),
    numba_variant("sgd", "small-adam", with_sgd),
    backend_subject("numpy"),
    library("jax", "jax_scan:JaxScan", "jax"),
    library("torch", "torch_steps:TorchSteps", "torch"),
    library("torch-compile", "torch_steps:TorchSteps", "torch", "compile"),
    library("sklearn", "sklearn_mlp:SklearnMLP", "sklearn"),
    library("onnxruntime", "onnx_session:OnnxSession", "onnxruntime"),
    library("workshop", "workshop_numpy:WorkshopNumpy", "numpy"),
)
NAMES = tuple(subject.name for subject in SUBJECTS)


def chosen(names, threads):
    """Return every named subject on every number of threads.

    Parameters
    ----------
    names
        Of :data:`NAMES`; empty for all. The peak and the Numba backend always take part.
    """
    for name in names:
        if name not in NAMES:
            raise UnknownNameError.of("peer", name, NAMES)
    wanted = {*names, PEAK, NUMBA} if names else {*NAMES}
    return [
        replace(subject, threads=count)
        for subject in SUBJECTS
        if subject.name in wanted
        for count in threads
    ]


def is_library(name):
    """Whether a subject is neither a backend of fusedmlp nor the peak."""
    return name != PEAK and not is_own(name)
