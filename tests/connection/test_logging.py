"""Logs have the names and the wording of ``websockets``, and each frame once."""

from __future__ import annotations

import asyncio
import collections
import contextlib
import itertools
import logging
import re

import pytest
import websockets
from core.streams import BINARY, CLOSE, CONT, PING, PONG, TEXT, deflate

import fastws

from .net import PLAIN, QUIET, against_peer, on_asyncio, over_loops, pair, port_of, serving, until

CLIENTS = {"websockets": websockets.ClientConnection, "fastws": fastws.ClientConnection}
SERVERS = {"websockets": websockets.ServerConnection, "fastws": fastws.ServerConnection}
CLASSES = {"client": CLIENTS, "server": SERVERS}

DEFLATED = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover"


class Log(logging.Handler):
    """Keeps (level, message), without what differs from run to run.

    Attributes:
        logger: What to give to ``connect`` and ``serve``.
    """

    _numbers = itertools.count()

    def __init__(self, level: int = logging.DEBUG) -> None:
        super().__init__()
        self.logger = logging.Logger(f"test.{next(self._numbers)}", level)
        self.logger.addHandler(self)
        self.records: list[logging.LogRecord] = []
        self.entries: list[tuple[str, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        self.entries.append((record.levelname, normal(record.getMessage())))

    def frames(self, direction: str) -> list[str]:
        """Messages about frames received ("<") or sent (">")."""
        pattern = re.compile(rf"{direction} (CONT|TEXT|BINARY|CLOSE|PING|PONG)\b")
        return [message for _, message in self.entries if pattern.match(message)]


def normal(message: str) -> str:
    message = re.sub(r"(Sec-WebSocket-(?:Key|Accept)|Date|Host): .*", r"\1: ...", message)
    message = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:...", message)
    # Keepalive pings have four random bytes.
    return re.sub(r"(PING|PONG) .*\[(?:binary|text), 4 bytes\]", r"\1 ...", message)


# Ways to receive


async def by_batches(ws):
    return [message async for batch in ws.batches() for message in batch]


async def by_iteration(ws):
    return [message async for message in ws]


async def by_streaming(ws):
    received = []
    with contextlib.suppress(fastws.ConnectionClosedOK):
        while True:
            received.append("".join([fragment async for fragment in ws.recv_streaming()]))
    return received


# Two ends


async def exchange(ws, other):
    """One thing at a time, so that there is one order."""
    for message in ("text", "é", "", b"binary", b"", "x" * 10_000, b"\0" * 10_000, "0" * 75, "0" * 76):
        await ws.send(message)
        assert await other.recv() == message
    await ws.send(["frag", "ments"])
    assert await other.recv() == "fragments"
    await ws.send([b"\0", b"\1", b"\2"])
    assert [fragment async for fragment in other.recv_streaming()] == [b"\0", b"\1", b"\2", b""]
    await ws.send(b"json", text=True)
    assert await other.recv() == "json"
    assert await (await ws.ping("ping data")) >= 0
    await ws.pong(b"unsolicited")
    assert await (await other.ping(b"\0\1\2\3\4")) >= 0


async def logs_of_exchange(client, server, *, level=logging.DEBUG, closer="client", code=1000, **options):
    """(entries of the client's log, of the server's) of connections of those packages."""
    logs = Log(level), Log(level)
    async with pair(
        client={"create_connection": CLIENTS[client], "logger": logs[0].logger},
        server={"create_connection": SERVERS[server], "logger": logs[1].logger},
        **options,
    ) as (one, other):
        await exchange(one, other)
        await exchange(other, one)
        await (one if closer == "client" else other).close(code, "reason")
        await asyncio.gather(one.wait_closed(), other.wait_closed())
    return [log.entries for log in logs]


# A thread that receives finds the end of the stream when it comes, not when the loop gets to it.
@pytest.mark.loop_receives
@over_loops
@pytest.mark.parametrize("compression", [None, "deflate"])
@pytest.mark.parametrize("closer", ["client", "server"])
async def test_exchange(compression, closer):
    options = {"compression": compression, "closer": closer}
    expected = await logs_of_exchange("websockets", "websockets", **options)
    for client, server in [("fastws", "websockets"), ("websockets", "fastws"), ("fastws", "fastws")]:
        assert await logs_of_exchange(client, server, **options) == expected
    messages = [message for _, message in expected[0]]
    assert "> TEXT 'text' [4 bytes]" in messages
    assert "< PING 'ping data' [text, 9 bytes]" in messages
    assert "= connection is CLOSED" in messages


@on_asyncio
@pytest.mark.parametrize("level", [logging.INFO, logging.WARNING])
async def test_exchange_without_debug(level):
    expected = await logs_of_exchange("websockets", "websockets", level=level, code=4000)
    assert await logs_of_exchange("fastws", "fastws", level=level, code=4000) == expected
    assert not [entry for entry in expected if ("DEBUG", "") in entry]


# One end, and a peer that says anything


async def messages_and_close(peer, ws):
    for opcode, payload in [(TEXT, b"one"), (BINARY, b"\0"), (PING, b"p"), (PONG, b"q")]:
        await peer.send(opcode, payload)
        if opcode == PING:
            assert await peer.read() == (PONG, True, payload)
        await peer.through()
    await peer.close(4001, "bye")


async def close_without_code(peer, ws):
    await peer.close(None)


async def wrong_close_code(peer, ws):
    await peer.send(CLOSE, b"\x03\xed")
    await peer.expect_close()
    await peer.end()


async def close_of_one_byte(peer, ws):
    await peer.send(CLOSE, b"\x03")
    await peer.expect_close()
    await peer.end()


async def close_in_a_message(peer, ws):
    await peer.send(TEXT, b"begun", fin=False)
    await peer.send(CLOSE, b"\x03\xe8")
    await peer.expect_close()
    await peer.end()


def refused(*frames):
    """A peer whose last frame breaks a rule."""

    async def scenario(peer, ws):
        receiving = asyncio.create_task(by_iteration(ws))
        for opcode, payload, options in frames:
            await peer.send(opcode, payload, **options)
        await peer.expect_close()
        await peer.end()
        with pytest.raises(fastws.ConnectionClosedError):
            await receiving

    return scenario


async def end_of_stream(peer, ws):
    await peer.send(TEXT, b"last")
    await peer.through()
    if peer.key is None:
        await peer.half_close()
        await peer.reader.read()
    else:
        await peer.half_close()
        await peer.expect_close()


async def peer_resets(peer, ws):
    peer.vanish()


async def we_close(peer, ws):
    closing = asyncio.create_task(ws.close(1001, "away"))
    await peer.expect_close()
    await peer.send(CLOSE, b"\x03\xe9")
    await peer.end()
    await closing


async def we_close_and_get_data(peer, ws):
    closing = asyncio.create_task(ws.close())
    await peer.expect_close()
    await peer.send(TEXT, b"late")
    await peer.send(PING, b"late")
    await peer.send(CLOSE, b"\x03\xe8")
    await peer.end()
    await closing


async def we_send(peer, ws):
    await ws.send("text")
    await ws.send(["a", "b"])
    await ws.ping(b"ping")
    await ws.pong(b"pong")
    websockets.broadcast([ws], "to all")
    for _ in range(7):
        await peer.read()
    await peer.close()


SCENARIOS = [
    messages_and_close,
    close_without_code,
    wrong_close_code,
    close_of_one_byte,
    close_in_a_message,
    end_of_stream,
    peer_resets,
    we_close,
    we_close_and_get_data,
    we_send,
]


async def log_against_peer(package, side, scenario, **options):
    log = Log()
    async with against_peer(
        side, create_connection=CLASSES[side][package], logger=log.logger, max_size=1000, **options
    ) as (ws, peer):
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await scenario(peer, ws)
        await ws.wait_closed()
    return log.entries


def is_data_received(entry):
    return re.match("< (TEXT|BINARY|CONT)", entry[1]) is not None


@on_asyncio
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_against_peers(side, scenario, receive):
    expected = await log_against_peer("websockets", side, scenario)
    assert ("DEBUG", "= connection is CLOSED") in expected
    ours = await log_against_peer("fastws", side, scenario)
    if receive == "thread":
        # What has come when the loop gets to it: data frames in their order, all else in its.
        assert [*filter(is_data_received, ours)] == [*filter(is_data_received, expected)]
        assert [*itertools.filterfalse(is_data_received, ours)] == [*itertools.filterfalse(is_data_received, expected)]
    else:
        assert ours == expected


FINE = (TEXT, b"fine", {})
BEGUN = (TEXT, b"begun", {"fin": False})

# Names, frames, and whether websockets logs the last of them: it looks into the frame before it refuses it.
REFUSED = [
    ("reserved bits", [FINE, (TEXT, b"x", {"rsv": 1})], False),
    ("unknown opcode", [FINE, (3, b"x", {})], False),
    ("fragmented control frame", [FINE, (PING, b"x", {"fin": False})], False),
    ("long control frame", [FINE, (PING, b"x" * 126, {})], False),
    ("too big", [FINE, (TEXT, b"x" * 1001, {})], False),
    ("too big together", [BEGUN, (CONT, b"x" * 1000, {})], False),
    ("close reason", [FINE, (CLOSE, b"\x03\xe8\xff", {})], False),
    ("unexpected continuation", [FINE, (CONT, b"x", {})], True),
    ("expected continuation", [BEGUN, (TEXT, b"x", {})], True),
    ("not UTF-8", [FINE, (TEXT, b"\xff", {})], True),
]


@on_asyncio
@pytest.mark.parametrize(("frames", "logged"), [case[1:] for case in REFUSED], ids=[case[0] for case in REFUSED])
async def test_frames_that_are_refused(side, frames, logged):
    """fastws refuses a data frame before there is anything to log; the rest of the log is the same."""
    expected = await log_against_peer("websockets", side, refused(*frames))
    if logged:
        received = [entry for entry in expected if re.match("< (TEXT|CONT)", entry[1])]
        assert len(received) == len(frames)
        expected.remove(received[-1])
    assert await log_against_peer("fastws", side, refused(*frames)) == expected


@on_asyncio
async def test_keepalive(side):
    async def silent(peer, ws):
        while (await peer.read())[0] == PING:
            pass
        await peer.end()

    options = {"ping_interval": 0.01, "ping_timeout": 0.02}
    expected = await log_against_peer("websockets", side, silent, **options)
    assert ("DEBUG", "% sent keepalive ping") in expected
    assert ("DEBUG", "- timed out waiting for keepalive pong") in expected
    assert await log_against_peer("fastws", side, silent, **options) == expected


# Each frame once


@over_loops
async def test_frames_in_one_segment(side):
    """Data frames in their order, control frames in theirs; none twice, none missed."""

    async def burst(peer, ws):
        data = b"".join(
            peer.frame(TEXT, b"%d" % number, fin=number % 3 != 0)
            + (b"" if number % 3 else peer.frame(PING, b"in %d" % number) + peer.frame(CONT, b"rest %d" % number))
            + peer.frame(PONG, b"behind %d" % number)
            for number in range(50)
        )
        peer.write(data + peer.frame(CLOSE, b"\x03\xe8"))
        await peer.expect_close()
        await peer.end()

    ours = await log_against_peer("fastws", side, burst)
    theirs = await log_against_peer("websockets", side, burst, max_queue=None)
    assert collections.Counter(ours) == collections.Counter(theirs)
    for kind in (r"< (TEXT|CONT)", r"< (PING|PONG|CLOSE)", r"> (PONG|CLOSE)", "="):
        order = [[message for _, message in entries if re.match(kind, message)] for entries in (ours, theirs)]
        assert order[0] == order[1]
        assert order[0]


@over_loops
@pytest.mark.parametrize("way", [by_iteration, by_batches, by_streaming], ids=lambda way: way.__name__)
@pytest.mark.parametrize("options", [{}, {"max_queue": 2}, {"max_queue_bytes": 100}], ids=["", "2", "100-bytes"])
async def test_frames_under_limits(side, way, options):
    """Decoding stops and goes on at every limit, the consumer takes frames away before and after they are logged."""
    log = Log()
    async with against_peer(side, logger=log.logger, **options) as (ws, peer):
        receiving = asyncio.create_task(way(ws))
        for number in range(300):
            peer.write(peer.frame(TEXT, b"%d" % number))
            if number % 40 == 0:
                await asyncio.sleep(0.001)
        await peer.close()
        assert await receiving == [str(number) for number in range(300)]
    texts = [message for message in log.frames("<") if "TEXT" in message]
    assert texts == [f"< {fastws.Frame(fastws.Opcode.TEXT, b'%d' % number)}" for number in range(300)]


@on_asyncio
async def test_frames_of_a_deflating_peer(side):
    """Logged as they are after inflation."""
    log = Log()
    async with against_peer(side, logger=log.logger, headers=(DEFLATED,), compression="deflate") as (ws, peer):
        assert ws._deflate is not None
        await peer.send(TEXT, deflate(b"compressed"), rsv=4)
        assert await ws.recv() == "compressed"
        await ws.send("compressed")
    assert log.frames("<")[0] == "< TEXT 'compressed' [10 bytes]"
    assert log.frames(">")[0] == "> TEXT 'compressed' [10 bytes]"


@over_loops
async def test_sent_frames(side, link):
    """Every way to send logs each frame once."""
    log = Log()
    async with against_peer(side, link, logger=log.logger) as (ws, peer):
        await ws.send("send")
        await ws.send_batch(["batch", b"\0"])
        await ws.send_batch([])
        await ws.send(["frag"])
        fastws.broadcast([ws], "broadcast")
        assert [(await peer.read())[0] for _ in range(6)] == [TEXT, TEXT, BINARY, TEXT, CONT, TEXT]
    assert log.frames(">")[:6] == [
        "> TEXT 'send' [4 bytes]",
        "> TEXT 'batch' [5 bytes]",
        "> BINARY 00 [1 byte]",
        "> TEXT 'frag' [4 bytes, continued]",
        "> CONT '' [0 bytes]",
        "> TEXT 'broadcast' [9 bytes]",
    ]


# Names and levels


@on_asyncio
async def test_default_loggers(caplog):
    """Those of websockets, so that its logging guide holds."""
    caplog.set_level(logging.DEBUG, "websockets")
    async with pair() as (client, server):
        await client.send("hello")
        assert await server.recv() == "hello"
    by_name = collections.defaultdict(list)
    for record in caplog.records:
        by_name[record.name].append(record.getMessage())
    assert by_name.keys() >= {"websockets.client", "websockets.server"}
    assert not [name for name in by_name if name.startswith("fastws")]
    assert "> TEXT 'hello' [5 bytes]" in by_name["websockets.client"]
    assert "< TEXT 'hello' [5 bytes]" in by_name["websockets.server"]
    assert "connection open" in by_name["websockets.server"]


@on_asyncio
async def test_records_know_their_connection():
    """The ``websocket`` attribute of records, for formatters."""
    log = Log()
    async with against_peer(logger=log.logger) as (ws, peer):
        await peer.send(TEXT, b"x")
        await ws.recv()
        await ws.send("y")
        frames = [record for record in log.records if re.match("[<>] TEXT", record.getMessage())]
        assert [record.websocket.id for record in frames] == [ws.id] * 2


@on_asyncio
async def test_no_debug_records_unless_asked(caplog):
    caplog.set_level(logging.INFO, "websockets")
    async with pair() as (client, server):
        assert not client.debug
        assert not server.debug
        await client.send_batch(["a"] * 100)
        assert len(await server.recv_batch()) > 0
    assert {record.levelno for record in caplog.records} == {logging.INFO}


@on_asyncio
async def test_failing_handler(caplog):
    async def handler(ws):
        raise ZeroDivisionError

    logs = []
    for package, cls in SERVERS.items():
        log = Log(logging.ERROR)
        async with websockets.serve(handler, "127.0.0.1", 0, create_connection=cls, logger=log.logger) as server:
            async with fastws.connect(PLAIN.uri(port_of(server)), **QUIET) as ws:
                with pytest.raises(fastws.ConnectionClosedError, match="1011"):
                    await ws.recv()
            await until(lambda log=log: log.entries)
        logs.append(log.entries)
        assert log.records[0].exc_info[0] is ZeroDivisionError, package
    assert logs[0] == logs[1] == [("ERROR", "connection handler failed")]


@on_asyncio
async def test_rejected_handshake(caplog):
    caplog.set_level(logging.DEBUG, "websockets")
    async with serving(lambda ws: ws.wait_closed(), subprotocols=["a"]) as uri:
        with pytest.raises(fastws.InvalidStatus):
            await fastws.connect(uri, subprotocols=["b"])
    assert "< HTTP/1.1 400 Bad Request" in caplog.messages
    assert "connection rejected (400 Bad Request)" in caplog.messages
