"""ONNX Runtime: the network as a graph of Gemm and activation nodes. It only predicts."""

from __future__ import annotations

import onnx
import onnxruntime
from onnx.helper import (
    make_graph,
    make_model,
    make_node,
    make_opsetid,
    make_tensor_value_info,
)

from fusedmlp.bench.adapter import Adapter

OPSET = 17
IR_VERSION = 10
"""Versions that any recent runtime reads: the onnx package may be newer than the runtime."""


def model(task, inputs):
    """Build the graph for any number of rows."""
    element = onnx.TensorProto.FLOAT if task.dtype == "float32" else onnx.TensorProto.DOUBLE
    activation = "Relu" if task.hidden == "relu" else "Sigmoid"
    nodes, tensors, name = [], [], "x"
    layers = list(zip(inputs.start.weights, inputs.start.biases, strict=True))
    for index, (W, b) in enumerate(layers):
        tensors += [onnx.numpy_helper.from_array(a, f"{n}{index}") for n, a in (("W", W), ("b", b))]
        nodes.append(make_node("Gemm", [name, f"W{index}", f"b{index}"], [f"z{index}"]))
        is_last = index == len(layers) - 1
        name = "y" if is_last else f"a{index}"
        nodes.append(make_node("Softmax" if is_last else activation, [f"z{index}"], [name]))
    ends = [
        make_tensor_value_info(end, element, ["rows", width])
        for end, width in (("x", task.sizes[0]), ("y", task.sizes[-1]))
    ]
    graph = make_graph(nodes, "mlp", ends[:1], ends[1:], tensors)
    built = make_model(graph, opset_imports=[make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(built)
    return built.SerializeToString()


class OnnxSession(Adapter):
    """An inference session on the CPU."""

    packages = ("onnxruntime", "onnx")

    def prediction(self, task, inputs):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(
            model(task, inputs), options, providers=["CPUExecutionProvider"]
        )
        return lambda x: session.run(None, {"x": x})[0]
