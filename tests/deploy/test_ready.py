"""The container's health check against real sockets."""

from __future__ import annotations

import runpy
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ready: Callable[[int], bool] = runpy.run_path(
    str(Path(__file__).resolve().parents[2] / "deploy" / "ready.py")
)["ready"]


@contextmanager
def answering(reply: bytes) -> Iterator[int]:
    """A port whose first connection is answered `reply` and closed."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(1024).startswith(b"GET /readyz ")
                connection.sendall(reply)

        thread = threading.Thread(target=answer)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(timeout=10)


def test_a_200_is_ready() -> None:
    with answering(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as port:
        assert ready(port)


def test_a_503_is_not_ready() -> None:
    with answering(b"HTTP/1.1 503 Service Unavailable\r\n\r\n") as port:
        assert not ready(port)


def test_a_port_nobody_listens_on_is_not_ready() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert not ready(port)
