"""``send``, ``send_batch`` and ``broadcast``: what goes out on the wire, and when it waits."""

from __future__ import annotations

import array
import asyncio
import logging
import socket

import pytest
import websockets
from core.streams import BINARY, CONT, PING, TEXT

import fastws
from fastws import ConcurrencyError, ConnectionClosedError, ConnectionClosedOK

from .net import PLAIN, QUIET, against_peer, on_asyncio, over_loops, pair, port_of, raw_client, steady, until


class Text(str):
    """A subclass of str."""


async def as_async(items):
    for item in items:
        yield item


# One message


@over_loops
@pytest.mark.parametrize(
    ("message", "text", "opcode", "payload"),
    [
        ("café", None, TEXT, b"caf\xc3\xa9"),
        ("café", True, TEXT, b"caf\xc3\xa9"),
        ("café", False, BINARY, b"caf\xc3\xa9"),
        ("", None, TEXT, b""),
        (Text("sub"), None, TEXT, b"sub"),
        (b"\xff\x00", None, BINARY, b"\xff\x00"),
        (b"json", True, TEXT, b"json"),
        (b"json", False, BINARY, b"json"),
        (bytearray(b"array"), None, BINARY, b"array"),
        (bytearray(b"array"), True, TEXT, b"array"),
        (memoryview(b"view"), None, BINARY, b"view"),
        (memoryview(b"view"), True, TEXT, b"view"),
        (memoryview(b"0123456789")[::2], None, BINARY, b"02468"),
        (memoryview(array.array("H", [1, 2])), None, BINARY, array.array("H", [1, 2]).tobytes()),
        ("x" * 125, None, TEXT, b"x" * 125),
        ("x" * 126, None, TEXT, b"x" * 126),
        ("x" * 65535, None, TEXT, b"x" * 65535),
        ("x" * 65536, None, TEXT, b"x" * 65536),
        (b"x" * 3_000_000, None, BINARY, b"x" * 3_000_000),
    ],
    ids=range(19),
)
async def test_kinds(side, message, text, opcode, payload):
    async with against_peer(side) as (ws, peer):
        sending = asyncio.create_task(ws.send(message, text=text))
        assert await peer.read() == (opcode, True, payload)
        await sending


@over_loops
@pytest.mark.parametrize("make", [list, tuple, iter, as_async], ids=["list", "tuple", "iterator", "async"])
async def test_fragments(side, make):
    async with against_peer(side) as (ws, peer):
        cases = [
            (["caf", "é", ""], None, TEXT, [b"caf", b"\xc3\xa9", b""]),
            (["a"], False, BINARY, [b"a"]),
            ([b"a", bytearray(b"b"), memoryview(b"c")], None, BINARY, [b"a", b"b", b"c"]),
            ([b"a", b"b"], True, TEXT, [b"a", b"b"]),
        ]
        for fragments, text, opcode, payloads in cases:
            await ws.send(make(fragments), text=text)
            expected = [(CONT if place else opcode, False, payload) for place, payload in enumerate(payloads)]
            assert [await peer.read() for _ in payloads] == expected
            assert await peer.read() == (CONT, True, b"")
        await ws.send(make([]))
        await ws.send("after")
        assert await peer.read() == (TEXT, True, b"after")


@on_asyncio
async def test_others_wait_for_a_fragmented_message(side):
    async with against_peer(side) as (ws, peer):
        go = asyncio.Event()

        async def fragments():
            yield "one"
            await go.wait()
            yield "two"

        tasks = [asyncio.create_task(ws.send(fragments()))]
        assert await peer.read() == (TEXT, False, b"one")
        tasks.append(asyncio.create_task(ws.send("whole")))
        tasks.append(asyncio.create_task(ws.send_batch(["in", "batch"])))
        await (await ws.ping("control frames don't wait") and asyncio.sleep(0))
        assert (await peer.read())[0] == PING
        go.set()
        await asyncio.gather(*tasks)
        assert [await peer.read() for _ in range(5)] == [
            (CONT, False, b"two"),
            (CONT, True, b""),
            (TEXT, True, b"whole"),
            (TEXT, True, b"in"),
            (TEXT, True, b"batch"),
        ]


@on_asyncio
@pytest.mark.parametrize(
    ("message", "text"),
    [
        ({"a": 1}, "data is a dict-like object"),
        (1, "data must be str, bytes, iterable, or async iterable"),
        (None, "data must be str, bytes, iterable, or async iterable"),
        (object(), "data must be str, bytes, iterable, or async iterable"),
    ],
)
async def test_refused(message, text):
    async with against_peer() as (ws, peer):
        with pytest.raises(TypeError) as info:
            await ws.send(message)
        assert str(info.value) == text
        await ws.send("goes on")
        assert await peer.read() == (TEXT, True, b"goes on")


@on_asyncio
@pytest.mark.parametrize("fragments", [["a", b"b"], [b"a", "b"], ["a", 1]])
async def test_fragments_of_several_kinds(side, fragments):
    async with against_peer(side) as (ws, peer):
        sending = asyncio.create_task(ws.send(fragments))
        await peer.read()
        assert await peer.expect_close() == (1011, "error in fragmented message")
        await peer.end()
        with pytest.raises((TypeError, ConnectionClosedError)):
            await sending
        assert ws.close_code == 1006
        assert ws.protocol.close_sent.code == 1011


@over_loops
async def test_after_the_end(side):
    async with against_peer(side) as (ws, peer):
        await peer.close()
        for sending in (ws.send("x"), ws.send(["x"]), ws.send_batch(["x"]), ws.ping(), ws.pong()):
            with pytest.raises(ConnectionClosedOK):
                await sending


@on_asyncio
async def test_during_the_closing_handshake(side):
    async with against_peer(side) as (ws, peer):
        closing = asyncio.create_task(ws.close())
        await peer.expect_close()
        sending = asyncio.create_task(ws.send("late"))
        batch = asyncio.create_task(ws.send_batch(["late"]))
        await asyncio.sleep(0)
        assert not sending.done()
        await peer.send(0x8, b"\x03\xe8")
        await peer.end()
        await closing
        for task in (sending, batch):
            with pytest.raises(ConnectionClosedOK):
                await task


# Many messages


@over_loops
async def test_send_batch(side, link):
    async with against_peer(side, link) as (ws, peer):
        await ws.send_batch(["a", b"b", bytearray(b"c"), memoryview(b"d"), ""])
        await ws.send_batch(["a", b"b"], text=True)
        await ws.send_batch(["a", b"b"], text=False)
        await ws.send_batch([])
        await ws.send_batch(str(number) for number in range(3))
        opcodes = [(TEXT, b"a"), (BINARY, b"b"), (BINARY, b"c"), (BINARY, b"d"), (TEXT, b"")]
        opcodes += [(TEXT, b"a"), (TEXT, b"b"), (BINARY, b"a"), (BINARY, b"b")]
        opcodes += [(TEXT, b"0"), (TEXT, b"1"), (TEXT, b"2")]
        assert [await peer.read() for _ in opcodes] == [(opcode, True, payload) for opcode, payload in opcodes]


@on_asyncio
async def test_send_batch_is_one_write(monkeypatch):
    async with against_peer() as (ws, peer):
        writes = []
        write = ws.transport.write
        monkeypatch.setattr(ws.transport, "write", lambda data: (writes.append(len(data)), write(data)))
        await ws.send_batch(["x" * 10] * 1000)
        assert writes == [16 * 1000]
        assert [await peer.read() for _ in range(1000)] == [(TEXT, True, b"x" * 10)] * 1000


@on_asyncio
async def test_send_batch_refuses_as_a_whole():
    async with against_peer() as (ws, peer):
        with pytest.raises(TypeError, match="messages must be str or bytes-like, not int"):
            await ws.send_batch(["a", 1])
        await ws.send("goes on")
        assert await peer.read() == (TEXT, True, b"goes on")


@over_loops
async def test_batches_of_batches(link):
    async with pair(link, compression="deflate", client={"max_queue_bytes": 50_000}) as (client, server):
        sent = [f"{number} " * 20 for number in range(5000)]

        async def feed():
            for place in range(0, 5000, 100):
                await server.send_batch(sent[place : place + 100])
            await server.close()

        task = asyncio.create_task(feed())
        assert [message async for batch in client.batches() for message in batch] == sent
        await task


# Backpressure


@over_loops
@pytest.mark.parametrize("how", ["send", "batch", "fragments"])
async def test_waits_for_a_peer_that_does_not_read(side, link, how):
    async with against_peer(side, link, write_limit=(20_000, 5_000)) as (ws, peer):
        peer.reader._transport.pause_reading()
        payload = b"x" * 10_000
        sent = 0

        async def feed():
            nonlocal sent
            while sent < 2000:
                if how == "send":
                    await ws.send(payload)
                elif how == "batch":
                    await ws.send_batch([payload])
                else:
                    await ws.send([payload])
                sent += 1

        task = asyncio.create_task(feed())
        await until(lambda: ws.paused)
        assert await steady(lambda: sent) < 2000
        assert ws.paused
        peer.reader._transport.resume_reading()
        for _ in range(2000):
            frame = await peer.read()
            assert frame[2] == payload
            if how == "fragments":
                assert (await peer.read())[1:] == (True, b"")
        await task
        assert not ws.paused


@over_loops
async def test_waiting_ends_when_the_peer_vanishes():
    async with against_peer("client", write_limit=1000) as (ws, peer):
        peer.reader._transport.pause_reading()

        async def feed():
            while True:
                await ws.send(b"x" * 100_000)

        task = asyncio.create_task(feed())
        await until(lambda: ws.paused)
        peer.vanish()
        with pytest.raises(ConnectionClosedError):
            await asyncio.wait_for(task, 5)


@on_asyncio
async def test_write_limits_reach_the_transport():
    for limit, expected in [(1000, (250, 1000)), ((1000, 10), (10, 1000))]:
        async with against_peer(write_limit=limit) as (ws, _):
            assert ws.transport.get_write_buffer_limits() == expected


# To all


@over_loops
@pytest.mark.parametrize(
    ("message", "text", "expected"),
    [
        ("é", None, (TEXT, True, b"\xc3\xa9")),
        ("é", False, (BINARY, True, b"\xc3\xa9")),
        (b"x", None, (BINARY, True, b"x")),
        (b"x", True, (TEXT, True, b"x")),
        (bytearray(b"x"), None, (BINARY, True, b"x")),
        (memoryview(b"x"), None, (BINARY, True, b"x")),
    ],
)
async def test_broadcast(link, message, text, expected):
    async with fastws.serve(lambda ws: ws.wait_closed(), "127.0.0.1", 0, **QUIET, **link.server) as server:
        port = port_of(server)
        async with raw_client(port, link) as one, raw_client(port, link) as two:
            await until(lambda: len(server.connections) == 2)
            fastws.broadcast(server.connections, message, text=text)
            assert await one.read() == await two.read() == expected


@on_asyncio
async def test_broadcast_to_a_mixture(caplog):
    """Connections of fastws and of websockets, clients and servers, with and without compression, open and closed."""
    async with (
        pair() as (client, server),
        pair(compression="deflate") as (deflating_client, deflating_server),
        pair(server={"create_connection": websockets.ServerConnection}) as (other_client, other_server),
        pair() as (closed_client, closed_server),
    ):
        await closed_client.close()
        with caplog.at_level(logging.WARNING):
            fastws.broadcast({server, deflating_server, other_server, closed_server}, "x" * 1000)
            clients = [client, deflating_client, other_client, closed_client]
            fastws.broadcast(clients, b"y" * 1000, raise_exceptions=True)
        for ws in (client, deflating_client, other_client):
            assert await ws.recv() == "x" * 1000
        for ws in (server, deflating_server, other_server):
            assert await ws.recv() == b"y" * 1000
        websockets.broadcast([server, deflating_server, other_server], "theirs")
        for ws in (client, deflating_client, other_client):
            assert await ws.recv() == "theirs"
    assert not caplog.records


@on_asyncio
async def test_broadcast_refuses():
    for message in (1, None, ["a"], {"a": 1}):
        with pytest.raises(TypeError, match="data must be str or bytes"):
            fastws.broadcast([], message)


@on_asyncio
async def test_broadcast_skips_who_sends_fragments(caplog):
    async with against_peer() as (ws, peer):
        go = asyncio.Event()

        async def fragments():
            yield "one"
            await go.wait()

        task = asyncio.create_task(ws.send(fragments()))
        await peer.read()
        with caplog.at_level(logging.WARNING):
            fastws.broadcast([ws], "x")
        assert [record.getMessage() for record in caplog.records] == ["skipped broadcast: sending a fragmented message"]
        with pytest.raises(ExceptionGroup) as info:
            fastws.broadcast([ws], "x", raise_exceptions=True)
        assert isinstance(info.value.exceptions[0], ConcurrencyError)
        go.set()
        await task


@on_asyncio
async def test_broadcast_that_cannot_write(caplog, monkeypatch):
    async with pair() as (_, server):

        def broken(data):
            raise OSError("no more")

        with monkeypatch.context() as patch:
            patch.setattr(server.transport, "write", broken)
            with caplog.at_level(logging.WARNING):
                fastws.broadcast([server], "x")
            assert [record.getMessage() for record in caplog.records] == [
                "skipped broadcast: failed to write message: OSError: no more"
            ]
            with pytest.raises(ExceptionGroup) as info:
                fastws.broadcast([server], "x", raise_exceptions=True)
            assert isinstance(info.value.exceptions[0].__cause__, OSError)


@over_loops
async def test_write_that_fails(side):
    async with against_peer(side) as (ws, peer):
        ws.transport.write_eof()
        assert await peer.reader.read() == b""
        with pytest.raises(ConnectionClosedError) as info:
            await ws.send("x")
        assert isinstance(info.value.__cause__, RuntimeError)
        assert "after write_eof" in str(info.value.__cause__)
        assert ws.close_code == 1006


# Straight to the socket


@over_loops
async def test_order_of_all_that_sends(side, link):
    """Control frames, batches and fragments go through the transport, whole messages past it when it is empty."""
    async with against_peer(side, link) as (ws, peer):
        expected = []
        for round_ in range(50):
            payload = bytes([round_]) * (1 + 5000 * (round_ % 7))
            await ws.send(payload)
            await ws.ping(b"%d" % round_)
            await ws.send_batch([payload, "batch"])
            await ws.send(["fragment"])
            await ws.send("text")
            expected += [(BINARY, True, payload), (PING, True, b"%d" % round_), (BINARY, True, payload)]
            expected += [(TEXT, True, b"batch"), (TEXT, False, b"fragment"), (CONT, True, b""), (TEXT, True, b"text")]
            if round_ % 10 == 9:
                assert [await peer.read() for _ in expected] == expected
                expected.clear()


@over_loops
async def test_order_while_the_peer_does_not_read(side):
    """A frame that the socket takes in part: the rest, and what follows, is the transport's until that is gone."""
    async with against_peer(side, write_limit=10_000_000) as (ws, peer):
        peer.reader._transport.pause_reading()
        sent = 0
        while not ws.transport.get_write_buffer_size() or sent % 100:
            await ws.send(b"%d " % sent * 3000)
            sent += 1
        peer.reader._transport.resume_reading()
        for number in range(sent):
            assert (await peer.read())[2] == b"%d " % number * 3000
        await until(lambda: not ws.transport.get_write_buffer_size())
        await ws.send("last")
        assert await peer.read() == (TEXT, True, b"last")


@over_loops
async def test_close_while_much_is_unsent(side):
    """The close frame comes behind all messages."""
    async with against_peer(side, write_limit=10_000_000) as (ws, peer):
        peer.reader._transport.pause_reading()
        sent = 0
        while not ws.transport.get_write_buffer_size():
            await ws.send(b"x" * 50_000)
            sent += 1
        closing = asyncio.create_task(ws.close())
        await asyncio.sleep(0)
        peer.reader._transport.resume_reading()
        for _ in range(sent):
            assert (await peer.read())[0] == BINARY
        assert await peer.expect_close() == (1000, "")
        await peer.send(0x8, b"\x03\xe8")
        await peer.end()
        await closing


@over_loops
@pytest.mark.parametrize("how", ["close", "abort"])
async def test_after_the_transport_was_closed(side, how):
    """Its descriptor may be somebody else's by then: nothing is written to it."""
    async with against_peer(side) as (ws, _):
        getattr(ws.transport, how)()
        # uvloop has closed it, so one of these has its number; asyncio will.
        ours, theirs = socket.socketpair()
        with ours, theirs:
            await asyncio.gather(*(ws.send("stray") for _ in range(5)), return_exceptions=True)
            for sock in (ours, theirs):
                sock.setblocking(False)
                with pytest.raises(BlockingIOError):
                    sock.recv(100)
        with pytest.raises(ConnectionClosedError):
            await ws.send("x")


@pytest.mark.loop_receives
@over_loops
async def test_transports_that_are_not_plain(link):
    """TLS, a transport of somebody else's and a subclass are given every byte."""
    async with against_peer("client", link) as (ws, _):
        plain = link is PLAIN
        assert type(ws.transport).__name__ in ("_SelectorSocketTransport", "TCPTransport") or not plain
        writes = []

        class Spy(type(ws.transport) if "asyncio" in type(ws.transport).__module__ else object):
            def __init__(self, transport):
                self.transport = transport

            def __getattribute__(self, name):
                transport = object.__getattribute__(self, "transport")
                if name == "write":
                    return lambda data: (writes.append(len(data)), transport.write(data))
                return getattr(transport, name)

        ws.transport = Spy(ws.transport)
        ws._start_sending(ws._encoder)
        await ws.send("x" * 10)
        assert writes == [16]
        ws.transport = object.__getattribute__(ws.transport, "transport")


# An overridden send


class Shouting(fastws.ClientConnection):
    """Sends in capitals."""

    async def send(self, message, *, text=None):
        await super().send(message.upper() if isinstance(message, str) else message, text=text)


@over_loops
async def test_overridden():
    async with pair(client={"create_connection": Shouting}) as (client, server):
        await client.send("loud")
        await client.send(b"raw", text=True)
        assert [await server.recv(), await server.recv()] == ["LOUD", "raw"]


@on_asyncio
async def test_replaced_in_one_connection(monkeypatch):
    async with pair() as (client, server):
        sent = []

        async def recording(message, **options):
            sent.append(message)
            await fastws.ClientConnection.send(client, message, **options)

        with monkeypatch.context() as patch:
            patch.setattr(client, "send", recording)
            await client.send("one")
        await client.send("two")
        assert [await server.recv(), await server.recv()] == ["one", "two"]
        assert sent == ["one"]


@over_loops
async def test_cancelled_while_it_waits(side):
    """The message was handed over: cancelling stops the waiting only."""
    async with against_peer(side, write_limit=1000) as (ws, peer):
        peer.reader._transport.pause_reading()
        sent = 0
        while not ws.paused:
            sending = asyncio.ensure_future(ws.send(b"x" * 100_000))
            sent += 1
            await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        peer.reader._transport.resume_reading()
        for _ in range(sent):
            assert (await peer.read())[2] == b"x" * 100_000
        await ws.send("goes on")
        assert await peer.read() == (TEXT, True, b"goes on")


@over_loops
async def test_tasks_send_at_once(side):
    """Each message whole, and in the order of the tasks."""
    async with against_peer(side, write_limit=1000) as (ws, peer):
        payloads = [bytes([number]) * 10_000 for number in range(200)]
        sending = asyncio.gather(*(ws.send(payload) for payload in payloads))
        assert [(await peer.read())[2] for _ in payloads] == payloads
        await sending


@on_asyncio
async def test_masking_keys_differ():
    """A client's frames of the same message differ: RFC 6455 5.3."""
    async with against_peer() as (ws, peer):
        await ws.send_batch(["x" * 8] * 500)
        for _ in range(500):
            await ws.send("x" * 8)
        data = await peer.reader.readexactly(14 * 1000)
        keys = {data[place + 2 : place + 6] for place in range(0, len(data), 14)}
        assert len(keys) > 990


@on_asyncio
async def test_sockets_do_not_wait_to_send():
    async with pair(PLAIN) as ends:
        for ws in ends:
            sock = ws.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
