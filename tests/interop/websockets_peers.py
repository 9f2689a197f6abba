"""websockets in its four styles, and what looks like it: fastws itself, and picows.websockets."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import websockets.sync.client
import websockets.sync.server
from websockets.client import ClientProtocol
from websockets.exceptions import ConnectionClosed
from websockets.extensions.permessage_deflate import (
    ClientPerMessageDeflateFactory,
    ServerPerMessageDeflateFactory,
)
from websockets.frames import BINARY, CLOSE, CONT, PING, PONG, TEXT, Frame
from websockets.http11 import Request, Response
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.uri import parse_uri

from .peer import HOST, Close, Connection, Peer, ServerLog, Setup, answer


class AsyncioConnection(Connection):
    """A connection with the API of websockets.asyncio."""

    def __init__(self, ws: Any, errors: type[Exception]) -> None:
        self.ws = ws
        self.errors = errors
        self.messages = aiter(ws)

    async def send(self, message: str | bytes) -> None:
        await self.ws.send(message)

    async def send_fragments(self, fragments: Sequence[bytes]) -> None:
        async def parts() -> AsyncIterator[bytes]:
            for i, fragment in enumerate(fragments):
                if i == 1:
                    await self.ws.ping(b"between fragments")
                yield fragment

        await self.ws.send(parts(), text=True)

    async def recv(self) -> str | bytes | None:
        try:
            return await anext(self.messages)
        except (StopAsyncIteration, self.errors):
            return None

    async def ping(self, payload: bytes) -> None:
        # websockets forgets a ping that wasn't answered when a later one is; each payload waits for its own pong.
        await (await self.ws.ping(payload))

    async def close(self, code: int, reason: str) -> None:
        await self.ws.close(code, reason)

    def closed(self) -> Close:
        return self.ws.close_code, self.ws.close_reason or ""

    def deflated(self) -> bool | None:
        protocol = getattr(self.ws, "protocol", None)
        return None if protocol is None else bool(protocol.extensions)

    async def exchange_batches(self, messages: Sequence[str | bytes]) -> list[str | bytes]:
        """As `exchange`, with fastws's batches."""

        async def receive_all() -> list[str | bytes]:
            received: list[str | bytes] = []
            while len(received) < len(messages):
                received += await self.ws.recv_batch()
            return received

        return (await asyncio.gather(receive_all(), self.ws.send_batch(messages)))[0]


class AsyncioPeer(Peer):
    """A module with ``connect`` and ``serve`` as websockets has them."""

    def __init__(self, name: str, module: str) -> None:
        self.name = name
        self.module = module

    def missing(self) -> str | None:
        try:
            importlib.import_module(self.module)
        except ImportError as exc:
            return str(exc)
        return None

    @property
    def errors(self) -> type[Exception]:
        module = importlib.import_module(self.module)
        errors: type[Exception] = getattr(module, "ConnectionClosed", ConnectionClosed)
        return errors

    @contextlib.asynccontextmanager
    async def serve(self, setup: Setup, log: ServerLog) -> AsyncIterator[int]:
        async def handler(ws: Any) -> None:
            await answer(AsyncioConnection(ws, self.errors), log)

        serve = importlib.import_module(self.module).serve
        compression = "deflate" if setup.deflate else None
        async with serve(handler, HOST, 0, ssl=setup.server_ssl, compression=compression, family=socket.AF_INET) as s:
            yield next(iter(s.sockets)).getsockname()[1]

    @contextlib.asynccontextmanager
    async def connect(self, setup: Setup, uri: str) -> AsyncIterator[Connection]:
        connect = importlib.import_module(self.module).connect
        compression = "deflate" if setup.deflate else None
        async with connect(uri, ssl=setup.client_ssl, compression=compression, proxy=None) as ws:
            yield AsyncioConnection(ws, self.errors)


class SyncConnection(Connection):
    """A connection of websockets.sync: the methods block, in a thread that has nothing else to do."""

    def __init__(self, ws: Any) -> None:
        self.ws = ws

    async def send(self, message: str | bytes) -> None:
        self.ws.send(message)

    async def send_fragments(self, fragments: Sequence[bytes]) -> None:
        def parts() -> Any:
            for i, fragment in enumerate(fragments):
                if i == 1:
                    self.ws.ping(b"between fragments")
                yield fragment

        self.ws.send(parts(), text=True)

    async def recv(self) -> str | bytes | None:
        try:
            return self.ws.recv()  # type: ignore[no-any-return]
        except ConnectionClosed:
            return None

    async def ping(self, payload: bytes) -> None:
        if not self.ws.ping(payload).wait(10):
            raise TimeoutError("no pong")

    async def close(self, code: int, reason: str) -> None:
        self.ws.close(code, reason)

    def closed(self) -> Close:
        return self.ws.close_code, self.ws.close_reason

    def deflated(self) -> bool:
        return bool(self.ws.protocol.extensions)

    async def exchange(self, messages: Sequence[str | bytes]) -> list[str | bytes | None]:
        def send_all() -> None:
            for message in messages:
                self.ws.send(message)

        sender = threading.Thread(target=send_all)
        sender.start()
        received = [await self.recv() for _ in messages]
        sender.join()
        return received


class SyncPeer(Peer):
    """websockets.sync, each side in threads of its own."""

    name = "websockets.sync"

    @contextlib.asynccontextmanager
    async def serve(self, setup: Setup, log: ServerLog) -> AsyncIterator[int]:
        def handler(ws: Any) -> None:
            asyncio.run(answer(SyncConnection(ws), log))

        sock = socket.create_server((HOST, 0))
        port = sock.getsockname()[1]  # TLS takes the socket over
        compression = "deflate" if setup.deflate else None
        with websockets.sync.server.serve(handler, sock=sock, ssl=setup.server_ssl, compression=compression) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            try:
                yield port
            finally:
                await asyncio.to_thread(server.shutdown)
                await asyncio.to_thread(thread.join)

    async def drive(self, setup: Setup, uri: str, scenario: Callable[[Any], Awaitable[None]]) -> None:
        def run() -> None:
            compression = "deflate" if setup.deflate else None
            with websockets.sync.client.connect(uri, ssl=setup.client_ssl, compression=compression, proxy=None) as ws:
                asyncio.run(scenario(SyncConnection(ws)))  # type: ignore[arg-type]

        await asyncio.to_thread(run)


class SansIOConnection(Connection):
    """websockets' protocol objects over asyncio's streams: frame by frame, without its connection classes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, protocol: Any) -> None:
        self.reader = reader
        self.writer = writer
        self.protocol = protocol
        self.events: list[Any] = []
        self.pongs: list[bytes] = []
        self.parts: list[bytes] = []
        self.opcode = CONT

    async def flush(self) -> None:
        for data in self.protocol.data_to_send():
            if data:
                self.writer.write(data)
            elif self.writer.can_write_eof():
                self.writer.write_eof()
            else:
                self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.drain()

    async def step(self) -> bool:
        """Read once; False at the end of the stream."""
        data = await self.reader.read(65536)
        if data:
            self.protocol.receive_data(data)
        else:
            self.protocol.receive_eof()
        self.events += self.protocol.events_received()
        await self.flush()
        return bool(data)

    async def handshake(self) -> Any:
        """Wait for the request or the response."""
        while not self.events:
            await self.step()
        return self.events.pop(0)

    async def recv(self) -> str | bytes | None:
        while True:
            while self.events:
                frame = self.events.pop(0)
                assert isinstance(frame, Frame)
                if frame.opcode is PONG:
                    self.pongs.append(bytes(frame.data))
                elif frame.opcode in (TEXT, BINARY, CONT):
                    self.opcode = frame.opcode if frame.opcode is not CONT else self.opcode
                    self.parts.append(bytes(frame.data))
                    if frame.fin:
                        data, self.parts = b"".join(self.parts), []
                        return data.decode() if self.opcode is TEXT else data
                else:
                    assert frame.opcode in (PING, CLOSE)
            if not await self.step():
                return None

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.protocol.send_text(message.encode())
        else:
            self.protocol.send_binary(message)
        await self.flush()

    async def send_fragments(self, fragments: Sequence[bytes]) -> None:
        last = len(fragments) - 1
        for i, fragment in enumerate(fragments):
            if i == 0:
                self.protocol.send_text(fragment, fin=i == last)
                self.protocol.send_ping(b"between fragments")
            else:
                self.protocol.send_continuation(fragment, fin=i == last)
        await self.flush()

    async def ping(self, payload: bytes) -> None:
        self.protocol.send_ping(payload)
        await self.flush()
        while payload not in self.pongs:
            await self.step()
            self.pongs += [bytes(frame.data) for frame in self.events if frame.opcode is PONG]
            self.events = [frame for frame in self.events if frame.opcode is not PONG]

    async def close(self, code: int, reason: str) -> None:
        if self.protocol.state is OPEN:
            self.protocol.send_close(code, reason)
            await self.flush()
        while await self.step():
            pass

    def closed(self) -> Close:
        return self.protocol.close_code, self.protocol.close_reason

    def deflated(self) -> bool:
        return bool(self.protocol.extensions)


class SansIOPeer(Peer):
    """websockets' protocol objects, with I/O of our own."""

    name = "websockets-sansio"

    @contextlib.asynccontextmanager
    async def serve(self, setup: Setup, log: ServerLog) -> AsyncIterator[int]:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            protocol = ServerProtocol(extensions=[ServerPerMessageDeflateFactory()] if setup.deflate else None)
            connection = SansIOConnection(reader, writer, protocol)
            request = await connection.handshake()
            assert isinstance(request, Request)
            protocol.send_response(protocol.accept(request))
            await connection.flush()
            try:
                await answer(connection, log)
            finally:
                writer.close()

        server = await asyncio.start_server(handler, HOST, 0, ssl=setup.server_ssl, family=socket.AF_INET)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()

    @contextlib.asynccontextmanager
    async def connect(self, setup: Setup, uri: str) -> AsyncIterator[Connection]:
        parsed = parse_uri(uri)
        protocol = ClientProtocol(parsed, extensions=[ClientPerMessageDeflateFactory()] if setup.deflate else None)
        reader, writer = await asyncio.open_connection(parsed.host, parsed.port, ssl=setup.client_ssl)
        connection = SansIOConnection(reader, writer, protocol)
        try:
            protocol.send_request(protocol.connect())
            await connection.flush()
            assert isinstance(await connection.handshake(), Response)
            assert protocol.handshake_exc is None
            yield connection
            await connection.close(1000, "")
        finally:
            writer.close()
