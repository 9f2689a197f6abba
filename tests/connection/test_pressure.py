"""Early warning: episodes, who looks at them and when, and peers that die while nobody reads."""

from __future__ import annotations

import asyncio
import gc
import sys
import time
import weakref

import pytest
from core.streams import TEXT

import fastws
from fastws import Closed, DropOldest, MessagesLost, PeerGone, SlowConsumer, Threshold
from fastws.observe.pressure import TICK_S, Episode, Monitor, PauseClock

from .net import against_peer, on_asyncio, over_loops, pair, until

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells it on Linux")


# Thresholds


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "needs a mark"),
        ({"messages": 0}, "messages is 0"),
        ({"bytes": -1}, "bytes is -1"),
        ({"age": 0.0}, "age is 0.0"),
        ({"age": 1, "low": 2}, "low is 2"),
        ({"age": 1, "low": {"age": 2}}, "low mark of age is 2"),
        ({"age": 1, "low": {"messages": 2}}, "have no high mark"),
        ({"age": 1, "min_duration": -1}, "min_duration is -1"),
    ],
)
def test_thresholds_that_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        Threshold(**arguments)


def run(threshold, course):
    """(phase, what, value, mark) by the time at which it comes; ``course`` has (time, figures, was_full)."""
    episode = Episode(threshold)
    crossings = {}
    for now, figures, was_full in course:
        crossing = episode.update(now, {"messages": 0, "bytes": 0, "age": 0.0, **figures}, was_full)
        if crossing is not None:
            crossings[now] = crossing
    return crossings


def test_one_episode():
    """However often the high mark is passed: it ends at the low mark."""
    levels = [0, 9, 10, 12, 6, 11, 6, 10, 5, 9, 4, 10]
    course = [(float(now), {"messages": level}, False) for now, level in enumerate(levels)]
    crossings = run(Threshold(messages=10), course)
    assert [(now, c.phase, c.value, c.threshold, c.lasted_s) for now, c in crossings.items()] == [
        (2.0, "started", 10, 10, 0.0),
        (8.0, "cleared", 5, 5.0, 6.0),
        (11.0, "started", 10, 10, 0.0),
    ]


def test_all_figures_must_be_low():
    course = [
        (0.0, {"messages": 5, "age": 2.0}, False),
        (1.0, {"messages": 5, "age": 0.0}, False),
        (2.0, {"messages": 10, "age": 0.0}, False),
        (3.0, {"messages": 3, "age": 0.0}, False),
        (4.0, {"messages": 2, "age": 0.0}, False),
    ]
    crossings = run(Threshold(messages=10, age=1.0, low={"messages": 2}), course)
    assert [(now, c.phase, c.what) for now, c in crossings.items()] == [
        (0.0, "started", "age"),
        (4.0, "cleared", "age"),
    ]


def test_min_duration():
    """A peak isn't an episode."""
    levels = [10, 10, 0, 10, 10, 10, 10]
    course = [(float(now), {"bytes": level}, False) for now, level in enumerate(levels)]
    assert list(run(Threshold(bytes=10, min_duration=2.0), course)) == [5.0]


def test_a_full_queue_that_is_emptied_between_looks():
    """Where reading was paused, the queue was full, whatever it is when somebody looks."""
    levels = [10, 0, 10, 0, 0]
    course = [(float(now), {"messages": level}, now < 4) for now, level in enumerate(levels)]
    crossings = run(Threshold(messages=10, min_duration=2.0), course)
    assert [(now, c.phase) for now, c in crossings.items()] == [(2.0, "started"), (4.0, "cleared")]
    # The age of messages is what it is.
    course = [(float(now), {"age": age}, True) for now, age in enumerate([1.0, 0.0])]
    assert list(run(Threshold(age=1.0), course)) == [0.0, 1.0]


def test_pause_clock():
    clock = PauseClock()
    clock.stop()
    assert (clock.running, clock.count, clock.read_s()) == (False, 0, (0.0, 0.0))
    clock.start()
    clock.start()
    time.sleep(0.002)
    assert clock.running
    total, longest = clock.read_s()
    assert total == longest >= 0.002
    clock.stop()
    total, longest = clock.read_s()
    time.sleep(0.002)
    assert clock.read_s() == (total, longest)
    clock.start()
    clock.stop()
    assert clock.count == 2
    total, longest = clock.read_s()
    assert longest < total


# Episodes of connections


@over_loops
async def test_an_episode(side, link):
    events = []
    options = {"thresholds": Threshold(messages=50, low=0.2), "on_event": lambda ws, event: events.append(event)}
    async with against_peer(side, link, **options) as (ws, peer):
        peer.write(peer.frame(TEXT, b"x") * 60)
        await until(lambda: events)
        await asyncio.sleep(3 * TICK_S)
        (started,) = events
        assert (started.phase, started.what, started.value, started.threshold) == ("started", "messages", 60, 50)
        assert started.stats.queued_messages == 60
        await ws.recv_batch(40)
        await asyncio.sleep(3 * TICK_S)
        assert len(events) == 1
        await ws.recv_batch(10)
        await until(lambda: len(events) == 2)
        cleared = events[1]
        assert (cleared.phase, cleared.what, cleared.value, cleared.threshold) == ("cleared", "messages", 10, 10)
        assert 3 * TICK_S <= cleared.lasted_s < 5
        peer.write(peer.frame(TEXT, b"x") * 60)
        await until(lambda: len(events) == 3)
        assert events[2].phase == "started"


@over_loops
async def test_bytes_count_as_in_the_limit(side):
    """Payload and what it costs to keep it."""
    async with against_peer(side, thresholds=[Threshold(bytes=1000)]) as (ws, peer):
        events = ws.events()
        peer.write(peer.frame(TEXT, b"") * 40)
        event = await asyncio.wait_for(anext(events), 5)
        assert (event.what, event.value) == ("bytes", 40 * 32)


@over_loops
async def test_age_of_a_single_message(side, caplog):
    """It came alone, and nothing came after it. One warning says what is slow and what to do."""
    async with against_peer(side, thresholds=Threshold(age=0.1)) as (ws, peer):
        events = ws.events()
        await peer.send(TEXT, b"x" * 10)
        started = time.monotonic()
        event = await asyncio.wait_for(anext(events), 5)
        assert event.phase == "started"
        assert 0.1 <= event.value < time.monotonic() - started + 0.1
        (record,) = [record for record in caplog.records if record.levelname == "WARNING"]
        assert record.getMessage().startswith("slow consumer: 1 messages (10 bytes) wait, the oldest for 0.1 s; ")
        assert "overflow=" in record.getMessage()
        await ws.recv()
        assert (await asyncio.wait_for(anext(events), 5)).phase == "cleared"


@over_loops
async def test_messages_that_came_together(side):
    """The consumer took the first of them and is stuck; nothing comes after them."""
    async with against_peer(side, thresholds=Threshold(age=0.1)) as (ws, peer):
        events = ws.events()
        receiving = asyncio.ensure_future(ws.recv())
        await asyncio.sleep(0)
        peer.write(peer.frame(TEXT, b"x") * 2)
        await receiving
        assert (await asyncio.wait_for(anext(events), 5)).what == "age"


@over_loops
async def test_iteration_that_is_stuck(side):
    async with against_peer(side, thresholds=Threshold(age=0.1)) as (ws, peer):
        events = ws.events()

        async def consume():
            async for _ in ws:
                await asyncio.sleep(5)

        consuming = asyncio.create_task(consume())
        await asyncio.sleep(0.01)
        peer.write(peer.frame(TEXT, b"x") * 2)
        assert (await asyncio.wait_for(anext(events), 3)).what == "age"
        consuming.cancel()


@on_asyncio
async def test_defaults(side, caplog):
    """One second of age; a queue that is 80 % full for a second."""
    async with against_peer(side, max_queue=10, max_queue_bytes=1000) as (ws, peer):
        assert ws._options.all_thresholds(10) == (
            Threshold(age=1.0),
            Threshold(messages=8, bytes=800, min_duration=1.0),
        )
        events = ws.events()
        peer.write(peer.frame(TEXT, b"x") * 20)
        first, second = [await asyncio.wait_for(anext(events), 5) for _ in range(2)]
        assert {first.what, second.what} == {"age", "messages"}
        assert caplog.text.count("slow consumer: ") == 1
        assert "reading is paused, so the peer may cut the connection" in caplog.text
    async with against_peer(side, max_queue=None, max_queue_bytes=None) as (ws, _):
        assert ws._options.all_thresholds(None) == (Threshold(age=1.0),)


@on_asyncio
async def test_defaults_know_of_a_limit_of_age(side):
    """What waits never gets old, as it expires: that is told, too."""
    async with against_peer(side, max_queue_bytes=None, overflow=DropOldest(), max_queue_age=0.1, thresholds=None) as (
        ws,
        peer,
    ):
        assert ws._options.all_thresholds(None)[1] == Threshold(age=0.1 * 0.8, min_duration=1.0)
        events = ws.events()

        async def feed():
            while True:
                peer.write(peer.frame(TEXT, b"x") * 5)
                await asyncio.sleep(0.01)

        feeding = asyncio.ensure_future(feed())
        async with asyncio.timeout(5):
            while isinstance(event := await anext(events), MessagesLost):
                assert event.lost.expired
        assert (event.phase, event.what) == ("started", "age")
        assert event.stats.lost.expired > 0
        assert event.stats.oldest_s < 0.5
        feeding.cancel()


@on_asyncio
async def test_never(side):
    async with against_peer(side, thresholds=()) as (ws, peer):
        await peer.send(TEXT, b"x")
        await until(lambda: ws._watched)
        assert ws._episodes == []


@over_loops
async def test_who_blocks_the_loop_is_named(side, caplog):
    async with against_peer(side, thresholds=Threshold(age=0.05)) as (ws, peer):
        await peer.send(TEXT, b"x")
        await until(lambda: ws.stats.queued_messages)
        time.sleep(0.2)  # noqa: ASYNC251
        await until(lambda: "slow consumer" in caplog.text)
        assert "the event loop was late by 0.1 s" in caplog.text or "by 0.2 s" in caplog.text


# Who looks


def watched(loop):
    return Monitor.of(loop)._watched


@over_loops
async def test_nobody_looks_at_a_fast_program(side):
    """A consumer that waits when a message comes costs no timer, nor does a connection without messages."""
    async with against_peer(side) as (ws, peer):
        monitor = Monitor.of(ws.loop)
        watches = []
        ws._watch = lambda: watches.append(ws.stats.queued_messages)
        for _ in range(20):
            receiving = asyncio.ensure_future(ws.recv())
            await asyncio.sleep(0)
            await peer.send(TEXT, b"x")
            await receiving
        await asyncio.sleep(2 * TICK_S)
        assert (watches, monitor._timer) == ([], None)


@over_loops
async def test_the_look_ends_when_the_queue_is_empty(side):
    async with against_peer(side) as (ws, peer):
        monitor = Monitor.of(ws.loop)
        await peer.send(TEXT, b"x")
        await until(lambda: monitor._timer is not None)
        await asyncio.sleep(3 * TICK_S)
        assert ws in monitor._watched
        await ws.recv()
        await until(lambda: monitor._timer is None)
        assert ws not in monitor._watched
        await peer.send(TEXT, b"x")
        await until(lambda: ws in monitor._watched)
        await peer.close()
        await ws.wait_closed()
        assert ws not in monitor._watched


@on_asyncio
async def test_one_monitor_for_all():
    async with pair() as (client, server):
        assert client._monitor is server._monitor is Monitor.of(client.loop)
        await client.send("x")
        await server.send("x")
        await until(lambda: watched(client.loop) == {client, server})
        timer = client._monitor._timer
        await client.send("y")
        assert client._monitor._timer in (timer, client._monitor._timer)


@over_loops
async def test_a_look_that_fails_is_reported():
    """And the others are still looked at."""
    loop = asyncio.get_running_loop()
    reported, looks = [], []
    before = loop.get_exception_handler()
    loop.set_exception_handler(lambda loop, context: reported.append(context))

    class Broken:
        def __init__(self):
            self.loop = loop

        def _look(self, now):
            raise RuntimeError("on purpose")

    class Whole(Broken):
        def _look(self, now):
            looks.append(now)
            return len(looks) < 3

    monitor = Monitor.of(loop)
    monitor.watch(Broken())
    monitor.watch(Whole())
    await until(lambda: len(looks) == 3)
    loop.set_exception_handler(before)
    assert [str(context["exception"]) for context in reported] == ["on purpose"]
    assert monitor._timer is None


def test_monitors_of_closed_loops_are_forgotten():
    """Even with a timer that never came."""

    class Endless:
        def _look(self, now):
            return True

    async def watch():
        one = Endless()
        one.loop = asyncio.get_running_loop()
        Monitor.of(one.loop).watch(one)
        return weakref.ref(one.loop)

    loops = [asyncio.run(watch()) for _ in range(3)]
    gc.collect()
    assert [loop() for loop in loops] == [None] * 3


# Peers that die while nobody reads


@LINUX
@over_loops
@pytest.mark.parametrize("how", ["drop", "vanish"])
async def test_a_dead_peer_behind_a_full_queue(side, how):
    """It is told although reading is paused; what was read stays receivable."""
    async with against_peer(side, max_queue=2) as (ws, peer):
        events = ws.events()
        peer.write(peer.frame(TEXT, b"x") * 10)
        await until(lambda: ws.stats.paused)
        getattr(peer, how)()
        gone = await asyncio.wait_for(anext(events), 5)
        assert isinstance(gone, PeerGone)
        assert gone.queued_messages == 3
        assert ws.state is fastws.State.OPEN
        await asyncio.sleep(2 * TICK_S)
        assert [await ws.recv() for _ in range(10)] == ["x"] * 10
        with pytest.raises(fastws.ConnectionClosedError):
            await ws.recv()
        assert [event async for event in events] == [Closed(1006, "", 0)]


@LINUX
@over_loops
async def test_a_dead_peer_ends_it_at_once(side):
    """With ``on_close="raise"``, whoever handles a message finds out at the next."""
    async with against_peer(side, max_queue=2, on_close="raise") as (ws, peer):
        peer.write(peer.frame(TEXT, b"x") * 10)
        await until(lambda: ws.stats.paused)
        peer.drop()
        await asyncio.wait_for(ws.wait_closed(), 5)
        with pytest.raises(fastws.ConnectionClosedError):
            await ws.recv()
        assert ws.stats.lost.discarded == ws.stats.messages_in == 10


@over_loops
async def test_events_under_a_lossy_policy(side):
    """The queue stays at its limit, the peer is never held up, and one episode tells."""
    async with against_peer(side, overflow=DropOldest(), max_queue=10, thresholds=Threshold(messages=8)) as (ws, peer):
        events = ws.events()
        for _ in range(3):
            peer.write(peer.frame(TEXT, b"x") * 100)
            await asyncio.sleep(TICK_S)
        event = await asyncio.wait_for(anext(events), 5)
        assert isinstance(event, SlowConsumer)
        assert (event.value, event.stats.pauses) == (10, 0)
        assert ws.stats.messages_in == 300
