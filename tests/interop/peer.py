"""What the implementations look like to the tests, and how a server answers."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

HOST = "localhost"
PING = bytes(range(125))
"""The largest payload of a ping (RFC 6455 5.5), in all sorts of bytes."""
FRAGMENTED = "Grüße, κόσμε, 世界 und 𝄞! " * 50
FRAGMENTS = [FRAGMENTED.encode()[i : i + 7] for i in range(0, len(FRAGMENTED.encode()), 7)]
"""Cut every 7 bytes, so that code points are cut in two."""
Close = tuple[int, str]


@dataclass(frozen=True)
class Setup:
    """How the two sides talk to each other."""

    server_ssl: ssl.SSLContext | None = None
    client_ssl: ssl.SSLContext | None = None
    deflate: bool = False
    cert: str = ""
    key: str = ""

    @property
    def tls(self) -> bool:
        return self.server_ssl is not None

    def uri(self, port: int) -> str:
        return f"{'wss' if self.tls else 'ws'}://{HOST}:{port}/"


@dataclass
class ServerLog:
    """What a server saw: the close code and reason of each connection, and whether deflate was negotiated."""

    closes: list[Close] = field(default_factory=list)
    deflate: list[bool] = field(default_factory=list)

    async def wait(self, connections: int, timeout_s: float = 10.0) -> list[Close]:
        """Wait until so many connections are closed."""
        async with asyncio.timeout(timeout_s):
            while len(self.closes) < connections:  # noqa: ASYNC110  (it may be filled by another thread)
                await asyncio.sleep(0.002)
        return self.closes


class Connection:
    """One connection of an implementation; both roles."""

    async def send(self, message: str | bytes) -> None:
        raise NotImplementedError

    async def send_fragments(self, fragments: Sequence[bytes]) -> None:
        """Send a text message in fragments, with a ping between two of them."""
        raise NotImplementedError

    async def recv(self) -> str | bytes | None:
        """The next message; None once the connection is closed."""
        raise NotImplementedError

    async def ping(self, payload: bytes) -> None:
        """Send a ping and wait for the pong with the same payload."""
        raise NotImplementedError

    async def close(self, code: int, reason: str) -> None:
        """Close the connection, and wait for the end of the closing handshake."""
        raise NotImplementedError

    def closed(self) -> Close:
        """Code and reason that the peer sent, once recv() returned None or close() returned."""
        raise NotImplementedError

    def deflated(self) -> bool | None:
        """Whether permessage-deflate was negotiated; None where the implementation doesn't tell."""
        return None

    async def exchange(self, messages: Sequence[str | bytes]) -> list[str | bytes | None]:
        """Send all messages without waiting for answers, and receive as many."""

        async def send_all() -> None:
            for message in messages:
                await self.send(message)

        async def receive_all() -> list[str | bytes | None]:
            return [await self.recv() for _ in messages]

        return (await asyncio.gather(receive_all(), send_all()))[0]


class Peer:
    """An implementation."""

    name = ""
    deflate = True
    """Knows permessage-deflate."""
    fragments = True
    """Can send fragmented messages."""
    pings = True
    """Can send pings and tell when the pong comes."""
    echoes_code = True
    """Answers a close frame with its code, as RFC 6455 5.5.1 has it typically."""

    def missing(self) -> str | None:
        """Why it can't be used here; None if it can."""
        return None

    def serve(self, setup: Setup, log: ServerLog) -> contextlib.AbstractAsyncContextManager[int]:
        """Serve `answer` and give the port."""
        raise NotImplementedError

    def connect(self, setup: Setup, uri: str) -> contextlib.AbstractAsyncContextManager[Connection]:
        """Connect as a client."""
        raise NotImplementedError

    async def drive(self, setup: Setup, uri: str, scenario: Callable[[Any], Awaitable[None]]) -> None:
        """Connect and run the scenario."""
        async with self.connect(setup, uri) as connection:
            await scenario(connection)


async def answer(connection: Connection, log: ServerLog) -> None:
    """The server's side of a connection: echoes messages, and does what the commands among them say.

    ``!close CODE REASON`` closes; ``!ping`` sends a ping and ``pong`` when it was answered; ``!fragments`` sends a
    fragmented message.
    """
    deflated = connection.deflated()
    if deflated is not None:
        log.deflate.append(deflated)
    while (message := await connection.recv()) is not None:
        if isinstance(message, bytes) or not message.startswith("!"):
            await connection.send(message)
        elif message == "!ping":
            await connection.ping(PING)
            await connection.send("pong")
        elif message == "!fragments":
            await connection.send_fragments(FRAGMENTS)
        else:
            _, code, reason = message.split(" ", 2)
            await connection.close(int(code), reason)
            break
    log.closes.append(connection.closed())
