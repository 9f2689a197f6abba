"""Servers in threads of their own, made of ``websockets`` or of raw bytes."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import websockets.sync.server

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


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
                    answer = shake_hands(connection) if head is None else read_head(connection) and head
                    connection.sendall(answer + behind)
                    work(connection)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def read_head(connection: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(4096)
    return head


def shake_hands(connection: socket.socket) -> bytes:
    """The response to a handshake that is read here."""
    lines = read_head(connection).split(b"\r\n")
    key = next(line for line in lines if line.lower().startswith(b"sec-websocket-key:")).split(b":")[1].strip()
    accept = base64.b64encode(hashlib.sha1(key + GUID).digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def until_eof(connection: socket.socket) -> bytes:
    """Read all that comes."""
    received = bytearray()
    with contextlib.suppress(OSError):
        while data := connection.recv(65536):
            received += data
    return bytes(received)
