"""``iter_batches()``: receiving in a thread without an event loop."""

from __future__ import annotations

import asyncio
import threading

import pytest
from connection.net import against_peer, on_asyncio, over_loops, pair, until
from core.streams import CONT, TEXT

import fastws
from fastws import ConcurrencyError, ConnectionClosedError, DropOldest

pytestmark = pytest.mark.skipif(fastws.IMPLEMENTATION == "pure", reason="receive threads are in the compiled core only")


@over_loops
async def test_all_messages(side):
    """In order and to the normal end; waiting takes no GIL, so the loop runs meanwhile."""

    def receive(ws):
        return [message for batch in ws.iter_batches() for message in batch]

    async with pair(receive="thread") as ends:
        sender, receiver = ends if side == "client" else ends[::-1]
        received = asyncio.create_task(asyncio.to_thread(receive, receiver))
        for start in range(0, 20_000, 1000):
            await sender.send_batch([str(number) for number in range(start, start + 1000)])
            await asyncio.sleep(0)
        await sender.send([b"in ", b"fragments"])
        await sender.close()
        assert await received == [*map(str, range(20_000)), b"in fragments"]
        assert receiver.stats.delivered == 20_001


@over_loops
async def test_limits_hold(side):
    """A consumer in another thread makes reading go on."""

    def receive(ws):
        received = []
        for batch in ws.iter_batches(max_messages=3):
            assert len(batch) <= 3
            received += batch
            if len(received) == 2000:
                return received

    async with against_peer(side, receive="thread", max_queue=5) as (ws, peer):
        peer.write(b"".join(peer.frame(TEXT, b"%d" % number) for number in range(2000)))
        assert await asyncio.to_thread(receive, ws) == [*map(str, range(2000))]
        assert ws.stats.pauses > 0


@over_loops
async def test_violation(side):
    """What was received before comes first."""

    def receive(ws):
        received = []
        try:
            for batch in ws.iter_batches():
                received += batch
        except ConnectionClosedError as exc:
            return received, exc.sent.code

    async with against_peer(side, receive="thread") as (ws, peer):
        peer.write(peer.frame(TEXT, b"good") + peer.frame(TEXT, b"\xff"))
        receiving = asyncio.create_task(asyncio.to_thread(receive, ws))
        assert await peer.expect_close() == (1007, "invalid start byte at position 0")
        await peer.end()
        assert await receiving == (["good"], 1007)


@on_asyncio
async def test_timeout():
    """It ends the wait, not the iteration."""
    async with pair(receive="thread") as (client, server):
        batches = client.iter_batches(timeout=0.05)
        with pytest.raises(TimeoutError, match=r"no message within 0\.05 s"):
            await asyncio.to_thread(next, batches)
        await server.send("x")
        assert list(await asyncio.to_thread(next, batches)) == ["x"]
        with pytest.raises(TimeoutError):
            next(client.iter_batches(timeout=0))


@on_asyncio
async def test_the_loop_may_be_blocked():
    """Messages come to another thread all the same."""
    async with pair(receive="thread") as (client, server):
        seen = []

        def receive():
            for batch in client.iter_batches():
                seen.extend(batch)
                if len(seen) >= 1000:
                    return

        thread = threading.Thread(target=receive)
        thread.start()
        await server.send_batch(["x"] * 1000)
        thread.join(10)  # On the loop, on purpose.
        assert len(seen) == 1000


@on_asyncio
async def test_one_at_a_time():
    async with pair(receive="thread") as (client, server):
        receiving = asyncio.create_task(client.recv())
        await asyncio.sleep(0)
        with pytest.raises(ConcurrencyError):
            next(client.iter_batches(timeout=0))
        await server.send("x")
        assert await receiving == "x"
        waiting = asyncio.create_task(asyncio.to_thread(next, client.iter_batches()))
        await until(lambda: client._turn.busy)
        with pytest.raises(ConcurrencyError):
            await client.recv()
        await server.send("y")
        assert list(await waiting) == ["y"]
        await server.send("z")
        assert await client.recv() == "z"


@on_asyncio
async def test_message_larger_than_the_queue():
    """Its fragments wait for their last one, and it for room: who waits for the message lets it in."""
    async with against_peer("client", receive="thread", max_queue_bytes=1000) as (ws, peer):
        received = []

        def receive():
            for batch in ws.iter_batches(timeout=10):
                received.extend(batch)

        await peer.send(TEXT, b"a" * 900, fin=False)
        for _ in range(5):
            await peer.send(CONT, b"b" * 900, fin=False)
        await peer.send(CONT, b"c")
        await until(lambda: ws.stats.paused)
        # If it never ends, it is not to keep the process.
        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        await until(lambda: received, 5)
        assert received == ["a" * 900 + "b" * 4500 + "c"]
        await peer.close()
        await until(lambda: not thread.is_alive(), 5)


@on_asyncio
async def test_losses_are_told():
    async with pair(receive="thread", overflow=DropOldest(), max_queue=10) as (client, server):
        await server.send_batch([str(number) for number in range(1000)])
        batches = client.iter_batches(timeout=10)
        received, lost = [], 0
        while not received or received[-1] != "999":
            batch = await asyncio.to_thread(next, batches)
            received += batch
            lost += batch.lost.total
        assert len(received) + lost == 1000
        assert lost == client.stats.lost.total


@on_asyncio
async def test_arguments():
    async with pair(receive="thread") as (client, _), pair(receive="loop") as (looped, _):
        with pytest.raises(ValueError, match="max_messages is 0, must be 1 or more"):
            client.iter_batches(max_messages=0)
        with pytest.raises(ValueError, match="timeout is -1, must be positive or zero"):
            client.iter_batches(timeout=-1)
        with pytest.raises(ValueError, match="timeout is nan, must be positive or zero"):
            client.iter_batches(timeout=float("nan"))
        with pytest.raises(RuntimeError, match='needs a connection with receive="thread"'):
            looped.iter_batches()
