"""How pumps and their connections begin and end: threads, forks, closed loops, the end of the process."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import itertools
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
from pathlib import Path

import pytest
from connection.net import against_peer, on_asyncio, over_loops, pair, port_of, until
from core.streams import TEXT, frame
from websockets.client import ClientProtocol
from websockets.uri import parse_uri

import fastws
from fastws import Pump, State

pytestmark = pytest.mark.skipif(fastws.IMPLEMENTATION == "pure", reason="receive threads are in the compiled core only")

THREADS = Path("/proc/self/task")
linux = pytest.mark.skipif(not THREADS.exists(), reason="threads are listed on Linux only")


def thread_names():
    names = []
    for thread in THREADS.iterdir():
        with contextlib.suppress(OSError):
            names.append((thread / "comm").read_text().strip())
    return names


def run(program, **environment):
    """Run a program in a new interpreter, which must end by itself."""
    return subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
        env={**os.environ, **environment},
    )


@linux
@over_loops
async def test_thread_of_ones_own():
    """It has the name and the CPU that it was given, serves several connections, and ends with the last."""
    cpu = min(os.sched_getaffinity(0))
    pump = Pump(name="feeds", cpu=cpu)
    assert (pump.name, pump.cpu, pump.connections, pump.running) == ("feeds", cpu, 0, False)
    async with pair(receive=pump) as (client, server):
        assert pump.running
        assert pump.connections == 2
        await until(lambda: "feeds" in thread_names())
        assert "2 connections" in repr(pump)
        await client.send("x")
        assert await server.recv() == "x"
        assert client.stats.receive == "thread"
    await until(lambda: not pump.running and "feeds" not in thread_names())
    assert pump.connections == 0
    async with pair(receive=pump) as (client, server):
        # It begins anew.
        await client.send("y")
        assert await server.recv() == "y"


@linux
@on_asyncio
async def test_one_thread_for_all():
    async with pair(receive="thread") as (_, _), pair(receive="thread") as (client, _):
        await until(lambda: thread_names().count("fastws-pump") == 1)
        assert client.stats.receive == "thread"


@pytest.mark.parametrize("receive", ["threads", 1, True])
def test_wrong_receive(receive):
    with pytest.raises((TypeError, ValueError), match=r"receive is .*, must be 'loop', 'thread' or a Pump"):
        fastws.connect("ws://localhost", receive=receive)


@linux
async def test_made_once():
    """Who is at work isn't made anew: its memory would change hands under it."""
    pump = Pump(name="feeds")
    async with pair(receive=pump) as (client, server):
        with pytest.raises(RuntimeError, match="the pump is in use"):
            pump.__init__(name="others")
        with pytest.raises(RuntimeError, match="the decoder is in use"):
            client._decoder.__init__("client")
        await server.send("still there")
        assert await client.recv() == "still there"
    assert pump.name == "feeds"


def test_wrong_cpu():
    with pytest.raises(ValueError, match=r"cpu is 100000, must be one of \["):
        Pump(cpu=100000)


def test_wrong_name():
    with pytest.raises(TypeError, match="name is None, must be a str"):
        Pump(name=None)


def test_not_in_plain_python():
    done = run(
        """
        import fastws
        try:
            fastws.connect("ws://localhost", receive="thread")
        except ValueError as exc:
            print(exc)
        """,
        FASTWS_PURE="1",
    )
    assert done.stdout == "receive is 'thread', but only the compiled core has receive threads\n"


OPEN = """
    import asyncio, gc, os, sys, threading, time
    import fastws

    async def handler(ws):
        async for message in ws:
            await ws.send(message)

    async def opened():
        server = await fastws.serve(handler, "127.0.0.1", 0, receive="thread")
        port = server.sockets[0].getsockname()[1]
        ws = await fastws.connect(f"ws://127.0.0.1:{port}", receive="thread")
        await ws.send("hello")
        assert await ws.recv() == "hello"
        return ws, server
"""


@pytest.mark.parametrize(
    "ending",
    [
        "os.kill(os.getpid(), 15)",
        "sys.exit(3)",
        "raise KeyError('on purpose')",
        "asyncio.get_running_loop().stop()",
        "os._exit(3)",
    ],
)
def test_the_process_ends(ending):
    """With connections open and the pump at work, whatever ends it: no hang, no crash."""
    done = run(
        textwrap.dedent(OPEN)
        + textwrap.dedent(
            f"""
            async def main():
                global kept
                kept = await opened()
                await kept[0].send_batch(["x" * 1000] * 1000)
                {ending}

            asyncio.run(main())
            """
        )
    )
    assert done.returncode in (0, 1, 3, -15), done.stderr
    for word in ("Fatal", "Segmentation", "terminate called", "excepthook"):
        assert word not in done.stderr


def test_a_socket_that_outlives_the_modules():
    """Nothing of the interpreter is left to purge it with; nobody needs that any more."""
    done = run(
        """
        import os, socket, sys
        from fastws._pump import Hub, Pump
        from fastws._pumped import PumpedDecoder

        class Last:
            def __init__(self):
                ours, theirs = socket.socketpair()
                with ours, theirs:
                    self.line = Pump().adopt(ours.fileno(), PumpedDecoder("client"), Hub())

            def __del__(self, write=os.write):
                self.line.abandon()
                for _ in range(1000):       # a pending call is made here
                    pass
                write(1, b"let go")

        sys.last = Last()
        """
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "let go", "")


def test_a_thread_receives_while_the_process_ends():
    """A daemon that waits in the pump doesn't keep the interpreter."""
    done = run(
        textwrap.dedent(OPEN)
        + textwrap.dedent(
            """
            def receive(ws):
                for batch in ws.iter_batches():
                    pass

            async def main():
                global kept
                kept = await opened()
                threading.Thread(target=receive, args=(kept[0],), daemon=True).start()
                await asyncio.sleep(0.1)
                os.write(1, b"ended")
                sys.exit(0)

            asyncio.run(main())
            """
        )
    )
    assert (done.returncode, done.stdout) == (0, "ended"), done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_fork():
    """The child is told that the connection isn't its own, and can make others; the parent goes on."""
    done = run(
        textwrap.dedent(OPEN)
        + textwrap.dedent(
            """
            import warnings
            warnings.simplefilter("ignore")

            async def main():
                ws, server = await opened()
                await ws.send_batch(["x"] * 5000)
                child = os.fork()
                if not child:
                    try:
                        ws.stats
                    except RuntimeError as exc:
                        print(exc, flush=True)
                    os._exit(7)
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
                for _ in range(5000):
                    assert await ws.recv() == "x"
                # A child with a loop of its own.
                child = os.fork()
                if not child:
                    def work():
                        del globals()["kept"]
                        gc.collect()
                        mine, _ = asyncio.run(opened())
                        print("child", mine.stats.receive, flush=True)
                        os._exit(8)
                    thread = threading.Thread(target=work)
                    thread.start()
                    thread.join(10)
                    os._exit(9)
                global kept
                assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 8
                await ws.send("again")
                assert await ws.recv() == "again"
                await ws.close()
                server.close()

            kept = None
            asyncio.run(main())
            print("parent")
            """
        )
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "the connection belongs to the parent process: it doesn't survive a fork",
        "child thread",
        "parent",
    ]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("waits", [False, True], ids=["idle", "receiving"])
def test_fork_in_a_loop(waits):
    """A child that goes on with its parent's loop is told, and what it awaits ends."""
    done = run(
        textwrap.dedent(OPEN)
        + textwrap.dedent(
            f"""
            import faulthandler, logging, warnings
            logging.disable()
            warnings.simplefilter("ignore")

            async def main():
                ws, server = await opened()
                receiving = asyncio.ensure_future(ws.recv())
                await asyncio.sleep(0.01)
                if not {waits}:
                    receiving.cancel()
                    await asyncio.sleep(0.01)
                child = os.fork()
                if child:
                    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
                    await ws.send("again")
                    assert await (receiving if {waits} else ws.recv()) == "again"
                    print("parent", flush=True)
                    await ws.close()
                    server.close()
                    return
                faulthandler.dump_traceback_later(10, exit=True)
                try:
                    await ws.send("x")
                except Exception as exc:
                    print(type(exc).__name__, exc.__cause__)
                ws.transport.abort()
                await ws.wait_closed()
                try:
                    print(await ws.recv())
                except Exception as exc:
                    print(type(exc).__name__, exc.__cause__)
                sys.stdout.flush()
                os._exit(7)

            asyncio.run(main())
            """
        )
    )
    assert done.returncode == 0, done.stderr
    told = "ConnectionClosedError the connection belongs to the parent process: it doesn't survive a fork"
    assert done.stdout.splitlines() == [told, told, "parent"]


def test_closed_when_pumps_have_stopped():
    """By what was registered for the end of the process before fastws was imported."""
    done = run(
        """
        import asyncio, atexit

        def late():
            loop.run_until_complete(ws.close())
            print(ws.state.name)

        atexit.register(late)
        """
        + textwrap.indent(textwrap.dedent(OPEN), " " * 8)
        + """
        async def main():
            ws, server = await opened()
            ws.close_timeout = 0.1
            return ws, server

        loop = asyncio.new_event_loop()
        ws, server = loop.run_until_complete(main())
        """
    )
    assert done.stdout == "CLOSED\n", done.stderr


@on_asyncio
async def test_stopped_while_in_use():
    """All that wait are told, and closing doesn't wait."""
    pump = Pump()
    async with pair(receive=pump) as (client, server):
        receiving = asyncio.create_task(server.recv())
        thread = asyncio.create_task(asyncio.to_thread(next, client.iter_batches()))
        await until(lambda: client._turn.busy and server._turn.busy)
        pump.stop()
        for task in (receiving, thread):
            with pytest.raises(fastws.ConnectionClosedError) as caught:
                await task
            assert caught.value.__cause__.errno == errno.ECANCELED
        assert not pump.running


@over_loops
async def test_there_is_no_thread_to_be_had():
    """Connecting says why: an OSError, after which those who reconnect wait longer and longer."""
    pump = Pump()
    pump.stop()
    async with fastws.serve(lambda ws: ws.wait_closed(), "127.0.0.1", 0) as server:
        with pytest.raises(OSError, match="no receive thread") as caught:
            await fastws.connect(f"ws://127.0.0.1:{port_of(server)}", receive=pump)
        assert caught.value.errno == errno.ESHUTDOWN
        waits: list[OSError] = []

        def process(exc):
            waits.append(exc)
            return None if len(waits) < 2 else exc

        connecting = fastws.connect(
            f"ws://127.0.0.1:{port_of(server)}",
            receive=pump,
            process_exception=process,
            reconnect_delays=lambda: itertools.repeat(0.001),
        )
        with pytest.raises(OSError, match="no receive thread"):
            await anext(aiter(connecting))
        assert len(waits) == 2


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_closed_loop():
    """Connections that nobody closed before the loop was closed: a warning as with asyncio's, and nothing stays."""

    async def leave():
        async def handler(ws):
            await ws.wait_closed()

        server = await fastws.serve(handler, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        return await fastws.connect(f"ws://127.0.0.1:{port}", receive=pump)

    pump = Pump(name="left")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        loop = asyncio.new_event_loop()
        kept = loop.run_until_complete(leave())
        assert all(task.cancel() for task in asyncio.all_tasks(loop))
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()
        assert pump.running
        del kept, loop
        deadline = time.monotonic() + 10
        while pump.running and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
    assert not pump.running
    assert any("unclosed transport <PumpTransport" in str(warning.message) for warning in caught)


@over_loops
async def test_protocol_that_is_open():
    """No handshake goes before, as in tests of ``websockets`` itself: the pump alone reads from the first byte on."""
    ours, theirs = socket.socketpair()
    messages = b"".join(frame(TEXT, b"%d" % number) for number in range(200))
    with theirs:
        theirs.sendall(messages[:500])
        protocol = ClientProtocol(parse_uri("ws://localhost/"), state=State.OPEN)
        _, ws = await asyncio.get_running_loop().create_connection(
            lambda: fastws.ClientConnection(protocol, receive="thread", close_timeout=1), sock=ours
        )
        theirs.sendall(messages[500:])
        assert [await ws.recv() for _ in range(200)] == [str(number) for number in range(200)]
        assert ws.stats.receive == "thread"
        await ws.send("answer")
        assert len(theirs.recv(100)) == 2 + 4 + len("answer")
    with pytest.raises(fastws.ConnectionClosedError):
        await ws.recv()


@over_loops
async def test_block_stops_at_the_limit(side):
    """Reading pauses when there are more than high, and goes on when there are low or fewer: each time."""
    async with against_peer(side, receive="thread", max_queue=(10, 4)) as (ws, peer):
        peer.write(peer.frame(TEXT, b"x") * 1000)
        for _ in range(20):
            await until(lambda: ws.stats.queued_messages == 11)
            assert ws.stats.paused
            for _ in range(6):
                await ws.recv()
            assert ws.stats.paused
            await ws.recv()
        # More was there each time, so reading hasn't gone on.
        assert ws.stats.pauses == 1
        for _ in range(1000 - 20 * 7):
            await ws.recv()
        await until(lambda: not ws.stats.paused)
        assert ws.stats.delivered == 1000
        assert ws.stats.queued_messages_max == 11


@over_loops
async def test_write_limit(side):
    """What the peer doesn't read makes send() wait, and nothing is lost or mixed up."""
    async with pair(receive="thread", write_limit=10_000, compression=None) as ends:
        sender, receiver = ends if side == "client" else ends[::-1]
        receiver.transport.pause_reading()
        sent = 0

        async def send():
            nonlocal sent
            while sent < 400:
                await sender.send(str(sent) * 20_000)
                sent += 1

        sending = asyncio.create_task(send())
        await until(lambda: sender.transport.get_write_buffer_size() > 10_000)
        for _ in range(20):
            await asyncio.sleep(0.01)
        assert 0 < sent < 400
        assert sender.transport.get_write_buffer_size() < 10_000 + 2 * 60_000
        receiver.transport.resume_reading()
        for number in range(400):
            assert await receiver.recv() == str(number) * 20_000
        await sending


@on_asyncio
async def test_writers_in_other_threads():
    """The pump's pongs and frames of any thread are never mixed."""
    async with pair(receive="thread", ping_interval=0.001, compression=None) as (client, server):
        frames = [client._encoder.encode(1, f"{number}-{'x' * 3000}") for number in range(4)]
        ended = threading.Event()

        def write(frame):
            while not ended.is_set():
                client.transport._socket.write(frame)
                time.sleep(0.0005)

        threads = [threading.Thread(target=write, args=(frame,)) for frame in frames]
        for thread in threads:
            thread.start()
        try:
            for _ in range(2000):
                message = await server.recv()
                assert message[0] in "0123"
                assert message[1:] == "-" + "x" * 3000
        finally:
            ended.set()
            await asyncio.to_thread(lambda: [thread.join() for thread in threads])
        assert client.stats.pings_in > 0


async def to_the_end(connection):
    async for _ in connection:
        pass


@over_loops
@pytest.mark.parametrize("last", [False, True])
async def test_a_report_that_is_not_taken(monkeypatch, last):
    """It ends the connection, and the exception says why; also if it was the last one."""
    problems = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: problems.append(context))
    async with pair(receive="thread") as (client, server):

        def fail(*args):
            raise MemoryError("no memory to look")

        monkeypatch.setattr(client, "eof_received" if last else "_pumped", fail)
        if last:
            server.transport.abort()
        else:
            await server.send("x")
        with pytest.raises(fastws.ConnectionClosedError) as raised:
            await to_the_end(client)
    assert isinstance(raised.value.__cause__, MemoryError)
    assert "failed to take what its pump reported" in problems[0]["message"]


@over_loops
async def test_a_transport_that_can_not_be_made(monkeypatch):
    """What has the socket already gives it back."""

    def fail(*args):
        raise OSError(errno.ENOSPC, "no room to watch")

    pump = Pump()
    monkeypatch.setattr("fastws.pumping.LoopHub.add", fail)
    asyncio.get_running_loop().set_exception_handler(lambda loop, context: None)
    with pytest.raises((OSError, fastws.ConnectionClosed)) as raised:
        async with pair(client={"receive": pump}) as (client, _):
            await client.recv()
    assert "no room to watch" in f"{raised.value} {raised.value.__cause__}"
    await until(lambda: pump.connections == 0)
