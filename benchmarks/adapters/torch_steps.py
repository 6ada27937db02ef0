"""PyTorch on CPU or GPU: eager steps, compiled steps, and on a GPU CUDA graphs of several steps.

The data is one tensor, indexed by the permutation, without a data loader. Eager SGD is one
``_foreach_add_`` on the result of ``autograd.grad``, which takes less time per step than modules
and an optimizer of ``torch.optim``; eager Adam is the fused optimizer. The compiled step takes its
gradients from ``torch.func``, so that gather, forward, gradients, update and sums are one graph.
"""

from __future__ import annotations

import shutil

import numpy as np
import torch
from torch.nn import functional

from adapters import TF32_SLACK
from fusedmlp.bench.adapter import Adapter, Outcome, Training, UnsupportedError
from fusedmlp.optimizers import Adam

GRAPH_STEPS = 20
"""Steps in a CUDA graph, at most."""


def logits_of(task, tensors, a):
    """Run the network up to its logits, with the task's dropout: for training only."""
    activate = torch.relu if task.hidden == "relu" else torch.sigmoid
    for W, b in zip(tensors[:-2:2], tensors[1:-2:2], strict=True):
        a = activate(functional.linear(a, W, b))
        if task.dropout:
            a = functional.dropout(a, task.dropout)
    return functional.linear(a, *tensors[-2:])


class EagerTraining(Training):
    """Data, parameters and running sums on the device; a step of eager training."""

    def __init__(self, adapter, task, inputs):
        self._task, self.exact = task, not task.dropout
        self.slack = TF32_SLACK if adapter.tf32 else 1.0
        self._device = adapter.device_name
        self._x = torch.from_numpy(inputs.floats(task.dtype)).to(
            self._device
        )  # copied to GPUs only
        self._y = torch.tensor(inputs.y, device=self._device)
        self._parameters = [tensor.requires_grad_() for tensor in adapter.parameters(inputs)]
        self._sums = torch.zeros(2, dtype=torch.float64, device=self._device)
        adam = Adam(task.lr)
        self._adam = None
        if task.optimizer == "adam":
            betas = adam.beta1, adam.beta2
            self._adam = torch.optim.Adam(self._parameters, task.lr, betas, adam.eps, fused=True)

    def epoch(self, order):
        self._sums.zero_()
        self._run(torch.from_numpy(order).to(self._device))
        loss, correct = self._sums.tolist()
        return Outcome(loss / len(order), correct / len(order))

    def weights(self):
        """PyTorch's linear layers hold Wᵀ."""
        return [np.ascontiguousarray(t.detach().cpu().numpy().T) for t in self._parameters]

    def _run(self, order):
        for rows in order.split(self._task.batch_size):
            self._step(rows)

    def _batch(self, rows):
        if self._task.is_full_batch:
            return self._x, self._y
        return self._x.index_select(0, rows), self._y.index_select(0, rows)

    def _step(self, rows):
        x, y = self._batch(rows)
        logits = logits_of(self._task, self._parameters, x)
        loss = functional.cross_entropy(logits, y)
        gradients = torch.autograd.grad(loss, self._parameters)
        with torch.no_grad():
            if self._adam is None:
                torch._foreach_add_(self._parameters, gradients, alpha=-self._task.lr)
            else:
                for tensor, gradient in zip(self._parameters, gradients, strict=True):
                    tensor.grad = gradient
                self._adam.step()
            self._sums[0].add_(loss, alpha=len(y))
            self._sums[1].add_((logits.argmax(dim=1) == y).sum())


class GraphTraining(EagerTraining):
    """CUDA graphs of several whole batches; a smaller last batch is trained eagerly."""

    def __init__(self, adapter, task, inputs):
        super().__init__(adapter, task, inputs)
        self._graphs = {}

    def _run(self, order):
        B = self._task.batch_size
        whole = len(order) - len(order) % B
        for steps in order[:whole].view(-1, B).split(GRAPH_STEPS):
            if len(steps) not in self._graphs:
                self._graphs[len(steps)] = self._captured(steps)
            rows, graph = self._graphs[len(steps)]
            rows.copy_(steps)
            graph.replay()
        if whole < len(order):
            self._step(order[whole:])

    def _captured(self, steps):
        """Capture the steps; the warm-up steps before the capture leave no trace."""
        state = [t.detach().clone() for t in (*self._parameters, self._sums)]
        rows, graph, stream = steps.clone(), torch.cuda.CUDAGraph(), torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._step(rows[0])
        torch.cuda.current_stream().wait_stream(stream)
        with torch.cuda.graph(graph):
            for each in rows:
                self._step(each)
        with torch.no_grad():
            for tensor, value in zip((*self._parameters, self._sums), state, strict=True):
                tensor.copy_(value)
        return rows, graph


class CompiledTraining(EagerTraining):
    """The whole step under torch.compile."""

    def __init__(self, adapter, task, inputs):
        super().__init__(adapter, task, inputs)
        self._parameters = adapter.parameters(inputs)
        self._moments = [torch.zeros_like(t) for t in (*self._parameters, *self._parameters)]
        self._t = torch.zeros(1, dtype=self._x.dtype, device=self._device)
        torch.compiler.reset()
        self._compiled = torch.compile(self._whole_step, dynamic=False)

    def _step(self, rows):
        with torch.no_grad():
            self._compiled(self._parameters, self._moments, self._t, self._sums, rows)

    def _whole_step(self, tensors, moments, t, sums, rows):
        # Whatever changes is an argument: attributes may be taken for constants.
        x, y = self._batch(rows)

        def loss_of(tensors):
            logits = logits_of(self._task, tensors, x)
            loss = functional.cross_entropy(logits, y)
            return loss, (loss.detach(), (logits.argmax(dim=1) == y).sum())

        gradients, (loss, right) = torch.func.grad(loss_of, has_aux=True)(tensors)
        if self._task.optimizer == "adam":
            adam_step(Adam(self._task.lr), t, tensors, moments, gradients)
        else:
            torch._foreach_add_(tensors, gradients, alpha=-self._task.lr)
        sums.add_(torch.stack((loss.double() * len(y), right.double())))


def adam_step(adam, t, tensors, moments, gradients):
    """Update in place; written out, so that the compiler can fuse it with the gradients."""
    t.add_(1)
    first, second = 1 - adam.beta1**t, 1 - adam.beta2**t
    n = len(tensors)
    for tensor, m, v, gradient in zip(tensors, moments[:n], moments[n:], gradients, strict=True):
        m.lerp_(gradient, 1 - adam.beta1)
        v.mul_(adam.beta2).addcmul_(gradient, gradient, value=1 - adam.beta2)
        tensor.sub_(adam.lr * (m / first) / ((v / second).sqrt() + adam.eps))


class TorchSteps(Adapter):
    """PyTorch.

    Parameters
    ----------
    way
        ``eager``, ``graph`` or ``compile``.
    device_name
        ``cpu`` or ``cuda``.
    precision
        ``float32``, or ``tf32`` for products of float32 matrices in TF32.
    """

    packages = ("torch",)

    def __init__(self, threads, way="eager", device_name="cpu", precision="float32"):
        super().__init__(threads)
        if device_name == "cuda" and not torch.cuda.is_available():
            raise UnsupportedError(f"torch {torch.__version__} finds no CUDA device")
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)
        self._way, self.device_name, self.tf32 = way, device_name, precision == "tf32"
        torch.set_float32_matmul_precision("high" if self.tf32 else "highest")

    def device(self):
        if self.device_name == "cpu":
            return "", False
        return torch.cuda.get_device_name(), True

    def parameters(self, inputs):
        """Return W1ᵀ, b1, … on the device."""
        return [
            torch.tensor(np.ascontiguousarray(a.T), device=self.device_name) for a in inputs.start
        ]

    def training(self, task, inputs):
        if self._way == "compile" and not (shutil.which("c++") or shutil.which("g++")):
            raise UnsupportedError("torch.compile needs a C++ compiler")
        kinds = {"eager": EagerTraining, "graph": GraphTraining, "compile": CompiledTraining}
        return kinds[self._way](self, task, inputs)

    def prediction(self, task, inputs):
        if self._way != "eager":
            raise UnsupportedError("predictions are measured eagerly")
        tensors = self.parameters(inputs)

        def predict(x):
            with torch.inference_mode():
                logits = logits_of(task, tensors, torch.from_numpy(x).to(self.device_name))
                return logits.softmax(dim=1).cpu().numpy()

        return predict
