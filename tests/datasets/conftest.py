"""Fixtures of the data-set tests: a tiny published set, and a local server that can misbehave."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from fusedmlp.datasets.download import Timeouts
from fusedmlp.datasets.idx import encode_idx
from fusedmlp.datasets.published import MNIST, IdxFile, PublishedSet

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Server:
    """A web server on this machine: answers by path, everything else is 404."""

    url: str
    answers: dict[str, Answer] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)

    def serve(self, path: str, body: bytes, *, status: int = 200, length: int | None = -1):
        """Answer ``path`` with ``body``; announce its length, another one, or (None) none."""

        def answer(request: BaseHTTPRequestHandler) -> None:
            request.send_response(status)
            if length is not None:
                announced = len(body) if length < 0 else length
                request.send_header("Content-Length", str(announced))
            request.end_headers()
            request.wfile.write(body)

        self.answers[path] = answer

    def stall(self, path: str):
        """Accept a request for ``path`` and do not answer until the test is over."""
        self.answers[path] = lambda _request: self.released.wait(30) and None


@pytest.fixture
def server() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            answer = state.answers.get(self.path)
            try:
                if answer:
                    answer(self)
                else:
                    self.send_error(404)
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client gave up, as it should

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    class Listener(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64  # the default of 5 makes a sixth client wait a second

    httpd = Listener(("127.0.0.1", 0), Handler)
    state = Server(f"http://127.0.0.1:{httpd.server_port}/")
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield state
    state.released.set()
    httpd.shutdown()
    thread.join()
    httpd.server_close()


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    """Twenty train and five test images of 4 x 4 pixels with labels, by file name."""
    rng = np.random.default_rng(7)
    shapes = ((20, 4, 4), (20,), (5, 4, 4), (5,))
    return {
        file.name: rng.integers(0, 3 if len(shape) == 1 else 256, shape, np.uint8)
        for file, shape in zip(MNIST.files, shapes, strict=True)
    }


@pytest.fixture
def raw(arrays) -> dict[str, bytes]:
    """The same as raw IDX files."""
    return {name: encode_idx(array) for name, array in arrays.items()}


@pytest.fixture
def published(raw, server) -> PublishedSet:
    """A published set that the local server may carry below ``a/`` and ``b/``."""
    return PublishedSet(
        name="tiny",
        files=tuple(
            IdxFile(name, len(content), hashlib.sha256(content).hexdigest())
            for name, content in raw.items()
        ),
        mirrors=(f"{server.url}a/", f"{server.url}b/"),
        openml_id=1,
        wheel=None,
        class_names=("x", "y", "z"),
        folders=("tiny", ""),
    )


@pytest.fixture
def timeouts() -> Timeouts:
    return Timeouts(connect=5.0, read=1.0, download=5.0, openml=20.0, pip=60.0)


@pytest.fixture
def closed_url() -> str:
    """An address of this machine where nothing listens."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{listener.getsockname()[1]}/"


@pytest.fixture(autouse=True)
def no_user_settings(monkeypatch, tmp_path):
    """Keep the machine's own data folders, caches and proxies out of every test."""
    for name in ("FUSEDMLP_DATA", "FUSEDMLP_CACHE", "http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path / "no-sklearn-data"))
