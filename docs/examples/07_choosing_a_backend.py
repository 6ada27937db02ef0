"""
Choosing a backend
==================

The same network runs on NumPy, Numba and CuPy. This page shows the ways to choose, what ``auto``
decides and why, and what happens where a backend cannot run.
"""

# %%
# What there is
# -------------
# ``availability`` tries every backend. Where one cannot run, it says why and how to repair it. The
# command ``fusedmlp backends`` prints the same.
import os

import fusedmlp

os.environ.pop("FUSEDMLP_BACKEND", None)  # this page begins without the variable

for name, found in fusedmlp.availability().items():
    print(f"{name}: {found.state}. {found.detail}")
    if found.remedy:
        print(f"    to repair it: {found.remedy}")

# %%
# Nothing chosen: auto
# --------------------
# Without a choice, ``auto`` takes the usable backend that suits the network best. The model tells
# its choice, where it comes from and the reason.
from fusedmlp import MLP


def show(mlp):
    """Print the choice of a model."""
    chosen, backend = mlp.select_backend()
    print(f"{chosen}, from {chosen.origin}: {chosen.reason}")
    print(f"    {backend.device()}")
    return chosen


chosen = show(MLP([64, 32, 10]))
assert chosen.origin == "auto"

# %%
# By argument, for one model:
chosen = show(MLP([64, 32, 10], backend="numpy"))
assert str(chosen) == "numpy"

# %%
# By variable, for everything in a process that does not choose by argument. In a shell this is
# ``export FUSEDMLP_BACKEND=numpy``; the commands read it too.
os.environ["FUSEDMLP_BACKEND"] = "numpy"
chosen = show(MLP([64, 32, 10]))
assert (chosen.name, chosen.origin) == ("numpy", "FUSEDMLP_BACKEND")
chosen = show(MLP([64, 32, 10], backend="numba"))  # the argument has precedence
assert str(chosen) == "numba"
del os.environ["FUSEDMLP_BACKEND"]

# %%
# By flag, for one command. The estimators of :mod:`fusedmlp.sklearn` take ``backend=`` like a
# model.
import shlex
import subprocess
import sys
import tempfile

folder = tempfile.mkdtemp()


def run(command):
    """Run a command in a folder, and print it with its exit code and the lines about backends."""
    program = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=False)
    print(f"$ {command}\nexit code {done.returncode}")
    for line in (done.stdout + done.stderr).splitlines():
        if line.startswith(("backend", "error")):
            print(line)
    return done.returncode


code = run("fusedmlp train --dataset moons --epochs 3 --backend numpy --output out")
assert code == 0

# %%
# Where it cannot run
# -------------------
# A backend that you name is used, or there is an error. It is never replaced by another one. The
# message has the cause and the remedy, and the exit code of a command is 3.
from fusedmlp.errors import BackendUnavailableError, UnknownNameError

if fusedmlp.availability()["cupy"].state == "usable":
    print("This machine has a GPU that CuPy can use.")
else:
    try:
        MLP([64, 32, 10], backend="cupy").select_backend()
    except BackendUnavailableError as error:
        print(error)
    assert run("fusedmlp train --dataset moons --backend cupy --output out2") == 3

# %%
# A misspelled name is found when the model is made.
try:
    MLP([64, 32, 10], backend="nunba")
except UnknownNameError as error:
    print(error)

# %%
# Threads
# -------
# ``threads=`` limits the CPU threads of a model, ``--threads`` those of a command; without them,
# ``OMP_NUM_THREADS`` does, which joblib sets in its worker processes. With Numba the number changes
# no bit of the result: :doc:`10_certifying_parity` shows it.
chosen = show(MLP([64, 32, 10], backend="numba", threads=1))

# %%
# Which one?
# ----------
# - **Numba**, which ``auto`` takes on a CPU: the fastest there. Its first use compiles it, once for
#   all processes.
# - **NumPy**: nothing to compile, and the code is the formulas. For reading, for tests and for
#   trying a change.
# - **CuPy**: for large networks, on an NVIDIA GPU.
#
# Saved models belong to no backend: train on one, predict on another.
