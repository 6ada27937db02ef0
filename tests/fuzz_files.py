"""Fuzzing of every reader of files: a load or an error of this package, and nothing else.

    python tests/fuzz_files.py --cases 1000000 --seed 0       # two processes
    python tests/fuzz_files.py --seed 0 --only 4711           # one case again; keeps its file

A case follows from the seed and its number alone, so that ``--start`` continues a run. A failure
is any other exception, a message that has several lines or does not name the file, a request for
memory far beyond the file's size, or a second of computation. test_fuzz.py runs some cases in CI.
"""

from __future__ import annotations

import argparse
import gzip
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING

import numpy as np

import file_mutations as mutate
from fusedmlp import MLP, Trainer
from fusedmlp.cli.inputs import load_inputs
from fusedmlp.cli.recipes import DEFAULT_RECIPE
from fusedmlp.cli.settings import DataOptions, RunOptions, Settings
from fusedmlp.datasets import load_dataset
from fusedmlp.datasets.idx import encode_idx, read_idx
from fusedmlp.errors import DivergedError, FusedMLPError
from fusedmlp.optimizers import Adam
from fusedmlp.sklearn import MLPClassifier, MLPRegressor
from fusedmlp.training.early_stopping import EarlyStopping

if TYPE_CHECKING:
    from collections.abc import Callable

    Mutation = Callable[[Random, bytes], bytes]

_MEMORY = 1 << 30
"""Bytes beyond those in use that a case may map; more is a failure."""

_SECONDS = 1.0
_REPORT_SECONDS = 30.0

_X = np.arange(36.0).reshape(12, 3) % 7
_Y = np.arange(12) % 3

_TABLE = b"size,weight,colour,kind\n" + b"1,2.5,red,a\n,4e2,blue,b\n5,-6,,b\n7,8,red,a\n" * 3
"""Numbers and categories, some of them missing, and labels."""


@dataclass(frozen=True)
class Target:
    """A reader, the name of its file, well-formed files, and mutations of their structure."""

    file: str
    read: Callable[[Path], object]
    contents: tuple[bytes, ...]
    mutations: tuple[Mutation, ...]

    def content(self, rng: Random) -> bytes:
        """Return a file with one to three mutations, now and then with none."""
        content = rng.choice(self.contents)
        for _ in range(rng.choice((0, 1, 1, 1, 1, 1, 1, 2, 2, 3))):
            mutations = self.mutations if rng.randrange(3) else mutate.BYTES
            content = rng.choice(mutations)(rng, content)
        return content


def targets(folder: Path) -> dict[str, Target]:
    """Build the targets by name; ``folder`` takes the files that have to be written first."""
    images = encode_idx(np.arange(96, dtype=np.uint8).reshape(8, 3, 4))
    idx = images, encode_idx(_X), gzip.compress(images, mtime=0)
    archives = tuple(
        _written(folder / "x.npz", save, **arrays)
        for save in (np.savez, np.savez_compressed)
        for arrays in (
            {"x": _X, "y": _Y},
            {"x_train": _X.astype(np.float32), "y_train": _Y, "x_test": _X, "y_test": _Y},
        )
    )
    single = _written(folder / "x.npy", np.save, _X), _written(folder / "x.npy", np.save, _Y)
    table = b"a,b,c\n1,2,0\n3.5,-4e2,1\n5,6,0\n7,8,2\n", b'1,2,"u v"\n3,4,w\n5,6,w\n', _TABLE
    zips = mutate.zip_members, mutate.zip_fields
    tensors = (mutate.safetensors,)

    model = MLP((2, 2))

    def predict(path: Path) -> object:
        return load_inputs(str(path), model, drop=(), data_dir=None)

    return {
        "idx": Target("case-idx", lambda path: np.array(read_idx(path)), idx, (mutate.idx,)),
        "npz": Target("case.npz", lambda path: load_dataset(path).summary(), archives, zips),
        "npz to predict": Target("case.npz", predict, archives, zips),
        "npy to predict": Target("case.npy", predict, single, (mutate.npy,)),
        "csv": Target(
            "case.csv", lambda path: load_dataset(path).summary(), table, (mutate.csv_text,)
        ),
        "csv to predict": Target("case.csv", predict, table[:1], (mutate.csv_text,)),
        "model": Target("case-model", _predict, _models(folder), tensors),
        "checkpoint": Target("case-checkpoint", _resume, (_checkpoint(folder),), tensors),
        "classifier": Target("case-estimator", _classify, _classifiers(folder), tensors),
        "regressor": Target("case-estimator", _regress, _regressors(folder), tensors),
        "settings": Target(
            "settings.json", _settings, _settings_files(folder), (mutate.json_text,)
        ),
    }


def _written(path: Path, save: Callable[..., object], *args: object, **kwargs: object) -> bytes:
    save(path, *args, **kwargs)
    content = path.read_bytes()
    path.unlink()
    return content


def _models(folder: Path) -> tuple[bytes, ...]:
    named = MLP([3, 3, 3], "tanh", dropout=0.25, backend="numpy", seed=9)
    named.class_names = ("a", "b", "c")
    values = MLP([3, 2], output="identity", dtype="float64", backend="numpy")
    (folder / "table.csv").write_bytes(_TABLE)
    data = load_dataset(folder / "table.csv")
    table = MLP([data.n_inputs, 2], backend="numpy")
    table.labels, table.preprocessing = data.labels, data.preprocessing
    return tuple(_written(folder / "model", mlp.save) for mlp in (named, values, table))


def _predict(path: Path) -> object:
    mlp = MLP.load(path, backend="numpy")
    if mlp.preprocessing is None:
        return mlp.predict(np.zeros((2, mlp.network.n_inputs), np.float32))
    is_text = [name in mlp.preprocessing.text_columns for name in mlp.preprocessing.names]
    row = [("red" if text else 1.5) for text in is_text]
    return mlp.predict(np.array([row, row], dtype=object))


def _trainer(path: Path, epochs: int) -> Trainer:
    stopping = EarlyStopping(patience=9)
    return Trainer(
        Adam(),
        epochs=epochs,
        batch_size=4,
        validation=0.25,
        early_stopping=stopping,
        checkpoint=path,
    )


def _checkpoint(folder: Path) -> bytes:
    mlp = MLP([3, 3, 3], backend="numpy")
    _trainer(folder / "checkpoint", 2).fit(mlp, _X, _Y)
    return (folder / "checkpoint").read_bytes()


def _resume(path: Path) -> object:
    trainer = replace(_trainer(path, 3), checkpoint=path.with_name("continued"))
    return trainer.fit(MLP([3, 3, 3], backend="numpy"), _X, _Y, resume=path)


def _classifiers(folder: Path) -> tuple[bytes, ...]:
    def fitted(y: np.ndarray, **settings: object) -> bytes:
        estimator = MLPClassifier((3,), max_iter=2, backend="numpy", random_state=0, **settings)
        return _written(folder / "estimator", estimator.fit(_X, y).save)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # two epochs do not converge
        return (
            fitted(_Y),
            fitted(np.array(["a", "b", "c"])[_Y], solver="lbfgs"),
            fitted(_Y > 0, early_stopping=True, validation_fraction=0.5),
            fitted(np.eye(3, dtype=int)[_Y]),
        )


def _regressors(folder: Path) -> tuple[bytes, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        random_state = np.random.RandomState(0)
        estimator = MLPRegressor(
            hidden_layer_sizes=(3,), max_iter=2, backend="numpy", random_state=random_state
        )
        return (_written(folder / "estimator", estimator.fit(_X, _Y).save),)


def _classify(path: Path) -> object:
    return MLPClassifier.load(path, backend="numpy").predict(_X)


def _regress(path: Path) -> object:
    return MLPRegressor.load(path, backend="numpy").predict(_X)


def _settings_files(folder: Path) -> tuple[bytes, ...]:
    Settings(DataOptions("moons"), RunOptions(), DEFAULT_RECIPE).save(folder)
    return ((folder / "settings.json").read_bytes(),)


def _settings(path: Path) -> object:
    return Settings.load(path.parent).recipe.make_optimizer()


class Fuzzer:
    """Runs cases in a folder of its own."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.seed, self.folder = seed, folder
        self.outcomes: Counter[str] = Counter()
        self._targets = targets(folder)

    def run(self, number: int) -> str | None:
        """Run a case; return a description of its failure, or None."""
        rng = Random(f"{self.seed}:{number}")
        name = rng.choice(list(self._targets))
        target = self._targets[name]
        path = self.folder / target.file
        path.write_bytes(target.content(rng))
        start = time.process_time()
        failure = None
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                target.read(path)
            outcome = "loaded"
        except FusedMLPError as error:
            outcome = type(error).__name__
            # A crafted state of an optimizer may diverge: that is not of the file's form.
            failure = None if isinstance(error, DivergedError) else _fault(error, path)
        except Exception:  # noqa: BLE001 - this is what is looked for
            outcome, failure = "failed", traceback.format_exc()
        self.outcomes[f"{name}: {outcome}"] += 1
        seconds = time.process_time() - start
        if failure is None and seconds > _SECONDS:
            failure = f"it took {seconds:.1f} s"
        if failure is None:
            return None
        again = f"python tests/fuzz_files.py --seed {self.seed} --only {number}"
        return f"case {number} ({name}): {failure}\nAgain: {again}"


def _fault(error: FusedMLPError, path: Path) -> str | None:
    """Return what is wrong with an error of this package, or None."""
    message = str(error)
    if "\n" in message:
        return f"a message of several lines: {message!r}"
    if path.stem not in message:
        return f"a message that does not name the file: {message!r}"
    cause = error.__cause__
    if isinstance(cause, MemoryError) and not str(cause) and "ast" not in _last_file(cause):
        return f"it wanted more than {_MEMORY:,} bytes: {message!r}"
    return None


def _last_file(error: BaseException) -> str:
    return Path(traceback.extract_tb(error.__traceback__)[-1].filename).name


def limit_memory() -> None:
    """Let a request for memory far beyond the largest file fail, where the system can."""
    try:
        import resource
    except ImportError:
        return
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _work(seed: int, numbers: range) -> tuple[Counter[str], list[str]]:
    with tempfile.TemporaryDirectory(prefix="fusedmlp-fuzz-") as name:
        fuzzer, failures = Fuzzer(seed, Path(name)), []
        limit_memory()
        begun = told = time.monotonic()
        for done, number in enumerate(numbers, start=1):
            failure = fuzzer.run(number)
            if failure:
                failures.append(failure)
                print(failure, flush=True)
            now = time.monotonic()
            if now - told > _REPORT_SECONDS:
                rate, told = done / (now - begun), now
                print(
                    f"{done:,} cases up to {number}, {len(failures)} failed, {rate:.0f}/s",
                    flush=True,
                )
    return fuzzer.outcomes, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--only", type=int, help="run this case alone and keep its file")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    if options.only is not None:
        folder = Path(tempfile.mkdtemp(prefix="fusedmlp-fuzz-"))
        fuzzer = Fuzzer(options.seed, folder)
        limit_memory()
        print(fuzzer.run(options.only) or "passed", json.dumps(fuzzer.outcomes), folder, sep="\n")
        return 0
    end = options.start + options.cases
    parts = [
        (options.seed, range(options.start + part, end, options.processes))
        for part in range(options.processes)
    ]
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # read when the processes import NumPy
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        results = pool.starmap(_work, parts)
    total = sum((outcomes for outcomes, _ in results), Counter())
    for outcome, count in sorted(total.items()):
        print(f"{count:9,} {outcome}")
    failures = [failure for _, failed in results for failure in failed]
    print(f"{sum(total.values()):,} cases of seed {options.seed}, {len(failures)} failed")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
