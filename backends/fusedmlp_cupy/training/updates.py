"""An optimizer's steps on all parameters of a network at once, and their rates.

The formulas are in formulas.cu and :mod:`fusedmlp.reference.updates`. The rates of coming steps are
computed here in float64 and uploaded once a call.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fusedmlp.optimizers import SGD, Adam
from fusedmlp_cupy.kernels import launches
from fusedmlp_cupy.kernels.arguments import RATE_COLUMNS

if TYPE_CHECKING:
    from fusedmlp.optimizers import Optimizer
    from fusedmlp.types import Float64Vector
    from fusedmlp_cupy.kernels.arguments import Batch
    from fusedmlp_cupy.runtime.types import DeviceArray
    from fusedmlp_cupy.training.context import Context
    from fusedmlp_cupy.training.parameters import ParameterArrays


@dataclass(frozen=True, slots=True)
class Updates:
    """One optimizer on one network's parameters."""

    context: Context
    parameters: ParameterArrays
    optimizer: Optimizer

    @property
    def is_plain_sgd(self) -> bool:
        """Whether a step is lr times the gradient and nothing else."""
        return isinstance(self.optimizer, SGD) and not self.optimizer.momentum

    def constants(self, l2: float) -> tuple[float, ...]:
        """Return the kernel's constants: l2, then the optimizer's own."""
        optimizer = self.optimizer
        if not isinstance(optimizer, SGD):
            beta1, beta2 = optimizer.beta1, optimizer.beta2
            return l2, beta1, beta2, 1.0 - beta1, 1.0 - beta2
        return (l2, optimizer.momentum) if optimizer.momentum else (l2,)

    def take_step(self, rates: DeviceArray, batch: Batch, *, l2: float) -> None:
        """Take one step along the gradients, at the rates of a batch."""
        own = self.parameters
        launches.update(
            self.context.program,
            self.optimizer.kernel,
            (own.theta, own.gradient, *own.slots),
            own.layout.n_weights,
            rates,
            batch,
            self.constants(l2),
        )

    def upload_rates(self, lr: Float64Vector, step: int) -> DeviceArray:
        """Upload (n, RATE_COLUMNS) scalars of the steps from ``step`` on: Rate of formulas.cu."""
        columns = np.zeros((len(lr), RATE_COLUMNS))
        columns[:, 0] = lr
        if not isinstance(self.optimizer, SGD):
            columns[:, 3] = 1.0 - lr * self.optimizer.weight_decay
        if isinstance(self.optimizer, Adam):
            corrections = self.optimizer.bias_corrections(step, len(lr))
            columns[:, 1] = lr / corrections[:, 0]
            columns[:, 2] = corrections[:, 1]
            columns[:, 4] = self.optimizer.epsilons(step, len(lr))
        host = columns.astype(self.context.dtype)
        return self.context.buffers.upload("rates", host, each=RATE_COLUMNS)
