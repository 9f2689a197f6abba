"""Processes that are stopped (SIGSTOP), and peers gone without a word: who is blamed, and what is delivered."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest
from connection.net import QUIET, on_asyncio, over_loops, port_of, read_head, response_to, until
from core.streams import CLOSE, PING, TEXT, frame

import fastws

from .pingers import pinger_process

pytestmark = [
    pytest.mark.skipif(fastws.IMPLEMENTATION == "pure", reason="receive threads are in the compiled core only"),
    pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="processes can't be stopped"),
]

ROOT = Path(__file__).parents[2]


@pytest.fixture(params=["plain", "tls"])
def link_of_pinger(request):
    """Makes (URI, options, process) of a peer that pings."""
    certificate = request.getfixturevalue("certificate") if request.param == "tls" else None
    return lambda: pinger_process(0.01, certificate)


STOPPED_S = 0.5
"""More than the peer's patience, and ours."""

CLIENT = """
import asyncio, sys
import fastws

async def main(uri):
    async with fastws.connect(uri, receive="thread", ping_interval=0.05, ping_timeout=0.2, compression=None) as ws:
        print(await ws.recv(), flush=True)
        seen = []
        try:
            while True:
                seen.append(int(await ws.recv()))
        except fastws.ConnectionClosed as exc:
            print(type(exc).__name__, ws.close_code, repr(ws.close_reason), exc.rcvd_then_sent)
        print(seen == list(range(len(seen))), len(seen), ws.stats.lost.total)

if sys.argv[2] == "uvloop":
    import uvloop
    uvloop.run(main(sys.argv[1]))
else:
    asyncio.run(main(sys.argv[1]))
"""


@pytest.mark.parametrize(
    ("loop_name", "ending", "said"),
    [
        # A peer that has lost patience says so, and closes.
        ("asyncio", "close", "ConnectionClosedError 1011 'keepalive ping timeout' True"),
        ("uvloop", "close", "ConnectionClosedError 1011 'keepalive ping timeout' True"),
        ("asyncio", "end", "ConnectionClosedError 1006 '' None"),
        ("uvloop", "reset", "ConnectionClosedError 1006 '' None"),
    ],
)
def test_we_are_stopped(loop_name, ending, said):
    """For longer than anybody's patience: all that came before the end is delivered, and the peer isn't blamed."""
    if loop_name == "uvloop":
        pytest.importorskip("uvloop")
    count = 500
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        subprocess.Popen(
            [sys.executable, "-c", CLIENT, f"ws://127.0.0.1:{listener.getsockname()[1]}", loop_name],
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        ) as client,
    ):
        try:
            sock, _ = listener.accept()
            sock.settimeout(10)
            sock.sendall(response_to(read_head(sock)) + frame(TEXT, b"ready"))
            assert client.stdout.readline() == "ready\n"
            os.kill(client.pid, signal.SIGSTOP)
            sock.sendall(frame(PING, b"still there?"))
            for number in range(count):
                sock.sendall(frame(TEXT, b"%d" % number))
            time.sleep(STOPPED_S)
            if ending == "close":
                sock.sendall(frame(CLOSE, struct.pack("!H", 1011) + b"keepalive ping timeout"))
            elif ending == "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if ending == "close":
                sock.shutdown(socket.SHUT_WR)
            else:
                sock.close()
            os.kill(client.pid, signal.SIGCONT)
            output, _ = client.communicate(timeout=10)
            sock.close()
        finally:
            client.kill()
    assert output.splitlines() == [said, f"True {count} 0"]
    assert client.returncode == 0


@contextlib.contextmanager
def stopped(process):
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


KEEPALIVE = {"receive": "thread", "ping_interval": 0.1, "ping_timeout": 0.3}


async def failed(ws):
    """The exception of a connection that a keepalive fails, and after how many seconds."""
    started = time.monotonic()
    with pytest.raises(fastws.ConnectionClosedError) as info:
        async for _ in ws:
            pass
    return info.value, time.monotonic() - started


@pytest.mark.crosswise
@over_loops
async def test_peer_is_stopped(link_of_pinger):
    """Keepalive finds it, as that of `websockets`."""
    with link_of_pinger() as (uri, options, process):
        async with fastws.connect(uri, close_timeout=0.2, **options, **KEEPALIVE) as ws:
            await ws.recv()
            with stopped(process):
                exc, _ = await failed(ws)
        assert exc.rcvd is None
        assert (exc.sent.code, exc.sent.reason) == (1011, "keepalive ping timeout")


@pytest.mark.crosswise
@over_loops
async def test_peer_is_stopped_while_the_loop_is_blocked(link_of_pinger):
    """Both for longer than the keepalive's limit; the peer is back before the loop is: no verdict."""
    with link_of_pinger() as (uri, options, process):
        async with fastws.connect(uri, close_timeout=0.2, **options, **KEEPALIVE) as ws:
            for _ in range(2):
                await ws.recv()
                await asyncio.sleep(0.12)  # A ping is under way.
                with stopped(process):
                    time.sleep(STOPPED_S)  # noqa: ASYNC251
                # In a moment, the peer's kernel and process run, too.
                await asyncio.sleep(0.12)
                assert ws.state is fastws.State.OPEN
            # It is found all the same when it is really gone.
            with stopped(process):
                time.sleep(STOPPED_S)  # noqa: ASYNC251
                assert ws.state is fastws.State.OPEN
                exc, _ = await failed(ws)
            assert exc.sent.code == 1011


class Relay:
    """Between client and server, and at some time it forwards nothing any more, not even the end of a stream."""

    def __init__(self, port):
        self._port = port
        self._forwards = asyncio.Event()
        self._forwards.set()
        self._tasks = set()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = port_of(self._server)
        return self

    async def __aexit__(self, *exc_info):
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def stop(self):
        self._forwards.clear()

    async def _accept(self, reader, writer):
        theirs, ours = await asyncio.open_connection("127.0.0.1", self._port)
        for source, target in ((reader, ours), (theirs, writer)):
            task = asyncio.get_running_loop().create_task(self._forward(source, target))
            self._tasks.add(task)

    async def _forward(self, reader, writer):
        try:
            with contextlib.suppress(ConnectionError):
                while data := await reader.read(65536):
                    await self._forwards.wait()
                    writer.write(data)
                await self._forwards.wait()
        finally:
            writer.transport.abort()


@pytest.mark.crosswise
@over_loops
async def test_half_open(link):
    """The peer vanishes without a word, in silence and amid a flood with all buffers full: both sides find out."""
    for floods in (False, True):
        ended = asyncio.get_running_loop().create_future()

        async def handler(ws, ended=ended, floods=floods):
            with contextlib.suppress(fastws.ConnectionClosed):
                while floods:
                    await ws.send("x" * 10_000)
            ended.set_result(await failed(ws))

        options = {**QUIET, **KEEPALIVE, "close_timeout": 0.2}
        async with fastws.serve(handler, "127.0.0.1", 0, **link.server, **options) as server:
            async with Relay(port_of(server)) as relay:
                async with fastws.connect(link.uri(relay.port), **link.client, **options) as ws:
                    if floods:
                        await ws.recv()
                    else:
                        await (await ws.ping())
                    relay.stop()
                    ours, theirs = await asyncio.gather(failed(ws), ended)
            for exc, seconds in (ours, theirs):
                assert exc.rcvd is None
                assert exc.sent.code == 1011
                # Bounded: interval, timeout of the ping and of the close, and a machine that is slow.
                assert seconds < 5
            await until(lambda ws=ws: ws.transport.is_closing())


@on_asyncio
async def test_close_to_a_peer_that_is_gone(link):
    """It is bounded by ``close_timeout``, also with TLS, whose own end the peer doesn't confirm either."""
    async with fastws.serve(lambda ws: ws.wait_closed(), "127.0.0.1", 0, **link.server) as server:
        async with Relay(port_of(server)) as relay:
            ws = await fastws.connect(
                link.uri(relay.port), **link.client, receive="thread", close_timeout=0.2, compression=None
            )
            relay.stop()
            async with asyncio.timeout(3):
                await ws.close()
            assert ws.close_code == 1006
