"""``recv``, ``async for`` and ``recv_streaming``: each message once, in order, whoever stops waiting and when."""

from __future__ import annotations

import asyncio
import inspect

import pytest
import websockets
from core.streams import BINARY, CONT, PING, TEXT

import fastws
from fastws import ConcurrencyError, ConnectionClosedError, ConnectionClosedOK

from .net import against_peer, iterated, numbered, on_asyncio, over_loops, pair, strings, until

# Kinds of messages


@over_loops
async def test_kinds_and_decode(side, link):
    async with against_peer(side, link) as (ws, peer):
        for opcode, payload, decode, expected in [
            (TEXT, b"caf\xc3\xa9", None, "café"),
            (TEXT, b"caf\xc3\xa9", True, "café"),
            (TEXT, b"caf\xc3\xa9", False, b"caf\xc3\xa9"),
            (BINARY, b"caf\xc3\xa9", None, b"caf\xc3\xa9"),
            (BINARY, b"caf\xc3\xa9", True, "café"),
            (BINARY, b"caf\xc3\xa9", False, b"caf\xc3\xa9"),
            (TEXT, b"", None, ""),
            (BINARY, b"", None, b""),
            (BINARY, bytes(range(256)) * 300, None, bytes(range(256)) * 300),
        ]:
            await peer.send(opcode, payload)
            message = await ws.recv(decode)
            assert message == expected
            assert type(message) is type(expected)


@on_asyncio
async def test_binary_that_is_not_utf8_with_decode(side):
    async with against_peer(side) as (ws, peer):
        await peer.send(TEXT, b"before")
        await peer.send(BINARY, b"ab\xff")
        assert await ws.recv() == "before"
        task = asyncio.create_task(ws.recv(decode=True))
        assert await peer.expect_close() == (1007, "invalid start byte at position 2")
        await peer.end()
        with pytest.raises(ConnectionClosedError) as info:
            await task
        assert isinstance(info.value.__cause__, UnicodeDecodeError)


@over_loops
async def test_fragments_with_control_frames_between(side, link):
    async with against_peer(side, link) as (ws, peer):
        data = peer.frame(TEXT, b"caf\xc3", fin=False) + peer.frame(PING, b"1")
        data += peer.frame(CONT, b"", fin=False) + peer.frame(PING, b"2") + peer.frame(CONT, b"\xa9!")
        for byte in data:
            peer.write(bytes([byte]))
            await asyncio.sleep(0)
        assert await ws.recv() == "café!"
        assert [await peer.read(), await peer.read()] == [(0xA, True, b"1"), (0xA, True, b"2")]


@over_loops
async def test_order_of_a_hundred_thousand(link):
    async with pair(link, server={"max_queue": 50}, client={"max_queue": 100}) as (client, server):

        async def feed():
            for number in range(0, 100_000, 1000):
                await server.send_batch(strings(number, number + 1000))
            await server.close()

        task = asyncio.create_task(feed())
        received = [message async for message in client]
        await task
        assert received == strings(0, 100_000)


# Iterators


@over_loops
async def test_break_and_go_on(link):
    async with against_peer("client", link) as (ws, peer):
        peer.write(numbered(peer, 0, 10))
        await peer.through()
        received = []
        async for message in ws:
            received.append(message)
            if len(received) == 3:
                break
        received.append(await ws.recv())
        async for message in ws:
            received.append(message)
            if len(received) == 6:
                break
        received.append(await anext(aiter(ws)))
        iterator = aiter(ws)
        received += [await anext(iterator), await anext(iterator, None)]
        assert received == strings(0, 9)
        closing = asyncio.create_task(peer.close())
        received += [message async for message in ws]
        await closing
        assert received == strings(0, 10)


@over_loops
async def test_anext_in_tasks(link):
    async with against_peer("client", link) as (ws, peer):
        iterator = aiter(ws)
        waiting = asyncio.create_task(iterator.__anext__())
        await asyncio.sleep(0)
        peer.write(numbered(peer, 0, 3))
        assert await waiting == "0"
        await peer.through()
        assert await asyncio.create_task(iterator.__anext__()) == "1"
        assert await asyncio.wait_for(anext(iterator), 5) == "2"
        assert aiter(iterator) is iterator
        asyncio.get_running_loop().call_soon(peer.write, peer.frame(TEXT, b"3"))
        assert await asyncio.wait_for(anext(iterator), 5) == "3"
        closing = asyncio.create_task(peer.close())
        assert await anext(iterator, "the end") == "the end"
        with pytest.raises(StopAsyncIteration):
            await iterator.__anext__()
        await closing


@over_loops
async def test_anext_in_many_tasks_at_once_loses_nothing(side):
    async with against_peer(side) as (ws, peer):
        peer.write(numbered(peer, 0, 1))
        await peer.through()
        iterator = aiter(ws)
        tasks = [asyncio.create_task(iterator.__anext__()) for _ in range(5)]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        peer.write(numbered(peer, 1, 3))
        await peer.through()
        _, hanging = await asyncio.wait(tasks, timeout=1)
        assert not hanging, f"{len(hanging)} of {len(tasks)} hang"
        results = [task.exception() or task.result() for task in tasks]
        received = [result for result in results if isinstance(result, str)]
        errors = [result for result in results if not isinstance(result, str)]
        assert all(isinstance(error, RuntimeError | ConcurrencyError) for error in errors), errors
        while len(received) < 3:
            received.append(await asyncio.wait_for(ws.recv(), 5))
        assert received == strings(0, 3)


@on_asyncio
async def test_anext_that_nobody_awaits_takes_no_message(recwarn):
    async with against_peer() as (ws, peer):
        peer.write(numbered(peer, 0, 3))
        await peer.through()
        iterator = aiter(ws)
        iterator.__anext__()
        iterator.__anext__().close()
        task = asyncio.create_task(iterator.__anext__())
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [await ws.recv(), await anext(iterator), await ws.recv()] == strings(0, 3)


@over_loops
async def test_iterator_raises_after_an_error(side):
    async with against_peer(side) as (ws, peer):
        peer.write(numbered(peer, 0, 3))
        await peer.through()
        peer.vanish()
        received, exc = await iterated(ws)
        assert received == strings(0, 3)
        assert isinstance(exc, ConnectionClosedError)


# Concurrency


@on_asyncio
async def test_concurrent_use_is_refused(side):
    async with against_peer(side) as (ws, peer):
        others = {
            "cannot call recv while another coroutine is already running recv or recv_streaming": ws.recv,
            "cannot call recv_streaming while another coroutine is already running recv or recv_streaming": (
                lambda: anext(ws.recv_streaming())
            ),
            "cannot call recv_batch while another coroutine is already running recv or recv_streaming": ws.recv_batch,
        }

        async def first_of_batches():
            return [message async for batch in ws.batches(max_messages=1) for message in batch]

        holders = [ws.recv, lambda: anext(ws.recv_streaming()), ws.recv_batch, lambda: anext(aiter(ws))]
        for holder in holders:
            task = asyncio.ensure_future(holder())
            await asyncio.sleep(0)
            for text, other in others.items():
                with pytest.raises(ConcurrencyError) as info:
                    await other()
                assert str(info.value) == text
            with pytest.raises(ConcurrencyError):
                await anext(aiter(ws))
            with pytest.raises(ConcurrencyError):
                await first_of_batches()
            await peer.send(TEXT, b"x", fin=True)
            assert list(await task) == ["x"]
            # A stream of one fragment ends only when it is asked for the next.
            if ws._turn.busy:
                break
        assert holder is holders[1]


@on_asyncio
async def test_unfinished_streaming_keeps_the_connection_busy():
    async with against_peer() as (ws, peer):
        await peer.send(TEXT, b"one", fin=False)
        stream = ws.recv_streaming()
        assert await anext(stream) == "one"
        with pytest.raises(ConcurrencyError):
            await ws.recv()
        await peer.send(CONT, b"two")
        assert [fragment async for fragment in stream] == ["two"]
        await peer.send(TEXT, b"three")
        assert await ws.recv() == "three"


@on_asyncio
async def test_gathering_batch_refuses_others():
    async with against_peer() as (ws, peer):
        await peer.send(TEXT, b"0")
        await peer.through()
        batches = ws.batches(max_messages=2, max_wait=10)
        task = asyncio.ensure_future(anext(batches))
        await asyncio.sleep(0)
        with pytest.raises(ConcurrencyError):
            await ws.recv()
        with pytest.raises(ConcurrencyError):
            await anext(aiter(ws))
        await peer.send(TEXT, b"1")
        assert list(await task) == ["0", "1"]


# Cancellation


@over_loops
async def test_cancelled_recv_loses_nothing(side):
    async with against_peer(side) as (ws, peer):
        for make in (ws.recv, ws.recv_batch, lambda: anext(aiter(ws)), lambda: anext(ws.recv_streaming())):
            task = asyncio.ensure_future(make())
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            # The message and the cancellation in the same cycle of the loop.
            task = asyncio.ensure_future(make())
            await asyncio.sleep(0)
            await peer.send(TEXT, b"kept")
            await peer.through()
            task.cancel()
            results = await asyncio.gather(task, return_exceptions=True)
            if isinstance(results[0], asyncio.CancelledError):
                assert await ws.recv() == "kept"
            else:
                assert list(results[0]) in (["kept"], list("kept"))
                if ws._turn.busy:
                    ws._turn.busy = False  # the stream was abandoned after its only fragment


@over_loops
async def test_cancelled_in_the_middle_of_a_fragmented_message(side):
    async with against_peer(side, max_queue=4, max_queue_bytes=1000) as (ws, peer):
        await peer.send(TEXT, b"a" * 500, fin=False)
        for round in range(5):
            task = asyncio.create_task(ws.recv())
            await peer.send(CONT, b"%d" % round * 500, fin=False)
            await peer.through()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        task = asyncio.create_task(ws.recv())
        await peer.send(CONT, b"!")
        assert await task == "a" * 500 + "".join(f"{round}" * 500 for round in range(5)) + "!"


TIMEOUTS = 3000


@over_loops
async def test_timeouts_race_with_arrivals(link):
    """Timeouts of all lengths around the time that a message needs: none may swallow one."""
    async with pair(link) as (client, server):

        async def feed():
            for number in range(TIMEOUTS):
                await server.send(str(number))
                for _ in range(number % 4):
                    await asyncio.sleep(0)
            await server.close()

        task = asyncio.create_task(feed())
        received: list[str] = []
        timeouts = 0
        iterator = aiter(client)
        ways = [
            lambda: asyncio.wait_for(client.recv(), timeout),
            lambda: asyncio.wait_for(anext(iterator), timeout),
            lambda: asyncio.wait_for(client.recv_batch(1), timeout),
        ]
        attempt = 0
        while True:
            attempt += 1
            timeout = (attempt % 7) * 2e-5
            try:
                message = await ways[attempt % 3]()
                received += [message] if isinstance(message, str) else list(message)
            except TimeoutError:
                timeouts += 1
            except (ConnectionClosedOK, StopAsyncIteration):
                break
        await task
        assert received == strings(0, TIMEOUTS)
        assert timeouts > 10


@over_loops
@pytest.mark.parametrize("way", ["recv", "recv_batch", "recv_streaming", "anext"])
async def test_cancelled_while_the_loop_has_its_turn(link, way):
    """Then it has had it: consumers with short timeouts would get nothing for ever, though messages wait."""
    async with pair(link) as (client, server):
        ways = {
            "recv": client.recv,
            "recv_batch": lambda: client.recv_batch(1),
            "recv_streaming": lambda: collected(client.recv_streaming()),
            "anext": aiter(client).__anext__,
        }
        await server.send_batch(strings(0, 10))
        await until(lambda: client.stats.queued_messages == 10)
        while not client._turn.spend():
            pass
        first = asyncio.ensure_future(started(ways[way]))
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first])
        second = asyncio.ensure_future(started(ways[way]))
        await asyncio.sleep(0)
        assert second.done()
        assert list(second.result()) == ["0"]


async def started(way):
    return await way()


async def collected(fragments):
    return [fragment async for fragment in fragments]


@over_loops
async def test_tasks_cancelled_at_random_moments(link):
    """A consumer that is cancelled again and again, and started anew."""
    async with pair(link, client={"max_queue": 8}) as (client, server):
        received: list[str] = []

        async def feed():
            for number in range(0, TIMEOUTS, 3):
                await server.send_batch(strings(number, number + 3))
                await asyncio.sleep(0)
            await server.close()

        async def by_iterator():
            async for message in client:
                received.append(message)
                await asyncio.sleep(0)

        async def by_recv():
            while True:
                received.append(await client.recv())

        async def by_batches():
            async for batch in client.batches(max_messages=2, max_wait=0.001):
                received.extend(batch)

        async def by_timeout():
            while True:
                async with asyncio.timeout(0.0005):
                    received.append(await client.recv())

        feeder = asyncio.create_task(feed())
        round = 0
        while client.state is fastws.State.OPEN or len(received) < TIMEOUTS:
            round += 1
            task = asyncio.create_task([by_iterator, by_recv, by_batches, by_timeout][round % 4]())
            for _ in range(round % 11):
                await asyncio.sleep(0)
            task.cancel()
            results = await asyncio.gather(task, return_exceptions=True)
            assert isinstance(results[0], asyncio.CancelledError | TimeoutError | ConnectionClosedOK | None), results
        await feeder
        assert received == strings(0, TIMEOUTS)
        assert round > 50


# Fragment by fragment


@over_loops
async def test_streaming(side, link):
    async with against_peer(side, link) as (ws, peer):

        async def stream(decode=None):
            return [fragment async for fragment in ws.recv_streaming(decode)]

        for opcode, decode, expected in [
            (TEXT, None, ["caf", "é", "", "!"]),
            (TEXT, True, ["caf", "é", "", "!"]),
            (TEXT, False, [b"caf\xc3", b"\xa9", b"", b"!"]),
            (BINARY, None, [b"caf\xc3", b"\xa9", b"", b"!"]),
            (BINARY, True, ["caf", "é", "", "!"]),
        ]:
            await peer.send(opcode, b"caf\xc3", fin=False)
            await peer.send(CONT, b"\xa9", fin=False)
            await peer.send(CONT, b"", fin=False)
            await peer.send(CONT, b"!")
            assert await stream(decode) == expected
        await peer.send(TEXT, b"whole")
        assert await stream() == ["whole"]
        await peer.send(TEXT, b"next")
        assert await ws.recv() == "next"


@over_loops
async def test_streaming_has_fragments_as_they_come(side):
    async with against_peer(side) as (ws, peer):
        await peer.send(TEXT, b"0", fin=False)
        stream = ws.recv_streaming()
        assert await anext(stream) == "0"
        for number in range(1, 20):
            waiting = asyncio.ensure_future(anext(stream))
            await asyncio.sleep(0)
            assert not waiting.done()
            await peer.send(CONT, b"%d" % number, fin=number == 19)
            assert await waiting == str(number)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


@on_asyncio
async def test_streaming_that_breaks_off(side):
    async with against_peer(side) as (ws, peer):
        await peer.send(TEXT, b"one", fin=False)
        stream = ws.recv_streaming()
        assert await anext(stream) == "one"
        peer.vanish()
        with pytest.raises(ConnectionClosedError):
            await anext(stream)


@on_asyncio
async def test_streaming_of_invalid_text(side):
    async with against_peer(side) as (ws, peer):
        await peer.send(TEXT, b"one", fin=False)
        await peer.send(CONT, b"\xff\xff", fin=False)
        stream = ws.recv_streaming()
        assert await anext(stream) == "one"
        task = asyncio.ensure_future(anext(stream))
        assert (await peer.expect_close())[0] == 1007
        await peer.end()
        with pytest.raises(ConnectionClosedError) as info:
            await task
        assert isinstance(info.value.__cause__, UnicodeDecodeError)


@on_asyncio
async def test_streaming_binary_as_text_that_is_none(side):
    async with against_peer(side) as (ws, peer):
        await peer.send(BINARY, b"one", fin=False)
        await peer.send(CONT, b"\xff")
        stream = ws.recv_streaming(decode=True)
        assert await anext(stream) == "one"
        task = asyncio.ensure_future(anext(stream))
        assert (await peer.expect_close())[0] == 1007
        await peer.end()
        with pytest.raises(ConnectionClosedError):
            await task


@on_asyncio
async def test_streaming_at_the_end(side):
    async with against_peer(side) as (ws, peer):
        closing = asyncio.create_task(peer.close())
        with pytest.raises(ConnectionClosedOK):
            await anext(ws.recv_streaming())
        await closing


# At the end


@over_loops
async def test_messages_before_the_end_come_before_it(side, link):
    async with against_peer(side, link) as (ws, peer):
        peer.write(numbered(peer, 0, 100))
        await peer.close()
        await ws.wait_closed()
        assert [await ws.recv() for _ in range(50)] == strings(0, 50)
        assert [message async for message in ws] == strings(50, 100)
        for _ in range(3):
            with pytest.raises(ConnectionClosedOK):
                await ws.recv()
            with pytest.raises(ConnectionClosedOK):
                await ws.recv_batch()
            assert [message async for message in ws] == []


@on_asyncio
async def test_exceptions_are_those_of_websockets(side):
    async with against_peer(side) as (ws, peer):
        closing = asyncio.create_task(peer.close(3001, "over"))
        with pytest.raises(websockets.ConnectionClosed) as info:
            await ws.recv()
        await closing
        assert type(info.value) is websockets.exceptions.ConnectionClosedError
        assert info.value.rcvd == websockets.frames.Close(3001, "over")
        assert info.value.sent == websockets.frames.Close(3001, "over")
        assert info.value.rcvd_then_sent is True


# recv() as a coroutine


@on_asyncio
async def test_recv_looks_like_a_coroutine():
    async with against_peer() as (ws, peer):
        for function in (ws.recv, type(ws).recv):
            assert inspect.iscoroutinefunction(function)
            assert asyncio.iscoroutinefunction(function)
        assert list(inspect.signature(ws.recv).parameters) == ["decode"]
        receiving = ws.recv()
        assert asyncio.iscoroutine(receiving)
        assert inspect.isawaitable(receiving)
        receiving.close()
        with pytest.warns(RuntimeWarning, match=r"coroutine 'Connection\.recv' was never awaited"):
            ws.recv()
        await peer.send(TEXT, b"still there")
        assert await ws.recv() == "still there"


@over_loops
async def test_ways_to_await_recv(side):
    """With messages there and without, none is lost, and their order is that of the calls."""
    async with against_peer(side) as (ws, peer):
        for queued in (True, False):
            for number, wait in enumerate((asyncio.create_task, asyncio.shield, lambda c: asyncio.wait_for(c, 10))):
                message = f"{queued} {number}".encode()
                if queued:
                    await peer.send(TEXT, message)
                    await peer.through()
                    assert await wait(ws.recv(decode=False)) == message
                else:
                    receiving = asyncio.ensure_future(wait(ws.recv()))
                    await asyncio.sleep(0.001)
                    await peer.send(TEXT, message)
                    assert await receiving == message.decode()


@over_loops
async def test_recv_awaited_twice(side):
    async with against_peer(side) as (ws, peer):
        receiving = ws.recv()
        task = asyncio.create_task(receiving)
        await asyncio.sleep(0)
        assert receiving.cr_await is not None
        with pytest.raises(RuntimeError, match="being awaited already"):
            await receiving
        with pytest.raises(ConcurrencyError):
            await ws.recv()
        await peer.send(TEXT, b"one")
        assert await task == "one"
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            await receiving


@over_loops
@pytest.mark.parametrize("when", ["at once", "waiting", "woken"])
async def test_recv_cancelled(side, when):
    """Before it is begun, while it waits, and after it was woken for a message: the message is the next one's."""
    async with against_peer(side) as (ws, peer):
        task = asyncio.create_task(ws.recv())
        if when != "at once":
            await asyncio.sleep(0)
        if when == "woken":
            ws._step(ws._decoder.feed(peer.frame(TEXT, b"kept")))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        if when != "woken":
            await peer.send(TEXT, b"kept")
        assert await asyncio.wait_for(ws.recv(), 10) == "kept"


@over_loops
@pytest.mark.parametrize("decode", [None, True, False])
async def test_recv_woken_by_a_part(side, decode):
    """The first bytes wake nobody for good: it waits on for the rest, and for the last fragment."""
    async with against_peer(side) as (ws, peer):
        task = asyncio.create_task(ws.recv(decode))
        whole = peer.frame(TEXT, b"frag", fin=False) + peer.frame(CONT, b"ments")
        for place in range(len(whole)):
            peer.write(whole[place : place + 1])
            await asyncio.sleep(0.001)
        assert await task == (b"fragments" if decode is False else "fragments")


@over_loops
async def test_recv_that_waits_when_the_peer_vanishes(side):
    async with against_peer(side) as (ws, peer):
        task = asyncio.create_task(ws.recv())
        await asyncio.sleep(0)
        peer.vanish()
        with pytest.raises(ConnectionClosedError):
            await asyncio.wait_for(task, 5)
