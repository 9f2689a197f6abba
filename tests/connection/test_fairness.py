"""A consumer that never really awaits doesn't starve the event loop, whichever way it receives."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from core.streams import TEXT

from .flood import flooded
from .net import against_peer, on_asyncio, over_loops, until

TURN_MESSAGES = 1024
"""Messages in a turn, where fewer are queued when it begins."""

BATCH = 10
"""A turn may end in the middle of a batch, which isn't divided."""

TURN_SECONDS = 0.005

LATE = 32
"""Messages by which a consumer that turns slow is noticed late, at most."""

DEADLINE = 15.0


# Ways to receive, each a sequence of message counts without an await of its own.


async def by_iteration(ws: Any) -> AsyncIterator[int]:
    async for _ in ws:
        yield 1


async def by_recv(ws: Any) -> AsyncIterator[int]:
    while True:
        await ws.recv()
        yield 1


async def by_recv_of_bytes(ws: Any) -> AsyncIterator[int]:
    while True:
        await ws.recv(decode=False)
        yield 1


async def by_recv_batch(ws: Any) -> AsyncIterator[int]:
    while True:
        yield len(await ws.recv_batch(BATCH))


async def by_batches(ws: Any) -> AsyncIterator[int]:
    async for batch in ws.batches(BATCH):
        yield len(batch)


async def by_streaming(ws: Any) -> AsyncIterator[int]:
    while True:
        async for _ in ws.recv_streaming():
            yield 1


async def by_turns(ws: Any) -> AsyncIterator[int]:
    """A mixture: changing the way doesn't begin a new turn."""
    iterator = aiter(ws)
    while True:
        await anext(iterator)
        yield 1
        await ws.recv()
        yield 1
        yield len(await ws.recv_batch(BATCH))


WAYS = [by_iteration, by_recv, by_recv_of_bytes, by_recv_batch, by_batches, by_streaming, by_turns]

ways = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)


class Turns:
    """Counts what happens in each cycle of the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._now = 0
        self._handle = self._loop.call_soon(self._next)
        self.counts: collections.Counter[int] = collections.Counter()

    def _next(self) -> None:
        self._now += 1
        self._handle = self._loop.call_soon(self._next)

    def count(self, number: int) -> None:
        self.counts[self._now] += number

    def end(self) -> None:
        self._handle.cancel()

    @property
    def largest(self) -> int:
        return max(self.counts.values())


async def consume(ws: Any, way: Callable[[Any], AsyncIterator[int]], total: int, slow: float = 0.0) -> Turns:
    """Receive ``total`` messages, working ``slow`` seconds on each without the loop."""
    turns = Turns()
    received = 0
    async with contextlib.aclosing(way(ws)) as counts:
        async for number in counts:
            received += number
            turns.count(number)
            if slow:
                time.sleep(slow * number)  # noqa: ASYNC251  It is a consumer that blocks.
            if received >= total:
                break
    turns.end()
    return turns


def messages(peer: Any, count: int) -> bytes:
    return peer.frame(TEXT, b"message") * count


@over_loops
@ways
async def test_messages_in_a_turn(way, side, link):
    """One read brings thousands of messages, of which few are queued at a time."""
    total = 8000
    async with against_peer(side, link, max_queue=(100, 50)) as (ws, peer):
        peer.write(messages(peer, total))
        turns = await consume(ws, way, total)
        assert turns.largest <= TURN_MESSAGES + BATCH
        assert len(turns.counts) >= total // (TURN_MESSAGES + BATCH)


@over_loops
@ways
async def test_backlog_in_one_turn_only(way):
    """All that was queued when a turn began may go in it, but not what comes afterwards."""
    queued = 3000
    async with against_peer() as (ws, peer):
        peer.write(messages(peer, queued))
        await peer.through()
        assert ws._decoder.queued_messages == queued
        turns = await consume(ws, way, queued)
        assert turns.largest <= queued
        assert ws._decoder.queued_messages == 0


@over_loops
@ways
async def test_milliseconds_in_a_turn(way):
    """A consumer that works half a millisecond on each message has ten of them in a turn, and few more."""
    total, slow = 150, 0.0005
    async with against_peer() as (ws, peer):
        peer.write(messages(peer, total))
        await peer.through()
        turns = await consume(ws, way, total, slow)
        assert turns.largest <= TURN_SECONDS / slow + LATE + 2 * BATCH
        assert len(turns.counts) >= 3


@over_loops
async def test_consumer_that_turns_slow():
    """While messages are handled quickly the clock is read rarely, but not too rarely."""
    async with against_peer() as (ws, peer):
        peer.write(messages(peer, 700))
        await peer.through()
        turns = Turns()
        received = 0
        async for _ in ws:
            received += 1
            if received > 500:
                time.sleep(0.002)  # noqa: ASYNC251
                turns.count(1)
            if received == 600:
                break
        turns.end()
        assert turns.largest <= TURN_SECONDS / 0.002 + LATE


async def until_flagged(ws: Any, way: Callable[[Any], AsyncIterator[int]], flag: Callable[[], bool]) -> int:
    """Receive without end until somebody else, who needs the loop, raises a flag; the deadline is for failures."""
    received = 0
    deadline = time.monotonic() + DEADLINE
    async with contextlib.aclosing(way(ws)) as counts:
        async for number in counts:
            received += number
            if flag():
                return received
            assert time.monotonic() < deadline, "the loop starves"
    raise AssertionError("the flood has ended")


@over_loops
@ways
async def test_timers_and_tasks_run_under_a_flood(way, side):
    async with flooded(side) as (ws, _):
        fired = []
        asyncio.get_running_loop().call_later(0.01, fired.append, "timer")

        async def other():
            for _ in range(10):
                await asyncio.sleep(0.001)
            await asyncio.to_thread(time.sleep, 0.001)

        task = asyncio.create_task(other())
        assert await until_flagged(ws, way, lambda: bool(fired) and task.done()) > 0
        await task


@over_loops
@ways
async def test_pings_get_pongs_under_a_flood(way, side):
    """Both ways: the peer's pings, and ours."""
    async with flooded(side, pings_every=200) as (ws, flood):

        async def ping():
            for _ in range(3):
                assert await (await ws.ping()) >= 0

        task = asyncio.create_task(ping())
        assert await until_flagged(ws, way, lambda: flood.pongs >= 20 and task.done()) > 0
        await task
        assert flood.pongs <= flood.pings


@over_loops
async def test_flood_behind_a_full_queue(side):
    """Limits reached and left again and again, by a consumer without awaits."""
    async with flooded(side, options={"max_queue": (20, 5)}) as (ws, flood):
        fired = []
        asyncio.get_running_loop().call_later(0.02, fired.append, "timer")
        turns = Turns()
        async for _ in ws:
            turns.count(1)
            if fired and flood.pongs >= 5:
                break
        turns.end()
        assert turns.largest <= TURN_MESSAGES


@over_loops
async def test_two_connections_share_the_loop():
    """Consumers that block take turns: none has twice a turn while the other has messages."""
    total, slow = 60, 0.001
    async with against_peer() as (one, one_peer), against_peer("server") as (two, two_peer):
        for peer in (one_peer, two_peer):
            peer.write(messages(peer, total))
            await peer.through()
        order: list[int] = []

        async def receive(number: int, ws: Any) -> None:
            async for _ in ws:
                order.append(number)
                time.sleep(slow)  # noqa: ASYNC251
                if order.count(number) == total:
                    break

        await asyncio.gather(receive(1, one), receive(2, two))
        assert (order.count(1), order.count(2)) == (total, total)
        # Until one of them has all of its messages.
        ends = min(len(order) - 1 - order[::-1].index(number) for number in (1, 2))
        runs = [len(list(group)) for _, group in itertools.groupby(order[: ends + 1])]
        assert max(runs) <= 2 * (TURN_SECONDS / slow) + 3


@over_loops
async def test_two_floods():
    """Neither is left out."""
    async with flooded("client") as (one, _), flooded("server") as (two, _):
        received = collections.Counter()

        async def receive(name: str, ws: Any) -> None:
            def enough() -> bool:
                return min(received["one"], received["two"]) >= 5000

            deadline = time.monotonic() + DEADLINE
            async for _ in ws:
                received[name] += 1
                if enough():
                    break
                assert time.monotonic() < deadline, received

        await asyncio.gather(receive("one", one), receive("two", two))
        assert min(received.values()) >= 5000


@pytest.mark.loop_receives
@over_loops
async def test_bytes_read_in_a_turn(side):
    """Reading alone doesn't starve the loop either: uvloop reads a socket up to 32 times in a cycle."""
    async with flooded(side, size=1000, options={"max_queue_bytes": 2**23}) as (ws, _):
        before = largest = 0
        while not ws._decoder.blocked:
            await asyncio.sleep(0)
            now = ws._decoder.bytes_received
            largest = max(largest, now - before)
            before = now
        assert largest <= 2 * 256 * 1024


@over_loops
async def test_echo_that_never_waits(side):
    """Sending doesn't wait as long as the peer reads: messages alone give the loop its turn."""
    async with against_peer(side) as (ws, peer):
        peer.write(messages(peer, 5000))
        fired = []

        async def echo() -> None:
            async for message in ws:
                await ws.send(message)

        task = asyncio.create_task(echo())
        asyncio.get_running_loop().call_soon(fired.append, "soon")
        for _ in range(5000):
            assert await peer.read() == (TEXT, True, b"message")
        assert fired
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@on_asyncio
async def test_a_turn_begins_anew_when_it_has_waited():
    """Whoever waited for the network isn't asked to step aside at once."""
    async with against_peer() as (ws, peer):
        for _ in range(3):
            waiting = asyncio.create_task(ws.recv())
            await asyncio.sleep(0)
            time.sleep(2 * TURN_SECONDS)  # noqa: ASYNC251
            peer.write(messages(peer, 101))
            await waiting
            await until(lambda: ws._decoder.queued_messages == 100)
            turns = await consume(ws, by_recv, 100)
            assert len(turns.counts) <= 2
