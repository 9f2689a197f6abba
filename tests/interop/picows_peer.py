"""picows' own API: listeners that get frames."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import socket
from collections.abc import AsyncIterator, Sequence
from typing import Any

from .peer import HOST, Close, Connection, Peer, ServerLog, Setup, answer

try:
    import picows
    from picows import WSCloseCode, WSFrame, WSListener, WSMsgType, WSTransport, ws_connect, ws_create_server
except ImportError:
    picows = None  # type: ignore[assignment]
    WSListener = object  # type: ignore[assignment,misc]


class PicowsConnection(WSListener, Connection):  # type: ignore[misc]
    """A listener that puts fragments together and keeps messages until they are asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.transport: Any = None
        self.connected = asyncio.Event()
        self.changed = asyncio.Event()
        self.writable = asyncio.Event()
        self.writable.set()
        self.lost = False
        self.messages: collections.deque[str | bytes] = collections.deque()
        self.pongs: list[bytes] = []
        self.parts: list[bytes] = []
        self.is_text = False
        self.peer_close: Close | None = None

    def on_ws_connected(self, transport: WSTransport) -> None:
        self.transport = transport
        self.connected.set()

    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        match frame.msg_type:
            case WSMsgType.TEXT | WSMsgType.BINARY | WSMsgType.CONTINUATION:
                if frame.msg_type != WSMsgType.CONTINUATION:
                    self.is_text = frame.msg_type == WSMsgType.TEXT
                self.parts.append(frame.get_payload_as_bytes())
                if frame.fin:
                    data, self.parts = b"".join(self.parts), []
                    self.messages.append(data.decode() if self.is_text else data)
            case WSMsgType.PONG:
                self.pongs.append(frame.get_payload_as_bytes())
            case WSMsgType.CLOSE:
                self.peer_close = int(frame.get_close_code()), frame.get_close_reason() or ""
                if not transport.is_close_frame_sent:
                    transport.send_close(frame.get_close_code())
                transport.disconnect()
        self.changed.set()

    def on_ws_disconnected(self, transport: WSTransport) -> None:
        self.lost = True
        self.writable.set()
        self.changed.set()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    async def change(self) -> None:
        self.changed.clear()
        await self.changed.wait()

    async def recv(self) -> str | bytes | None:
        while not self.messages:
            if self.lost:
                return None
            await self.change()
        return self.messages.popleft()

    async def send(self, message: str | bytes) -> None:
        if isinstance(message, str):
            self.transport.send(WSMsgType.TEXT, message.encode())
        else:
            self.transport.send(WSMsgType.BINARY, message)
        await self.writable.wait()

    async def send_fragments(self, fragments: Sequence[bytes]) -> None:
        last = len(fragments) - 1
        for i, fragment in enumerate(fragments):
            self.transport.send(WSMsgType.CONTINUATION if i else WSMsgType.TEXT, fragment, fin=i == last)
            if i == 0:
                self.transport.send_ping(b"between fragments")

    async def ping(self, payload: bytes) -> None:
        self.transport.send_ping(payload)
        while payload not in self.pongs:
            if self.lost:
                raise ConnectionError("closed before the pong")
            await self.change()

    async def close(self, code: int, reason: str) -> None:
        self.transport.send_close(code, reason.encode())
        while not self.lost:
            await self.change()

    def closed(self) -> Close:
        return self.peer_close or (int(WSCloseCode.ABNORMAL_CLOSURE), "")


class PicowsPeer(Peer):
    name = "picows"
    deflate = False

    def missing(self) -> str | None:
        return "picows isn't installed" if picows is None else None

    @contextlib.asynccontextmanager
    async def serve(self, setup: Setup, log: ServerLog) -> AsyncIterator[int]:
        tasks = set()

        def listener(request: Any) -> PicowsConnection:
            connection = PicowsConnection()

            async def handler() -> None:
                await connection.connected.wait()
                await answer(connection, log)

            tasks.add(asyncio.create_task(handler()))
            return connection

        server = await ws_create_server(listener, HOST, 0, ssl=setup.server_ssl, family=socket.AF_INET)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            for task in tasks:
                if task.done():
                    task.result()
                else:
                    task.cancel()

    @contextlib.asynccontextmanager
    async def connect(self, setup: Setup, uri: str) -> AsyncIterator[Connection]:
        transport, connection = await ws_connect(PicowsConnection, uri, ssl_context=setup.client_ssl)
        try:
            yield connection  # type: ignore[misc]
            if not transport.is_disconnected:
                transport.send_close(WSCloseCode.OK)
                async with asyncio.timeout(10):
                    await transport.wait_disconnected()
        finally:
            transport.disconnect()
