r"""
6. A network of your own
========================

The formulas of chapter 5 fit into one small class. This page writes it in NumPy, checks its
gradients against the NumPy engine of the library, and trains it to read small digits.
"""

# %%
# Two functions that do not overflow
# ----------------------------------
#
# Written as in the formula, sigmoid and softmax fail for large numbers: :math:`e^{1000}` does not
# fit into a 64-bit float. NumPy computes infinity, and infinity divided by infinity is ``nan``, not
# a number.
import matplotlib.pyplot as plt
import numpy as np

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7a7a7a"
colours = plt.cycler(color=[BLUE, ORANGE, GREEN])  # for any colour vision
plt.rcParams.update({"font.size": 11, "axes.prop_cycle": colours})

with np.errstate(over="ignore", invalid="ignore"):
    e = np.exp(np.array([1000.0, 0.0]))
    print(e / e.sum())

# %%
# Two small changes avoid this and leave the values the same:
#
# * Softmax: subtract the largest :math:`z_k` of the row from all of them. This multiplies the
#   numerator and the denominator by the same number, and no exponent is above 0.
# * Sigmoid: use :math:`\sigma(z) = \tfrac12\bigl(1 + \tanh\tfrac z2\bigr)`. The function ``tanh``
#   has no overflow.


def softmax(z):
    """Return the probabilities (B, K) of the logits z (B, K)."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def sigmoid(z):
    """Return 1 / (1 + e^-z) for each entry of z."""
    return 0.5 * (1 + np.tanh(0.5 * z))


print(softmax(np.array([[1000.0, 0.0]])), sigmoid(np.array([-1000.0, 0.0, 1000.0])))

# %%
# The class
# ---------
#
# The class has one method for each task:
#
# * ``forward`` computes :math:`\hat y` and keeps ``a0, z1, a1, z2, a2`` in a cache;
# * ``backward`` reads the cache and returns ``dW1, db1, dW2, db2``, by formulas (1) to (3);
# * ``train`` repeats: forward, backward, and one step against the gradient;
# * ``get_loss`` and ``predict`` use the trained network.
#
# The loss is the **mean** over the rows, so ``backward`` divides the last delta by ``B``. The first
# weights are random numbers of both signs, from an interval that depends on the numbers of inputs
# and outputs of the layer (Glorot and Bengio, 2010). Chapter 8 shows a choice that is not as good.


class NeuralNet:
    """A network with a hidden layer of sigmoid units and a softmax output.

    ``input_dim``, ``hidden_dim`` and ``output_dim`` are D, H and K; ``seed`` draws the weights.
    """

    def __init__(self, input_dim, hidden_dim, output_dim, seed=0):
        rng = np.random.default_rng(seed)
        bound1 = np.sqrt(6 / (input_dim + hidden_dim))
        bound2 = np.sqrt(6 / (hidden_dim + output_dim))
        self.W1 = rng.uniform(-bound1, bound1, (input_dim, hidden_dim))
        self.b1 = np.zeros(hidden_dim)
        self.W2 = rng.uniform(-bound2, bound2, (hidden_dim, output_dim))
        self.b2 = np.zeros(output_dim)

    def forward(self, x):
        """Return the probabilities (B, K) of the rows x (B, D)."""
        a0 = x
        z1 = a0 @ self.W1 + self.b1
        a1 = sigmoid(z1)
        z2 = a1 @ self.W2 + self.b2
        a2 = softmax(z2)
        self.cache = {"a0": a0, "z1": z1, "a1": a1, "z2": z2, "a2": a2}
        return a2

    def backward(self, y):
        """Return the gradients of the mean loss; forward has just seen the rows of y (B,)."""
        a0, a1, a2 = self.cache["a0"], self.cache["a1"], self.cache["a2"]
        delta2 = a2.copy()
        delta2[np.arange(len(y)), y] -= 1  # (1)
        delta2 /= len(y)
        dW2 = a1.T @ delta2  # (2)
        db2 = delta2.sum(axis=0)
        delta1 = (delta2 @ self.W2.T) * a1 * (1 - a1)  # (3)
        dW1 = a0.T @ delta1  # (2)
        db1 = delta1.sum(axis=0)
        return dW1, db1, dW2, db2

    def train(self, x, y, lr=0.5, iterations=1000):
        """Take steps of gradient descent on all rows; return the loss before each step."""
        losses = []
        for _ in range(iterations):
            losses.append(self.get_loss(x, y))
            dW1, db1, dW2, db2 = self.backward(y)
            self.W1 -= lr * dW1
            self.b1 -= lr * db1
            self.W2 -= lr * dW2
            self.b2 -= lr * db2
        return losses

    def get_loss(self, x, y):
        """Return the mean of -log(probability of the right class), computed from the logits."""
        self.forward(x)
        z = self.cache["z2"]
        m = z.max(axis=1)
        log_sums = np.log(np.exp(z - m[:, None]).sum(axis=1)) + m
        return (log_sums - z[np.arange(len(y)), y]).mean()

    def predict(self, x):
        """Return the most probable class (B,) of each row."""
        return self.forward(x).argmax(axis=1)


# %%
# Check it against the NumPy engine
# ---------------------------------
#
# A wrong gradient often still reduces the loss, only more slowly. So a class like this needs a
# check before it is used. The engine gets the same weights and the same rows, and returns its
# loss and its gradients.
from fusedmlp import MLP, SGD, Objective, Parameters
from fusedmlp.backend import EngineSpec, State


def engine_loss_and_gradients(net, x, y):
    """Return the loss and the gradients of the NumPy engine, for the weights of a NeuralNet."""
    mlp = MLP((*net.W1.shape, net.W2.shape[1]), backend="numpy", dtype="float64")
    mlp.parameters = Parameters((net.W1, net.W2), (net.b1, net.b2))
    _, backend = mlp.select_backend()
    spec = EngineSpec(
        mlp.network, SGD(), Objective("mean"), batch_size=len(y), dtype="float64", seed=0
    )
    engine = backend.compile(spec)
    engine.load(State(mlp.parameters, (), 0))
    metrics, gradients = engine.loss_and_gradients(engine.stage(x, y), np.arange(len(y)))
    return metrics.loss, tuple(gradients)


rng = np.random.default_rng(1)
x, y = rng.normal(size=(20, 4)), rng.integers(0, 3, 20)
net = NeuralNet(4, 5, 3)
loss = net.get_loss(x, y)
engine_loss, engine_gradients = engine_loss_and_gradients(net, x, y)
print(f"loss  {loss:.12f}  engine  {engine_loss:.12f}")
for name, ours, theirs in zip(
    ("dW1", "db1", "dW2", "db2"), net.backward(y), engine_gradients, strict=True
):
    difference = np.abs(ours - theirs).max()
    print(f"{name}  shape {ours.shape!s:7}  largest difference {difference:.1e}")
    assert difference < 1e-14

# %%
# Digits of 8 × 8 pixels
# ----------------------
#
# scikit-learn brings 1,797 small pictures of handwritten digits. Each has 64 pixels between 0
# (white) and 1 (black), so ``D = 64``. There are ``K = 10`` classes. A fifth of the pictures is
# kept for the test, and the network never trains on it.
from fusedmlp import load_dataset

data = load_dataset("digits")
print("to train on", data.x_train.shape, " to test on", data.x_test.shape)

fig, axes = plt.subplots(2, 5, figsize=(6, 2.9), layout="constrained")
for ax, pixels, digit in zip(axes.flat, data.x_train, data.y_train, strict=False):
    ax.imshow(pixels.reshape(8, 8), cmap="gray_r")
    ax.set_title(f"class {digit}")
    ax.axis("off")
plt.show()

# %%
# A network with 32 hidden units, and 500 steps on all training pictures together:
x_train, x_test = data.x_train.astype(np.float64), data.x_test.astype(np.float64)
net = NeuralNet(64, 32, 10)
losses = net.train(x_train, data.y_train, lr=2.0, iterations=500)
train_accuracy = (net.predict(x_train) == data.y_train).mean()
test_accuracy = (net.predict(x_test) == data.y_test).mean()
print(f"loss {losses[0]:.3f} at the start, {losses[-1]:.3f} at the end")
print(f"accuracy {train_accuracy:.3f} on the training pictures, {test_accuracy:.3f} on the test")
assert test_accuracy > 0.95

# %%
# At the start all ten classes have about the same probability, and the loss is near
# :math:`\log 10 \approx 2.3`. Then it falls quickly, and more and more slowly.
fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.plot(losses, linewidth=2)
ax.axhline(np.log(10), linestyle="--", color=GREY)
ax.text(len(losses), np.log(10) * 0.85, "guessing: log 10", ha="right", color=GREY)
ax.set(xlabel="iteration", ylabel="training loss", yscale="log", title="The network learns")
ax.grid(alpha=0.3)
plt.show()

# %%
# Test pictures that it gets wrong, with the true class, an arrow, and its own answer. Some of them
# are hard for people too.
predicted = net.predict(x_test)
wrong = np.flatnonzero(predicted != data.y_test)
print(f"{len(wrong)} of {len(predicted)} test pictures are wrong")

fig, axes = plt.subplots(1, 5, figsize=(6, 1.7), layout="constrained")
for ax, row in zip(axes, wrong, strict=False):
    ax.imshow(x_test[row].reshape(8, 8), cmap="gray_r")
    ax.set_title(f"{data.y_test[row]} → {predicted[row]}")
for ax in axes:
    ax.axis("off")
plt.show()

# %%
# The same training with the library
# ----------------------------------
#
# ``MLP`` and ``Trainer`` do the same work. With the same first weights, plain gradient descent and
# all rows in each step, they end at the same weights, except for rounding errors.
from fusedmlp import Trainer

start = NeuralNet(64, 32, 10)
mlp = MLP([64, 32, 10], hidden="sigmoid", output="softmax", backend="numpy", dtype="float64")
mlp.parameters = Parameters((start.W1, start.W2), (start.b1, start.b2))
trainer = Trainer(SGD(2.0), epochs=500, batch_size=len(x_train), shuffle=False)
trainer.fit(mlp, x_train, data.y_train)

difference = max(
    np.abs(ours - theirs).max()
    for ours, theirs in zip((net.W1, net.b1, net.W2, net.b2), mlp.parameters, strict=True)
)
print(f"largest difference of a weight after 500 steps: {difference:.1e}")
assert difference < 1e-8
print(mlp.evaluate(x_test, data.y_test))

# %%
# The library adds what a class of this size lacks: any number of layers, other activations, losses
# and optimizers, small batches, validation, files, and compiled code. Its formulas are the same.
#
# Try it
# ------
#
# 1. Leave out ``delta2 /= len(y)``. By which factor are the gradients wrong? Which learning rate
#    gives the old result?
# 2. Set all first weights to 0. What is ``dW1`` at the first step, and why does the network not
#    learn to use its hidden units?
# 3. Train with 4, 8, 16 and 64 hidden units. How do the two accuracies change?
#
# Next: :doc:`07_moons` watches a network while it learns.
