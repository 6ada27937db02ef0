"""PyTorch on the CPU, eager: the data is one tensor, indexed by the permutation, without a loader.

Plain descent is one ``_foreach_add_`` on the gradients of ``autograd.grad``, which takes less per
step than an optimizer of ``torch.optim`` and modules; Adam is the fused optimizer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

from fusedmlp.bench.contract import Outcome, Peer, Predict, Training
from fusedmlp.optimizers import Adam

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fusedmlp.bench.material import Material
    from fusedmlp.bench.tasks import Task
    from fusedmlp.types import FloatArray, IntArray


def parameters(material: Material) -> list[torch.Tensor]:
    """Return W1ᵀ, b1, …: PyTorch's own layout of a linear layer."""
    return [torch.tensor(np.ascontiguousarray(a.T)) for a in material.start]


def arrays(tensors: Sequence[torch.Tensor]) -> list[FloatArray]:
    """Return W1, b1, … as NumPy arrays."""
    return [np.ascontiguousarray(tensor.detach().numpy().T) for tensor in tensors]


def logits_of(task: Task, tensors: Sequence[torch.Tensor], a: torch.Tensor) -> torch.Tensor:
    """Run the network up to its logits; with the task's dropout, so for training only."""
    activate = torch.relu if task.hidden == "relu" else torch.sigmoid
    for W, b in zip(tensors[:-2:2], tensors[1:-2:2], strict=True):
        a = activate(functional.linear(a, W, b))
        if task.dropout:
            a = functional.dropout(a, task.dropout)
    return functional.linear(a, *tensors[-2:])


class TorchTraining(Training):
    """The data, the parameters and the running sums; a step of eager training."""

    def __init__(self, task: Task, material: Material) -> None:
        self._task, self.exact = task, not task.dropout
        self._x, self._y = torch.from_numpy(material.floats(task.dtype)), torch.tensor(material.y)
        self._parameters = self._made(material)
        self._sums = torch.zeros(2, dtype=torch.float64)
        self._loss, self._correct = self._sums  # views: sums over rows
        adam = Adam(task.lr)
        self._adam = (
            torch.optim.Adam(
                self._parameters, task.lr, (adam.beta1, adam.beta2), adam.eps, fused=True
            )
            if task.optimizer == "adam" and self._parameters[0].requires_grad
            else None
        )

    def epoch(self, order: IntArray) -> Outcome:
        self._sums.zero_()
        for rows in torch.from_numpy(order).split(self._task.batch_size):
            self._step(rows)
        loss, correct = self._sums.tolist()
        return Outcome(loss / len(order), correct / len(order))

    def weights(self) -> list[FloatArray]:
        return arrays(self._parameters)

    def _made(self, material: Material) -> list[torch.Tensor]:
        return [tensor.requires_grad_() for tensor in parameters(material)]

    def _step(self, rows: torch.Tensor) -> None:
        x, y = self._x, self._y
        if not self._task.is_full_batch:
            x, y = x.index_select(0, rows), y.index_select(0, rows)
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
            self._loss.add_(loss, alpha=len(y))
            self._correct.add_((logits.argmax(dim=1) == y).sum())


class TorchEager(Peer):
    """Eager PyTorch."""

    packages = ("torch",)

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)

    def training(self, task: Task, material: Material) -> Training:
        return TorchTraining(task, material)

    def prediction(self, task: Task, material: Material) -> Predict:
        tensors = parameters(material)

        def predict(x: FloatArray) -> FloatArray:
            with torch.inference_mode():
                logits = logits_of(task, tensors, torch.from_numpy(x))
                found: FloatArray = logits.softmax(dim=1).numpy()
            return found

        return predict
