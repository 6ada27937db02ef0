"""Dropout masks of an engine, read through the contract alone.

The contract says which unit of which row is zero at which step, but no engine returns its masks.
They follow from gradients: of a batch in which only row i has weight, the gradient of the weights
that leave unit j is a_ij times a factor, and so exactly zero where the unit is dropped. The units
are sigmoid, whose values are never zero without dropout.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from fusedmlp.backend import State
from fusedmlp.parity.problems import engine, problem

if TYPE_CHECKING:
    import numpy.typing as npt

    from fusedmlp.backend import Backend
    from fusedmlp.types import FloatDtype

MASKED_SIZES: Final = (3, 50, 37, 2)
MASKED_ROWS: Final = 6
MASKED_STEPS: Final = (0, 1, 2, 2**32 - 1)
"""Steps before the inspected one: the first three, and the last before the counter wraps."""

MASK_SEED: Final = 2**40 + 17
"""A seed that needs both halves of the generator's key."""


def dropout_masks(backend: Backend, dtype: FloatDtype) -> list[list[npt.NDArray[np.bool_]]]:
    """Return the masks of each of :data:`MASKED_STEPS` and each hidden layer: (B, H), True: kept.

    A unit counts as kept when any gradient that depends on it is not zero. One is missed only if
    the whole next layer is dropped, whose probability for 37 units is 2⁻³⁷.
    """
    task = problem(MASKED_SIZES, dropout=0.5, rows=MASKED_ROWS)
    built, _ = engine(backend, task, dtype=dtype, batch_size=MASKED_ROWS, seed=MASK_SEED)
    parameters = built.parameters()
    rows = np.arange(MASKED_ROWS)
    alone = [built.stage(task.x, task.y, (rows == i).astype(np.float64)) for i in rows]
    found = []
    for step in MASKED_STEPS:
        built.load(State(parameters, (), step))
        kept = []
        for data in alone:
            _, gradients = built.loss_and_gradients(data, rows)
            kept.append([(dW != 0).any(axis=1) for dW in gradients.weights[1:]])
        found.append([np.stack(layer) for layer in zip(*kept, strict=True)])
    return found
