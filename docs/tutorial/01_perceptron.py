r"""
1. The perceptron
=================

A perceptron is the smallest neural network: one neuron. It takes a few numbers and answers yes or
no. This chapter shows its parts, computes its answer with NumPy, and draws what it can separate.
After it you can read the expression :math:`xW + b` and say what each part does.
"""

# %%
# A decision to make
# ------------------
#
# A bank grants or refuses loans. It knows three numbers about each client: the age in years, the
# salary per month, and the years in the present job. The bank wants a rule that turns these three
# numbers into one answer, 1 for *grant* and 0 for *refuse*.
#
# A row of numbers describes one client. The table of all clients is a matrix with one row for each
# client and one column for each input.
import matplotlib.pyplot as plt
import numpy as np

# Colours of Okabe and Ito, which people with colour blindness can tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"

x = np.array([[25.0, 900.0, 1.0], [40.0, 2500.0, 6.0]])  # age, salary, years in the job
N, D = x.shape
print(f"{N} clients, {D} inputs each")

# %%
# The whole tutorial uses these letters for sizes: ``N`` rows of data, ``B`` rows of a batch, ``D``
# inputs, ``H`` units of a hidden layer, ``K`` outputs and ``L`` layers.

# %%
# The parts of a perceptron
# -------------------------
#
# A perceptron multiplies each input by a number of its own, its *weight*. It adds the products and
# one more number, the *bias*. The result is the *weighted sum* :math:`z`. A *step* turns it into
# the answer: 1 if :math:`z` is above 0, else 0.
PARTS = [  # x and y of the centre, text, colour
    *[(0.0, y, f"$x_{i}$", BLUE) for i, y in ((1, 2.0), (2, 1.0), (3, 0.0))],
    (2.2, 1.0, r"$\Sigma$", ORANGE),
    (3.9, 1.0, "step", GREEN),
    (5.4, 1.0, r"$\hat{y}$", BLUE),
]
ARROWS = [  # from part, to part, text
    *[(i, 3, f"$w_{i + 1}$") for i in range(3)],
    (3, 4, "$z$"),
    (4, 5, ""),
]

fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
for start, stop, text in ARROWS:
    (x0, y0), (x1, y1) = PARTS[start][:2], PARTS[stop][:2]
    arrow = {"arrowstyle": "-|>", "color": GREY, "shrinkA": 24, "shrinkB": 24, "lw": 1.5}
    ax.annotate("", (x1, y1), (x0, y0), arrowprops=arrow)
    ax.text((x0 + x1) / 2, (y0 + y1) / 2 + 0.13, text, fontsize=14, ha="center", va="bottom")
ax.annotate("$b$", (2.2, 1.0), (2.2, 2.2), size=14, ha="center", arrowprops=arrow | {"shrinkA": 1})
for centre_x, centre_y, text, colour in PARTS:
    ax.plot(centre_x, centre_y, "o", ms=42, mfc="white", mec=colour, mew=2.5)
    ax.text(centre_x, centre_y, text, fontsize=14, ha="center", va="center")
for column, text in ((0, "inputs"), (2.2, "weighted sum"), (3.9, "activation"), (5.4, "output")):
    ax.text(column, -0.75, text, fontsize=11, ha="center", color=GREY)
ax.set(xlim=(-0.6, 6), ylim=(-1, 2.5), title="The parts of a perceptron")
ax.axis("off")
plt.show()

# %%
# As a formula, with the row of inputs :math:`x` of shape (1, D), the column of weights :math:`W` of
# shape (D, 1) and the bias :math:`b`, one number:
#
# .. math::
#
#    z = xW + b = \sum_{i=1}^{D} x_i w_i + b,
#    \qquad
#    \hat y = \begin{cases} 1 & z > 0 \\ 0 & \text{otherwise.} \end{cases}
#
# The bank chooses its weights by hand. It ignores the age, so that weight is 0. Each unit of
# salary adds 0.001 and each year in the job adds 0.5. The bias of −3 is the hurdle: a loan is
# granted when the products add up to more than 3.
W = np.array([[0.0], [0.001], [0.5]])  # (D, 1)
b = np.array([-3.0])  # (1,)

for row in x:
    products = row * W[:, 0]
    z = products.sum() + b[0]
    print(f"{row} → products {products}, z = {z:+.1f}, answer {int(z > 0)}")

# %%
# The matrix product does the same for all rows at once. Read the shapes:
# (N, D) times (D, 1) is (N, 1), one weighted sum for each client.


def perceptron(x, W, b):
    """Answer 0 or 1 for each row of x: shapes (N, D), (D, 1), (1,) → (N,)."""
    z = x @ W + b
    return (z[:, 0] > 0).astype(int)


print(perceptron(x, W, b))
assert perceptron(x, W, b).tolist() == [0, 1]

# %%
# The step
# --------
#
# The step is the *activation function* of the perceptron. It keeps the sign of :math:`z` and drops
# the size: a client just above the hurdle gets the same answer as a client far above it.
z = np.linspace(-4, 4, 801)
fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.plot(z, z > 0, color=GREEN, lw=2.5)
for z_client, y_hat, text in zip((x @ W + b)[:, 0], (0, 1), ("refused", "granted"), strict=True):
    ax.plot(z_client, y_hat, "o", ms=9, color=ORANGE)
    ax.annotate(text, (z_client, y_hat), (0, 12), textcoords="offset points", ha="center")
ax.set(xlabel="$z$", ylabel=r"$\hat{y}$", yticks=[0, 1], ylim=(-0.2, 1.35), title="The step")
plt.show()

# %%
# A perceptron draws a line
# -------------------------
#
# Two inputs fit on a page, so take the salary and the years in the job of 40 clients. The bank
# tells which of them paid their loans back: the *labels* :math:`y`, 1 or 0. The clients are random
# numbers here.
rng = np.random.default_rng(1)
candidates = np.column_stack([rng.uniform(500, 4500, 80), rng.uniform(0, 10, 80)])
worth = candidates @ np.array([0.001, 0.5]) - 4.5
clear = np.abs(worth) > 0.7  # leave out the clients that are hard to decide
clients, labels = candidates[clear][:40], (worth[clear][:40] > 0).astype(int)
print(clients.shape, labels.shape, "paid back:", labels.sum())

# %%
# The points with :math:`xW + b = 0` form a straight line. On one side of it :math:`z` is above 0
# and the answer is 1, on the other side the answer is 0. To *train* a perceptron means to place
# this line. The weights set its direction, the bias moves it.
#
# Here are two perceptrons with different weights. Both answer right for all 40 clients.
LINES = {
    "A": (np.array([[0.001], [0.5]]), np.array([-4.5])),
    "B": (np.array([[0.0006], [0.5]]), np.array([-3.6])),
}


def draw_clients(ax):
    """Draw the clients: a square for each one that paid back, a circle for each that did not."""
    for label, marker, colour in ((0, "o", BLUE), (1, "s", RED)):
        chosen = clients[labels == label]
        ax.plot(*chosen.T, marker, color=colour, mec="white", ms=8, label=f"$y={label}$")
    ax.set(xlabel="salary per month", ylabel="years in the job", xlim=(400, 4600), ylim=(-0.5, 12))


fig, ax = plt.subplots(figsize=(6, 4.2), layout="constrained")
draw_clients(ax)
salary = np.array([400.0, 4600.0])
for (name, (W, b)), style in zip(LINES.items(), ("-", "--"), strict=True):
    years = -(salary * W[0, 0] + b[0]) / W[1, 0]  # where salary·w1 + years·w2 + b = 0
    ax.plot(salary, years, style, color="black", lw=2, label=f"line {name}")
    mistakes = np.sum(perceptron(clients, W, b) != labels)
    print(f"line {name}: {mistakes} mistakes")
    assert mistakes == 0
ax.legend(loc="upper right", ncols=2, framealpha=1)
ax.set_title("Two lines without a mistake")
plt.show()

# %%
# Which line is better? The number of mistakes does not say. Line B passes close to some clients,
# and a new client near it may get the wrong answer. The step hides this, because it drops the
# distance of a client from the line. Chapter 2 replaces the step by a function that keeps it.

# %%
# Why a step cannot learn
# -----------------------
#
# Could a program find the weights by itself? A first idea: change a weight a little, and keep the
# change if there are fewer mistakes. The picture counts the mistakes for many values of one weight.
# The other weight and the bias are those of line A.
W_a, b_a = LINES["A"]
weights = np.linspace(0, 1.5, 1501)
mistakes = [np.sum(perceptron(clients, np.array([W_a[0], [w]]), b_a) != labels) for w in weights]
fig, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
ax.plot(weights, mistakes, color=RED, lw=2)
ax.set(xlabel="$w_2$, the weight of the years", ylabel="mistakes", title="A staircase")
plt.show()
print(f"share of the small changes that change nothing: {np.mean(np.diff(mistakes) == 0):.0%}")
assert np.mean(np.diff(mistakes) == 0) > 0.9

# %%
# The curve is a staircase. On a stair a small change of the weight changes nothing, so it does not
# tell the program in which direction to go. Learning needs a slope, and a slope needs a smooth
# function in place of the step.

# %%
# The same with the library
# -------------------------
#
# In fusedmlp a perceptron is a network with ``D`` inputs and one sigmoid output. The sigmoid is the
# subject of the next chapter; ``predict`` applies the step to it. The tutorial uses the backend
# ``numpy``, because its code reads like the formulas.
from fusedmlp import MLP, Parameters

neuron = MLP([3, 1], output="sigmoid", backend="numpy", dtype="float64")
neuron.parameters = Parameters(
    weights=(np.array([[0.0], [0.001], [0.5]]),), biases=(np.array([-3.0]),)
)
print(neuron.predict(x))
assert neuron.predict(x).tolist() == [0, 1]

# %%
# Try it
# ------
#
# 1. The bank now grants a loan to every client with more than four years in the job, whatever the
#    salary. Which weights and which bias do this?
# 2. Multiply all weights and the bias by 10. Does any answer change? And by −1?
# 3. Write the logical functions *and* and *or* of two inputs, each 0 or 1, as perceptrons. Try
#    *exclusive or* for a minute too; chapter 4 returns to it.
#
# Next: :doc:`02_sigmoid_and_cross_entropy`.
