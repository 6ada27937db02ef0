"""Some cases of fuzz_files.py, the same in every run; the program itself runs millions."""

from __future__ import annotations

from contextlib import nullcontext

from fuzz_files import Fuzzer


def test_damaged_files_are_read_or_refused(tmp_path):
    fuzzer = Fuzzer(0, tmp_path)
    failures = [failure for number in range(2_000) if (failure := fuzzer.run(number))]
    assert not failures, "\n".join(failures)
    assert {outcome.split(": ")[1] for outcome in fuzzer.outcomes} >= {"loaded", "FileFormatError"}


def test_a_reader_that_lets_an_exception_out_is_found(tmp_path, monkeypatch):
    """With the conversion of errors taken away, a hundred cases of NPZ files are enough."""
    monkeypatch.setattr("fusedmlp.datasets.npz.decoding", lambda _where: nullcontext())
    fuzzer = Fuzzer(0, tmp_path)
    assert any(fuzzer.run(number) for number in range(200))
