r"""
2. Sigmoid, likelihood and cross-entropy
========================================

A neuron that answers with a probability says more than yes or no, and it can be graded. This
chapter replaces the step by the sigmoid, derives the loss that grades a neuron, and computes this
loss so that no number overflows. After it you can read a value such as "loss 0.35".
"""

# %%
# The sigmoid
# -----------
#
# The *sigmoid* turns any real number :math:`z` into a number between 0 and 1:
#
# .. math::
#
#    \sigma(z) = \frac{1}{1 + e^{-z}}, \qquad \sigma(0) = \tfrac12, \qquad
#    \sigma(-z) = 1 - \sigma(z).
#
# We read it as a probability: :math:`p = \sigma(z)` is the probability that the label :math:`y`
# is 1. For large :math:`z` it is close to 1, for very negative :math:`z` close to 0. At
# :math:`z = 0`, where the step jumps, the neuron says one half.
import matplotlib.pyplot as plt
import numpy as np

# Colours of Okabe and Ito, which people with colour blindness can tell apart.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#666666"


def sigmoid(z):
    """σ(z) = 1 / (1 + e⁻ᶻ), elementwise."""
    return 1 / (1 + np.exp(-z))


z = np.linspace(-6, 6, 1201)
fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
ax.plot(z, z > 0, "--", color=GREY, lw=1.5, label="step")
ax.plot(z, sigmoid(z), color=BLUE, lw=2.5, label=r"$\sigma(z)$")
ax.plot(0, 0.5, "o", color=ORANGE, ms=9)
ax.set(xlabel="$z$", ylabel="$p$", yticks=[0, 0.5, 1], title="The sigmoid and the step")
ax.legend()
plt.show()
print("z", np.array([-4.0, -1.0, 0.0, 1.0, 4.0]))
print("p", sigmoid(np.array([-4.0, -1.0, 0.0, 1.0, 4.0])).round(3))

# %%
# The sigmoid has a slope everywhere, and the slope follows from the value:
# :math:`\sigma'(z) = \sigma(z)\,(1 - \sigma(z))`. It is largest at :math:`z = 0`, where it is one
# quarter. A program that knows the slope knows in which direction to change a weight. Chapter 3
# does this.
slope = sigmoid(z) * (1 - sigmoid(z))
measured = np.gradient(sigmoid(z), z)  # differences of neighbouring values
assert np.allclose(slope[1:-1], measured[1:-1], atol=1e-5)

fig, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
ax.plot(z, slope, color=GREEN, lw=2.5)
ax.set(xlabel="$z$", ylabel=r"$\sigma'(z)$", title="The slope of the sigmoid")
plt.show()

# %%
# Likelihood: how well does a neuron explain the labels?
# ------------------------------------------------------
#
# Chapter 1 drew two lines that both separate the clients that paid back, :math:`y = 1`, from those
# that did not, :math:`y = 0`. Here are the same 40 clients and the same two lines. The columns of
# ``x`` are the salary per month and the years in the job.
rng = np.random.default_rng(1)
candidates = np.column_stack([rng.uniform(500, 4500, 80), rng.uniform(0, 10, 80)])
worth = candidates @ np.array([0.001, 0.5]) - 4.5
clear = np.abs(worth) > 0.7
x, y = candidates[clear][:40], (worth[clear][:40] > 0).astype(int)  # (N, D) and (N,)

NEURONS = {
    "A": (np.array([0.001, 0.5]), -4.5),  # W (D,) and b
    "B": (np.array([0.0006, 0.5]), -3.6),
}
print("first labels:", y[:6])
for name, (W, b) in NEURONS.items():
    p = sigmoid(x @ W + b)  # (N,)
    print(f"neuron {name}: p = {p[:6].round(2)} …, {np.sum((p > 0.5) != y)} mistakes")
    assert np.array_equal(p > 0.5, y == 1)

# %%
# Both give the right answers, with different probabilities. To compare them, ask each neuron for
# the probability that it gives to the labels that were observed. For a client with :math:`y = 1`
# this is :math:`p`. For a client with :math:`y = 0` it is :math:`1 - p`. For independent clients
# the probabilities are multiplied. The product is the *likelihood* of the neuron:
#
# .. math::
#
#    \prod_{i=1}^{N} q_i, \qquad
#    q_i = \begin{cases} p_i & y_i = 1 \\ 1 - p_i & y_i = 0. \end{cases}
likelihood = {}
for name, (W, b) in NEURONS.items():
    p = sigmoid(x @ W + b)
    q = np.where(y == 1, p, 1 - p)
    likelihood[name] = q.prod()
    print(f"neuron {name}: q = {q[:6].round(2)} …, likelihood {q.prod():.2g}")
assert likelihood["A"] > 9 * likelihood["B"]

# %%
# Neuron A explains the labels better: its likelihood is nine times as large. The rule of *maximum
# likelihood* is to take the weights with the largest likelihood. It answers the question that the
# number of mistakes left open.

# %%
# From a product to a sum
# -----------------------
#
# A product of many probabilities soon becomes too small for a computer. The logarithm turns the
# product into a sum, which stays in range. It grows with its argument, so the best weights stay
# the best.
q = np.full(2000, 0.5)  # 2,000 clients, one half for each
print("product of the probabilities:", q.prod())
print("sum of their logarithms:     ", np.log(q).sum().round(1))
assert q.prod() == 0.0

# %%
# Logarithms of probabilities are negative. Turn the sign, and divide by ``N`` so that the number
# of clients does not matter: the result is the *loss*. Small is good. A maximum of the likelihood
# is a minimum of the loss.
#
# .. math::
#
#    \text{loss} = \frac1N \sum_{i=1}^{N} -\log q_i

# %%
# Why −log p
# ----------
#
# One client adds :math:`-\log q` to the sum, where :math:`q` is the probability that the neuron
# gave to what happened. Look at the curve from right to left. A neuron that was certain and
# right, :math:`q = 1`, pays nothing. A neuron that said one half pays :math:`\log 2`. A neuron that
# was certain and wrong, :math:`q` near 0, pays without bound. The straight line :math:`1 - q` never
# asks for more than 1: it charges a certain wrong answer little more than a doubtful one.
q = np.linspace(0.002, 1, 500)
fig, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
ax.plot(q, -np.log(q), color=RED, lw=2.5, label=r"$-\log q$")
ax.plot(q, 1 - q, "--", color=GREY, lw=1.5, label=r"$1 - q$")
for q_mark in (0.01, 0.1, 0.5, 1.0):
    loss = -np.log(q_mark) + 0.0  # adding 0.0 turns −0 into 0
    ax.plot(q_mark, loss, "o", color=ORANGE, ms=8)
    ax.annotate(f"{loss:.2f}", (q_mark, loss), (8, 4), textcoords="offset points")
ax.set(xlabel="$q$, the probability given to what happened", ylabel="loss of one row")
ax.set(title="The price of a probability", xlim=(-0.03, 1.12))
ax.legend()
plt.show()

# %%
# The binary cross-entropy
# ------------------------
#
# With labels 0 and 1 the two cases fit into one line, because one of the two factors :math:`y_i`
# and :math:`1 - y_i` is always 0. This loss is the *binary cross-entropy*:
#
# .. math::
#
#    -\frac1N \sum_{i=1}^{N} \bigl[\, y_i \log p_i + (1 - y_i) \log(1 - p_i) \,\bigr].


def cross_entropy(p, y):
    """Binary cross-entropy of probabilities p (N,) and labels y (N,)."""
    return -np.mean(y * np.log(p) + (1 - y) * np.log(1 - p))


for name, (W, b) in NEURONS.items():
    print(f"neuron {name}: loss {cross_entropy(sigmoid(x @ W + b), y):.4f}")
print(f"always one half: loss {cross_entropy(np.full(len(y), 0.5), y):.4f} = log 2")

# %%
# The last line is worth remembering: a neuron that knows nothing says one half, and its loss is
# :math:`\log 2 = 0.693`. And :math:`e^{-\text{loss}}` is a typical probability that the neuron
# gave to what happened, the geometric mean of the :math:`q_i`.

# %%
# The loss from the logit
# -----------------------
#
# The weighted sum :math:`z` is also called the *logit*. As a function of the logit, the loss of one
# client is a smooth curve for each label. Far on the wrong side the curve is nearly a straight line
# of slope 1, so the loss still tells in which direction to go.
z = np.linspace(-6, 6, 601)
fig, ax = plt.subplots(figsize=(6, 3.8), layout="constrained")
ax.plot(z, -np.log(sigmoid(z)), color=BLUE, lw=2.5, label=r"$-\log\,\sigma(z)$ for $y=1$")
ax.plot(
    z, -np.log(1 - sigmoid(z)), "--", color=ORANGE, lw=2.5, label=r"$-\log(1-\sigma(z))$ for $y=0$"
)
ax.set(xlabel="$z$", ylabel="loss of one row", title="The loss as a function of the logit")
ax.legend(loc="upper center")
plt.show()

# %%
# The formula with :math:`p` fails for large logits. In float64 :math:`\sigma(-800)` is 0, whose
# logarithm is infinite. And :math:`\sigma(40)` is exactly 1, so a small loss becomes 0. A
# network that meets such a row would stop learning.
with np.errstate(over="ignore", divide="ignore"):
    print("y = 1, z = −800:", -np.log(sigmoid(-800.0)), " the true loss is 800")
    print("y = 1, z =   40:", -np.log(sigmoid(40.0)), "  the true loss is", np.exp(-40.0))

# %%
# The way out does not compute :math:`p` at all. For :math:`y = 1`
#
# .. math::
#
#    -\log \sigma(z) = \log(1 + e^{-z}) = -z + \log(1 + e^{z}).
#
# The first form is safe for :math:`z \ge 0` and the second for :math:`z < 0`, because the exponent
# is then never above 0. For :math:`y = 0` replace :math:`z` by :math:`-z`. One formula has all four
# cases:
#
# .. math::
#
#    \ell(z, y) = \max(z, 0) - z\,y + \log\bigl(1 + e^{-|z|}\bigr).
#
# NumPy's ``log1p(t)`` computes :math:`\log(1 + t)` without losing a small :math:`t`.


def loss_from_logit(z, y):
    """Binary cross-entropy of each row, from its logit; z and y are (N,)."""
    return np.maximum(z, 0) - z * y + np.log1p(np.exp(-np.abs(z)))


print(loss_from_logit(np.array([-800.0, 40.0]), np.array([1, 1])))
for label in (0, 1):
    p = sigmoid(z)
    with_p = -np.log(p if label else 1 - p)
    assert np.allclose(loss_from_logit(z, label), with_p, rtol=1e-12)

# %%
# The picture uses float32, the usual precision of neural networks. The formula with :math:`p` ends
# where it becomes infinite. The formula with the logit goes on.
z32 = np.linspace(-150, 0, 601, dtype=np.float32)
with np.errstate(over="ignore", divide="ignore"):
    with_p = -np.log(sigmoid(z32))
finite = np.isfinite(with_p)
assert not finite.all()
assert np.isfinite(loss_from_logit(z32, 1)).all()
fig, ax = plt.subplots(figsize=(6, 3.6), layout="constrained")
ax.plot(z32, loss_from_logit(z32, 1), "--", color=BLUE, lw=2, label="from the logit")
ax.plot(z32[finite], with_p[finite], color=RED, lw=4, alpha=0.6, label=r"$-\log\,\sigma(z)$")
ax.plot(z32[finite][0], with_p[finite][0], "X", color=RED, ms=11)
ax.set(xlabel="$z$", ylabel="loss of one row, $y = 1$", title="Where the plain formula ends")
ax.legend()
plt.show()
print(f"the last finite value is at z = {z32[finite][0]:.1f}")

# %%
# More than two classes
# ---------------------
#
# A digit has ten classes. A network for ``K`` classes has ``K`` logits :math:`z_1, \dots, z_K`, and
# the *softmax* turns them into ``K`` probabilities that add up to 1:
#
# .. math::
#
#    \hat y_k = \frac{e^{z_k}}{\sum_{j=1}^{K} e^{z_j}}.
#
# The loss of a row of class :math:`y` is :math:`-\log \hat y_y`, again the price of the probability
# that was given to what happened. For two classes the softmax is the sigmoid of the difference of
# the logits. The largest logit is subtracted first, which changes no probability and keeps the
# exponents at or below 0.


def softmax(z):
    """Probabilities (N, K) of the logits z (N, K)."""
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


logits = np.array([[2.0, 1.0, -1.0], [800.0, 0.0, -800.0]])
print(softmax(logits).round(3))
two = np.array([[0.3, 1.7]])
assert np.allclose(softmax(two)[0, 1], sigmoid(1.7 - 0.3))
assert np.isfinite(softmax(logits)).all()

# %%
# The same with the library
# -------------------------
#
# ``MLP.evaluate`` returns the mean loss and the share of right answers. It computes the loss from
# the logit, as above. The two numbers agree.
from fusedmlp import MLP, Parameters

W, b = NEURONS["A"]
neuron = MLP([2, 1], output="sigmoid", backend="numpy", dtype="float64")
neuron.parameters = Parameters((W[:, None],), (np.array([b]),))
print(neuron.evaluate(x, y))
print("by hand:", loss_from_logit(x @ W + b, y).mean())
assert np.isclose(neuron.evaluate(x, y).loss, loss_from_logit(x @ W + b, y).mean(), rtol=1e-14)

# %%
# Try it
# ------
#
# 1. Multiply ``W`` and ``b`` of neuron A by 3. The line stays where it is. What happens to the
#    probabilities, and to the loss? Now change one label and look again.
# 2. Which probability should a neuron give to a coin that shows heads 70 times in 100? Draw the
#    loss of 100 tosses for every :math:`p` and find its minimum.
# 3. Weather forecasts give probabilities. How would you compare two forecasters after a year?
#
# Next: :doc:`03_gradient_descent`.
