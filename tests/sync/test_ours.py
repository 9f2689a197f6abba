"""What ``fastws.sync`` does besides, and how its connections end."""

from __future__ import annotations

import concurrent.futures
import contextlib
import copy
import errno
import gc
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from typing import Any

import pytest
from connection.extensions import Factory, Nothing
from core.streams import PING, PONG, TEXT, frame
from websockets.exceptions import ConcurrencyError, ConnectionClosedError

import fastws
from fastws import DropOldest, Heartbeat, Reply

from .net import raw_peer, served, until, until_eof
from .test_drop_in import echo, error, in_thread, sends

if fastws.IMPLEMENTATION == "pure":
    pytest.skip("receive threads are in the compiled core only", allow_module_level=True)

import fastws.sync
from fastws.sync.background import Background

QUIET: dict[str, Any] = {"ping_interval": None, "close_timeout": 2, "legacy": True}


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name == "fastws-sync"]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def run(program: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """A program in a process of its own, with a server that it may connect to at ``uri``."""
    with served(echo) as uri:
        # Whoever runs the tests in the background may have them ignore SIGINT, which is inherited.
        head = "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
        text = f"{head}import fastws.sync\nuri = {uri!r}\n" + textwrap.dedent(program)
        return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=30, **kwargs)


# Batches


def test_batches(scheme, ours, theirs):
    messages = [str(number) for number in range(5000)]
    with served(lambda peer: [peer.send(message) for message in messages], scheme, **theirs) as uri:
        with fastws.sync.connect(uri, **QUIET, **ours) as ws:
            first = ws.recv_batch(max_messages=3)
            assert 1 <= len(first) <= 3
            assert [*first, *(message for batch in ws.iter_batches() for message in batch)] == messages
            assert ws.stats.delivered == len(messages)
            assert ws.stats.wait.count > 0


def test_batches_and_timeouts():
    with served(echo) as uri, fastws.sync.connect(uri, **QUIET) as ws:
        batches = ws.iter_batches(timeout=0.01)
        assert error(next, batches)[0] == error(ws.recv_batch, None, 0)[0] == "TimeoutError"
        ws.send_batch(["a", b"b"])
        ws.send_batch(["c"], text=False)
        ws.send_batch([])
        received: list[Any] = []
        while len(received) < 3:
            received += ws.recv_batch(timeout=10)
        assert received == ["a", b"b", b"c"]
        assert ws.stats.messages_out == 3
        assert error(ws.send_batch, ["a", 1]) == ("TypeError", "messages must be str or bytes-like, not int")
        assert error(ws.recv_batch, 0) == ("ValueError", "max_messages is 0, must be 1 or more")
        assert error(ws.iter_batches, timeout=-1) == ("ValueError", "timeout is -1, must be positive or zero")


@pytest.mark.parametrize("receive", ["recv", "recv_batch"])
def test_strange_timeouts(receive):
    """What is no time is refused, and the connection goes on; the longest that there is isn't over at once."""
    with served(echo) as uri, fastws.sync.connect(uri, **QUIET) as ws:
        for timeout, exc in (("1", TypeError), (float("nan"), ValueError), (-1, TimeoutError), (0, TimeoutError)):
            with pytest.raises(exc):
                getattr(ws, receive)(timeout=timeout)
        for timeout in (threading.TIMEOUT_MAX, 1e300, float("inf")):
            timer = threading.Timer(0.05, ws.send, ["x"])
            timer.start()
            assert list(getattr(ws, receive)(timeout=timeout)) == ["x"]
            timer.join()
            events = ws.events(timeout=timeout)
        for make in (ws.events, ws.iter_batches):
            with pytest.raises(ValueError, match="timeout is nan, must be positive or zero"):
                make(timeout=float("nan"))
    assert isinstance(next(events), fastws.Closed)


def test_one_receives_at_a_time():
    with served(echo) as uri, fastws.sync.connect(uri, **QUIET) as ws:
        waiting = in_thread(ws.recv_batch)
        until(lambda: ws._turn.busy)
        for receive in (ws.recv_batch, lambda: next(ws.iter_batches()), ws.recv, lambda: next(iter(ws))):
            with pytest.raises(ConcurrencyError):
                receive()
        ws.send("x")
        assert list(waiting()) == ["x"]


def test_batches_while_fragmenting():
    def parts(ws):
        yield "a"
        with pytest.raises(ConcurrencyError):
            ws.send_batch(["x"])
        yield "b"

    with served(echo) as uri, fastws.sync.connect(uri, **QUIET) as ws:
        ws.send(parts(ws))
        assert ws.recv() == "ab"


# Options


def test_pump_of_ones_own():
    pump = fastws.Pump(name="own")
    with served(echo) as uri, fastws.sync.connect(uri, receive=pump, **QUIET) as ws:
        assert pump.connections == 1
        assert ws.stats.receive == "thread"
    until(lambda: pump.connections == 0)


def test_policy():
    """Losses are counted and told; nobody's loop is in between."""
    events = []
    with served(sends(*map(str, range(1000)))) as uri:
        options = {"overflow": DropOldest(), "max_queue": 10, "on_event": lambda ws, event: events.append((ws, event))}
        with fastws.sync.connect(uri, **options, **QUIET) as ws:
            until(lambda: ws.stats.messages_in == 1000)
            received, lost = [], 0
            while not received or received[-1] != "999":
                batch = ws.recv_batch(timeout=10)
                received += batch
                lost += batch.lost.total
            assert len(received) + lost == 1000
            assert lost == ws.stats.lost.total > 0
    assert all(of is ws for of, _ in events)
    assert {type(event).__name__ for _, event in events} >= {"MessagesLost", "Closed"}


def test_limits_hold():
    """With the queue full, reading pauses; a thread that takes messages makes it go on."""
    with served(lambda peer: [peer.send(str(number)) for number in range(2000)]) as uri:
        with fastws.sync.connect(uri, max_queue=5, **QUIET) as ws:
            until(lambda: ws.stats.paused)
            assert list(ws) == [str(number) for number in range(2000)]
            assert ws.stats.pauses > 0


def test_answers():
    """Questions of the peer are answered, whatever threads do."""
    received: list[Any] = []

    def handler(peer):
        peer.send('{"op":"ping"}')
        received.append(peer.recv())
        peer.send("done")
        peer.wait_closed()

    replies = [Reply({"/op": "ping"}, '{"op":"pong"}')]
    with served(handler) as uri, fastws.sync.connect(uri, replies=replies, **QUIET) as ws:
        assert ws.recv() == "done"
        assert ws.stats.answered == 1
    assert received == ['{"op":"pong"}']


def test_replies_wait_for_fragments():
    """The receive thread sends them, but not between the fragments of a message (RFC 6455 5.4)."""
    begun, answered = threading.Event(), threading.Event()
    received: list[Any] = []

    def parts(ws):
        yield "first "
        begun.set()
        until(lambda: ws.stats.answered == 1)
        yield "second"

    def handler(peer):
        assert begun.wait(10)
        peer.send('{"op":"ping"}')
        for message in peer:
            received.append(message)
            if len(received) == 3:
                answered.set()

    replies = [Reply({"/op": "ping"}, "pong")]
    with served(handler) as uri, fastws.sync.connect(uri, replies=replies, **QUIET) as ws:
        ws.send(parts(ws))
        ws.send("third")
        assert answered.wait(10)
        stats = ws.stats
        assert stats.messages_out == 3
    assert received == ["first second", "pong", "third"]


def test_what_a_peer_does_not_read(caplog):
    """Replies for which there is no room, by the receive thread or by the control plane: counted, and told of once."""
    caplog.set_level(logging.DEBUG, "websockets.client")
    peers: list[socket.socket] = []
    done = threading.Event()

    def work(peer):
        peers.append(peer)
        done.wait(20)

    with raw_peer(work) as uri:
        with fastws.sync.connect(uri, replies=[Reply("?", "x" * 100_000)], **QUIET) as ws:
            try:
                until(lambda: peers)
                asked = 0
                while ws.stats.withheld < 3:
                    peers[0].sendall(frame(TEXT, b"?"))
                    asked += 1
                    until(lambda asked=asked: ws.stats.answered == asked)
                until(lambda: ws.stats.messages_out + ws.stats.withheld == asked)
                sent, withheld = ws.stats.messages_out, ws.stats.withheld
                control: Any = ws._control
                # The kernel may still have taken some of what waits.
                tried = 0
                while ws.stats.withheld == withheld:
                    tried += 1
                    ws._call(lambda: control._send_now("of the loop" + "x" * 100_000))
                assert (ws.stats.messages_out, ws.stats.withheld) == (sent + tried - 1, withheld + 1)

                def logged(text):
                    return [text in record.getMessage() for record in caplog.records].count(True)

                until(lambda: logged("> TEXT") == ws.stats.messages_out)
                assert logged("of the loop") == tried - 1
                until(lambda: logged("stats.withheld counts them") == 1)
            finally:
                done.set()


def test_heartbeat_waits_for_fragments():
    received: list[Any] = []

    def parts(ws):
        yield "first "
        time.sleep(0.1)
        yield "second"

    def handler(peer):
        for message in peer:
            received.append(message)
            peer.send("so am I")

    with served(handler) as uri:
        with fastws.sync.connect(uri, heartbeat=Heartbeat(0.02, "beat", timeout=60), **QUIET) as ws:
            ws.send(parts(ws))
            until(lambda: received.count("beat") > 1)
    assert "first second" in received
    assert set(received) == {"beat", "first second"}


def test_wrong_options():
    for kwargs, text in (
        ({"receive": "loop"}, "receive is 'loop', must be 'thread' or a Pump"),
        ({"max_queue_bytes": -1}, "max_queue_bytes is -1, must be positive or zero"),
    ):
        name, message = error(fastws.sync.connect, "ws://127.0.0.1:1", **kwargs)
        assert (name, message[: len(text)]) == ("ValueError", text)
    upstream: Any = fastws.sync.ClientConnection.__mro__[1]
    with pytest.raises(TypeError, match="overflow: only for a create_connection"):
        fastws.sync.connect("ws://127.0.0.1:1", create_connection=upstream, overflow=DropOldest())


def test_without_a_core():
    program = "import fastws.sync\nfastws.sync.connect('ws://127.0.0.1:1')"
    environment = {**os.environ, "FASTWS_PURE": "1"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=30)
    assert "receive is 'thread', but only the compiled core has receive threads" in done.stderr


# Without the GIL


def test_pings_are_answered_while_python_is_busy():
    """The peer's ping is answered in the pump; this thread has the GIL all the time."""
    pongs = []
    answered = threading.Event()

    def work(sock):
        sock.sendall(frame(PING, b"p") + frame(TEXT, b"x"))
        pongs.append(sock.recv(100)[0])
        answered.set()
        until_eof(sock)

    with raw_peer(work) as uri, fastws.sync.connect(uri, **QUIET) as ws:
        assert answered.wait(10)
        assert pongs == [0x80 | PONG]
        assert ws.recv() == "x"
        until(lambda: ws.stats.pings_in == 1)
        ws.close_timeout = 0.05


# Where a pump can't


def test_unknown_extension(caplog, scheme, ours, theirs):
    """Then it is a connection of websockets."""
    factories: Any = [Factory(Nothing)]
    caplog.set_level(logging.WARNING, "websockets.client")
    with served(echo, scheme, extensions=factories, compression=None, **theirs) as uri:
        options: Any = {"extensions": factories, "compression": None, "max_queue_age": 1.0, **QUIET, **ours}
        with fastws.sync.connect(uri, **options) as ws:
            ws.send("x")
            assert ws.recv() == "x"
            ws.send_batch(["a", b"b"])
            assert [list(ws.recv_batch(timeout=10)) for _ in range(2)] == [["a"], [b"b"]]
            ws.send(["in ", "parts"])
            assert list(ws.recv_streaming()) == ["in parts"]
            assert ws.ping().wait(10)
            assert ws.latency > 0
            assert error(ws.recv, 0)[0] == "TimeoutError"
            assert ws.stats.messages_in == 0
            assert not ws.send_in_progress
        assert ws.close_code == 1000
    assert "a thread of websockets receives, and not a pump: an extension needs that" in caplog.text
    assert "options of fastws have no effect: max_queue_age" in caplog.text
    assert not threads()


# Ends


def test_thread_and_descriptors_are_given_back(scheme, ours, theirs):
    with served(echo, scheme, **theirs) as uri:
        # The server's own are there from the first connection on.
        fastws.sync.connect(uri, **QUIET, **ours).close()
        until(lambda: not threads())
        before = descriptors()
        for _ in range(3):
            with fastws.sync.connect(uri, **QUIET, **ours) as ws, fastws.sync.connect(uri, **QUIET, **ours) as other:
                ws.send("x")
                assert ws.recv() == "x"
                assert len(threads()) == 1
                other.ping().wait(10)
            until(lambda: not threads())
        until(lambda: descriptors() <= before)
        assert Background._current is None


def test_collected(scheme, ours, theirs):
    """A connection that nobody has any more is closed, and leaves nothing."""
    gone = threading.Event()

    def handler(peer):
        if peer.request.path == "/":
            peer.wait_closed()
            gone.set()

    with served(handler, scheme, **theirs) as uri:
        # The server's own are there from the first connection on.
        fastws.sync.connect(uri + "/first", **QUIET, **ours).close()
        until(lambda: not threads())
        before = descriptors()
        ws: Any = fastws.sync.connect(uri, **{**QUIET, "ping_interval": 20}, **ours)
        ws.ping()
        reference = weakref.ref(ws)
        del ws
        gc.collect()
        assert reference() is None
        assert gone.wait(10)
        until(lambda: not threads())
        until(lambda: descriptors() <= before)


def test_collected_in_the_middle():
    """Also while its iterator is all that there was."""
    with served(sends("a", "b")) as uri:
        iterator = iter(fastws.sync.connect(uri, **QUIET))
        assert next(iterator) == "a"
        del iterator
        gc.collect()
        until(lambda: not threads())


def test_exit_with_connections_open():
    """Whatever threads are doing."""
    done = run("""
        import threading
        connections = [fastws.sync.connect(uri, legacy=True) for _ in range(3)]
        def receive(ws):
            for message in ws:
                pass
        def send(ws):
            while True:
                ws.send("x" * 1000)
        threading.Thread(target=receive, args=(connections[0],), daemon=True).start()
        threading.Thread(target=receive, args=(connections[1],), daemon=True).start()
        threading.Thread(target=send, args=(connections[1],), daemon=True).start()
        threading.Thread(target=connections[2].recv, daemon=True).start()
        import time
        time.sleep(0.3)
        print("end", flush=True)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_close_at_exit():
    """After everything was stopped, too."""
    done = run("""
        import atexit, time
        atexit.register(lambda: fastws.sync.connect)
        ws = fastws.sync.connect(uri, legacy=True)
        atexit.register(ws.close)
        late = fastws.sync.connect(uri, legacy=True, close_timeout=0.2)
        from fastws._pump import _stop_all
        def stop_first():
            _stop_all()
            late.close()
            print("closed", late.state.name)
        atexit.register(stop_first)
    """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed CLOSED\n", "")


def test_used_at_exit():
    """After everything was stopped, as it was registered before fastws was imported: nothing waits for ever."""
    ended = threading.Event()
    with raw_peer(lambda sock: ended.wait(60)) as deaf, contextlib.ExitStack() as stack:
        stack.callback(ended.set)
        done = run(f"""
            import atexit
            from fastws._pump import _stop_all
            def late():
                _stop_all()
                for name, call in calls.items():
                    try:
                        call()
                    except fastws.ConnectionClosedError:
                        print(name)
            sender = fastws.sync.connect({deaf!r}, legacy=True, compression=None, close_timeout=0.1, write_limit=0)
            receivers = [fastws.sync.connect(uri, legacy=True, close_timeout=0.1) for _ in range(2)]
            def send():
                while True:
                    sender.send(b"x" * 2**20)
            calls = {{
                "recv": receivers[0].recv,
                "stream": lambda: list(receivers[1].recv_streaming()),
                "send": send,
            }}
            atexit.register(late)
        """)
    assert (done.returncode, done.stdout, done.stderr) == (0, "recv\nstream\nsend\n", "")


def test_pump_is_stopped():
    """Whoever waits is told; nothing else is received by it."""
    pump = fastws.Pump()
    with served(echo) as uri:
        kept = [fastws.sync.connect(uri, receive=pump, **QUIET) for _ in range(3)]
        seen: list[Any] = []

        def receive(ws: Any) -> None:
            try:
                ws.recv()
            except ConnectionClosedError as exc:
                seen.append(exc.__cause__.errno)

        waiting = [threading.Thread(target=receive, args=(ws,), daemon=True) for ws in kept[:2]]
        for thread in waiting:
            thread.start()
        until(lambda: all(ws._turn.busy for ws in kept[:2]))
        pump.stop()
        for thread in waiting:
            thread.join(10)
        receive(kept[2])
        assert seen == [errno.ECANCELED] * 3
        assert (pump.connections, pump.running) == (0, False)
        kept[2].close()
        with pytest.raises(OSError, match="no receive thread"):
            fastws.sync.connect(uri, receive=pump, **QUIET)


def test_interrupt():
    """Ctrl-C ends waiting in the main thread, and the connection can be used afterwards."""
    program = """
        import threading, time, os, signal
        with fastws.sync.connect(uri) as ws:
            for wait in (ws.recv, lambda: next(iter(ws)), ws.recv_batch, lambda: list(ws.recv_streaming())):
                timer = threading.Timer(0.2, lambda: os.kill(os.getpid(), signal.SIGINT))
                timer.start()
                try:
                    wait()
                except KeyboardInterrupt:
                    print("interrupted")
            ws.send("x")
            print(ws.recv())
    """
    done = run(program)
    assert (done.stdout, done.stderr) == ("interrupted\n" * 4 + "x\n", "")


def test_interrupted_in_the_beginning(monkeypatch):
    """A signal may come at any time: then nobody has the connection, and nothing of it stays."""
    enter = Background.enter

    def interrupted(*args: Any) -> Any:
        background = enter()
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        entered.append(background)
        return background

    class Interrupted(concurrent.futures.Future):
        def result(self, timeout: Any = None) -> Any:
            if threading.current_thread() is threading.main_thread():
                raise KeyboardInterrupt
            return super().result(timeout)

    entered: list[Any] = []
    with served(echo) as uri:
        with monkeypatch.context() as patched:
            patched.setattr(Background, "enter", interrupted)
            with fastws.sync.connect(uri, **QUIET) as ws:
                ws.send("x")
                assert ws.recv(timeout=10) == "x"
            patched.setattr(concurrent.futures, "Future", Interrupted)
            with pytest.raises(KeyboardInterrupt):
                fastws.sync.connect(uri, **QUIET)
        until(lambda: len(entered) == 2)
        until(lambda: (gc.collect() and False) or not threads())


def test_a_copy_that_goes():
    """It takes nothing with it."""
    with served(echo) as uri, fastws.sync.connect(uri, **QUIET) as ws:
        copy.copy(ws)
        gc.collect()
        ws.send("x")
        assert ws.recv(timeout=10) == "x"
        assert ws.state is fastws.State.OPEN


def test_interrupted_send():
    done = run("""
        import os, signal, socket, threading
        from sync.net import raw_peer
        go = threading.Event()
        with raw_peer(lambda sock: go.wait(20)) as other:
            ws = fastws.sync.connect(other, legacy=True, compression=None, close_timeout=0.1)
            threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
            try:
                while True:
                    ws.send(b"x" * 2**20)
            except KeyboardInterrupt:
                print("interrupted")
            ws.close()
            print(ws.state.name)
            go.set()
    """, env={**os.environ, "PYTHONPATH": os.path.dirname(os.path.dirname(__file__))})  # fmt: skip
    assert (done.stdout, done.stderr) == ("interrupted\nCLOSED\n", "")


def test_fork():
    """A child can't use its parent's connections, and can make its own."""
    done = run("""
        import os, sys, warnings
        warnings.simplefilter("ignore")
        with fastws.sync.connect(uri) as ws:
            ws.send("x")
            pid = os.fork()
            if pid == 0:
                for function in (lambda: ws.send("y"), ws.recv, ws.ping):
                    try:
                        function()
                    except RuntimeError as exc:
                        assert "parent process" in str(exc)
                    else:
                        os._exit(1)
                ws.close()
                with fastws.sync.connect(uri) as mine:
                    mine.send("of the child")
                    assert mine.recv() == "of the child"
                del ws
                os._exit(0)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
            print(ws.recv())
            ws.send("z")
            print(ws.recv())
    """)
    assert (done.stdout, done.stderr) == ("0\nx\nz\n", "")


def test_fork_while_threads_are_at_work():
    """What they hold in the moment of the fork is nobody's in the child: it is told at once, and never waits."""
    done = run("""
        import os, threading, time, warnings
        warnings.simplefilter("ignore")
        ws = fastws.sync.connect(uri, legacy=True)
        events = ws.events()
        threading.Thread(target=lambda: list(ws), daemon=True).start()
        while not ws._turn.busy:
            time.sleep(0.001)
        ws._outbox.fragmenting = True
        with ws._outbox.lock:
            pid = os.fork()
        ws._outbox.fragmenting = False
        if pid == 0:
            calls = {
                "send": lambda: ws.send("y"),
                "fragments": lambda: ws.send(["y", "z"]),
                "send_batch": lambda: ws.send_batch(["y"]),
                "recv": ws.recv,
                "recv_batch": ws.recv_batch,
                "iter": lambda: next(iter(ws)),
                "recv_streaming": lambda: next(ws.recv_streaming()),
                "events": lambda: next(events),
            }
            for name, call in calls.items():
                try:
                    call()
                except RuntimeError as exc:
                    if "parent process" in str(exc):
                        continue
                    print(name, exc)
                except Exception as exc:
                    print(name, repr(exc))
                os._exit(1)
            os._exit(0)
        deadline = time.monotonic() + 10
        while not (left := os.waitpid(pid, os.WNOHANG))[0] and time.monotonic() < deadline:
            time.sleep(0.01)
        if not left[0]:
            os.kill(pid, 9)
        print(left[0] == pid, left[1])
        ws.close()
    """)
    assert (done.stdout, done.stderr) == ("True 0\n", "")


def test_calls_from_events():
    """In the background thread nothing can wait, and nothing hangs."""
    results: list[Any] = []

    def on_event(ws, event):
        if not results:
            results.append(ws.ping().is_set())
            ws.send("from the event")
            ws.close()
            results.append(ws.state.name)

    with served(echo) as uri:
        ws = fastws.sync.connect(uri, on_event=on_event, stale_after=0.02, **QUIET)
        assert ws.wait_closed(10)
    assert results[0] is False
    assert results[1] == "CLOSING"


@pytest.mark.parametrize("ending", [SystemExit, KeyboardInterrupt])
def test_an_event_that_ends_something(ending, caplog):
    """It has a thread that all connections share: they live, and others can be made."""

    def on_event(ws: Any, event: Any) -> None:
        seen.append(event)
        raise ending(1)

    seen: list[Any] = []
    with served(echo) as uri:
        with fastws.sync.connect(uri, on_event=on_event, stale_after=0.02, **QUIET) as ws:
            until(lambda: seen)
            with fastws.sync.connect(uri, **QUIET) as other:
                other.send("x")
                assert other.recv(timeout=10) == "x"
                assert other.ping().wait(10)
            ws.send("y")
            assert ws.recv(timeout=10) == "y"
            assert ws.ping().wait(10)
        assert ws.close_code == 1000
    assert "on_event ends nothing but itself for Stale" in caplog.text


def test_a_log_handler_that_ends_something():
    """What else of the user's runs there may raise it, too: a log entry's handler."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "PONG" in record.getMessage() and not raised:
                raised.append(threading.current_thread().name)
                raise SystemExit

    raised: list[str] = []
    logger = logging.Logger("of the test", logging.DEBUG)
    logger.addHandler(Handler())
    with served(echo) as uri:
        with fastws.sync.connect(uri, logger=logger, **QUIET) as ws:
            ws.ping()
            until(lambda: raised)
            assert raised == ["fastws-sync"]
            ws.send("y")
            assert ws.recv(timeout=10) == "y"
            assert ws.ping().wait(10)
        assert ws.close_code == 1000


def test_peer_resets():
    """The error is the cause."""
    closed = threading.Event()

    def work(sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        sock.close()
        closed.set()

    with raw_peer(work) as uri, fastws.sync.connect(uri, **QUIET) as ws:
        assert closed.wait(10)
        with pytest.raises(ConnectionClosedError) as raised:
            ws.recv()
        assert isinstance(raised.value.__cause__, ConnectionResetError)
        with pytest.raises(ConnectionClosedError):
            ws.send("x")


def test_many_threads_and_an_end():
    """Connections that are used by many threads while they are closed: all of those end."""
    with served(echo, close_timeout=0.2) as uri:
        for _ in range(3):
            ws: Any = fastws.sync.connect(uri, **QUIET)

            def use(work, ws=ws):
                with contextlib.suppress(fastws.ConnectionClosed, ConcurrencyError):
                    while True:
                        work(ws)

            works = [
                lambda ws: ws.send("x" * 100),
                lambda ws: ws.send(["a", "b"]),
                lambda ws: ws.send_batch(["x"] * 10),
                lambda ws: ws.recv(),
                lambda ws: ws.recv_batch(),
                lambda ws: ws.ping().wait(0.001),
            ]
            users = [threading.Thread(target=use, args=(work,)) for work in works]
            for user in users:
                user.start()
            time.sleep(0.02)
            ws.close_timeout = 0.2
            ws.close()
            for user in users:
                user.join(10)
                assert not user.is_alive()
    until(lambda: not threads())


def test_events_with_the_handshake():
    """What comes together with the response is told when the connection can be used."""
    states: list[Any] = []

    def on_event(ws, event):
        states.append((type(event).__name__, ws.state.name, ws.stats.receive))

    early = frame(TEXT, b'{"u":1}') + frame(TEXT, b'{"u":3}')
    with raw_peer(until_eof, behind=early) as uri:
        with fastws.sync.connect(uri, inspect=fastws.Inspect("/u"), on_event=on_event, **QUIET) as ws:
            assert [ws.recv(), ws.recv()] == ['{"u":1}', '{"u":3}']
            until(lambda: states)
            ws.close_timeout = 0.05
    assert states[0] == ("Gap", "OPEN", "thread")
