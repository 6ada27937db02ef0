"""
Reading a benchmark
===================

``fusedmlp bench`` measures how fast the backends are on your machine. This page runs it, computes
its figures once more by hand, and shows when it states no ratio. The network is small, so that the
page is quick.
"""

# %%
# A run
# -----
# Before anything is timed, the results of every backend are compared with those of NumPy. Then the
# backends take turns, in rounds: a machine that slows down slows all of them.
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

folder = Path(tempfile.mkdtemp())


def run(command):
    """Run a command in the folder; return its standard output."""
    program = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


work = "--dataset digits --backends numpy,numba --networks 64-32-10 --batch-sizes 32"
(folder / "bench.json").write_text(run(f"fusedmlp bench {work} --rounds 3 --threads 1 --json"))

# %%
# ``--json`` keeps every round. Without it the command prints this table, and with ``--html FILE``
# it writes a page with charts.
from fusedmlp.bench import compare, tables
from fusedmlp.bench.results import records

document = compare.read(folder / "bench.json")
table = tables.throughput(document, "training")
for line in [[column.title for column in table.columns], *table.rows]:
    print("".join(f"{cell:>12}" for cell in line))
print(tables.headline(document))

# %%
# - **samples/s**: rows on which a training epoch trains in a second, with its shuffle, loss and
#   accuracy. Compiling and loading are over before the first round.
# - **spread**: (slowest − fastest) / median of the rounds. An idle machine stays at a few per cent.
# - **× numpy**: how many times as fast as NumPy, which is 1.
# - **GFLOP/s**: the arithmetic of the matrix products, for comparison with what a processor can do.
#
# The same by hand
# ----------------
# Every round has a ratio of its own, because both engines took a turn in it. The figure is the
# median of these ratios.
from statistics import median

(task,) = document["tasks"]
seconds = {
    entry["peer"]: [each["seconds"] / each["samples"] for each in entry["rounds"]]
    for entry in task["entries"]
}
print(f"{'round':>5} {'numpy':>10} {'numba':>10} {'ratio':>6}   (µs for a row)")
(_, numpy_rounds), (_, numba_rounds) = sorted(seconds.items(), reverse=True)
ratios = [slow / fast for slow, fast in zip(numpy_rounds, numba_rounds, strict=True)]
for number, (slow, fast, ratio) in enumerate(
    zip(numpy_rounds, numba_rounds, ratios, strict=True), start=1
):
    print(f"{number:5} {slow * 1e6:10.3f} {fast * 1e6:10.3f} {ratio:6.2f}")
print(f"median of the ratios: {median(ratios):.2f}")

numba = next(r for r in records(document) if r.section == "training" and r.engine == "numba")
assert numba.ratio == median(ratios)

# %%
# When no ratio is stated
# -----------------------
# One figure is stated only if the rounds agree on it: at least three of them, the highest ratio at
# most 1.5 times the lowest, and no engine waited for a CPU for more than a tenth of the time.
# Otherwise the range is given. On this machine:
print(f"rounds {numba.rounds}, ratios from {numba.lowest_ratio:.2f} to {numba.highest_ratio:.2f}")
print(f"waited for a CPU: {numba.waited:.0%} of the time")
print(f"one figure is stated: {numba.has_certain_ratio}")

# %%
# What changes if another program takes half of the CPU during one round of Numba? The time of that
# round doubles. To ask this question alone, the function below makes a copy of the run in which all
# other rounds agree.
import copy


def run_where_numba_takes(factors):
    """Return a copy in which every round is like the first; Numba's take ``factors`` as long."""
    changed = copy.deepcopy(document)
    for entry in (e for part in ("tasks", "predictions") for e in changed[part][0]["entries"]):
        first, is_numba = entry["rounds"][0], "numba" in entry["peer"]
        entry["rounds"] = [
            {**first, "waited": 0.0, "seconds": first["seconds"] * (factor if is_numba else 1.0)}
            for factor in factors
        ]
    return changed


for factors in ((1.0, 1.0, 1.0), (1.0, 2.0, 1.0)):
    numba = next(r for r in records(run_where_numba_takes(factors)) if r.engine == "numba")
    print(f"ratios from {numba.lowest_ratio:.2f} to {numba.highest_ratio:.2f}", end=", ")
    print("one figure" if numba.has_certain_ratio else "no figure, but the range")
assert not numba.has_certain_ratio

# %%
# Has it become slower?
# ---------------------
# ``fusedmlp bench --compare bench.json`` measures again and compares with the earlier file. It
# compares the ratios to NumPy and not the samples per second: a slower machine is not slower code.
# A backend counts as slower if every round is below 0.9 of every round before; then the exit code
# is 4.
earlier = run_where_numba_takes((1.0, 1.0, 1.0))
for factors in ((1.0, 1.0, 1.0), (1.0, 1.5, 1.5), (1.5, 1.5, 1.5)):
    changes = compare.compare(earlier, run_where_numba_takes(factors), threshold=0.9).changes
    change = next(each for each in changes if each.engine == "numba")
    print(f"rounds take {factors} as long: {change.ratio:.2f} of the speed, {change.verdict(0.9)}")
assert change.verdict(0.9) == "slower"
