"""Figures: each says what its name says, on both sides, and costs nothing while nobody asks."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
import time

import pytest
import websockets
from core.streams import PING, PONG, TEXT

import fastws
from fastws import ExchangeTime, Lost, Quantiles, Stats

from .net import PLAIN, against_peer, on_asyncio, over_loops, pair, serving, until

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells it on Linux")


@over_loops
async def test_messages_and_bytes(link):
    async with pair(link) as (client, server):
        await client.send("text")
        await client.send(b"\0" * 1000)
        await client.send_batch(["a", b"b", "c"])

        async def fragments():
            yield "frag"
            yield "ments"

        await client.send(fragments())
        assert [len(await server.recv()) for _ in range(6)] == [4, 1000, 1, 1, 1, 9]
        await client.send("waits")
        await until(lambda: server.stats.queued_messages)
        ours, theirs = client.stats, server.stats
        assert ours.messages_out == theirs.messages_in == 7
        assert ours.bytes_out == theirs.bytes_in > 1000
        assert (theirs.delivered, theirs.queued_messages, theirs.queued_bytes) == (6, 1, 5)
        assert theirs.queued_bytes_max >= 1000
        assert ours.messages_in == ours.bytes_in == theirs.messages_out == theirs.bytes_out == 0
        assert theirs.lost == Lost()
        assert not theirs.lost


@over_loops
async def test_compressed_bytes(link):
    """Bytes are what is on the wire, before TLS."""
    async with pair(link, compression="deflate") as (client, server):
        await client.send("x" * 100_000)
        await server.recv()
        assert 0 < client.stats.bytes_out == server.stats.bytes_in < 2000


@over_loops
async def test_broadcasts_count():
    async with pair() as (client, server):
        fastws.broadcast([server], "x" * 100)
        await client.recv()
        assert server.stats.messages_out == 1
        assert server.stats.bytes_out == client.stats.bytes_in == 102


@over_loops
async def test_debug_counts_alike(caplog):
    """With debug logging, messages take another way."""
    caplog.set_level("DEBUG", "websockets")
    async with pair() as (client, server):
        await client.send("x")
        await client.send_batch(["y", "z"])
        assert [await server.recv() for _ in range(3)] == ["x", "y", "z"]
        assert client.stats.messages_out == server.stats.messages_in == 3
        assert client.stats.bytes_out == server.stats.bytes_in == 21


@over_loops
async def test_ages(side):
    async with against_peer(side) as (ws, peer):
        assert ws.stats.oldest_s == 0.0
        await peer.send(TEXT, b"old")
        await peer.through()
        await asyncio.sleep(0.03)
        await peer.send(TEXT, b"new")
        await peer.through()
        oldest_s = ws.stats.oldest_s
        assert 0.03 <= oldest_s < 5
        await ws.recv()
        assert ws.stats.oldest_s < oldest_s - 0.02
        await ws.recv()
        assert ws.stats.oldest_s == 0.0


@over_loops
async def test_pauses(side):
    """Only those for a full queue."""
    async with against_peer(side, max_queue=4) as (ws, peer):
        for round_ in range(1, 3):
            peer.write(peer.frame(TEXT, b"x") * 10)
            await until(lambda: ws.stats.paused)
            await asyncio.sleep(0.02)
            stats = ws.stats
            assert stats.pauses == round_
            assert stats.paused_s >= stats.pause_max_s >= 0.02
            assert stats.stalled_by == "consumer"
            for _ in range(10):
                await ws.recv()
            # A receive thread goes on when it hears of it.
            await until(lambda: not ws.stats.paused)
        stats = ws.stats
        assert stats.paused_s >= 0.04
        await asyncio.sleep(0.02)
        assert ws.stats.paused_s == stats.paused_s
        assert stats.paused_s > stats.pause_max_s


@over_loops
async def test_reading_in_bursts_is_no_pause(side):
    """The pauses that give the loop its turn aren't the consumer's."""
    async with pair(max_queue_bytes=None) as ends:
        ws, other = ends if side == "client" else reversed(ends)
        await other.send_batch([b"x" * 1000] * 3000)
        await until(lambda: ws.stats.messages_in == 3000)
        stats = ws.stats
        assert (stats.pauses, stats.paused_s, stats.pause_max_s) == (0, 0.0, 0.0)


@LINUX
@over_loops
async def test_kernel_backlog(side):
    async with against_peer(side, max_queue=1) as (ws, peer):
        assert ws.stats.kernel_backlog_bytes == 0
        peer.write(peer.frame(TEXT, b"x") * 10)
        await until(lambda: ws.stats.paused)
        data = peer.frame(TEXT, b"y" * 1000)
        peer.write(data)
        await until(lambda: ws.stats.kernel_backlog_bytes == len(data))
        ws.transport.abort()
        await ws.wait_closed()
        assert ws.stats.kernel_backlog_bytes is None


@LINUX
@over_loops
async def test_idle(side):
    async with against_peer(side) as (ws, peer):
        await asyncio.sleep(0.06)
        idle_s = ws.stats.idle_s
        assert 0.04 <= idle_s < 5
        await peer.through()
        assert ws.stats.idle_s < idle_s


@over_loops
async def test_pings_and_pongs(side):
    async with against_peer(side) as (ws, peer):
        for _ in range(3):
            await peer.through()
        pong = await ws.ping(b"x")
        assert await peer.read() == (PING, True, b"x")
        await asyncio.sleep(0.01)
        await peer.send(PONG, b"x")
        await pong
        await peer.send(PONG, b"unasked")
        await peer.through()
        stats = ws.stats
        assert (stats.pings_in, stats.pongs_in, stats.controls_out) == (4, 2, 5)
        assert 0 < stats.ping_delay_max_s < 1
        assert stats.latency_s == ws.latency > 0


@over_loops
async def test_exchange_lag(side):
    async with against_peer(side, exchange_time=ExchangeTime("/E")) as (ws, peer):
        assert ws.stats.exchange_lag_s is None
        await peer.send(TEXT, b'{"E":%d}' % (time.time() * 1000 - 500))
        await ws.recv()
        assert 0.4 < ws.stats.exchange_lag_s < 5


@over_loops
async def test_who_stalls(side):
    async with against_peer(side) as (ws, peer):
        assert ws.stats.stalled_by is None
        await peer.send(TEXT, b"x")
        await peer.through()
        assert ws.stats.stalled_by is None
        await asyncio.sleep(0.12)
        assert ws.stats.stalled_by == "consumer"
        time.sleep(0.2)  # noqa: ASYNC251
        assert ws.stats.stalled_by == "loop"
        assert ws.stats.loop_lag_s > 0.1
        await ws.recv()
        await asyncio.sleep(0.1)
        assert ws.stats.loop_lag_max_s > 0.1


@over_loops
async def test_a_peer_that_stalls(side):
    """It doesn't read what we send, while its kernel answers for it."""
    async with against_peer(side) as (ws, peer):
        peer.reader._transport.pause_reading()
        sending = asyncio.ensure_future(ws.send(b"x" * 50_000_000))
        await until(lambda: ws.paused)
        assert ws.stats.stalled_by == "peer"
        sending.cancel()


@on_asyncio
async def test_a_ping_without_an_answer():
    async with against_peer() as (ws, peer):
        await ws.ping()
        assert (await peer.read())[0] == PING
        assert ws.stats.stalled_by is None
        data, (future, sent_at) = ws.pending_pings.popitem()
        ws.pending_pings[data] = future, sent_at - 1.5
        assert ws.stats.stalled_by == "peer"


@over_loops
async def test_waiting_and_processing(side):
    async with against_peer(side) as (ws, peer):
        assert ws.stats.wait == ws.stats.processing == Quantiles()
        peer.write(peer.frame(TEXT, b"x") * 10)
        await peer.through()
        await asyncio.sleep(0.05)
        for _ in range(10):
            await ws.recv()
            await asyncio.sleep(0.005)
        stats = ws.stats
        assert stats.wait.count == 10
        assert stats.wait.max >= stats.wait.p999 >= stats.wait.p99 >= stats.wait.p50 >= 0.04
        assert 0.004 <= stats.processing.p50 < 0.05
        assert stats.processing.max >= stats.processing.p50


@over_loops
async def test_a_snapshot(side):
    """It doesn't change any more, and is there after the end, too."""
    async with against_peer(side) as (ws, peer):
        await peer.send(TEXT, b"x")
        await peer.through()
        stats = ws.stats
        with pytest.raises(dataclasses.FrozenInstanceError):
            stats.messages_in = 5
        await peer.close()
        await ws.wait_closed()
        assert stats.queued_messages == 1
        await ws.recv()
        assert (stats.queued_messages, ws.stats.queued_messages, ws.stats.delivered) == (1, 0, 1)


@on_asyncio
async def test_before_and_without():
    """Before the handshake, and where an extension keeps the data plane."""

    async def factory(uri):
        async with fastws.connect(uri) as ws:
            return ws.stats

    async with serving(lambda ws: ws.wait_closed()) as uri:
        assert isinstance(await factory(uri), Stats)
    ws = fastws.ClientConnection(websockets.ClientProtocol(websockets.uri.parse_uri(PLAIN.uri(1))))
    assert ws.stats == Stats()
