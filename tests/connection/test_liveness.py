"""Keepalive that blames nobody for what we do, heartbeats of messages, feeds that are mute."""

from __future__ import annotations

import asyncio
import json
import logging
import time

import pytest
from core.streams import CLOSE, PING, PONG, TEXT

import fastws
from fastws import ConnectionClosedError, Heartbeat, Stale, Staleness
from fastws.observe.pressure import PauseClock
from fastws.vitals import Silence

from .net import against_peer, on_asyncio, over_loops, until

KEEPALIVE = {"ping_interval": 0.05, "ping_timeout": 0.1, "close_timeout": 0.1}
# Seconds: timers of uvloop count in milliseconds, and a machine with other work is late. What isn't done never ends.
TICK, SLACK = 0.002, 1.0


# Silence, by a clock of its own


class Clock:
    """Stands in for ``time``."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr("fastws.vitals.time", self)
        monkeypatch.setattr("fastws.observe.pressure.time", self)

    def monotonic(self):
        return self.now

    def monotonic_ns(self):
        return int(self.now * 1e9)


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def look_until(silence, clock, end, *, at_each=lambda: None):
    """The moment at which a silence is too long; None if it isn't until ``end`` seconds."""
    started = clock.now
    while clock.now - started < end:
        clock.now += silence.next_look_s
        at_each()
        if silence.look():
            return clock.now - started
    return None


def test_silence(clock):
    silence = Silence(20.0, lambda: 0, PauseClock())
    assert look_until(silence, clock, 100) == pytest.approx(20.0)


def test_silence_begins_again(clock):
    """With whatever comes; strictly, from the last moment at which it can have begun to be silent."""
    for strict, expected in ((False, 31.0), (True, 30.0)):
        came = [0]
        silence = Silence(20.0, lambda came=came: came[0], PauseClock(), strict=strict)
        started = clock.now

        def come(came=came, started=started):
            if 10.0 < clock.now - started < 11.5:
                came[0] = 1

        assert look_until(silence, clock, 100, at_each=come) == pytest.approx(expected, abs=0.01)


def test_silence_while_reading_is_paused(clock):
    pauses = PauseClock()
    silence = Silence(20.0, lambda: 0, pauses)
    assert look_until(silence, clock, 10) is None
    pauses.start()
    assert look_until(silence, clock, 1000) is None
    assert silence.blind_ns == clock.monotonic_ns()
    pauses.stop()
    assert look_until(silence, clock, 100) == pytest.approx(10.0, abs=1.1)


def test_silence_while_the_loop_is_blocked(clock):
    """What came meanwhile may wait in the kernel: the next look tells."""
    silence = Silence(20.0, lambda: 0, PauseClock())
    assert look_until(silence, clock, 18) is None
    clock.now += 60
    assert not silence.look()
    assert silence.blind_ns == clock.monotonic_ns()
    assert look_until(silence, clock, 100) is not None


# Keepalive


@over_loops
async def test_a_dead_peer_is_found_in_time(side, link):
    """Within ``ping_interval + ping_timeout``."""
    async with against_peer(side, link, **KEEPALIVE) as (ws, peer):
        started = time.monotonic()
        assert (await peer.read())[0] == PING
        assert await peer.expect_close() == (1011, "keepalive ping timeout")
        assert 0.1 - TICK <= time.monotonic() - started < 0.15 + SLACK
        await ws.wait_closed()


@over_loops
async def test_a_dead_peer_that_takes_nothing_is_found_in_time(side):
    """The ping can't even be written, as the peer has stopped reading: keepalive of ``websockets`` waits for ever."""
    async with against_peer(side, **KEEPALIVE) as (ws, peer):
        peer.reader._transport.pause_reading()
        sending = asyncio.ensure_future(ws.send(b"x" * 20_000_000))
        await until(lambda: ws.paused)
        started = time.monotonic()
        await asyncio.wait_for(ws.wait_closed(), 5)
        assert time.monotonic() - started < 0.15 + 0.1 + SLACK
        await sending
        with pytest.raises(ConnectionClosedError, match="keepalive ping timeout"):
            await ws.recv()


@over_loops
async def test_any_byte_is_a_sign_of_life(side):
    """The pong is late, as much is sent before it: half of a frame is enough."""
    async with against_peer(side, **KEEPALIVE) as (ws, peer):
        opcode, _, payload = await peer.read()
        assert opcode == PING
        data = peer.frame(TEXT, b"x" * 100) + peer.frame(PONG, payload)
        for start in range(0, len(data), 20):
            peer.write(data[start : start + 20])
            await asyncio.sleep(0.04)
        assert (await peer.read())[0] == PING
        assert ws.state is fastws.State.OPEN
        assert ws.latency > KEEPALIVE["ping_timeout"]


@over_loops
async def test_the_peer_is_not_blamed_while_we_do_not_read(side):
    """Reading is paused for several times the timeout; then a silent peer is found after all."""
    async with against_peer(side, **KEEPALIVE, max_queue=2) as (ws, peer):
        peer.write(peer.frame(TEXT, b"x") * 10)
        await until(lambda: ws.stats.paused)
        await asyncio.sleep(0.4)
        assert ws.state is fastws.State.OPEN
        for _ in range(10):
            await ws.recv()
        assert not ws.stats.paused
        started = time.monotonic()
        with pytest.raises(ConnectionClosedError, match="keepalive ping timeout"):
            await ws.recv()
        assert time.monotonic() - started < 0.15 + 0.1 + SLACK


@over_loops
async def test_the_peer_is_not_blamed_while_the_loop_is_blocked(side):
    """Its pong waits in the kernel, and timers may come before it."""
    async with against_peer(side, **KEEPALIVE) as (ws, peer):
        opcode, _, payload = await peer.read()
        assert opcode == PING
        peer.write(peer.frame(PONG, payload))
        time.sleep(0.3)  # noqa: ASYNC251
        assert (await peer.read())[0] == PING
        assert ws.state is fastws.State.OPEN


@on_asyncio
async def test_no_ping_task_is_left(side):
    async with against_peer(side, ping_interval=0.01, ping_timeout=5) as (ws, peer):
        assert (await peer.read())[0] == PING
        await asyncio.sleep(0.01)
        peer.vanish()
        await ws.wait_closed()
        await asyncio.sleep(0.01)
        assert not [task for task in asyncio.all_tasks() if "ping" in repr(task) or "keepalive" in repr(task)]


# Heartbeats


@over_loops
async def test_heartbeats(side, link):
    heartbeat = Heartbeat(0.05, "ping", timeout=5)
    started = time.monotonic()
    async with against_peer(side, link, heartbeat=heartbeat) as (ws, peer):
        for number in range(1, 4):
            assert await peer.read() == (TEXT, True, b"ping")
            assert time.monotonic() - started >= 0.05 * number - TICK
            await peer.send(TEXT, b"pong")
        assert time.monotonic() - started < 0.15 + SLACK
        assert [await ws.recv() for _ in range(3)] == ["pong"] * 3
        assert ws.state is fastws.State.OPEN


@over_loops
async def test_a_heartbeat_without_an_answer(side, caplog):
    heartbeat = Heartbeat(0.03, '{"op":"ping"}', timeout=0.05)
    async with against_peer(side, heartbeat=heartbeat, close_timeout=0.1) as (ws, peer):
        receiving = asyncio.ensure_future(ws.recv())
        assert await peer.read() == (TEXT, True, b'{"op":"ping"}')
        started = time.monotonic()
        # Pongs aren't messages.
        await peer.send(PONG)
        assert await close_behind_beats(peer) == (1011, "heartbeat timeout: no answer within 0.05 s")
        assert 0.04 <= time.monotonic() - started < 0.05 + 0.1 + SLACK
        with pytest.raises(ConnectionClosedError, match="heartbeat timeout"):
            await receiving
        assert "heartbeat timeout: no answer within 0.05 s" in caplog.text
        assert ws._vital_tasks == []


@over_loops
async def test_the_answer_that_is_expected(side):
    """Others don't count; it isn't delivered."""
    heartbeat = Heartbeat(0.03, '{"op":"ping"}', expect={"/op": "pong"}, timeout=0.08)
    async with against_peer(side, heartbeat=heartbeat, close_timeout=0.1) as (ws, peer):
        for _ in range(2):
            assert await peer.read() == (TEXT, True, b'{"op":"ping"}')
            peer.write(peer.frame(TEXT, b"data") + peer.frame(TEXT, b'{"op":"pong"}'))
        assert [await ws.recv() for _ in range(2)] == ["data"] * 2
        assert (ws.stats.answered, ws.stats.queued_messages) == (2, 0)
        assert await peer.read() == (TEXT, True, b'{"op":"ping"}')
        sending = asyncio.create_task(feed(peer))
        assert (await close_behind_beats(peer))[0] == 1011
        sending.cancel()


async def close_behind_beats(peer):
    """(code, reason) of the close frame: until then, heartbeats are sent, answered or not."""
    return await peer.expect_close(TEXT)


async def feed(peer):
    for _ in range(100):
        await peer.send(TEXT, b"data")
        await asyncio.sleep(0.01)


@over_loops
async def test_an_answer_that_is_bare_text(side):
    """As OKX's; what only contains it doesn't count."""
    heartbeat = Heartbeat(0.03, "ping", expect="pong", timeout=0.08)
    async with against_peer(side, heartbeat=heartbeat, close_timeout=0.1) as (ws, peer):
        for _ in range(2):
            assert await peer.read() == (TEXT, True, b"ping")
            peer.write(peer.frame(TEXT, b"data") + peer.frame(TEXT, b"pong"))
        assert [await ws.recv() for _ in range(2)] == ["data"] * 2
        assert (ws.stats.answered, ws.stats.queued_messages) == (2, 0)
        assert await peer.read() == (TEXT, True, b"ping")
        peer.write(peer.frame(TEXT, b"pong?"))
        assert (await close_behind_beats(peer))[0] == 1011
    for expect in ({}, ""):
        with pytest.raises(ValueError, match="expect needs"):
            Heartbeat(1, "ping", expect=expect)


@over_loops
async def test_an_answer_that_is_delivered(side):
    heartbeat = Heartbeat(0.03, "ping", expect={"/op": "pong"}, deliver=True)
    options = {"heartbeat": heartbeat, "replies": [fastws.Reply({"/op": "hello"}, "hello back")]}
    async with against_peer(side, **options) as (ws, peer):
        await peer.send(TEXT, b'{"op":"hello"}')
        assert await peer.read() == (TEXT, True, b"hello back")
        for _ in range(3):
            assert await peer.read() == (TEXT, True, b"ping")
            await peer.send(TEXT, b'{"op":"pong"}')
        assert json.loads(await ws.recv()) == {"op": "pong"}


@over_loops
async def test_heartbeats_while_we_do_not_read(side):
    """Nobody receives, the queue is full, so no answer can be seen: the venue isn't to blame."""
    heartbeat = Heartbeat(0.02, "ping", timeout=0.04)
    async with against_peer(side, heartbeat=heartbeat, max_queue=1) as (ws, peer):
        peer.write(peer.frame(TEXT, b"x") * 10)
        await until(lambda: ws.stats.paused)
        await asyncio.sleep(0.25)
        assert ws.state is fastws.State.OPEN
        assert await peer.read() == (TEXT, True, b"ping")


@on_asyncio
@pytest.mark.parametrize("what", ["replies", "heartbeats"])
async def test_what_a_peer_does_not_read(what, side, caplog):
    """What there is no room for is counted, told of once, and not logged as sent."""
    caplog.set_level(logging.DEBUG, "websockets")
    text = "x" * 200_000
    options = {"replies": [fastws.Reply("?", text)], "heartbeat": Heartbeat(0.01, text, timeout=60)}
    del options["heartbeat" if what == "replies" else "replies"]
    async with against_peer(side, **options) as (ws, peer):
        peer.reader._transport.pause_reading()
        asked = 0
        while ws.stats.withheld < 4:
            if what == "replies":
                asked += 1
                await peer.send(TEXT, b"?")
                await until(lambda asked=asked: ws.stats.answered == asked)
            await asyncio.sleep(0.001)
        if what == "replies":
            await until(lambda: ws.stats.messages_out + ws.stats.withheld == asked)

        def logged():
            return [record.getMessage()[:6] for record in caplog.records].count("> TEXT")

        await until(lambda: logged() == ws.stats.messages_out)
        assert [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING] == [
            "automatic replies and heartbeats aren't sent while more than 1 MiB waits for the peer, which doesn't read "
            "it; stats.withheld counts them"
        ]
        # When it reads, it gets what waited, and what comes then.
        sent = ws.stats.messages_out
        peer.reader._transport.resume_reading()
        for _ in range(sent):
            assert await peer.read() == (TEXT, True, text.encode())
        if what == "replies":
            await peer.send(TEXT, b"?")
        assert await peer.read() == (TEXT, True, text.encode())


@on_asyncio
async def test_no_answer_is_due_in_the_closing_handshake(caplog):
    """The peer reads our close frame late: what it sent before still comes."""
    heartbeat = Heartbeat(0.02, "ping", expect="pong", timeout=0.04)
    async with against_peer("client", heartbeat=heartbeat) as (ws, peer):
        assert await peer.read() == (TEXT, True, b"ping")
        closing = asyncio.create_task(ws.close())
        assert (await close_behind_beats(peer))[0] == 1000
        await asyncio.sleep(0.2)
        await peer.send(TEXT, b"late")
        await peer.send(CLOSE, b"\x03\xe8")
        await peer.end()
        await closing
        assert await ws.recv() == "late"
        assert (ws.close_code, ws.close_reason) == (1000, "")
        assert "heartbeat timeout" not in caplog.text


# Staleness


@over_loops
async def test_a_mute_feed(side):
    """Pings don't make it less mute; a message does."""
    async with against_peer(side, stale_after=0.08) as (ws, peer):
        events = ws.events()
        started = time.monotonic()
        await peer.send(TEXT, b"x")
        pinging = asyncio.create_task(pings(peer))
        event = await asyncio.wait_for(anext(events), 5)
        assert (event.key, event.phase) == (None, "started")
        assert 0.08 <= event.silent_s <= time.monotonic() - started
        await asyncio.sleep(0.05)
        pinging.cancel()
        await peer.send(TEXT, b"y")
        event = await asyncio.wait_for(anext(events), 5)
        assert (event.key, event.phase) == (None, "cleared")
        assert event.silent_s >= 0.12
        assert (await asyncio.wait_for(anext(events), 5)).phase == "started"


async def pings(peer):
    for number in range(1000):
        await peer.send(PING, b"%d" % number)
        await asyncio.sleep(0.01)


@over_loops
async def test_a_mute_key(side):
    """One of two that had messages; and one event for each silence."""
    async with against_peer(side, stale_after=Staleness(0.1, key="/s")) as (ws, peer):
        events = ws.events()
        await peer.send(TEXT, b'{"s":"A"}')
        for number in range(20):
            await peer.send(TEXT, b'{"s":"B"}')
            if number == 16:
                await peer.send(TEXT, b'{"s":"A"}')
            await asyncio.sleep(0.012)
        await peer.through()
        started, cleared = [await asyncio.wait_for(anext(events), 5) for _ in range(2)]
        assert (started.key, started.phase) == ("A", "started")
        assert 0.1 <= started.silent_s < 0.1 + SLACK
        assert (cleared.key, cleared.phase) == ("A", "cleared")
        assert cleared.silent_s >= 0.15


@over_loops
async def test_not_stale_while_we_do_not_read(side):
    options = {"stale_after": Staleness(0.05, key="/s"), "max_queue": 1}
    async with against_peer(side, **options) as (ws, peer):
        events = []
        listening = asyncio.create_task(collect(ws.events(), events))
        peer.write(peer.frame(TEXT, b'{"s":"A"}') * 10)
        await until(lambda: ws.stats.paused)
        await asyncio.sleep(0.15)
        assert not [event for event in events if isinstance(event, Stale)]
        for _ in range(10):
            await ws.recv()
        await until(lambda: {event.key for event in events if isinstance(event, Stale)} == {None, "A"})
        listening.cancel()


async def collect(events, collected):
    async for event in events:
        collected.append(event)


@on_asyncio
async def test_nothing_runs_unless_asked_for(side):
    async with against_peer(side) as (ws, _):
        assert ws._vital_tasks == []
    async with against_peer(side, stale_after=5, heartbeat=Heartbeat(5, "x")) as (ws, peer):
        tasks = list(ws._vital_tasks)
        assert len(tasks) == 2
        peer.drop()
        await ws.wait_closed()
        await until(lambda: all(task.cancelled() for task in tasks))
