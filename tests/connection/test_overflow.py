"""Options of slow consumers: they reach the data plane on both sides, and what it decides becomes of the connection."""

from __future__ import annotations

import asyncio
import inspect
import json
import time

import pytest
import websockets
from core.streams import CLOSE, CONT, TEXT

import fastws
from fastws import (
    Between,
    Block,
    Conflate,
    ConnectionClosedError,
    ConnectionClosedOK,
    Disconnect,
    DropNewest,
    DropOldest,
    Heartbeat,
    Inspect,
    Options,
    Reply,
    Resync,
    ResyncNeeded,
    Route,
    Staleness,
    Threshold,
)

from .extensions import Factory, Nothing
from .flood import flooded
from .net import PLAIN, against_peer, iterated, on_asyncio, over_loops, pair, serving, until


def assert_adds_up(ws):
    """Each message that came was delivered, waits, or is lost under a name."""
    stats = ws.stats
    assert stats.messages_in == stats.delivered + stats.answered + stats.queued_messages + stats.lost.total
    return stats


def quote(symbol, number):
    return json.dumps({"s": symbol, "u": number}).encode()


# Where they are said


@pytest.mark.parametrize("name", ["connect", "serve", "route", "ClientConnection", "ServerConnection"])
def test_options_are_shown(name):
    parameters = inspect.signature(getattr(fastws, name)).parameters
    for option in inspect.signature(Options).parameters.values():
        assert parameters[option.name].default == option.default
        assert parameters[option.name].kind is inspect.Parameter.KEYWORD_ONLY


@pytest.mark.parametrize(
    ("options", "exc", "words"),
    [
        ({"overflow": "drop"}, TypeError, "overflow is 'drop', must be a policy"),
        ({"overflow": DropOldest}, TypeError, "must be a policy"),
        ({"overflow": None}, TypeError, "must be a policy"),
        ({"max_queue_bytes": -1}, ValueError, "max_queue_bytes is -1"),
        ({"max_queue_age": 0}, ValueError, "max_queue_age is 0, must be positive"),
        ({"max_queue_age": "1"}, TypeError, "max_queue_age"),
        ({"inspect": "/u"}, TypeError, "an Inspect"),
        ({"exchange_time": "/E"}, TypeError, "an ExchangeTime"),
        ({"replies": Reply({"/a": "b"}, "c")}, TypeError, "a sequence of Reply"),
        ({"replies": ["pong"]}, TypeError, "a sequence of Reply"),
        ({"heartbeat": 20}, TypeError, "a Heartbeat"),
        ({"on_close": "drop"}, ValueError, "on_close is 'drop', must be 'drain' or 'raise'"),
        ({"stale_after": -1}, ValueError, "stale_after is -1, must be positive"),
        ({"stale_after": True}, TypeError, "stale_after"),
        ({"stale_after": Staleness(1, key=5)}, TypeError, "the key of stale_after is 5"),
        ({"on_event": "print"}, TypeError, "on_event is 'print', must be callable"),
        ({"thresholds": [1.0]}, TypeError, "must be a Threshold"),
    ],
)
def test_options_that_are_refused(options, exc, words):
    """At the call, not when a connection comes."""
    with pytest.raises(exc, match=words):
        fastws.connect("ws://localhost/", **options)
    with pytest.raises(exc, match=words):
        fastws.serve(lambda ws: None, "localhost", 0, **options)
    with pytest.raises(exc, match=words):
        Options(**options)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Heartbeat(0, "x"), "every is 0"),
        (lambda: Heartbeat(1, "x", timeout=-1), "timeout is -1"),
        (lambda: Heartbeat(1, "x", expect={}), "at least one JSON Pointer"),
        (lambda: Staleness(0), "seconds is 0"),
    ],
)
def test_vocabulary_that_is_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_options_need_a_connection_of_ours():
    """Nobody shall believe in a policy that isn't there."""
    with pytest.raises(TypeError, match="overflow, replies: only for a create_connection that is a subclass"):
        fastws.connect(
            "ws://localhost/",
            create_connection=websockets.ClientConnection,
            overflow=DropOldest(),
            replies=[Reply({"/a": "b"}, "c")],
        )
    fastws.connect("ws://localhost/", create_connection=websockets.ClientConnection, max_queue_bytes=None)


@on_asyncio
async def test_a_subclass_gets_what_was_said():
    """And nothing else: it may take fewer options than there are."""
    seen = []

    class Own(fastws.ClientConnection):
        def __init__(self, *args, **kwargs):
            seen.append(kwargs.keys() & inspect.signature(Options).parameters.keys())
            super().__init__(*args, **kwargs)

    async with serving(lambda ws: ws.wait_closed()) as uri:
        async with fastws.connect(uri, create_connection=Own):
            pass
        async with fastws.connect(uri, create_connection=Own, overflow=DropOldest(), on_close="raise"):
            pass
    assert seen == [set(), {"overflow", "on_close"}]


@on_asyncio
async def test_an_extension_that_keeps_the_data_plane(caplog):
    """The options have no effect then: it is said."""
    options = {"extensions": [Factory(Nothing)], "headers": ("Sec-WebSocket-Extensions: x-nothing",)}
    async with against_peer(**options, overflow=DropOldest()) as (ws, peer):
        assert "options of fastws have no effect" in caplog.text
        await peer.send(TEXT, b"x")
        assert await ws.recv() == "x"
        assert ws.stats.messages_in == 0
    caplog.clear()
    async with against_peer(**options):
        assert "no effect" not in caplog.text


# Policies


@over_loops
@pytest.mark.parametrize(
    ("policy", "expected", "reason"),
    [
        (DropOldest(), [8, 9], "dropped_oldest"),
        (DropNewest(), [0, 1], "dropped_newest"),
        (Conflate("/s"), [9], "conflated"),
        (Conflate(Between(b'"s": "', b'"')), [9], "conflated"),
        (Route("/s", {"A": DropOldest()}), [8, 9], "dropped_oldest"),
    ],
    ids=["oldest", "newest", "conflate", "between", "route"],
)
async def test_policies(side, policy, expected, reason):
    async with against_peer(side, overflow=policy, max_queue=2) as (ws, peer):
        peer.write(b"".join(peer.frame(TEXT, quote("A", number)) for number in range(10)))
        await peer.through()
        stats = assert_adds_up(ws)
        assert not stats.paused
        assert [json.loads(await ws.recv())["u"] for _ in expected] == expected
        stats = assert_adds_up(ws)
        assert stats.messages_in == 10
        assert getattr(stats.lost, reason) == stats.lost.total == 10 - len(expected)
        assert stats.queued_messages_max == len(expected)
        if not isinstance(policy, DropOldest | DropNewest):
            assert stats.lost_by_key[0][0] == "A"
        await peer.send(TEXT, b"goes on")
        assert await ws.recv() == "goes on"


@over_loops
async def test_age_is_a_limit(side):
    async with against_peer(side, overflow=DropOldest(), max_queue_age=0.03) as (ws, peer):
        peer.write(peer.frame(TEXT, b"old") * 3)
        await peer.through()
        await asyncio.sleep(0.05)
        await peer.send(TEXT, b"new")
        await peer.through()
        batch = await ws.recv_batch()
        assert list(batch) == ["new"]
        assert batch.lost.expired == ws.stats.lost.expired == 3


@over_loops
async def test_disconnect(side):
    """What was there before stays receivable; then the exception says who closed, and why."""
    async with against_peer(side, overflow=Disconnect(4008, "too slow"), max_queue=2) as (ws, peer):
        peer.write(peer.frame(TEXT, b"x") * 10)
        assert await peer.expect_close() == (4008, "too slow")
        await peer.end()
        received, exc = await iterated(ws)
        assert received == ["x"] * 2
        assert isinstance(exc, ConnectionClosedError)
        assert str(exc).startswith("sent 4008 (private use) too slow; no close frame received")
        assert assert_adds_up(ws).lost.discarded == 1


@over_loops
async def test_resync(side):
    events = []
    options = {"overflow": Resync("/s"), "max_queue": 2, "on_event": lambda ws, event: events.append(event)}
    async with against_peer(side, **options) as (ws, peer):
        for number in range(3):
            await peer.send(TEXT, quote("A", number))
        await peer.send(TEXT, b"through")
        await until(lambda: ws.stats.messages_in == 4)
        # Losses are told by the clock.
        await until(lambda: [e for e in events if not isinstance(e, fastws.MessagesLost)] == [ResyncNeeded("A")])
        assert await ws.recv() == "through"
        await peer.send(TEXT, quote("A", 3))
        await peer.through()
        ws.resynced("A")
        ws.resynced("unknown")
        await peer.send(TEXT, quote("A", 4))
        assert json.loads(await ws.recv()) == {"s": "A", "u": 4}
        assert assert_adds_up(ws).lost.resync == 4


@over_loops
@pytest.mark.parametrize("policy", [Block(), DropOldest(), DropNewest(), Conflate(lambda message: None, DropOldest())])
async def test_close_with_everything_full(side, policy):
    """In a flood, with nobody who receives."""
    options = {"overflow": policy, "max_queue": 100, "close_timeout": 10}
    async with flooded(side, options=options, size=200) as (ws, flood):
        await until(lambda: ws.stats.queued_messages >= 100)
        started = time.monotonic()
        closing = asyncio.ensure_future(ws.close())
        await until(lambda: ws.protocol.state is not fastws.State.OPEN)
        await asyncio.sleep(0.05)
        # The flood doesn't answer close frames: the end of its stream must be found behind all its data.
        await asyncio.to_thread(flood.end)
        await closing
        assert time.monotonic() - started < 5
        assert assert_adds_up(ws).lost.total > 0


@over_loops
@pytest.mark.parametrize("policy", [Block(), DropOldest(), DropNewest(), Conflate("/s"), Resync("/s")])
async def test_close_with_a_full_queue_and_a_peer_that_answers(policy):
    """The closing handshake completes, with 1000, however much lies before the peer's close frame."""
    async with pair(overflow=policy, max_queue=10, close_timeout=10) as (client, server):
        await server.send_batch([quote("A", number) for number in range(5000)], text=True)
        await until(lambda: client.stats.messages_in > 10)
        started = time.monotonic()
        await client.close()
        assert time.monotonic() - started < 5
        assert client.close_code == 1000
        assert_adds_up(client)


# The end


@over_loops
async def test_drain(side):
    """The default."""
    async with against_peer(side) as (ws, peer):
        peer.write(peer.frame(TEXT, b"x") * 10)
        await peer.through()
        await peer.close(1000)
        await ws.wait_closed()
        received, exc = await iterated(ws)
        assert (received, exc) == (["x"] * 10, None)
        assert not assert_adds_up(ws).lost


@over_loops
@pytest.mark.parametrize("max_queue", [None, 2])
async def test_raise(side, max_queue):
    events = []
    options = {"on_close": "raise", "max_queue": max_queue, "on_event": lambda ws, event: events.append(event)}
    async with against_peer(side, **options) as (ws, peer):
        peer.write(peer.frame(TEXT, b"x") * 10)
        await peer.through() if max_queue is None else await until(lambda: ws.stats.paused)
        peer.drop()
        await ws.wait_closed()
        with pytest.raises(ConnectionClosedError):
            await ws.recv()
        received, exc = await iterated(ws)
        assert received == []
        assert isinstance(exc, ConnectionClosedError)
        stats = assert_adds_up(ws)
        assert stats.messages_in == stats.lost.discarded == 10
        assert isinstance(events[-1], fastws.Closed)
        assert events[-1].queued_messages == 0


@over_loops
async def test_raise_after_a_normal_closure(side):
    async with against_peer(side, on_close="raise") as (ws, peer):
        peer.write(peer.frame(TEXT, b"x") * 10)
        await peer.through()
        assert await ws.recv() == "x"
        await peer.close(1000)
        await ws.wait_closed()
        with pytest.raises(ConnectionClosedOK):
            await ws.recv_batch()
        assert (await iterated(ws)) == ([], None)
        assert assert_adds_up(ws).lost.discarded == 9


# Replies

TEST_REQUEST = b'{"method":"heartbeat","params":{"type":"test_request"}}'
TEST_REPLY = Reply({"/method": "heartbeat", "/params/type": "test_request"}, '{"method":"public/test"}')


@over_loops
async def test_replies(side, link):
    async with against_peer(side, link, replies=[TEST_REPLY, Reply({"/op": "1"}, "one", deliver=True)]) as (ws, peer):
        await peer.send(TEXT, TEST_REQUEST)
        assert await peer.read() == (TEXT, True, b'{"method":"public/test"}')
        peer.write(peer.frame(TEXT, b'{"op":1}') + peer.frame(TEXT, b"other"))
        assert await peer.read() == (TEXT, True, b"one")
        assert [await ws.recv(), await ws.recv()] == ['{"op":1}', "other"]
        stats = assert_adds_up(ws)
        assert (stats.answered, stats.messages_out) == (1, 2)


@over_loops
async def test_conflate_without_room_for_its_keys(side, caplog):
    """That it pauses reading is logged once, with what to do."""
    async with against_peer(side, overflow=Conflate("/s"), max_queue=2) as (ws, peer):
        for _ in range(3):
            peer.write(b"".join(peer.frame(TEXT, b'{"s":"%s"}' % key) for key in (b"A", b"B", b"C", b"D")))
            assert [json.loads(await ws.recv())["s"] for _ in range(4)] == ["A", "B", "C", "D"]
        assert_adds_up(ws)
    (record,) = [record for record in caplog.records if "Conflate" in record.message]
    assert record.levelname == "WARNING"
    assert record.message.startswith("Conflate pauses reading: 2 messages wait, and there is no room for one of 'C'")
    assert "max_queue" in record.message


@over_loops
async def test_replies_that_send_nothing(side):
    """Of no use to the consumer, nor to the peer; one that answers goes on."""
    replies = [Reply("noise", None), Reply({"/op": "noise"}, None), Reply("ping", "pong")]
    async with against_peer(side, replies=replies) as (ws, peer):
        peer.write(b"".join(peer.frame(TEXT, text) for text in (b"noise", b'{"op":"noise"}', b"ping", b"other")))
        assert await peer.read() == (TEXT, True, b"pong")
        assert await ws.recv() == "other"
        stats = assert_adds_up(ws)
        assert (stats.answered, stats.messages_out, stats.queued_messages) == (3, 1, 0)


@over_loops
async def test_replies_while_nobody_receives(side):
    """Behind messages that wait; under a policy that doesn't block."""
    async with against_peer(side, replies=[TEST_REPLY], overflow=DropNewest(), max_queue=5) as (ws, peer):
        peer.write(peer.frame(TEXT, b"x") * 100 + peer.frame(TEXT, TEST_REQUEST))
        assert await peer.read() == (TEXT, True, b'{"method":"public/test"}')
        assert assert_adds_up(ws).queued_messages in (5, 6)


@over_loops
async def test_replies_between_fragments_of_ours(side):
    """RFC 6455 5.4: they wait until the message is complete."""
    async with against_peer(side, replies=[TEST_REPLY]) as (ws, peer):
        going_on = asyncio.Event()

        async def fragments():
            yield "first"
            await going_on.wait()
            yield "second"

        sending = asyncio.create_task(ws.send(fragments()))
        assert await peer.read() == (TEXT, False, b"first")
        await peer.send(TEXT, TEST_REQUEST)
        await peer.through()
        going_on.set()
        await sending
        assert await peer.read() == (CONT, False, b"second")
        assert await peer.read() == (CONT, True, b"")
        assert await peer.read() == (TEXT, True, b'{"method":"public/test"}')


@over_loops
async def test_replies_that_wait_for_fragments_are_bounded(side):
    """By what may wait for a peer that doesn't read."""
    async with against_peer(side, replies=[Reply("?", "x" * 100_000)]) as (ws, peer):
        going_on = asyncio.Event()

        async def fragments():
            yield "first"
            await going_on.wait()

        sending = asyncio.create_task(ws.send(fragments()))
        assert await peer.read() == (TEXT, False, b"first")
        # One by one: a receive thread looks once for all that a read has brought.
        for answered in range(1, 31):
            await peer.send(TEXT, b"?")
            await until(lambda answered=answered: ws.stats.answered == answered)
        await peer.through()
        assert ws.stats.withheld == 19
        going_on.set()
        await sending
        assert await peer.read() == (CONT, True, b"")
        for _ in range(11):
            assert await peer.read() == (TEXT, True, b"x" * 100_000)
        await peer.send(TEXT, b"?")
        assert (await peer.read())[0] == TEXT
        assert (ws.stats.messages_out, ws.stats.withheld) == (13, 19)


@over_loops
async def test_no_replies_when_closing(side):
    async with against_peer(side, replies=[TEST_REPLY]) as (ws, peer):
        closing = asyncio.create_task(ws.close())
        assert (await peer.read())[0] == CLOSE
        peer.write(peer.frame(TEXT, TEST_REQUEST))
        await peer.send(CLOSE, b"\x03\xe8")
        await peer.end()
        await closing
        assert await peer.reader.read() == b""


@over_loops
async def test_replies_to_who_reads_nothing(side):
    """Memory is bounded: a peer that asks and doesn't read gets no more than fits."""
    reply = Reply({"/ask": "1"}, "x" * 100_000)
    async with against_peer(side, replies=[reply]) as (ws, peer):
        peer.reader._transport.pause_reading()
        for _ in range(10):
            await peer.send(TEXT, b'{"ask":1}')
        asking = peer.frame(TEXT, b'{"ask":1}') * 1000
        peer.write(asking)
        await until(lambda: ws.stats.answered == 1010)
        assert ws.transport.get_write_buffer_size() < 2 * 2**20
        assert ws.state is fastws.State.OPEN


@on_asyncio
async def test_inspect_and_thresholds_reach_the_connection():
    async with against_peer(inspect=Inspect("/u"), thresholds=Threshold(messages=5), link=PLAIN) as (ws, peer):
        for number in (1, 2, 4):
            await peer.send(TEXT, quote("A", number))
        await peer.through()
        assert ws.stats.gaps == 1
        assert len(ws._episodes) == 1
