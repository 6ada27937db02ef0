"""Atomic writing, model files and checkpoints: round trips, and refusal of malformed files."""

from __future__ import annotations

import errno
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csc_array, csr_array

from fusedmlp import MLP, Trainer
from fusedmlp.backend import State
from fusedmlp.errors import FileFormatError, InvalidInputError, StorageError
from fusedmlp.io.atomic import check_writable, write_atomically
from fusedmlp.io.model_files import MODEL_FORMAT, load_model
from fusedmlp.io.parameter_files import write_arrays
from fusedmlp.network import Network
from fusedmlp.optimizers import SGD
from fusedmlp.training import checkpoint
from fusedmlp.training.checkpoint import Checkpoint, fingerprint, load_checkpoint, save_checkpoint
from fusedmlp.training.history import EpochRecord, History
from problems import flat, start
from stored import parts

KIND = MODEL_FORMAT.kind, MODEL_FORMAT.version


def test_writing_replaces_the_whole_file_and_leaves_no_other(tmp_path):
    path = tmp_path / "new" / "file"
    write_atomically(path, b"one")
    write_atomically(path, b"two")
    assert path.read_bytes() == b"two"
    assert os.listdir(path.parent) == ["file"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch, number, call):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*{"fsync": (os, "fsync"), "replace": (Path, "replace")}[call], fail)
    with pytest.raises(StorageError, match=os.strerror(number)):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_write_that_the_system_cuts_short_keeps_the_old_file(tmp_path):
    """A file-size limit makes the kernel refuse in the middle of the bytes, as a full disk does."""
    resource = pytest.importorskip("resource")
    path = tmp_path / "file"
    write_atomically(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StorageError, match=f"cannot write .*file: {os.strerror(errno.EFBIG)}"):
            write_atomically(path, bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


HOLDS_A_TEMPORARY_FILE = """
import os, sys
from fusedmlp.io.atomic import write_atomically
def wait(_descriptor):
    print("written", flush=True)
    sys.stdin.read()
os.fsync = wait
write_atomically(sys.argv[1], b"of the other process")
"""


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps open files by itself")
@pytest.mark.parametrize("end", ["kill", "finish"])
def test_a_save_removes_what_a_killed_one_left_and_no_file_in_use(tmp_path, end):
    path = tmp_path / "file[1]"
    other = tmp_path / ".file[1].notes.tmp"
    other.write_bytes(b"no temporary file of ours")
    command = [sys.executable, "-c", HOLDS_A_TEMPORARY_FILE, str(path)]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with child:
        assert child.stdout.readline() == "written\n"
        write_atomically(path, b"ours")
        assert len(os.listdir(tmp_path)) == 3
        if end == "kill":
            child.kill()
        child.communicate()
    assert path.read_bytes() == (b"ours" if end == "kill" else b"of the other process")
    assert len(os.listdir(tmp_path)) == (3 if end == "kill" else 2)
    write_atomically(path, b"new")
    assert sorted(os.listdir(tmp_path)) == sorted([other.name, path.name])
    assert path.read_bytes() == b"new"


@pytest.mark.skipif(os.name != "posix", reason="Windows keeps open files by itself")
def test_without_locks_files_are_written_and_none_is_taken_for_abandoned(tmp_path, monkeypatch):
    def refuse(_descriptor):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fusedmlp.io.atomic.lock", refuse)
    left = tmp_path / ".file.1-ab.tmp"
    left.write_bytes(b"")
    write_atomically(tmp_path / "file", b"new")
    assert sorted(os.listdir(tmp_path)) == [left.name, "file"]


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot write to"):
        check_writable(tmp_path / "file")
    check_writable(tmp_path / "new")
    assert (tmp_path / "new").is_dir()


@pytest.fixture
def model(tmp_path):
    mlp = MLP([5, 4, 3], "tanh", dropout=0.25, dtype="float64", seed=9, backend="numpy")
    mlp.class_names = ("a", "b", "c")
    path = tmp_path / "model.safetensors"
    mlp.save(path)
    return mlp, path


def test_a_model_comes_back(model):
    mlp, path = model
    loaded = MLP.load(path, backend="numpy")
    assert loaded.network == mlp.network
    assert loaded.dtype == "float64"
    assert loaded.seed == 9
    assert loaded.class_names == ("a", "b", "c")
    np.testing.assert_array_equal(flat(loaded.parameters), flat(mlp.parameters))


def test_a_model_file_is_plain_safetensors(model):
    """Anyone can read it with the safetensors package alone."""
    from safetensors import safe_open

    _, path = model
    with safe_open(path, "numpy") as file:
        assert sorted(file.keys()) == ["biases.0", "biases.1", "weights.0", "weights.1"]
        assert json.loads(file.metadata()["fusedmlp"])["version"] == MODEL_FORMAT.version


def test_truncated_files_are_refused_at_any_length(model, tmp_path):
    _, path = model
    content = path.read_bytes()
    for length in [0, 1, 7, 8, 9, 50, len(content) // 2, len(content) - 1]:
        cut = tmp_path / "cut"
        cut.write_bytes(content[:length])
        with pytest.raises(FileFormatError, match="cut"):
            MLP.load(cut)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "other"}, "holds 'other', expected 'fusedmlp-model'"),
        (
            {"version": MODEL_FORMAT.version + 1},
            "format version 3, this release reads up to 2: upgrade",
        ),
        ({"version": "1"}, "format version '1'"),
        ({"network": {"sizes": [5, 4, 2]}}, r"biases.1' has shape \(3,\), its .* promises \(2,\)"),
        ({"network": {"sizes": [5, 4, 3], "hidden": "exec"}}, "unknown hidden activation 'exec'"),
        ({"network": {"sizes": [5, 4, 3], "extra": 1}}, "unexpected keyword"),
        (
            {"network": {"sizes": [10**6, 10**6, 3]}},
            r"biases.0' has shape \(4,\), its .* \(10{6},\)",
        ),
        ({"network": 5}, "header is not sound"),
        ({"seed": "x"}, "seed 'x' is not a whole number"),
        ({"seed": -1}, "seed -1 is not a whole number"),
        ({"seed": float("inf")}, "seed inf is not a whole number"),
    ],
)
def test_malformed_headers_are_refused(model, tmp_path, change, message):
    _, path = model
    header, arrays = parts(path)
    header |= change
    malformed = tmp_path / "malformed"
    write_arrays(malformed, header.pop("kind"), header.pop("version"), header, arrays)
    with pytest.raises(FileFormatError, match=message):
        load_model(malformed)


@pytest.mark.parametrize("saved", ["model", "checkpoint"])
def test_headers_are_compared_with_the_arrays_before_these_are_read(saved, model, tmp_path):
    mlp, path = model
    if saved == "checkpoint":
        path = tmp_path / "checkpoint"
        state = start(mlp.network, SGD(0.1, 0.9))
        save_checkpoint(path, Checkpoint(mlp.network, state, state.parameters, History(), {}))
    header, arrays = parts(path)
    kind, version = header.pop("kind"), header.pop("version")
    changes = [{"network": header["network"] | {"sizes": [10**9, 10**9, 3]}}]
    if saved == "checkpoint":
        changes += [{"slots": 10**12}, {"slots": 2}, {"slots": -1}, {"has_best": False}]
    load = {"model": load_model, "checkpoint": load_checkpoint}[saved]
    load(path)
    for change in changes:
        write_arrays(path, kind, version, header | change, arrays)
        with pytest.raises(FileFormatError, match=r"its header promises|header is not sound"):
            load(path)


def test_malformed_arrays_are_refused(model, tmp_path):
    _, path = model
    header, arrays = parts(path)
    header = {k: v for k, v in header.items() if k not in ("kind", "version")}
    malformed = tmp_path / "malformed"
    cases = [
        ({"weights.0": arrays["weights.0"].astype(np.int64)}, "has type I64"),
        ({"weights.0": np.full_like(arrays["weights.0"], np.nan)}, "W1 holds NaN"),
        ({"weights.0": arrays["weights.0"].T.copy()}, r"\(4, 5\), its header promises \(5, 4\)"),
        ({"more": np.ones(1)}, "'more' has shape .*promises None"),
    ]
    for change, message in cases:
        write_arrays(malformed, *KIND, header, arrays | change)
        with pytest.raises(FileFormatError, match=message):
            load_model(malformed)
    del arrays["biases.1"]
    write_arrays(malformed, *KIND, header, arrays)
    with pytest.raises(FileFormatError, match=r"biases\.1"):
        load_model(malformed)


def test_foreign_files_are_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "foreign"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    with pytest.raises(FileFormatError, match="not a safetensors file"):
        MLP.load(path)
    path.write_bytes(struct.pack("<Q", 2**60) + b"{}")
    with pytest.raises(FileFormatError, match="not a safetensors file"):
        MLP.load(path)
    save_file({"a": np.ones(3)}, path)
    with pytest.raises(FileFormatError, match="not written by fusedmlp"):
        MLP.load(path)
    save_file({"a": np.ones(3)}, path, metadata={"fusedmlp": "{"})
    with pytest.raises(FileFormatError, match="not JSON"):
        MLP.load(path)
    with pytest.raises(StorageError, match="there is no file"):
        MLP.load(tmp_path / "absent")
    with pytest.raises(FileFormatError, match="is a folder, not a model file"):
        MLP.load(tmp_path)


def test_a_checkpoint_comes_back(tmp_path):
    network = Network((5, 4, 3))
    state = start(network, SGD(0.1, 0.9))
    record = EpochRecord(1, 8, 0.1, 1 / 3, 0.5, None, None, 0.1, 123.4)
    path = tmp_path / "checkpoint"
    saved = Checkpoint(network, state, state.parameters, History([record]), {"seed": "0"})
    save_checkpoint(path, saved)
    loaded = load_checkpoint(path)
    assert loaded.network == network
    assert loaded.history.records == [record]
    assert loaded.settings == {"seed": "0"}
    assert loaded.state.step == 0
    assert len(loaded.state.slots) == 1
    np.testing.assert_array_equal(flat(loaded.state.parameters), flat(state.parameters))
    np.testing.assert_array_equal(flat(loaded.best), flat(state.parameters))
    with pytest.raises(FileFormatError, match="holds 'fusedmlp-checkpoint', expected"):
        MLP.load(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(FileFormatError, match="truncated"):
        load_checkpoint(path)


@pytest.mark.parametrize("step", [-1, 1.5, float("inf"), "3", None])
def test_a_checkpoint_s_step_is_a_whole_number(step, tmp_path):
    network, path = Network((5, 4, 3)), tmp_path / "checkpoint"
    state = State(start(network, SGD(0.1)).parameters, (), step)
    save_checkpoint(path, Checkpoint(network, state, None, History(), {}))
    with pytest.raises(FileFormatError, match="is not a whole number of at least 0"):
        load_checkpoint(path)


def change_one(array):
    changed = array.copy()
    changed[501, 2] += 1
    return changed


@pytest.mark.parametrize("store", [np.asarray, np.asfortranarray, csr_array, csc_array])
def test_fingerprints_tell_data_apart(store):
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 3, (1000, 4)).astype(np.float64), rng.integers(0, 2, 1000)
    base = fingerprint(store(x), y, None)
    assert fingerprint(store(x.copy()), y.copy(), None) == base
    other = y.copy()
    other[500] ^= 1
    assert fingerprint(store(x), other, None) != base
    assert fingerprint(store(change_one(x)), y, None) != base
    every_other = x.copy()
    every_other[1::2] = 0
    assert fingerprint(store(every_other), y, None) != base
    assert fingerprint(store(x), y, np.ones(1000)) != base
    assert fingerprint(store(x[:999]), y[:999], None) != base
    assert fingerprint(store(x.astype(np.float32)), y, None) != base


def test_fingerprints_read_large_inputs_in_parts(tmp_path, monkeypatch):
    x, y = np.arange(8000.0).reshape(1000, 8), np.zeros(1000)
    np.save(tmp_path / "x.npy", x)
    monkeypatch.setattr(checkpoint, "_CHUNK_BYTES", 1000)
    base = fingerprint(x, y, None)
    assert fingerprint(np.load(tmp_path / "x.npy", mmap_mode="r"), y, None) == base
    assert fingerprint(np.asfortranarray(x), y, None) == base
    assert fingerprint(change_one(x), y, None) != base


def test_a_resumed_training_needs_the_same_data_in_every_row(tmp_path):
    x = np.random.default_rng(0).random((600, 4))
    y = (x[:, 0] > 0.5).astype(np.int64)
    path = tmp_path / "checkpoint"

    def train(x, epochs):
        mlp = MLP([4, 3, 2], backend="numpy")
        resume = path if path.exists() else None
        Trainer(epochs=epochs, batch_size=50, checkpoint=path).fit(mlp, x, y, resume=resume)

    train(x, 1)
    train(x, 2)
    x[1::2] += 0.25
    with pytest.raises(InvalidInputError, match=r"was made with data 600 rows, sha256 \w+, now"):
        train(x, 3)
    header, arrays = parts(path)
    header["settings"]["data"] = "600 rows, 0123456789abcdef"  # as older releases wrote it
    write_arrays(path, header.pop("kind"), header.pop("version"), header, arrays)
    with pytest.raises(InvalidInputError, match="of an older release, which recorded a sample"):
        train(x, 3)


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": 2},
        {"epoch": "1"},
        {"step": 0},
        {"step": 10**30},
        {"train_loss": None},
        {"train_loss": "low"},
        {"validation_loss": [1]},
        {"seconds": 0},
        {"seconds": float("nan")},
        {"lr": True},
        {"more": 1},
    ],
)
def test_records_of_a_checkpoint_are_checked(change, tmp_path):
    network, path = Network((5, 4, 3)), tmp_path / "checkpoint"
    record = EpochRecord(1, 8, 0.1, 1 / 3, 0.5, None, None, 0.1, 123.4)
    save_checkpoint(path, Checkpoint(network, start(network, SGD()), None, History([record]), {}))
    assert len(load_checkpoint(path).history) == 1
    header, arrays = parts(path)
    header["history"][0] |= change
    write_arrays(path, header.pop("kind"), header.pop("version"), header, arrays)
    with pytest.raises(FileFormatError, match="is not a sound checkpoint"):
        load_checkpoint(path)


def test_the_same_model_has_the_same_bytes(tmp_path):
    mlp = MLP([3, 3, 3])
    for number in range(4):
        mlp.save(tmp_path / str(number))
    assert len({(tmp_path / str(number)).read_bytes() for number in range(4)}) == 1


def test_damage_that_leaves_a_file_well_formed_is_noticed(tmp_path):
    """A flipped bit of a weight, a letter of a class name, two arrays that changed places."""
    path = tmp_path / "model"
    mlp = MLP([3, 3, 3], seed=1)
    mlp.class_names = ("a", "b", "c")
    mlp.save(path)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[-3] ^= 1
    renamed = content.replace(rb"[\"a\", ", rb"[\"A\", ")
    first, second, other = b'"weights.0"', b'"weights.1"', b'"weights.9"'
    swapped = content.replace(first, other).replace(second, first).replace(other, second)
    for damaged in (flipped, renamed, swapped):
        assert damaged != content
        path.write_bytes(damaged)
        with pytest.raises(FileFormatError, match="does not match its SHA-256"):
            MLP.load(path)


def test_files_of_releases_without_a_digest_are_read(model):
    from safetensors.numpy import save_file

    mlp, path = model
    header, arrays = parts(path)
    save_file(arrays, path, metadata={"fusedmlp": json.dumps(header)})
    np.testing.assert_array_equal(flat(MLP.load(path).parameters), flat(mlp.parameters))


def test_histories_are_written_as_csv_and_json_lines(tmp_path):
    record = EpochRecord(1, 8, 0.1, 1 / 3, 0.5, None, None, 0.25, 123.4)
    History([record]).save(tmp_path)
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,step,lr,train_loss,train_accuracy,validation_loss")
    assert lines[1] == f"1,8,0.1,{1 / 3!r},0.5,,,0.25,123.4"
    parsed = json.loads((tmp_path / "history.jsonl").read_text())
    assert parsed["train_loss"] == 1 / 3
    assert parsed["validation_loss"] is None
