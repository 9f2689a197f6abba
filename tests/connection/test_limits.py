"""Limits: what a peer may send, and how much of it may wait for a consumer that doesn't come."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import resource
import zlib

import pytest
from core.streams import BINARY, CONT, PING, PONG, TAIL, TEXT, deflate
from websockets.asyncio import messages as upstream_messages

import fastws
from fastws import ConnectionClosedError, PayloadTooBig
from fastws.wire import RECORD_BYTES

from .net import PLAIN, against_peer, on_asyncio, over_loops, pair, serving, until

READ_MAX = 512 * 1024
"""More than a transport may have read before it hears of a pause: one read of 256 KiB, and TLS records."""


async def blocked(ws):
    """Wait until the queue is full and the transport has come to rest."""
    await until(lambda: ws._decoder.blocked)
    received = -1
    while received != ws._decoder.bytes_received:
        received = ws._decoder.bytes_received
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def endless(side, link, make, **options):
    """(connection, messages written so far) against a peer that writes ``make(number)`` for ever."""
    async with against_peer(side, link, **options) as (ws, peer):
        written = [0]

        async def write():
            with contextlib.suppress(ConnectionError):
                while True:
                    peer.write(b"".join(make(peer, number) for number in range(written[0], written[0] + 20)))
                    written[0] += 20
                    await peer.writer.drain()

        task = asyncio.create_task(write())
        try:
            yield ws, written
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def numbered(size):
    return lambda peer, number: peer.frame(BINARY, b"%d " % number + b"x" * size)


def number_of(message):
    return int(message.split()[0])


# Sizes


@on_asyncio
@pytest.mark.parametrize(
    ("max_size", "frames", "allowed"),
    [
        (1000, [1000], True),
        (1000, [1001], False),
        (1000, [400, 600, 0], True),
        (1000, [400, 600, 1], False),
        ((1000, 500), [500], True),
        ((1000, 500), [501], False),
        ((1000, 500), [500, 500], True),
        ((1000, 500), [500, 500, 1], False),
        ((None, 500), [500] * 20, True),
        ((None, 500), [500, 501], False),
        ((1000, None), [1000], True),
        ((1000, None), [1, 1000], False),
        (0, [0], True),
        (0, [1], False),
        (None, [3_000_000], True),
        (2**20, [2**20], True),
        (2**20, [2**20 + 1], False),
    ],
)
async def test_max_size_to_the_byte(side, max_size, frames, allowed):
    async with against_peer(side, max_size=max_size) as (ws, peer):
        for place, size in enumerate(frames):
            opcode = CONT if place else BINARY
            peer.write(peer.frame(opcode, b"x" * size, fin=place == len(frames) - 1))
        waiting = asyncio.create_task(ws.recv())
        if allowed:
            assert await waiting == b"x" * sum(frames)
        else:
            assert (await peer.expect_close())[0] == 1009
            await peer.end()
            with pytest.raises(ConnectionClosedError) as info:
                await waiting
            assert isinstance(info.value.__cause__, PayloadTooBig)


@on_asyncio
async def test_max_size_is_a_mebibyte_by_default(side):
    async with against_peer(side) as (ws, peer):
        await peer.send(BINARY, b"x" * 2**20)
        assert len(await ws.recv()) == 2**20
        await peer.send(BINARY, b"x" * (2**20 + 1))
        assert (await peer.expect_close())[0] == 1009


@pytest.mark.loop_receives
@on_asyncio
async def test_announced_size_is_not_allocated():
    """2**62 bytes announced, no limit: memory follows what has come."""
    async with against_peer(max_size=None) as (ws, peer):
        peer.write(b"\x82\x7f\x40" + b"\0" * 7 + b"x" * 1_000_000)
        await until(lambda: ws._decoder.bytes_received == 1_000_010)
        assert ws._decoder.partial_frame == (1_000_010, 2**62 + 10)
        assert len(ws.transport.get_protocol().get_buffer(-1)) <= 256 * 1024


# Queues


@over_loops
@pytest.mark.parametrize(
    ("max_queue", "high", "low"),
    [(16, 16, 4), (3, 3, 0), (0, 0, 0), ((20, 10), 20, 10), ((8, None), 8, 2), ((None, 3), 12, 3), ((5, 5), 5, 5)],
)
async def test_max_queue(side, max_queue, high, low):
    """Blocks with more than high, goes on at low; nothing lost, nothing twice."""
    async with endless(side, PLAIN, numbered(100), max_queue=max_queue) as (ws, _):
        await blocked(ws)
        assert ws._decoder.queued_messages == high + 1
        assert ws.transport.is_reading() is False
        received = []
        for left in range(high, low, -1):
            received.append(await ws.recv())
            assert ws._decoder.queued_messages == left
        # The message that brings it to the mark has more of those decoded that were read.
        received.append(await ws.recv())
        await until(lambda: ws._decoder.queued_messages > low)
        while len(received) < 3000:
            received.append(await ws.recv())
            assert ws._decoder.queued_messages <= high + 1
        assert [number_of(message) for message in received] == list(range(3000))


@over_loops
@pytest.mark.parametrize("size", [0, 100, 5_000])
async def test_max_queue_bytes(side, link, size):
    limit = 100_000
    async with endless(side, link, numbered(size), max_queue_bytes=limit) as (ws, _):
        await blocked(ws)
        decoder = ws._decoder
        waiting = decoder.queued_bytes + RECORD_BYTES * decoder.queued_frames
        assert limit <= waiting < limit + size + 100 + RECORD_BYTES
        assert decoder.bytes_received < waiting + READ_MAX
        received = []
        while waiting > limit // 4 and len(received) < 1000:
            received.append(await ws.recv())
            waiting = decoder.queued_bytes + RECORD_BYTES * decoder.queued_frames
            if not decoder.blocked:
                break
        while len(received) < 1000:
            received.append(await ws.recv())
            assert decoder.queued_bytes + RECORD_BYTES * decoder.queued_frames < limit + size + 100 + RECORD_BYTES
        assert [number_of(message) for message in received] == list(range(1000))


@over_loops
async def test_default_limit_is_16_mib():
    async with endless("client", PLAIN, numbered(50_000)) as (ws, _):
        await blocked(ws)
        waiting = ws._decoder.queued_bytes + RECORD_BYTES * ws._decoder.queued_frames
        assert 2**24 <= waiting < 2**24 + 60_000
    async with against_peer("client") as (ws, _):
        assert ws.max_queue_high is None


@over_loops
async def test_limit_of_no_bytes(side):
    """One message at a time."""
    async with endless(side, PLAIN, numbered(10), max_queue_bytes=0) as (ws, _):
        await blocked(ws)
        assert ws._decoder.queued_messages == 1
        assert [number_of(await ws.recv()) for _ in range(2000)] == list(range(2000))


@over_loops
async def test_consumer_that_stops_now_and_then(link):
    """Pauses and resumptions in every way of receiving; each message once and in order."""
    async with endless("client", link, numbered(200), max_queue=40, max_queue_bytes=6000) as (ws, _):
        received = []
        pauses = 0

        async def rest():
            nonlocal pauses
            if len(received) % 7 == 0:
                await until(lambda: ws._decoder.blocked)
                pauses += 1

        while len(received) < 4000:
            async for message in ws:
                received.append(message)
                if len(received) % 13 == 0:
                    break
            await rest()
            received.append(await ws.recv())
            await rest()
            received.extend(await ws.recv_batch(17))
            await rest()
            async for batch in ws.batches(max_wait=0.0001):
                received.extend(batch)
                break
            await rest()
            received.extend([fragment async for fragment in ws.recv_streaming()])
            await rest()
        assert [number_of(message) for message in received] == list(range(len(received)))
        assert pauses > 10


@over_loops
async def test_both_limits_and_batches(link):
    async with endless("client", link, numbered(200), max_queue=(30, 29), max_queue_bytes=10**6) as (ws, _):
        received = []
        async for batch in ws.batches():
            assert 1 <= len(batch) <= 31
            received.extend(batch)
            if len(received) > 3000:
                break
        assert [number_of(message) for message in received] == list(range(len(received)))


@over_loops
async def test_echo_with_all_queues_small(link):
    """Both ends pause and resume all the time."""

    async def echo_slowly(ws):
        async for message in ws:
            await ws.send(message)
            await asyncio.sleep(0)

    async with serving(echo_slowly, link, max_queue=2, write_limit=1000) as uri:
        async with fastws.connect(
            uri, max_queue=2, write_limit=1000, compression=None, ping_interval=None, **link.client
        ) as ws:

            async def feed():
                for number in range(3000):
                    await ws.send(f"{number} " + "x" * 500)

            task = asyncio.create_task(feed())
            received = [number_of(await ws.recv()) for _ in range(3000)]
            await task
    assert received == list(range(3000))


@on_asyncio
@pytest.mark.parametrize("options", [{"max_queue_bytes": -1}, {"max_queue": -1}, {"max_queue": (2, 3)}])
async def test_limits_that_make_no_sense(options):
    with pytest.raises(ValueError, match=r"max_queue|low|high"):
        fastws.ClientConnection(fastws.ClientProtocol(fastws.uri.parse_uri("ws://x/")), **options).connection_made(
            asyncio.Transport()
        )


# Control frames while blocked


@over_loops
async def test_pings_are_answered_while_blocked(side, link):
    async with against_peer(side, link, max_queue=3) as (ws, peer):
        data = b""
        for number in range(50):
            data += peer.frame(TEXT, b"%d" % number) + peer.frame(PING, b"%d" % number)
        peer.write(data)
        pongs = [await peer.read() for _ in range(50)]
        assert pongs == [(PONG, True, b"%d" % number) for number in range(50)]
        assert ws._decoder.blocked
        assert ws._decoder.queued_messages == 4
        assert [await ws.recv() for _ in range(50)] == [str(number) for number in range(50)]
        await peer.through()


@over_loops
async def test_pongs_are_seen_while_blocked(side):
    async with against_peer(side, max_queue=0) as (ws, peer):
        pong = await ws.ping(b"mine")
        assert await peer.read() == (PING, True, b"mine")
        peer.write(peer.frame(TEXT, b"x") * 10 + peer.frame(PONG, b"mine"))
        assert await asyncio.wait_for(pong, 5) >= 0
        assert ws._decoder.queued_messages == 1


# Fragments


@on_asyncio
async def test_fragments_up_to_the_limit(side):
    async with against_peer(side) as (ws, peer):
        for count in (4096, 4097):
            peer.write(peer.frame(BINARY, b"x", fin=False) + peer.frame(CONT, b"y", fin=False) * (count - 2))
            await peer.send(CONT, b"z")
            if count == 4096:
                assert await ws.recv() == b"x" + b"y" * 4094 + b"z"
        waiting = asyncio.create_task(ws.recv())
        assert await peer.expect_close() == (1009, "too many fragments")
        await peer.end()
        with pytest.raises(ConnectionClosedError):
            await waiting


@on_asyncio
async def test_limit_of_fragments_is_that_of_websockets(monkeypatch):
    monkeypatch.setattr(upstream_messages, "MAX_FRAGMENTS", 3)
    async with against_peer() as (ws, peer):
        peer.write(peer.frame(TEXT, b"x", fin=False) + peer.frame(CONT, b"y", fin=False) + peer.frame(CONT, b"z"))
        assert await ws.recv() == "xyz"
        peer.write(peer.frame(TEXT, b"x", fin=False) + peer.frame(CONT, b"y", fin=False) * 3)
        waiting = asyncio.create_task(ws.recv())
        assert await peer.expect_close() == (1009, "too many fragments")
        await peer.end()
        with pytest.raises(ConnectionClosedError):
            await waiting


@on_asyncio
async def test_streaming_has_no_limit_of_fragments(side):
    async with against_peer(side) as (ws, peer):
        peer.write(peer.frame(TEXT, b"x", fin=False))
        peer.write(peer.frame(CONT, b"y", fin=False) * 9000 + peer.frame(CONT, b"z"))
        fragments = [fragment async for fragment in ws.recv_streaming()]
        assert len(fragments) == 9002
        await peer.send(TEXT, b"next")
        assert await ws.recv() == "next"


@over_loops
async def test_fragmented_message_larger_than_the_queue(side):
    """Whoever waits for the whole message gets it; the queue's limits and the consumer don't wait for each other."""
    async with against_peer(side, max_queue=2, max_queue_bytes=1000) as (ws, peer):
        for make in (ws.recv, lambda: anext(aiter(ws)), ws.recv_batch):
            for early in (False, True):
                peer.write(
                    peer.frame(BINARY, b"a" * 400, fin=False)
                    + peer.frame(CONT, b"b" * 400, fin=False) * 500
                    + peer.frame(CONT, b"c" * 400)
                )
                if early:
                    await until(lambda: ws._decoder.blocked)
                message = await make()
                if isinstance(message, fastws.Batch):
                    (message,) = message
                assert message == b"a" * 400 + b"b" * 200_000 + b"c" * 400


@over_loops
async def test_endless_fragments_that_nobody_reads(side):
    def fragment(peer, number):
        return peer.frame(CONT if number else TEXT, b"x" * 100, fin=False)

    async with endless(side, PLAIN, fragment, max_queue_bytes=50_000) as (ws, _):
        await blocked(ws)
        assert ws._decoder.queued_frames * (100 + RECORD_BYTES) < 51_000
        assert ws._decoder.queued_messages == 0
        stream = ws.recv_streaming()
        for _ in range(2000):
            assert await anext(stream) == "x" * 100
            assert ws._decoder.queued_frames * (100 + RECORD_BYTES) < 51_000


# Deflate bombs

DEFLATE = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover"


def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@functools.cache
def bomb_of_200_mib():
    stream = zlib.compressobj(9, wbits=-15)
    bomb = b"".join(stream.compress(b"\0" * 2**20) for _ in range(200))
    return (bomb + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


@on_asyncio
@pytest.mark.parametrize("pieces", [1, 7])
async def test_deflate_bombs(side, pieces):
    bomb = bomb_of_200_mib()
    assert len(bomb) < 250_000
    async with against_peer(side, headers=(DEFLATE,), compression="deflate") as (ws, peer):
        await peer.send(TEXT, b"before")
        await peer.through()
        peak = peak_bytes()
        step = len(bomb) // pieces + 1
        for place in range(0, len(bomb), step):
            last = place + step >= len(bomb)
            peer.write(peer.frame(CONT if place else TEXT, bomb[place : place + step], rsv=0 if place else 4, fin=last))
        assert (await peer.expect_close())[0] == 1009
        await peer.end()
        assert await ws.recv() == "before"
        with pytest.raises(ConnectionClosedError) as info:
            await ws.recv()
        assert isinstance(info.value.__cause__, PayloadTooBig)
        assert "inflates to more than max" in str(info.value.__cause__)
        assert peak_bytes() - peak < 50 * 2**20


@on_asyncio
async def test_inflated_bytes_count_in_the_queue(side):
    """What waits is counted as it waits, not as it travelled."""
    async with against_peer(side, headers=(DEFLATE,), compression="deflate", max_queue_bytes=1_000_000) as (ws, peer):
        peer.write(peer.frame(BINARY, deflate(b"\0" * 100_000), rsv=4) * 50)
        await blocked(ws)
        assert ws._decoder.queued_messages == 10
        assert [len(await ws.recv()) for _ in range(50)] == [100_000] * 50


@on_asyncio
async def test_max_size_of_inflated_messages(side):
    async with against_peer(side, headers=(DEFLATE,), compression="deflate", max_size=1000) as (ws, peer):
        await peer.send(TEXT, deflate(b"x" * 1000), rsv=4)
        assert await ws.recv() == "x" * 1000
        await peer.send(TEXT, deflate(b"x" * 1001), rsv=4)
        code, _ = await peer.expect_close()
        assert code == 1009


# Between two connections of fastws


@over_loops
async def test_backpressure_reaches_the_sender(link):
    async with pair(link, server={"write_limit": 10_000}, client={"max_queue_bytes": 10_000}) as (client, server):
        sent = 0

        async def feed():
            nonlocal sent
            while sent < 3000:
                await server.send(f"{sent} " + "x" * 10_000)
                sent += 1

        task = asyncio.create_task(feed())
        await until(lambda: server.paused)
        await blocked(client)
        assert sent < 3000
        assert not task.done()
        received = [number_of(await client.recv()) for _ in range(3000)]
        await task
        assert received == list(range(3000))
