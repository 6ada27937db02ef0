"""Forward and back through one network: what each batch queues, layer by layer.

The structure and the names are those of the NumPy engine. Everything is queued, nothing waits. What
becomes of the gradients is steps.py's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusedmlp_cupy import kernels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fusedmlp.network import Network
    from fusedmlp.types import FloatDtype
    from fusedmlp_cupy.call import Call
    from fusedmlp_cupy.device import CupyDevice
    from fusedmlp_cupy.kernels import Batch
    from fusedmlp_cupy.layers import Layers
    from fusedmlp_cupy.programs import DeviceArray, Program


class Passes:
    """A network's layers and what training leaves between them.

    Parameters
    ----------
    weights, biases
        (D, H) and (H,) of each layer.
    batch_size
        Rows of the largest batch.

    Attributes
    ----------
    a
        (batch_size, width) of the inputs and of each layer's activation.
    delta
        (batch_size, H) of each hidden layer.
    """

    def __init__(
        self,
        device: CupyDevice,
        program: Program,
        network: Network,
        layers: Layers,
        weights: tuple[DeviceArray, ...],
        biases: tuple[DeviceArray, ...],
        *,
        batch_size: int,
        dtype: FloatDtype,
    ) -> None:
        self._device, self._program, self._dtype = device, program, dtype
        self.network, self.layers = network, layers
        self.weights, self.biases = weights, biases
        self.a = self.activation_buffers(batch_size)
        self.delta = [device.empty((batch_size, H), dtype) for H in network.sizes[1:-1]]

    def activation_buffers(self, rows: int) -> list[DeviceArray]:
        """One (rows, width) array for the inputs and for each layer's activation."""
        return [self._device.empty((rows, width), self._dtype) for width in self.network.sizes]

    def logits(self, a: list[DeviceArray], batch: Batch, call: Call | None) -> None:
        """Fill a behind a[0] = x[rows]: a[l + 1] = f(a[l]·W[l] + b[l]), a[L] = a[L − 1]·W[L − 1].

        The last bias is left to the output kernels, as the activation's bias is to theirs.
        """
        last = self.network.n_layers - 1
        for layer, (W, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            if layer == last:
                self.layers.logits(a[layer], W, a[layer + 1])
            else:
                dropout = call.dropout_of(layer) if call else None
                self.layers.activations(a[layer], W, b, a[layer + 1], batch, dropout)

    def outputs(self, a: list[DeviceArray], batch: Batch) -> None:
        """Fill a behind a[0]; a[L] becomes the network's outputs."""
        self.logits(a, batch, None)
        kernels.output_activation(self._program, a[-1], self.biases[-1], self.network.output)

    def compare(
        self, a: list[DeviceArray], batch: Batch, call: Call, *, gathered: bool = False
    ) -> None:
        """Gather a batch and fill a; a[L] becomes the output delta, the rows' losses are noted.

        Parameters
        ----------
        call
            Silences hidden units where it is a training's.
        gathered
            Whether the batch is in a[0] already.
        """
        if not gathered:
            call.gather(self._program, batch, a[0])
        self.logits(a, batch, call)
        b, output = self.biases[-1], self.network.output
        kernels.output_delta(self._program, a[-1], b, output, batch, call.targets)

    def backward(
        self, batch: Batch, call: Call, x: DeviceArray | None = None
    ) -> Iterator[tuple[int, DeviceArray, DeviceArray]]:
        """Go forward and back; yield each layer with its delta and its inputs, the last first.

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
        self.compare(a, batch, call, gathered=x is not None)
        delta = a[-1]
        for layer in reversed(range(self.network.n_layers)):
            above = delta
            if layer:
                delta = self.delta[layer - 1][: batch.size]
                dropout = call.dropout_of(layer - 1)
                self.layers.below(above, self.weights[layer], a[layer], delta, batch, dropout)
            yield layer, above, a[layer]
