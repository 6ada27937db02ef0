"""The benchmark harness: plans, counted work, parity, rounds, results, comparisons, charts.

No test measures: all times are made up.
"""

from __future__ import annotations

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fusedmlp.bench import (
    adapter,
    charts,
    compare,
    document,
    machine,
    measure,
    parity,
    prepare,
    results,
    scheduler,
    tables,
    worker,
)
from fusedmlp.bench import page as pages
from fusedmlp.bench.backend_adapter import BackendAdapter
from fusedmlp.bench.measure import Messages, Plan, TimeLeft, rows_for
from fusedmlp.bench.scheduler import Options, RoundRobin
from fusedmlp.bench.subjects import PEAK, Subject, backend_subject
from fusedmlp.bench.tasks import Task
from fusedmlp.bench.worker import Greeting, WorkerError
from fusedmlp.cli import bench_plan as planning
from fusedmlp.cli.bench_plan import WorkOptions
from fusedmlp.datasets import load_digits
from fusedmlp.errors import InvalidInputError
from fusedmlp.registry import backend_class

TINY = Task("tiny", sizes=(6, 8, 3), inputs="normal", batch_size=8, rows=40, samples=40)


def rows_of(task):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((task.rows, task.sizes[0])).astype(task.dtype)
    return x, rng.integers(0, task.sizes[-1], task.rows)


def entry(peer, times, samples=100, **words):
    rounds = [{"seconds": t, "samples": samples} | words for t in times]
    return {"peer": peer, "threads": 1, "status": "measured", "reason": "", "rounds": rounds}


def entries(task, *found):
    flops = task.flops_per_sample
    return {"task": task.to_dict(), "flops_per_sample": flops, "entries": list(found)}


def run_of(*found, rounds=3, **words):
    """A run of one training, as it is read from a file."""
    made = {
        "settings": {"rounds": rounds},
        "dataset": {"name": "digits"},
        "skipped": {},
        "tasks": [entries(replace(TINY, name="training"), *found)],
        "predictions": [],
    }
    return json.loads(json.dumps(made | words))


def beside_numpy(numpy_times, numba_times, **words):
    own = entry("fusedmlp-numpy", numpy_times), entry("fusedmlp-numba", numba_times)
    return run_of(*own, rounds=len(numpy_times), **words)


def breach(task, inputs, backend="numpy"):
    return parity.breach(task, BackendAdapter(1, backend).runner(task, inputs).parity())


@pytest.fixture(scope="module")
def digits():
    return load_digits(0, 0.2)


def planned(data, **options):
    return planning.plan(WorkOptions(threads=(1,), **options), ["numpy"], data)


def test_by_default_one_thing_changes_at_a_time(digits):
    found = planned(digits)
    pairs = {(task.sizes[1], task.batch_size) for task in found.trainings}
    assert pairs == {(256, 64), (256, 16), (256, 256), (256, 1_024), (64, 64), (1_024, 64)}
    assert (found.trainings[0].sizes, found.trainings[0].batch_size) == ((64, 256, 10), 64)
    assert (found.rounds, planned(digits, quick=True).rounds) == (5, 1)


def test_named_networks_and_batch_sizes_are_combined(digits):
    found = planned(
        digits,
        networks=((64, 5, 10), (64, 7, 7, 10)),
        batch_sizes=(4, 8),
        dtypes=("float32", "float64"),
    )
    assert len({task.name for task in found.trainings}) == len(found.trainings) == 8
    assert {task.dtype for task in found.predictions} == {"float32", "float64"}


def test_every_backend_is_measured_on_every_number_of_threads(digits):
    found = planning.plan(WorkOptions(threads=(2, 1)), ["numpy", "numba"], digits)
    assert [each.label for each in found.subjects] == [
        f"fusedmlp-{name} ×{threads}" for name in ("numpy", "numba") for threads in (1, 2)
    ]


def test_a_long_epoch_is_cut_in_whole_batches(digits):
    (task,) = planned(digits, networks=((64, 8_192, 8_192, 10),), batch_sizes=(24,)).trainings
    assert task.samples % 24 == 0
    assert planning.LEAST_CALLS * 24 <= task.samples < len(digits.x_train)


def test_regression_data_are_refused():
    data = SimpleNamespace(task="regression", name="prices")
    with pytest.raises(InvalidInputError, match="prices is for regression"):
        planned(data)


def test_predictions_get_floats(digits):
    training, *_ = planned(digits).trainings
    x, y = rows_for(training, digits)
    assert (len(x), y.dtype) == (training.rows, np.int64)
    predicted, _ = rows_for(replace(training, kind="predict", rows=50), digits)
    assert (predicted.shape, predicted.dtype) == ((50, 64), np.float32)


@pytest.mark.parametrize(
    ("cores", "counts"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (6, [1, 2, 4, 6])]
)
def test_numbers_of_threads_double_up_to_the_cores(monkeypatch, cores, counts):
    monkeypatch.setattr(machine, "n_cores", lambda: cores)
    assert machine.thread_counts() == counts


def test_the_products_of_a_row_are_counted_as_documented():
    D, H, K = TINY.sizes
    W = D * H + H * K
    assert TINY.flops_per_sample == 6 * W - 2 * D * H  # no delta of the inputs
    assert replace(TINY, kind="predict").flops_per_sample == 2 * W


def test_fields_of_older_documents_are_read():
    found = TINY.to_dict() | {"is_pixels": True, "density": 1.0}
    assert Task.from_dict(json.loads(json.dumps(found))) == TINY
    with pytest.raises(TypeError):
        Task.from_dict(found | {"unknown": 1})


class Clocked(adapter.Runner):
    """Calls that take given seconds of a clock that nothing else moves."""

    def __init__(self, task, lasting):
        super().__init__(task)
        self.now, self.calls, self._lasting = 0.0, 0, lasting

    def parity(self):
        return {}

    def call(self, number):
        self.now += self._lasting(self.calls)
        self.calls += 1
        return {"loss": 0.5}


@pytest.mark.parametrize(
    ("seconds", "lasting", "calls", "each"),
    [
        (0.0, lambda _n: 0.25, 1, 0.25),
        (1.0, lambda _n: 2.0, 1, 2.0),
        # One interruption does not show, neither in single calls nor in stretches of them.
        (1.0, lambda n: 0.5 if n == 2 else 0.25, 3, 0.25),
        (1.0, lambda n: 0.25 if n == 30 else 2.0**-8, 223, 2.0**-8),
    ],
)
def test_a_round_counts_by_its_median_stretch(seconds, lasting, calls, each):
    run = Clocked(replace(TINY, seconds=seconds), lasting)
    found = run.round(1, clock=lambda: run.now)
    assert run.calls == calls
    assert found == {"loss": 0.5, "seconds": calls * each, "samples": calls * TINY.samples}


def test_a_prediction_without_biases_is_a_breach():
    task = replace(TINY, kind="predict")
    inputs = prepare.prepare(task, rows_of, backend_class("numpy")())
    assert breach(task, inputs) is None
    bare = replace(inputs.start, biases=tuple(np.zeros_like(b) for b in inputs.start.biases))
    assert "a probability differs" in breach(task, replace(inputs, start=bare))


def test_a_training_that_does_not_move_is_a_breach():
    start, end = [np.ones((3, 2))], [np.ones((3, 2)) + 1e-6]
    assert adapter.path_difference(start, end, start) == pytest.approx(1.0)
    answer = {"exact": True, "difference": 1.0, "loss": 2.0, "expected_loss": 2.0}
    assert "weights" in parity.breach(TINY, answer)
    assert "loss" in parity.breach(TINY, answer | {"difference": 0.0, "loss": 2.1})
    assert "nan" in parity.breach(TINY, answer | {"difference": float("nan")})
    assert parity.breach(TINY, answer | {"exact": False, "loss": 2.1}) is None
    assert "loss" in parity.breach(TINY, answer | {"exact": False, "loss": 2.5})
    assert parity.breach(TINY, answer | {"difference": 0.02, "slack": 32.0}) is None


# Rounds, with workers that answer from a script and a clock that only they move.


class Script:
    """Seconds of each turn by subject, and the order in which the turns were taken."""

    def __init__(self, **turns):
        self.now, self.turns, self.taken, self.fails = 0.0, turns, [], ()

    def clock(self):
        return self.now

    def worker(self, subject, _timeout):
        return ScriptedWorker(self, subject)

    def options(self, **words):
        return Options(rows_of, words.pop("say", print), worker=self.worker, clock=self.clock,
                       **words)  # fmt: skip


class ScriptedWorker:
    def __init__(self, script, subject):
        self.subject, self._script = subject, script

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def greeting(self):
        return Greeting({}, "", is_gpu=False)

    def cpu_seconds(self):
        return 0.0

    def ask(self, method, *arguments):
        script, name = self._script, self.subject.name
        if method == "prepare":
            script.now += 2.0
            return {}, 2.0
        if method != "round":
            return {}
        if name in script.fails:
            raise WorkerError("its process ended with exit status 7")
        script.taken.append(name)
        script.now += script.turns[name]
        return {"seconds": script.turns[name], "samples": 40}


def subject(name):
    return Subject(name, "", "numpy")


def found_by(script, rounds=3, **words):
    made = document.new({"rounds": rounds}, [])
    names = [subject(name) for name in script.turns]
    with RoundRobin(names, made, script.options(**words)) as benchmark:
        made["tasks"].append(benchmark.run(TINY, rounds))
    return made, benchmark


def test_every_round_begins_with_another_subject():
    script = Script(a=1.0, b=1.0, c=1.0)
    found_by(script)
    rounds = [script.taken[i : i + 3] for i in range(0, 9, 3)]
    assert {each[0] for each in rounds} == {"a", "b", "c"}
    assert all(sorted(each) == ["a", "b", "c"] for each in rounds)


@pytest.mark.parametrize(
    ("turn", "done", "said"),
    [(0.1, 9, "9 rounds"), (2.0, 6, "6 rounds"), (1e3, scheduler.LEAST_ROUNDS, "3 rounds")],
)
def test_the_rounds_that_are_reported_are_those_that_were_done(turn, done, said):
    """A task whose rounds take more than twelve seconds gets fewer of them."""
    found, _ = found_by(Script(a=turn), rounds=9, most_seconds=11.0)
    (only,) = found["tasks"][0]["entries"]
    assert len(only["rounds"]) == done
    assert tables.rounds_done(found) == said
    assert results.records(found)[0].rounds == done
    short = [note for note in tables.notes(found) if "fewer rounds than 9" in note]
    assert bool(short) == (done < 9)


def test_rounds_of_several_tasks_are_reported_as_a_range():
    found = run_of(entry("a", [1.0] * 5))
    found["predictions"] = [entries(TINY, entry("a", [1.0] * 3))]
    assert tables.rounds_done(found) == "3 to 5 rounds"


def test_a_subject_that_fails_in_a_round_keeps_none_and_the_others_go_on():
    said, script = [], Script(a=1.0, b=1.0)
    script.fails = ("b",)
    found, benchmark = found_by(script, say=said.append)
    statuses = [(each["peer"], each["status"]) for each in found["tasks"][0]["entries"]]
    assert statuses == [("a", "measured"), ("b", "failed")]
    assert (benchmark.failures, script.taken) == (1, ["a"] * 3)
    assert said == ["b ×1 on tiny failed: its process ended with exit status 7"]


def test_the_time_left_follows_from_the_work_done():
    now = [100.0]
    left = TimeLeft(10.0, lambda: now[0])
    assert left.seconds(0.0) is None
    now[0] = 104.0
    assert left.seconds(2.0) == 16.0
    assert left.seconds(10.0) == 0.0


def test_progress_counts_tasks_and_rounds_and_says_what_is_left():
    """Turns of a second and preparations of two: as long as the estimate takes them to be."""
    script, shown = Script(a=1.0), []
    tasks = [replace(TINY, name=name, seconds=1.0) for name in ("one", "two")]
    plan = Plan((subject("a"),), tuple(tasks), (), 3, {})
    messages = Messages(print, lambda *doing: shown.append(doing))
    with RoundRobin(plan.subjects, document.new({}, []), script.options()) as benchmark:
        measure.timed(benchmark, plan, messages, script.clock)
    assert shown == [
        ("one (1 of 2)", ", compiling and warming up", None),
        ("one (1 of 2)", ", round 1 of 3", 8.0),
        ("one (1 of 2)", ", round 2 of 3", 7.0),
        ("one (1 of 2)", ", round 3 of 3", 6.0),
        ("two (2 of 2)", ", compiling and warming up", 5.0),
        ("two (2 of 2)", ", round 1 of 3", 3.0),
        ("two (2 of 2)", ", round 2 of 3", 2.0),
        ("two (2 of 2)", ", round 3 of 3", 1.0),
    ]


# Processes.


def test_a_process_gets_its_threads_and_this_one_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    before = machine.usable_cpus()
    wanted = replace(backend_subject("numpy", 1), environment={"OWN": "1"})
    with worker.inherited(wanted):
        seen = {n: os.environ.get(n) for n in ("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "OWN")}
        assert seen == {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1", "OWN": "1"}
        assert len(machine.usable_cpus()) <= 1
    assert (os.environ["OMP_NUM_THREADS"], "NUMBA_NUM_THREADS" in os.environ) == ("7", False)
    assert machine.usable_cpus() == before


# Results.


def test_records_are_medians_and_ratios_of_paired_rounds():
    numpy, numba = results.records(beside_numpy([2.0, 4.0, 4.0], [1.0, 1.0, 2.0]))
    assert (numpy.samples_per_s, numpy.slowest, numpy.fastest) == (25.0, 25.0, 50.0)
    assert (numba.ratio, numba.lowest_ratio, numba.highest_ratio) == (2.0, 2.0, 4.0)
    assert (numba.reference, numba.spread, numba.rounds) == ("numpy", 1.0, 3)


def test_the_spread_is_that_of_the_speed_whatever_a_round_repeats():
    """Rounds repeat short calls for equal times: a fast round has more calls, not less time."""
    fast, slow = ({"seconds": 1.0, "samples": samples} for samples in (200, 100))
    found = entry("fusedmlp-numba", []) | {"rounds": [fast, slow, slow]}
    (record,) = results.records(run_of(found))
    assert (record.spread, record.fastest / record.slowest) == (0.5, 2.0)


def test_the_share_of_a_measured_peak_is_a_column_of_its_own():
    peak = entry(PEAK, [1.0] * 3, flops=1e9)
    found = run_of(peak, entry("fusedmlp-numba", [1.0] * 3))
    (record,) = results.records(found)
    assert record.share_of_peak == pytest.approx(TINY.flops_per_sample * 100 / 1e9)
    titles = [column.title for column in tables.throughput(found, "training").columns]
    assert titles[-1] == "of peak"
    bare = tables.throughput(beside_numpy([1.0] * 3, [1.0] * 3), "training")
    assert "of peak" not in [column.title for column in bare.columns]


QUIET = [4.0, 4.2, 4.4, 4.6, 4.4]
BUSY = [18.2, 4.4, 30.0, 22.0, 9.0]
"""Seconds of NumPy's rounds where the Numba backend takes 1 s: it waits for threads, and suffers
more from other processes."""


@pytest.mark.parametrize(
    ("numpy", "numba", "said"),
    [
        (QUIET, [1.0] * 5, "numba is the fastest with 100 samples/s, 4.4 times as many as numpy"),
        (
            BUSY,
            [1.0] * 5,
            "are 4.4 to 30.0 times as fast as those of numpy, too far apart for one figure",
        ),
        # A busy machine slows both in the same rounds: the ratios agree.
        ([4.4, 8.8, 4.4], [1.0, 2.0, 1.0], "4.4 times as many as numpy"),
        (
            [2.0, 4.0, 4.0],
            [1.0, 1.0, 2.0],
            "numba reaches 100 samples/s, but its rounds overlap with those of numpy",
        ),
        ([4.4], [1.0], "numba reaches 100 samples/s in 1 round, too few for a comparison"),
        ([4.4] * 2, [1.0] * 2, "samples/s in 2 rounds, too few for a comparison"),
    ],
)
def test_the_headline_has_a_ratio_only_if_the_rounds_agree_on_it(numpy, numba, said):
    found = beside_numpy(numpy, numba)
    assert tables.headline(found).endswith(said)


def test_no_place_states_a_ratio_on_which_the_rounds_do_not_agree():
    found = beside_numpy(BUSY, [1.0] * 5)
    _, numba = results.records(found)
    assert not numba.has_certain_ratio
    table = tables.throughput(found, "training")
    column = [each.title for each in table.columns].index("× numpy")
    assert [row[column] for row in table.rows] == ["4.40–30.00", "1.00"]
    (bars,) = charts.overview(found).axes
    assert [text.get_text() for text in bars.texts] == ["100  (4.40–30.00 × numpy)", "5"]
    assert any("not agree" in note and "141%" in note for note in tables.notes(found))
    texts = [tables.headline(found), *map(str, table.rows), *tables.notes(found)]
    assert not any("18.2" in text for text in texts)


def disturbed(numpy_times, waited):
    """NumPy's rounds, in which threads waited for a CPU, beside undisturbed ones of a second."""
    numpy = entry("fusedmlp-numpy", numpy_times)
    for turn, share in zip(numpy["rounds"], waited, strict=True):
        turn["waited"] = share
    return run_of(numpy, entry("fusedmlp-numba", [1.0] * len(numpy_times), waited=0.01))


def test_a_constant_load_on_which_all_rounds_agree_gives_no_ratio():
    found = disturbed([18.0, 18.2, 18.4], [0.5, 0.02, 0.64])
    assert tables.headline(found).endswith(
        "numba is the fastest with 100 samples/s; its rounds are 18.0 to 18.4 times as fast as "
        "those of numpy, but threads waited for a CPU for 50% of the time"
    )
    assert any("up to 50% of the time" in note for note in tables.notes(found))
    # A single round that was disturbed is not the median.
    found = disturbed([4.4, 4.4, 5.0], [0.0, 0.02, 0.64])
    assert tables.headline(found).endswith("4.4 times as many as numpy")
    assert tables.notes(found) == []


def test_a_disturbed_run_makes_no_other_one_slower():
    before, now = disturbed([18.0] * 3, [0.5] * 3), beside_numpy([4.4] * 3, [1.0] * 3)
    assert changes(before, now)["numba"][1] == "unclear"
    undisturbed = disturbed([18.0] * 3, [0.0] * 3)
    assert changes(undisturbed, now)["numba"][1] == "slower"


def test_a_worker_notes_the_share_of_a_round_in_which_its_threads_waited(monkeypatch):
    class Waiting(adapter.Adapter):
        def runner(self, task, inputs):
            return Clocked(task, lambda _n: 1.0)

    now, waits = iter([10.0, 12.0]), iter([3.0, 4.0])
    session = worker.Session(Waiting(2))
    session.check(TINY, None)
    monkeypatch.setattr(worker, "waited_seconds", lambda: next(waits))
    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter=lambda: next(now)))
    assert session.round(1)["waited"] == 0.25  # one second of twice two
    monkeypatch.setattr(worker, "waited_seconds", lambda: None)
    monkeypatch.setattr(worker, "time", SimpleNamespace(perf_counter=lambda: 0.0))
    assert "waited" not in session.round(1)


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="reads Linux's schedstat")
def test_waiting_for_a_cpu_only_grows():
    before = worker.waited_seconds()
    assert 0 <= before <= worker.waited_seconds()


def test_an_engine_alone_has_no_comparison():
    assert tables.headline(run_of(entry("fusedmlp-numpy", [1.0]))).endswith("100 samples/s")


def test_a_single_round_has_no_spread():
    table = tables.throughput(beside_numpy([2.0], [1.0]), "training")
    at = [column.title for column in table.columns].index("spread")
    assert [row[at] for row in table.rows] == ["", ""]


def changes(before, now):
    found = compare.compare(before, now, 0.9)
    return {each.engine: (each.ratio, each.verdict(0.9)) for each in found.changes}


def test_a_slower_backend_is_a_regression_and_a_slower_machine_is_not():
    before, throttled = beside_numpy([2.0] * 3, [1.0] * 3), beside_numpy([4.0] * 3, [2.0] * 3)
    assert changes(before, throttled) == {"numpy": (None, "reference"), "numba": (1.0, "held")}
    slower = beside_numpy([2.0] * 3, [1.25] * 3)
    assert changes(before, slower)["numba"] == (pytest.approx(0.8), "slower")
    found = compare.compare(before, slower, 0.9)
    assert [each.engine for each in found.slower] == ["numba"]
    assert tables.comparison(found).marks == ["", "bad"]


def test_an_engine_alone_is_compared_by_its_rates():
    before, now = (run_of(entry("fusedmlp-numpy", [t] * 3)) for t in (1.0, 2.0))
    assert changes(before, now) == {"numpy": (0.5, "slower")}
    assert changes(now, before) == {"numpy": (2.0, "held")}


def test_one_round_as_fast_as_before_is_unclear():
    before = beside_numpy([2.0] * 3, [1.0] * 3)
    busy = beside_numpy([2.0] * 3, [1.0, 3.0, 3.0])
    slower = beside_numpy([2.0] * 3, [1.2, 3.0, 3.0])
    assert [changes(before, now)["numba"][1] for now in (busy, slower)] == ["unclear", "slower"]


def test_a_ratio_of_a_busy_day_is_no_bar_for_a_quiet_one():
    before, now = beside_numpy(BUSY, [1.0] * 5), beside_numpy(QUIET, [1.0] * 5)
    assert changes(before, now)["numba"][1] == "unclear"


def test_a_document_with_a_peak_is_compared_with_one_without():
    before = beside_numpy([2.0] * 3, [1.0] * 3)
    before["tasks"][0]["entries"].insert(0, entry(PEAK, [1.0] * 3, flops=1e9))
    assert changes(before, beside_numpy([2.0] * 3, [1.0] * 3))["numba"] == (1.0, "held")


def test_charts_show_what_was_measured():
    found = beside_numpy([4.0, 4.0, 4.0], [1.0, 1.0, 2.0 / 1.5])
    (bars,) = charts.overview(found).axes
    assert [text.get_text() for text in bars.texts] == ["100  (4.00 × numpy)", "25"]
    wider = beside_numpy([1.0] * 3, [1.0] * 3)["tasks"][0]
    wider["task"] |= {"name": "wider", "batch_size": 16}
    found["tasks"].append(wider)
    assert charts.lines(found, "batch") == {
        ("numpy", 1, "6-8-3, float32"): [(8, 25.0), (16, 100.0)],
        ("numba", 1, "6-8-3, float32"): [(8, 100.0), (16, 100.0)],
    }
    assert len(charts.overview(found).axes) == 2


def test_the_page_has_the_headline_and_the_rounds_that_were_done():
    facts = {"machine": {"caches": {}}, "environment": {"packages": {}}, "versions": {}}
    facts |= {"dataset": {"name": "digits", "source": "scikit-learn"}, "devices": {}}
    found = beside_numpy(QUIET, [1.0] * 5, settings={"rounds": 9}, **facts)
    html = pages.page(found).html()
    assert "4.4 times as many as numpy" in html
    assert "medians of 5 rounds" in html
