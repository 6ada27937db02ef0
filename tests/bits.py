"""All results of a training, for comparison bit by bit."""

from __future__ import annotations

import numpy as np

from problems import OPTIMIZERS, engine, order


def everything(
    backend, task, optimizer, objective, dtype, *, epochs=2, batch_size=8, sums_squares=True
):
    """Train for some epochs and return all results: {name: array}.

    The results are losses, outputs, parameters, optimizer slots and the gradients of a batch. NaN
    is an error, because its sign and payload are not specified.
    """
    options = {"batch_size": batch_size, "dtype": dtype, "sums_squares": sums_squares}
    built, data = engine(backend, task, optimizer, objective, **options)
    rows = order(len(task.y), epochs)
    rates = np.linspace(1.0, 0.3, -(-len(rows) // batch_size)) * OPTIMIZERS[optimizer].lr
    sums = built.train_epoch(data, rows, rates)
    state = built.state()
    batch, gradients = built.loss_and_gradients(data, rows[: max(1, batch_size - 1)])
    results = {"outputs": built.forward(task.x)}
    if sums_squares:
        results |= {"epoch squares": sums.squares, "batch squares": batch.squares}
    for name, part in (("epoch", sums), ("evaluation", built.evaluate(data)), ("batch", batch)):
        results |= {f"{name} {n}": getattr(part, n) for n in ("losses", "correct", "weights")}
    parts = {"parameters": state.parameters, "gradients": gradients}
    parts |= {f"slot {i}": slot for i, slot in enumerate(state.slots)}
    for name, part in parts.items():
        results |= {f"{name} {'Wb'[i % 2]}{i // 2 + 1}": array for i, array in enumerate(part)}
    assert all(np.isfinite(array).all() for array in results.values()), "the training diverged"
    return results


def assert_same_bits(results, expected):
    """Compare two results of :func:`everything`; the message names the arrays that differ."""
    assert results.keys() == expected.keys()
    different = [name for name in results if results[name].tobytes() != expected[name].tobytes()]
    assert not different, f"different bits in {', '.join(different)}"
