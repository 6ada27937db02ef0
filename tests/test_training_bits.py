"""The trainer's weights, bit for bit, in strict mode, whose bits do not depend on the machine."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from fusedmlp import (
    MLP,
    SGD,
    Adam,
    Callback,
    EarlyStopping,
    Lion,
    Objective,
    Trainer,
    make_schedule,
)

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 7))
Y = np.argmax(X[:, :3], axis=1)

EXPECTED = {
    "plain": "f6dbdf4de264a9b0",
    "validation": "b23c8e1a0ebcace5",
    "early stopping": "a8e0f2998fe4b4a4",
    "early stopping, last weights": "f5c6c48dc049c793",
    "balanced": "40519e39295c9eb6",
    "class weights": "22792d610226e8ae",
    "penalty": "fdfceaada7644c1e",
    "sum": "d69ed6e3cd366932",
    "in order": "e7caf78c13213294",
    "some rows": "a771b2d7fb6bba19",
    "lion": "fb04fda9dd97788a",
    "step": "6ac76f3e1eb66ef4",
    "exponential": "17556374b7c203c6",
    "cosine": "5f38bdad2d751723",
    "inverse-scaling": "f8b516da6d41da82",
    "one-cycle": "a2753b4998e1f7fc",
    "adaptive": "09c6b9ada42ae742",
}


def settings(name):
    if name in ("exponential", "cosine", "inverse-scaling", "one-cycle"):
        return {"schedule": make_schedule(name)}
    return {
        "plain": {},
        "validation": {"validation": 0.2},
        "early stopping": {
            "validation": 0.3,
            "epochs": 40,
            "optimizer": SGD(8.0),
            "early_stopping": EarlyStopping(patience=2),
        },
        "early stopping, last weights": {
            "epochs": 40,
            "optimizer": SGD(4.0),
            "early_stopping": EarlyStopping("accuracy", patience=2, restore_best=False),
        },
        "balanced": {"class_weight": "balanced"},
        "class weights": {"class_weight": {0: 2.0, 2: 0.5}},
        "penalty": {"objective": Objective("mean", 0.01)},
        "sum": {"objective": Objective("sum"), "optimizer": SGD(0.01, 0.9)},
        "in order": {"shuffle": False},
        "lion": {"optimizer": Lion(0.001, weight_decay=0.1)},
        "some rows": {"rows_per_epoch": 50},
        "step": {"schedule": replace(make_schedule("step"), every=2)},
        "adaptive": {"schedule": replace(make_schedule("adaptive"), patience=1, tolerance=9.0)},
    }[name]


def digest(name, *, checkpoint=None, resume=None, callbacks=()):
    """Train with dropout and return a hash of the weights and the number of epochs."""
    given = {"optimizer": Adam(0.01), "epochs": 6, "batch_size": 32} | settings(name)
    mlp = MLP([7, 9, 3], "tanh", dropout=0.3, backend="numpy", seed=5, strict=True)
    Trainer(**given, checkpoint=checkpoint, callbacks=callbacks).fit(mlp, X, Y, resume=resume)
    found = hashlib.sha256(str(len(mlp.history)).encode())
    for array in mlp.parameters:
        found.update(array.tobytes())
    return found.hexdigest()[:16]


@pytest.mark.parametrize("name", EXPECTED)
def test_no_bit_has_changed(name):
    assert digest(name) == EXPECTED[name]


@pytest.mark.parametrize("name", EXPECTED)
def test_no_bit_has_changed_with_a_resume(name, tmp_path):
    class Stop(Callback):
        def on_epoch_end(self, run, record):
            if record.epoch == 2:
                run.stop("for the test")

    path = tmp_path / "checkpoint"
    digest(name, checkpoint=path, callbacks=(Stop(),))
    assert digest(name, resume=path) == EXPECTED[name]
