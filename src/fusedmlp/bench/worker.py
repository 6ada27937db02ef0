"""One benchmark subject in a process of its own: :class:`Worker` starts it, :class:`Session` is it.

Libraries count the threads that they may use when they are imported, and one that crashes ends its
process. Both are reasons to give each subject a new Python process.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import multiprocessing
import os
import signal
import sys
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from fusedmlp.bench import machine
from fusedmlp.bench.adapter import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from multiprocessing.connection import Connection
    from types import TracebackType

    from fusedmlp.bench.adapter import Adapter, Figures, Runner
    from fusedmlp.bench.subjects import Subject
    from fusedmlp.bench.tasks import Inputs, Task

TIMEOUT: Final = 300.0
"""Seconds for one answer, which may include minutes of compiling."""

IDLE_SECONDS: Final = 0.01
IDLE_SHARE: Final = 0.05
"""Workers count as idle when together they use less than this share of a CPU for that long."""

SETTLE_SECONDS: Final = 1.0
"""Longest wait for idle workers: thread pools may spin for some 0.2 s after their last task."""

THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)


class Greeting(NamedTuple):
    """First answer of a worker: versions of the adapter's libraries, and its device."""

    versions: dict[str, str]
    device: str
    is_gpu: bool


class WorkerError(Exception):
    """A worker failed, died or did not answer."""


class Session:
    """The measured library in the worker's process; :meth:`Worker.ask` calls the methods."""

    def __init__(self, adapter: Adapter) -> None:
        self._adapter = adapter
        self._runner: Runner | None = None

    def greeting(self) -> Greeting:
        """Describe the library."""
        versions = {}
        for package in ("numpy", *self._adapter.packages):
            with contextlib.suppress(PackageNotFoundError):
                versions[package] = version(package)
        return Greeting(versions, *self._adapter.device())

    def check(self, task: Task, inputs: Inputs) -> Figures:
        """Build a task and return its parity figures."""
        self._runner = self._adapter.runner(task, inputs)
        return self._runner.parity()

    def prepare(self, task: Task, inputs: Inputs) -> tuple[Figures, float]:
        """Check, and do one call to warm up; return the seconds of both too."""
        began = time.perf_counter()
        found = self.check(task, inputs)
        assert self._runner is not None
        self._runner.call(0)
        return found, time.perf_counter() - began

    def round(self, number: int) -> Figures:
        """Time a round of the prepared task; note the share of it without a CPU."""
        assert self._runner is not None, "a round before a task"
        began, before = time.perf_counter(), waited_seconds()
        found = self._runner.round(number)
        after, seconds = waited_seconds(), time.perf_counter() - began
        if before is not None and after is not None:
            found["waited"] = (after - before) / (seconds * self._adapter.threads)
        return found

    def release(self) -> None:
        """Forget the task and its data."""
        self._runner = None
        gc.collect()


class Worker:
    """The parent's end of a running worker. Use it as a context: it ends with the block.

    Parameters
    ----------
    timeout
        Seconds after which a worker that does not answer is killed.
    """

    def __init__(self, subject: Subject, timeout: float = TIMEOUT) -> None:
        self.subject, self.timeout = subject, timeout
        context = multiprocessing.get_context("spawn")
        self._connection, others = context.Pipe()
        wanted = others, subject.target, subject.threads, subject.arguments
        self._process = context.Process(target=_serve, args=wanted)
        with inherited(subject):
            self._process.start()
        others.close()  # so that the end of the process ends the connection

    def greeting(self) -> Greeting:
        """Wait until the library is loaded; return the worker's first answer."""
        found: Greeting = self._read()
        return found

    def ask(self, method: str, *arguments: object) -> Any:  # noqa: ANN401 - as the method returns
        """Call a method of :class:`Session` and wait for what it returns.

        Raises
        ------
        WorkerError
            It failed, died, or exceeded the timeout.
        UnsupportedError
            The subject cannot do that.
        """
        try:
            self._connection.send((method, arguments))
        except OSError as error:
            raise WorkerError(self._end()) from error
        return self._read()

    def cpu_seconds(self) -> float | None:
        """CPU time that the worker has used so far, all threads; None where the system cannot tell.

        On Linux a process's CPU clock has the number (~pid << 3) | 2 (clock_getcpuclockid(3)).
        """
        if not sys.platform.startswith("linux") or self._process.pid is None:
            return None
        try:
            return time.clock_gettime((~self._process.pid << 3) | 2)
        except OSError:
            return None

    def close(self) -> None:
        """End the worker: by the end of its connection, or else by force."""
        self._connection.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            self._process.kill()
        self.close()

    def _read(self) -> Any:  # noqa: ANN401 - see ask
        if not self._connection.poll(self.timeout):
            self._process.kill()
            raise WorkerError(f"no answer after {self.timeout:g} s")
        try:
            state, value = self._connection.recv()
        except (EOFError, OSError) as error:
            raise WorkerError(self._end()) from error
        if state == "unsupported":
            raise UnsupportedError(value)
        if state == "failed":
            raise WorkerError(value)
        return value

    def _end(self) -> str:
        self._process.join(1)
        return f"its process ended with exit status {self._process.exitcode}"


@contextlib.contextmanager
def inherited(subject: Subject) -> Iterator[None]:
    """Give this process what a subject's process must have from its first moment.

    These are its variables and its CPUs; they are taken back at the end of the block.
    """
    variables = dict.fromkeys(THREAD_VARIABLES, str(subject.threads)) | dict(subject.environment)
    before = {name: os.environ.get(name) for name in variables}
    cpus = machine.usable_cpus()
    os.environ.update(variables)
    try:
        if cpus:
            os.sched_setaffinity(0, cpus[: subject.threads])
        with quiet_interrupts():
            yield
    finally:
        if cpus:
            os.sched_setaffinity(0, cpus)
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def quiet_interrupts() -> Iterator[None]:
    """Let processes that are started here ignore Ctrl-C, which a terminal sends to all at once."""
    handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)


def cpu_seconds(workers: Sequence[Worker]) -> float | None:
    """CPU seconds that these workers have used so far; None where the system cannot tell."""
    spent = [seconds for each in workers if (seconds := each.cpu_seconds()) is not None]
    return sum(spent) if spent else None


def waited_seconds() -> float | None:
    """Seconds that threads of this process waited for a CPU so far; None where Linux does not tell.

    The second number of ``schedstat`` is the time in which a thread could run and did not.
    """
    try:
        texts = [each.read_text("ascii") for each in Path("/proc/self/task").glob("*/schedstat")]
        return sum(int(text.split()[1]) for text in texts) / 1e9 if texts else None
    except (OSError, ValueError, IndexError):
        return None


def settle(workers: Sequence[Worker]) -> None:
    """Wait until no worker computes or spins any more."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        before = cpu_seconds(workers)
        time.sleep(IDLE_SECONDS)
        after = cpu_seconds(workers)
        if before is None or after is None:
            time.sleep(0.25)
            return
        if after - before < IDLE_SHARE * IDLE_SECONDS:
            return


def load(target: str, threads: int, arguments: Sequence[str]) -> Adapter:
    """Import ``module:Class`` and build it."""
    module, _, name = target.partition(":")
    adapter: Adapter = getattr(importlib.import_module(module), name)(threads, *arguments)
    return adapter


def _serve(connection: Connection, target: str, threads: int, arguments: Sequence[str]) -> None:
    """Load the adapter, then answer until the parent closes its end, or ends."""
    os.dup2(2, 1)  # what libraries print is no output of the command
    warnings.simplefilter("ignore")  # addressed to users of the measured libraries

    def answer(call: Any, *values: object) -> None:  # noqa: ANN401 - any function
        try:
            found = call(*values)
        except UnsupportedError as reason:
            connection.send(("unsupported", str(reason)))
        except Exception as error:  # noqa: BLE001 - whatever a library raises is an answer
            connection.send(("failed", f"{type(error).__name__}: {error}"))
        else:
            connection.send(("done", found))

    session: Session | None = None

    def begin() -> Greeting:
        nonlocal session
        session = Session(load(target, threads, arguments))
        return session.greeting()

    answer(begin)
    with contextlib.suppress(EOFError, OSError):
        while session is not None:
            method, values = connection.recv()
            answer(getattr(session, method), *values)
