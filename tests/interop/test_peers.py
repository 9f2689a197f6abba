"""The module under test against other WebSocket implementations, each side in turn as client and server."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from .aiohttp_peer import AiohttpPeer
from .other_peers import BrowserPeer, BunPeer, NodePeer, OtherPeer
from .peer import FRAGMENTED, FRAGMENTS, PING, Connection, Peer, ServerLog, Setup
from .picows_peer import PicowsPeer
from .websockets_peers import AsyncioConnection, AsyncioPeer, SansIOPeer, SyncPeer

PYTHON_PEERS: list[Peer] = [
    AiohttpPeer(),
    PicowsPeer(),
    AsyncioPeer("picows.websockets", "picows.websockets"),
    AsyncioPeer("websockets.asyncio", "websockets"),
    SyncPeer(),
    SansIOPeer(),
]
# Peers outside of Python can be servers in the scenarios here; as clients they run scenarios of their own.
OTHER_SERVERS: list[Peer] = [NodePeer(), BunPeer()]
OTHER_CLIENTS: list[OtherPeer] = [NodePeer(), BunPeer(), BrowserPeer()]
# With the role of the module under test.
PAIRS = [
    *(pytest.param((role, peer), id=f"{role}-{peer.name}") for peer in PYTHON_PEERS for role in ("client", "server")),
    *(pytest.param(("client", peer), id=f"client-{peer.name}", marks=pytest.mark.interop) for peer in OTHER_SERVERS),
]
SIZES = [0, 1, 125, 126, 127, 65535, 65536, 1 << 20]
BURST = 5_000
CLOSES = [(1000, ""), (1000, "done"), (3000, "ä" * 61), (4999, "bye")]
CLOSE_IDS = ["1000", "1000-reason", "3000-longest-reason", "4999-reason"]


def check_usable(peer: Peer, setup: Setup) -> None:
    missing = peer.missing()
    if missing:
        pytest.skip(missing)
    if setup.deflate and not peer.deflate:
        pytest.skip(f"{peer.name} has no permessage-deflate")


class Pair:
    """A client and a server that are to talk to each other."""

    def __init__(self, client: Peer, server: Peer, under_test: Peer, setup: Setup) -> None:
        self.client = client
        self.server = server
        self.under_test = under_test
        self.setup = setup
        self.log = ServerLog()

    @contextlib.asynccontextmanager
    async def serve(self) -> AsyncIterator[str]:
        async with self.server.serve(self.setup, self.log) as port:
            yield self.setup.uri(port)

    async def run(self, scenario: Any, connections: int = 1) -> None:
        """Run a scenario on a connection; then look whether extensions were as they should."""

        async def checked(connection: Connection) -> None:
            if connection.deflated() is not None:
                assert connection.deflated() == self.setup.deflate
            await scenario(connection)

        async with self.serve() as uri:
            await self.client.drive(self.setup, uri, checked)
            await self.log.wait(connections)
        assert all(deflated == self.setup.deflate for deflated in self.log.deflate)


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, under_test: AsyncioPeer, setup: Setup) -> Pair:
    role, peer = request.param
    check_usable(peer, setup)
    if role == "client":
        return Pair(under_test, peer, under_test, setup)
    return Pair(peer, under_test, under_test, setup)


def test_sizes(pair, run):
    async def scenario(connection):
        for size in SIZES:
            text = "".join(chr(32 + i % 95) for i in range(size % 1000)) * (size // 1000 + 1)
            text = (text + "x" * size)[:size]
            for message in (text, text.encode(), bytes(range(256)) * (size // 256) + bytes(size % 256)):
                await connection.send(message)
                answer = await connection.recv()
                assert type(answer) is type(message)
                assert answer == message

    run(pair.run(scenario))


def test_fragmented_to_server(pair, run):
    if not pair.client.fragments:
        pytest.skip(f"{pair.client.name} can't send fragments")

    async def scenario(connection):
        for _ in range(3):
            await connection.send_fragments(FRAGMENTS)
            answer = await connection.recv()
            assert answer == FRAGMENTED

    run(pair.run(scenario))


def test_fragmented_to_client(pair, run):
    if not pair.server.fragments:
        pytest.skip(f"{pair.server.name} can't send fragments")

    async def scenario(connection):
        for _ in range(3):
            await connection.send("!fragments")
            assert await connection.recv() == FRAGMENTED

    run(pair.run(scenario))


def test_pings(pair, run):
    async def scenario(connection):
        for payload in (PING, b"\x00", "é".encode()):
            await connection.ping(payload)
        await connection.send("between")
        assert await connection.recv() == "between"
        await connection.send("!ping")
        assert await connection.recv() == "pong"

    run(pair.run(scenario))


def test_burst(pair, run):
    messages = [f"message {i}" if i % 3 else f"message {i}".encode() for i in range(BURST)]

    async def scenario(connection):
        assert await connection.exchange(messages) == messages

    run(pair.run(scenario))


def test_burst_in_batches(pair, run):
    if pair.client is not pair.under_test or pair.under_test.name == "websockets":
        pytest.skip("batches are for a client under test that has them")
    if pair.server.name == "picows.websockets" and pair.setup.tls:
        # Seen with 2.3.1: it stops in the middle of one large write over TLS until more comes, whoever the client is.
        pytest.skip("picows.websockets stalls on large writes over TLS")
    messages = [f"message {i}" if i % 3 else f"message {i}".encode() for i in range(BURST)]

    async def scenario(connection):
        assert isinstance(connection, AsyncioConnection)
        assert await connection.exchange_batches(messages) == messages

    run(pair.run(scenario))


@pytest.mark.parametrize(("code", "reason"), CLOSES, ids=CLOSE_IDS)
def test_close_by_client(pair, run, code, reason):
    async def scenario(connection):
        await connection.send("last words")
        assert await connection.recv() == "last words"
        await connection.close(code, reason)
        assert connection.closed()[0] == (code if pair.server.echoes_code else 1000)

    run(pair.run(scenario))
    assert pair.log.closes == [(code, reason)]


@pytest.mark.parametrize(("code", "reason"), CLOSES, ids=CLOSE_IDS)
def test_close_by_server(pair, run, code, reason):
    async def scenario(connection):
        await connection.send(f"!close {code} {reason}")
        assert await connection.recv() is None
        assert connection.closed() == (code, reason)

    run(pair.run(scenario))
    assert pair.log.closes[0][0] == (code if pair.client.echoes_code else 1000)


@pytest.mark.interop
@pytest.mark.parametrize("peer", OTHER_CLIENTS, ids=lambda peer: peer.name)
def test_other_clients(peer, under_test, setup, run):
    check_usable(peer, setup)
    log = ServerLog()

    async def main():
        async with under_test.serve(setup, log) as port:
            results = await peer.results(setup, setup.uri(port))
            await log.wait(len(results))
        wrong = {name: result for name, result in results.items() if result != "ok" and "skipped" not in result}
        assert not wrong
        assert len(results) == 15
        # The codes and reasons in the order of the scenarios that close.
        expected = [close for by_client in CLOSES for close in (by_client, by_client)]
        closes = [close for name, close in zip(results, log.closes, strict=True) if name.startswith("close_by")]
        assert [code for code, _ in closes] == [*(code for code, _ in expected), 1005]
        assert [reason for _, reason in closes[:-1:2]] == [reason for _, reason in CLOSES]
        assert all(deflated == setup.deflate for deflated in log.deflate)

    run(main())
