"""Servers in threads of their own, made of ``websockets`` or of raw bytes."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import websockets.sync.server
from connection.net import read_head, response_to


def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Wait for something that nobody tells about."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it isn't so in time"
        time.sleep(0.002)


@contextlib.contextmanager
def served(handler: Callable[[Any], None], scheme: str = "ws", **kwargs: Any) -> Iterator[str]:
    """A server of ``websockets``; gives its URI."""
    kwargs.setdefault("ping_interval", None)
    kwargs.setdefault("close_timeout", 5)
    with websockets.sync.server.serve(handler, "127.0.0.1", 0, **kwargs) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"{scheme}://127.0.0.1:{server.socket.getsockname()[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def raw_peer(work: Callable[[socket.socket], None], head: bytes | None = None, behind: bytes = b"") -> Iterator[str]:
    """A server that answers the handshake, or with ``head``, and leaves what follows ``behind`` it to ``work``."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with connection:
                    asked = read_head(connection)
                    connection.sendall((response_to(asked) if head is None else head) + behind)
                    work(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def until_eof(connection: socket.socket) -> bytes:
    """Read all that comes."""
    received = bytearray()
    with contextlib.suppress(OSError):
        while data := connection.recv(65536):
            received += data
    return bytes(received)
