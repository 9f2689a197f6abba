"""Pings, pongs and keepalive: what ``websockets`` does, whatever waits for the consumer."""

from __future__ import annotations

import asyncio
import itertools
import time
from unittest import mock

import pytest
import websockets
from core.streams import PING, PONG, TEXT

import fastws
from fastws import ConcurrencyError, ConnectionClosedError, ConnectionClosedOK, ProtocolError

from .flood import flooded
from .net import against_peer, on_asyncio, over_loops, pair, until

BASES = {
    "websockets": {"client": websockets.ClientConnection, "server": websockets.ServerConnection},
    "fastws": {"client": fastws.ClientConnection, "server": fastws.ServerConnection},
}


# Pings of ours


@over_loops
async def test_latency(side, link):
    async with against_peer(side, link) as (ws, peer):
        assert ws.latency == 0.0
        # What the loop does before isn't latency, though the clock of uvloop stands still meanwhile.
        time.sleep(0.03)  # noqa: ASYNC251
        started = time.monotonic()
        pong = await ws.ping()
        opcode, fin, payload = await peer.read()
        assert (opcode, fin, len(payload)) == (PING, True, 4)
        assert list(ws.pending_pings) == [payload]
        await asyncio.sleep(0.03)
        await peer.send(PONG, payload)
        latency = await pong
        assert latency == ws.latency
        assert 0.02 <= latency <= time.monotonic() - started
        assert not ws.pending_pings


@over_loops
async def test_the_clock_of_the_loop_is_not_in_the_latency(side, monkeypatch):
    """That of uvloop counts in milliseconds, and one may begin at any moment."""
    async with against_peer(side) as (ws, peer):
        loop = mock.Mock(wraps=ws.loop)
        loop.time.side_effect = itertools.count(ws.loop.time(), 100)
        with monkeypatch.context() as patched:
            patched.setattr(ws, "loop", loop)
            pong = await ws.ping()
            await peer.send(PONG, (await peer.read())[2])
            assert await pong == ws.latency < 100


@over_loops
async def test_data_of_pings(side):
    async with against_peer(side) as (ws, peer):
        payloads = []
        for data, payload in [
            ("é", "é".encode()),
            (b"\xff\x00", b"\xff\x00"),
            (bytearray(b"array"), b"array"),
            (memoryview(b"0123")[::2], b"02"),
            ("", b""),
            (b"x" * 125, b"x" * 125),
        ]:
            pong = await ws.ping(data)
            assert await peer.read() == (PING, True, payload)
            await peer.send(PONG, payload)
            assert await asyncio.wait_for(pong, 5) >= 0
        for _ in range(50):
            await ws.ping()
            payloads.append((await peer.read())[2])
        assert len(set(payloads)) == 50
        assert list(ws.pending_pings) == payloads


@on_asyncio
async def test_data_that_is_refused(side):
    """By fastws and by websockets in the same words."""
    for data in (1, ["a"], object(), b"x" * 126, "é" * 63):
        raised = []
        for base in BASES.values():
            async with against_peer(side, create_connection=base[side]) as (ws, peer):
                with pytest.raises((TypeError, ProtocolError)) as info:
                    await ws.ping(data)
                raised.append((type(info.value), str(info.value)))
                with pytest.raises((TypeError, ProtocolError)) as info:
                    await ws.pong(data)
                raised.append((type(info.value), str(info.value)))
                await ws.pong(b"goes on")
                assert await peer.read() == (PONG, True, b"goes on")
        assert raised[:2] == raised[2:]


@over_loops
async def test_which_pong_answers_which_ping(side):
    async with against_peer(side) as (ws, peer):
        pongs = {name: await ws.ping(name) for name in ("a", "b", "c", "d")}
        with pytest.raises(ConcurrencyError, match="already waiting for a pong with the same data"):
            await ws.ping(b"b")
        for payload in (b"never sent", b"", b"ab"):
            await peer.send(PONG, payload)
        await peer.send(PONG, b"b")
        await asyncio.wait_for(asyncio.gather(pongs["a"], pongs["b"]), 5)
        assert not pongs["c"].done()
        assert list(ws.pending_pings) == [b"c", b"d"]
        assert pongs["a"].result() >= pongs["b"].result() == ws.latency
        await peer.send(PONG, b"a")
        assert [(await peer.read())[2] for _ in range(4)] == [b"a", b"b", b"c", b"d"]
        await peer.through()
        again = await ws.ping("a")
        await peer.send(PONG, b"d")
        await asyncio.wait_for(asyncio.gather(pongs["c"], pongs["d"]), 5)
        assert not again.done()
        await peer.send(PONG, b"a")
        assert await asyncio.wait_for(again, 5) >= 0


@over_loops
async def test_pongs_between_fragments_and_messages_in_one_segment(side, link):
    async with against_peer(side, link) as (ws, peer):
        pongs = [await ws.ping(b"%d" % number) for number in range(3)]
        data = peer.frame(TEXT, b"a", fin=False) + peer.frame(PONG, b"0") + peer.frame(0, b"b")
        peer.write(data + peer.frame(PONG, b"1") + peer.frame(TEXT, b"c") + peer.frame(PONG, b"2"))
        await asyncio.wait_for(asyncio.gather(*pongs), 5)
        assert [await ws.recv(), await ws.recv()] == ["ab", "c"]


@over_loops
async def test_cancelled_ping(side):
    """Nobody waits for the pong any more; it doesn't hurt."""
    async with against_peer(side) as (ws, peer):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(await ws.ping(b"late"), 0.01)
        await peer.send(PONG, b"late")
        await until(lambda: not ws.pending_pings)
        await ws.send("goes on")
        assert (await peer.read())[0] == PING
        assert await peer.read() == (TEXT, True, b"goes on")


@over_loops
async def test_pings_that_are_pending_at_the_end(side):
    async with against_peer(side) as (ws, peer):
        pong = await ws.ping()
        assert (await peer.read())[0] == PING
        await peer.close(1001, "away")
        with pytest.raises(ConnectionClosedOK):
            await pong
    async with against_peer(side) as (ws, peer):
        pong = await ws.ping()
        peer.vanish()
        with pytest.raises(ConnectionClosedError):
            await pong
        assert not ws.pending_pings


# Pongs of ours


@over_loops
async def test_pongs(side, link):
    async with against_peer(side, link) as (ws, peer):
        for payload in (b"", b"x", b"\xff" * 125):
            await peer.send(PING, payload)
            assert await peer.read() == (PONG, True, payload)
        await ws.pong()
        await ws.pong("é")
        assert await peer.read() == (PONG, True, b"")
        assert await peer.read() == (PONG, True, "é".encode())


@over_loops
async def test_pongs_leave_while_nobody_receives(side, link):
    """However much data is ahead of the ping, as long as the queue has room."""
    async with against_peer(side, link) as (ws, peer):
        for number in range(20):
            peer.write(peer.frame(TEXT, b"x" * 50_000))
            await peer.through(b"%d" % number)
        assert ws._decoder.queued_messages == 20


@over_loops
async def test_pongs_leave_in_the_middle_of_a_message(side):
    async with against_peer(side) as (_, peer):
        await peer.send(TEXT, b"a", fin=False)
        await peer.through()
        await peer.send(0, b"b", fin=False)
        await peer.through()


# Keepalive


async def answer_pings(peer, answered):
    while True:
        opcode, _, payload = await peer.read()
        if opcode == PING:
            answered.append(payload)
            await peer.send(PONG, payload)


@over_loops
async def test_keepalive(side, link):
    async with against_peer(side, link, ping_interval=0.01, ping_timeout=10) as (ws, peer):
        answered = []
        task = asyncio.create_task(answer_pings(peer, answered))
        await until(lambda: len(answered) >= 5)
        assert len(set(answered)) == len(answered)
        assert {len(payload) for payload in answered} == {4}
        assert ws.keepalive_task is not None
        assert ws.state is fastws.State.OPEN
        task.cancel()
        keeping = ws.keepalive_task
    await until(keeping.done)
    assert ws.keepalive_task is None


@on_asyncio
async def test_no_keepalive(side):
    async with against_peer(side, ping_interval=None) as (ws, _):
        assert ws.keepalive_task is None
    async with pair(ping_interval=20) as ends:
        assert all(ws.keepalive_task is not None for ws in ends)


@over_loops
async def test_keepalive_without_timeout(side):
    async with against_peer(side, ping_interval=0.01, ping_timeout=None) as (ws, peer):
        for _ in range(5):
            assert (await peer.read())[0] == PING
        assert len(ws.pending_pings) >= 5
        await peer.send(TEXT, b"still here")
        assert await ws.recv() == "still here"


def acknowledgements(ws):
    """The data of pings whose pongs come, as they come."""
    acknowledged = []
    acknowledge = ws.acknowledge_pings

    def counted(data):
        if data in ws.pending_pings:
            acknowledged.append(data)
        acknowledge(data)

    ws.acknowledge_pings = counted
    return acknowledged


async def timed_out(base, side, link):
    """What comes of a peer that doesn't answer pings: on the wire, and for whoever receives, sends, and waits."""
    outcome = []
    async with against_peer(
        side, link, create_connection=BASES[base][side], ping_interval=0.01, ping_timeout=0.02, close_timeout=0.2
    ) as (ws, peer):
        waiting = asyncio.create_task(ws.recv())
        pong = await ws.ping(b"mine")
        frames = [await peer.read(), await peer.read()]
        assert (PING, True, b"mine") in frames
        outcome.append(await peer.expect_close())
        if side == "client":
            await peer.end()
        for task in (waiting, pong, ws.recv(), ws.send("x"), ws.ping()):
            with pytest.raises(ConnectionClosedError) as info:
                await task
            exc = info.value
            outcome.append((str(exc), exc.rcvd, exc.sent, exc.rcvd_then_sent, repr(exc.__cause__)))
        outcome.append((ws.close_code, ws.close_reason, ws.state, ws.latency, ws.keepalive_task))
    return outcome


@over_loops
async def test_keepalive_timeout(side, link):
    ours = await timed_out("fastws", side, link)
    assert ours[0] == (1011, "keepalive ping timeout")
    assert ours[1][0].startswith("sent 1011 (internal error) keepalive ping timeout; no close frame received")
    assert ours == await timed_out("websockets", side, link)


@over_loops
async def test_messages_before_a_keepalive_timeout_are_received(side):
    async with against_peer(side, ping_interval=0.02, ping_timeout=0.02, close_timeout=0.1) as (ws, peer):
        peer.write(peer.frame(TEXT, b"message") * 100)
        assert (await peer.read())[0] == PING
        assert await peer.expect_close() == (1011, "keepalive ping timeout")
        await peer.end()
        await ws.wait_closed()
        assert [await ws.recv() for _ in range(100)] == ["message"] * 100
        with pytest.raises(ConnectionClosedError, match="keepalive ping timeout"):
            await ws.recv()


@over_loops
async def test_keepalive_while_nobody_receives(side, link):
    """Pongs behind data that nobody takes are seen."""
    async with against_peer(side, link, ping_interval=0.01, ping_timeout=5) as (ws, peer):
        for _ in range(10):
            while True:
                opcode, _, payload = await peer.read()
                if opcode == PING:
                    break
            peer.write(peer.frame(TEXT, b"x" * 10_000) * 10 + peer.frame(PONG, payload))
        await until(lambda: ws._decoder.queued_messages == 100)
        assert ws.state is fastws.State.OPEN


@over_loops
async def test_keepalive_with_a_full_queue(side):
    """Pongs behind the message at which decoding stopped are seen, if they were read with it."""
    async with against_peer(side, ping_interval=0.02, ping_timeout=1, max_queue=2) as (ws, peer):
        opcode, _, payload = await peer.read()
        assert opcode == PING
        peer.write(peer.frame(TEXT, b"x") * 100 + peer.frame(PONG, payload))
        await until(lambda: not ws.pending_pings and ws._decoder.blocked)
        assert ws._decoder.queued_messages == 3
        assert [await ws.recv() for _ in range(100)] == ["x"] * 100


@over_loops
async def test_keepalive_under_a_flood_and_a_consumer_without_awaits(side):
    """Ten pings and their pongs, without the loop ever being idle."""
    options = {"ping_interval": 0.005, "ping_timeout": 10}
    async with flooded(side, options=options) as (ws, _):
        acknowledged = acknowledgements(ws)
        deadline = time.monotonic() + 15
        async for _ in ws:
            if len(acknowledged) >= 10:
                break
            assert time.monotonic() < deadline
        assert len(set(acknowledged)) >= 10


@over_loops
async def test_both_sides_keep_alive(link):
    """Two ends of fastws, both with keepalive, and traffic in between."""
    async with pair(link, ping_interval=0.01, ping_timeout=5) as (client, server):
        seen = [acknowledgements(client), acknowledgements(server)]
        for number in range(20):
            await client.send(str(number))
            assert await server.recv() == str(number)
            await asyncio.sleep(0.002)
        await until(lambda: all(len(acknowledged) >= 3 for acknowledged in seen))
        assert client.state is server.state is fastws.State.OPEN
