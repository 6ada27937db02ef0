r"""
5. Backpropagation
==================

Gradient descent needs one number for each weight: how fast the loss changes when this weight
grows. Backpropagation computes all these numbers together. It starts at the loss and goes back
through the network, one layer at a time.

This page derives its three formulas. Beside each formula it shows the line of the NumPy engine
that computes it, read from the installed package. At the end, every number is checked.
"""

# %%
# A network small enough to look at
# ---------------------------------
#
# The network has ``D = 2`` inputs, one hidden layer with ``H = 3`` sigmoid units and ``K = 2``
# outputs. The batch has ``B = 6`` rows. All numbers are drawn at random, because the formulas hold
# for any of them.
import inspect

import matplotlib.pyplot as plt
import numpy as np

BLUE, ORANGE, GREEN, PINK, GREY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#7a7a7a"
colours = plt.cycler(color=[BLUE, ORANGE, GREEN, PINK])  # for any colour vision
plt.rcParams.update({"font.size": 11, "axes.prop_cycle": colours})

B, D, H, K = 6, 2, 3, 2
rng = np.random.default_rng(0)
x = rng.normal(size=(B, D))  # inputs, one row for each example
y = rng.integers(0, K, B)  # the right class of each row
W1, b1 = rng.normal(size=(D, H)), rng.normal(size=H)
W2, b2 = rng.normal(size=(H, K)), rng.normal(size=K)

# %%
# The forward pass is the one of the last chapter. With :math:`a_0 = x`:
#
# .. math::
#
#    z_1 = a_0 W_1 + b_1, \qquad a_1 = \sigma(z_1), \qquad
#    z_2 = a_1 W_2 + b_2, \qquad \hat y = \operatorname{softmax}(z_2).
#
# :math:`z_1` and :math:`a_1` have the shape ``(B, H)``; :math:`z_2` and :math:`\hat y` have the
# shape ``(B, K)``. The loss :math:`\ell` is one number. On this page it is the **sum** of
# :math:`-\log \hat y_y` over the rows of the batch.


def sigmoid(z):
    return 1 / (1 + np.exp(-z))


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def loss(W1, b1, W2, b2):
    a1 = sigmoid(x @ W1 + b1)
    y_hat = softmax(a1 @ W2 + b2)
    return -np.log(y_hat[np.arange(B), y]).sum()


print(f"loss {loss(W1, b1, W2, b2):.4f}")

# %%
# The slow way: move each weight
# ------------------------------
#
# The derivative of the loss with respect to a weight :math:`w` is a slope. It can be measured.
# Move the weight a little to both sides, and divide the change of the loss by the distance:
#
# .. math::
#
#    \frac{\partial \ell}{\partial w} \approx
#    \frac{\ell(w + \varepsilon) - \ell(w - \varepsilon)}{2\varepsilon}.
#
# This is called a *finite difference*. It needs no theory, so it can check the theory.


def finite_differences(function, array, step=1e-6):
    """Return the slope of function() with respect to each entry of an array, by moving it."""
    slopes = np.empty_like(array)
    for at in np.ndindex(array.shape):
        value = array[at]
        array[at] = value + step
        above = function()
        array[at] = value - step
        below = function()
        array[at] = value
        slopes[at] = (above - below) / (2 * step)
    return slopes


measured = [finite_differences(lambda: loss(W1, b1, W2, b2), each) for each in (W1, b1, W2, b2)]

# %%
# The picture shows the loss as a function of one weight, ``W2[0, 0]``, while all others stay where
# they are. The straight line has the measured slope.
offsets = np.linspace(-4, 4, 81)
curve = []
for offset in offsets:
    moved = W2.copy()
    moved[0, 0] += offset
    curve.append(loss(W1, b1, moved, b2))
here, slope = loss(W1, b1, W2, b2), measured[2][0, 0]

fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.plot(W2[0, 0] + offsets, curve, color=BLUE, linewidth=2, label="loss")
near = offsets[np.abs(offsets) <= 2]
ax.plot(W2[0, 0] + near, here + slope * near, "--", color=ORANGE, label=f"slope {slope:.3f}")
ax.plot(W2[0, 0], here, "o", color=ORANGE)
ax.set(xlabel="weight W2[0, 0]", ylabel="loss", title="The derivative is a slope")
ax.legend()
plt.show()

# %%
# Moving each weight costs two forward passes per weight. For the network of chapter 8, which reads
# handwritten digits, that is too much:
from fusedmlp import Network

n_parameters = Network((784, 256, 10)).n_parameters
print(f"{n_parameters:,} parameters: {2 * n_parameters:,} forward passes for one step")

# %%
# The chain rule
# --------------
#
# A weight of the first layer does not touch the loss directly. It changes :math:`z_1`, which
# changes :math:`a_1`, which changes :math:`z_2`, which changes the loss. The **chain rule** says
# how such changes combine:
#
# * *along a path*, the slopes are **multiplied**: if :math:`u` changes :math:`v` and :math:`v`
#   changes :math:`\ell`, then
#   :math:`\frac{\partial\ell}{\partial u} =
#   \frac{\partial\ell}{\partial v}\,\frac{\partial v}{\partial u}`;
# * *over several paths*, the products are **added**.
#
# All paths end at the loss. So the computation begins there. It keeps one intermediate result for
# each layer, the **delta**:
#
# .. math::
#
#    \delta_l = \frac{\partial \ell}{\partial z_l}, \qquad \text{of the shape of } z_l.
#
# A delta says how the loss changes with the weighted sums of a layer. The picture shows the order
# of the computation: values go to the right, deltas come back to the left.
fig, ax = plt.subplots(figsize=(6.4, 3), layout="constrained")
boxes = {"$x$": 0, "$z_1$": 1.4, "$a_1$": 2.8, "$z_2$": 4.2, "$\\hat y$": 5.6, "$\\ell$": 7}
for name, left in boxes.items():
    frame = {"boxstyle": "circle,pad=0.45", "facecolor": "white", "edgecolor": "black"}
    ax.text(left, 0, name, ha="center", va="center", fontsize=14, bbox=frame)
starts = list(boxes.values())[:-1]
operations = ["$W_1, b_1$", "$\\sigma$", "$W_2, b_2$", "softmax", "$-\\log$"]
for left, operation in zip(starts, operations, strict=True):
    arrow = {"arrowstyle": "->", "color": BLUE, "linewidth": 2}
    ax.annotate("", (left + 1.05, 0), (left + 0.35, 0), arrowprops=arrow)
    ax.text(left + 0.7, 0.42, operation, ha="center", color=BLUE)
back = {"arrowstyle": "->", "color": ORANGE, "linewidth": 2}
curved = back | {"connectionstyle": "arc3,rad=-0.35"}
ax.annotate("", (4.3, -0.4), (6.9, -0.4), arrowprops=curved)
ax.text(5.6, -1.25, "(1)  $\\delta_2$", ha="center", color=ORANGE, fontsize=13)
ax.annotate("", (1.5, -0.4), (4.1, -0.4), arrowprops=curved)
ax.text(2.8, -1.25, "(3)  $\\delta_1$", ha="center", color=ORANGE, fontsize=13)
for left, gradient in ((0.55, "$\\nabla W_1, \\nabla b_1$"), (3.5, "$\\nabla W_2, \\nabla b_2$")):
    ax.annotate("", (left, 1.35), (left + 0.6, 0.75), arrowprops=back)
    ax.text(left, 1.5, f"(2)  {gradient}", ha="center", color=ORANGE, fontsize=13)
ax.set(xlim=(-0.7, 7.5), ylim=(-1.6, 1.9), title="Forward to the right, backward to the left")
ax.axis("off")
plt.show()

# %%
# Formula 1: the last delta is the error
# --------------------------------------
#
# For one row of class :math:`y`, softmax and cross-entropy together are
#
# .. math::
#
#    \ell = -\log\frac{e^{z_y}}{\sum_j e^{z_j}} = \log\sum_j e^{z_j} - z_y.
#
# The derivative of the logarithm of a sum is the derivative of the sum, divided by the sum. The
# second term only depends on :math:`z_y`. So for each output :math:`k`
#
# .. math::
#
#    \frac{\partial \ell}{\partial z_k}
#    = \frac{e^{z_k}}{\sum_j e^{z_j}} - [k = y] = \hat y_k - [k = y],
#
# where :math:`[k = y]` is 1 for the right class and 0 for the others. For the batch:
#
# .. math:: \delta_L = \hat y - y. \tag{1}
#
# The last delta is the prediction minus the truth. In NumPy the truth needs no array of zeros
# and ones: subtract 1 in the column of the right class.
a1 = sigmoid(x @ W1 + b1)
z2 = a1 @ W2 + b2

delta2 = softmax(z2)
delta2[np.arange(B), y] -= 1

# %%
# The function below finds one line in the source code of the NumPy engine. It fails if the line is
# not there, so this page cannot show old code.
from fusedmlp.reference.engine import ReferenceEngine
from fusedmlp.reference.outputs import softmax_cross_entropy


def engine_line(function, beginning):
    """Return the only line of a function's source code with this beginning."""
    lines = [line.strip() for line in inspect.getsource(function).splitlines()]
    (found,) = [line for line in lines if line.startswith(beginning)]
    return found


backward = vars(ReferenceEngine)["_backward"]

# %%
# In the engine, ``z`` holds :math:`e^{z_k}` at this point, and ``total`` holds the sums:
print(engine_line(softmax_cross_entropy, "z /= "))
print(engine_line(softmax_cross_entropy, "z[each, y]"))

# %%
# To check formula (1), move the entries of :math:`z_2` and measure the loss:


def loss_from_logits():
    return -np.log(softmax(z2)[np.arange(B), y]).sum()


difference = np.abs(delta2 - finite_differences(loss_from_logits, z2)).max()
print(f"largest difference {difference:.1e}")
assert difference < 1e-8

# %%
# For the first three rows of the batch: the probabilities, and below them the deltas. The delta of
# the right class is negative, because a larger :math:`z` there makes the loss smaller. The deltas
# of a row add up to 0. A row that is predicted well has small deltas and changes little.
fig, axes = plt.subplots(2, 3, figsize=(6.4, 4), sharex=True, sharey="row", layout="constrained")
for row in range(3):
    fill = [GREEN if k == y[row] else GREY for k in range(K)]
    axes[0, row].bar(range(K), softmax(z2)[row], color=fill)
    axes[0, row].set_title(f"row {row}, class {y[row]}")
    axes[1, row].bar(range(K), delta2[row], color=fill)
    axes[1, row].axhline(0, color="black", linewidth=1)
    axes[1, row].set(xticks=range(K), xlabel="output $k$")
axes[0, 0].set_ylabel("$\\hat y$")
axes[1, 0].set_ylabel("$\\delta_2$")
fig.suptitle("Green: the right class")
plt.show()

# %%
# Formula 2: from a delta to the gradients of its layer
# -----------------------------------------------------
#
# The weight :math:`W_{ij}` connects input :math:`i` of a layer with unit :math:`j`. It is part of
# one sum, in every row :math:`b` of the batch:
#
# .. math:: z_{l,bj} = \sum_i a_{l-1,bi}\,W_{l,ij} + b_{l,j}.
#
# The slope of this sum with respect to the weight is :math:`a_{l-1,bi}`. The slope of the loss with
# respect to the sum is :math:`\delta_{l,bj}`. Multiply them along the path, and add over the rows:
#
# .. math::
#
#    \frac{\partial \ell}{\partial W_{l,ij}} = \sum_b a_{l-1,bi}\,\delta_{l,bj},
#    \qquad\text{that is}\qquad
#    \nabla W_l = a_{l-1}^\top\,\delta_l, \qquad \nabla b_l = \mathbf 1^\top \delta_l. \tag{2}
#
# The bias has the slope 1, so its gradient is the sum of the deltas over the rows. The gradients
# have the shapes of the parameters: ``(H, B) @ (B, K)`` is ``(H, K)``, the shape of ``W2``.
dW2 = a1.T @ delta2
db2 = delta2.sum(axis=0)

# %%
# In the engine, ``f`` is the input of the layer:
print(engine_line(backward, "f = a["))
print(engine_line(backward, "self._operations.product(f.T"))
print(engine_line(backward, "self._operations.sum_rows"))

# %%
# Formula 3: from a delta to the delta before it
# ----------------------------------------------
#
# Unit :math:`j` of layer :math:`l` affects the loss through **every** unit :math:`k` of layer
# :math:`l+1`. There are several paths, so the products are added. Then one more slope follows,
# that of the activation :math:`a = f(z)`, for which :math:`\odot` multiplies entry by entry:
#
# .. math::
#
#    \frac{\partial \ell}{\partial a_{l,bj}} = \sum_k \delta_{l+1,bk}\,W_{l+1,jk},
#    \qquad\text{hence}\qquad
#    \delta_l = \bigl(\delta_{l+1} W_{l+1}^\top\bigr)\odot f'(z_l). \tag{3}
#
# The deltas go back through the same weights, with the matrix transposed. For the sigmoid,
# :math:`f'(z) = a\,(1-a)`: the value from the forward pass is enough.
delta1 = (delta2 @ W2.T) * a1 * (1 - a1)
dW1 = x.T @ delta1  # formula (2) again
db1 = delta1.sum(axis=0)

# %%
# In the engine, ``below`` becomes the delta of the layer before. ``hidden_delta`` multiplies it by
# the derivative of the activation:
from fusedmlp.reference.activations import sigmoid_delta

print(engine_line(backward, "self._operations.product(delta, "))
print(engine_line(backward, "hidden_delta("))
print()
print(inspect.getsource(sigmoid_delta))

# %%
# The picture shows formula (3) for the first row of the batch and the first hidden unit.
fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
frame = {"boxstyle": "round,pad=0.4", "facecolor": "white"}
for k, height in enumerate((1.0, -1.0)):
    arrow = {"arrowstyle": "->", "color": ORANGE, "linewidth": 2}
    ax.annotate("", (0.7, height * 0.2), (3.9, height * 0.9), arrowprops=arrow)
    text = f"$\\delta_{{2,{k}}}$ = {delta2[0, k]:.3f}"
    ax.text(5, height, text, ha="center", va="center", bbox=frame | {"edgecolor": BLUE})
    product = f"× {W2[0, k]:.3f}"
    ax.text(2.5, height * 0.95, product, ha="center", va="center", color=ORANGE)
total = delta2[0] @ W2[0]
ax.text(0.1, 0, f"sum\n{total:.3f}", ha="center", va="center", bbox=frame | {"edgecolor": ORANGE})
derivative = a1[0, 0] * (1 - a1[0, 0])
ax.annotate("", (-1.6, 0), (-0.55, 0), arrowprops=arrow)
ax.text(-1.1, 0.3, f"× {derivative:.3f}", ha="center", color=ORANGE)
text = f"$\\delta_{{1,0}}$\n{delta1[0, 0]:.4f}"
ax.text(-2.4, 0, text, ha="center", va="center", bbox=frame | {"edgecolor": BLUE})
ax.set(xlim=(-3.3, 6.3), ylim=(-1.6, 1.6), title="A hidden unit collects the deltas of all outputs")
ax.axis("off")
plt.show()

# %%
# All gradients, checked
# ----------------------
#
# The three formulas gave four gradients. The measured slopes say whether they are right. Every
# point of the picture is one weight or bias.
computed = [dW1, db1, dW2, db2]
for name, ours, theirs in zip(("dW1", "db1", "dW2", "db2"), computed, measured, strict=True):
    difference = np.abs(ours - theirs).max()
    print(f"{name}  shape {ours.shape!s:7}  largest difference {difference:.1e}")
    assert difference < 1e-8

fig, ax = plt.subplots(figsize=(5, 4.4), layout="constrained")
for name, marker, ours, theirs in zip(
    ("dW1", "db1", "dW2", "db2"), "os^D", computed, measured, strict=True
):
    ax.plot(theirs.ravel(), ours.ravel(), marker, label=name, markersize=8, alpha=0.8)
ends = [min(each.min() for each in measured), max(each.max() for each in measured)]
ax.plot(ends, ends, color=GREY, zorder=0)
ax.set(xlabel="measured slope", ylabel="backpropagation", title="Both ways give the same numbers")
ax.legend()
plt.show()

# %%
# Any depth
# ---------
#
# Formula (1) is for the last layer alone. Every layer uses (2), and every layer but the last uses
# (3). So a network of any depth needs one loop, from the last layer to the first. This is the whole
# loop of the engine. The lines with ``dropout``, ``l2`` and ``rate`` are for chapter 7 and for the
# learning rate.
print(inspect.getsource(backward))

# %%
# With ``reduction == "mean"`` the engine divides the last delta by the number of rows. All other
# lines stay the same, because each of them only multiplies and adds deltas.
#
# To see that the loop is right, take a network with four layers of weights. The engine computes its
# gradients, and finite differences of the engine's own loss check them.
from fusedmlp import MLP, SGD, Objective, Parameters
from fusedmlp.backend import EngineSpec, State

mlp = MLP([2, 5, 4, 3, 2], backend="numpy", dtype="float64", seed=1)
_, backend = mlp.select_backend()
spec = EngineSpec(mlp.network, SGD(), Objective("mean"), batch_size=B, dtype="float64", seed=0)
engine = backend.compile(spec)
data = engine.stage(x, y)
arrays = list(mlp.parameters)  # W1, b1, W2, b2, …


def engine_loss():
    engine.load(State(Parameters(tuple(arrays[0::2]), tuple(arrays[1::2])), (), 0))
    return engine.evaluate(data).loss


engine_loss()
_, gradients = engine.loss_and_gradients(data, np.arange(B))
worst = max(
    np.abs(gradient - finite_differences(engine_loss, array)).max()
    for gradient, array in zip(gradients, arrays, strict=True)
)
print(f"{mlp.network.n_parameters} parameters, largest difference {worst:.1e}")
assert worst < 1e-8

# %%
# Try it
# ------
#
# 1. Leave out ``* a1 * (1 - a1)`` in ``delta1``. Which of the four checks fail, and why do the
#    others still pass?
# 2. Set ``step`` in ``finite_differences`` to ``0.1``, then to ``1e-13``. The differences grow in
#    both cases, for two different reasons. What are they?
# 3. Replace the sigmoid by ``np.tanh``, whose derivative is :math:`1 - a^2`. Which lines have to
#    change?
#
# Next: :doc:`06_neural_net` puts these formulas into a class of your own.
