"""Heartbeats leave in time while the event loop, or all of Python, is blocked; and where none may be sent."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from connection.net import (
    PLAIN,
    against_peer,
    on_asyncio,
    over_loops,
    port_of,
    read_head,
    request_to,
    response_to,
    until,
)
from connection.test_liveness import close_behind_beats
from core.streams import CLOSE, CONT, PING, TEXT, frame

import fastws
from fastws import Heartbeat, Reply

from .pingers import pinger_process
from .test_blocked_loop import keeping_the_gil, reported, sleeping
from .test_replies import blocking, sent_in, warnings_in

if fastws.IMPLEMENTATION == "pure":
    pytest.skip("receive threads are in the compiled core only", allow_module_level=True)

from fastws._pump import Hub, Pump
from fastws._pumped import PumpedDecoder

ROOT = Path(__file__).parents[2]
EVERY_S = 0.05
PATIENCE_S = 0.6
"""Of the peer: many times ``EVERY_S``, for a busy machine."""
BLOCKED_S = 1.0
TICK_S = 0.002


# While Python can't


@pytest.fixture(params=["plain", "tls"])
def link_of_pinger(request):
    """Makes (URI, options, process) of a peer that wants heartbeats."""
    certificate = request.getfixturevalue("certificate") if request.param == "tls" else None
    return lambda: pinger_process(60, certificate, PATIENCE_S)


@pytest.mark.crosswise
@over_loops
async def test_a_venue_does_not_lose_patience(link_of_pinger):
    """It wants a heartbeat, and gets what it wants while Python doesn't run for longer than it waits."""
    heartbeat = Heartbeat(EVERY_S, "beat", expect="beat")
    with link_of_pinger() as (uri, options, _):
        async with fastws.connect(uri, receive="thread", heartbeat=heartbeat, ping_interval=None, **options) as ws:
            keeping_the_gil(BLOCKED_S)
            beats = ws.stats.messages_out
            _, report = await reported(ws)
            assert ws.state is fastws.State.OPEN
            assert report["beats"] >= beats >= BLOCKED_S / EVERY_S / 4
            assert ws.stats.answered >= beats
            await asyncio.sleep(2 * EVERY_S)
            assert ws.state is fastws.State.OPEN


def test_with_connections_of_threads():
    """Those of ``fastws.sync``, whose event loop is in the background, and blocked as well."""
    import fastws.sync

    heartbeat = Heartbeat(EVERY_S, "beat", expect="beat")
    with pinger_process(60, None, PATIENCE_S) as (uri, _, _):
        with fastws.sync.connect(uri, heartbeat=heartbeat, ping_interval=None, legacy=True) as ws:
            keeping_the_gil(BLOCKED_S)
            ws.send("report")
            messages = iter(ws)
            report = json.loads(next(message[7:] for message in messages if message.startswith("report ")))
            assert report["beats"] >= BLOCKED_S / EVERY_S / 4
            assert ws.stats.answered >= report["beats"]


@over_loops
async def test_answers_that_come_at_once():
    """Each before the loop looks for it: it counts, whoever is looked at afterwards."""
    heartbeat = Heartbeat(EVERY_S, "beat", timeout=EVERY_S / 2)
    async with against_peer(receive="thread", heartbeat=heartbeat) as (ws, peer):
        for _ in range(2):
            with blocking(peer) as wire:
                for _ in range(3):
                    assert wire.read() == (TEXT, b"beat")
                    sent_ns = ws._decoder.beats[0]
                    wire.send(peer.frame(TEXT, b"some message"))
                    while ws._decoder.beats[0] == sent_ns:
                        sleeping(0.001)
            await asyncio.sleep(0)
            assert ws.state is fastws.State.OPEN


STOPPED = """
import asyncio, sys
import fastws

async def main(uri):
    heartbeat = fastws.Heartbeat(float(sys.argv[2]), "beat", timeout=60)
    async with fastws.connect(uri, receive="thread", heartbeat=heartbeat, ping_interval=None) as ws:
        await ws.wait_closed()

asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes can't be stopped")
def test_those_that_were_missed_are_not_made_up_for():
    """The process was stopped for many periods."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-c", STOPPED, f"ws://127.0.0.1:{listener.getsockname()[1]}", str(EVERY_S)]
        with subprocess.Popen(command, cwd=ROOT) as process:
            try:
                sock, _ = listener.accept()
                sock.settimeout(20)
                sock.sendall(response_to(read_head(sock)))
                assert len(sock.recv(10)) == 10
                os.kill(process.pid, signal.SIGSTOP)
                time.sleep(6 * EVERY_S)
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    while sock.recv(65536):
                        pass
                sock.settimeout(20)
                started = time.monotonic()
                os.kill(process.pid, signal.SIGCONT)
                for _ in range(5):
                    assert len(sock.recv(10, socket.MSG_WAITALL)) == 10
                assert time.monotonic() - started >= 4 * EVERY_S - TICK_S
                sock.close()
            finally:
                process.kill()


@over_loops
async def test_none_amid_the_handshake():
    """The response is larger than what the socket takes, and the peer reads it late."""
    size = 8_000_000

    def process_response(connection, request, response):
        response.headers["X-Large"] = "x" * size

    def talk(port):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            sock.settimeout(20)
            sock.sendall(request_to(port))
            time.sleep(4 * EVERY_S)
            data = bytearray()
            while len(data) < size or not data.partition(b"\r\n\r\n")[2]:
                data += sock.recv(2**20)
            return bytes(data)

    options = {"receive": "thread", "heartbeat": Heartbeat(EVERY_S, "beat", timeout=60), "compression": None}
    options |= {"process_response": process_response, "write_limit": 2 * size}
    async with fastws.serve(lambda ws: ws.wait_closed(), "127.0.0.1", 0, **options) as server:
        data = await asyncio.to_thread(talk, port_of(server))
    head, _, beats = data.partition(b"\r\n\r\n")
    assert b"x" * size in head
    assert beats.startswith(frame(TEXT, b"beat"))


# Where none may be


@on_asyncio
async def test_none_behind_a_close_frame(side):
    """RFC 6455 5.5.1, for as long as the peer takes to answer it; nor is the answer missed that can't come any more."""
    heartbeat = Heartbeat(EVERY_S / 5, "beat", timeout=60)
    async with against_peer(side, receive="thread", heartbeat=heartbeat, close_timeout=10) as (ws, peer):
        assert await peer.read() == (TEXT, True, b"beat")
        closing = asyncio.create_task(ws.close())
        assert (await close_behind_beats(peer))[0] == 1000
        await asyncio.sleep(EVERY_S)
        sent = ws.stats.messages_out
        await asyncio.sleep(EVERY_S)
        assert ws.stats.messages_out == sent
        peer.write(peer.frame(CLOSE, b"\x03\xe8"))
        await peer.end()
        await closing
        assert await peer.reader.read() == b""
        assert ws.close_code == 1000


@pytest.mark.parametrize("way", ["close", "break", "end"])
@on_asyncio
async def test_none_to_a_peer_that_has_gone(way):
    """It has closed the connection, broken a rule, or ended the stream, which the loop doesn't know yet."""
    heartbeat = Heartbeat(EVERY_S / 5, "beat", timeout=60)
    async with against_peer(receive="thread", heartbeat=heartbeat) as (ws, peer):
        with blocking(peer) as wire:
            assert wire.read() == (TEXT, b"beat")
            if way == "end":
                wire.sock.shutdown(socket.SHUT_WR)
            else:
                wire.send(peer.frame(CLOSE, b"\x03\xe8") if way == "close" else peer.frame(3, b""))
            before, sent = -1, 0
            for _ in range(100):
                if sent == before:
                    break
                # Five periods; on a machine with other work, what the peer did may be seen later.
                sleeping(EVERY_S)
                before, sent = sent, ws.transport.sent[0]
            assert sent == before
            for _ in range(sent - 1):
                assert wire.read() == (TEXT, b"beat")
        if way != "end":
            assert (await close_behind_beats(peer))[0] == (1000 if way == "close" else 1002)
            await peer.end()
        with pytest.raises(fastws.ConnectionClosed):
            await ws.recv()


@pytest.mark.parametrize("receive", ["thread", "loop"])
@on_asyncio
async def test_none_between_fragments(receive, side):
    """RFC 6455 5.4: one is sent behind the last, however many were due; the peer isn't blamed for not answering it."""
    heartbeat = Heartbeat(EVERY_S, "beat", expect="pong", timeout=2 * EVERY_S)
    async with against_peer(side, receive=receive, heartbeat=heartbeat) as (ws, peer):
        frames = []

        async def answering():
            while True:
                frames.append((await peer.read(), time.monotonic()))
                if frames[-1][0] == (TEXT, True, b"beat"):
                    await peer.send(TEXT, b"pong")

        answers = asyncio.create_task(answering())
        last_at = None

        async def fragments():
            nonlocal last_at
            yield "first"
            await asyncio.sleep(6 * EVERY_S)
            last_at = time.monotonic()
            yield "last"

        await ws.send(fragments())
        await until(lambda: sum(at > last_at for (_, fin, _), at in frames if fin) >= 5)
        assert ws.state is fastws.State.OPEN
        answers.cancel()
        first = next(i for i, (one, _) in enumerate(frames) if not one[1])
        assert [one for one, _ in frames[first : first + 3]] == [
            (TEXT, False, b"first"),
            (CONT, False, b"last"),
            (CONT, True, b""),
        ]
        beats = [(one, at) for one, at in frames[first + 3 :] if at > last_at][:4]
        assert {one for one, _ in beats} == {(TEXT, True, b"beat")}
        assert beats[3][1] - last_at >= 2 * EVERY_S


# What else


@on_asyncio
async def test_it_is_logged(side, caplog):
    """With debugging, in the loop's time, beside what was answered."""
    caplog.set_level(logging.DEBUG, "websockets")
    options = {"heartbeat": Heartbeat(EVERY_S, "beat", expect="pong"), "replies": [Reply("ask", "answer")]}
    async with against_peer(side, receive="thread", **options) as (ws, peer):
        await peer.send(TEXT, b"ask")
        assert await peer.read() == (TEXT, True, b"answer")
        for _ in range(2):
            assert await peer.read() == (TEXT, True, b"beat")
            await peer.send(TEXT, b"pong")
        await until(lambda: sum("> TEXT 'beat'" in record.message for record in caplog.records) >= 2)
        assert "> TEXT 'answer'" in caplog.text
        assert ws.stats.messages_out == ws.transport.sent[0] >= 3


@on_asyncio
async def test_memory_is_bounded(caplog):
    """A peer that doesn't read gets no more than fits, and only that is logged; that there were more is told."""
    caplog.set_level(logging.DEBUG, "websockets")
    heartbeat = Heartbeat(0.001, "x" * 300_000, timeout=60)
    async with against_peer("client", PLAIN, receive="thread", heartbeat=heartbeat) as (ws, peer):
        peer.reader._transport.pause_reading()
        await until(lambda: ws.transport.get_write_buffer_size() > 2**20)
        size = ws.transport.get_write_buffer_size()
        sent = ws._decoder.beats[1]
        await until(lambda: ws._decoder.beats[1] > sent + 20_000_000)
        assert ws.transport.get_write_buffer_size() == size < 2**21
        await until(lambda: ws.stats.withheld > 3)
        await until(lambda: warnings_in(caplog))
        await until(lambda: len(sent_in(caplog)) == ws.stats.messages_out)
        assert len(warnings_in(caplog)) == 1


def test_many_lines():
    """Each has a period of its own; some end in between."""
    pump, hub = Pump(name="beats"), Hub()
    lines, begun, counts = {}, {}, {}
    ending = list(range(0, 200, 7))
    with select.epoll() as poll:
        try:
            for number in range(200):
                ours, theirs = socket.socketpair()
                with ours:
                    line = pump.adopt(ours.fileno(), PumpedDecoder("client"), hub)
                line.pause(False)
                lines[theirs.fileno()] = (number, line, theirs)
                poll.register(theirs.fileno(), select.EPOLLIN)
                counts[number], begun[number] = 0, time.monotonic()
                line.begin_beats(b"", period(number), False)
            with pytest.raises(RuntimeError, match="begun already"):
                line.begin_beats(b"", 1.0, False)
            while min(counts[number] for number in counts if number % 7) < 4:
                for fd, _ in poll.poll(20):
                    number, line, theirs = lines[fd]
                    data = theirs.recv(6, socket.MSG_WAITALL)
                    if not data:
                        poll.unregister(fd)
                        continue
                    assert (len(data), data[:2]) == (6, b"\x81\x80")
                    counts[number] += 1
                    # None is sent too early, and none is made up for.
                    assert time.monotonic() - begun[number] >= counts[number] * period(number)
                    if number in ending:
                        ending.remove(number)
                        line.abort()
            assert not ending
        finally:
            for _, line, theirs in lines.values():
                line.abort()
                theirs.close()


def period(number):
    return 0.02 + number % 20 * 0.01


@pytest.mark.parametrize("every", [1e300, float("inf")])
def test_never(every):
    """What clocks can't count is never due, and the thread goes on."""
    pump, hub = Pump(name="beats"), Hub()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        line = pump.adopt(ours.fileno(), PumpedDecoder("client"), hub)
        line.begin_beats(b"beat", every, False)
        line.pause(False)
        theirs.sendall(frame(PING, b""))
        assert len(theirs.recv(100)) == 6
        assert line.decoder.beats == (0, 0)
        line.abort()
