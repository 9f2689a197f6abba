"""Nobody reads, on either side: what waits is bounded, nobody deadlocks, nothing is lost once somebody reads."""

from __future__ import annotations

import asyncio
import time

import pytest
from connection.net import against_peer, on_asyncio, over_loops, pair, steady, until
from core.streams import CLOSE, PING, PONG, TEXT

import fastws
from fastws import DropOldest

pytestmark = pytest.mark.skipif(fastws.IMPLEMENTATION == "pure", reason="receive threads are in the compiled core only")

WRITE_LIMIT = 20_000
SIZE = 30_000


@pytest.mark.crosswise
@over_loops
async def test_full_in_both_directions(link):
    """Both sides send until it hurts, also with the loop blocked; then both read, and all is there."""
    count = 1000
    options = {"receive": "thread", "max_queue_bytes": 50_000, "write_limit": WRITE_LIMIT, "compression": None}
    async with pair(link, ping_interval=0.02, ping_timeout=5, **options) as ends:
        sent = [0, 0]

        async def send(which):
            while sent[which] < count:
                await ends[which].send(f"{sent[which]:09}" + "x" * SIZE)
                sent[which] += 1

        async def receive(which):
            return [int((await ends[which].recv())[:9]) for _ in range(count)]

        sending = [asyncio.create_task(send(which)) for which in (0, 1)]
        await steady(lambda: tuple(sent), 0.1)
        time.sleep(0.2)  # noqa: ASYNC251
        await steady(lambda: tuple(sent), 0.1)
        for which, ws in enumerate(ends):
            assert 0 < sent[which] < count
            # It was full, and what the kernel has taken since, if anything, hasn't brought it to the low-water mark.
            low, high = ws.transport.get_write_buffer_limits()
            assert low < ws.transport.get_write_buffer_size() < WRITE_LIMIT + 2 * SIZE
            assert high == WRITE_LIMIT
            assert ws.stats.paused
            assert ws.stats.queued_bytes < 50_000 + 2 * SIZE
        assert await asyncio.gather(receive(0), receive(1)) == [list(range(count))] * 2
        await asyncio.gather(*sending)
        assert {ws.state for ws in ends} == {fastws.State.OPEN}


@pytest.mark.crosswise
@over_loops
async def test_close_with_all_buffers_full(link):
    """It is bounded by ``close_timeout``, although neither side reads or can write."""
    options = {"receive": "thread", "max_queue_bytes": 50_000, "write_limit": WRITE_LIMIT, "compression": None}
    async with pair(link, close_timeout=0.3, **options) as ends:

        async def send(ws):
            while True:
                await ws.send("x" * SIZE)

        sending = [asyncio.create_task(send(ws)) for ws in ends]
        await steady(lambda: [ws.stats.messages_out for ws in ends], 0.1)
        async with asyncio.timeout(3):
            await asyncio.gather(*[ws.close() for ws in ends])
        for task in sending:
            with pytest.raises(fastws.ConnectionClosed):
                await task


@on_asyncio
async def test_pongs_are_bounded(link):
    """A peer that pings and doesn't read: in the end it gets the pong to its last ping, and memory stays small."""
    count = 200_000
    ping = b"%09d" + b"p" * 100
    async with against_peer("server", link, receive="thread", overflow=DropOldest(), max_queue=10) as (ws, peer):
        peer.reader._transport.pause_reading()
        largest = 0
        for number in range(0, count, 1000):
            peer.write(b"".join(peer.frame(PING, ping % (number + i)) for i in range(1000)))
            await peer.writer.drain()
            largest = max(largest, ws.transport.get_write_buffer_size())
        await steady(lambda: ws.stats.pings_in)
        assert ws.stats.pings_in == count
        # One read may ask for as much as it has.
        assert 64 * 1024 < largest < 1_000_000
        peer.reader._transport.resume_reading()
        data = b""
        last = bytes([0x80 | PONG, 109]) + ping % (count - 1)
        while not data.endswith(last):
            data = data[-len(last) :] + await peer.reader.read(2**20)
        # Pongs that were left out are no excuse for what follows.
        await ws.send("x")
        assert (await peer.read())[2] == b"x"
        await peer.through()


@on_asyncio
async def test_no_pong_after_the_close_frame(link):
    """Neither one that was kept back (RFC 6455 5.5.1)."""
    ping = b"p" * 100
    async with against_peer("server", link, receive="thread", overflow=DropOldest(), max_queue=10) as (ws, peer):
        peer.reader._transport.pause_reading()
        frames = peer.frame(PING, ping) * 1000
        while ws.stats.pings_in < 150_000:
            peer.write(frames)
            await peer.writer.drain()
        await steady(lambda: ws.stats.pings_in)
        closing = asyncio.create_task(ws.close(1000, "enough"))
        await asyncio.sleep(0)
        peer.reader._transport.resume_reading()
        while (opcode := (await peer.read())[0]) == PONG:
            pass
        assert opcode == CLOSE
        await peer.send(PING, b"late")
        await peer.send(CLOSE, b"\x03\xe8")
        assert await peer.reader.read() == b""
        peer.writer.close()
        await closing


@pytest.mark.parametrize("low", [0, 100, 400, 999])
@on_asyncio
async def test_low_water_mark_of_a_long_queue(low):
    """Reading goes on exactly there, though the consumer holds all that waited, and the queue itself is empty."""
    async with against_peer(receive="thread", max_queue=(1000, low)) as (ws, peer):
        peer.write(b"".join(peer.frame(TEXT, b"%d" % number) for number in range(2500)))
        await until(lambda: ws._decoder.blocked)
        for number in range(1001 - low):
            assert ws.stats.queued_messages == 1001 - number
            assert await ws.recv() == str(number)
        await until(lambda: ws.stats.queued_messages == 1001)
        for number in range(1001 - low, 2500):
            assert await ws.recv() == str(number)
