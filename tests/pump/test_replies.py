"""Questions of the venue are answered by the pump, while the event loop, or all of Python, is blocked."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import socket
from collections.abc import Iterator

import pytest
from connection.net import PLAIN, against_peer, on_asyncio, over_loops, until
from core.streams import CLOSE, CONT, PING, PONG, TEXT

import fastws
from fastws import Reply
from pump.test_blocked_loop import keeping_the_gil, sleeping

pytestmark = pytest.mark.skipif(fastws.IMPLEMENTATION == "pure", reason="receive threads are in the compiled core only")

ASK, ANSWER = b'{"op":"ping"}', b'{"op":"pong"}'
REPLY = Reply({"/op": "ping"}, ANSWER.decode())
THREAD = {"receive": "thread", "replies": [REPLY]}


class Blocked:
    """The peer's socket, used without its loop: as long as a test doesn't await, the loop is blocked."""

    def __init__(self, peer, sock):
        self.peer = peer
        self.sock = sock
        self.data = b""

    def send(self, *frames):
        self.sock.sendall(b"".join(frames))

    def read(self, seconds=10.0):
        """The next short frame: (opcode, payload)."""
        while len(self.data) < 2 or len(self.data) < self.size():
            assert select.select([self.sock], [], [], seconds)[0], "no answer"
            got = self.sock.recv(65536)
            assert got, "the stream has ended"
            self.data += got
        size, key_size = self.size(), 4 if self.data[1] & 0x80 else 0
        frame, self.data = self.data[:size], self.data[size:]
        assert bool(key_size) == (self.peer.key is None), "incorrect masking"
        key, payload = frame[2 : 2 + key_size], frame[2 + key_size :]
        return frame[0] & 0x0F, bytes(byte ^ key[i % 4] for i, byte in enumerate(payload)) if key else payload

    def size(self):
        return 2 + (self.data[1] & 0x7F) + (4 if self.data[1] & 0x80 else 0)


@contextlib.contextmanager
def blocking(peer) -> Iterator[Blocked]:
    fd = os.dup(peer.writer.get_extra_info("socket").fileno())
    with socket.socket(fileno=fd) as sock:
        yield Blocked(peer, sock)


def sent_in(caplog):
    """What text messages were logged as sent."""
    frames = [record.args[0] for record in caplog.records if record.getMessage().startswith("> TEXT")]
    return [frame.data for frame in frames]


def warnings_in(caplog):
    return [record for record in caplog.records if "aren't sent while more than 1 MiB waits" in record.getMessage()]


@over_loops
async def test_a_blocked_loop_answers(side):
    """Question by question, among messages and pings; the figures know of it at once, and the loop needn't."""
    async with against_peer(side, **THREAD) as (ws, peer):
        before = ws.stats
        with blocking(peer) as wire:
            for number in range(50):
                wire.send(
                    peer.frame(TEXT, b'{"n":%d}' % number), peer.frame(TEXT, ASK), peer.frame(PING, b"%d" % number)
                )
                assert sorted([wire.read(), wire.read()]) == [(TEXT, ANSWER), (PONG, b"%d" % number)]
            after = ws.stats
        assert after.messages_out - before.messages_out == 50
        assert after.controls_out - before.controls_out == 50
        masked = 4 if side == "client" else 0
        frames = [2 + masked + len(ANSWER)] * 50 + [2 + masked + len(str(number)) for number in range(50)]
        assert after.bytes_out - before.bytes_out == sum(frames)
        assert after.answered == 50
        # No notice of them waits.
        assert ws._decoder.notices() == []
        assert [await ws.recv() for _ in range(50)] == [f'{{"n":{number}}}' for number in range(50)]


@over_loops
async def test_python_is_blocked(side):
    """A C function has the GIL: by the time it gives it back, all is answered."""
    async with against_peer(side, **THREAD) as (_, peer):
        with blocking(peer) as wire:
            wire.send(peer.frame(TEXT, ASK) * 20)
            keeping_the_gil(0.2)
            assert [wire.read(0) for _ in range(20)] == [(TEXT, ANSWER)] * 20


@over_loops
async def test_bare_text_of_any_length(side):
    """And the consumer may get the question, too."""
    answer = "x" * 70_000
    replies = [Reply("ask", answer, deliver=True), Reply("empty", "")]
    async with against_peer(side, receive="thread", replies=replies) as (ws, peer):
        for _ in range(3):
            peer.write(peer.frame(TEXT, b"ask") + peer.frame(TEXT, b"empty"))
            assert await peer.read() == (TEXT, True, answer.encode())
            assert await peer.read() == (TEXT, True, b"")
        assert [await ws.recv() for _ in range(3)] == ["ask"] * 3
        assert ws.transport.sent == (6, ws.stats.bytes_out, 0)


@over_loops
async def test_with_compression(side):
    """Replies aren't compressed (RFC 7692 6), and what is compressed before and behind them can be inflated."""
    opened = asyncio.get_running_loop().create_future()

    async def handler(ws):
        opened.set_result(ws)
        await ws.wait_closed()

    import websockets

    ours, theirs = (websockets.serve, fastws.connect) if side == "client" else (fastws.serve, websockets.connect)
    options = [{} if call.__module__.startswith("websockets") else THREAD for call in (ours, theirs)]
    async with ours(handler, "127.0.0.1", 0, **options[0]) as server:
        port = server.sockets[0].getsockname()[1]
        async with theirs(f"ws://127.0.0.1:{port}", **options[1]) as client:
            ends = [client, await opened]
            ws, peer = ends if side == "client" else ends[::-1]
            for number in range(5):
                await ws.send(f"the same {number}" * 20)
                await peer.send(ASK.decode())
                assert {await peer.recv(), await peer.recv()} == {f"the same {number}" * 20, ANSWER.decode()}
            assert ws.transport.sent[0] == 5


@over_loops
async def test_between_fragments_while_blocked(side):
    """RFC 6455 5.4: pongs may come between fragments, replies wait for the last one."""
    async with against_peer(side, **THREAD) as (ws, peer):
        going_on = asyncio.Event()

        async def fragments():
            yield "first"
            await going_on.wait()
            yield "second"

        sending = asyncio.create_task(ws.send(fragments()))
        assert await peer.read() == (TEXT, False, b"first")
        with blocking(peer) as wire:
            wire.send(peer.frame(TEXT, ASK) * 3, peer.frame(PING, b"now"))
            assert wire.read() == (PONG, b"now")
            assert ws.transport.sent[0] == 0
        going_on.set()
        await sending
        assert await peer.read() == (CONT, False, b"second")
        assert await peer.read() == (CONT, True, b"")
        assert [await peer.read() for _ in range(3)] == [(TEXT, True, ANSWER)] * 3
        with blocking(peer) as wire:
            wire.send(peer.frame(TEXT, ASK))
            assert wire.read() == (TEXT, ANSWER)
        assert ws.transport.sent[0] == 4


@over_loops
async def test_none_behind_a_close_frame(side, caplog):
    """Neither new ones nor those that wait for the end of a message in fragments (RFC 6455 5.5.1): nor is it logged."""
    caplog.set_level(logging.DEBUG, "websockets")
    async with against_peer(side, **THREAD) as (ws, peer):

        async def fragments():
            yield "first"
            with blocking(peer) as wire:
                assert wire.read() == (TEXT, b"first")
                wire.send(peer.frame(TEXT, ASK), peer.frame(PING, b"read"))
                assert wire.read() == (PONG, b"read")
            raise ZeroDivisionError

        sending = asyncio.create_task(ws.send(fragments()))
        assert (await peer.expect_close())[0] == 1011
        peer.write(peer.frame(TEXT, ASK) + peer.frame(CLOSE, b"\x03\xe8"))
        await peer.end()
        with pytest.raises(ZeroDivisionError):
            await sending
        assert await peer.reader.read() == b""
        await ws.wait_closed()
        assert (ws.stats.messages_out, ws.stats.withheld) == (0, 0)
        assert sent_in(caplog) == [b"first"]


@over_loops
async def test_it_is_logged(side, caplog):
    """With debugging, in the loop's time: what was received and what was sent."""
    caplog.set_level(logging.DEBUG, "websockets")
    async with against_peer(side, **THREAD) as (ws, peer):
        await peer.send(TEXT, ASK)
        assert await peer.read() == (TEXT, True, ANSWER)
        await until(lambda: sent_in(caplog) == [ANSWER])
        assert ws.transport.sent[0] == 1
        assert ws.stats.messages_out == 1


@over_loops
async def test_it_is_logged_when_it_is_sent(side, caplog):
    """Not while it waits for the last fragment of a message."""
    caplog.set_level(logging.DEBUG, "websockets")
    async with against_peer(side, **THREAD) as (ws, peer):

        async def fragments():
            yield "first"
            peer.write(peer.frame(TEXT, ASK) * 3)
            await peer.send(PING, b"read")
            await until(lambda: "< PING 'read'" in caplog.text)
            assert sent_in(caplog) == [b"first"]

        await ws.send(fragments())
        await until(lambda: sent_in(caplog) == [b"first", *[ANSWER] * 3])
        assert ws.transport.sent[0] == 3


@on_asyncio
async def test_the_log_is_bounded(caplog):
    """While the loop is blocked, so many are kept; the others are told of by their number."""
    caplog.set_level(logging.DEBUG, "websockets")
    async with against_peer(**THREAD) as (ws, peer):
        with blocking(peer) as wire:
            for _ in range(50):
                wire.send(peer.frame(TEXT, ASK) * 100)
            while ws.transport.sent[0] < 5000:
                sleeping(0.001)
        await until(lambda: "> 904 more replies and heartbeats" in caplog.text)
        assert sent_in(caplog) == [ANSWER] * 4096


@over_loops
async def test_over_tls(side, tls):
    async with against_peer(side, tls, **THREAD) as (ws, peer):
        for _ in range(20):
            await peer.send(TEXT, ASK)
            assert await peer.read() == (TEXT, True, ANSWER)
        assert ws.transport.sent == (20, 20 * (2 + (4 if side == "client" else 0) + len(ANSWER)), 0)


@over_loops
async def test_memory_is_bounded(side, caplog):
    """One read can ask for more than memory has: a peer that doesn't read gets no more than fits, and that is told."""
    async with against_peer(side, PLAIN, receive="thread", replies=[Reply("?", "x" * 100_000)]) as (ws, peer):
        peer.reader._transport.pause_reading()
        peer.write(peer.frame(TEXT, b"?") * 20_000)
        await until(lambda: ws.stats.answered == 20_000)
        assert ws.transport.get_write_buffer_size() < 3 * 2**20
        # Of 2 GB. The rest is what the kernel holds.
        assert 10 * 100_000 < ws.stats.bytes_out < 50_000_000
        await until(lambda: ws.stats.messages_out + ws.stats.withheld == 20_000)
        sent, withheld = ws.stats.messages_out, ws.stats.withheld
        assert min(sent, withheld) > 0
        # Although there was nothing else of which the loop was to hear.
        await until(lambda: warnings_in(caplog))
        peer.reader._transport.resume_reading()
        for _ in range(sent):
            assert (await peer.read())[2] == b"x" * 100_000
        # It is again as it was.
        await peer.send(TEXT, b"?")
        assert (await peer.read())[2] == b"x" * 100_000
        assert (ws.stats.messages_out, ws.stats.withheld) == (sent + 1, withheld)
        assert len(warnings_in(caplog)) == 1


@on_asyncio
async def test_what_is_withheld_is_not_logged(caplog):
    """A peer that asks on and on, and doesn't read."""
    caplog.set_level(logging.DEBUG, "websockets")
    async with against_peer(receive="thread", replies=[Reply("?", "x" * 100_000)]) as (ws, peer):
        peer.reader._transport.pause_reading()
        for asked in range(50, 500, 50):
            peer.write(peer.frame(TEXT, b"?") * 50)
            await until(lambda asked=asked: ws.stats.answered == asked)
        await until(lambda: ws.stats.messages_out + ws.stats.withheld == 450)
        assert min(ws.stats.messages_out, ws.stats.withheld) > 0
        await until(lambda: len(sent_in(caplog)) == ws.stats.messages_out)
        assert len(warnings_in(caplog)) == 1


@on_asyncio
async def test_what_waits_for_fragments_is_bounded(caplog):
    """So it is between the fragments of a message, of a peer that reads: the rest is told of, too."""
    async with against_peer(receive="thread", replies=[Reply("?", "x" * 100_000)]) as (ws, peer):

        async def fragments():
            yield "first"
            for asked in range(10, 40, 10):
                peer.write(peer.frame(TEXT, b"?") * 10)
                await until(lambda asked=asked: ws.stats.answered == asked)
            await until(lambda: ws.stats.withheld)
            assert ws.stats.messages_out == 0
            assert ws.stats.withheld < 20

        await ws.send(fragments())
        # With that in fragments itself.
        await until(lambda: ws.stats.messages_out + ws.stats.withheld == 31)
        for _ in range(ws.stats.messages_out + 1):
            await peer.read()
        await peer.through()
        assert len(warnings_in(caplog)) == 1


def test_an_answer_that_is_no_utf8():
    with pytest.raises(ValueError, match="surrogates not allowed"):
        Reply("ask", "\ud800")
