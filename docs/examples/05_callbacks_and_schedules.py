"""
Callbacks, schedules and early stopping
=======================================

Look into a training while it runs, stop it, change its learning rate by a plan, and keep the
weights of the best epoch.
"""

# %%
# A function as a callback
# ------------------------
# A callback is a function of two arguments, which runs after each epoch: the running training and
# the record of the epoch.
from fusedmlp import MLP, EarlyStopping, Trainer, load_dataset, make_optimizer

data = load_dataset("digits")


def tell(run, record):
    """Print every fifth epoch."""
    if record.epoch % 5 == 0:
        print(
            f"epoch {record.epoch:2} of {run.epochs}: training loss {record.train_loss:.4f}, "
            f"validation accuracy {record.validation_accuracy:.3f}"
        )


mlp = MLP([64, 64, 10], hidden="relu")
trainer = Trainer("adam", epochs=20, validation=0.2, callbacks=tell)
history = trainer.fit(mlp, data.x_train, data.y_train)

# %%
# A callback can end the training. ``history.stopped`` then holds the reason.


def good_enough(run, record):
    """Stop at a validation accuracy of 0.95."""
    if record.validation_accuracy >= 0.95:
        run.stop(f"validation accuracy {record.validation_accuracy:.3f}")


mlp = MLP([64, 64, 10], hidden="relu")
trainer = Trainer("adam", epochs=50, validation=0.2, callbacks=good_enough)
history = trainer.fit(mlp, data.x_train, data.y_train)
print(f"stopped after epoch {len(history)}: {history.stopped}")
assert len(history) < 50

# %%
# A subclass of :class:`fusedmlp.Callback` has more moments: the beginning and the end of a
# training, and a few times a second within an epoch. This one collects the size of the weights. A
# callback may read the engine and must not change it.
import numpy as np

from fusedmlp import Callback


class WeightSizes(Callback):
    """The root-mean-square weight of each layer, after each epoch."""

    def on_train_begin(self, run):
        """Start an empty list."""
        self.sizes = []

    def on_epoch_end(self, run, record):
        """Measure the weights."""
        weights = run.engine.parameters().weights
        self.sizes.append([np.sqrt(np.mean(W**2)) for W in weights])


sizes = WeightSizes()
Trainer("adam", epochs=20, callbacks=[sizes]).fit(MLP([64, 64, 10]), data.x_train, data.y_train)
print(np.round(sizes.sizes[::5], 3))

# %%
# Schedules
# ---------
# A schedule gives each step its learning rate, as a multiple of the optimizer's. The picture asks
# the schedules themselves, for 10 epochs of 100 steps.
import matplotlib.pyplot as plt

from fusedmlp import make_schedule
from fusedmlp.training.schedules import Exponential, Span, Step

EPOCHS, STEPS = 10, 100
COLORS = ["#000000", "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00"]
schedules = {
    "constant": make_schedule("constant"),
    "Step(every=3)": Step(every=3),
    "Exponential(0.8)": Exponential(0.8),
    "cosine": make_schedule("cosine"),
    "inverse-scaling": make_schedule("inverse-scaling"),
    "one-cycle": make_schedule("one-cycle"),
}


def rates(schedule, lr=0.1):
    """Return the rate of every step of the training: (EPOCHS·STEPS,)."""
    spans = [Span(epoch * STEPS, STEPS, STEPS, EPOCHS) for epoch in range(EPOCHS)]
    return np.concatenate([schedule.rates(lr, span) for span in spans])


figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for (name, schedule), color in zip(schedules.items(), COLORS, strict=True):
    ax.plot(np.arange(EPOCHS * STEPS) / STEPS, rates(schedule), color=color, label=name)
ax.set(xlabel="epoch", ylabel="learning rate", xlim=(0, EPOCHS), ylim=(0, 0.105))
ax.legend(fontsize=9)
plt.show()

# %%
# A schedule is given by its name, as an object, or as a function of the number of the epoch. The
# function returns the rate itself. The record of an epoch has the rate of its last step.


def halve_every_five(epoch):
    """Return the learning rate of an epoch, counted from 0."""
    return 0.1 * 0.5 ** (epoch // 5)


for schedule in ("one-cycle", Exponential(0.8), halve_every_five):
    mlp = MLP([64, 64, 10], hidden="relu")
    history = Trainer("nesterov", schedule, epochs=15).fit(mlp, data.x_train, data.y_train)
    accuracy = mlp.evaluate(data.x_test, data.y_test).accuracy
    print(f"test accuracy {accuracy:.3f}, last rate {history.last.lr:.6f}: {schedule!r:.40}")
assert history.last.lr == 0.1 * 0.5**2

# %%
# Early stopping
# --------------
# With early stopping the training ends when the validation loss has not improved for ``patience``
# epochs, and the model gets the weights of the best epoch back. A wide network on few rows shows
# why: the training loss falls on, the validation loss rises again.
few = slice(0, 100)
mlp = MLP([64, 300, 10], hidden="relu")
trainer = Trainer(
    make_optimizer("adam", 0.003),
    epochs=300,
    batch_size=8,
    early_stopping=EarlyStopping(monitor="loss", patience=60),
)
held_out = data.x_train[1000:], data.y_train[1000:]
history = trainer.fit(mlp, data.x_train[few], data.y_train[few], validation_data=held_out)

best = history.records[history.best_epoch - 1]
now = mlp.evaluate(*held_out)
print(f"{len(history)} epochs, the best is {history.best_epoch}")
print(f"validation loss of that epoch {best.validation_loss:.4f}, of the model now {now.loss:.4f}")
print(f"validation loss of the last epoch {history.last.validation_loss:.4f}")
assert abs(now.loss - best.validation_loss) < 1e-6
assert history.last.validation_loss > now.loss

# %%
# The history draws itself. The best epoch is marked.
history.plot()
plt.show()

# %%
# The estimators of :mod:`fusedmlp.sklearn` have the same: ``callbacks=[…]`` takes objects of
# :class:`fusedmlp.Callback`, ``learning_rate="one-cycle"`` or an object of a schedule, and
# ``early_stopping=True`` restores the best weights as scikit-learn's own do.
