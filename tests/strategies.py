"""Hypothesis strategies that several files use."""

from __future__ import annotations

from hypothesis import strategies as st

from fusedmlp.network import HIDDEN_ACTIVATIONS, OUTPUTS
from problems import problem

WIDTHS = (1, 2, 3, 5, 7, 8, 13, 16, 17, 31, 33, 64, 67, 97, 129)


@st.composite
def random_problems(draw, *, rows, storages, widths=WIDTHS):
    """Draw problems of any network, of up to three hidden layers."""
    width, output = st.sampled_from(widths), draw(st.sampled_from(OUTPUTS))
    n_outputs = max(draw(width), 2 if output == "softmax" else 1)
    return problem(
        (draw(width), *draw(st.lists(width, max_size=3)), n_outputs),
        draw(st.sampled_from(HIDDEN_ACTIVATIONS)),
        output,
        draw(st.sampled_from([0.0, 0.25, 0.5])),
        rows=rows,
        storage=draw(st.sampled_from(storages)),
        weighted=draw(st.booleans()),
        seed=draw(st.integers(0, 1000)),
    )
