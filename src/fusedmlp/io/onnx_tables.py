"""The preprocessing of a table as operators of an ONNX graph.

Numbers go through float64, as in :class:`fusedmlp.preprocessing.Preprocessing`. Text needs the
operator OneHotEncoder, which is in the domain ``ai.onnx.ml``; all others are of the default domain.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Protocol

import numpy as np

from fusedmlp.errors import InvalidInputError
from fusedmlp.preprocessing.columns import CategoryColumn, NumberColumn

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from fusedmlp.preprocessing import Preprocessing

ML_DOMAIN: Final = "ai.onnx.ml"

ML_OPSET: Final = 3
"""Version of that domain's operators that belongs to the default domain's 17."""

MISSING_TEXT: Final = ""
"""The text that stands for a missing value in inputs of the graph."""


class Builder(Protocol):
    """What adds nodes and constants to a graph."""

    def node(
        self, operator: str, inputs: list[str], output: str, domain: str = "", **attributes: object
    ) -> str:
        """Add a node; return its output."""
        ...

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a constant; return its name."""
        ...


def table_inputs(
    preprocessing: Preprocessing, builder: Builder, kind: int
) -> tuple[list[onnx.ValueInfoProto], str]:
    """Add the operators from the columns of a table to the network's inputs.

    Parameters
    ----------
    kind
        ONNX's number of the network's float type, which is that of columns of numbers too.

    Returns
    -------
    The graph's inputs and the name of the network's inputs (N, D). A table of numbers alone is one
    input ``X`` (N, C), with NaN for missing values. Otherwise each column is an input (N, 1) of its
    own name; a missing text is ``""``.

    Raises
    ------
    InvalidInputError
        A column of a table with text has a name that another input would have.
    """
    from onnx import TensorProto, helper

    numbers = [c for c in preprocessing.columns if isinstance(c, NumberColumn)]
    texts = [c for c in preprocessing.columns if isinstance(c, CategoryColumn)]
    parts: list[str] = []
    if not texts:
        inputs = [helper.make_tensor_value_info("X", kind, ["N", len(numbers)])]
        parts = _numbers(numbers, "X", builder)
    else:
        if len(set(preprocessing.names)) < len(preprocessing.names):
            raise InvalidInputError("two columns of the table have the same name")
        inputs = [
            helper.make_tensor_value_info(
                column.name,
                TensorProto.STRING if isinstance(column, CategoryColumn) else kind,
                ["N", 1],
            )
            for column in preprocessing.columns
        ]
        if numbers:
            columns = [column.name for column in numbers]
            block = builder.node("Concat", columns, "table_numbers", axis=1)
            parts = _numbers(numbers, block, builder)
        parts += [_text(column, index, builder) for index, column in enumerate(texts)]
    joined = builder.node("Concat", parts, "table_parts", axis=1) if len(parts) > 1 else parts[0]
    order = builder.constant("table_order", _order(preprocessing))
    ordered = builder.node("Gather", [joined, order], "table_ordered", axis=1)
    return inputs, builder.node("Cast", [ordered], "table_inputs", to=kind)


def _numbers(columns: list[NumberColumn], block: str, builder: Builder) -> list[str]:
    """Add filling and scaling of a block (N, C), and the indicators; return both, in float64."""
    from onnx import TensorProto

    double = builder.node("Cast", [block], "table_double", to=TensorProto.DOUBLE)
    missing = builder.node("IsNaN", [double], "table_missing")
    fill = builder.constant("table_fill", np.array([c.fill for c in columns]))
    center = builder.constant("table_center", np.array([c.center for c in columns]))
    scale = builder.constant("table_scale", np.array([c.scale for c in columns]))
    filled = builder.node("Where", [missing, fill, double], "table_filled")
    centered = builder.node("Sub", [filled, center], "table_centered")
    parts = [builder.node("Div", [centered, scale], "table_scaled")]
    marked = [j for j, column in enumerate(columns) if column.has_indicator]
    if marked:
        chosen = builder.constant("table_marked", np.array(marked, np.int64))
        flags = builder.node("Cast", [missing], "table_flags", to=TensorProto.DOUBLE)
        parts.append(builder.node("Gather", [flags, chosen], "table_indicators", axis=1))
    return parts


def _text(column: CategoryColumn, index: int, builder: Builder) -> str:
    """Add the one-hot encoding of a column, in float64."""
    from onnx import TensorProto

    name = f"table_text{index}"
    texts = [MISSING_TEXT if text is None else text for text in column.categories]
    encoded = builder.node(
        "OneHotEncoder", [column.name], f"{name}_3d", domain=ML_DOMAIN, cats_strings=texts, zeros=1
    )
    shape = builder.constant(f"{name}_shape", np.array([-1, len(texts)], np.int64))
    flat = builder.node("Reshape", [encoded, shape], f"{name}_flat")
    double = builder.node("Cast", [flat], f"{name}_double", to=TensorProto.DOUBLE)
    if not column.has_other:
        return double
    axis = builder.constant(f"{name}_axis", np.array([1], np.int64))
    known = builder.node("ReduceSum", [double, axis], f"{name}_known", keepdims=1)
    one = builder.constant(f"{name}_one", np.array(1.0))
    other = builder.node("Sub", [one, known], f"{name}_other")
    return builder.node("Concat", [double, other], f"{name}_all", axis=1)


def _order(preprocessing: Preprocessing) -> NDArray[np.int64]:
    """Return where each of the D inputs stands among scaled numbers, indicators and texts."""
    numbers = [c for c in preprocessing.columns if isinstance(c, NumberColumn)]
    next_number, next_indicator = 0, len(numbers)
    next_text = next_indicator + sum(column.has_indicator for column in numbers)
    order: list[int] = []
    for column in preprocessing.columns:
        if isinstance(column, CategoryColumn):
            order += range(next_text, next_text + column.n_inputs)
            next_text += column.n_inputs
            continue
        order.append(next_number)
        next_number += 1
        if column.has_indicator:
            order.append(next_indicator)
            next_indicator += 1
    return np.array(order, np.int64)
