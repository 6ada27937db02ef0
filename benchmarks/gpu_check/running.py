"""Parts of a long measurement: each in a process of its own, for so many seconds, kept as it goes.

A process of its own, because after a kernel has gone astray a process's device is of no more use,
and because a kernel that never ends can only be ended so. What a part measures is written down
figure by figure: one that is stopped, or falls over, keeps what it had. Nothing here knows CUDA.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import stat
import subprocess
import tempfile
import threading
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, SupportsFloat, TypeAlias

from fusedmlp.errors import ExitCode, FusedMLPError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

Figures: TypeAlias = "dict[str, Any]"
"""What was measured, by name: numbers and text, ready for JSON."""

Outcome: TypeAlias = "dict[str, Any]"
"""What became of a part: its ``state``, ``seconds`` and ``figures``, and why it has no more."""

State: TypeAlias = Literal["running", "done", "failed", "stopped", "skipped", "not measured"]

LEAST_SECONDS = 5.0
"""With less than this left, a part is not begun."""

GRACE_SECONDS = 10.0
"""How long a killed process may take to be gone; a driver can hold it."""

LOG_LINES = 20


class NotHereError(Exception):
    """What a part measures is not on this machine, which is no failure."""


class RefusedError(Exception):
    """What was asked for exists, and is not for this case."""


class InterruptedPartError(KeyboardInterrupt):
    """The user, or a signal, has ended the run within a part, of which this is what there is."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__("interrupted")
        self.outcome = outcome


@dataclass(frozen=True)
class Part:
    """Something to measure: a generator of named figures, and the seconds that it may take."""

    seconds: float
    measure: Callable[[], Iterator[tuple[str, Figures]]]


def several(
    cases: Iterable[tuple[str, Callable[[], Figures]]],
) -> Iterator[tuple[str, Figures]]:
    """Measure cases one by one; one that fails is noted, the others follow, then the first's error.

    It is no failure where some cases are refused, but one where all are.
    """
    errors: list[Exception] = []
    refusals: list[Exception] = []
    n_measured = 0
    for name, measure in cases:
        try:
            figures = measure()
        except NotHereError as error:
            figures = {"not measured": text_of(error)}
        except Exception as error:  # noqa: BLE001 - one failure must not lose the rest
            refused = isinstance(error, RefusedError)
            (refusals if refused else errors).append(error)
            figures = {"refused" if refused else "failed": text_of(error)}
        else:
            n_measured += 1
        yield name, figures
    if errors:
        raise errors[0]
    if refusals and not n_measured:
        raise refusals[0]


def text_of(error: BaseException) -> str:
    """An error on one line, behind its class unless that says nothing."""
    text = " ".join(str(error).split())
    if isinstance(error, NotHereError | RefusedError | FusedMLPError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def measure_here(part: Part, write: Callable[[Outcome], None]) -> int:
    """Run a part in this process; hand on what there is after every figure; return an exit code."""
    figures: Figures = {}
    outcome: Outcome = {"state": "running", "figures": figures}
    code = ExitCode.OK
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            for name, found in part.measure():
                figures[name] = found
                write(outcome)
            outcome["state"] = "done"
        except NotHereError as error:
            outcome |= {"state": "not measured", "why": text_of(error)}
        except Exception as error:  # noqa: BLE001 - it is for whoever started this process
            code = error.exit_code if isinstance(error, FusedMLPError) else ExitCode.FAILURE
            trace = traceback.format_exc().splitlines()[-3 * LOG_LINES :]
            outcome |= {"state": "failed", "why": text_of(error), "traceback": trace}
    outcome["exit_code"] = int(code)
    if caught:
        outcome["warnings"] = sorted({text_of(each.message) for each in caught})
    write(outcome)
    return int(code)


def run_process(command: Sequence[str], seconds: float) -> Outcome:
    """Run a part in another process, which is stopped after so many seconds.

    Whatever it has started is ended with it. Its standard input is a pipe that nothing is written
    to: it ends where this process is no more (:func:`end_with_parent`).

    Parameters
    ----------
    command
        It is given one more argument: the file to keep its outcome in.
    """
    with tempfile.TemporaryDirectory() as folder:
        kept, log = Path(folder) / "outcome.json", Path(folder) / "log.txt"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [*command, str(kept)],
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                process.wait(seconds)
            except subprocess.TimeoutExpired:
                _end(process)
                why = f"took more than its {seconds:.0f} s"
                return _outcome_in(kept) | {"state": "stopped", "why": why}
            except KeyboardInterrupt:
                _end(process)
                outcome = _outcome_in(kept) | {"state": "stopped", "why": "interrupted"}
                raise InterruptedPartError(outcome) from None
            _end(process)  # what it has left behind
        outcome = _outcome_in(kept)
        if outcome["state"] == "running":
            code = process.returncode
            how = f"signal {-code}" if code < 0 else f"status {code}"
            lines = log.read_text("utf-8", "replace").splitlines()[-LOG_LINES:]
            outcome |= {"state": "failed", "why": f"its process ended with {how}", "log": lines}
        return outcome


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process with all that it has started, and do not wait for ever."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    if process.stdin is not None:
        process.stdin.close()


def end_with_parent() -> None:
    """End this process, and all it has started, once whoever started it is no more.

    A run that is killed outright ends no part, and one that never ends would keep the device. Does
    nothing where the standard input is no pipe: then somebody runs the part by hand.
    """
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return

    def watch() -> None:
        while os.read(0, 1):
            pass
        if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _outcome_in(path: Path) -> Outcome:
    """What a part has kept, or nothing yet."""
    try:
        outcome: Outcome = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {"state": "running", "figures": {}}
    return outcome


def write_json(path: Path, document: object) -> None:
    """Write a file so that at every moment there is a whole one, the old or the new."""
    text = json.dumps(_plain(document), indent=1, ensure_ascii=False) + "\n"
    beside = path.with_name(path.name + ".part")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def _plain(value: object) -> object:
    """The same as JSON has it: NumPy's numbers as Python's, those that are not finite as text."""
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, SupportsFloat):
        number = float(value)
        return number if math.isfinite(number) else str(number)
    return str(value)


def run_parts(
    parts: dict[str, Part],
    run: Callable[[str, float], Outcome],
    budget: float,
    note: Callable[[str, Outcome], None],
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Run parts in their order within a budget of seconds; note what became of each as it ends.

    Parameters
    ----------
    run
        Runs the part of a name for so many seconds at most.
    """
    end = clock() + budget
    for name, part in parts.items():
        began = clock()
        left = end - began
        if left < LEAST_SECONDS:
            why = f"{max(left, 0):.0f} s of the budget's {budget:.0f} were left"
            note(name, {"state": "skipped", "seconds": 0.0, "figures": {}, "why": why})
            continue
        try:
            outcome = run(name, min(part.seconds, left))
        except InterruptedPartError as error:
            note(name, error.outcome | {"seconds": round(clock() - began, 1)})
            raise
        except Exception as error:  # noqa: BLE001 - a part that cannot be started is one that fails
            outcome = {"state": "failed", "figures": {}, "why": text_of(error)}
        note(name, outcome | {"seconds": round(clock() - began, 1)})


def exit_code_of(outcomes: Iterable[Outcome]) -> int:
    """The exit code of a whole run: a bound that was breached before anything else that failed."""
    code = ExitCode.OK
    for outcome in outcomes:
        if outcome["state"] in ("done", "not measured"):
            continue
        if outcome.get("exit_code") == ExitCode.BREACHED:
            return int(ExitCode.BREACHED)
        code = ExitCode.FAILURE
    return int(code)
