r"""
3. Gradient descent
===================

Chapter 2 defined a number that says how bad a neuron is: the loss. This chapter makes the loss
small. It starts with one weight, goes on to a path on a surface, and ends with a neuron that learns
the loan example. After it you can write a training loop, choose a learning rate, and say why inputs
are standardised.
"""

# %%
# The clients
# -----------
#
# The bank of chapter 1 has 200 old loans. For each it knows the age, the salary per month and the
# years in the job of the client, and whether the loan was paid back. Real clients are not separated
# by a plane: some with good numbers do not pay, and some with bad numbers do. So each label here
# is drawn with a probability, and no neuron can be right for all of them.
import matplotlib.pyplot as plt
import numpy as np

# Colours of Okabe and Ito, which people with colour blindness can tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"


def sigmoid(z):
    """σ(z) = 1 / (1 + e⁻ᶻ), elementwise."""
    return 1 / (1 + np.exp(-z))


N = 200
rng = np.random.default_rng(0)
age = rng.uniform(20, 65, N)
years = rng.uniform(0, 1, N) * np.minimum(age - 18, 15)
salary = rng.uniform(500, 4500, N)
x_raw = np.column_stack([age, salary, years])  # (N, D)
p_true = sigmoid(x_raw @ np.array([0.0, 0.0015, 0.6]) - 6)
y = (rng.random(N) < p_true).astype(float)[:, None]  # (N, 1)

print("mean     ", x_raw.mean(axis=0).round(1))
print("deviation", x_raw.std(axis=0).round(1))
print(f"paid back: {y.mean():.0%}")

# %%
# Age, salary and years are numbers of very different sizes. We first *standardise* them: subtract
# the mean of each column and divide by its standard deviation. Then each column has mean 0 and
# deviation 1. The reason comes later in this chapter, with a measurement.
mean, deviation = x_raw.mean(axis=0), x_raw.std(axis=0)
x = (x_raw - mean) / deviation
assert np.allclose(x.mean(axis=0), 0)
assert np.allclose(x.std(axis=0), 1)

# %%
# Downhill with one weight
# ------------------------
#
# Take one input, the years in the job, and one weight :math:`w`; keep the bias at 1. For each
# :math:`w` the loss is a number, so the loss is a curve. Training means to find the lowest point.


def loss(x, y, W, b):
    """Mean binary cross-entropy: x (N, D), y (N, 1), W (D, 1), b (1,)."""
    z = x @ W + b
    return np.mean(np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z))))


x1 = x[:, [2]]  # (N, 1), the years
w = np.linspace(-1.5, 3.5, 201)
curve = [loss(x1, y, np.array([[value]]), np.array([1.0])) for value in w]

# %%
# At a point of the curve the *slope* tells how the loss changes with :math:`w`. If it is negative,
# a larger :math:`w` has a smaller loss. So we go against the slope. A step is the slope times a
# number that we choose, the *learning rate* :math:`\eta`:
#
# .. math::
#
#    w \leftarrow w - \eta\, \frac{\partial\, \text{loss}}{\partial w}.


def slope_at(w, h=1e-5):
    """Slope of the loss at w, from two values of the loss close to it."""
    above, below = (loss(x1, y, np.array([[w + d]]), np.array([1.0])) for d in (h, -h))
    return (above - below) / (2 * h)


lr = 2.0
fig, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
ax.plot(w, curve, color=GREY, lw=2)
point = -1.0
for step in range(5):
    height, slope = np.interp(point, w, curve), slope_at(point)
    print(f"step {step}: w = {point:+.3f}, loss = {height:.4f}, slope = {slope:+.4f}")
    ax.plot(point, height, "o", color=BLUE, ms=9, zorder=3)
    if step < 2:
        tangent = np.array([point - 0.8, point + 0.8])
        ax.plot(tangent, height + slope * (tangent - point), color=ORANGE, lw=2)
        arrow = {"arrowstyle": "-|>", "color": BLUE, "lw": 1.8}
        ax.annotate("", (point - lr * slope, height), (point, height), arrowprops=arrow)
    point -= lr * slope
ax.set(xlabel="$w$", ylabel="loss", title="Steps against the slope")
plt.show()

# %%
# The steps become shorter by themselves, because the slope becomes smaller towards the lowest
# point.

# %%
# The gradient
# ------------
#
# With several weights there is a slope for each. All of them together are the *gradient*. Two
# values of the loss for each weight would give it, but a network has many thousand weights.
# Calculus gives all slopes at the price of about one loss.
#
# The loss of one row is :math:`\ell(z, y)`. It depends on the weights through the logit :math:`z`
# alone, so the chain rule has two parts. The first part is, with :math:`p = \sigma(z)` and
# :math:`\sigma'(z) = p\,(1-p)` from chapter 2,
#
# .. math::
#
#    \frac{\partial \ell}{\partial z}
#    = \frac{\partial \ell}{\partial p}\,\frac{\partial p}{\partial z}
#    = \Bigl(-\frac{y}{p} + \frac{1-y}{1-p}\Bigr)\, p\,(1-p)
#    = p - y.
#
# This is the *error*: the probability that was given minus the label. The second part is
# :math:`\partial z / \partial w_i = x_i` and :math:`\partial z / \partial b = 1`. The mean over
# ``N`` rows, written with matrices, is
#
# .. math::
#
#    \delta = \tfrac1N\,(p - y), \qquad
#    \nabla W = x^\top \delta, \qquad
#    \nabla b = \mathbf 1^\top \delta,
#
# where :math:`\delta` has shape (N, 1), :math:`x^\top` has shape (D, N), and :math:`\nabla W` has
# the shape of :math:`W`, (D, 1). The column :math:`\mathbf 1` of ones, transposed, sums the rows.


def gradients(x, y, W, b):
    """Gradients dW (D, 1) and db (1,) of the loss."""
    delta = (sigmoid(x @ W + b) - y) / len(x)
    return x.T @ delta, delta.sum(axis=0)


# %%
# Always check a gradient that you derived. For every weight it must agree with the slope
# from two values of the loss.
W, b, h = np.array([[0.3], [-0.2], [0.5]]), np.array([0.1]), 1e-5
dW, db = gradients(x, y, W, b)
for i in range(3):
    shift = np.zeros_like(W)
    shift[i] = h
    difference = (loss(x, y, W + shift, b) - loss(x, y, W - shift, b)) / (2 * h)
    print(f"w{i + 1}: formula {dW[i, 0]:+.8f}, two losses {difference:+.8f}")
    assert np.isclose(dW[i, 0], difference, atol=1e-9)

# %%
# A path on a surface
# -------------------
#
# One weight and the bias together: for each pair :math:`(w, b)` the loss is a height, and the loss
# is a surface. The lines of the map connect points of equal loss. The gradient is perpendicular to
# these lines and points uphill, so each step goes straight downhill from where it starts. All three
# paths start at the same point.


def descend(x, y, W, b, lr, steps):
    """Gradient descent from W and b: the (W, b) before each step, and after the last."""
    path = [(W, b)]
    for _ in range(steps):
        dW, db = gradients(x, y, W, b)
        W, b = W - lr * dW, b - lr * db
        path.append((W, b))
    return path


RATES = {
    0.05: ("too small", GREEN, "o-"),
    2.0: ("right", BLUE, "s-"),
    14.0: ("too large", RED, "^-"),
}
start = np.array([[-1.5]]), np.array([3.0])
paths = {lr: descend(x1, y, *start, lr, 30) for lr in RATES}

w_grid, b_grid = np.meshgrid(np.linspace(-2.5, 5, 121), np.linspace(-3.5, 4.5, 121))
z = x1[:, 0, None, None] * w_grid + b_grid  # (N, 121, 121)
label = y[:, :, None]
surface = (np.maximum(z, 0) - z * label + np.log1p(np.exp(-np.abs(z)))).mean(axis=0)

fig, ax = plt.subplots(figsize=(6, 5.4), layout="constrained")
levels = surface.min() + np.array([0.005, 0.03, 0.1, 0.25, 0.5, 0.9, 1.4, 2.0, 2.8])
ax.contour(w_grid, b_grid, surface, levels, colors="silver", linewidths=1)
for lr, (text, colour, style) in RATES.items():
    w_path = [W[0, 0] for W, _ in paths[lr]]
    b_path = [b[0] for _, b in paths[lr]]
    ax.plot(w_path, b_path, style, color=colour, ms=5, lw=1.3, label=f"η = {lr:g}, {text}")
ax.plot(*(value.ravel() for value in start), "*", color="black", ms=15)
ax.set(xlabel="$w$", ylabel="$b$", title="Three learning rates", xlim=(-2.5, 5), ylim=(-3.5, 4.5))
ax.legend(loc="lower right")
plt.show()

# %%
# The loss after each step shows the same without the map. In practice there are too many
# weights for a map, and this curve is what you look at.
fig, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
for lr, (text, colour, style) in RATES.items():
    losses = [loss(x1, y, W, b) for W, b in paths[lr]]
    ax.plot(losses, style, color=colour, ms=4, lw=1.3, label=f"η = {lr:g}, {text}")
    print(f"η = {lr:5g}: loss {losses[0]:.3f} at the start, {losses[-1]:.3f} after 30 steps")
ax.set(xlabel="step", ylabel="loss", title="The loss after each step")
ax.legend()
plt.show()

last = {lr: loss(x1, y, *path[-1]) for lr, path in paths.items()}
assert last[2.0] < 0.7 * last[14.0]
assert last[2.0] < 0.6 * last[0.05]

# %%
# - **Too small**: the loss falls, but after 30 steps it is still far from its lowest value.
# - **Right**: the loss falls fast at first and then stays near its lowest value.
# - **Too large**: a step jumps over the valley and lands higher on the other side. The loss goes up
#   and down and never settles.
#
# A good rate is found by trying: multiply it by 3 until the loss starts to jump, then go back one
# step.

# %%
# Train the neuron on the loan example
# ------------------------------------
#
# Now all three inputs. Predict, compute the gradient, take a step, repeat: this loop is all there
# is to training, here and in networks of any size. The weights at the start are wrong on purpose:
# a high salary counts against the client.
W_start, b_start = np.array([[0.0], [-2.0], [1.0]]), np.array([0.0])
W, b, lr = W_start, b_start, 1.0
lines = {}
for step in range(501):
    if step in (0, 1, 3, 10, 30, 100, 500):
        accuracy = np.mean((x @ W + b > 0) == (y > 0.5))
        print(f"step {step:3d}: loss {loss(x, y, W, b):.4f}, accuracy {accuracy:.1%}")
        lines[step] = (W, b)
    dW, db = gradients(x, y, W, b)
    W, b = W - lr * dW, b - lr * db
W, b = lines[500]
print("weights (age, salary, years):", W[:, 0].round(2), "bias:", b.round(2))

# %%
# The labels were drawn with weight 0 for the age, and the neuron found a weight close to 0. As the
# inputs are standardised, the sizes of the weights can be compared: the years count most.
assert abs(W[0, 0]) < 0.1 * W[1, 0] < 0.1 * W[2, 0]

# %%
# In the plane of salary and years, at the mean age, the line of :math:`p = \frac12` turns and moves
# while the neuron learns. The shades show the probability at the end:
# red for likely, blue for unlikely.
plane = np.meshgrid(np.linspace(300, 4700, 80), np.linspace(-0.5, 15.5, 80))
rows = np.column_stack([np.full(80 * 80, mean[0]), plane[0].ravel(), plane[1].ravel()])
rows = (rows - mean) / deviation

fig, ax = plt.subplots(figsize=(6, 4.6), layout="constrained")
p = sigmoid(rows @ W + b).reshape(80, 80)
shades = ax.contourf(*plane, p, np.linspace(0, 1, 11), cmap="RdBu_r", alpha=0.4)
fig.colorbar(shades, label="$p$ after 500 steps", ticks=[0, 0.5, 1])
for label, marker, colour in ((0, "o", BLUE), (1, "s", RED)):
    chosen = x_raw[y[:, 0] == label]
    ax.plot(chosen[:, 1], chosen[:, 2], marker, color=colour, mec="white", ms=6)
for step, style in ((0, ":"), (3, "-."), (10, "--"), (500, "-")):
    z = (rows @ lines[step][0] + lines[step][1]).reshape(80, 80)
    ax.contour(*plane, z, [0], colors="black", linestyles=style, linewidths=2)
    ax.plot([], [], color="black", ls=style, lw=2, label=f"step {step}")
ax.set(xlabel="salary per month", ylabel="years in the job", title="The neuron learns the loans")
ax.legend(loc="upper right", framealpha=1)
plt.show()

# %%
# A new client must be standardised with the *same* mean and deviation, those of the 200 loans that
# the neuron was trained on.
new = np.array([[25.0, 900.0, 1.0], [40.0, 2500.0, 6.0]])
p_new = sigmoid((new - mean) / deviation @ W + b)[:, 0]
for row, p in zip(new, p_new, strict=True):
    print(f"{row}: pays back with probability {p:.2f}")
assert p_new[0] < 0.5 < p_new[1]

# %%
# Why standardise?
# ----------------
#
# Try the same loop on the raw columns. Salaries are in the thousands, so their weight has a huge
# slope, and a rate of 1 would throw it far away. A rate that is small enough for the salary is far
# too small for the bias and the years. The valley of the loss is steep in one direction and almost
# flat in the others. A single learning rate cannot suit both.
fig, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
results = {}
for name, inputs, lr, colour, style in (
    ("standardised, η = 1", x, 1.0, BLUE, "-"),
    ("raw, η = 10⁻⁶", x_raw, 1e-6, GREEN, "--"),
    ("raw, η = 10⁻⁵", x_raw, 1e-5, RED, ":"),
):
    path = descend(inputs, y, np.zeros((3, 1)), np.zeros(1), lr, 60)
    losses = [loss(inputs, y, W_step, b_step) for W_step, b_step in path]
    ax.plot(losses, style, color=colour, lw=2, label=name)
    results[name] = np.mean(losses[-20:])
ax.set(xlabel="step", ylabel="loss", ylim=(0, 4), title="Raw and standardised inputs")
ax.legend(loc="upper right", framealpha=1)
plt.show()
for name, value in results.items():
    print(f"{name}: mean loss of the last 20 steps {value:.3f}")
standardised, slow, jumping = results.values()
assert standardised < 0.35 < 0.5 < slow < jumping

# %%
# How uneven is the valley? Its curvature in each direction follows from the second derivatives of
# the loss, :math:`\tfrac1N \sum_i p_i(1-p_i)\, \tilde x_i^\top \tilde x_i`, where
# :math:`\tilde x_i` is the row :math:`x_i` with a 1 appended for the bias. The largest curvature
# limits the learning rate, the smallest one sets the number of steps. Their ratio should be
# small.
p = sigmoid(x @ W + b)
ratios = {}
for name, inputs in (("raw", x_raw), ("standardised", x)):
    with_one = np.column_stack([inputs, np.ones(N)])  # (N, D + 1)
    curvatures = np.linalg.eigvalsh(with_one.T @ (p * (1 - p) * with_one) / N)
    ratios[name] = curvatures[-1] / curvatures[0]
    print(f"{name:12}: steepest curvature / flattest curvature = {ratios[name]:,.0f}")
assert ratios["raw"] > 1e6 * ratios["standardised"]

# %%
# The same with the library
# -------------------------
#
# ``Trainer`` runs the loop. One batch of all rows, no shuffling and the same weights at the start
# make it the loop above. The weights agree to the last digits.
from fusedmlp import MLP, SGD, Parameters, Trainer

neuron = MLP([3, 1], output="sigmoid", backend="numpy", dtype="float64")
neuron.parameters = Parameters((W_start,), (b_start,))
trainer = Trainer(SGD(lr=1.0), epochs=500, batch_size=N, shuffle=False)
history = trainer.fit(neuron, x, y)

print("library:", neuron.parameters.weights[0][:, 0], neuron.parameters.biases[0])
print("by hand:", W[:, 0], b)
assert np.allclose(neuron.parameters.weights[0], W, rtol=1e-12, atol=1e-13)
assert np.isclose(history.column("train_loss")[0], loss(x, y, W_start, b_start))

# %%
# Try it
# ------
#
# 1. Convert the trained weights back to the raw columns: which ``W_raw`` and ``b_raw`` give the
#    same :math:`z` from ``x_raw``? Compare them with the numbers that drew the labels.
# 2. Start the path on the surface at :math:`w = 4, b = -3`. Does the best learning rate change?
# 3. Take each step with 20 random rows in place of all 200. What does the loss curve look like?
#    This is *stochastic* gradient descent, which chapter 8 uses.
#
# Next: :doc:`04_from_neuron_to_network`.
