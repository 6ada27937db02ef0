"""ONNX Runtime: the network as a graph of Gemm and activation nodes. It only predicts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import onnx
import onnxruntime

from fusedmlp.bench.contract import Peer, Predict

if TYPE_CHECKING:
    from fusedmlp.bench.material import Material
    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import FloatArray

OPSET = 17
IR_VERSION = 10
"""What any recent runtime reads: the onnx package may be newer than the runtime."""


def model(task: Task, material: Material) -> bytes:
    """Build the graph for any number of rows."""
    element = onnx.TensorProto.FLOAT if task.dtype == "float32" else onnx.TensorProto.DOUBLE
    activation = "Relu" if task.hidden == "relu" else "Sigmoid"
    nodes, initialisers, name = [], [], "x"
    layers = list(zip(material.start.weights, material.start.biases, strict=True))
    for index, (W, b) in enumerate(layers):
        initialisers += [
            onnx.numpy_helper.from_array(a, f"{n}{index}")
            for n, a in zip("Wb", (W, b), strict=True)
        ]
        nodes.append(onnx.helper.make_node("Gemm", [name, f"W{index}", f"b{index}"], [f"z{index}"]))
        is_last = index == len(layers) - 1
        name = "y" if is_last else f"a{index}"
        nodes.append(
            onnx.helper.make_node("Softmax" if is_last else activation, [f"z{index}"], [name])
        )
    ends = [
        onnx.helper.make_tensor_value_info(end, element, ["rows", width])
        for end, width in (("x", task.sizes[0]), ("y", task.sizes[-1]))
    ]
    graph = onnx.helper.make_graph(nodes, "mlp", ends[:1], ends[1:], initialisers)
    opsets = [onnx.helper.make_opsetid("", OPSET)]
    built = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION)
    onnx.checker.check_model(built)
    return bytes(built.SerializeToString())


class OnnxSession(Peer):
    """An inference session on the CPU."""

    packages = ("onnxruntime", "onnx")

    def prediction(self, task: Task, material: Material) -> Predict:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            model(task, material), options, providers=["CPUExecutionProvider"]
        )
        run = session.run

        def predict(x: FloatArray) -> FloatArray:
            found: FloatArray = run(None, {"x": x})[0]
            return found

        return predict
