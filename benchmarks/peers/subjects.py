"""The benchmark subjects: fusedmlp in several forms, and the other libraries."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

from fusedmlp.bench.subjects import NUMBA, PEAK, PEAK_SUBJECT, Subject, backend_subject, is_own
from fusedmlp.errors import UnknownNameError
from workloads import SMALL

BENCHMARKS = Path(__file__).resolve().parents[1]
"""Where workers find the package ``adapters``."""

SLOW_TO_COMPILE = ("tensorflow-xla", "torch-compile")
"""In a quick run, these take part in one task only."""


def library(name, target, module, *arguments):
    """Return the subject of another library, on the CPU and without its log messages."""
    path = os.pathsep.join(filter(None, (str(BENCHMARKS), os.environ.get("PYTHONPATH"))))
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2", "JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
    variables = quiet | {"PYTHONPATH": path}
    return Subject(name, f"adapters.{target}", module, arguments=arguments, environment=variables)


def without_dropout(task):
    return replace(task, name=f"{task.name}-without", dropout=0.0)


def with_sgd(task):
    name = f"{task.name}-by-{SMALL.optimizer}"
    return replace(task, name=name, optimizer=SMALL.optimizer, lr=SMALL.lr)


def numba_variant(suffix, task, variant):
    """The Numba backend on a variant of a task, measured in the same rounds as the task."""
    return replace(
        backend_subject("numba"), name=f"{NUMBA}-{suffix}", only=(task,), variant=variant
    )


SUBJECTS = (
    PEAK_SUBJECT,
    backend_subject("numba"),
    numba_variant("no-dropout", "small-dropout", without_dropout),
    numba_variant("sgd", "small-adam", with_sgd),
    backend_subject("numpy"),
    library("jax", "jax_scan:JaxScan", "jax"),
    library("tensorflow", "tensorflow_graph:TensorFlowGraph", "tensorflow"),
    library("tensorflow-xla", "tensorflow_graph:TensorFlowGraph", "tensorflow", "xla"),
    library("torch", "torch_steps:TorchSteps", "torch"),
    library("torch-compile", "torch_steps:TorchSteps", "torch", "compile"),
    library("sklearn", "sklearn_mlp:SklearnMLP", "sklearn"),
    library("thinc", "thinc_chain:ThincChain", "thinc"),
    library("onnxruntime", "onnx_session:OnnxSession", "onnxruntime"),
    library("lean-numpy", "lean_numpy:LeanNumpy", "numpy"),
    library("workshop", "workshop_numpy:WorkshopNumpy", "numpy"),
)
NAMES = tuple(subject.name for subject in SUBJECTS)


def chosen(names, threads, *, quick=False):
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
        replace(
            subject,
            threads=count,
            only=("small",) if quick and subject.name in SLOW_TO_COMPILE else subject.only,
        )
        for subject in SUBJECTS
        if subject.name in wanted
        for count in threads
    ]


def is_library(name):
    """Whether a subject is neither a backend of fusedmlp nor the peak."""
    return name != PEAK and not is_own(name)
