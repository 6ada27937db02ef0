"""The OpenML source: a stand-in for scikit-learn answers in the child process."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets._openml import _get_local_path

from fusedmlp.datasets.openml import from_openml, write_table
from fusedmlp.errors import DataUnavailableError

FAKE = """
import numpy as np

class Table:
    table = np.load({path!r})
    data, target = table["x"].astype(float), table["y"].astype(str).astype(object)

def fetch_openml(**options):
    assert options.pop("data_id") == 1
    assert options.pop("as_frame") is False
    assert options.pop("parser") == "liac-arff"
    {body}
"""


@pytest.fixture
def fake(monkeypatch, tmp_path, arrays, server):
    """Let the child process import a scikit-learn whose ``fetch_openml`` has the given body."""
    images = np.concatenate([arrays["train-images-idx3-ubyte"], arrays["t10k-images-idx3-ubyte"]])
    labels = np.concatenate([arrays["train-labels-idx1-ubyte"], arrays["t10k-labels-idx1-ubyte"]])
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))

    server.serve("/api/v1/json/data/1", b"{}")

    def make(body: str, x: np.ndarray | None = None) -> None:
        package = tmp_path / "fake" / "sklearn"
        package.mkdir(parents=True)
        table = images.reshape(25, 16) if x is None else x
        np.savez(tmp_path / "table.npz", x=table, y=labels)
        (package / "__init__.py").touch()
        text = FAKE.format(path=str(tmp_path / "table.npz"), body=body)
        (package / "datasets.py").write_text(text, "utf-8")

    return make


def test_raw_files_are_rebuilt(fake, server, published, timeouts, raw):
    fake("return Table")
    payloads = from_openml(published, timeouts, server.url)
    assert {name: payload.tobytes() for name, payload in payloads.items()} == raw


def test_table_written_in_this_process(monkeypatch, tmp_path):
    class Table:
        data = np.array([[0.0, 255.0]])
        target = np.array(["7"], object)

    set_to = []
    monkeypatch.setattr("socket.setdefaulttimeout", set_to.append)
    monkeypatch.setattr("sklearn.datasets.fetch_openml", lambda **_options: Table)
    write_table(1, tmp_path, 2.5)
    assert set_to == [2.5]
    assert np.load(tmp_path / "pixels.npy").tolist() == [[0, 255]]
    assert np.load(tmp_path / "labels.npy").tolist() == [7]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            "import socket; raise OSError(f'timeout is {socket.getdefaulttimeout()}')",
            r"OSError: timeout is 1\.0$",
        ),
        # The modules beside the child's must not be on the path.
        ("import importlib.util as i; raise OSError(str(i.find_spec('npz')))", r"OSError: None$"),
        (
            "import urllib.error as e; raise e.HTTPError('url', 504, 'Gateway', None, None)",
            "504: Gateway",
        ),
        ("import os; os._exit(9)", "exit status 9"),
    ],
)
def test_failing_child_gives_one_line(fake, server, published, timeouts, body, words):
    fake(body)
    with pytest.raises(DataUnavailableError, match=words) as caught:
        from_openml(published, timeouts, server.url)
    assert "\n" not in str(caught.value)


def test_another_table(fake, server, published, timeouts):
    fake("return Table", np.zeros((25, 7), np.uint8))
    with pytest.raises(DataUnavailableError, match=r"another table: inputs \(25, 7\)"):
        from_openml(published, timeouts, server.url)


def test_unreachable_host_costs_no_process(fake, closed_url, published, timeouts):
    fake("raise AssertionError('started')")
    with pytest.raises(DataUnavailableError, match="refused"):
        from_openml(published, timeouts, closed_url)


def test_openml_that_is_down_or_silent_costs_no_process(fake, server, published, timeouts):
    fake("raise AssertionError('started')")
    server.serve("/api/v1/json/data/1", b"", status=504)
    with pytest.raises(DataUnavailableError, match="HTTP 504"):
        from_openml(published, timeouts, server.url)
    server.stall("/api/v1/json/data/1")
    with pytest.raises(DataUnavailableError, match="silent for 1 s"):
        from_openml(published, timeouts, server.url)


def test_what_scikit_learn_has_on_disk_needs_no_network(
    fake, closed_url, published, timeouts, monkeypatch, tmp_path
):
    fake("return Table")
    answer = _get_local_path("api/v1/json/data/1", str(tmp_path / "home" / "openml"))
    Path(answer).parent.mkdir(parents=True)
    Path(answer).touch()
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "home"))
    assert len(from_openml(published, timeouts, closed_url)) == 4
