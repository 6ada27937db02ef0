"""The project's own benchmarks beside other libraries: processes, adapters, targets, page."""

from __future__ import annotations

import json
import os
import re
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
if str(BENCHMARKS) not in sys.path:
    sys.path.insert(0, str(BENCHMARKS))

from adapters import fma_peak, workshop_numpy  # noqa: E402 - after the path is set
from fusedmlp.bench import document, parity  # noqa: E402
from fusedmlp.bench.adapter import Adapter, UnsupportedError  # noqa: E402
from fusedmlp.bench.backend_adapter import BackendAdapter  # noqa: E402
from fusedmlp.bench.prepare import prepare  # noqa: E402
from fusedmlp.bench.scheduler import Options, RoundRobin  # noqa: E402
from fusedmlp.bench.subjects import NUMBA, PEAK, Subject  # noqa: E402
from fusedmlp.bench.tasks import Task  # noqa: E402
from fusedmlp.bench.worker import Worker, WorkerError  # noqa: E402
from fusedmlp.errors import ExitCode, FileFormatError  # noqa: E402
from fusedmlp.registry import backend_class  # noqa: E402
from peers import charts, page, subjects  # noqa: E402
from peers.__main__ import main  # noqa: E402
from peers.questions import Question, questions, speedup  # noqa: E402
from peers.targets import TARGETS, best  # noqa: E402
from workloads import BY_NAME, TASKS, quick, rows_of  # noqa: E402

WRITE_THE_PAGE = "run `python -m peers page` in benchmarks"

TINY = Task("tiny", sizes=(6, 8, 3), inputs="normal", batch_size=8, rows=40, samples=40)


class Numpy(BackendAdapter):
    """The specification."""

    def __init__(self, threads):
        super().__init__(threads, "numpy")


class Diverging(Numpy):
    """Trains with another learning rate."""

    def training(self, task, inputs):
        return super().training(replace(task, lr=1.05 * task.lr), inputs)


class Unsuitable(Adapter):
    """Cannot run on this machine."""

    def __init__(self, threads):
        raise UnsupportedError("there is no such device")


class Crashing(Adapter):
    """Ends its process."""

    def training(self, task, inputs):
        os._exit(7)


class Silent(Numpy):
    """Does not answer."""

    def training(self, task, inputs):
        time.sleep(600)


def from_here(name):
    return Subject(name.lower(), f"{__name__}:{name}", "numpy")


def named(*names):
    return [subject for subject in subjects.SUBJECTS if subject.name in names]


def run_all(chosen, tasks, rounds=2, **options):
    found, said = document.new({}, []), []
    with RoundRobin(chosen, found, Options(rows_of, said.append, **options)) as benchmark:
        found["tasks"] += [benchmark.run(task, rounds) for task in tasks]
    return found, said, benchmark


def prepared(task):
    return prepare(task, rows_of, backend_class("numpy")())


def entry(peer, seconds, threads=1):
    rounds = [{"seconds": each, "samples": 100} for each in seconds]
    return {
        "peer": peer, "threads": threads, "status": "measured", "reason": "", "rounds": rounds,
    }  # fmt: skip


def of_task(name, *entries):
    return {"task": BY_NAME[name].to_dict(), "flops_per_sample": 1, "entries": list(entries)}


@pytest.mark.slow
def test_a_run_gives_a_document_with_every_round(tmp_path):
    predicting = replace(TINY, name="predict-tiny", kind="predict", rows=100, samples=20)
    chosen = named(PEAK, NUMBA, "fusedmlp-numpy", "workshop")
    found, said, benchmark = run_all(chosen, [TINY, predicting])
    assert (benchmark.breaches, benchmark.failures, said) == (0, 0, [])
    document.write(found, tmp_path / "runs" / "out.json")
    read = document.read(tmp_path / "runs" / "out.json")
    assert read == json.loads(json.dumps(found))
    assert {"numpy", "numba", "fusedmlp"} <= set(read["versions"])
    for task in read["tasks"]:
        for each in task["entries"]:
            if (task["task"]["kind"], each["peer"]) == ("predict", "workshop"):
                assert (each["status"], each["rounds"]) == ("unsupported", [])
                continue
            assert (each["status"], len(each["rounds"])) == ("measured", 2), each
            assert all(turn["seconds"] > 0 for turn in each["rounds"])
    assert best(read, "tiny")["peer"] == "workshop"


def test_a_subject_that_diverges_or_crashes_is_excluded_and_the_others_go_on():
    absent = Subject("absent", "nowhere:Adapter", "a_module_that_is_not_there")
    others = [from_here(name) for name in ("Diverging", "Crashing", "Unsuitable")]
    others.append(replace(from_here("Crashing"), name="gone", target="nowhere:Adapter"))
    chosen = [*named("fusedmlp-numpy"), *others, absent]
    found, said, benchmark = run_all(chosen, [TINY])
    by_name = {each["peer"]: each for each in found["tasks"][0]["entries"]}
    statuses = {name: (each["status"], len(each["rounds"])) for name, each in by_name.items()}
    assert statuses == {
        "fusedmlp-numpy": ("measured", 2), "diverging": ("parity", 0), "crashing": ("failed", 0),
    }  # fmt: skip
    assert (benchmark.breaches, benchmark.failures) == (1, 3)  # the crashed worker is lost too
    assert "the movement of the weights differs by 0.0" in by_name["diverging"]["reason"]
    assert any("exit status 7" in line for line in said)
    assert "not installed" in found["skipped"]["absent"]
    assert found["skipped"]["unsuitable ×1"] == "there is no such device"
    assert "ModuleNotFoundError" in found["skipped"]["gone ×1"]


def test_a_worker_that_does_not_answer_is_killed():
    with Worker(from_here("Silent")) as worker:
        worker.greeting()
        worker.timeout = 0.5
        with pytest.raises(WorkerError, match=r"no answer after 0\.5 s"):
            worker.ask("check", TINY, prepared(TINY))
        with pytest.raises(WorkerError, match="exit status -9"):
            worker.ask("release")


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
@pytest.mark.parametrize("adapter", [workshop_numpy.WorkshopNumpy, Numpy])
def test_the_numpy_adapters_train_as_the_backend_does(adapter, task):
    try:
        run = adapter(1).runner(task, prepared(task))
    except UnsupportedError:
        assert adapter is not Numpy
        assert task.name in ("relu", "adam", "dropout")
        return
    assert parity.breach(task, run.parity()) is None
    found = run.round(1)
    assert found["samples"] == task.samples
    assert 0 < found["loss"] < 3
    assert 0 <= found["accuracy"] <= 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_peak_does_what_it_counts(dtype):
    lanes = fma_peak.VECTOR_BYTES // np.dtype(dtype).itemsize
    run = fma_peak.FmaPeak(2, iterations=1_000).runner(replace(TINY, dtype=dtype), None)
    assert parity.breach(TINY, run.parity()) is None
    found = run.round(1)
    assert found["flops"] == 2 * 2 * 1_000 * fma_peak.ACCUMULATORS * lanes
    assert found["seconds"] > 0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_multiply_adds_are_computed(dtype):
    found = fma_peak.fma_loop(dtype)(3)
    a = [1.0 + index / 64 for index in range(fma_peak.ACCUMULATORS)]
    for _ in range(3):
        a = [each * 0.999 + 0.001 for each in a]
    assert found == pytest.approx(sum(a), rel=1e-5)


@pytest.mark.parametrize("kind", ["train", "predict"])
@pytest.mark.parametrize(
    ("module", "name"), [("sklearn_mlp", "SklearnMLP"), ("onnx_session", "OnnxSession")]
)
def test_the_installed_libraries_agree(module, name, kind):
    task = replace(TINY, kind=kind)
    adapter = getattr(pytest.importorskip(f"adapters.{module}"), name)(1)
    if (kind, name) == ("train", "OnnxSession"):
        with pytest.raises(UnsupportedError, match="does not train"):
            adapter.runner(task, prepared(task))
        return
    run = adapter.runner(task, prepared(task))
    assert parity.breach(task, run.parity()) is None
    assert run.round(1)["samples"] == 40


def test_a_variant_differs_from_its_task_in_one_setting():
    by_name = {subject.name: subject for subject in subjects.SUBJECTS}
    small = BY_NAME["small"]
    assert by_name[f"{NUMBA}-sgd"].task_for(small) is None
    without = by_name[f"{NUMBA}-no-dropout"].task_for(BY_NAME["small-dropout"])
    assert without == replace(small, name=without.name)
    sgd = by_name[f"{NUMBA}-sgd"].task_for(BY_NAME["small-adam"])
    assert sgd == replace(small, name=sgd.name)
    assert {without.name, sgd.name}.isdisjoint(BY_NAME)  # each has inputs of its own


def test_adam_is_compared_in_its_own_rounds_where_a_run_has_both():
    (target,) = (each for each in TARGETS if each.name == "Adam relative to SGD, `small`")
    small, adam = of_task("small", entry(NUMBA, [1.0])), of_task("small-adam", entry(NUMBA, [2.0]))
    assert target.value({"tasks": [small, adam]}) == 0.5
    adam["entries"].append(entry(f"{NUMBA}-sgd", [1.6]))
    assert target.value({"tasks": [small, adam]}) == 0.8
    assert target.value({"tasks": [small]}) is None


def test_the_page_is_written_from_its_documents():
    assert page.page(page.machines()) == page.PAGE.read_text("utf-8"), WRITE_THE_PAGE


def test_each_question_has_the_chart_of_its_numbers():
    asked = questions(page.machines())
    files = {path.stem: path for path in charts.FOLDER.glob("*.svg")}
    assert len(asked) > 8
    assert files.keys() == {each.name for each in asked}, WRITE_THE_PAGE
    for each in asked:
        assert charts.described(files[each.name]) == charts.description(each), WRITE_THE_PAGE
        assert f"## {each.text}\n" in page.PAGE.read_text("utf-8")


def test_the_documents_have_no_library_that_cannot_be_measured():
    for machine in page.machines():
        for run in machine.runs:
            for each in run["tasks"]:
                assert {entry["peer"] for entry in each["entries"]} <= set(subjects.NAMES)


def test_a_chart_has_each_median_and_the_range_of_the_runs():
    numbers = {"JAX": {"A": [2.0, 3.0, 7.0], "B": [1.5]}, "PyTorch": {"A": [4.0], "B": []}}
    question = Question("some", "Is it?", "times as fast", "Small.", numbers)
    (axes,) = charts.draw(question).axes
    a, b = (line for line in axes.get_lines() if line.get_label() in "AB")
    assert list(a.get_xdata()) == [3.0, 4.0]
    assert list(b.get_xdata()) == [1.5]
    spans = [segment[:, 0].tolist() for each in axes.collections for segment in each.get_segments()]
    assert spans == [[2.0, 7.0], [4.0, 4.0], [1.5, 1.5]]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["JAX", "PyTorch"]
    assert question.description == "times as fast. JAX: A 3; B 1.5. PyTorch: A 4."
    assert question.alternative == "Chart, times as fast: JAX 1.5 to 3, PyTorch 4"


def test_growth_is_drawn_where_it_was_measured(tmp_path):
    def task(width, batch, seconds):
        small = replace(BY_NAME["small"], sizes=(784, width, 10), batch_size=batch)
        return of_task("small", entry(NUMBA, [seconds])) | {"task": small.to_dict()}

    tasks = [task(256, 16, 4.0), task(256, 64, 2.0), task(256, 256, 1.0), task(64, 64, 0.5)]
    about = {"cpu": "A CPU", "cores": 2, "vector_features": ["avx2"]}
    base = document.new({}, []) | {"machine": about}
    for name, found in (("run-1", []), ("bench", tasks)):
        document.write(base | {"tasks": found}, tmp_path / "machine" / f"{name}.json")
    asked = {each.name: each for each in questions(page.machines(tmp_path))}
    label = "numba, 1 thread"
    assert asked["batch"].numbers == {
        "16": {label: [25.0]}, "64": {label: [50.0]}, "256": {label: [100.0]}
    }  # fmt: skip
    assert asked["width"].numbers == {"64": {label: [200.0]}, "256": {label: [50.0]}}
    (axes,) = charts.draw(asked["batch"]).axes
    (line,) = axes.get_lines()
    assert list(line.get_xdata()) == [16, 64, 256]
    assert list(line.get_ydata()) == [25.0, 50.0, 100.0]


@pytest.mark.parametrize("machine", page.machines(), ids=lambda machine: machine.name)
def test_the_estimators_add_at_most_a_tenth_and_predict_one_row_faster(machine):
    for times in machine.estimators.values():
        if "engine" in times:
            assert np.median(times["ours"]) <= 1.10 * np.median(times["engine"])
            assert speedup(times) > 1.0
    assert speedup(machine.estimators["predict_proba, 1 rows"]) > 1.0


def test_the_estimators_are_measured_as_the_page_reads_them(tmp_path, monkeypatch, capsys):
    import estimators

    rng = np.random.default_rng(0)
    drawn = rng.integers(0, 256, (240, 784)).astype(np.uint8), rng.integers(0, 10, 240)
    monkeypatch.setattr(estimators, "mnist_rows", lambda rows: drawn)
    monkeypatch.setattr(estimators, "GRID", {"alpha": [1e-5]})
    monkeypatch.setattr(estimators, "TIMED_ROWS", 1)
    path = tmp_path / "estimators.json"
    with warnings.catch_warnings():
        estimators.main(["--rounds", "1", "--json", str(path)])
    found = json.loads(path.read_text())
    assert list(found) == list(page.machines()[0].estimators)
    printed = capsys.readouterr().out
    for name, times in found.items():
        title = re.escape(re.sub(r"\b1 rows", "1 row", name))
        assert re.search(rf"^\| {title} \|.*\| {speedup(times):.1f} \|", printed, re.MULTILINE)


@pytest.fixture
def machine(tmp_path):
    """Write runs of ``small`` to a folder; returns its page."""

    def written(*runs, startups=()):
        folder = tmp_path / "machine"
        folder.mkdir()
        about = {"cpu": "A CPU", "cores": 2, "vector_features": ["avx2"]}
        for kind, documents in (("run", runs), ("startup", startups)):
            for number, found in enumerate(documents, 1):
                base = document.new({}, []) | {"machine": about}
                document.write(base | found, folder / f"{kind}-{number}.json")
        (found,) = page.machines(tmp_path)
        return page.page([found])

    return written


def line_of(text, start):
    return next(line for line in text.splitlines() if line.startswith(start))


def test_the_verdict_is_that_of_the_weakest_run(machine):
    fast, slow = (
        {"tasks": [of_task("small", entry(NUMBA, [own] * 2), entry("jax", [10.0, 11.0]))]}
        for own in (1.0, 8.0)
    )
    text = machine(fast, slow, fast)
    assert "| 10.50\u00a0×, **missed** |" in line_of(text, "| `small`, best library")
    assert "3 runs" in text
    assert "| **10.50 (1.31–10.50)** |" in line_of(text, "| `small` |")


def test_a_ratio_that_one_round_contradicts_is_not_claimed(machine):
    text = machine(
        {"tasks": [of_task("small", entry(NUMBA, [1.0] * 3), entry("jax", [9, 9, 0.9]))]}
    )
    assert "| 9.00 |" in line_of(text, "| `small` |")


def test_what_failed_parity_is_named(machine):
    failed = entry("thinc", []) | {"status": "parity", "reason": "it strays"}
    text = machine({"tasks": [of_task("small", entry(NUMBA, [1.0]), failed)]})
    assert "thinc on `small`: it strays" in text


def test_start_ups_are_medians_over_all_processes(machine):
    small = {"tasks": [of_task("small", entry(NUMBA, [1.0]))]}
    startups = [
        {
            "startup": [
                {"peer": NUMBA, "threads": 2, "warm_memory_bytes": [1e8]}
                | {
                    f"{state}_{key}_seconds": seconds
                    for state in ("cold", "warm")
                    for key in ("first_call", "since_start")
                }
            ]
        }
        for seconds in ([7.0, 9.0], [21.0, 23.0])
    ]
    text = machine(small, startups=startups)
    assert "15.00 s, **missed**" in line_of(text, "| first call ever").replace("\u00a0", " ")
    assert line_of(text, f"| {NUMBA} | 2 |").count("15.00 s") == 4


def test_workloads_survive_json_and_cover_their_rows():
    for task in (*TASKS, *(quick(task) for task in TASKS)):
        assert Task.from_dict(json.loads(json.dumps(task.to_dict()))) == task
        if task.kind == "train":
            order = task.order(1)
            assert len(order) == task.samples
            assert order.max() < task.rows
    assert not np.array_equal(TASKS[0].order(1), TASKS[0].order(2))


@pytest.mark.parametrize("words", [["--peers", "keras"], ["--workloads", "huge"]])
def test_unknown_names_are_wrong_usage(words, capsys):
    assert main(words) == ExitCode.USAGE
    assert "choose one of" in capsys.readouterr().out


def test_a_foreign_file_is_refused(tmp_path):
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(FileFormatError):
        document.read(tmp_path / "a.json")
    assert main(["show", "--json", str(tmp_path / "a.json")]) == ExitCode.DATA_UNAVAILABLE


def test_a_run_that_is_cut_short_keeps_its_tasks(tmp_path, monkeypatch):
    measured = []

    def stopping(_benchmark, task, _rounds):
        if measured:
            raise KeyboardInterrupt
        measured.append(task.name)
        return of_task(task.name)

    monkeypatch.setattr(RoundRobin, "run", stopping)
    path = tmp_path / "a.json"
    words = ["--workloads", "small,big", "--peers", NUMBA, "--json", str(path)]
    assert main(words) == ExitCode.INTERRUPTED
    assert [each["task"]["name"] for each in document.read(path)["tasks"]] == measured == ["small"]


@pytest.mark.slow
def test_start_up_is_measured_for_backends_and_libraries(tmp_path, monkeypatch):
    """Without the Numba engine, whose cold start compiles: tests of ``fusedmlp bench`` have it."""
    chosen = named("fusedmlp-numpy", "workshop")
    monkeypatch.setattr(subjects, "chosen", lambda *_: chosen)
    path = tmp_path / "startup.json"
    assert main(["startup", "--quick", "--threads", "1", "--json", str(path)]) == ExitCode.OK
    rows = {row["peer"]: row for row in document.read(path)["startup"]}
    assert set(rows) == {"fusedmlp-numpy", "workshop"}
    for row in rows.values():
        for state in ("cold", "warm"):
            assert (
                row[f"{state}_since_start_seconds"][0] > row[f"{state}_first_call_seconds"][0] > 0
            )
            assert row[f"{state}_memory_bytes"][0] > 0
