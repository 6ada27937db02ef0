"""
Regression, counts and how sure the curve is
============================================

A network predicts a number: how many bicycles are hired in an hour. Two losses are compared, the
squared error and the Poisson loss. A bootstrap then shows how far the curve depends on the rows
that happened to be measured, and what such a band does not tell.
"""

# %%
# The data
# --------
# Made here, so that the true rate is known: two peaks a day, more on warm days. The counts vary
# around the rate as counts of independent events do (a Poisson distribution).
import matplotlib.pyplot as plt
import numpy as np

rng = np.random.default_rng(0)


def true_rate(hour, temperature):
    """Return the expected number of hires."""
    morning = np.exp(-((hour - 8) ** 2) / 3)
    evening = np.exp(-((hour - 17.5) ** 2) / 6)
    return (0.3 + 6 * morning + 8 * evening) * np.exp(0.04 * (temperature - 15))


def draw(n):
    """Return inputs (N, 2), hour and temperature in °C, and counts (N,)."""
    x = np.column_stack([rng.uniform(0, 24, n), rng.normal(15, 7, n)])
    return x, rng.poisson(true_rate(*x.T))


x_train, y_train = draw(1500)
x_test, y_test = draw(2000)
print(f"counts from {y_train.min()} to {y_train.max()}; {np.mean(y_train == 0):.0%} are 0")

# %%
# Two losses
# ----------
# Both estimators are in a pipeline with a scaler, because inputs of different size slow the
# training down. The squared error treats a miss by 3 alike at rates of 1 and of 10. The Poisson
# loss knows that counts vary more where the rate is high, and its predictions are never negative.
import warnings

from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import mean_poisson_deviance
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from fusedmlp.sklearn import MLPRegressor

# All trainings here have 60 epochs, by plan: the warning that more might help is not needed.
warnings.simplefilter("ignore", ConvergenceWarning)


def model(loss, seed=0):
    """Return an estimator that is not trained yet."""
    network = MLPRegressor(
        loss=loss,
        hidden_layer_sizes=(30, 30),
        activation="silu",
        alpha=0.01,
        batch_size=50,
        learning_rate_init=0.01,
        learning_rate="cosine",
        max_iter=60,
        n_iter_no_change=60,
        random_state=seed,
        dtype="float32",
    )
    return make_pipeline(StandardScaler(), network)


models = {loss: model(loss).fit(x_train, y_train) for loss in ("squared_error", "poisson")}

# %%
# On rows that the training has not seen, three measures. The deviance is that of the Poisson
# distribution: 0 for a perfect answer, and it needs positive predictions.
rate = true_rate(*x_test.T)
errors = {}
for loss, fitted in models.items():
    predicted = fitted.predict(x_test)
    negative = np.mean(predicted < 0)
    deviance = mean_poisson_deviance(y_test, np.maximum(predicted, 1e-3))
    errors[loss] = np.sqrt(np.mean((predicted - rate) ** 2))
    print(f"{loss:14} R² {fitted.score(x_test, y_test):.3f}   deviance {deviance:.3f}", end="   ")
    print(f"distance to the true rate {errors[loss]:.2f}   {negative:.1%} negative")
assert (models["poisson"].predict(x_test) > 0).all()
assert errors["poisson"] < errors["squared_error"]
assert abs(np.subtract(*(fitted.score(x_test, y_test) for fitted in models.values()))) < 0.02

# %%
# R² rates both networks alike, because it weighs a miss at night as one in the rush hour. The
# deviance does not, and the answers of the Poisson loss are nearer to the true rate.
#
# A band by bootstrap
# -------------------
# fusedmlp has no prediction intervals. What can be had without any theory is a bootstrap: train
# members, each on rows drawn with replacement and from another seed, and look at the spread of
# their predictions. The band below holds the middle 90 % of 20 members, at 15 °C.
hours = np.linspace(0, 24, 97)
line = np.column_stack([hours, np.full_like(hours, 15.0)])
members, members_test = [], []
for seed in range(20):
    drawn = rng.integers(0, len(x_train), len(x_train))
    member = model("poisson", seed).fit(x_train[drawn], y_train[drawn])
    members.append(member.predict(line))
    members_test.append(member.predict(x_test))
low, middle, high = np.quantile(members, [0.05, 0.5, 0.95], axis=0)

BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#999999"
near = np.abs(x_train[:, 1] - 15) < 2
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.plot(x_train[near, 0], y_train[near], ".", color=GREY, label="counts at 13 to 17 °C")
ax.fill_between(hours, low, high, color=BLUE, alpha=0.35, label="band of the members")
ax.plot(hours, middle, color=BLUE, label="their median")
ax.plot(hours, true_rate(hours, 15.0), color=ORANGE, linestyle="--", label="true rate")
ax.set(xlabel="hour of the day", ylabel="hires in an hour", xlim=(0, 24))
ax.legend(loc="upper left")
plt.show()

# %%
# What the band means
# -------------------
# The band is about the curve, not about the next count. Counts scatter around the curve even if it
# were known exactly, so most of them lie outside. The script counts:
low, high = np.quantile(members_test, [0.05, 0.95], axis=0)
of_counts = np.mean((low <= y_test) & (y_test <= high))
of_rates = np.mean((low <= rate) & (rate <= high))
print(f"share of new counts inside the band: {of_counts:.0%}")
print(f"share of true rates inside the band: {of_rates:.0%}")
assert of_counts < 0.5 < of_rates

# %%
# Nor does it hold the true rate as often as its 90 % may suggest: all members share one network and
# one recipe, and what these cannot fit, no member shows. Call it a band of members, not a
# confidence interval.
#
# Where the distribution of the counts is known, as here, it gives an interval for the next count:
# its quantiles, at the predicted rate.
from scipy.stats import poisson

predicted = np.median(members_test, axis=0)
inside = (poisson.ppf(0.05, predicted) <= y_test) & (y_test <= poisson.ppf(0.95, predicted))
print(f"share of new counts between the 5 % and 95 % quantiles: {inside.mean():.0%}")
assert inside.mean() > 0.88
