"""Trained networks as ONNX models, which other runtimes execute without this library.

``export`` takes an :class:`fusedmlp.MLP`, or a fitted estimator of :mod:`fusedmlp.sklearn` or of
scikit-learn. Only operators of ONNX's default domain are used, so every runtime that has
:data:`OPSET` can run the models; text in tables needs one more, see onnx_tables.py. Training and
optimizer state are not part of such a file.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol, runtime_checkable

import numpy as np

from fusedmlp.errors import InvalidInputError, MissingDependencyError
from fusedmlp.io.atomic import write_atomically
from fusedmlp.io.convert import from_sklearn
from fusedmlp.io.onnx_tables import ML_DOMAIN, ML_OPSET, table_inputs
from fusedmlp.model import MLP
from fusedmlp.network import LEAKY_RELU_SLOPE

if TYPE_CHECKING:
    import numpy.typing as npt
    import onnx

    from fusedmlp.io.convert import FittedMLP
    from fusedmlp.network import HiddenActivation

OPSET: Final = 17
"""Version of the operators; runtimes since 2022 have it (onnxruntime 1.12)."""

IR_VERSION: Final = 8
"""Version of the file format that came with that opset."""

OPERATORS: Final[dict[HiddenActivation, str]] = {
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "relu": "Relu",
    "identity": "Identity",
}
"""Hidden activations that are one operator without attributes; _Graph composes the others."""

LABEL, PROBABILITIES, VALUES = "label", "probabilities", "variable"
"""Names of the outputs, as skl2onnx names those of classifiers and regressors."""


@runtime_checkable
class Estimator(Protocol):
    """A fitted estimator of :mod:`fusedmlp.sklearn`."""

    def to_mlp(self) -> MLP:
        """Return the network as a model."""
        ...


def export(model: MLP | Estimator | FittedMLP, path: str | Path | None = None) -> onnx.ModelProto:
    """Build the ONNX model and, where a path is given, write it.

    Parameters
    ----------
    model
        Its dtype becomes that of the input ``X`` (N, D) and of all arithmetic, but that the erf
        of ``gelu`` is in float32: onnxruntime has no other. Pixels are numbers from 0 to 1 there,
        not ``uint8``. Its preprocessing is part of the graph: ``X`` then is the table (N, columns),
        or each column is an input (N, 1) of its own name where one of them is text.
    path
        File to write, atomically; usually ``….onnx``.

    Returns
    -------
    The checked model. Classifiers have the outputs ``label`` (N,) and ``probabilities`` (N, K),
    with several labels a row ``label`` (N, K); regressors have ``variable`` (N, K). N is free.

    Raises
    ------
    MissingDependencyError
        The package onnx is not installed; the message says how to install it.
    InvalidInputError
        The estimator is not fitted, or a class label is neither text nor a number that ONNX has.
    StorageError
        The file cannot be written.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingDependencyError(
            "exporting needs the package onnx: pip install 'fusedmlp[onnx]'"
        ) from error
    mlp = _as_mlp(model)
    graph = _Graph(mlp, _labels(model, mlp))
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    if mlp.preprocessing is not None and mlp.preprocessing.text_columns:
        opsets.append(onnx.helper.make_opsetid(ML_DOMAIN, ML_OPSET))
    found = onnx.helper.make_model(
        graph.build(),
        opset_imports=opsets,
        ir_version=IR_VERSION,
        producer_name="fusedmlp",
    )
    onnx.checker.check_model(found, full_check=True)
    if path is not None:
        write_atomically(Path(path), found.SerializeToString())
    return found


def _as_mlp(model: MLP | Estimator | FittedMLP) -> MLP:
    if isinstance(model, MLP):
        return model
    return model.to_mlp() if isinstance(model, Estimator) else from_sklearn(model)


def _labels(model: MLP | Estimator | FittedMLP, mlp: MLP) -> npt.NDArray[Any]:
    """Return the labels of the classes, in order: whole numbers or text."""
    network = mlp.network
    given = getattr(model, "classes_", mlp.labels or mlp.class_names)
    labels = np.arange(max(2, network.n_outputs)) if given is None else np.asarray(given)
    if labels.dtype.kind in "iub":
        if labels.max() > np.iinfo(np.int64).max:
            raise InvalidInputError(f"class label {labels.max()} is larger than ONNX's int64 holds")
        return labels.astype(np.int64)
    if labels.dtype.kind == "U" or all(isinstance(label, str) for label in labels.tolist()):
        return labels.astype(object)
    if labels.dtype.kind == "f":
        return labels.astype(np.float64)
    raise InvalidInputError(f"class labels {labels[:3]!r}… are neither numbers nor text")


class _Graph:
    """Builder of the graph: collects nodes and constants."""

    def __init__(self, mlp: MLP, labels: npt.NDArray[Any]) -> None:
        self._network, self._parameters, self._labels = mlp.network, mlp.parameters, labels
        self._preprocessing = mlp.preprocessing
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}

    def build(self) -> onnx.GraphProto:
        """Return the whole graph."""
        from onnx import helper

        network, kind = self._network, helper.np_dtype_to_tensor_dtype(self._parameters.dtype)
        inputs, x = [helper.make_tensor_value_info("X", kind, ["N", network.n_inputs])], "X"
        if self._preprocessing is not None:
            inputs, x = table_inputs(self._preprocessing, self, kind)
        z = self._logits(x)
        if network.predicts_values:
            self.node("Exp" if network.output == "exp" else "Identity", [z], VALUES)
            outputs = [helper.make_tensor_value_info(VALUES, kind, ["N", network.n_outputs])]
        else:
            outputs = self._classes(z, kind)
        return helper.make_graph(self._nodes, "MLP", inputs, outputs, [*self._constants.values()])

    def _logits(self, x: str) -> str:
        """Add a[l + 1] = f(a[l]·W[l] + b[l]) for every layer; the last one has no f."""
        a = x
        parameters = self._parameters
        for layer, (W, b) in enumerate(zip(parameters.weights, parameters.biases, strict=True), 1):
            names = [a, self.constant(f"W{layer}", W), self.constant(f"b{layer}", b)]
            a = self.node("Gemm", names, f"z{layer}")
            if layer < self._network.n_layers:
                a = self._activation(a, f"a{layer}")
        return a

    def _activation(self, z: str, a: str) -> str:
        """Add a = f(z) of a hidden layer."""
        match self._network.hidden:
            case "leaky_relu":
                return self._leaky_relu(z, a)
            case "elu":
                return self._elu(z, a)
            case "gelu":
                return self.node("Mul", [z, self._normal_cdf(z)], a)
            case "silu":
                return self.node("Mul", [z, self.node("Sigmoid", [z], f"{z}_sigmoid")], a)
            case hidden:
                return self.node(OPERATORS[hidden], [z], a)

    def _leaky_relu(self, z: str, a: str) -> str:
        """Add leaky ReLU; the operator's slope is a float32."""
        if self._parameters.dtype == np.float32:
            return self.node("LeakyRelu", [z], a, alpha=LEAKY_RELU_SLOPE)
        slope = self._scalar("slope", LEAKY_RELU_SLOPE)
        return self.node("Max", [z, self.node("Mul", [z, slope], f"{z}_small")], a)

    def _elu(self, z: str, a: str) -> str:
        """Add ELU; onnxruntime has the operator in float32 only."""
        if self._parameters.dtype == np.float32:
            return self.node("Elu", [z], a, alpha=1.0)
        zero, one = self._scalar("zero", 0.0), self._scalar("one", 1.0)
        negative = self.node("Min", [z, zero], f"{z}_negative")
        expm1 = self.node("Sub", [self.node("Exp", [negative], f"{z}_exp"), one], f"{z}_expm1")
        return self.node("Add", [self.node("Max", [z, zero], f"{z}_positive"), expm1], a)

    def _normal_cdf(self, z: str) -> str:
        """Add Φ(z) = ½·(1 + erf(z/√2))."""
        from onnx import TensorProto, helper

        scaled = self.node("Div", [z, self._scalar("sqrt2", math.sqrt(2.0))], f"{z}_scaled")
        single = self.node("Cast", [scaled], f"{z}_single", to=TensorProto.FLOAT)
        erf = self.node("Erf", [single], f"{z}_erf")
        kind = helper.np_dtype_to_tensor_dtype(self._parameters.dtype)
        erf = self.node("Cast", [erf], f"{z}_erf_cast", to=kind)
        double = self.node("Add", [erf, self._scalar("one", 1.0)], f"{z}_double_cdf")
        return self.node("Mul", [double, self._scalar("half", 0.5)], f"{z}_cdf")

    def _classes(self, z: str, kind: int) -> list[onnx.ValueInfoProto]:
        """Add probabilities and labels."""
        from onnx import TensorProto, helper

        K = self._network.n_outputs
        label_kind = (
            TensorProto.STRING
            if self._labels.dtype == object
            else helper.np_dtype_to_tensor_dtype(self._labels.dtype)
        )
        if self._network.output == "softmax":
            self.node("Softmax", [z], PROBABILITIES, axis=1)
            index = self.node("ArgMax", [PROBABILITIES], "index", axis=1, keepdims=0)
        else:
            half = self._scalar("half", 0.5)
            p = self.node("Sigmoid", [z], PROBABILITIES if K > 1 else "p")
            index = self.node("Cast", [self.node("Greater", [p, half], "above")], "chosen", to=7)
            if K > 1:
                self.node("Identity", [index], LABEL)
                return [
                    helper.make_tensor_value_info(LABEL, TensorProto.INT64, ["N", K]),
                    helper.make_tensor_value_info(PROBABILITIES, kind, ["N", K]),
                ]
            one = self._scalar("one", 1.0)
            self.node("Concat", [self.node("Sub", [one, p], "q"), p], PROBABILITIES, axis=1)
            axis = self.constant("axis", np.array([1], np.int64))
            index = self.node("Squeeze", [index, axis], "index")
        # With a single class, its label is that of all rows.
        labels = np.resize(self._labels, 2) if len(self._labels) == 1 else self._labels
        self.node("Gather", [self.constant("classes", labels), index], LABEL)
        return [
            helper.make_tensor_value_info(LABEL, label_kind, ["N"]),
            helper.make_tensor_value_info(PROBABILITIES, kind, ["N", max(2, K)]),
        ]

    def node(
        self, operator: str, inputs: list[str], output: str, domain: str = "", **attributes: object
    ) -> str:
        """Add a node; return its output."""
        from onnx import helper

        node = helper.make_node(operator, inputs, [output], domain=domain)
        node.attribute.extend(helper.make_attribute(name, v) for name, v in attributes.items())
        self._nodes.append(node)
        return output

    def constant(self, name: str, value: npt.NDArray[Any]) -> str:
        """Add a constant; return its name."""
        from onnx import numpy_helper

        self._constants[name] = numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def _scalar(self, name: str, value: float) -> str:
        return self.constant(name, np.array(value, self._parameters.dtype))
