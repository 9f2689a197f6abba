"""How connections end: closing handshakes, peers that vanish, broken rules, handlers and servers that stop."""

from __future__ import annotations

import asyncio
import struct
import time

import pytest
from core.streams import BINARY, CLOSE, CONT, PING, PONG, TEXT, frame
from websockets.frames import Close

import fastws
from fastws import ConnectionClosedError, ConnectionClosedOK, PayloadTooBig, ProtocolError, TooManyFragments

from .net import PLAIN, against_peer, iterated, on_asyncio, over_loops, pair, port_of, raw_client, serving, until

PROMPT_S = 2.0
"""Much less than ``close_timeout``, which is 5 s here: for closings that mustn't wait for it."""


async def ended(ws):
    """The exception that tells how it ended, after messages."""
    messages = []
    while True:
        try:
            messages.append(await ws.recv())
        except fastws.ConnectionClosed as exc:
            return messages, exc


# The closing handshake, begun here


@over_loops
async def test_close(side, link):
    async with against_peer(side, link) as (ws, peer):
        task = asyncio.create_task(ws.close(3210, "enough"))
        waiter = asyncio.create_task(ws.wait_closed())
        assert await peer.expect_close() == (3210, "enough")
        assert not task.done()
        assert not waiter.done()
        await peer.send(CLOSE, struct.pack("!H", 3210) + b"enough")
        await peer.end()
        await task
        await waiter
        assert (ws.close_code, ws.close_reason) == (3210, "enough")
        assert ws.state is fastws.State.CLOSED
        await ws.close()
        with pytest.raises(ConnectionClosedError) as info:
            await ws.recv()
        assert (info.value.rcvd, info.value.sent) == (Close(3210, "enough"), Close(3210, "enough"))
        assert info.value.rcvd_then_sent is False


@over_loops
async def test_close_ends_receiving(side):
    async with against_peer(side) as (ws, peer):
        receiving = asyncio.create_task(ws.recv())
        await asyncio.sleep(0)
        closing = asyncio.create_task(ws.close())
        assert await peer.expect_close() == (1000, "")
        await peer.send(CLOSE, b"\x03\xe8")
        await peer.end()
        with pytest.raises(ConnectionClosedOK):
            await receiving
        await closing


@on_asyncio
async def test_messages_between_the_close_frames_are_received(side):
    async with against_peer(side) as (ws, peer):
        await peer.send(TEXT, b"before")
        await peer.through()
        closing = asyncio.create_task(ws.close())
        await peer.expect_close()
        await peer.send(TEXT, b"between")
        await peer.send(PING, b"late")
        await peer.send(CLOSE, b"\x03\xe8")
        await peer.end()
        await closing
        messages, exc = await ended(ws)
        assert messages == ["before", "between"]
        assert isinstance(exc, ConnectionClosedOK)


@on_asyncio
async def test_close_timeout(side):
    async with against_peer(side, close_timeout=0.1) as (ws, peer):
        await ws.close()
        assert ws.close_code == 1006
        assert await peer.expect_close() == (1000, "")
        _, exc = await ended(ws)
        assert isinstance(exc, ConnectionClosedError)
        assert (exc.rcvd, exc.sent) == (None, Close(1000, ""))
        assert isinstance(exc.__cause__, TimeoutError)


@on_asyncio
async def test_context_manager_closes():
    async with against_peer() as (ws, peer):

        async def use(fail):
            async with ws:
                if fail:
                    raise KeyError("of the program")

        task = asyncio.create_task(use(True))
        assert await peer.expect_close() == (1011, "")
        await peer.send(CLOSE, b"\x03\xf3")
        await peer.end()
        with pytest.raises(KeyError):
            await task


# The closing handshake, begun by the peer


@over_loops
@pytest.mark.parametrize(
    ("code", "reason", "expected"),
    [
        (None, "", 1005),
        (1000, "", 1000),
        (1000, "done", 1000),
        (1001, "", 1001),
        (1002, "yours", 1002),
        (1011, "é" * 61, 1011),
        (1012, "", 1012),
        (3000, "", 3000),
        (4999, "private", 4999),
    ],
)
async def test_peer_closes(side, code, reason, expected):
    async with against_peer(side) as (ws, peer):
        await peer.send(TEXT, b"last")
        await peer.send(CLOSE, b"" if code is None else struct.pack("!H", code) + reason.encode())
        assert await peer.expect_close() == (code, reason)
        await peer.end()
        messages, exc = await ended(ws)
        assert messages == ["last"]
        assert isinstance(exc, ConnectionClosedOK) == (expected in (1000, 1001, 1005))
        assert exc.rcvd == exc.sent == Close(expected, reason)
        assert exc.rcvd_then_sent is True
        assert (ws.close_code, ws.close_reason) == (expected, reason)


@on_asyncio
async def test_what_follows_a_close_frame_is_ignored(side):
    async with against_peer(side) as (ws, peer):
        close = peer.frame(CLOSE, b"\x03\xe8")
        peer.write(peer.frame(TEXT, b"1") + close + peer.frame(TEXT, b"2") + b"\xff" * 100 + close)
        assert await peer.expect_close() == (1000, "")
        await peer.end()
        messages, exc = await ended(ws)
        assert messages == ["1"]
        assert isinstance(exc, ConnectionClosedOK)


@over_loops
async def test_peer_closes_without_waiting_for_the_answer(side, link):
    """Messages, close frame and the end of the TCP connection in one go."""
    async with against_peer(side, link) as (ws, peer):
        peer.write(peer.frame(TEXT, b"x") * 1000 + peer.frame(CLOSE, b"\x03\xe8"))
        peer.writer.close()
        messages, exc = await ended(ws)
        assert len(messages) == 1000
        assert isinstance(exc, ConnectionClosedOK), repr(exc)


@over_loops
async def test_the_same_behind_a_full_queue(side, link):
    """What was read before the end of the stream counts, although it is decoded after it."""
    async with against_peer(side, link, max_queue=4) as (ws, peer):
        peer.write(peer.frame(TEXT, b"x") * 1000 + peer.frame(CLOSE, b"\x03\xe8"))
        peer.writer.close()
        await until(lambda: ws._decoder.blocked)
        await asyncio.sleep(0.05)  # Time for the end of the stream to be seen too early, if it is.
        messages, exc = await ended(ws)
        assert len(messages) == 1000
        assert isinstance(exc, ConnectionClosedOK), repr(exc)
        assert ws.close_code == 1000


@over_loops
@pytest.mark.parametrize("limits", [{}, {"max_queue": 4}, {"max_queue_bytes": 10_000}], ids=["bytes", "4", "10kB"])
@pytest.mark.parametrize("count", [1500, 20_000])
async def test_nothing_is_lost_at_the_end_of_a_stream(side, link, limits, count):
    """What a TLS transport holds when the stream ends must reach the decoder before the transport is gone."""
    async with against_peer(side, link, **limits) as (ws, peer):
        peer.write(b"".join(peer.frame(TEXT, b"%07d" % number * 20) for number in range(count)))
        peer.write(peer.frame(CLOSE, b"\x03\xe8"))
        ending = asyncio.create_task(peer.half_close())

        async def with_pauses():
            taken = 0
            async for message in ws:
                yield message
                taken += 1
                if taken in (1, 100, 10_000):
                    await asyncio.sleep(0.05)

        received, exc = await iterated(with_pauses())
        assert (exc, ws.close_code) == (None, 1000)
        assert received == [f"{number:07}" * 20 for number in range(count)]
        await ending


# Closing with data in the way


@over_loops
@pytest.mark.parametrize("limits", [{"max_queue": 4}, {"max_queue": 0}, {"max_queue_bytes": 1000}])
async def test_close_with_a_full_queue(side, link, limits):
    """The peer's close frame lies behind messages that nobody reads."""
    async with against_peer(side, link, **limits) as (ws, peer):
        peer.write(peer.frame(TEXT, b"x" * 100) * 5000)
        await until(lambda: ws._decoder.blocked)
        begin = time.monotonic()
        closing = asyncio.create_task(ws.close())
        assert await peer.expect_close() == (1000, "")
        await peer.send(CLOSE, b"\x03\xe8")
        await peer.end()
        await closing
        assert time.monotonic() - begin < PROMPT_S
        assert ws.close_code == 1000
        messages, exc = await ended(ws)
        assert 1 <= len(messages) <= 5000
        assert set(messages) == {"x" * 100}
        assert isinstance(exc, ConnectionClosedOK)


@over_loops
async def test_close_while_the_queue_fills(link):
    """The queue is full only after the close frame has left; the peer goes on for a while."""
    async with against_peer("client", link, max_queue=4) as (ws, peer):
        closing = asyncio.create_task(ws.close())
        assert await peer.expect_close() == (1000, "")
        for _ in range(50):
            await peer.send(BINARY, b"x" * 10_000)
        await peer.send(CLOSE, b"\x03\xe8")
        await peer.end()
        await asyncio.wait_for(closing, PROMPT_S)
        assert ws.close_code == 1000


@over_loops
async def test_close_with_a_full_queue_in_a_fragmented_message(side):
    async with against_peer(side, max_queue_bytes=1000) as (ws, peer):
        peer.write(peer.frame(TEXT, b"a" * 600) + peer.frame(TEXT, b"b" * 600, fin=False))
        await until(lambda: ws._decoder.blocked)
        peer.write(peer.frame(CONT, b"b" * 600, fin=False) * 50 + peer.frame(CONT, b"b" * 600))
        closing = asyncio.create_task(ws.close())
        await peer.expect_close()
        await peer.send(CLOSE, b"\x03\xe8")
        await peer.end()
        await asyncio.wait_for(closing, PROMPT_S)
        messages, exc = await ended(ws)
        assert messages == ["a" * 600]
        assert isinstance(exc, ConnectionClosedOK)


@on_asyncio
async def test_peer_closes_behind_a_full_queue(side):
    """The close frame keeps its place behind the messages."""
    async with against_peer(side, max_queue=4) as (ws, peer):
        closing = asyncio.create_task(peer.close(1001, "going"))
        peer.write(peer.frame(TEXT, b"x") * 100)
        messages, exc = await ended(ws)
        await closing
        assert len(messages) in (0, 100)
        assert exc.rcvd == Close(1001, "going")


@over_loops
async def test_close_against_a_peer_that_never_reads(link):
    """Write buffers full, nothing answered: bounded by close_timeout."""
    async with against_peer("client", link, close_timeout=0.2, write_limit=1000) as (ws, peer):
        peer.reader._transport.pause_reading()

        async def send():
            while True:
                await ws.send(b"x" * 1_000_000)

        sending = asyncio.create_task(send())
        await until(lambda: ws.paused)
        await asyncio.wait_for(ws.close(), PROMPT_S)
        with pytest.raises(fastws.ConnectionClosed):
            await ws.send("more")
        await asyncio.gather(sending, return_exceptions=True)
        assert ws.close_code == 1006


# Peers that vanish


@over_loops
async def test_peer_resets(side):
    async with against_peer(side) as (ws, peer):
        waiting = asyncio.create_task(ended(ws))
        await peer.send(TEXT, b"last")
        await peer.through()
        peer.vanish()
        messages, exc = await waiting
        assert messages == ["last"]
        assert isinstance(exc, ConnectionClosedError)
        assert (exc.rcvd, exc.sent) == (None, None)
        assert ws.close_code == 1006
        with pytest.raises(ConnectionClosedError):
            await ws.send("more")
        with pytest.raises(ConnectionClosedError):
            await ws.ping()


@over_loops
async def test_peer_ends_the_stream(side, link):
    async with against_peer(side, link) as (ws, peer):
        await peer.send(TEXT, b"last")
        await peer.through()
        peer.writer.close()
        messages, exc = await ended(ws)
        assert messages == ["last"]
        assert isinstance(exc, ConnectionClosedError)
        assert str(exc) == "no close frame received or sent"


@over_loops
async def test_peer_half_closes(side):
    async with against_peer(side) as (ws, peer):
        await peer.send(TEXT, b"last")
        peer.writer.write_eof()
        messages, exc = await ended(ws)
        assert messages == ["last"]
        assert isinstance(exc, ConnectionClosedError)
        assert isinstance(exc.__cause__, EOFError)


@over_loops
@pytest.mark.parametrize(
    ("sent", "text"),
    [
        (1, "stream ends after 1 bytes, expected 2 bytes"),
        (3, "stream ends after {0} bytes, expected {1} bytes"),
        (50, "stream ends after {0} bytes, expected {1} bytes"),
    ],
)
async def test_end_in_the_middle_of_a_frame(side, sent, text):
    async with against_peer(side) as (ws, peer):
        data = peer.frame(BINARY, b"x" * 1000)
        expected = len(data) if sent > 8 else 4 if peer.key is None else 8
        await peer.send(TEXT, b"last")
        peer.write(data[:sent])
        peer.writer.write_eof()
        messages, exc = await ended(ws)
        assert messages == ["last"]
        assert isinstance(exc, ConnectionClosedError)
        assert isinstance(exc.__cause__, EOFError)
        assert str(exc.__cause__) == text.format(sent, expected)


@over_loops
async def test_peer_resets_while_we_send(side, link):
    async with against_peer(side, link) as (ws, peer):
        await peer.through()
        peer.vanish()

        async def send():
            while True:
                await ws.send(b"x" * 10_000)
                await asyncio.sleep(0)

        with pytest.raises(ConnectionClosedError):
            await send()
        assert ws.close_code == 1006


@over_loops
async def test_own_abort(side, link):
    async with against_peer(side, link) as (ws, _):
        waiting = asyncio.create_task(ended(ws))
        await asyncio.sleep(0)
        ws.transport.abort()
        _, exc = await waiting
        assert isinstance(exc, ConnectionClosedError)
        assert ws.close_code == 1006


# Broken rules

MASKED = b"\x37\xfa\x21\x3d"


def violations():
    """(name, what the peer sends, options, exception, close code, reason or None, parts of the cause's text)."""

    def one(*args, **kwargs):
        return lambda peer: peer.frame(*args, **kwargs)

    def wrong_mask(peer):
        return frame(TEXT, b"hello", key=None if peer.key else MASKED)

    return [
        ("rsv1", one(TEXT, b"x", rsv=4), {}, ProtocolError, 1002, "reserved bits must be 0", ["0b100", "5.2"]),
        ("rsv2", one(TEXT, b"x", rsv=2), {}, ProtocolError, 1002, "reserved bits must be 0", ["0b010", "5.2"]),
        ("rsv3", one(PING, b"x", rsv=1), {}, ProtocolError, 1002, "reserved bits must be 0", ["0b001", "5.2"]),
        ("opcode 3", one(3, b"x"), {}, ProtocolError, 1002, "invalid opcode", ["0x3", "5.2"]),
        ("opcode 15", one(15, b"x"), {}, ProtocolError, 1002, "invalid opcode", ["0xf", "5.2"]),
        ("mask", wrong_mask, {}, ProtocolError, 1002, "incorrect masking", ["mask bit is", "5.1"]),
        ("long ping", one(PING, b"x" * 126), {}, ProtocolError, 1002, "control frame too long", ["126 > max 125"]),
        ("cut ping", one(PING, b"x", fin=False), {}, ProtocolError, 1002, "fragmented control frame", ["0x9", "5.5"]),
        ("cut close", one(CLOSE, b"", fin=False), {}, ProtocolError, 1002, "fragmented control frame", ["0x8", "5.5"]),
        (
            "length 2**63",
            lambda peer: bytes([0x82, 0xFF if peer.key else 0x7F]) + b"\x80" + b"\0" * 11,
            {"max_size": None},
            ProtocolError,
            1002,
            None,
            ["9223372036854775808", "5.2"],
        ),
        ("lone continuation", one(CONT, b"x"), {}, ProtocolError, 1002, "unexpected continuation frame", ["5.4"]),
        (
            "text in text",
            lambda peer: peer.frame(TEXT, b"x", fin=False) + peer.frame(TEXT, b"y"),
            {},
            ProtocolError,
            1002,
            "expected a continuation frame",
            ["0x1", "5.4"],
        ),
        (
            "text",
            one(TEXT, b"ok \xc3\x28"),
            {},
            UnicodeDecodeError,
            1007,
            "invalid continuation byte at position 3",
            ["position 3", "8.1"],
        ),
        ("cut text", one(TEXT, b"\xc3"), {}, UnicodeDecodeError, 1007, "unexpected end of data at position 0", ["8.1"]),
        (
            "too big",
            one(BINARY, b"x" * 1001),
            {"max_size": 1000},
            PayloadTooBig,
            1009,
            "frame with 1001 bytes exceeds limit of 1000 bytes",
            ["1001 > max 1000", "10.4"],
        ),
        (
            "2**63 - 1 bytes",
            lambda peer: bytes([0x82, 0xFF if peer.key else 0x7F]) + b"\x7f" + b"\xff" * 7 + b"\0" * 4,
            {},
            PayloadTooBig,
            1009,
            "frame with 9223372036854775807 bytes exceeds limit of 1048576 bytes",
            ["9223372036854775807 > max 1048576"],
        ),
        (
            "too big in fragments",
            lambda peer: peer.frame(TEXT, b"x" * 600, fin=False) + peer.frame(CONT, b"x" * 600),
            {"max_size": 1000},
            PayloadTooBig,
            1009,
            "frame with 600 bytes after reading 600 bytes exceeds limit of 1000 bytes",
            ["1200 > max 1000", "10.4"],
        ),
        (
            "fragment too big",
            lambda peer: peer.frame(TEXT, b"x" * 600, fin=False),
            {"max_size": (1000, 500)},
            PayloadTooBig,
            1009,
            "frame with 600 bytes exceeds limit of 500 bytes",
            ["600 > max 500"],
        ),
        ("close of 1 byte", one(CLOSE, b"\x03"), {}, ProtocolError, 1002, None, ["close frame too short"]),
        ("close 999", one(CLOSE, b"\x03\xe7"), {}, ProtocolError, 1002, None, ["invalid status code"]),
        ("close 1005", one(CLOSE, b"\x03\xed"), {}, ProtocolError, 1002, None, ["invalid status code"]),
        ("close 1006", one(CLOSE, b"\x03\xee"), {}, ProtocolError, 1002, None, ["invalid status code"]),
        ("close 5000", one(CLOSE, b"\x13\x88"), {}, ProtocolError, 1002, None, ["invalid status code"]),
        ("close text", one(CLOSE, b"\x03\xe8\xff"), {}, UnicodeDecodeError, 1007, None, ["invalid start byte"]),
        (
            "close in a message",
            lambda peer: peer.frame(TEXT, b"x", fin=False) + peer.frame(CLOSE, b"\x03\xe8"),
            {},
            ProtocolError,
            1002,
            "incomplete fragmented message",
            ["incomplete fragmented message"],
        ),
    ]


@over_loops
@pytest.mark.parametrize(
    ("wicked", "options", "error", "code", "reason", "parts"),
    [pytest.param(*case[1:], id=case[0]) for case in violations()],
)
async def test_violations(side, wicked, options, error, code, reason, parts):
    """Right exception, close code and text; what came before is received, what comes after is not."""
    async with against_peer(side, **options) as (ws, peer):
        peer.write(peer.frame(TEXT, b"before") + peer.frame(PING, b"too") + wicked(peer) + peer.frame(TEXT, b"after"))
        assert await peer.read() == (PONG, True, b"too")
        sent_code, sent_reason = await peer.expect_close()
        assert sent_code == code
        if reason is not None:
            assert sent_reason == reason
        await peer.end()
        messages, exc = await ended(ws)
        assert messages == ["before"]
        assert isinstance(exc, ConnectionClosedError)
        assert exc.sent.code == code
        assert isinstance(exc.__cause__, error), repr(exc.__cause__)
        text = str(exc.__cause__)
        for part in parts:
            assert part in text
        if "RFC" in text:
            assert f"close {code}" in text


@on_asyncio
async def test_violations_agree_with_websockets(side):
    """Close code and reason on the wire are those of ``websockets``, to the letter."""

    async def closes(create_connection):
        found = {}
        for name, wicked, options, *_ in violations():
            if name == "length 2**63":
                continue  # RFC 6455 5.2 forbids it; websockets goes on and waits for as many bytes.
            async with against_peer(side, **options, create_connection=create_connection) as (ws, peer):
                waiting = asyncio.create_task(ended(ws))
                peer.write(wicked(peer))
                code, reason = await peer.expect_close()
                await peer.end()
                _, exc = await waiting
                found[name] = (code, reason, type(exc), exc.rcvd, exc.rcvd_then_sent)
        return found

    import websockets.asyncio.client
    import websockets.asyncio.server

    upstream = {
        "client": websockets.asyncio.client.ClientConnection,
        "server": websockets.asyncio.server.ServerConnection,
    }[side]
    expected = await closes(upstream)
    found = await closes(None)
    assert {name: (found[name], expected[name]) for name in expected if found[name] != expected[name]} == {}
    assert found == expected


@on_asyncio
@pytest.mark.parametrize("arrival", ["while waiting", "complete and queued", "incomplete and queued"])
async def test_too_many_fragments(side, arrival):
    async with against_peer(side) as (ws, peer):
        waiting = asyncio.create_task(ended(ws))
        await peer.send(TEXT, b"before")
        await peer.through()
        # A receive thread answers pings before the consumer has run.
        await until(lambda: ws.stats.delivered == 1)
        if arrival != "while waiting":
            # Nobody receives while they come.
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
        peer.write(peer.frame(TEXT, b"x", fin=False) + peer.frame(CONT, b"x", fin=False) * 4095)
        await peer.send(CONT, b"x", fin=arrival == "complete and queued")
        if arrival != "while waiting":
            await peer.through()
            waiting = asyncio.create_task(ended(ws))
        assert await asyncio.wait_for(peer.expect_close(), PROMPT_S) == (1009, "too many fragments")
        await peer.end()
        messages, exc = await waiting
        assert messages == (["before"] if arrival == "while waiting" else [])
        assert isinstance(exc.__cause__, TooManyFragments)
        assert "4097 fragments > max 4096" in str(exc.__cause__)


@on_asyncio
async def test_violation_after_our_close_frame(side):
    async with against_peer(side) as (ws, peer):
        closing = asyncio.create_task(ws.close())
        await peer.expect_close()
        peer.write(peer.frame(3, b""))
        await peer.end()
        await asyncio.wait_for(closing, PROMPT_S)
        _, exc = await ended(ws)
        assert isinstance(exc, ConnectionClosedError)
        assert isinstance(exc.__cause__, ProtocolError)


@on_asyncio
async def test_violation_behind_a_full_queue(side):
    """It is seen when its turn comes, after the messages."""
    async with against_peer(side, max_queue=4) as (ws, peer):
        peer.write(peer.frame(TEXT, b"x") * 100 + peer.frame(3, b""))
        await until(lambda: ws._decoder.blocked)
        messages = [await ws.recv() for _ in range(100)]
        assert messages == ["x"] * 100
        waiting = asyncio.create_task(ended(ws))
        assert await peer.expect_close() == (1002, "invalid opcode")
        await peer.end()
        _, exc = await waiting
        assert isinstance(exc.__cause__, ProtocolError)


# Handlers and servers


@over_loops
async def test_handler_returns(link):
    async def handler(ws):
        await ws.send("bye")

    async with serving(handler, link) as uri, fastws.connect(uri, **link.client) as ws:
        messages, exc = await ended(ws)
        assert messages == ["bye"]
        assert exc.rcvd == Close(1000, "")


@on_asyncio
async def test_handler_fails(caplog):
    async def handler(ws):
        raise KeyError("of the program")

    async with serving(handler) as uri, fastws.connect(uri) as ws:
        _, exc = await ended(ws)
        assert exc.rcvd == Close(1011, "")
    records = [record for record in caplog.records if record.getMessage() == "connection handler failed"]
    assert len(records) == 1
    assert records[0].name == "websockets.server"


@over_loops
async def test_handler_returns_with_a_full_queue(link):
    """Nobody will ever read what the client has sent."""
    blocked = asyncio.Event()

    async def handler(ws):
        await until(lambda: ws._decoder.blocked)
        blocked.set()

    async with fastws.serve(
        handler, "127.0.0.1", 0, max_queue=2, compression=None, close_timeout=5, **link.server
    ) as server:
        async with raw_client(port_of(server), link) as peer:
            peer.write(peer.frame(BINARY, b"x" * 1000) * 1000)
            await blocked.wait()
            assert await asyncio.wait_for(peer.expect_close(), PROMPT_S) == (1000, "")
            await peer.send(CLOSE, b"\x03\xe8")
            await asyncio.wait_for(peer.end(), PROMPT_S)


@over_loops
async def test_server_closes(link):
    done = []

    async def handler(ws):
        done.append(await ended(ws))

    async with fastws.serve(handler, "127.0.0.1", 0, **link.server) as server:
        uri = link.uri(port_of(server))
        async with fastws.connect(uri, **link.client) as one, fastws.connect(uri, **link.client) as two:
            await one.send("hello")
            await until(lambda: len(server.connections) == 2)
            server.close(code=1012, reason="restart")
            waiting = asyncio.create_task(server.wait_closed())
            for ws in (one, two):
                _, exc = await ended(ws)
                assert exc.rcvd == Close(1012, "restart")
            await asyncio.wait_for(waiting, PROMPT_S)
    assert sorted(messages for messages, _ in done) == [[], ["hello"]]


@on_asyncio
async def test_server_closes_connections_whose_queue_is_full():
    closed = []

    async def handler(ws):
        await ws.wait_closed()
        closed.append(ws.close_code)

    async with fastws.serve(handler, "127.0.0.1", 0, max_queue=2, compression=None) as server:
        async with raw_client(port_of(server)) as peer:
            peer.write(peer.frame(BINARY, b"x" * 1000) * 1000)
            await until(lambda: server.connections and next(iter(server.connections))._decoder.blocked)
            server.close()
            assert await peer.expect_close() == (1001, "")
            await peer.send(CLOSE, b"\x03\xe9")
            await peer.end()
            await asyncio.wait_for(server.wait_closed(), PROMPT_S)
    assert closed == [1001]


@over_loops
async def test_both_close_at_once(link):
    async with pair(link) as (client, server):
        await asyncio.wait_for(asyncio.gather(client.close(1000, "c"), server.close(1000, "s")), PROMPT_S)
        assert client.close_code == server.close_code == 1000
        assert (client.close_reason, server.close_reason) == ("s", "c")


@on_asyncio
async def test_close_while_sending_fragments(side):
    """As upstream: the message can't be completed, the close code says so."""
    async with against_peer(side, PLAIN) as (ws, peer):

        async def fragments():
            yield "one"
            await asyncio.Event().wait()

        sending = asyncio.create_task(ws.send(fragments()))
        assert await peer.read() == (TEXT, False, b"one")
        closing = asyncio.create_task(ws.close())
        assert await peer.expect_close() == (1011, "close during fragmented message")
        await peer.send(CLOSE, b"\x03\xf3")
        await peer.end()
        await closing
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
