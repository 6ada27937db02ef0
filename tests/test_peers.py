"""The peer benchmarks without the peers: driver, parity, document, tables, on tiny tasks."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from fusedmlp.bench import document, figures, material, parity, runner
from fusedmlp.bench.contestants import OURS, PEAK, Contestant
from fusedmlp.bench.contract import Peer
from fusedmlp.bench.driver import Contest
from fusedmlp.bench.libraries.lean import LeanNumpy
from fusedmlp.bench.libraries.ours import OwnPeer
from fusedmlp.bench.libraries.workshop_style import WorkshopStyle
from fusedmlp.bench.tasks import Task
from fusedmlp.errors import ExitCode, FileFormatError

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.insert(0, str(BENCHMARKS))

from peers import entrants, report, results, tables  # noqa: E402 - after the path is set
from peers.__main__ import main  # noqa: E402
from peers.targets import TARGETS  # noqa: E402
from peers.tasks import AXES, TASKS, quick, sweep  # noqa: E402

TINY = Task("tiny", sizes=(6, 8, 3), inputs="normal", batch_size=8, rows=40, samples=40)


class NumpyPeer(OwnPeer):
    """The specification."""

    def __init__(self, threads):
        super().__init__(threads, "numpy")


class Diverging(NumpyPeer):
    """Computes the right thing with another learning rate."""

    def training(self, task, material):
        return super().training(replace(task, lr=1.05 * task.lr), material)


class Dying(Peer):
    """Ends its process."""

    def training(self, task, material):
        os._exit(7)


def from_here(name):
    here, outside = str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")
    path = os.pathsep.join([here, str(BENCHMARKS), outside])
    return Contestant(name.lower(), f"test_peers:{name}", "numpy", environment={"PYTHONPATH": path})


def named(*names):
    return [contestant for contestant in entrants.ALL if contestant.name in names]


@pytest.fixture
def contest():
    """Run a contest and return its document, its lines and itself."""

    def run(chosen, tasks, rounds=2):
        found, lines = document.new({}, []), []
        with Contest(chosen, found, lines.append) as contest:
            for task in tasks:
                found["tasks"].append(contest.run(task, rounds))
        return found, lines, contest

    return run


@pytest.mark.slow
def test_a_contest_gives_a_document_that_tables_can_be_made_of(contest, tmp_path):
    predicting = replace(TINY, name="predict-tiny", kind="predict", rows=100, samples=20)
    chosen = named(PEAK, OURS, "fusedmlp-numpy", "lean-numpy")
    found, lines, contest = contest(chosen, [TINY, predicting])
    assert (contest.breaches, contest.failures, lines) == (0, 0, [])
    document.write(found, tmp_path / "runs" / "out.json")
    read = document.read(tmp_path / "runs" / "out.json")
    assert read == json.loads(json.dumps(found))
    assert {"schema", "date", "command", "machine", "versions", "settings", "tasks"} <= set(read)
    assert {"cpu", "cores", "caches", "python"} <= set(read["machine"])
    assert {"numpy", "numba", "fusedmlp"} <= set(read["versions"])
    for task in read["tasks"]:
        assert Task.from_dict(task["task"]).name in ("tiny", "predict-tiny")
        for entry in task["entries"]:
            assert entry["status"] == "measured", entry
            assert len(entry["rounds"]) == 2
            assert all(each["seconds"] > 0 for each in entry["rounds"])
        assert figures.verdict(task).best.entry["peer"] == "lean-numpy"
    out = io.StringIO()
    report.show(read, Console(file=out, width=120))
    assert "ours against the best peer" in out.getvalue()
    assert "lean-numpy" in out.getvalue()


def test_who_diverges_or_dies_is_excluded_and_the_others_go_on(contest):
    absent = Contestant("absent", "nowhere:Peer", "a_module_that_is_not_there")
    chosen = [*named("fusedmlp-numpy"), from_here("Diverging"), from_here("Dying"), absent]
    found, lines, contest = contest(chosen, [TINY])
    statuses = {entry["peer"]: entry["status"] for entry in found["tasks"][0]["entries"]}
    assert statuses == {"fusedmlp-numpy": "measured", "diverging": "parity", "dying": "failed"}
    assert (contest.breaches, contest.failures) == (1, 2)  # dying fails, and then is gone
    by_peer = {entry["peer"]: entry for entry in found["tasks"][0]["entries"]}
    assert len(by_peer["fusedmlp-numpy"]["rounds"]) == 2
    assert by_peer["diverging"]["rounds"] == []
    assert "the weights' way differs by 0.0" in by_peer["diverging"]["reason"]
    assert any("exit status 7" in line for line in lines)
    assert "not installed" in found["skipped"]["absent"]


@pytest.mark.parametrize(
    "task",
    [
        TINY,
        replace(TINY, name="relu", hidden="relu", sizes=(6, 8, 7, 3)),
        replace(TINY, name="adam", optimizer="adam", lr=0.01),
        replace(TINY, name="wide", dtype="float64"),
        replace(TINY, name="full", batch_size=40, samples=400),
        replace(TINY, name="dropout", dropout=0.5, sizes=(6, 64, 3)),
        replace(TINY, name="one", batch_size=1),
    ],
    ids=lambda task: task.name,
)
@pytest.mark.parametrize("peer", [LeanNumpy, WorkshopStyle, NumpyPeer])
def test_the_numpy_peers_train_as_the_backend_does(peer, task, tmp_path):
    if peer is WorkshopStyle and task.name in ("relu", "adam", "dropout"):
        pytest.skip("two sigmoid layers and plain descent are all it has")
    material.write(task, tmp_path / "m")
    run = runner.runner(peer(1), task, material.read(tmp_path / "m"))
    assert parity.breach(task, run.parity()) is None
    found = run.round(1)
    assert found["samples"] == task.samples
    assert 0 < found["loss"] < 3
    assert 0 <= found["accuracy"] <= 1


def test_a_peer_that_does_not_train_is_a_breach():
    start, end = [np.ones((3, 2))], [np.ones((3, 2)) + 1e-6]
    assert runner.path_difference(start, end, start) == pytest.approx(1.0)
    answer = {"exact": True, "difference": 1.0, "loss": 2.0, "expected_loss": 2.0}
    assert "weights" in parity.breach(TINY, answer)
    assert "loss" in parity.breach(TINY, answer | {"difference": 0.0, "loss": 2.1})
    assert "nan" in parity.breach(TINY, answer | {"difference": float("nan")})
    assert parity.breach(TINY, answer | {"exact": False, "loss": 2.1}) is None
    assert "loss" in parity.breach(TINY, answer | {"exact": False, "loss": 2.5})


def test_figures_are_medians_of_paired_rounds():
    def entry(peer, times, **words):
        rounds = [{"seconds": t, "samples": 100} | words for t in times]
        return {"peer": peer, "threads": 1, "status": "measured", "reason": "", "rounds": rounds}

    found = {
        "task": TINY.to_dict(),
        "flops_per_sample": 1_000_000,
        "entries": [
            entry(PEAK, [1.0, 1.0, 1.0], flops=1e9),
            entry(OURS, [1.0, 2.0, 4.0]),
            entry("jax", [2.0, 4.0, 4.0]),
        ],
    }
    peak, ours, jax = figures.figures(found)
    assert (peak.rate, peak.gflops) == (None, 1.0)
    assert (ours.rate, ours.ratio, ours.gflops, ours.share) == (50.0, 1.0, 0.05, 0.05)
    assert (jax.rate, jax.ratio, jax.spread) == (25.0, 2.0, 0.5)
    assert figures.verdict(found).ratio == 2.0


def test_what_a_control_leaves_out_is_all_that_it_changes():
    by_name = {task.name: task for task in TASKS}
    without = entrants.NO_DROPOUT.task_for(by_name["small-dropout"])
    assert without == replace(by_name["small"], name=without.name)
    plain = entrants.SGD.task_for(by_name["small-adam"])
    assert plain == replace(by_name["small"], name=plain.name)
    assert {without.name, plain.name}.isdisjoint(by_name)  # each has material of its own


def test_adam_is_compared_in_its_own_rounds_where_a_run_has_both():
    def entry(peer, seconds):
        rounds = [{"seconds": seconds, "samples": 100}]
        return {"peer": peer, "threads": 1, "status": "measured", "reason": "", "rounds": rounds}

    def of(task, *entries):
        named = next(each for each in TASKS if each.name == task)
        return {"task": named.to_dict(), "flops_per_sample": 1, "entries": list(entries)}

    (target,) = (each for each in TARGETS if each.name == "Adam by SGD, `small`")
    small, adam = of("small", entry(OURS, 1.0)), of("small-adam", entry(OURS, 2.0))
    assert target.value({"tasks": [small, adam]}) == 0.5
    adam["entries"].append(entry("fusedmlp-numba-sgd", 1.6))
    assert target.value({"tasks": [small, adam]}) == 0.8
    assert target.value({"tasks": [small]}) is None


def test_the_page_of_results_is_what_its_documents_say():
    assert results.page(results.machines()) == results.PAGE.read_text("utf-8"), (
        "run `python -m peers page` in benchmarks"
    )


def test_the_readme_quotes_what_was_measured():
    text = " ".join((BENCHMARKS.parent / "README.md").read_text("utf-8").split())
    quoted = re.search(r"time on an? (.+?) \((\d+\.\d) ×; one row to predict, (\d+\.\d) ×\)", text)
    (found,) = [machine for machine in results.machines() if results.title(machine) == quoted[1]]
    fit, row = (
        tables.speedup(found.estimators[name])
        for name in ("fit, 10 epochs, adam", "predict_proba, 1 rows")
    )
    assert (quoted[2], quoted[3]) == (f"{fit:.1f}", f"{row:.1f}")
    assert "take less than a fifth of scikit-learn's time" in text
    assert fit > 5.0


@pytest.mark.parametrize("machine", results.machines(), ids=lambda machine: machine.name)
def test_the_estimators_add_at_most_a_tenth_to_the_engine_and_one_row_is_faster(machine):
    for times in machine.estimators.values():
        if "engine" in times:
            assert np.median(times["ours"]) <= 1.10 * np.median(times["engine"])
            assert tables.speedup(times) > 1.0
    assert tables.speedup(machine.estimators["predict_proba, 1 rows"]) > 1.0


def test_the_estimators_are_measured_as_the_page_reads_them(tmp_path, monkeypatch, capsys):
    import estimators

    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 256, (240, 784)).astype(np.uint8), rng.integers(0, 10, 240)
    monkeypatch.setattr(estimators, "mnist_rows", lambda rows: drawn)
    monkeypatch.setattr(estimators, "GRID", {"alpha": [1e-5]})
    monkeypatch.setattr(estimators, "TIMED_ROWS", 1)
    path = tmp_path / "estimators.json"
    monkeypatch.setattr(sys, "argv", ["estimators.py", "--rounds", "1", "--json", str(path)])
    with warnings.catch_warnings():
        estimators.main()
    found = json.loads(path.read_text())
    assert list(found) == list(results.machines()[0].estimators)
    printed = capsys.readouterr().out
    for name, times in found.items():
        assert {len(rounds) for rounds in times.values()} == {5 if "predict" in name else 1}
        assert re.search(rf"{re.escape(name)} .* {tables.speedup(times):.1f}×", printed)


def test_the_page_shows_every_target_and_peer_and_no_more_than_was_held(tmp_path):
    folder = tmp_path / "machine"
    folder.mkdir()
    found = results.machines()[0].runs[0]
    small = next(each for each in found["tasks"] if each["task"]["name"] == "small")
    for entry in small["entries"]:
        if entry["peer"] == OURS:
            for each in entry["rounds"]:
                each["seconds"] *= 100
    document.write(found, folder / "run-1.json")
    text = results.page(results.machines(tmp_path))
    line = next(line for line in text.splitlines() if line.startswith("| `small`, best peer"))
    assert "0.03\u00a0×" in line
    assert "**missed**" in line
    assert all(f"| {peer} |" in text for peer in ("jax", "torch", "sklearn", "thinc"))


def test_several_runs_are_shown_as_medians_and_one_by_one(tmp_path):
    """Ours slows down from run to run; in the second one, a peer fails its parity."""
    folder = tmp_path / "machine"
    folder.mkdir()
    factors = (1.0, 2.0, 4.0)
    for number, factor in enumerate(factors, 1):
        found = results.machines()[0].runs[0]
        for each in found["tasks"]:
            for entry in each["entries"]:
                if entry["peer"] == OURS:
                    for measured in entry["rounds"]:
                        measured["seconds"] *= factor
                if (number, entry["peer"]) == (2, "thinc"):
                    entry["status"], entry["reason"], entry["rounds"] = "parity", "it strays", []
        document.write(found, folder / f"run-{number}.json")
    (machine,) = results.machines(tmp_path)
    target = next(each for each in TARGETS if each.name == "`small`, best peer")
    cells = [target.written(target.value(run)) for run in machine.runs]
    text = results.page([machine])
    assert f"| {cells[1]}, **missed** |" in text  # in the summary
    assert f"| {cells[1]} | {' | '.join(cells)} | **missed** |" in text
    assert "\n3 runs, " in text
    line = next(line for line in text.splitlines() if line.startswith("| thinc | 1 |"))
    assert " / – / " in line
    assert "thinc ×1: it strays (1 of 3 runs)" in text
    (alone,) = results.page(results.machines()[:1]).split("\n### `big`")[:1]
    assert "\n1 run, " in alone
    assert "run by run |" not in alone


def test_several_starts_are_shown_as_medians_and_one_by_one(tmp_path):
    folder = tmp_path / "machine"
    folder.mkdir()
    known = next(each for each in results.machines() if each.startups)
    for number, seconds in enumerate(([7.0, 9.0], [21.0, 23.0]), 1):
        document.write(known.runs[0], folder / f"run-{number}.json")
        start = known.startups[0]
        for row in start["startup"]:
            if row["peer"] == OURS:
                row["cold_first_call_seconds"] = seconds
        document.write(start, folder / f"startup-{number}.json")
    text = results.page(results.machines(tmp_path))
    assert "15.00 s, **missed**" in text.replace("\u00a0", " ")  # in the summary
    line = [line for line in text.splitlines() if line.startswith("| first call ever |")][1]
    cells = [cell.strip().replace("\u00a0", " ") for cell in line.split("|")[4:-1]]
    assert cells == ["15.00 s", "8.00 s", "22.00 s", "**missed**"]
    table = text.split("### First step and memory")[1].splitlines()
    row = next(line for line in table if OURS in line)
    assert "15.00 s" in row.replace("\u00a0", " ")  # the median of all processes


def test_headings_stand_after_an_empty_line():
    lines = results.PAGE.read_text("utf-8").splitlines()
    headings = [i for i, line in enumerate(lines) if line.startswith("#")]
    assert len(headings) > 10
    assert all(not lines[i - 1] and not lines[i + 1] for i in headings if i)


def test_tasks_say_what_they_are():
    for task in (*TASKS, *(quick(task) for task in TASKS)):
        assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task
        if task.kind == "train":
            order = task.order(1)
            assert len(order) == task.samples
            assert order.max() < task.rows
    assert not np.array_equal(TASKS[0].order(1), TASKS[0].order(2))
    for axis in AXES:
        points = sweep(axis)
        assert len({task.name for _, task in points}) == len(points) > len(sweep(axis, coarse=True))
        assert all(task.n_steps >= 4 and not task.is_full_batch for _, task in points)


@pytest.mark.parametrize("words", [["--peers", "keras"], ["--workloads", "huge"]])
def test_unknown_names_are_wrong_usage(words, capsys):
    assert main(words) == ExitCode.USAGE
    assert "choose one of" in capsys.readouterr().out


def test_a_foreign_file_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(FileFormatError):
        document.read(tmp_path / "a.json")
    assert main(["show", "--json", str(tmp_path / "a.json")]) == ExitCode.FAILURE


def test_a_run_that_is_cut_short_keeps_the_tasks_it_has_measured(tmp_path, monkeypatch):
    measured = []

    def stopping(_contest, task, _rounds):
        if measured:
            raise KeyboardInterrupt
        measured.append(task.name)
        return {"task": task.to_dict(), "entries": []}

    monkeypatch.setattr(Contest, "run", stopping)
    path = tmp_path / "a.json"
    words = ["--workloads", "small,big", "--peers", OURS, "--json", str(path)]
    assert main(words) == ExitCode.INTERRUPTED
    assert [each["task"]["name"] for each in document.read(path)["tasks"]] == measured == ["small"]
