"""PyTorch under torch.compile: gather, forward, gradients, update and sums are one graph.

The gradients come from ``torch.func``, which compiles together with the update; compiling the
forward pass alone leaves the step slower than eager. It needs a C++ compiler.
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import torch
from torch.nn import functional

from fusedmlp.bench.contract import Predict, Training, UnsupportedError
from fusedmlp.bench.libraries.torch_eager import TorchEager, TorchTraining, logits_of, parameters
from fusedmlp.optimizers import Adam

if TYPE_CHECKING:
    from fusedmlp.bench.material import Material
    from fusedmlp.bench.tasks import Task


class _Compiled(TorchTraining):
    def __init__(self, task: Task, material: Material) -> None:
        super().__init__(task, material)
        self._moments = [torch.zeros_like(t) for t in (*self._parameters, *self._parameters)]
        self._t = torch.zeros(1, dtype=self._x.dtype)
        self._run = torch.compile(self._whole_step, dynamic=False)

    def _made(self, material: Material) -> list[torch.Tensor]:
        return parameters(material)

    def _step(self, rows: torch.Tensor) -> None:
        with torch.no_grad():
            self._run(self._parameters, self._moments, self._t, self._sums, rows)

    def _whole_step(
        self,
        tensors: list[torch.Tensor],
        moments: list[torch.Tensor],
        t: torch.Tensor,
        sums: torch.Tensor,
        rows: torch.Tensor,
    ) -> None:
        # What changes comes as an argument: attributes may be taken for constants.
        task = self._task
        x, y = (self._x, self._y) if task.is_full_batch else (self._x[rows], self._y[rows])

        def loss_of(
            tensors: list[torch.Tensor],
        ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
            logits = logits_of(task, tensors, x)
            loss = functional.cross_entropy(logits, y)
            return loss, (loss.detach(), (logits.argmax(dim=1) == y).sum())

        gradients, (loss, right) = torch.func.grad(loss_of, has_aux=True)(tensors)
        if task.optimizer == "adam":
            adam_step(Adam(task.lr), t, tensors, moments, gradients)
        else:
            torch._foreach_add_(tensors, gradients, alpha=-task.lr)
        sums.add_(torch.stack((loss.double() * len(y), right.double())))


def adam_step(
    adam: Adam,
    t: torch.Tensor,
    tensors: list[torch.Tensor],
    moments: list[torch.Tensor],
    gradients: list[torch.Tensor],
) -> None:
    """Update in place; written out, so that the compiler can fuse it with the gradients."""
    t.add_(1)
    first, second = 1 - adam.beta1**t, 1 - adam.beta2**t
    n = len(tensors)
    for tensor, m, v, gradient in zip(tensors, moments[:n], moments[n:], gradients, strict=True):
        m.lerp_(gradient, 1 - adam.beta1)
        v.mul_(adam.beta2).addcmul_(gradient, gradient, value=1 - adam.beta2)
        tensor.sub_(adam.lr * (m / first) / ((v / second).sqrt() + adam.eps))


class TorchCompiled(TorchEager):
    """The compiled step, on the tasks of an epoch's length."""

    def training(self, task: Task, material: Material) -> Training:
        if shutil.which("c++") is None and shutil.which("g++") is None:
            raise UnsupportedError("torch.compile needs a C++ compiler")
        torch.compiler.reset()
        return _Compiled(task, material)

    def prediction(self, task: Task, material: Material) -> Predict:
        raise UnsupportedError("measured eagerly for predictions")
