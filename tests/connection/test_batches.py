"""``recv_batch`` and ``batches``: all that is there, in one await."""

from __future__ import annotations

import asyncio
import gc
import pickle
import sys
import time

import pytest
from core.streams import BINARY, CLOSE, CONT, TEXT

import fastws
from fastws import ConnectionClosedError, ConnectionClosedOK

from .net import against_peer, iterated, numbered, on_asyncio, over_loops, pair, strings, until


@over_loops
async def test_recv_batch_takes_what_is_there(side, link):
    async with against_peer(side, link) as (ws, peer):
        peer.write(numbered(peer, 0, 10))
        await peer.through()
        batch = await ws.recv_batch()
        assert isinstance(batch, fastws.Batch)
        assert list(batch) == strings(0, 10)
        waiting = asyncio.create_task(ws.recv_batch())
        await asyncio.sleep(0)
        assert not waiting.done()
        await peer.send(BINARY, b"late")
        assert list(await waiting) == [b"late"]


@over_loops
async def test_max_messages(side):
    async with against_peer(side) as (ws, peer):
        peer.write(numbered(peer, 0, 10))
        await peer.through()
        assert list(await ws.recv_batch(3)) == strings(0, 3)
        assert list(await ws.recv_batch(max_messages=1)) == ["3"]
        assert await ws.recv() == "4"
        sizes = []
        async for batch in ws.batches(max_messages=2):
            sizes.append(list(batch))
            if len(sizes) == 3:
                break
        assert sizes == [["5", "6"], ["7", "8"], ["9"]]


@on_asyncio
async def test_arguments_that_make_no_sense():
    async with against_peer() as (ws, _):
        for number in (0, -1):
            with pytest.raises(ValueError, match=f"max_messages is {number}, must be 1 or more"):
                await ws.recv_batch(number)
            with pytest.raises(ValueError, match="max_messages"):
                await anext(ws.batches(max_messages=number))
        with pytest.raises(ValueError, match=r"max_wait is -0\.1, must be positive or zero"):
            await anext(ws.batches(max_wait=-0.1))


@over_loops
async def test_max_wait_ends_with_a_full_batch(side):
    async with against_peer(side) as (ws, peer):
        peer.write(numbered(peer, 0, 1))
        await peer.through()
        waiting = asyncio.ensure_future(anext(ws.batches(max_messages=4, max_wait=60)))
        for number in range(1, 4):
            assert not waiting.done()
            peer.write(numbered(peer, number, number + 1))
            await peer.through()
        assert list(await waiting) == strings(0, 4)


@over_loops
async def test_max_wait_ends_with_a_full_queue(side):
    async with against_peer(side, max_queue=5) as (ws, peer):
        waiting = asyncio.ensure_future(anext(ws.batches(max_wait=60)))
        peer.write(numbered(peer, 0, 20))
        assert list(await waiting) == strings(0, 6)


@over_loops
async def test_max_wait_ends_with_time(side):
    async with against_peer(side) as (ws, peer):
        begin = time.monotonic()
        waiting = asyncio.ensure_future(anext(ws.batches(max_wait=0.05)))
        peer.write(numbered(peer, 0, 1))
        await peer.through()
        peer.write(numbered(peer, 1, 2))
        assert list(await waiting) == strings(0, 2)
        assert time.monotonic() - begin >= 0.04
        # The time begins with the first message.
        waiting = asyncio.ensure_future(anext(ws.batches(max_wait=0.001)))
        await asyncio.sleep(0.02)
        assert not waiting.done()
        await peer.send(TEXT, b"x")
        assert list(await waiting) == ["x"]


@over_loops
async def test_max_wait_ends_with_the_connection(side):
    async with against_peer(side) as (ws, peer):
        batches = ws.batches(max_wait=60)
        waiting = asyncio.ensure_future(anext(batches))
        peer.write(numbered(peer, 0, 3))
        await peer.close()
        assert list(await waiting) == strings(0, 3)
        with pytest.raises(StopAsyncIteration):
            await anext(batches)


@over_loops
async def test_batches_end_as_iteration_does(link):
    async with pair(link) as (client, server):
        sent = strings(0, 20_000)

        async def feed():
            await server.send_batch(sent)
            await server.close()

        task = asyncio.create_task(feed())
        received = [message async for batch in client.batches() for message in batch]
        await task
        assert received == sent
        with pytest.raises(ConnectionClosedOK):
            await client.recv_batch()
        assert [batch async for batch in client.batches()] == []


@over_loops
async def test_batches_raise_as_iteration_does(side):
    async with against_peer(side) as (ws, peer):
        peer.write(numbered(peer, 0, 3))
        await peer.through()
        peer.vanish()
        received, exc = await iterated(ws.batches())
        assert [message for batch in received for message in batch] == strings(0, 3)
        assert isinstance(exc, ConnectionClosedError)


@on_asyncio
async def test_batches_raise_after_a_broken_rule(side):
    async with against_peer(side) as (ws, peer):
        waiting = asyncio.ensure_future(anext(ws.batches(max_wait=60)))
        peer.write(numbered(peer, 0, 3) + peer.frame(3))
        assert (await peer.expect_close())[0] == 1002
        await peer.end()
        assert list(await waiting) == strings(0, 3)
        with pytest.raises(ConnectionClosedError):
            await ws.recv_batch()


@on_asyncio
async def test_fragmented_messages_in_batches(side):
    async with against_peer(side) as (ws, peer):
        peer.write(
            peer.frame(TEXT, b"one")
            + peer.frame(TEXT, b"tw", fin=False)
            + peer.frame(CONT, b"o")
            + peer.frame(BINARY, b"three")
            + peer.frame(TEXT, b"unfinished", fin=False)
        )
        await peer.through()
        batch = await ws.recv_batch()
        assert list(batch) == ["one", "two", b"three"]
        assert [batch.is_text(index) for index in range(3)] == [True, True, False]
        await peer.send(CONT, b"!")
        assert list(await ws.recv_batch()) == ["unfinished!"]


@over_loops
async def test_views_outlive_the_connection(link):
    async with against_peer("client", link) as (ws, peer):
        peer.write(b"".join(peer.frame(BINARY, bytes([number]) * 1000) for number in range(100)))
        await peer.through()
        batch = await ws.recv_batch()
        views = [batch.view(index) for index in range(len(batch))]
        part = batch[10:90:2]
        # What comes later is written elsewhere.
        for _ in range(50):
            peer.write(peer.frame(BINARY, b"\xee" * 100_000))
            await ws.recv()
    del ws, batch
    gc.collect()
    assert [bytes(view) for view in views] == [bytes([number]) * 1000 for number in range(100)]
    assert list(part) == [bytes([number]) * 1000 for number in range(10, 90, 2)]
    assert views[0].readonly


@on_asyncio
async def test_times_of_reads():
    async with against_peer() as (ws, peer):
        before = time.monotonic_ns()
        await peer.send(TEXT, b"one")
        await peer.through()
        between = time.monotonic_ns()
        await peer.send(TEXT, b"two")
        await peer.through()
        after = time.monotonic_ns()
        batch = await ws.recv_batch()
        assert before <= batch.received_ns_at(0) <= between <= batch.received_ns_at(1) <= after
        assert batch.received_ns == batch.received_ns_at(0)


@on_asyncio
async def test_pickling():
    async with against_peer() as (ws, peer):
        peer.write(peer.frame(TEXT, "é".encode()) + peer.frame(BINARY, b"\xff") + peer.frame(TEXT, b""))
        await peer.through()
        batch = await ws.recv_batch()
        peer.write(peer.frame(CLOSE))
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        copy = pickle.loads(pickle.dumps(batch, protocol))
        assert copy == batch
        assert list(copy) == ["é", b"\xff", ""]
        assert copy.received_ns == batch.received_ns
        assert [copy.is_text(index) for index in range(3)] == [True, False, True]


@on_asyncio
async def test_travels_to_another_process():
    async with against_peer() as (ws, peer):
        peer.write(numbered(peer, 0, 1000))
        await peer.through()
        batch = await ws.recv_batch()
    script = "import pickle, sys; print(sum(map(int, pickle.load(sys.stdin.buffer))))"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert await child.communicate(pickle.dumps(batch)) == (b"499500\n", None)


@on_asyncio
async def test_batches_respect_the_queue(side):
    async with against_peer(side, max_queue=5) as (ws, peer):
        peer.write(numbered(peer, 0, 1000))
        await until(lambda: ws._decoder.blocked)
        received = []
        while len(received) < 1000:
            batch = await ws.recv_batch()
            assert 1 <= len(batch) <= 6
            received += batch
        assert received == strings(0, 1000)
