"""Peers in threads of their own, which go on whatever becomes of the event loop."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
import threading
from collections.abc import AsyncIterator
from typing import Any

from core.streams import KEY, PING, PONG, TEXT, frame

import fastws

from .net import QUIET, port_of, request_to, response_to, until, xor

_CHUNK = 64 * 1024
_SOCKET_TIMEOUT = 10.0


class Flood:
    """Writes numbered text messages as fast as they are taken, a ping after each ``pings_every`` of them.

    It answers pings, and counts the pongs that it gets.

    Attributes:
        pings: Pings sent.
        pongs: Pongs received.
    """

    def __init__(self, sock: socket.socket, key: bytes | None, *, size: int = 200, pings_every: int = 1000) -> None:
        sock.settimeout(_SOCKET_TIMEOUT)
        self._sock = sock
        self._key = key
        self._ended = threading.Event()
        self._received = bytearray()
        self.pings = self.pongs = 0
        message = frame(TEXT, b"x" * size, key=key)
        self._chunk = message * max(1, min(pings_every, _CHUNK // len(message)))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with contextlib.suppress(OSError), self._sock:
            while not self._ended.is_set():
                self._sock.sendall(self._chunk + frame(PING, b"%d" % self.pings, key=self._key))
                self.pings += 1
                while select.select([self._sock], [], [], 0)[0]:
                    data = self._sock.recv(65536)
                    if not data:
                        return
                    self._received += data
                    self._take_control_frames()

    def _take_control_frames(self) -> None:
        """Frames of fewer than 126 bytes are all that it is sent."""
        data = self._received
        while len(data) >= 2:
            masked = data[1] >> 7
            start = 2 + 4 * masked
            size = start + (data[1] & 0x7F)
            if len(data) < size:
                return
            opcode, payload = data[0] & 0x0F, bytes(data[start:size])
            if masked:
                payload = xor(payload, bytes(data[2:6]))
            del data[:size]
            if opcode == PONG:
                self.pongs += 1
            elif opcode == PING:
                self._sock.sendall(frame(PONG, payload, key=self._key))

    def end(self) -> None:
        self._ended.set()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join(_SOCKET_TIMEOUT)
        assert not self._thread.is_alive()


def _head(sock: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        more = sock.recv(1)
        assert more
        data += more
    return data


@contextlib.asynccontextmanager
async def flooded(
    side: str, *, options: dict[str, Any] | None = None, **kwargs: Any
) -> AsyncIterator[tuple[Any, Flood]]:
    """(a connection of fastws on ``side``, the flood that it is under); ``kwargs`` are those of `Flood`."""
    merged = {**QUIET, **(options or {})}
    floods: list[Flood] = []
    if side == "client":
        with socket.create_server(("127.0.0.1", 0)) as listening:

            def accept() -> socket.socket:
                sock, _ = listening.accept()
                sock.sendall(response_to(_head(sock)))
                return sock

            accepting = asyncio.ensure_future(asyncio.to_thread(accept))
            ws = await fastws.connect(f"ws://127.0.0.1:{listening.getsockname()[1]}/", **merged)
            floods.append(Flood(await accepting, None, **kwargs))
            try:
                yield ws, floods[0]
            finally:
                ws.transport.abort()
                floods[0].end()
            await ws.wait_closed()
    else:
        opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        async def handler(ws: Any) -> None:
            opened.set_result(ws)
            await ws.wait_closed()

        def dial(port: int) -> socket.socket:
            sock = socket.create_connection(("127.0.0.1", port))
            sock.sendall(request_to(port))
            assert _head(sock).startswith(b"HTTP/1.1 101 ")
            return sock

        async with fastws.serve(handler, "127.0.0.1", 0, **merged) as server:
            floods.append(Flood(await asyncio.to_thread(dial, port_of(server)), KEY, **kwargs))
            ws = await opened
            try:
                yield ws, floods[0]
            finally:
                ws.transport.abort()
                floods[0].end()
            await until(lambda: not server.connections)
