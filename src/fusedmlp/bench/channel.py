"""The parent's end of a worker process: start it, send commands, read its CPU time, end it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Final, TypedDict, cast

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

    from fusedmlp.bench.subjects import Subject

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


class Greeting(TypedDict):
    """First answer of a worker: versions, and its device where known."""

    versions: dict[str, str]
    device: str
    is_gpu: bool


class WorkerError(Exception):
    """A worker failed, died or did not answer; the message ends with its last line of output."""


class UnsupportedTaskError(Exception):
    """The subject cannot do the task."""


class Channel:
    """A running worker. Use it as a context: it ends with the block.

    Parameters
    ----------
    cpus
        The CPUs it may use; empty for no limit.
    timeout
        Seconds after which a worker that does not answer is killed.
    """

    def __init__(self, subject: Subject, cpus: list[int], timeout: float = TIMEOUT) -> None:
        self.subject, self._timeout = subject, timeout
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fusedmlp.bench.worker", json.dumps(request(subject, cpus))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=environment(subject),
        )

    def greeting(self) -> Greeting:
        """Wait until the library is loaded; return the worker's first answer."""
        return cast("Greeting", self._read())

    def ask(self, do: str, **words: object) -> dict[str, object]:
        """Send a command and wait for its answer.

        Raises
        ------
        WorkerError
            It failed, died, or exceeded the timeout.
        UnsupportedTaskError
            The subject cannot do that.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **words}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerError(f"its process has ended: {self._last_line()}") from error
        return self._read()

    def cpu_seconds(self) -> float | None:
        """CPU time that the worker has used so far, all threads; None where the system cannot tell.

        On Linux a process's CPU clock has the number (~pid << 3) | 2 (clock_getcpuclockid(3)).
        """
        if not sys.platform.startswith("linux"):
            return None
        try:
            return time.clock_gettime((~self._process.pid << 3) | 2)
        except OSError:
            return None

    def close(self) -> None:
        """End the worker: by the end of its input, or else by force."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def __enter__(self) -> Channel:
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

    def _read(self) -> dict[str, object]:
        assert self._process.stdout is not None
        watchdog = threading.Timer(self._timeout, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise WorkerError(f"no answer: {self._last_line()}")
        answer = json.loads(line)
        if "unsupported" in answer:
            raise UnsupportedTaskError(answer["unsupported"])
        if "error" in answer:
            raise WorkerError(answer["error"])
        return cast("dict[str, object]", answer["ok"])

    def _last_line(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return f"exit status {self._process.returncode}; {lines[-1] if lines else 'no output'}"


def request(subject: Subject, cpus: list[int]) -> dict[str, object]:
    """Return the first argument of a subject's process."""
    return {
        "target": subject.target,
        "arguments": list(subject.arguments),
        "threads": subject.threads,
        "cpus": cpus,
    }


def environment(subject: Subject) -> dict[str, str]:
    """Build a worker's environment; thread counts are read when libraries are imported."""
    threads = dict.fromkeys(THREAD_VARIABLES, str(subject.threads))
    return os.environ | threads | dict(subject.environment)


def cpu_seconds(channels: Iterable[Channel]) -> float | None:
    """CPU seconds that these workers have used so far; None where the system cannot tell."""
    spent = [seconds for each in channels if (seconds := each.cpu_seconds()) is not None]
    return sum(spent) if spent else None


def settle(channels: Sequence[Channel]) -> None:
    """Wait until no worker computes or spins any more."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < deadline:
        before = cpu_seconds(channels)
        time.sleep(IDLE_SECONDS)
        after = cpu_seconds(channels)
        if before is None or after is None:
            time.sleep(0.25)
            return
        if after - before < IDLE_SHARE * IDLE_SECONDS:
            return
