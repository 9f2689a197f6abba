"""aiohttp's client and server."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from .peer import HOST, Close, Connection, Peer, ServerLog, Setup, answer


class AiohttpConnection(Connection):
    """A connection of aiohttp, with its own answers to pings switched off so that pongs can be seen."""

    def __init__(self, ws: Any) -> None:
        self.ws = ws
        self.messages: collections.deque[str | bytes] = collections.deque()
        self.pongs: list[bytes] = []
        self.peer_close: Close | None = None

    async def step(self) -> bool:
        """Take one frame; False at the end."""
        from aiohttp import WSMsgType

        frame = await self.ws.receive()
        match frame.type:
            case WSMsgType.TEXT | WSMsgType.BINARY:
                self.messages.append(frame.data)
            case WSMsgType.PING:
                await self.ws.pong(frame.data)
            case WSMsgType.PONG:
                self.pongs.append(bytes(frame.data))
            case WSMsgType.CLOSE:
                self.peer_close = frame.data, frame.extra or ""
                return False
            case WSMsgType.CLOSING | WSMsgType.CLOSED:
                return False
            case WSMsgType.ERROR:
                raise frame.data
        return True

    async def recv(self) -> str | bytes | None:
        while not self.messages:
            if not await self.step():
                return None
        return self.messages.popleft()

    async def send(self, message: str | bytes) -> None:
        await (self.ws.send_str(message) if isinstance(message, str) else self.ws.send_bytes(message))

    async def ping(self, payload: bytes) -> None:
        await self.ws.ping(payload)
        while payload not in self.pongs:
            if not await self.step():
                raise ConnectionError("closed before the pong")

    async def close(self, code: int, reason: str) -> None:
        await self.ws.close(code=code, message=reason.encode())

    def closed(self) -> Close:
        # After a close of its own aiohttp keeps the code of the answer, not the reason.
        return self.peer_close or (self.ws.close_code, "")


class AiohttpPeer(Peer):
    name = "aiohttp"
    fragments = False
    echoes_code = False

    def missing(self) -> str | None:
        try:
            import aiohttp  # noqa: F401
        except ImportError as exc:
            return str(exc)
        return None

    @contextlib.asynccontextmanager
    async def serve(self, setup: Setup, log: ServerLog) -> AsyncIterator[int]:
        from aiohttp import web

        async def handler(request: web.Request) -> web.WebSocketResponse:
            ws = web.WebSocketResponse(autoping=False, compress=setup.deflate)
            await ws.prepare(request)
            await answer(AiohttpConnection(ws), log)
            return ws

        app = web.Application()
        app.router.add_get("/", handler)
        runner = web.AppRunner(app)
        await runner.setup()
        try:
            await web.TCPSite(runner, HOST, 0, ssl_context=setup.server_ssl).start()
            yield runner.addresses[0][1]
        finally:
            await runner.cleanup()

    @contextlib.asynccontextmanager
    async def connect(self, setup: Setup, uri: str) -> AsyncIterator[Connection]:
        import aiohttp

        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(
                uri, ssl=setup.client_ssl or True, autoping=False, compress=15 if setup.deflate else 0
            ) as ws:
                yield AiohttpConnection(ws)
