"""How benchmarks/gpu.py runs its parts: budgets, failures, exit codes, and what is kept of each.

The parts here measure nothing, and the clock is a fake. That processes are ended in time is in
test_cupy_benchmark_processes.py.
"""

from __future__ import annotations

import importlib
import json
import warnings

import pytest

from fusedmlp.errors import BreachedError

DEVICE = {"device": {"name": "Pretended GPU", "text": "GPU 0"}}


@pytest.fixture
def gpu(running):
    import gpu

    return gpu


class Time:
    """A clock that only :meth:`pass_` moves."""

    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Time()


def runner(clock, outcomes, asked):
    """Runs parts by taking (seconds, outcome) from a table; a part that would last is stopped."""

    def run(name, seconds):
        asked[name] = seconds
        takes, outcome = outcomes.get(name, (1.0, {}))
        clock.now += min(takes, seconds)
        if isinstance(outcome, BaseException):
            raise outcome
        figures = DEVICE if name == "device" else {"n": {"us": 1.0}}
        if takes > seconds:
            return {"state": "stopped", "figures": figures, "why": "took more"}
        return {"state": "done", "figures": figures} | outcome

    return run


def document_of(path):
    return json.loads(path.read_text("utf-8"))


def test_parts_fail_are_stopped_and_left_out_and_the_others_go_on(gpu, clock, tmp_path, capsys):
    path = tmp_path / "out.json"
    failed = {"state": "failed", "why": "boom", "exit_code": 1}
    outcomes = {
        "parity-eager": (2.0, failed),
        "launches": (0.5, OSError("no process")),
        "graphs": (1e9, {}),
        "torch": (0.1, {"state": "not measured", "why": "torch is not here"}),
        "jax": (1e9, {}),
        "tests": (1e9, {}),
    }
    asked = {}
    status = gpu.main(
        ["--out", str(path), "--budget", "180"], runner(clock, outcomes, asked), clock
    )
    assert status == 1
    assert clock.now <= 100 + 180
    document = document_of(path)
    assert document["finished"]
    parts = document["parts"]
    assert parts["parity-eager"]["why"] == "boom"
    assert parts["launches"]["why"] == "OSError: no process"
    assert parts["graphs"]["state"] == "stopped"
    assert parts["graphs"]["figures"]  # what it had
    given = importlib.import_module("gpu_check.parts").all_parts()
    assert parts["graphs"]["seconds"] == asked["graphs"] == given["graphs"].seconds
    assert asked["jax"] == given["jax"].seconds
    assert asked["tests"] < given["tests"].seconds  # what was left
    assert parts["tests"]["state"] == "stopped"
    assert parts["host"]["state"] == "skipped"
    assert "host" not in asked
    assert parts["barriers"]["state"] == "done"
    printed = capsys.readouterr()
    for text in (
        "graphs",
        "boom",
        "no process",
        "torch is not here",
        "of the budget's 180 were left",
    ):
        assert text in printed.out, text
        assert text in printed.err, text


def test_the_file_is_there_after_every_part(gpu, clock, tmp_path):
    path = tmp_path / "out.json"
    run = runner(clock, {}, {})
    seen = []

    def watching(name, seconds):
        seen.append(list(document_of(path)["parts"]) if path.exists() else [])
        assert not path.exists() or not document_of(path)["finished"]
        return run(name, seconds)

    assert gpu.main(["--out", str(path), "--parts", "launches,training"], watching, clock) == 0
    names = list(document_of(path)["parts"])
    assert names[0] == "device"
    assert {"launches", "training-eager", "training-tf32"} < set(names)
    assert seen == [names[:n] for n in range(len(names))]
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_that_is_interrupted_keeps_what_it_had(gpu, running, clock, tmp_path):
    path = tmp_path / "out.json"
    had = {"state": "stopped", "figures": {"first": {"us": 2.0}}, "why": "interrupted"}
    outcomes = {"launches": (1.0, running.InterruptedPartError(had))}
    words = ["--out", str(path), "--parts", "launches,graphs"]
    assert gpu.main(words, runner(clock, outcomes, {}), clock) == 130
    document = document_of(path)
    assert document["interrupted"]
    assert not document["finished"]
    assert document["parts"]["launches"]["figures"] == {"first": {"us": 2.0}}
    assert "graphs" not in document["parts"]


def test_a_breach_is_told_from_other_failures(gpu, clock, tmp_path):
    breached = {"state": "failed", "why": "too far", "exit_code": 4}
    outcomes = {"launches": (1.0, {"state": "failed", "why": "boom", "exit_code": 1})}
    words = ["--out", str(tmp_path / "out.json"), "--parts", "launches,handle"]
    assert gpu.main(words, runner(clock, outcomes, {}), clock) == 1
    outcomes["handle"] = (1.0, breached)
    assert gpu.main(words, runner(clock, outcomes, {}), clock) == 4


def test_a_peer_that_trains_otherwise_is_a_breach(gpu, clock, tmp_path):
    def outcome(key, loss):
        figures = {"us_a_step": 1.0, "median_s": 1.0, "tflops": 1.0, "first_loss": loss}
        return {"figures": {key: figures}}

    path = tmp_path / "out.json"
    words = ["--out", str(path), "--parts", "training-eager,torch"]
    outcomes = {"training-eager": (1.0, outcome("small", 0.5))}
    for loss, code in ((0.5, 0), (0.6, 4)):
        outcomes["torch"] = (1.0, outcome("small, torch graph", loss))
        assert gpu.main(words, runner(clock, outcomes, {}), clock) == code
        assert len(document_of(path)["other_trainings"]) == (code == 4)


@pytest.mark.parametrize(
    "outcome",
    [
        {"state": "failed", "figures": {}, "why": "none"},
        {"state": "stopped", "figures": {}, "why": "none"},
    ],
)
def test_without_a_device_nothing_is_run_or_written(gpu, clock, tmp_path, capsys, outcome):
    asked = {}
    words = ["--out", str(tmp_path / "out.json")]
    assert gpu.main(words, runner(clock, {"device": (1.0, outcome)}, asked), clock) == 3
    assert list(asked) == ["device"]
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr() == ("", "no usable GPU: none\n")


def test_names_of_files_and_of_parts(gpu, clock, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "HERE", tmp_path)
    run = runner(clock, {}, {})
    assert gpu.main([], run, clock) == 0
    assert gpu.main(["--parts", "jax"], run, clock) == 0
    names = sorted(path.name for path in (tmp_path / "results").iterdir())
    assert names == ["gpu-pretended-gpu-parts.json", "gpu-pretended-gpu.json"]
    for words, text in (
        (["--parts", "jxa"], "no part 'jxa'"),
        (["--budget", "0"], "--budget 0"),
    ):
        with pytest.raises(SystemExit) as caught:
            gpu.main(words, run, clock)
        assert caught.value.code == 2
        assert text in capsys.readouterr().err
    monkeypatch.setenv("CUPY_TF32", "1")
    with pytest.raises(SystemExit):
        gpu.main([], run, clock)
    assert "unset it" in capsys.readouterr().err


def measured(running, measure):
    """The exit code and all outcomes that a part hands on."""
    written = []
    code = running.measure_here(
        running.Part(1, measure), lambda outcome: written.append(json.loads(json.dumps(outcome)))
    )
    return code, written


def test_a_part_hands_on_every_figure(running):
    def part():
        yield "first", {"us": 1.5}
        warnings.warn("not so fast", RuntimeWarning, stacklevel=1)
        yield "second", {"us": 2.5}
        raise BreachedError("too far")

    code, written = measured(running, part)
    assert code == 4
    assert [len(each["figures"]) for each in written] == [1, 2, 2]
    assert [each["state"] for each in written] == ["running", "running", "failed"]
    assert written[-1]["why"] == "too far"
    assert written[-1]["warnings"] == ["RuntimeWarning: not so fast"]
    assert any("raise BreachedError" in line for line in written[-1]["traceback"])


def test_several_cases_go_on_after_one_that_fails(running):
    def missing():
        raise running.NotHereError("no clusters")

    def refused():
        raise running.RefusedError("too deep")

    sound = ("sound", lambda: {"us": 1.0})
    cases = [("bad", lambda: {"us": 1 / 0}), ("missing", missing), ("refused", refused), sound]
    code, written = measured(running, lambda: running.several(cases))
    assert code == 1
    assert written[-1]["why"] == "ZeroDivisionError: division by zero"
    assert written[-1]["figures"] == {
        "bad": {"failed": "ZeroDivisionError: division by zero"},
        "missing": {"not measured": "no clusters"},
        "refused": {"refused": "too deep"},
        "sound": {"us": 1.0},
    }
    assert measured(running, lambda: running.several(cases[1:]))[0] == 0
    assert measured(running, lambda: running.several(cases[1:3]))[0] == 1  # refused all


def test_what_json_does_not_know_is_written_as_text(running, tmp_path):
    path = tmp_path / "out.json"
    running.write_json(path, {"nan": float("nan"), "path": path, "list": (1, True, None, "µ")})
    assert document_of(path) == {"nan": "nan", "path": str(path), "list": [1, True, None, "µ"]}
