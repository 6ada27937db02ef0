r"""
7. Two moons: watch a network learn
===================================

This chapter trains a small network on points that no straight line can separate. It records the
boundary between the classes while the network learns. Then it makes a network learn too much, and
shows three remedies.
"""

# %%
# The points
# ----------
#
# The two moons are 200 points, 100 of each class. Random noise is added to each point, so the
# classes overlap a little. There are ``D = 2`` inputs and ``K = 2`` classes. Another 1,000 points
# are drawn in the same way. The network does not train on these. They show how well it does on
# points that it has not seen.
import matplotlib.pyplot as plt
import numpy as np

from fusedmlp import MLP, SGD, EarlyStopping, Objective, Trainer, make_optimizer, plot
from fusedmlp.datasets import load_moons

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#7a7a7a"
plt.rcParams["font.size"] = 11

moons = load_moons(n_samples=200, noise=0.2)

fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for k, colour, marker in ((0, BLUE, "o"), (1, ORANGE, "s")):
    ax.plot(*moons.x_train[moons.y_train == k].T, marker, color=colour, label=f"class {k}")
ax.set(xlabel="input 1", ylabel="input 2", title="No straight line separates them")
ax.legend()
plt.show()

# %%
# The workshop's training
# -----------------------
#
# This tutorial goes back to a workshop that trained a network of five hidden units on these points,
# by 20,000 steps of gradient descent. Each step used all 200 points. Its settings were:
#
# * sigmoid hidden units and a softmax output, sizes 2-5-2;
# * first weights drawn from 0 to :math:`1/\sqrt{D}`, none of them negative (``init="workshop"``);
# * the **sum** of the losses of all rows, not their mean (``Objective("sum")``);
# * learning rate 0.01. With the mean of 200 rows, the same step would need a rate of 2.
#
# The trainer works in epochs. An epoch is one pass over the rows that it is given. Here it is given
# the 200 points 1,000 times over, in batches of 200. So one epoch is 1,000 steps with all points,
# and 20 epochs are the whole training. After each epoch a callback measures the loss on the 200
# points, and a recorder keeps the probabilities over the whole plane.
recorder = plot.BoundaryRecorder(moons.x_train, moons.y_train)
losses = {}  # by the number of steps


def measure(run, record):
    points = run.engine.stage(moons.x_train, moons.y_train)
    losses[1000 * record.epoch] = run.engine.evaluate(points).loss


network = MLP([2, 5, 2], init="workshop", backend="numpy", dtype="float64", seed=3)
trainer = Trainer(
    SGD(0.01),
    epochs=20,
    batch_size=200,
    objective=Objective("sum"),
    shuffle=False,
    callbacks=[recorder, measure],
)
history = trainer.fit(
    network,
    np.tile(moons.x_train, (1000, 1)),
    np.tile(moons.y_train, 1000),
    validation_data=(moons.x_test, moons.y_test),
)

# %%
# The losses beside those that the workshop printed. Its random numbers are not known, so the losses
# cannot be equal. The column "accepted" has the band in which a repetition has to be. It comes from
# trainings with many seeds.
from fusedmlp.cli.workshop import MOONS_FIGURES, MOONS_ITERATIONS

print("iterations   here     workshop   accepted")
for iterations, figure in zip(MOONS_ITERATIONS, MOONS_FIGURES, strict=True):
    lowest, highest = figure.accepted
    loss = losses[iterations]
    print(f"{iterations:>9,}   {loss:.4f}   {figure.workshop:.4f}     {lowest:g} to {highest:g}")
    assert figure.is_reproduced(loss)

# %%
# The boundary evolves
# --------------------
#
# The colour of a place is the predicted probability of the class with this colour. The black line
# is the boundary, where both classes have the probability ½. One epoch of the animation is 1,000
# steps.
animation = recorder.animation(interval_ms=300)
plt.show()

# %%
# Six of its frames. The first weights say almost the same for every point. Then the network finds a
# straight line, bends it, and fits it closer and closer to the points.
del animation  # it stands above
fig, axes = plt.subplots(2, 3, figsize=(6.4, 4.8), sharex=True, sharey=True, layout="constrained")
for ax, epoch in zip(axes.flat, (0, 1, 2, 5, 10, 20), strict=True):
    recorder.draw(epoch, ax)
    ax.get_legend().remove()
    ax.set_title(f"{1000 * epoch:,} steps", fontsize=11)
    ax.label_outer()
plt.show()

# %%
# The loss falls quickly at first, and more and more slowly later. The second curve is the loss on
# the 1,000 points that the network has not seen.
steps = list(losses)
unseen = history.column("validation_loss")

fig, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.plot(steps, list(losses.values()), "o-", color=BLUE, label="the 200 training points")
ax.plot(steps, unseen, "s-", color=ORANGE, label="1,000 unseen points")
ax.set(xlabel="steps", ylabel="loss", ylim=(0, None), title="Training points and unseen points")
ax.legend()
ax.grid(alpha=0.3)
plt.show()

best = int(np.argmin(unseen))
print(
    f"after {steps[best]:>6,} steps: training {losses[steps[best]]:.3f}, unseen {unseen[best]:.3f}"
)
print(f"after {steps[-1]:>6,} steps: training {losses[steps[-1]]:.3f}, unseen {unseen[-1]:.3f}")
assert unseen[-1] > unseen[best]

# %%
# On the training points the loss falls until the end. On unseen points it falls first and rises
# later. From there on, the network learns the noise of the 200 points. That noise is different for
# every other point, so the predictions get worse. This is called **overfitting**.
#
# A network that learns too much
# ------------------------------
#
# Overfitting is strongest with a large network and few, noisy points. Here are 40 points with more
# noise, and a network with 100 hidden units: 502 parameters for 40 points. The 1,000 unseen points
# are the **validation** rows: the trainer only measures the loss on them, after each epoch. With
# data of your own, hold back a part of the rows for this: ``Trainer(validation=0.2)`` does it.
#
# The function trains such a network. Its arguments are three remedies:
#
# * **L2 penalty.** Add :math:`\tfrac12\lambda\sum W^2` to the loss. Its gradient :math:`\lambda W`
#   pulls each weight towards 0. Small weights give smooth boundaries.
# * **Dropout.** In each training step, set every hidden unit to 0 with probability :math:`p`, and
#   multiply the others by :math:`1/(1-p)`. No unit can rely on another one. A prediction uses all
#   units.
# * **Early stopping.** Stop when the validation loss has not improved for some epochs (the
#   *patience*), and take back the weights of the best epoch.
few = load_moons(n_samples=40, noise=0.35, seed=1)


def train(*, l2=0.0, dropout=0.0, early_stopping=None):
    """Return a network that was trained on the 40 points, and its history."""
    network = MLP(
        [2, 100, 2], hidden="relu", dropout=dropout, backend="numpy", dtype="float64", seed=0
    )
    trainer = Trainer(
        make_optimizer("adam", 0.01),
        epochs=400,
        batch_size=40,
        objective=Objective("mean", l2=l2),
        early_stopping=early_stopping,
    )
    validation = few.x_test, few.y_test
    history = trainer.fit(network, few.x_train, few.y_train, validation_data=validation)
    return network, history


trained = {
    "no remedy": train(),
    "L2, λ = 0.01": train(l2=0.01),
    "dropout, p = 0.7": train(dropout=0.7),
    "early stopping": train(early_stopping=EarlyStopping(patience=50)),
}

# %%
# Without a remedy, the training loss goes to 0 while the validation loss grows. The penalty and
# dropout keep the curves closer together. Early stopping ends the training soon after the lowest
# validation loss, and takes back the weights of the dotted line.
#
# (While it trains with dropout, a network misses some of its units. So its training curve is
# ragged, and higher than the loss of the whole network.)
fig, axes = plt.subplots(2, 2, figsize=(6.4, 5.4), sharex=True, sharey=True, layout="constrained")
for ax, (name, (_, history)) in zip(axes.flat, trained.items(), strict=True):
    ax.plot(history.column("train_loss"), color=BLUE, label="training")
    ax.plot(history.column("validation_loss"), "--", color=ORANGE, label="validation")
    if history.best_epoch is not None:
        ax.axvline(history.best_epoch - 1, linestyle=":", color="black")
    ax.set_title(name, fontsize=11)
    ax.set(xlabel="epoch", ylabel="loss", ylim=(0, 1.1))
    ax.label_outer()
    ax.grid(alpha=0.3)
axes[0, 0].legend(loc="upper left", fontsize=10)
plt.show()

# %%
# The same in numbers, for the final networks:
print(f"{'':18}training loss   validation loss   validation accuracy")
final = {}
for name, (network, _) in trained.items():
    on_training = network.evaluate(few.x_train, few.y_train)
    final[name] = network.evaluate(few.x_test, few.y_test)
    print(
        f"{name:18}{on_training.loss:>13.3f}{final[name].loss:>18.3f}{final[name].accuracy:>22.3f}"
    )

without = final.pop("no remedy")
assert all(metrics.loss < without.loss for metrics in final.values())

# %%
# A large loss with a good accuracy means that the network is *sure of its mistakes*. The boundaries
# show it: without a remedy the colours are deep everywhere, and the line bends around single
# points.
fig, axes = plt.subplots(2, 2, figsize=(6.4, 5.6), sharex=True, sharey=True, layout="constrained")
for ax, (name, (network, _)) in zip(axes.flat, trained.items(), strict=True):
    plot.decision_boundary(network, few.x_train, few.y_train, ax=ax)
    ax.get_legend().remove()
    ax.set_title(name, fontsize=11)
    ax.label_outer()
plt.show()

# %%
# None of the remedies is always the best one. Whether and how much to use is decided by the
# validation rows. Once they have decided, they are no longer unseen. For the final verdict, keep
# **test** rows that had no part in any decision.
#
# Try it
# ------
#
# 1. Train the 2-5-2 network with other seeds. Which losses change most, the early or the late ones?
# 2. Set ``l2`` to 0.001, 0.1 and 1. What is wrong with the boundary if the penalty is too large?
# 3. Draw 400 points instead of 40, with the same noise, and use no remedy. Why is there less
#    overfitting?
#
# On the command line, ``fusedmlp reproduce moons`` repeats the workshop's training, and trains once
# more with better settings.
#
# Next: :doc:`08_mnist` reads handwritten digits.
