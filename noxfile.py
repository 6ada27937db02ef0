"""Every check of the project, each in an environment of its own: ``nox -s NAME``.

Words after ``--`` go to the tool underneath: ``nox -s tests -- -k parity -x``.
"""

from __future__ import annotations

import os
import shutil
from itertools import chain
from pathlib import Path

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2024.10"
nox.options.sessions = ["lint", "typecheck", "tests", "docs"]
nox.options.error_on_missing_interpreters = False
nox.options.default_venv_backend = "uv|virtualenv"
"""uv, where it is installed, installs in a fifth of pip's time."""

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
COVERAGE_FLOOR = 90

PARALLEL = ("-n", "auto", "--maxprocesses", "4", "--dist", "worksteal")
"""A process for each core. Each gets a contiguous part of the tests, because fixtures that compile
are shared by neighbours; one that has finished its part takes tests from the end of another's."""

ONE_BLAS_THREAD = {"OPENBLAS_NUM_THREADS": "1"}
"""For tests in several processes: OpenBLAS's threads wait actively and would compete for cores."""

TARGETS = {"generic": "", "haswell": "+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe,+popcnt"}
"""Processors, with their features, that the Numba engine is also compiled for: 16-byte vectors, and
AVX2 with FMA."""

TARGETS_TESTS = (
    "tests/numba_backend/test_numba_kernels.py",
    "tests/numba_backend/test_numba_products.py",
    "tests/numba_backend/test_numba_simd.py",
    "tests/test_golden.py::test_no_bit_has_changed[numba]",
    "tests/test_golden.py::test_no_bit_has_changed[numba-strict]",
)

TESTS_PROGRAMS = (ROOT / ".nox" / "tests" / "bin", ROOT / ".nox" / "tests" / "Scripts")
"""Where the environment of ``tests`` has its programs, on Windows the latter."""

VECTOR_BYTES = "from fusedmlp_numba.compiler import host; print(host.VECTOR_BYTES)"
"""Prints the width of the vectors that the engine is compiled for."""


CPU_EXTRAS = ("onnx", "report", "tensorboard")
"""Extras that need no GPU: `lowest` and `newest` try their versions too."""

VERSION_TESTS = (
    "tests/test_contract.py",
    "tests/test_files.py",
    "tests/test_onnx.py",
    "tests/test_cache_folders.py",
    "tests/test_bench.py::test_the_page_has_the_headline_and_the_rounds_that_were_done",
    "tests/test_data_frames.py",
    "tests/sklearn_estimators/test_sklearn_conventions.py",
    "tests/cli/test_cli_about.py",
    "tests/cli/test_cli_bad_input.py",
    "tests/cli/test_cli_evaluate_predict.py",
    "tests/cli/test_cli_options.py",
    "tests/cli/test_cli_train.py",
)
"""Short tests that call every library of CPU_EXTRAS and of the package."""


DOCS_TESTS = (
    "tests/docs/test_gif_animations.py",
    "tests/docs/test_mathml.py",
    "tests/docs/test_translations.py",
)
"""Tests of the documentation's own tools, which need its libraries."""


def install(session: nox.Session, *groups: str, package: bool = True) -> None:
    """Install dependency groups of pyproject.toml and, with ``package``, the package itself."""
    needed = [r for group in groups for r in nox.project.dependency_groups(PYPROJECT, group)]
    session.install(*(["-e", "."] if package else []), *needed)


@nox.session(reuse_venv=True)
def tests(session: nox.Session) -> None:
    """The whole suite; words after ``--`` go to pytest."""
    install(session, "test")
    session.run("pytest", *PARALLEL, "--durations=12", *session.posargs, env=ONE_BLAS_THREAD)


@nox.session
def coverage(session: nox.Session) -> None:
    """Run the suite with every line of Python counted, which takes half as long again."""
    install(session, "test")
    floor = f"--cov-fail-under={COVERAGE_FLOOR}"
    session.run("pytest", *PARALLEL, "--cov", floor, *session.posargs, env=ONE_BLAS_THREAD)


@nox.session(venv_backend="none")
def targets(session: nox.Session) -> None:
    """Run the Numba engine's tests, compiled for other processors than this one (x86-64 only).

    Uses the environment of ``tests``, which must exist. Two processes run side by side, one for
    each processor, so that nothing is compiled twice. A processor with this machine's vectors is
    skipped, because ``tests`` has run the same code; two processes then share the other's tests.

    The golden table stands for the engine and for strict mode: with its recorded bits they pass
    what this machine's engine passes. The rest are tests of the parts that depend on a processor.
    """
    python = shutil.which("python", path=os.pathsep.join(map(str, TESTS_PROGRAMS)))
    if python is None:
        session.error(f"no environment in {ROOT / '.nox' / 'tests'}: nox --install-only -s tests")
    vectors = python, "-c", VECTOR_BYTES
    host, processes = session.run(*vectors, silent=True), []
    for name, features in TARGETS.items():
        env = {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
        if session.run(*vectors, env=env, silent=True) == host:
            session.log(f"{name} has the vectors of this machine, for which the tests run anyway")
            continue
        settings = "//".join(f"env:{key}={value}" for key, value in env.items())
        processes.append(f"popen//{settings}")
    if len(processes) == 1:
        processes = ["--dist=worksteal", f"--tx=2*{processes[0]}"]
    else:
        processes = ["--dist=each", *(f"--tx={process}" for process in processes)]
    session.run(
        python,
        "-m",
        "pytest",
        "-q",
        *processes,
        "-m",
        "not slow and not gpu",
        *TARGETS_TESTS,
        *session.posargs,
        env=ONE_BLAS_THREAD,
    )


@nox.session(python=PYTHONS, name="tests-all")
def tests_all(session: nox.Session) -> None:
    """The suite on every supported Python that is installed."""
    install(session, "test")
    session.run("pytest", *session.posargs)


def install_versions(session: nox.Session, *options: str) -> None:
    """Install the package with its extras and the tests' libraries, none of them for a GPU."""
    test = nox.project.dependency_groups(PYPROJECT, "test")
    needed = [each for each in test if not each.startswith(("cupy", "nvidia"))]
    session.install("-e", f".[{','.join(CPU_EXTRAS)}]", *needed, *options)


def test_versions(session: nox.Session, *options: str) -> None:
    """Run the tests of what depends on the versions of libraries."""
    chosen = ("-m", "not slow and not gpu", *options, *VERSION_TESTS)
    session.run("pytest", *PARALLEL, *chosen, *session.posargs, env=ONE_BLAS_THREAD)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Test the lower bounds in pyproject.toml: the oldest Python, every dependency at its bound."""
    project = PYPROJECT["project"]
    extras = (project["optional-dependencies"][extra] for extra in CPU_EXTRAS)
    declared = map(Requirement, chain(project["dependencies"], *extras))
    bounds = (
        f"{each.name}=={limit.version}"
        for each in declared
        for limit in each.specifier
        if limit.operator == ">="
    )
    install_versions(session, *bounds)
    # Old releases use what newer releases of their own dependencies have deprecated.
    test_versions(session, "-W", "ignore::DeprecationWarning")


@nox.session(python=PYTHONS[-1])
def newest(session: nox.Session) -> None:
    """Test the newest releases of every dependency that pyproject.toml allows."""
    install_versions(session, "--upgrade")
    test_versions(session)


@nox.session
def lint(session: nox.Session) -> None:
    """Check formatting and lint. ``-- --fix`` mends what can be mended."""
    install(session, "lint", package=False)
    if "--fix" in session.posargs:
        session.run("ruff", "check", "--fix", ".")
        session.run("ruff", "format", ".")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def typecheck(session: nox.Session) -> None:
    """Mypy, strict, over the package and the backends."""
    install(session, "typecheck")
    session.run("mypy", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation from nothing into docs/_build, English and Spanish, and check it.

    Every script of the tutorial and of the examples runs once. Warnings are errors, as are dangling
    links, addresses that a page would load from another server, and texts of the tutorial that are
    not translated. ``-- --translate`` writes such texts into docs/locales instead.
    """
    install(session, "docs", "pytest")
    session.run("pytest", "-q", *DOCS_TESTS)
    source, temporary = ROOT / "docs", Path(session.create_tmp())
    output, templates = source / "_build", temporary / "templates"
    for folder in (output, source / "generated", temporary):
        shutil.rmtree(folder, ignore_errors=True)

    def build(target: Path, *options: str) -> None:
        trees = temporary / f"trees-{target.name}"
        words = ("sphinx-build", "-W", "--keep-going", "-q", "-d", str(trees), *options)
        session.run(*words, str(source), str(target))

    build(output)
    # The gallery's scripts are unchanged now, so that they do not run again.
    build(templates, "-b", "gettext", "-t", "spanish", "-D", "language=en")
    if "--translate" in session.posargs:
        session.run("python", "docs/translations.py", "refresh", str(templates))
        return
    session.run("python", "docs/translations.py", "check", str(templates))
    build(output / "es", "-t", "spanish")
    session.run("python", "docs/demo_pages.py", str(output / "demo"))
    session.run("python", "docs/check_pages.py", str(output))
    session.log(f"open {output / 'index.html'}")


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Measure every usable backend on MNIST. ``-- --quick`` only proves that everything runs.

    The figures go to runs/benchmarks.json. ``-- peers`` measures PyTorch, JAX and others beside the
    backends, ``-- peers --help`` lists its options.
    """
    if session.posargs[:1] == ["peers"]:
        install(session, "peers")
        path = {"PYTHONPATH": "benchmarks"}
        session.run("python", "-m", "peers", *session.posargs[1:], env=path)
        return
    install(session, "test")
    runs = ROOT / "runs"
    runs.mkdir(exist_ok=True)
    figures = f"--benchmark-json={runs / 'benchmarks.json'}"
    options = ("--benchmark-only", figures, "-p", "no:cov")
    session.run("pytest", "benchmarks", *options, *session.posargs)


@nox.session
def gpu(session: nox.Session) -> None:
    """Check and measure the CuPy backend on this machine's GPU; fails where there is none.

    ``CUDA=12 nox -s gpu`` installs for CUDA 12. ``-- peers`` installs PyTorch and JAX to measure
    them too; words behind that go to benchmarks/gpu.py, ``-- --help`` lists its options.
    """
    cuda = "12" if os.environ.get("CUDA") == "12" else "13"
    needed = nox.project.dependency_groups(PYPROJECT, "test")
    # The extra brings CuPy, and two builds of it cannot be installed together.
    needed = [each for each in needed if not each.startswith(("cupy", "nvidia"))]
    words = session.posargs
    peers = []
    if words[:1] == ["peers"]:
        words = words[1:]
        peers = ["torch>=2.6", f"jax[cuda{cuda}]>=0.5"]
    session.install("-e", f".[cuda{cuda}]", *needed, *peers)
    session.run("python", "benchmarks/gpu.py", *words)
