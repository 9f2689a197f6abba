"""Lowering the subscription while the consumer is slow, and raising it again."""

from __future__ import annotations

import asyncio
import contextlib
import time

import pytest
from core.streams import CLOSE, TEXT

import fastws
from fastws import SubscriptionGovernor, Threshold

from .net import against_peer, on_asyncio, over_loops, until

LEVELS = ["full", "top", "trades"]
SLOW = {"thresholds": Threshold(messages=10)}


class Venue:
    """What was sent to it, and when."""

    def __init__(self, peer):
        self.peer = peer
        self.sent = []
        self.times = []
        self._task = asyncio.create_task(self._read())

    async def _read(self):
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                opcode, _, payload = await self.peer.read()
                if opcode == CLOSE:
                    return
                self.sent.append(payload.decode())
                self.times.append(time.monotonic())

    def flood(self):
        self.peer.write(self.peer.frame(TEXT, b"x") * 20)

    async def got(self, *messages):
        await until(lambda: self.sent == list(messages), 5)


@contextlib.asynccontextmanager
async def governed(side="client", **kwargs):
    async with against_peer(side, **SLOW) as (ws, peer):
        venue = Venue(peer)
        async with SubscriptionGovernor(ws, LEVELS, **kwargs) as governor:
            yield ws, venue, governor


@over_loops
async def test_down_and_up(side):
    async with governed(side, down_after=5, up_after=0.1, cooldown=0) as (ws, venue, governor):
        await venue.got("full")
        venue.flood()
        await venue.got("full", "top")
        assert governor.level == 1
        await asyncio.sleep(0.15)
        assert governor.level == 1
        await ws.recv_batch()
        calm = time.monotonic()
        await venue.got("full", "top", "full")
        assert time.monotonic() - calm >= 0.1
        assert governor.level == 0
        await asyncio.sleep(0.15)
        assert len(venue.sent) == 3


@over_loops
async def test_further_down_if_it_goes_on(side):
    async with governed(side, down_after=0.08, up_after=0.05, cooldown=0) as (ws, venue, governor):
        venue.flood()
        await venue.got("full", "top", "trades")
        assert venue.times[2] - venue.times[1] >= 0.07
        await asyncio.sleep(0.15)
        assert governor.level == 2
        await ws.recv_batch()
        await venue.got("full", "top", "trades", "top", "full")
        assert venue.times[4] - venue.times[3] >= 0.04


@on_asyncio
async def test_cooldown():
    """Two changes are never closer; an episode that is over by then changes nothing."""
    async with governed(down_after=0, up_after=0, cooldown=0.15) as (ws, venue, governor):
        venue.flood()
        await venue.got("full", "top")
        await ws.recv_batch()
        await venue.got("full", "top", "full")
        assert venue.times[2] - venue.times[1] >= 0.14
        venue.flood()
        await until(lambda: ws._slow)
        await ws.recv_batch()
        await until(lambda: not ws._slow)
        await asyncio.sleep(0.2)
        assert (governor.level, len(venue.sent)) == (0, 3)


@on_asyncio
async def test_the_venue_limits_messages():
    """In no second more than it allows, whoever sends."""
    levels = [["a", "b", "c"], ["d", "e", "f"]]
    async with against_peer(**SLOW) as (ws, peer):
        venue = Venue(peer)
        for number in range(3):
            await ws.send(str(number))
        async with SubscriptionGovernor(ws, levels, cooldown=0, max_messages_per_s=4):
            venue.flood()
            await venue.got("0", "1", "2", "a", "b", "c", "d", "e", "f")
        times = venue.times
        assert all(times[i + 4] - times[i] >= 0.98 for i in range(len(times) - 4))
        assert times[-1] - times[0] < 3.5


@on_asyncio
async def test_not_subscribed_by_the_governor():
    async with governed(subscribe=False, cooldown=0) as (ws, venue, _):
        await asyncio.sleep(0.05)
        assert venue.sent == []
        venue.flood()
        await venue.got("top")
        await ws.recv_batch()


@on_asyncio
async def test_several_episodes_at_a_time():
    """Two thresholds of one stall are one reason to go down; it is calm when both are over."""
    thresholds = [Threshold(messages=10), Threshold(messages=15, low=0.1)]
    async with against_peer(thresholds=thresholds) as (ws, peer):
        venue = Venue(peer)
        async with SubscriptionGovernor(ws, LEVELS, up_after=0, cooldown=0) as governor:
            venue.flood()
            await venue.got("full", "top")
            await ws.recv_batch(17)
            await asyncio.sleep(0.15)
            assert (ws._slow, governor.level) == (1, 1)
            await ws.recv_batch(2)
            await venue.got("full", "top", "full")


@over_loops
async def test_a_task(side):
    """It ends with the connection."""
    async with against_peer(side, **SLOW) as (ws, peer):
        venue = Venue(peer)
        running = asyncio.create_task(SubscriptionGovernor(ws, LEVELS).run())
        await venue.got("full")
        peer.vanish()
        await asyncio.wait_for(running, 5)
        await asyncio.wait_for(SubscriptionGovernor(ws, LEVELS).run(), 5)


@on_asyncio
async def test_nothing_is_left():
    async with governed() as (_, venue, _):
        await venue.got("full")
        before = len(asyncio.all_tasks())
    assert before - len(asyncio.all_tasks()) >= 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"levels": ["one"]}, "there are 1 levels"),
        ({"down_after": -1}, "down_after is -1"),
        ({"up_after": -1}, "up_after is -1"),
        ({"cooldown": -1}, "cooldown is -1"),
        ({"max_messages_per_s": 0}, "max_messages_per_s is 0"),
    ],
)
def test_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        SubscriptionGovernor(object(), **{"levels": LEVELS, **arguments})


@on_asyncio
async def test_ends_quietly_when_it_cannot_send():
    """The connection ends while a level is being sent."""
    async with governed() as (ws, venue, governor):
        await venue.got("full")
        ws.transport.abort()
        await ws.wait_closed()
        await asyncio.wait_for(asyncio.shield(governor._task), 5)
    assert fastws.SubscriptionGovernor is SubscriptionGovernor
