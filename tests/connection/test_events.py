"""Events: what they say, when they come, and that listening hurts nobody."""

from __future__ import annotations

import asyncio
import gc
import json
import weakref

import pytest
from core.streams import TEXT

import fastws
from fastws import Closed, DropOldest, EventsLost, Gap, Inspect, MessagesLost, PeerGone, Resync, ResyncNeeded
from fastws.wire import NOTICES_MAX

from .net import against_peer, on_asyncio, over_loops, pair, until


def depth(symbol, number):
    return json.dumps({"s": symbol, "u": number}).encode()


async def collected(events):
    return [event async for event in events]


@over_loops
async def test_gaps(side, link):
    """To the callback and to the iterators alike."""
    called = []
    options = {"inspect": Inspect("/u", key="/s"), "on_event": lambda ws, event: called.append((ws, event))}
    async with against_peer(side, link, **options) as (ws, peer):
        listening = [asyncio.ensure_future(collected(ws.events())) for _ in range(2)]
        await asyncio.sleep(0)
        for symbol, number in (("A", 1), ("B", 7), ("A", 2), ("A", 5), ("B", 8), ("A", 6), ("B", 1)):
            await peer.send(TEXT, depth(symbol, number))
        await peer.through()
        assert called == [(ws, Gap("A", 3, 5)), (ws, Gap("B", 9, 1))]
        assert ws.stats.gaps == 2
        await peer.close(1001, "away")
        expected = [Gap("A", 3, 5), Gap("B", 9, 1), Closed(1001, "away", 7)]
        assert await asyncio.gather(*listening) == [expected, expected]
        assert [event for _, event in called] == expected


@over_loops
async def test_ahead_of_messages(side):
    """An event is there as soon as the bytes were read, when many messages wait before it."""
    async with against_peer(side, inspect=Inspect("/u")) as (ws, peer):
        order = []

        async def listen():
            async for event in ws.events():
                order.append(event)  # noqa: PERF401  As they come.

        async def consume():
            async for message in ws:
                order.append(message)
                await asyncio.sleep(0.002)

        tasks = [asyncio.create_task(listen()), asyncio.create_task(consume())]
        await asyncio.sleep(0.01)
        peer.write(b"".join(peer.frame(TEXT, depth("A", n)) for n in (*range(30), 31)))
        await until(lambda: Gap(None, 30, 31) in order)
        assert order.index(Gap(None, 30, 31)) < 15
        for task in tasks:
            task.cancel()


@over_loops
async def test_within_the_read(side):
    """The callback runs before whoever waits for the message gets it."""
    order = []
    options = {"inspect": Inspect("/u"), "on_event": lambda ws, event: order.append(event)}
    async with against_peer(side, **options) as (ws, peer):
        await peer.send(TEXT, depth("A", 1))
        await ws.recv()
        waiting = asyncio.ensure_future(ws.recv())
        waiting.add_done_callback(lambda task: order.append("message"))
        await asyncio.sleep(0)
        await peer.send(TEXT, depth("A", 3))
        await waiting
        await asyncio.sleep(0)
        assert order == [Gap(None, 2, 3), "message"]


@over_loops
async def test_a_callback_that_raises(side, caplog):
    """It is logged; the connection and the other listeners go on."""
    calls = []

    def on_event(ws, event):
        calls.append(event)
        raise RuntimeError("on purpose")

    async with against_peer(side, inspect=Inspect("/u"), on_event=on_event) as (ws, peer):
        events = ws.events()
        for number in (1, 3, 5):
            await peer.send(TEXT, depth("A", number))
        assert len([await ws.recv() for _ in range(3)]) == 3
        assert len(calls) == 2
        assert await anext(events) == Gap(None, 2, 3)
        assert caplog.text.count("on_event failed for Gap") == 2
        assert "RuntimeError: on purpose" in caplog.text
        assert ws.state is fastws.State.OPEN


@over_loops
async def test_a_callback_that_acts(side):
    """It may call what it likes: here the resynchronisation that is asked for, at once."""

    def on_event(ws, event):
        if isinstance(event, ResyncNeeded):
            ws.resynced(event.key)

    options = {"overflow": Resync("/s"), "max_queue": 1, "on_event": on_event}
    async with against_peer(side, **options) as (ws, peer):
        for number in range(3):
            await peer.send(TEXT, depth("A", number))
            await peer.through()
        stats = ws.stats
        assert (stats.lost.resync, stats.queued_messages) == (2, 1)


@on_asyncio
async def test_bounded():
    """Who listens and doesn't take gets the newest, and is told."""
    async with against_peer(inspect=Inspect("/u")) as (ws, peer):
        events, few = ws.events(), ws.events(3)
        for number in range(0, 20, 2):
            await peer.send(TEXT, depth("A", number))
        await peer.through()
        assert [await anext(few) for _ in range(4)] == [
            EventsLost(6),
            Gap(None, 13, 14),
            Gap(None, 15, 16),
            Gap(None, 17, 18),
        ]
        assert [await anext(events) for _ in range(9)] == [Gap(None, n + 1, n + 2) for n in range(0, 18, 2)]
        with pytest.raises(ValueError, match="max_events is 0"):
            ws.events(0)


@over_loops
async def test_together_with_the_handshake(side, link):
    """What was read before anybody could listen isn't missed by who listens first, nor by who does soon after."""

    def early(peer):
        return peer.frame(TEXT, depth("A", 1)) + peer.frame(TEXT, depth("A", 3))

    async with against_peer(side, link, early=early, inspect=Inspect("/u")) as (ws, peer):
        await peer.through()
        first, second = ws.events(), ws.events()
        assert await anext(first) == await anext(second) == Gap(None, 2, 3)
        await peer.send(TEXT, depth("A", 5))
        assert await anext(first) == await anext(second) == Gap(None, 4, 5)
        # From here on, iterators begin where they are made.
        later = ws.events()
        await peer.send(TEXT, depth("A", 7))
        assert await anext(later) == Gap(None, 6, 7)


@on_asyncio
async def test_before_anybody_listens_is_bounded():
    async with against_peer(inspect=Inspect("/u")) as (ws, peer):
        for number in range(0, 200, 2):
            peer.write(peer.frame(TEXT, depth("A", number)))
        await peer.through()
        events, few = ws.events(), ws.events(2)
        assert await anext(events) == EventsLost(99 - 64)
        assert [await anext(events) for _ in range(64)] == [Gap(None, n - 1, n) for n in range(200 - 128, 200, 2)]
        assert [await anext(few) for _ in range(3)] == [EventsLost(97), Gap(None, 195, 196), Gap(None, 197, 198)]


@on_asyncio
async def test_listening_after_the_end():
    """If nobody did before, it says what has happened."""
    async with against_peer() as (ws, peer):
        await ws_closed_by(ws, peer, 1000, "bye")
        for _ in range(2):
            assert await collected(ws.events()) == [Closed(1000, "bye", 0)]


@on_asyncio
async def test_nobody_listens_any_more():
    """An iterator that was thrown away isn't kept, and a task that was cancelled leaves nothing."""
    async with against_peer(inspect=Inspect("/u")) as (ws, peer):
        kept, thrown = ws.events(), weakref.ref(ws.events())
        gc.collect()
        assert thrown() is None
        task = asyncio.ensure_future(anext(kept))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.sleep(0)
        for number in (1, 3):
            await peer.send(TEXT, depth("A", number))
        assert await anext(kept) == Gap(None, 2, 3)


@over_loops
async def test_the_end(side, link):
    async with against_peer(side, link) as (ws, peer):
        events = ws.events()
        await peer.send(TEXT, b"waits")
        await peer.through()
        await ws_closed_by(ws, peer, 1000, "bye")
        assert await collected(events) == [Closed(1000, "bye", 1)]
        assert await collected(ws.events()) == []
        assert await collected(events) == []


async def ws_closed_by(ws, peer, code, reason):
    await peer.close(code, reason)
    await ws.wait_closed()


@over_loops
@pytest.mark.parametrize("how", ["drop", "vanish"])
async def test_the_peer_is_gone(side, how):
    """It is told before the connection is closed, with what waits."""
    async with against_peer(side) as (ws, peer):
        events = ws.events()
        await peer.send(TEXT, b"waits")
        await peer.through()
        getattr(peer, how)()
        gone, closed = await collected(events)
        assert isinstance(gone, PeerGone)
        assert gone.queued_messages == 1
        assert 0 < gone.oldest_s < 5
        assert closed == Closed(1006, "", 1)


@over_loops
async def test_our_own_closure():
    async with pair() as (client, server):
        events = client.events(), server.events()
        await client.close(1001, "enough")
        await server.wait_closed()
        assert [await collected(one) for one in events] == [[Closed(1001, "enough", 0)]] * 2


@on_asyncio
async def test_a_handshake_that_fails():
    """There never was a connection: no event."""
    events = []

    async def handler(ws):
        pass

    def refuse(ws, request):
        return ws.respond(403, "no")

    async with fastws.serve(
        handler, "127.0.0.1", 0, process_request=refuse, on_event=lambda ws, event: events.append(event)
    ) as server:
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(fastws.InvalidStatus):
            await fastws.connect(f"ws://127.0.0.1:{port}/", on_event=lambda ws, event: events.append(event))
    assert events == []


@over_loops
async def test_resync_needed(side):
    async with against_peer(side, overflow=Resync("/s"), max_queue=2) as (ws, peer):
        events = ws.events()
        for symbol in ("A", "B", "C"):
            await peer.send(TEXT, depth(symbol, 1))
        assert await asyncio.wait_for(anext(events), 5) == ResyncNeeded("A")
        assert [json.loads(await ws.recv())["s"] for _ in range(2)] == ["B", "C"]
        assert ws.given_up == {"A"}
        ws.resynced("A")
        assert ws.given_up == frozenset()


@over_loops
async def test_more_resyncs_than_are_kept(side):
    """However many keys are lost at once: each is told of once, and not again before it was resynchronised."""
    told = []
    count = NOTICES_MAX + 1000

    def on_event(ws, event):
        if isinstance(event, ResyncNeeded):
            told.append(event.key)

    async with against_peer(side, overflow=Resync("/s"), max_queue=1, on_event=on_event) as (ws, peer):
        decoder = ws._decoder
        frames = [peer.frame(TEXT, depth(f"K{number}", 1)) for number in range(count)]
        decoder.feed(b"".join(frames))  # In one read.
        ws._notices(decoder)
        assert len(told) == len(set(told)) == count - 1
        assert set(told) == ws.given_up
        decoder.feed(b"".join(frames))
        ws._notices(decoder)
        assert len(told) == count
        ws.resynced("K5")
        decoder.feed(frames[5] * 2)
        ws._notices(decoder)
        assert told[count:] == ["K5"]


@over_loops
async def test_losses(side):
    """Told while they go on, at most once a second, and the rest at the end; the events add up."""
    events = []
    options = {"overflow": DropOldest(), "max_queue": 10, "on_event": lambda ws, event: events.append(event)}
    async with against_peer(side, **options) as (_, peer):
        peer.write(peer.frame(TEXT, b"x") * 50)
        await peer.through()
        await until(lambda: events)
        assert events == [MessagesLost(fastws.Lost(dropped_oldest=40))]
        peer.write(peer.frame(TEXT, b"x") * 5)
        await peer.through()
        await asyncio.sleep(0.2)
        assert len(events) == 1
        await peer.close()
    told = [event.lost.total for event in events if isinstance(event, MessagesLost)]
    assert told == [40, 5]
    assert isinstance(events[-1], Closed)
