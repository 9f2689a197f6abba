"""Connections under test, and peers that speak RFC 6455 byte by byte, rightly or wrongly."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import functools
import hashlib
import inspect
import os
import socket
import ssl
import struct
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from core.streams import CLOSE, KEY, PING, PONG, TEXT, frame

import fastws
from fastws.core import PumpedDecoder
from fastws.wire import Status

TEST_TIMEOUT = 20.0
"""Seconds until a test that hangs is ended; no test needs a fifth of it."""

GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


# Loops


def _loops(names: list[str], test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    @functools.wraps(test)
    def run(*args: Any, loop_name: str, **kwargs: Any) -> None:
        async def bounded() -> None:
            asyncio.get_running_loop().set_exception_handler(lambda loop, context: errors.append(context))
            async with asyncio.timeout(TEST_TIMEOUT):
                await test(*args, **kwargs)

        errors: list[dict[str, Any]] = []
        with asyncio.Runner(loop_factory=loop_factory(loop_name)) as runner:
            runner.run(bounded())
        assert not errors, f"the loop reported {errors}"

    signature = inspect.signature(test)
    parameter = inspect.Parameter("loop_name", inspect.Parameter.KEYWORD_ONLY)
    run.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=[*signature.parameters.values(), parameter], return_annotation=None
    )
    del run.__wrapped__  # type: ignore[attr-defined]
    return pytest.mark.parametrize("loop_name", names)(run)


def over_loops(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a coroutine on asyncio and on uvloop; what a callback raises fails the test, too."""
    return _loops(["asyncio", "uvloop"], test)


def on_asyncio(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a coroutine where the loop doesn't matter."""
    return _loops(["asyncio"], test)


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Loops by name; ``aiofastnet-`` before it puts aiofastnet's transports in."""
    inner = name.removeprefix("aiofastnet-")
    factory = asyncio.SelectorEventLoop if inner == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    return factory if inner == name else pytest.importorskip("aiofastnet").loop_factory(factory)


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    """Let the loop run until something is the case that nobody tells about."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def steady(figure: Callable[[], Any], seconds: float = 0.05) -> Any:
    """Wait until a figure doesn't change any more; returns it."""
    before, now = None, figure()
    while now != before:
        await asyncio.sleep(seconds)
        before, now = now, figure()
    return now


async def iterated(iterable: Any) -> tuple[list[Any], Exception | None]:
    """(what came, the exception that ended it or None)."""
    received: list[Any] = []
    try:
        async for item in iterable:
            received.append(item)  # noqa: PERF401  What comes before the exception counts.
    except fastws.ConnectionClosed as exc:
        return received, exc
    return received, None


# Links


@dataclasses.dataclass(frozen=True)
class Link:
    """What carries the bytes.

    Attributes:
        scheme: "ws" or "wss".
        server: What the accepting side takes besides host and port.
        client: What the connecting side takes.
    """

    scheme: str = "ws"
    server: dict[str, Any] = dataclasses.field(default_factory=dict)
    client: dict[str, Any] = dataclasses.field(default_factory=dict)

    def uri(self, port: int, path: str = "/") -> str:
        return f"{self.scheme}://127.0.0.1:{port}{path}"

    @property
    def half_closes(self) -> bool:
        return self.scheme == "ws"


PLAIN = Link()

QUIET: dict[str, Any] = {"ping_interval": None, "compression": None, "close_timeout": 5}
"""Options of a connection that does nothing by itself."""


def tls_link(server: ssl.SSLContext, client: ssl.SSLContext) -> Link:
    return Link("wss", {"ssl": server}, {"ssl": client})


def port_of(server: Any) -> int:
    port: int = server.sockets[0].getsockname()[1]
    return port


def xor(data: bytes, key: bytes) -> bytes:
    """Mask a payload in one go."""
    repeated = key * (len(data) // 4 + 1)
    number = int.from_bytes(data, "big") ^ int.from_bytes(repeated[: len(data)], "big")
    return number.to_bytes(len(data), "big")


# Wicked peers


class Peer:
    """The other end, made of raw bytes.

    Attributes:
        key: What it masks with; None for a server.
        head: The HTTP head that it received.
        ws: Gives the connection that it talks to, while that lives and if it is known.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes | None) -> None:
        self.reader = reader
        self.writer = writer
        self.key = key
        self.head = b""
        self.ws: Callable[[], Any] = lambda: None

    def frame(self, opcode: int, payload: bytes = b"", **kwargs: Any) -> bytes:
        """A frame as this side sends it."""
        plain = frame(opcode, payload, **kwargs)
        if self.key is None:
            return plain
        size = len(plain) - len(payload)
        return bytes([plain[0], plain[1] | 0x80]) + plain[2:size] + self.key + xor(payload, self.key)

    def write(self, data: bytes) -> None:
        self.writer.write(data)

    async def send(self, opcode: int, payload: bytes = b"", **kwargs: Any) -> None:
        self.write(self.frame(opcode, payload, **kwargs))
        await self.writer.drain()

    async def read(self) -> tuple[int, bool, bytes]:
        """The next frame as (opcode, fin, payload); it must be masked as its sender has to."""
        first, second = await self.reader.readexactly(2)
        assert first & 0x70 == 0, f"reserved bits {first:#x}"
        assert bool(second & 0x80) == (self.key is None), "incorrect masking"
        length = second & 0x7F
        if length == 126:
            (length,) = struct.unpack("!H", await self.reader.readexactly(2))
        elif length == 127:
            (length,) = struct.unpack("!Q", await self.reader.readexactly(8))
        key = await self.reader.readexactly(4) if second & 0x80 else b"\0" * 4
        payload = await self.reader.readexactly(length)
        return first & 0x0F, bool(first & 0x80), xor(payload, key) if any(key) else payload

    async def expect_close(self, *aside: int) -> tuple[int | None, str]:
        """(code, reason) of the close frame that must come next, frames of these opcodes (by default PONG) aside."""
        while True:
            opcode, _, payload = await self.read()
            if opcode not in (aside or (PONG,)):
                break
        assert opcode == CLOSE, f"opcode {opcode:#x} with {payload[:40]!r}"
        if not payload:
            return None, ""
        return struct.unpack("!H", payload[:2])[0], payload[2:].decode()

    async def through(self, payload: bytes = b"through") -> None:
        """Wait until all that was sent has been processed: a pong comes back."""
        await self.send(PING, payload)
        assert await self.read() == (PONG, True, payload)
        decoder = getattr(self.ws(), "_decoder", None)
        if isinstance(decoder, PumpedDecoder):
            # A receive thread answers ahead of the loop, which has pongs and notices to act on.
            await until(lambda: not decoder.step_status() & (Status.CONTROL | Status.NOTICE))

    async def close(self, code: int | None = 1000, reason: str = "") -> None:
        """Both halves of the closing handshake that begins here."""
        await self.send(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())
        await self.expect_close()
        await self.end()

    async def end(self) -> None:
        """Close the TCP connection, as a client does it: after the server."""
        if self.key is not None:
            with contextlib.suppress(ConnectionError):
                await self.reader.read()
        self.writer.close()

    async def half_close(self) -> None:
        """End the stream as soon as it is written, over TLS without waiting for the other side's close_notify."""
        await until(lambda: not self.writer.transport.get_write_buffer_size())
        # uvloop's stand-in for a socket can't shut down.
        with socket.socket(fileno=os.dup(self.writer.get_extra_info("socket").fileno())) as sock:
            sock.shutdown(socket.SHUT_WR)

    def vanish(self) -> None:
        """Reset the TCP connection."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def drop(self) -> None:
        """End it without a reset."""
        self.writer.transport.abort()


def read_head(sock: socket.socket) -> bytes:
    """What a client asks for, from a socket that blocks."""
    head = b""
    while b"\r\n\r\n" not in head:
        data = sock.recv(4096)
        if not data:
            raise ConnectionError("the client has gone")
        head += data
    return head


def accept_for(head: bytes) -> str:
    """Sec-WebSocket-Accept, RFC 6455 4.2.2."""
    (key,) = (
        line.partition(b":")[2].strip()
        for line in head.split(b"\r\n")
        if line.lower().startswith(b"sec-websocket-key:")
    )
    return base64.b64encode(hashlib.sha1(key + GUID.encode()).digest()).decode()


def response_to(head: bytes, *headers: str) -> bytes:
    """A 101 response."""
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_for(head)}",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def request_to(port: int, *headers: str, path: str = "/") -> bytes:
    """An upgrade request."""
    lines = [
        f"GET {path} HTTP/1.1",
        f"Host: 127.0.0.1:{port}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}",
        "Sec-WebSocket-Version: 13",
        *headers,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


def numbered(peer: Peer, start: int, stop: int) -> bytes:
    """Text messages as a peer sends them, each its number."""
    return b"".join(peer.frame(TEXT, b"%d" % number) for number in range(start, stop))


def strings(start: int, stop: int) -> list[str]:
    """What is received of `numbered` ones."""
    return [str(number) for number in range(start, stop)]


@contextlib.asynccontextmanager
async def raw_server(
    script: Callable[[Peer], Awaitable[None]], link: Link = PLAIN, **options: Any
) -> AsyncIterator[int]:
    """A server that runs ``script`` for each TCP connection; yields its port. What a script raises is raised."""
    tasks: set[asyncio.Task[None]] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(Peer(reader, writer, None))
        finally:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.get_running_loop().create_task(run(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, **link.server, **options)
    try:
        yield port_of(server)
    except BaseException:
        for task in tasks:
            task.cancel()
        raise
    finally:
        server.close()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, Exception):
            raise result


@contextlib.asynccontextmanager
async def raw_client(
    port: int, link: Link = PLAIN, *headers: str, early: Callable[[Peer], bytes] | None = None
) -> AsyncIterator[Peer]:
    """A client that has had its 101; what comes ``early`` is in the same write as its request."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, **link.client)
    peer = Peer(reader, writer, KEY)
    try:
        peer.write(request_to(port, *headers) + (early(peer) if early is not None else b""))
        peer.head = await reader.readuntil(b"\r\n\r\n")
        assert peer.head.startswith(b"HTTP/1.1 101 "), peer.head
        yield peer
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def against_peer(
    side: str = "client",
    link: Link = PLAIN,
    *,
    early: Callable[[Peer], bytes] | None = None,
    headers: tuple[str, ...] = (),
    **options: Any,
) -> AsyncIterator[tuple[Any, Peer]]:
    """(a connection of fastws on ``side``, the raw peer on the other), both open.

    Args:
        side: "client" or "server", which fastws is.
        link: Plain or TLS.
        early: What the peer sends in the same write as the end of its handshake.
        headers: Further headers of the peer.
        **options: Of ``fastws.connect`` or ``fastws.serve``.
    """
    options = {**QUIET, **options}
    done = asyncio.Event()
    loop = asyncio.get_running_loop()
    if side == "client":
        made: asyncio.Future[Peer] = loop.create_future()

        async def script(peer: Peer) -> None:
            peer.head = await peer.reader.readuntil(b"\r\n\r\n")
            peer.write(response_to(peer.head, *headers) + (early(peer) if early is not None else b""))
            made.set_result(peer)
            await done.wait()

        async with raw_server(script, link) as port:
            try:
                ws = await fastws.connect(link.uri(port), **link.client, **options)
                peer = await made
                peer.ws = weakref.ref(ws)
                yield ws, peer
            finally:
                done.set()
        ws.transport.abort()
        await ws.wait_closed()
    else:
        opened: asyncio.Future[Any] = loop.create_future()

        async def handler(ws: Any) -> None:
            opened.set_result(ws)
            await done.wait()

        async with fastws.serve(handler, "127.0.0.1", 0, **link.server, **options) as server:
            try:
                async with raw_client(port_of(server), link, *headers, early=early) as peer:
                    peer.ws = weakref.ref(await opened)
                    yield opened.result(), peer
            finally:
                done.set()


@contextlib.asynccontextmanager
async def pair(
    link: Link = PLAIN, *, server: dict[str, Any] | None = None, client: dict[str, Any] | None = None, **both: Any
) -> AsyncIterator[tuple[Any, Any]]:
    """(client connection, server connection), both of fastws unless ``create_connection`` says otherwise."""
    done = asyncio.Event()
    opened: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

    async def handler(ws: Any) -> None:
        opened.set_result(ws)
        await done.wait()

    options = {**QUIET, **both}
    async with fastws.serve(handler, "127.0.0.1", 0, **link.server, **options, **(server or {})) as listening:
        try:
            async with fastws.connect(
                link.uri(port_of(listening)), **link.client, **options, **(client or {})
            ) as connected:
                yield connected, await opened
        finally:
            done.set()


@contextlib.asynccontextmanager
async def serving(handler: Callable[[Any], Awaitable[None]], link: Link = PLAIN, **options: Any) -> AsyncIterator[str]:
    """The URI of a server of fastws."""
    async with fastws.serve(handler, "127.0.0.1", 0, **link.server, **{**QUIET, **options}) as server:
        yield link.uri(port_of(server))


async def echo(ws: Any) -> None:
    """A handler that sends everything back."""
    async for message in ws:
        await ws.send(message)
