"""Runs a part of a long measurement in a process of its own, for a limited time.

After a faulty kernel a process cannot use its device any more, and a kernel that never ends can
only be stopped with its process. Figures arrive one by one, so that a part that is stopped or
crashes keeps those it has measured. Nothing here knows CUDA.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import traceback
import warnings

from fusedmlp.bench.worker import answer_stream
from fusedmlp.errors import ExitCode, FusedMLPError

GRACE_SECONDS = 10.0
"""Time for a killed process to disappear; a driver can hold it."""

LOG_LINES = 20


class NotHereError(Exception):
    """What a part measures is not on this machine, which is not a failure."""


def text_of(error):
    """Return an error on one line, after its class unless the message suffices."""
    text = " ".join(str(error).split())
    if isinstance(error, NotHereError | FusedMLPError) and text:
        return text
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def cases(named):
    """Measure (name, function) pairs; a failing case is noted, and its error raised at the end.

    Yields
    ------
    Name and figures of each case.
    """
    errors = []
    for name, measure in named:
        try:
            yield name, measure()
        except NotHereError as error:
            yield name, {"not measured": text_of(error)}
        except Exception as error:  # noqa: BLE001 - one failure must not lose the rest
            errors.append(error)
            yield name, {"failed": text_of(error)}
    if errors:
        raise errors[0]


def measure(part, write):
    """Run a part in this process; pass each figure, and then its state, to ``write``.

    Parameters
    ----------
    part
        A function without arguments that yields names and figures.
    """
    final = {"state": "done", "exit_code": int(ExitCode.OK)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        try:
            for name, figures in part():
                write({"name": name, "figures": figures})
        except NotHereError as error:
            final |= {"state": "not measured", "why": text_of(error)}
        except Exception as error:  # noqa: BLE001 - the parent process reports it
            known = isinstance(error, FusedMLPError)
            final |= {"state": "failed", "why": text_of(error)}
            final["exit_code"] = int(error.exit_code if known else ExitCode.FAILURE)
            final["traceback"] = traceback.format_exc().splitlines()[-3 * LOG_LINES :]
    if caught:
        final["warnings"] = sorted({text_of(each.message) for each in caught})
    write({"final": final})


def main(part):
    """Run a part in this process for :func:`run`."""
    _end_with_parent()
    out = answer_stream()

    def write(message):
        out.write(json.dumps(message, default=float) + "\n")
        out.flush()

    measure(part, write)


def run(command, seconds, outcome):
    """Run a part in another process, which is killed with all its children after some seconds.

    Parameters
    ----------
    command
        A process that calls :func:`main`.
    outcome
        Receives ``state``, ``figures`` and, unless all is done, ``why``, as they arrive.
    """
    outcome |= {"state": "stopped", "why": "interrupted", "figures": {}}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            start_new_session=True,
        )
        late = threading.Event()
        timer = threading.Timer(seconds, lambda: (late.set(), _kill(process)))
        timer.start()
        try:
            final = _read(process.stdout, outcome["figures"])
        finally:
            timer.cancel()
            _end(process)
        if final is not None:
            del outcome["why"]
            outcome |= final
        elif late.is_set():
            outcome["why"] = f"took more than its {seconds:.0f} s"
        else:
            code = process.returncode
            how = f"signal {-code}" if code < 0 else f"status {code}"
            log.seek(0)
            lines = log.read().decode("utf-8", "replace").splitlines()[-LOG_LINES:]
            outcome |= {"state": "failed", "why": f"its process ended with {how}", "log": lines}


def _read(stream, figures):
    """Collect figures until the final message; None where there is none."""
    for line in stream:
        with contextlib.suppress(json.JSONDecodeError):  # a last line may be cut off
            message = json.loads(line)
            if "final" in message:
                return message["final"]
            figures[message["name"]] = message["figures"]
    return None


def _kill(process):
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()


def _end(process):
    """End a process with all its children; wait for a limited time."""
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(0.2)  # where it has written its last message, let it return its status
    _kill(process)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE_SECONDS)
    process.stdin.close()
    process.stdout.close()


def _end_with_parent():
    """End this process and its children when the parent's end of stdin closes.

    A command that is killed ends no part, and a part that never ends would keep the device.
    """
    if not stat.S_ISFIFO(os.fstat(0).st_mode):
        return  # started by hand

    def watch():
        while os.read(0, 1):
            pass
        if hasattr(os, "killpg") and os.getpgrp() == os.getpid():
            os.killpg(0, signal.SIGKILL)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def command_for(script, name):
    """Return the command that runs a part of a script with the option ``--measure``."""
    return [sys.executable, str(script), "--measure", name]
