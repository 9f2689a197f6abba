"""Who is measured: the same few verbs for each library."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
from collections.abc import AsyncIterator, Callable
from typing import Any

__all__ = ["CONTENDERS", "Socket", "connect", "load"]

CONTENDERS = {
    "fastws-thread": 'fastws, `receive="thread"`',
    "fastws-loop": 'fastws, `receive="loop"`',
    "websockets": "websockets",
    "aiohttp": "aiohttp",
    "picows": "picows core",
}

Work = Callable[[Any], object]


class Socket:
    """websockets, and fastws, which has its API."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection

    async def send(self, text: str) -> None:
        await self.connection.send(text)

    async def consume(self, work: Work | None, batches: bool) -> int:
        """Take messages until the end; how many."""
        count = 0
        if batches:
            async for batch in self.connection.batches():
                if work is not None:
                    for message in batch:
                        work(message)
                count += len(batch)
        elif work is None:
            async for _ in self.connection:
                count += 1
        else:
            async for message in self.connection:
                work(message)
                count += 1
        return count


class AiohttpSocket(Socket):
    async def send(self, text: str) -> None:
        await self.connection.send_str(text)

    async def consume(self, work: Work | None, batches: bool) -> int:
        count = 0
        async for message in self.connection:
            if work is not None:
                work(message.data)
            count += 1
        return count


class PicowsSocket(Socket):
    """Its messages come to callbacks, and are made into str there, as the others do."""

    def __init__(self, connection: Any, listener: Any) -> None:
        super().__init__(connection)
        self.listener = listener

    async def send(self, text: str) -> None:
        self.connection.send(importlib.import_module("picows").WSMsgType.TEXT, text.encode())

    async def consume(self, work: Work | None, batches: bool) -> int:
        self.listener.work = work
        await self.connection.wait_disconnected()
        return int(self.listener.count)


def load(contender: str) -> None:
    """Import the library, and what it imports when it is used first."""
    library = importlib.import_module(contender.partition("-")[0])
    # It may be imported lazily.
    getattr(library, "connect", None)


@contextlib.asynccontextmanager
async def connect(contender: str, url: str, **options: Any) -> AsyncIterator[Socket]:
    """A connection of one library, without its own keepalive, with its default limits otherwise."""
    if contender == "aiohttp":
        import aiohttp

        async with aiohttp.ClientSession() as session, session.ws_connect(url, max_msg_size=0) as connection:
            yield AiohttpSocket(connection)
    elif contender == "picows":
        transport, listener = await _picows(url)
        yield PicowsSocket(transport, listener)
        transport.disconnect()
    else:
        library, _, receive = contender.partition("-")
        if receive:
            options["receive"] = receive
        connecting = importlib.import_module(library).connect(
            url, compression=None, max_size=None, ping_interval=None, close_timeout=1, proxy=None, **options
        )
        async with connecting as connection:
            yield Socket(connection)


async def _picows(url: str) -> tuple[Any, Any]:
    import picows

    class Listener(picows.WSListener):  # type: ignore[misc]
        count = 0
        work: Work | None = None

        def on_ws_frame(self, transport: Any, frame: Any) -> None:
            if frame.msg_type == picows.WSMsgType.TEXT:
                text = frame.get_payload_as_utf8_text()
                self.count += 1
                if self.work is not None:
                    self.work(text)
            elif frame.msg_type == picows.WSMsgType.CLOSE:
                transport.send_close()
                transport.disconnect()

    return await picows.ws_connect(Listener, url)


def loop_factory(name: str) -> Callable[[], asyncio.AbstractEventLoop]:
    """Makes event loops of "asyncio" or "uvloop"."""
    if name == "uvloop":
        return importlib.import_module("uvloop").new_event_loop  # type: ignore[no-any-return]
    return asyncio.new_event_loop
