"""The connection lives while the event loop, or all of Python, is blocked."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import time
from collections.abc import Iterator

import pytest
from connection.net import against_peer, over_loops, until
from core.streams import PING, PONG, TEXT

import fastws
from fastws import Conflate, DropOldest

from .pingers import pinger_process

pytestmark = pytest.mark.skipif(fastws.IMPLEMENTATION == "pure", reason="receive threads are in the compiled core only")

BLOCKED_S = 0.5
INTERVAL_S = 0.01


@contextlib.contextmanager
def pinger(interval: float = INTERVAL_S) -> Iterator[str]:
    """The URI of a server that pings, in a process of its own."""
    with pinger_process(interval) as (uri, _, _):
        yield uri


def sleeping(seconds):
    time.sleep(seconds)


def computing(seconds):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        sum(range(1000))


def keeping_the_gil(seconds):
    # Functions of a PyDLL are called with the GIL.
    ctypes.PyDLL(None).usleep(int(seconds * 1e6))


async def reported(ws):
    """What the pinger says, after all else that it has sent."""
    await ws.send("report")
    seen = []
    async for message in ws:
        if message.startswith("report "):
            return seen, json.loads(message.removeprefix("report "))
        seen.append(message)
    raise AssertionError("the connection has ended")


def assert_complete(seen, report):
    """After a first message was received: each ping got its pong in its turn, and Block has lost nothing."""
    assert report["pongs"] == [*range(1, len(report["pongs"]) + 1)]
    assert seen == [str(1 + i // 10) for i in range(1, len(seen) + 1)]


@pytest.mark.parametrize("blocked_by", [sleeping, computing, keeping_the_gil])
@over_loops
async def test_pings_are_answered(blocked_by):
    """All that came while the loop was blocked; by the time it runs again, they are gone."""
    with pinger() as uri:
        async with fastws.connect(uri, receive="thread", ping_interval=None) as ws:
            await ws.recv()
            blocked_by(BLOCKED_S)
            answered = ws.stats.pings_in
            seen, report = await reported(ws)
            assert answered >= BLOCKED_S / INTERVAL_S / 4
            # One may be under way.
            assert len(report["pongs"]) >= report["pings"] - 1
            assert_complete(seen, report)


@over_loops
async def test_newest_data_waits():
    """With a lossy policy, what there is after the blockade is fresh, and what was lost is told."""
    with pinger() as uri:
        async with fastws.connect(uri, receive="thread", overflow=DropOldest(), max_queue=15) as ws:
            await ws.recv()
            keeping_the_gil(BLOCKED_S)
            batch = await ws.recv_batch()
            stats = ws.stats
            assert len(batch) <= 15
            assert batch.lost.dropped_oldest > 0
            assert int(batch[0]) > BLOCKED_S / INTERVAL_S / 4
            assert stats.messages_in == stats.delivered + stats.queued_messages + stats.lost.total


@over_loops
async def test_conflated_while_blocked():
    with pinger() as uri:
        async with fastws.connect(uri, receive="thread", overflow=Conflate(lambda message: message)) as ws:
            await ws.recv()
            await asyncio.sleep(0)
            sleeping(BLOCKED_S)  # The key is a Python function: the pump needs the GIL for it, and gets it.
            batch = await ws.recv_batch()
            assert len(set(batch)) == len(batch)


@over_loops
async def test_latency_is_the_networks(side):
    """A pong that waits for a busy loop was in time."""
    async with against_peer(side, receive="thread") as (ws, peer):
        pong = await ws.ping(b"one")
        assert await peer.read() == (PING, True, b"one")
        await peer.send(PONG, b"one")
        sleeping(0.3)
        assert await pong < 0.25
        assert ws.latency < 0.25


@over_loops
async def test_events_come_ahead_of_messages(side):
    """A gap that the pump has found is told before the message behind it is received, however that is done."""
    heard = []
    options = {"inspect": fastws.Inspect("/u"), "on_event": lambda ws, event: heard.append(event)}
    async with against_peer(side, receive="thread", **options) as (ws, peer):
        for number in (1, 3):
            await peer.send(TEXT, b'{"u":%d}' % number)
        await until(lambda: ws._decoder.messages_received == 2 or time.sleep(0.01))
        assert await ws.recv() == '{"u":1}'
        assert heard == [fastws.Gap(None, 2, 3)]


@over_loops
async def test_keepalive_lives_through_a_blockade():
    """The pongs came while nobody looked: the peer isn't blamed."""
    with pinger() as uri:
        async with fastws.connect(uri, receive="thread", ping_interval=0.05, ping_timeout=0.2) as ws:
            for _ in range(3):
                computing(0.3)
                await asyncio.sleep(0.12)
            assert ws.state is fastws.State.OPEN
            assert ws.stats.pongs_in >= 2
            assert ws.latency < 0.25
