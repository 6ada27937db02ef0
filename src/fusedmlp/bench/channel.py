"""The driver's end of a worker: start it, ask it, see what it burns while idle, and end it."""

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
    from types import TracebackType

    from fusedmlp.bench.contestants import Contestant

TIMEOUT: Final = 300.0
"""Seconds for one answer; a compiler's first minutes are inside."""

THREAD_VARIABLES: Final = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "BLIS_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
    "NUMBA_NUM_THREADS",
)


class Greeting(TypedDict):
    """What a worker says first: versions, and what it computes on where it knows."""

    versions: dict[str, str]
    device: str
    is_gpu: bool


class WorkerError(Exception):
    """A worker failed, died or kept silent; the message ends with its last words."""


class UnsupportedTaskError(Exception):
    """The peer cannot do the task."""


class Channel:
    """A running worker. Use it as a context: it ends with the block.

    Parameters
    ----------
    contestant
        What to run.
    cpus
        The CPUs it may use; empty for no limit.
    """

    def __init__(self, contestant: Contestant, cpus: list[int]) -> None:
        self.contestant = contestant
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the worker
        wanted = request(contestant, cpus)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "fusedmlp.bench.worker", json.dumps(wanted)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env=environment(contestant),
        )

    def hello(self) -> Greeting:
        """Wait until the library is loaded; return what it says of itself."""
        return cast("Greeting", self._read())

    def ask(self, do: str, **words: object) -> dict[str, object]:
        """Give a command and wait for its answer.

        Raises
        ------
        WorkerError
            It failed, died, or took longer than ``TIMEOUT``.
        UnsupportedTaskError
            It cannot do that.
        """
        self.tell(do, **words)
        return self._read()

    def tell(self, do: str, **words: object) -> None:
        """Give a command."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **words}) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerError(f"its process has ended: {self._last_words()}") from error

    def cpu_seconds(self) -> float | None:
        """CPU time that the worker has used so far, all threads; None where one cannot ask.

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
        watchdog = threading.Timer(TIMEOUT, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watchdog.cancel()
        if not line:
            raise WorkerError(f"no answer: {self._last_words()}")
        answer = json.loads(line)
        if "unsupported" in answer:
            raise UnsupportedTaskError(answer["unsupported"])
        if "error" in answer:
            raise WorkerError(answer["error"])
        return cast("dict[str, object]", answer["ok"])

    def _last_words(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(1)
        self._errors.seek(0)
        lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
        return (
            f"exit status {self._process.returncode}; {lines[-1] if lines else 'it said nothing'}"
        )


def request(contestant: Contestant, cpus: list[int]) -> dict[str, object]:
    """Return what a contestant's process is told at its start, as plain data."""
    return {
        "target": contestant.target,
        "arguments": list(contestant.arguments),
        "threads": contestant.threads,
        "cpus": cpus,
    }


def environment(contestant: Contestant) -> dict[str, str]:
    """Build the worker's environment: thread counts for whoever reads them at import."""
    threads = dict.fromkeys(THREAD_VARIABLES, str(contestant.threads))
    return os.environ | threads | dict(contestant.environment)
