r"""
4. From one neuron to a network
===============================

One neuron separates with one straight line. This chapter shows data for which no line will do,
combines three neurons by hand into a network that solves the problem, and computes the forward pass
of a network with two layers, by hand and with the library. After it you can draw any network as a
row of matrices and say the shape of each.
"""

# %%
# Four points that no line separates
# ----------------------------------
#
# *Exclusive or*, XOR for short, of two inputs is 1 if exactly one of them is 1.
import matplotlib.pyplot as plt
import numpy as np

# Colours of Okabe and Ito, which people with colour blindness can tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"

x = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])  # (N, D)
y = np.array([0, 1, 1, 0])  # (N,)


def draw_points(ax, points, labels):
    """Draw a square for label 1 and a circle for label 0."""
    for label, marker, colour in ((0, "o", BLUE), (1, "s", RED)):
        chosen = points[labels == label]
        ax.plot(*chosen.T, marker, color=colour, mec="white", ms=13, label=f"$y={label}$")


fig, ax = plt.subplots(figsize=(5, 3.8), layout="constrained")
draw_points(ax, x, y)
ax.set(xlim=(-0.5, 1.9), ylim=(-0.5, 1.5), xlabel="$x_1$", ylabel="$x_2$", title="Exclusive or")
ax.set(xticks=[0, 1], yticks=[0, 1])
ax.legend()
plt.show()

# %%
# Try to lay a ruler between the squares and the circles. It cannot be done, and there is a short
# proof. A neuron that is right for all four points needs
#
# .. math::
#
#    \begin{aligned}
#    b &\le 0, \\
#    w_2 + b &> 0, \\
#    w_1 + b &> 0, \\
#    w_1 + w_2 + b &\le 0.
#    \end{aligned}
#
# The two in the middle add up to :math:`w_1 + w_2 + 2b > 0`. The first and the last add up to
# :math:`w_1 + w_2 + 2b \le 0`. Both cannot be true.
#
# Gradient descent does not find a way either. It ends where chapter 2 said that a neuron which
# knows nothing ends: at probability one half and loss :math:`\log 2`.


def sigmoid(z):
    """σ(z) = 1 / (1 + e⁻ᶻ), elementwise."""
    return 1 / (1 + np.exp(-z))


W, b = np.array([[0.5], [-0.3]]), np.array([0.2])
for _ in range(2000):
    delta = (sigmoid(x @ W + b) - y[:, None]) / len(x)
    W, b = W - 1.0 * x.T @ delta, b - 1.0 * delta.sum(axis=0)
p = sigmoid(x @ W + b)[:, 0]
loss = -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))
print(f"p = {p.round(6)}, loss = {loss:.6f}")
assert np.allclose(p, 0.5, atol=1e-6)
assert np.isclose(loss, np.log(2))

# %%
# Combine neurons
# ---------------
#
# Exclusive or is *at least one, but not both*. Each half of this sentence is a task for one neuron:
# *or*, and *not both*. A third neuron takes the answers of the first two and says *and*. The
# weights are large, so that the sigmoid is close to a step.
#
# The two neurons in front share their inputs. Their weights stand beside each other as the columns
# of one matrix :math:`W_1`, and one matrix product computes both.
W1 = np.array([[20.0, -20.0], [20.0, -20.0]])  # (D, H): column 0 is "or", column 1 "not both"
b1 = np.array([-10.0, 30.0])  # (H,)
W2 = np.array([[20.0], [20.0]])  # (H, 1): "and"
b2 = np.array([-30.0])  # (1,)

a1 = sigmoid(x @ W1 + b1)  # (N, H)
a2 = sigmoid(a1 @ W2 + b2)  # (N, 1)
print(" x1  x2   or  not both  network   y")
for inputs, hidden, output, label in zip(x, a1, a2, y, strict=True):
    print(
        "{:3.0f} {:3.0f} {:4.0f} {:9.0f}".format(*inputs, *hidden), f"{output[0]:8.4f} {label:3d}"
    )
assert np.array_equal(a2[:, 0] > 0.5, y == 1)

# %%
# Neurons between the inputs and the output are *hidden units*. Each hidden unit draws one line in
# the plane of the inputs. The network answers 1 in the strip between the lines.
#
# There is a second way to see it. The hidden units move the four points to new places. In the plane
# of :math:`a_1` two points meet, and one line separates the classes. So a network makes new inputs
# of the old ones, until a single neuron can do the rest.
grid = np.linspace(-0.5, 1.5, 201)
plane = np.stack(np.meshgrid(grid, grid), axis=-1)  # (201, 201, 2)
fig, (left, right) = plt.subplots(1, 2, figsize=(6.4, 3.5), layout="constrained")
hidden = sigmoid(plane @ W1 + b1)
left.contourf(grid, grid, sigmoid(hidden @ W2 + b2)[..., 0], cmap="RdBu_r", alpha=0.4)
for unit, style in ((0, "-"), (1, "--")):
    left.contour(grid, grid, hidden[..., unit], [0.5], colors="black", linestyles=style)
draw_points(left, x, y)
left.set(title="inputs $x$", xlabel="$x_1$", ylabel="$x_2$", xticks=[0, 1], yticks=[0, 1])
right.contourf(grid, grid, sigmoid(plane @ W2 + b2)[..., 0], cmap="RdBu_r", alpha=0.4)
draw_points(right, a1, y)
right.set(title="hidden units $a_1$", xlabel="or", ylabel="not both", xticks=[0, 1], yticks=[0, 1])
for ax in (left, right):
    ax.set_aspect("equal")
plt.show()
assert np.allclose(a1[1], a1[2])

# %%
# Why the sigmoid in the middle matters
# -------------------------------------
#
# Without an activation two layers are no better than one. They compute the same as one layer with
# the weights :math:`W_1 W_2` and the bias :math:`b_1 W_2 + b_2`:
#
# .. math::
#
#    (xW_1 + b_1)W_2 + b_2 = x(W_1 W_2) + (b_1 W_2 + b_2).
two_layers = (x @ W1 + b1) @ W2 + b2
one_layer = x @ (W1 @ W2) + (b1 @ W2 + b2)
print(two_layers[:, 0], one_layer[:, 0])
assert np.allclose(two_layers, one_layer)

# %%
# The network as a row of matrices
# --------------------------------
#
# A network with one hidden layer has ``D`` inputs, ``H`` hidden units and ``K`` outputs. In the
# picture each line is a weight. All lines from one column to the next are one matrix. Each unit
# of the hidden layer and of the output has a bias too.
D, H, K = 2, 3, 2
LAYERS = ((D, "$x$", BLUE), (H, "$a_1$", GREEN), (K, r"$\hat{y}$", ORANGE))

fig, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
before = np.array([])  # heights of the units one column to the left
for column, (units, name, colour) in enumerate(LAYERS):
    heights = np.arange(units) - (units - 1) / 2
    if column:
        for start in before:
            for stop in heights:
                ax.plot([column - 1, column], [start, stop], color=GREY, lw=1, zorder=0)
        ax.text(column - 0.5, 1.3, f"$W_{column},\\ b_{column}$", fontsize=14, ha="center")
    ax.plot(np.full(units, column), heights, "o", ms=34, mfc="white", mec=colour, mew=2.5)
    ax.text(column, -1.7, name, fontsize=14, ha="center")
    before = heights
for column, text in enumerate((f"{D} inputs", f"{H} hidden units", f"{K} outputs")):
    ax.text(column, -2.1, text, fontsize=11, ha="center", color=GREY)
ax.set(xlim=(-0.4, 2.4), ylim=(-2.3, 1.8), title="A network with one hidden layer")
ax.axis("off")
plt.show()

# %%
# The same network as matrices, for a batch of ``B`` rows. Read it from left to right: the inner
# sizes of a product must be equal, and the outer ones remain. A bias has one number for each column
# and is added to every row.
B = 4
STRIPS = (
    (("$x$", B, D, BLUE), ("$W_1$", D, H, GREY), ("$b_1$", 1, H, GREY), ("$a_1$", B, H, GREEN)),
    (("$a_1$", B, H, GREEN), ("$W_2$", H, K, GREY), ("$b_2$", 1, K, GREY),
     (r"$\hat{y}$", B, K, ORANGE)),
)  # fmt: skip
fig, axes = plt.subplots(2, 1, figsize=(6, 4.6), layout="constrained")
for ax, strip, function in zip(axes, STRIPS, (r"$\sigma$", "softmax"), strict=True):
    left_edge, gap = 0.0, 2.7
    for (name, rows, columns, colour), sign in zip(strip, ("·", "+", "→", ""), strict=True):
        grid_x, grid_y = np.arange(columns + 1) + left_edge, np.arange(rows + 1) - rows / 2
        ax.vlines(grid_x, grid_y[0], grid_y[-1], color=colour, lw=2)
        ax.hlines(grid_y, grid_x[0], grid_x[-1], color=colour, lw=2)
        ax.text(left_edge + columns / 2, 2.3, name, fontsize=14, ha="center")
        ax.text(left_edge + columns / 2, -2.9, f"({rows}, {columns})", fontsize=11, ha="center")
        ax.text(left_edge + columns + gap / 2, 0, sign, fontsize=16, ha="center", va="center")
        left_edge += columns + gap
    ax.text(left_edge - gap - strip[-1][2] - gap / 2, 0.6, function, fontsize=11, ha="center")
    ax.set(xlim=(-0.5, 19.5), ylim=(-3.3, 3.2))
    ax.set_aspect("equal")
    ax.axis("off")
fig.suptitle("The forward pass as matrices")
plt.show()

# %%
# As formulas, with :math:`a_0 = x` and the hidden activation :math:`\sigma`:
#
# .. math::
#
#    \begin{aligned}
#    z_1 &= a_0 W_1 + b_1, & a_1 &= \sigma(z_1), \\
#    z_2 &= a_1 W_2 + b_2, & a_2 &= \operatorname{softmax}(z_2).
#    \end{aligned}
#
# The last activation :math:`a_2` is the output :math:`\hat y`. :math:`z_1` and :math:`a_1` have
# shape (B, H), :math:`z_2` and :math:`a_2` have shape (B, K).
#
# :math:`W_1` has shape (D, H), :math:`b_1` (H,), :math:`W_2` (H, K) and :math:`b_2` (K,). The
# number of parameters is :math:`(D + 1)H + (H + 1)K`. Computing the outputs from the inputs is the
# *forward pass*.

# %%
# A forward pass by hand
# ----------------------
#
# Four rows, random weights, one line of code for each formula.
rng = np.random.default_rng(0)
W1, b1 = rng.normal(size=(D, H)), rng.normal(size=H)
W2, b2 = rng.normal(size=(H, K)), rng.normal(size=K)
a0 = rng.normal(size=(B, D))

z1 = a0 @ W1 + b1
a1 = sigmoid(z1)
z2 = a1 @ W2 + b2
e = np.exp(z2 - z2.max(axis=1, keepdims=True))
a2 = e / e.sum(axis=1, keepdims=True)

for name, array in (("a0", a0), ("z1", z1), ("a1", a1), ("z2", z2), ("a2", a2)):
    print(f"{name} {array.shape}\n{array.round(3)}")
assert np.allclose(a2.sum(axis=1), 1)

# %%
# Each row of ``a2`` has the probabilities of the classes and adds up to 1. The library computes the
# same network. The largest difference is a few units in the last digit of a float64 number.
from fusedmlp import MLP, Parameters

mlp = MLP([D, H, K], hidden="sigmoid", output="softmax", backend="numpy", dtype="float64")
mlp.parameters = Parameters(weights=(W1, W2), biases=(b1, b2))
print(mlp.summary())
y_hat = mlp.forward(a0)
print("largest difference:", np.abs(y_hat - a2).max())
print("classes:", mlp.predict(a0), "by hand:", a2.argmax(axis=1))
np.testing.assert_array_max_ulp(y_hat, a2, maxulp=4)
assert mlp.network.n_parameters == (D + 1) * H + (H + 1) * K

# %%
# More units, more lines
# ----------------------
#
# Two half moons need a bent boundary. One neuron draws its best straight line. ``Trainer`` finds
# the weights, with 20 rows for each step.
from sklearn.datasets import make_moons

from fusedmlp import SGD, Trainer, plot

x, y = make_moons(200, noise=0.2, random_state=0)
trainer = Trainer(SGD(lr=3.0), epochs=150, batch_size=20)

neuron = MLP([2, 1], output="sigmoid", backend="numpy", dtype="float64")
trainer.fit(neuron, x, y)
straight = neuron.evaluate(x, y).accuracy
plot.decision_boundary(neuron, x, y).set_title(f"One neuron: {straight:.1%} right")
plt.show()

# %%
# A network with five hidden units bends five lines into one curve. How the trainer gets the
# gradients of a network is the subject of chapter 5.
network = MLP([2, 5, 2], backend="numpy", dtype="float64")
trainer.fit(network, x, y)
bent = network.evaluate(x, y).accuracy
plot.decision_boundary(network, x, y).set_title(f"Five hidden units: {bent:.1%} right")
plt.show()
assert straight < 0.9 < 0.95 < bent

# %%
# Try it
# ------
#
# 1. Build the network for *exclusive or* from other pieces: one unit says *x₁ but not x₂*, the
#    other *x₂ but not x₁*. What does the output neuron say?
# 2. A network of sizes 784-256-10 reads digits. How many parameters does it have? Check your answer
#    with ``MLP([784, 256, 10]).summary()``.
# 3. Train the moons with 1, 2, 3 and 20 hidden units. How many lines does each boundary bend?
#
# Next: :doc:`05_backpropagation`.
