"""Verdicts on the peer after the loop was blocked: it isn't blamed for that, and what the pump has seen counts."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from connection.net import against_peer, over_loops
from connection.test_liveness import close_behind_beats
from core.streams import PING, PONG, TEXT

import fastws
from fastws import Heartbeat
from pump.test_blocked_loop import pinger, sleeping
from pump.test_replies import blocking

pytestmark = pytest.mark.skipif(fastws.IMPLEMENTATION == "pure", reason="receive threads are in the compiled core only")

INTERVAL_S, TIMEOUT_S = 0.03, 0.1
"""Of 20 s each: so a tenth of a second here stands for 20 s."""

BLOCKS_S = (0.02, 0.05, 0.07, 0.08, 1.5 * (INTERVAL_S + TIMEOUT_S))
"""Those that come as a late look, and those that don't."""


def blocked_until(condition):
    """Wait with the loop blocked."""
    end = time.monotonic() + 10
    while not condition() and time.monotonic() < end:
        time.sleep(0.001)


@pytest.mark.parametrize(
    "vitals",
    [
        {"ping_interval": INTERVAL_S, "ping_timeout": TIMEOUT_S},
        {"ping_interval": None, "heartbeat": Heartbeat(INTERVAL_S, "beat", expect="beat", timeout=TIMEOUT_S)},
    ],
    ids=["keepalive", "heartbeat"],
)
@pytest.mark.parametrize("receive", ["thread", "loop"])
@over_loops
async def test_a_live_peer_is_not_cut_off(receive, vitals):
    """It only answers; the loop has a moment between two blocks, also of more than interval and timeout together."""
    choices = random.Random(7)
    with pinger(60) as uri:
        async with fastws.connect(uri, receive=receive, close_timeout=1, **vitals) as ws:
            for seconds in choices.sample(BLOCKS_S, len(BLOCKS_S)):
                sleeping(seconds)
                await asyncio.sleep(choices.choice((0, 0.001, INTERVAL_S)))
            assert ws.state is fastws.State.OPEN, (ws.close_code, ws.close_reason)
            await asyncio.sleep(2 * INTERVAL_S)
            assert ws.state is fastws.State.OPEN, (ws.close_code, ws.close_reason)


@pytest.mark.parametrize(
    ("vitals", "reason"),
    [
        ({"ping_interval": INTERVAL_S, "ping_timeout": TIMEOUT_S}, "keepalive ping timeout"),
        (
            {"heartbeat": Heartbeat(INTERVAL_S, "beat", expect="beat", timeout=TIMEOUT_S)},
            f"heartbeat timeout: no answer within {TIMEOUT_S} s",
        ),
    ],
    ids=["keepalive", "heartbeat"],
)
@over_loops
async def test_a_dead_peer_is_found_after_a_block(vitals, reason):
    """A block is no excuse for ever."""
    async with against_peer(receive="thread", close_timeout=0.1, **vitals) as (ws, peer):
        assert (await peer.read())[0] in (PING, TEXT)
        sleeping(2 * TIMEOUT_S)
        with pytest.raises(fastws.ConnectionClosedError, match=reason):
            await ws.recv()
        assert await close_behind_beats(peer) == (1011, reason)


@over_loops
async def test_an_answer_counts_at_once(side):
    """The pump has seen it: it counts before the loop knows, which isn't woken for it."""
    heartbeat = Heartbeat(INTERVAL_S, "beat", expect="answer", timeout=2)
    async with against_peer(side, receive="thread", heartbeat=heartbeat) as (ws, peer):
        assert await peer.read() == (TEXT, True, b"beat")
        with blocking(peer) as wire:
            wire.send(peer.frame(TEXT, b"answer"))
            blocked_until(lambda: ws._decoder.heard)
        assert ws._decoder.heard == 1
        assert ws.stats.answered == 1
        assert ws._decoder.notices() == []
        assert await peer.read() == (TEXT, True, b"beat")


@over_loops
async def test_an_answer_counts_behind_much_else(side):
    """While the loop is blocked, more gaps are found than there is room to tell of; the answer isn't lost with them."""
    heartbeat = Heartbeat(INTERVAL_S, "beat", expect="answer", timeout=10 * TIMEOUT_S)
    options = {"receive": "thread", "heartbeat": heartbeat, "inspect": fastws.Inspect("/u"), "max_queue_bytes": None}
    async with against_peer(side, **options) as (ws, peer):
        assert await peer.read() == (TEXT, True, b"beat")
        gaps = [peer.frame(TEXT, b'{"u":%d}' % (2 * number)) for number in range(6000)]
        with blocking(peer) as wire:
            for start in range(0, len(gaps), 500):
                wire.send(*gaps[start : start + 500])
            wire.send(peer.frame(TEXT, b"answer"))
            blocked_until(lambda: ws.stats.answered)
        assert ws.stats.gaps == 5999
        for _ in range(3):
            assert await peer.read() == (TEXT, True, b"beat")
            await peer.send(TEXT, b"answer")


@over_loops
async def test_a_pong_that_came_before_its_ping(side):
    """RFC 6455 5.5.3: it is unsolicited, though the loop hears of it when the ping has been sent."""
    async with against_peer(side, receive="thread") as (ws, peer):
        earlier = await ws.ping("earlier")
        assert await peer.read() == (PING, True, b"earlier")
        with blocking(peer) as wire:
            before = ws._decoder.bytes_received
            wire.send(peer.frame(PONG, b"same"))
            blocked_until(lambda: ws._decoder.bytes_received > before)
            assert ws._decoder.bytes_received > before
            pong = await ws.ping("same")
        assert await peer.read() == (PING, True, b"same")
        await peer.through()
        assert not earlier.done()
        assert not pong.done()
        await peer.send(PONG, b"same")
        assert 0 < await asyncio.wait_for(pong, 5) < await asyncio.wait_for(earlier, 5)
        assert ws.stats.pongs_in == 2
