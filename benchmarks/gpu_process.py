"""Runs a part of the GPU check in a process of its own, for a limited time. CUDA is not known here.

After a faulty kernel a process cannot use its device any more, and a kernel that never ends can
only be stopped with its process. Figures arrive one by one, so that a part that is stopped or
crashes keeps those it has measured.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
import time
import traceback
import warnings

from fusedmlp.bench.worker import quiet_interrupts
from fusedmlp.errors import ExitCode, FusedMLPError

GRACE_SECONDS = 10.0
"""Time for a killed process to disappear; a driver can hold it."""

LOG_LINES = 60


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


def measure(part, send):
    """Run a part in this process; pass each name with its figures to ``send``; return its state.

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
                send((name, json.loads(json.dumps(figures, default=float))))
        except NotHereError as error:
            final |= {"state": "not measured", "why": text_of(error)}
        except Exception as error:  # noqa: BLE001 - the parent process reports it
            final |= {"state": "failed", "why": text_of(error)}
            final["exit_code"] = int(getattr(error, "exit_code", ExitCode.FAILURE))
            final["traceback"] = traceback.format_exc().splitlines()[-LOG_LINES:]
    if caught:
        final["warnings"] = sorted({text_of(each.message) for each in caught})
    return final


def run(part, seconds, outcome, clock=time.monotonic):
    """Run a part in another process, which is killed with all its children after some seconds.

    Parameters
    ----------
    outcome
        Receives ``state``, ``figures`` and, unless all is done, ``why``, as they arrive.
    """
    outcome |= {"state": "stopped", "why": "interrupted", "figures": {}}
    context = multiprocessing.get_context("spawn")
    connection, other = context.Pipe()
    process = context.Process(target=_serve, args=(other, part))
    with quiet_interrupts():
        process.start()
    other.close()
    end = clock() + seconds
    try:
        while connection.poll(max(end - clock(), 0.0)):
            name, found = connection.recv()
            if name is None:
                del outcome["why"]
                outcome |= found
                return
            outcome["figures"][name] = found
        outcome["why"] = f"took more than its {seconds:.0f} s"
    except EOFError:
        process.join(GRACE_SECONDS)
        code = process.exitcode
        how = f"signal {-code}" if code < 0 else f"status {code}"
        outcome |= {"state": "failed", "why": f"its process ended with {how}"}
    finally:
        _kill(process)
        connection.close()


def _serve(connection, part):
    """Run a part in the process of its own."""
    if hasattr(os, "setsid"):
        os.setsid()  # so that it can be killed with its children
    os.dup2(2, 1)  # what libraries print is no result
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection.send((None, measure(part, connection.send)))


def _end_with_parent():
    """End this process with its parent: a part that never ends would keep the device."""
    multiprocessing.parent_process().join()
    if hasattr(os, "killpg"):
        os.killpg(0, signal.SIGKILL)
    os._exit(1)


def _kill(process):
    """Kill a process with all its children; wait for a limited time."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.join(GRACE_SECONDS)
