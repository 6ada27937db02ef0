"""JAX on CPU or GPU: the whole epoch is one compiled scan that gathers its own batches.

The parameters are donated, so that they are updated in place. Pixels stay bytes and are divided
batch by batch: as fast as floats, in a quarter of the memory.
"""

from __future__ import annotations

from functools import partial

import jax
import numpy as np
from jax import numpy as jnp

from adapters import TF32_SLACK
from fusedmlp.bench.adapter import Adapter, Outcome, Training, UnsupportedError
from fusedmlp.optimizers import Adam

# A state is: layers [(W, b), …], both moments of Adam (empty for SGD), and the steps taken.


def logits_of(task, layers, x, key=None):
    """Run the network up to its logits; with a key, with dropout."""
    hidden = jax.nn.relu if task.hidden == "relu" else jax.nn.sigmoid
    keep = 1.0 - task.dropout
    for layer, (W, b) in enumerate(layers[:-1]):
        x = hidden(x @ W + b)
        if key is not None:
            kept = jax.random.bernoulli(jax.random.fold_in(key, layer), keep, x.shape)
            x = jnp.where(kept, x / keep, 0)
    W, b = layers[-1]
    return x @ W + b


def loss_of(layers, task, x, y, key):
    """Mean loss; and its sum and the number of rows classified correctly."""
    logits = logits_of(task, layers, x, key)
    # A product with one-hot rows: the gradient of take_along_axis would be a scatter.
    truth = jax.nn.one_hot(y, task.sizes[-1], dtype=logits.dtype)
    total = -jnp.sum(truth * jax.nn.log_softmax(logits))
    return total / len(y), (total, jnp.sum(logits.argmax(axis=1) == y))


def updated(task, state, gradients):
    """Take one step of the optimizer."""
    layers, first, second, t = state
    t = t + 1
    if task.optimizer == "sgd":
        return jax.tree.map(lambda p, g: p - task.lr * g, layers, gradients), first, second, t
    adam = Adam(task.lr)
    first = jax.tree.map(lambda m, g: adam.beta1 * m + (1 - adam.beta1) * g, first, gradients)
    second = jax.tree.map(lambda v, g: adam.beta2 * v + (1 - adam.beta2) * g * g, second, gradients)
    c1, c2 = (1 - beta ** t.astype(layers[0][0].dtype) for beta in (adam.beta1, adam.beta2))

    def moved(p, m, v):
        return p - task.lr * (m / c1) / (jnp.sqrt(v / c2) + adam.eps)

    return jax.tree.map(moved, layers, first, second), first, second, t


@partial(jax.jit, static_argnames="task", donate_argnames="state")
def train(task, state, x, y, batches, rest):
    """Train on whole batches (n, B) in a scan, then on the smaller last one, if there is any."""
    key = jax.random.key(0, impl="rbg") if task.dropout else None

    def step(state, rows):
        batch = x, y
        if not task.is_full_batch:
            pixels = x.dtype == jnp.uint8
            batch = (x[rows].astype(task.dtype) / 255 if pixels else x[rows]), y[rows]
        drawn = None if key is None else jax.random.fold_in(key, state[3])
        gradients, sums = jax.grad(loss_of, has_aux=True)(state[0], task, *batch, drawn)
        return updated(task, state, gradients), sums

    state, (losses, correct) = jax.lax.scan(step, state, batches)
    sums = losses.sum(), correct.sum()
    if len(rest):
        state, last = step(state, rest)
        sums = sums[0] + last[0], sums[1] + last[1]
    return state, sums


def layers_of(inputs):
    start = zip(inputs.start.weights, inputs.start.biases, strict=True)
    return [(jnp.array(W), jnp.array(b)) for W, b in start]


class ScanTraining(Training):
    def __init__(self, task, inputs, slack):
        self._task, self.exact, self.slack = task, not task.dropout, slack
        self._x, self._y = jnp.asarray(inputs.x), jnp.asarray(inputs.y.astype(np.int32))
        layers, adam = layers_of(inputs), task.optimizer == "adam"
        moments = [jax.tree.map(jnp.zeros_like, layers) if adam else [] for _ in range(2)]
        self._state = (layers, *moments, jnp.zeros((), jnp.int32))

    def epoch(self, order):
        B, rows = self._task.batch_size, order.astype(np.int32)
        whole = len(rows) - len(rows) % B
        batches = rows[:whole].reshape(-1, B)
        if self._task.is_full_batch:
            batches = batches[:, :0]  # only their number counts
        self._state, (loss, correct) = train(
            self._task, self._state, self._x, self._y, batches, rows[whole:]
        )
        return Outcome(float(loss) / len(order), int(correct) / len(order))

    def weights(self):
        return [np.asarray(a) for layer in self._state[0] for a in layer]


class JaxScan(Adapter):
    """JAX on its default platform; on the CPU, the process's affinity limits its threads.

    Parameters
    ----------
    precision
        ``float32``, or ``tensorfloat32`` for products in TF32, which only GPUs have.
    platform
        The platform that is required, such as ``gpu``; empty for any.
    """

    packages = ("jax", "jaxlib")

    def __init__(self, threads, precision="float32", platform=""):
        super().__init__(threads)
        if platform and jax.default_backend() != platform:
            raise UnsupportedError(f"jax {jax.__version__} runs on {jax.default_backend()} here")
        self._slack = TF32_SLACK if precision == "tensorfloat32" else 1.0
        jax.config.update("jax_default_matmul_precision", precision)

    def device(self):
        found = jax.devices()[0]
        return ("", False) if found.platform == "cpu" else (found.device_kind, True)

    def training(self, task, inputs):
        jax.config.update("jax_enable_x64", task.dtype == "float64")
        return ScanTraining(task, inputs, self._slack)

    def prediction(self, task, inputs):
        run = jax.jit(lambda layers, x: jax.nn.softmax(logits_of(task, layers, x)))
        layers = layers_of(inputs)
        return lambda x: np.asarray(run(layers, x))
