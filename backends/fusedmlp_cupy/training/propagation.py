"""Forward and backward through one network: what each batch queues, layer by layer.

Structure and names follow the reference engine. Everything is queued; nothing waits.
steps.py uses the gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedmlp_cupy.kernels import launches

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedmlp_cupy.batches import BatchSequence
    from fusedmlp_cupy.kernels.arguments import Batch
    from fusedmlp_cupy.runtime.types import DeviceArray
    from fusedmlp_cupy.training.context import Context
    from fusedmlp_cupy.training.layers import LayerOperations
    from fusedmlp_cupy.training.parameters import ParameterArrays


class Propagation:
    """A network's layers and the arrays between them.

    Attributes
    ----------
    a
        (batch_size, width) of the inputs and of each layer's activation.
    delta
        (batch_size, H) of each hidden layer.
    z
        (batch_size, H) of each hidden layer where the derivative needs it, else empty.
    """

    def __init__(
        self, context: Context, parameters: ParameterArrays, layers: LayerOperations
    ) -> None:
        self._context, self._parameters, self.layers = context, parameters, layers
        self.a = self.activation_buffers(context.batch_size)
        empty, rows = context.device.empty, context.batch_size
        hidden = context.network.sizes[1:-1]
        self.delta = [empty((rows, H), context.dtype) for H in hidden]
        self.z = [empty((rows, H), context.dtype) for H in hidden if context.network.keeps_z]

    def activation_buffers(self, rows: int) -> list[DeviceArray]:
        """One (rows, width) array for the inputs and for each layer's activation."""
        context = self._context
        return [
            context.device.empty((rows, width), context.dtype) for width in context.network.sizes
        ]

    def logits(
        self,
        a: list[DeviceArray],
        batch: Batch,
        sequence: BatchSequence | None,
        *,
        keep_z: bool = False,
    ) -> None:
        """Fill a behind a[0] = x[rows]: a[l + 1] = f(a[l]·W[l] + b[l]), a[L] = a[L - 1]·W[L - 1].

        The output kernels add the last bias, as the activation kernels add the others.
        """
        own, last = self._parameters, self._context.network.n_layers - 1
        for layer, (W, b) in enumerate(zip(own.W, own.b, strict=True)):
            if layer == last:
                self.layers.logits(a[layer], W, a[layer + 1])
            else:
                dropout = sequence.dropout_of(layer) if sequence else None
                z = self.z[layer][: batch.size] if keep_z and self.z else None
                self.layers.activations(a[layer], W, b, a[layer + 1], batch, dropout, z)

    def outputs(self, a: list[DeviceArray], batch: Batch) -> None:
        """Fill a behind a[0]; a[L] becomes the network's outputs."""
        self.logits(a, batch, None)
        program, output = self._context.program, self._context.network.output
        launches.output_activation(program, a[-1], self._parameters.b[-1], output)

    def losses(
        self,
        a: list[DeviceArray],
        batch: Batch,
        sequence: BatchSequence,
        *,
        gathered: bool = False,
        keep_z: bool = False,
    ) -> None:
        """Gather a batch and fill a; a[L] becomes the output delta, and the rows' losses are kept.

        Parameters
        ----------
        sequence
            Has dropout in training.
        gathered
            Whether the batch is in a[0] already.
        keep_z
            Whether a backward pass follows, which may need z.
        """
        program, output = self._context.program, self._context.network.output
        if not gathered:
            sequence.gather(program, batch, a[0])
        self.logits(a, batch, sequence, keep_z=keep_z)
        bias = self._parameters.b[-1]
        launches.output_delta(program, a[-1], bias, output, batch, sequence.targets)

    def backward(
        self, batch: Batch, sequence: BatchSequence, x: DeviceArray | None = None
    ) -> Iterator[tuple[int, DeviceArray, DeviceArray]]:
        """Go forward and backward; yield each layer's index, delta and inputs, the last first.

        Its gradients are dW[l] = a[l]ᵀ·delta[l + 1] and db[l] = 1ᵀ·delta[l + 1]. When a layer is
        yielded, delta[l] = (delta[l + 1]·W[l]ᵀ) ⊙ f'(z[l]) has been queued, so W[l] may change.

        Parameters
        ----------
        x
            (B, D) inputs of the batch where they have been gathered.
        """
        a = [buffer[: batch.size] for buffer in self.a]
        if x is not None:
            a[0] = x
        sequence.square_weights(self._context.program, self._parameters.W, batch)
        self.losses(a, batch, sequence, gathered=x is not None, keep_z=True)
        delta = a[-1]
        for layer in reversed(range(self._context.network.n_layers)):
            above = delta
            if layer:
                delta = self.delta[layer - 1][: batch.size]
                W, dropout = self._parameters.W[layer], sequence.dropout_of(layer - 1)
                saved = self.z[layer - 1][: batch.size] if self.z else a[layer]
                self.layers.backpropagate_delta(above, W, saved, delta, batch, dropout)
            yield layer, above, a[layer]
