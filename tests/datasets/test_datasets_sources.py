"""The order of the sources, the progress lines, the cache, and the one final error."""

from __future__ import annotations

import errno
import gzip
import os
import threading
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from fusedmlp.datasets import cache
from fusedmlp.datasets.sources import SOURCES, Locations, fetch
from fusedmlp.errors import DataUnavailableError, StorageError, UnknownNameError
from fusedmlp.io.cache_folders import temporary_cache_dir

IMAGES = "train-images-idx3-ubyte"


class Fetched(NamedTuple):
    files: dict[str, bytes]
    origin: str
    lines: list[str]
    is_mapped: bool


@pytest.fixture
def locations(tmp_path, timeouts, closed_url) -> Locations:
    return Locations(cache_dir=tmp_path / "cache", timeouts=timeouts, openml_url=closed_url)


@pytest.fixture
def lines() -> list[str]:
    """The progress lines of the last call of ``get``."""
    return []


@pytest.fixture
def get(published, locations, lines):
    """Fetch the tiny set, from all sources or from one, with changed locations."""

    def run(source: str | None = None, **changes) -> Fetched:
        lines.clear()
        files, origin = fetch(published, replace(locations, **changes), source, lines.append)
        is_mapped = all(isinstance(content, np.memmap) for content in files.values())
        contents = {name: content.tobytes() for name, content in files.items()}
        return Fetched(contents, origin, list(lines), is_mapped)

    return run


@pytest.fixture
def mirror(server, raw):
    """Serve the set from the second mirror."""
    for name, content in raw.items():
        server.serve(f"/b/{name}.gz", gzip.compress(content))


def write_raw(folder: Path, raw: dict[str, bytes], suffix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in raw.items():
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return folder


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.usefixtures("mirror")
def test_fetched_once_then_mapped_from_the_cache(get, locations, raw, server):
    cached = locations.cache_dir / "tiny"
    expected = ["tiny: trying the public mirrors"]
    expected.append(f"tiny: from the public mirrors, now cached in {cached}")
    assert get() == (raw, "the public mirrors", expected, True)
    assert names_in(cached) == sorted(raw)
    server.answers.clear()
    assert get() == (raw, f"the cache {locations.cache_dir}", [], True)


def test_order_and_final_error(get, published, lines):
    with pytest.raises(DataUnavailableError) as caught:
        get()
    _, *reasons, remedy = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in reasons] == list(SOURCES)
    words = ("no folder given", "is not cached yet", "HTTP 404", "refused", "no package carries")
    for reason, word in zip(reasons, words, strict=True):
        assert word in reason
    for word in (*(f"{file.name}.gz" for file in published.files), "--data-dir"):
        assert word in remedy
    assert published.mirrors[0] in remedy
    tried = ["the public mirrors", "OpenML", "pip's package index"]
    assert [line.split("trying ")[1] for line in lines] == tried
    assert lines[1].startswith("tiny: the public mirrors failed (127.0.0.1: HTTP 404")


@pytest.mark.usefixtures("mirror")
def test_folder_comes_first_and_plain_files_are_used_in_place(
    get, locations, raw, server, tmp_path
):
    folder = write_raw(tmp_path / "data", raw)
    assert get(data_dir=folder) == (raw, f"the folder {folder}", [], True)
    assert server.requests == []
    assert not locations.cache_dir.exists()


def test_compressed_folder_goes_to_the_cache(get, raw, tmp_path):
    folder = write_raw(tmp_path / "data" / "tiny", raw, ".gz").parent
    found = get(data_dir=folder)
    assert (found.files, found.is_mapped) == (raw, True)
    assert "now cached in" in found.lines[0]
    assert get("cache").origin.startswith("the cache")


def test_own_subfolder_wins_over_another_set_in_the_folder(get, raw, tmp_path):
    folder = write_raw(tmp_path / "data", {name: bytes(30) for name in raw})
    write_raw(folder / "tiny", raw)
    assert get("dir", data_dir=folder).files == raw


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda f: (f / IMAGES).unlink(), f"lacks {IMAGES}"),
        (lambda f: (f / IMAGES).write_bytes(b""), "is empty"),
        (lambda f: (f / IMAGES).write_bytes(bytes(336)), "damaged or another file"),
        (lambda f: (f / IMAGES).write_bytes(bytes(335)), "335 bytes, expected 336"),
        (lambda f: (f / IMAGES).write_bytes(b"\x1f\x8b123"), "damaged gzip"),
        (lambda f: [path.unlink() for path in f.iterdir()], "no IDX files in"),
        (lambda f: [path.unlink() for path in f.iterdir()] and f.rmdir(), "is not a folder"),
    ],
)
@pytest.mark.usefixtures("mirror")
def test_unusable_folder_is_reported(get, locations, raw, tmp_path, damage, words):
    folder = write_raw(tmp_path / "data", raw)
    damage(folder)
    with pytest.raises(DataUnavailableError, match=words):
        get("dir", data_dir=folder)
    # Also when the files come from the cache: silence would hide that the folder was not used.
    for instead in ("trying the public mirrors", f"using the cache {locations.cache_dir}"):
        found = get(data_dir=folder)
        assert found.files == raw
        assert words in found.lines[0]
        assert found.lines[0].endswith(instead)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-1] + b"\xff"),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink() or path.mkdir() or (path / "x").touch(),
    ],
    ids=["bit rot", "truncated", "empty", "folder in its place"],
)
@pytest.mark.usefixtures("mirror")
def test_damaged_cache_is_noticed(get, locations, raw, damage):
    get()
    file = locations.cache_dir / "tiny" / IMAGES
    damage(file)
    with pytest.raises(DataUnavailableError, match=IMAGES):
        get("cache")
    found = get()
    assert found.files == raw
    assert found.lines[0].startswith("tiny: the cache")
    if file.is_file():
        assert get("cache").files == raw
    else:
        assert "kept in memory only" in found.lines[1]


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("call", ["mkdir", "fsync", "replace"])
@pytest.mark.usefixtures("mirror")
def test_cache_that_cannot_be_written(monkeypatch, get, locations, raw, call, code):
    def fail(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os if call == "fsync" else Path, call, fail)
    found = get()
    assert (found.files, found.origin, found.is_mapped) == (raw, "the public mirrors", False)
    assert "kept in memory only" in found.lines[-1]
    assert os.strerror(code) in found.lines[-1]
    assert [path for path in locations.cache_dir.rglob("*") if path.is_file()] == []


def test_a_temporary_folder_of_another_user(monkeypatch, published, raw, tmp_path):
    """The name can be foreseen: another user may have made the folder first."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    folder = temporary_cache_dir()
    files = {name: np.frombuffer(content, np.uint8) for name, content in raw.items()}
    cache.store(published, folder, files)
    assert cache.load(published, folder).keys() == raw.keys()
    folder.chmod(0o777)
    with pytest.raises(StorageError, match=f"write to {folder}"):
        cache.store(published, folder, files)
    with pytest.raises(DataUnavailableError, match=f"write to {folder}"):
        cache.load(published, folder)


def test_full_temporary_folder_is_a_reason_like_others(monkeypatch, get, server):
    def fail(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryDirectory", fail)
    server.serve("/api/v1/json/data/1", b"{}")
    with pytest.raises(DataUnavailableError, match=r"openml: .*No space left on device"):
        get(openml_url=server.url)


@pytest.mark.usefixtures("mirror")
def test_leftovers_of_killed_processes_are_swept(get, locations, published):
    folder = locations.cache_dir / "tiny"
    folder.mkdir(parents=True)
    left = folder / f".{published.files[0].name}.1-ab.tmp"
    left.touch()
    get()
    assert not left.exists()


@pytest.mark.usefixtures("mirror")
def test_threads_fill_the_cache_at_once(published, locations, raw):
    failures: list[BaseException] = []
    barrier = threading.Barrier(6)

    def work() -> None:
        try:
            barrier.wait()
            for source in ["mirror", *["cache"] * 20]:  # no reader may ever see a partial file
                files, _ = fetch(published, locations, source, str)
                assert {name: content.tobytes() for name, content in files.items()} == raw
        except BaseException as error:  # noqa: BLE001 - it is compared below
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert names_in(locations.cache_dir / "tiny") == sorted(raw)


@pytest.mark.usefixtures("mirror")
def test_one_source_alone(get, server):
    with pytest.raises(DataUnavailableError) as caught:
        get("cache")
    assert "mirror" not in str(caught.value).splitlines()[1]
    assert server.requests == []
    get("mirror")
    server.requests.clear()
    get("mirror")
    assert len(server.requests) == 5  # again although cached; the empty mirror a/ only once
    with pytest.raises(UnknownNameError, match="unknown data source 'web': choose one of dir, "):
        get("web")
