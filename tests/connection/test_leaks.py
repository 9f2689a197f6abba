"""What connections leave behind: no object, task, descriptor or receive memory, however they ended."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import dataclasses
import gc
import os
import ssl
import sys
import weakref
from collections.abc import AsyncIterator, Callable, Collection
from pathlib import Path
from typing import Any

import pytest
from core.streams import CONT, PING, PONG, TEXT

import fastws

from .net import (
    PLAIN,
    QUIET,
    against_peer,
    iterated,
    on_asyncio,
    over_loops,
    pair,
    port_of,
    raw_client,
    raw_server,
    response_to,
    steady,
    until,
)

if fastws.IMPLEMENTATION == "compiled":
    from fastws import _segment

    live_segments: Callable[[], int] = _segment.live_segments
    pooled_bytes: Callable[[], int] = _segment.pooled_bytes
else:

    def live_segments() -> int:
        return 0

    def pooled_bytes() -> int:
        return 0


compiled_only = pytest.mark.skipif(fastws.IMPLEMENTATION != "compiled", reason="the plain-Python core has no segments")

POOLS_MAX = 32 * 2**20
"""More than the pools may keep: 12 MiB of segments, 16 of arrays."""

DEFLATED = "Sec-WebSocket-Extensions: permessage-deflate"

DESCRIPTORS = Path("/proc/self/fd")
STATUS = Path("/proc/self/statm")


@pytest.fixture(autouse=True)
def _only_what_is_new():
    """Collections look at objects made from here on only, which makes them quick; see tests/conftest.py."""
    gc.collect()
    gc.freeze()


@dataclasses.dataclass(frozen=True)
class Census:
    """What is there: objects that the collector knows by type, of ours, of websockets and of the loop's transports."""

    objects: dict[str, int]
    tasks: int
    descriptors: int
    segments: int


WATCHED = ("fastws.", "websockets.", "asyncio.selector_events.", "asyncio.sslproto.", "asyncio.streams.")


def census() -> Census:
    gc.collect()
    names = (f"{type(thing).__module__}.{type(thing).__qualname__}" for thing in gc.get_objects())
    return Census(
        collections.Counter(name for name in names if name.startswith(WATCHED)),
        len(asyncio.all_tasks()),
        len(os.listdir(DESCRIPTORS)) if DESCRIPTORS.exists() else 0,
        live_segments(),
    )


async def settled(expected: Census) -> Census:
    """The census once it is as expected, or what it still is after a while."""
    now = census()
    for _ in range(40):
        if now == expected:
            break
        await asyncio.sleep(0.025)
        now = census()
    return now


async def gone(references: Collection[Any]) -> bool:
    """Whether nothing is left in a `weakref.WeakSet`, or of weak references, after a while."""
    for _ in range(40):
        gc.collect()
        if not [thing for thing in references if not isinstance(thing, weakref.ref) or thing() is not None]:
            return True
        await asyncio.sleep(0.025)
    return False


@contextlib.asynccontextmanager
async def consumed(ws: Any) -> AsyncIterator[None]:
    """Somebody waits for the next message, as consumers do."""
    task = asyncio.create_task(ws.recv())
    await asyncio.sleep(0)
    assert not task.done()
    yield
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


# How connections end


async def peer_closes(ws, peer):
    closing = asyncio.create_task(peer.close())
    await iterated(ws)
    await closing


async def peer_closes_and_nobody_receives(ws, peer):
    await peer.close()


async def we_close(ws, peer):
    closing = asyncio.create_task(ws.close())
    await peer.expect_close()
    await peer.send(8, b"\x03\xe8")
    await peer.end()
    await closing


async def peer_vanishes(ws, peer):
    waiting = asyncio.create_task(ws.recv())
    await waiting
    peer.vanish()
    await iterated(ws)


async def broken_rule(ws, peer):
    await peer.send(3, b"")
    await peer.expect_close()
    await peer.end()
    _, exc = await iterated(ws)
    assert isinstance(exc, fastws.ConnectionClosedError)


async def cut_frame(ws, peer):
    peer.write(peer.frame(TEXT, b"x" * 5000)[:-1000])
    await ws.recv()
    await until(lambda: ws._decoder.partial_frame[1])
    peer.drop()
    await iterated(ws)


async def cancelled_recv(ws, peer):
    await ws.recv_batch()
    for waiting in (ws.recv(), ws.recv_batch(), anext(aiter(ws)), anext(ws.batches(max_wait=1))):
        task = asyncio.ensure_future(waiting)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    ws.transport.abort()


async def task_that_waits_to_the_end(ws, peer):
    await ws.recv_batch()
    task = asyncio.create_task(ws.recv())
    await asyncio.sleep(0)
    peer.drop()
    await asyncio.gather(task, return_exceptions=True)


async def abandoned_iterators(ws, peer):
    async for _ in ws:
        break
    iterator = aiter(ws)
    await anext(iterator)
    iterator.__anext__().close()
    async for _ in ws.batches(1):
        break
    ws.transport.abort()


async def abandoned_streaming(ws, peer):
    await ws.recv_batch()
    await peer.send(TEXT, b"begun", fin=False)
    async for _ in ws.recv_streaming():
        break
    await peer.send(CONT, b"goes on", fin=False)
    ws.transport.abort()


async def full_queue(ws, peer):
    peer.write(peer.frame(TEXT, b"x" * 50_000) * 40)
    await until(lambda: ws._decoder.blocked)
    peer.vanish()


async def pending_pings(ws, peer):
    pongs = [await ws.ping() for _ in range(3)]
    peer.drop()
    await asyncio.gather(*pongs, return_exceptions=True)


async def pings_that_nobody_waits_for(ws, peer):
    for _ in range(3):
        await ws.ping()
    await peer.send(PONG, b"unsolicited")
    ws.transport.abort()


ENDS = [
    peer_closes,
    peer_closes_and_nobody_receives,
    we_close,
    peer_vanishes,
    broken_rule,
    cut_frame,
    cancelled_recv,
    task_that_waits_to_the_end,
    abandoned_iterators,
    abandoned_streaming,
    full_queue,
    pending_pings,
    pings_that_nobody_waits_for,
]

KINDS = {
    "plain": {},
    "tls": {},
    "deflate": {"compression": "deflate", "headers": (DEFLATED,)},
    "keepalive": {"ping_interval": 30, "ping_timeout": 30},
}


@over_loops
@pytest.mark.parametrize("end", ENDS, ids=lambda end: end.__name__)
@pytest.mark.parametrize("kind", KINDS)
async def test_nothing_is_left(kind, end, side, tls):
    link = tls if kind == "tls" else PLAIN
    seen = weakref.WeakSet()

    async def connection():
        async with against_peer(side, link, max_queue_bytes=10**6, **KINDS[kind]) as (ws, peer):
            seen.add(ws)
            peer.write(peer.frame(TEXT, b"message") * 10)
            await peer.through()
            # Resets over TLS may be seen as errors of the peer's own.
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await end(ws, peer)

    await connection()
    assert await gone(seen)
    # A receive thread ends soon after its last connection.
    before = await steady(census)
    for _ in range(3):
        await connection()
    assert await settled(before) == before
    assert await gone(seen)


@on_asyncio
async def test_freed_without_the_collector():
    """A normal end leaves no reference cycle, as in websockets: receive memory doesn't wait for a collection."""
    seen: list[tuple[weakref.ref[Any], Any]] = []

    async def receive(ws):
        seen.append((weakref.ref(ws), ws._decoder))
        assert [message async for message in ws] == ["message"] * 10

    async def send(peer):
        await peer.send(TEXT, b"message")
        peer.write(peer.frame(TEXT, b"message") * 9)
        await peer.close()

    async def script(peer):
        peer.write(response_to(await peer.reader.readuntil(b"\r\n\r\n")))
        await send(peer)

    gc.disable()
    try:
        async with fastws.serve(receive, "127.0.0.1", 0, **QUIET) as server, raw_client(port_of(server)) as peer:
            await send(peer)
            await until(lambda: not server.handler_tasks)
        async with raw_server(script) as port, fastws.connect(PLAIN.uri(port), **QUIET) as ws:
            await receive(ws)
        del ws
        await asyncio.sleep(0)
        assert [reference() for reference, _ in seen] == [None, None]
        while seen:
            _, decoder = seen.pop()
            assert sys.getrefcount(decoder) == 2
    finally:
        gc.enable()


@on_asyncio
async def test_users_may_keep_exceptions(side):
    """An exception that is kept keeps a connection, not more; without it, all goes."""
    kept = []
    references = []
    before = await settled(census())
    for _ in range(5):
        async with against_peer(side) as (ws, peer):
            references.append(weakref.ref(ws))
            await peer.send(TEXT, b"\xff")
            await peer.expect_close()
            await peer.end()
            with pytest.raises(fastws.ConnectionClosedError) as info:
                await ws.recv()
            kept.append(info.value.with_traceback(None))
        del ws, peer, info
    gc.collect()
    assert live_segments() == before.segments
    kept.clear()
    assert await settled(before) == before
    assert await gone(references)


# Batches and views


@over_loops
async def test_batches_outlive_connections(side):
    """They keep their own memory, and nothing else."""

    async def received(number):
        async with against_peer(side) as (ws, peer):
            seen = weakref.ref(ws)
            peer.write(peer.frame(TEXT, b"%d" % number * 1000) * 20)
            await peer.through()
            batch = await ws.recv_batch()
        del ws, peer
        assert await gone([seen])
        return batch

    await received(0)
    before = census()
    batches = [await received(number) for number in range(5)]
    assert [list(batch) for batch in batches] == [[str(number) * 1000] * 20 for number in range(5)]
    views = [batch.view(0) for batch in batches]
    slices = [batch[3:5] for batch in batches]
    del batches
    if fastws.IMPLEMENTATION == "compiled":
        assert before.segments < live_segments() <= before.segments + 2 * 5
    assert [bytes(view[:1]) for view in views] == [b"%d" % number for number in range(5)]
    del views
    assert [list(part) for part in slices] == [[str(number) * 1000] * 2 for number in range(5)]
    del slices
    assert await settled(before) == before


# Receive memory


@compiled_only
@over_loops
@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_idle_connections_hold_no_segment(link, compression):
    """Whatever they have received, once it is consumed."""
    before = live_segments()
    async with contextlib.AsyncExitStack() as stack:
        ends = [await stack.enter_async_context(pair(link, compression=compression)) for _ in range(3)]
        for client, server in ends:
            for size in (900_000, 100_000, 1000, 10):
                message = os.urandom(size // 2).hex()
                await client.send(message)
                assert await server.recv() == message
                await server.send_batch([message] * 3)
                received = []
                while len(received) < 3:
                    received += list(await client.recv_batch())
                assert received == [message] * 3
                await server.send([message, "tail"])
                assert await client.recv() == message + "tail"
                del received
            await stack.enter_async_context(consumed(client))
            await stack.enter_async_context(consumed(server))
        assert live_segments() == before
        assert pooled_bytes() <= POOLS_MAX


@compiled_only
@over_loops
async def test_closed_connections_hold_no_segment(side, link):
    """Programs keep connections after their end: for their close code, say, or until a `set` of them is cleared."""
    before = live_segments()
    kept = []
    for end in (peer_closes, we_close, broken_rule, cut_frame):
        async with against_peer(side, link) as (ws, peer):
            kept.append(ws)
            await peer.send(TEXT, b"message")
            await peer.through()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await end(ws, peer)
            await ws.wait_closed()
        with contextlib.suppress(fastws.ConnectionClosed):
            while True:
                await ws.recv()
    assert [ws.state for ws in kept] == [fastws.State.CLOSED] * 4
    assert live_segments() == before


@compiled_only
@over_loops
async def test_idle_in_the_middle_of_something(side):
    """The beginning of a frame is carried; the beginning of a message is the message's own."""
    before = live_segments()
    async with against_peer(side) as (ws, peer):
        await peer.send(TEXT, b"whole")
        assert await ws.recv() == "whole"
        data = peer.frame(TEXT, b"x" * 200)
        peer.write(data[:3])
        await until(lambda: ws._decoder.partial_frame[0] == 3)
        async with consumed(ws):
            assert live_segments() == before
        peer.write(data[3:])
        assert await ws.recv() == "x" * 200
        await peer.send(PING, b"x" * 125)
        assert await peer.read() == (PONG, True, b"x" * 125)
        async with consumed(ws):
            assert live_segments() == before
        await peer.send(TEXT, b"x" * 10_000, fin=False)
        await peer.through()
        assert live_segments() > before
        await peer.send(CONT, b"")
        assert await ws.recv() == "x" * 10_000
        async with consumed(ws):
            assert live_segments() == before


@compiled_only
@on_asyncio
async def test_queued_messages_share_segments():
    """Many small messages of one read lie in one segment."""
    before = live_segments()
    async with against_peer() as (ws, peer):
        peer.write(peer.frame(TEXT, b"x" * 100) * 500)
        await peer.through()
        assert ws._decoder.queued_messages == 500
        assert live_segments() - before <= 10
        for _ in range(500):
            await ws.recv()
        async with consumed(ws):
            assert live_segments() == before


# Resident memory


def resident_bytes() -> int:
    return int(STATUS.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")
@over_loops
@pytest.mark.parametrize("compression", [None, "deflate"])
async def test_resident_memory_is_bounded(link, compression):
    """Floods of 8 MB, consumed in every way and left unread; what five of them leave is less than one."""
    pieces = 16
    message = os.urandom(1000).hex()
    count = 4000 if fastws.IMPLEMENTATION == "compiled" else 400

    async def flood():
        async with pair(link, compression=compression, client={"max_queue_bytes": 2**20}) as (client, server):

            async def feed():
                with contextlib.suppress(fastws.ConnectionClosed):
                    for _ in range(pieces):
                        await server.send_batch([message] * (count // pieces))

            task = asyncio.create_task(feed())
            received = 0
            async for _ in client:
                received += 1
                if received == count // 4:
                    break
            async for batch in client.batches():
                received += len(batch)
                if received >= count // 2:
                    break
            await until(lambda: client._decoder.blocked or task.done())
            client.transport.abort()
            await task

    for _ in range(2):
        await flood()
    gc.collect()
    before = resident_bytes()
    for _ in range(5):
        await flood()
    gc.collect()
    assert resident_bytes() - before < count * len(message) // 2
    assert pooled_bytes() <= POOLS_MAX


@pytest.mark.skipif(not STATUS.exists(), reason="needs /proc")
@on_asyncio
async def test_open_connections_are_small():
    """An idle connection takes kilobytes, those of websockets included; a receive buffer each would be many."""
    number = 50
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(pair())
        gc.collect()
        before = resident_bytes()
        for _ in range(number):
            client, server = await stack.enter_async_context(pair())
            await server.send("x" * 10_000)
            assert await client.recv() == "x" * 10_000
        gc.collect()
        assert (resident_bytes() - before) / (2 * number) < 60_000
