"""
Stopping and resuming
=====================

A training is interrupted, and goes on later with the same bits as if nothing had happened. The page
checks every bit.
"""

# %%
# The uninterrupted training
# --------------------------
# Dropout, shuffling and Adam: all of them have a state that must survive the interruption.
import tempfile
from pathlib import Path

from fusedmlp import MLP, Trainer, load_dataset

data = load_dataset("digits")
folder = Path(tempfile.mkdtemp())


def model():
    """Return a new model; the seed makes it the same each time."""
    return MLP([64, 48, 10], hidden="relu", dropout=0.2, seed=7)


settings = {"optimizer": "adam", "schedule": "cosine", "epochs": 12, "validation": 0.1}
whole = model()
whole_history = Trainer(**settings).fit(whole, data.x_train, data.y_train)
print(f"{len(whole_history)} epochs, last validation loss {whole_history.last.validation_loss!r}")

# %%
# Ctrl-C in the middle
# --------------------
# The same training with a checkpoint file. After epoch 5 a callback raises KeyboardInterrupt, as
# Ctrl-C does. The model then has the weights of the last finished epoch, and the file has what the
# training needs to go on: weights, the optimizer's state, the number of steps and the history.


def ctrl_c(_run, record):
    """Interrupt the training after epoch 5."""
    if record.epoch == 5:
        raise KeyboardInterrupt


checkpoint = folder / "training.checkpoint"
interrupted = model()
trainer = Trainer(**settings, checkpoint=checkpoint, checkpoint_seconds=0.0, callbacks=ctrl_c)
try:
    trainer.fit(interrupted, data.x_train, data.y_train)
except KeyboardInterrupt:
    print(f"interrupted after epoch {len(interrupted.history)}")
print(f"{checkpoint.name}: {checkpoint.stat().st_size:,} bytes")

# %%
# Going on
# --------
# A new process would do this: the same model and settings, and ``resume``.
resumed = model()
history = Trainer(**settings).fit(resumed, data.x_train, data.y_train, resume=checkpoint)
print(f"{len(history)} epochs, last validation loss {history.last.validation_loss!r}")

# %%
# All weights, and all numbers of the history except times, are equal to the last bit.
for mine, expected in zip(resumed.parameters, whole.parameters, strict=True):
    assert mine.tobytes() == expected.tobytes()
for name in ("train_loss", "train_accuracy", "validation_loss", "validation_accuracy", "lr"):
    assert history.column(name) == whole_history.column(name)
print(f"{sum(array.size for array in resumed.parameters):,} equal weights")

# %%
# This works because random numbers need no state: the order of an epoch's rows, and the mask of a
# step's dropout, follow from the seed and the number of the epoch or step.
#
# What is checked
# ---------------
# A checkpoint knows the settings and has a digest of the data. Going on with others would be
# another training, so it is refused.
from fusedmlp.errors import InvalidInputError

try:
    Trainer(**{**settings, "optimizer": "nesterov"}).fit(
        model(), data.x_train, data.y_train, resume=checkpoint
    )
except InvalidInputError as error:
    message = str(error).replace(f"{folder}/", "")
    print(message)
assert "optimizer" in message

# %%
# With commands
# -------------
# ``fusedmlp train`` writes a checkpoint into its output folder, about once a second. ``--resume``
# reads the settings from there. Here a training of 4 epochs is extended to 12, and compared with
# one of 12. The learning rate is constant, for the reason at the end of this page.
import hashlib
import shlex
import subprocess
import sys


def run(command):
    """Run a command in the folder, and print it with its output."""
    program = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=True)
    print(f"$ {command}\n{done.stdout}")


run(
    "fusedmlp train --dataset digits --optimizer adam --schedule constant --epochs 4 --output short"
)
run("fusedmlp train --resume short --epochs 12")
run(
    "fusedmlp train --dataset digits --optimizer adam --schedule constant --epochs 12 --output long"
)
digests = {
    name: hashlib.sha256((folder / name / "model.safetensors").read_bytes()).hexdigest()
    for name in ("short", "long")
}
for name, digest in digests.items():
    print(f"{name:6} {digest}")
assert digests["short"] == digests["long"]

# %%
# Two things to know:
#
# - ``epochs`` counts all epochs, those before the interruption included.
# - The schedules ``cosine`` and ``one-cycle`` are planned for the number of epochs. Extending such
#   a training changes its plan, so that it differs from one that had the larger number from the
#   start.
