"""``Sender`` and ``send``: what goes to the socket itself, what to the transport, and in which order."""

from __future__ import annotations

import asyncio
import gc
import inspect
import socket
import warnings
from collections.abc import Coroutine

import pytest

from .streams import BINARY, TEXT, frame


class Transport:
    """A transport that keeps what it is given until it is flushed."""

    def __init__(self, sock=None):
        self.sock = sock
        self.held = b""
        self.writes = []
        self.closing = False
        self.error = None

    def write(self, data):
        if self.error is not None:
            raise self.error
        self.writes.append(bytes(data))
        self.held += data

    def flush(self):
        self.sock.sendall(self.held)
        self.held = b""

    def is_closing(self):
        return self.closing

    def get_write_buffer_size(self):
        return len(self.held)


class Connection:
    """What ``send`` needs of a connection; it notes what is left to it."""

    def __init__(self, impl, direct=True):
        self.ours, self.peer = socket.socketpair()
        self.ours.setblocking(False)
        self.peer.settimeout(10)
        self.state = "OPEN"
        self.transport = Transport(self.ours)
        self.send_in_progress = None
        self.paused = False
        self.left = []
        self.go = asyncio.Event()
        self.encoder = impl.FrameEncoder("server")
        descriptor = self.ours.fileno() if direct else -1
        self._sender = impl.Sender(self.encoder, self, "OPEN", self.transport, descriptor)

    async def _send(self, message, text):
        self.left.append(("send", message, text))
        await self.go.wait()

    async def _drain_sent(self):
        self.left.append(("drain",))
        await self.go.wait()

    async def _write_failed(self, exc):
        self.left.append(("failed", str(exc)))

    def close(self):
        self.ours.close()
        self.peer.close()


@pytest.fixture
def connection(impl):
    # A subclass: what is a function of the core must be a method in a class.
    connection = type("Sending", (Connection,), {"send": impl.send})(impl)
    yield connection
    connection.close()


def run(awaitable):
    """Run what never suspends."""
    with pytest.raises(StopIteration) as stop:
        awaitable.send(None)
    assert stop.value.value is None


MESSAGES = [
    ("café", None, TEXT, b"caf\xc3\xa9"),
    ("café", False, BINARY, b"caf\xc3\xa9"),
    (b"bytes", None, BINARY, b"bytes"),
    (bytearray(b"array"), True, TEXT, b"array"),
    (memoryview(b"0123")[::2], None, BINARY, b"02"),
    ("", None, TEXT, b""),
]


@pytest.mark.parametrize(("message", "text", "opcode", "payload"), MESSAGES, ids=range(len(MESSAGES)))
def test_straight_to_the_socket(connection, message, text, opcode, payload):
    run(connection.send(message, text=text))
    expected = frame(opcode, payload)
    assert connection.peer.recv(100) == expected
    assert not connection.transport.writes
    assert (connection._sender.messages, connection._sender.nbytes) == (1, len(expected))


@pytest.mark.parametrize(("message", "text", "opcode", "payload"), MESSAGES, ids=range(len(MESSAGES)))
def test_through_the_transport(impl, message, text, opcode, payload):
    connection = Connection(impl, direct=False)
    run(impl.send(connection, message, text=text))
    assert connection.transport.writes == [frame(opcode, payload)]
    assert connection._sender.messages == 1
    connection.close()


def test_never_ahead_of_what_the_transport_holds(connection):
    connection.transport.write(b"control")
    run(connection.send("one"))
    run(connection.send("two"))
    assert connection.transport.writes == [b"control", frame(TEXT, b"one"), frame(TEXT, b"two")]
    connection.transport.flush()
    run(connection.send("three"))
    assert connection.peer.recv(100) == b"control" + b"".join(frame(TEXT, text) for text in (b"one", b"two", b"three"))


@pytest.mark.parametrize("size", [1000, 100_000])
def test_what_the_socket_does_not_take(connection, size):
    """It has the first bytes of a frame, the transport the rest; and nothing overtakes it."""
    sent = b""
    while not connection.transport.held:
        message = bytes([len(sent) % 251]) * size
        run(connection.send(message))
        sent += frame(BINARY, message)
    run(connection.send("last"))
    sent += frame(TEXT, b"last")
    received = b""
    while len(received) < len(sent) - len(connection.transport.held):
        received += connection.peer.recv(2**20)
    assert received + connection.transport.held == sent
    assert connection._sender.nbytes == len(sent)


def test_errors_are_the_transports(connection):
    """The socket's own error isn't raised: the transport meets it again."""
    connection.ours.shutdown(socket.SHUT_WR)
    run(connection.send("x"))
    assert connection.transport.writes == [frame(TEXT, b"x")]
    connection.transport.held = b""
    connection.transport.error = OSError("no more")
    run(connection.send("y"))
    assert connection.left == [("failed", "no more")]
    assert connection._sender.messages == 1


def test_a_closing_transport_gets_it(connection):
    """Its descriptor may be somebody else's by now."""
    connection.transport.closing = True
    connection.go.set()
    run(connection.send("x"))
    assert connection.left == [("drain",)]
    assert connection.transport.writes == [frame(TEXT, b"x")]


def test_waits_while_writing_is_paused(connection):
    async def main():
        connection.transport.write(b"held")
        connection.paused = True
        task = asyncio.create_task(connection.send("x"))
        await asyncio.sleep(0)
        assert connection.left == [("drain",)]
        assert not task.done()
        connection.go.set()
        assert await task is None

    asyncio.run(main())


@pytest.mark.parametrize("why", ["state", "in progress", "no sender", "fragments", "dict"])
def test_left_to_the_connection(connection, why):
    message = {"fragments": ["a", "b"], "dict": {"a": 1}}.get(why, "x")
    if why == "state":
        connection.state = "CLOSING"
    elif why == "in progress":
        connection.send_in_progress = object()
    elif why == "no sender":
        connection._sender = None
    connection.go.set()
    run(connection.send(message, text=True))
    assert connection.left == [("send", message, True)]
    assert not connection.transport.writes


def test_what_cannot_be_encoded(connection):
    with pytest.raises(UnicodeEncodeError):
        connection.send("\ud800").send(None)
    assert not connection.left
    run(connection.send("goes on"))
    assert connection.peer.recv(100) == frame(TEXT, b"goes on")
    assert connection._sender.messages == 1


def test_nothing_is_sent_before_it_is_awaited(connection):
    first, second = connection.send("first"), connection.send("second")
    run(second)
    run(first)
    assert connection.peer.recv(100) == frame(TEXT, b"second") + frame(TEXT, b"first")


def test_arguments(connection):
    for wrong in ((), ("x", None)):
        with pytest.raises(TypeError):
            connection.send(*wrong)
    with pytest.raises(TypeError):
        connection.send("x", binary=True)
    run(connection.send(message="x", text=None))


# A coroutine in all but type


def test_looks_like_a_coroutine_function(connection):
    for function in (connection.send, type(connection).send):
        assert inspect.iscoroutinefunction(function)
        assert inspect.iscoroutinefunction(function) == asyncio.iscoroutinefunction(function)
        assert function.__doc__.startswith("Send a message")
        assert function.__name__ == "send"
    assert str(inspect.signature(connection.send)).startswith("(message")
    assert list(inspect.signature(connection.send).parameters) == ["message", "text"]
    assert inspect.signature(connection.send).parameters["text"].kind is inspect.Parameter.KEYWORD_ONLY


def test_looks_like_a_coroutine(connection):
    sending = connection.send("x")
    assert asyncio.iscoroutine(sending)
    assert inspect.isawaitable(sending)
    assert isinstance(sending, Coroutine)
    assert sending.__name__ == "send"
    assert sending.__qualname__ == "Connection.send"
    assert sending.cr_await is None
    sending.close()


def test_never_awaited(connection):
    with pytest.warns(RuntimeWarning, match=r"coroutine 'Connection\.send' was never awaited"):
        connection.send("x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        connection.send("x").close()
        run(connection.send("y"))
        with pytest.raises(KeyError):
            connection.send("z").throw(KeyError)
        gc.collect()
    assert connection.peer.recv(100) == frame(TEXT, b"y")


def test_awaited_twice(connection):
    sending = connection.send("x")
    run(sending)
    for again in (lambda: sending.send(None), lambda: sending.throw(KeyError)):
        with pytest.raises(RuntimeError, match="cannot reuse already awaited coroutine"):
            again()
    assert connection.peer.recv(100) == frame(TEXT, b"x")

    async def main():
        waiting = connection.send(["x"])
        task = asyncio.create_task(waiting)
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="being awaited already"):
            await waiting
        connection.go.set()
        await task

    asyncio.run(main())


def test_just_started(connection):
    sending = connection.send("x")
    with pytest.raises(TypeError, match="can't send non-None value"):
        sending.send(1)
    run(sending)


def test_thrown_into(connection):
    """Before it is begun, nothing is sent; while it waits, the exception goes where it waits."""
    for error in ((KeyError("k"),), (KeyError,)):
        with pytest.raises(KeyError):
            connection.send("x").throw(*error)
    assert not connection.left

    async def main():
        waiting = connection.send(["x"])
        task = asyncio.create_task(waiting)
        await asyncio.sleep(0)
        assert waiting.cr_await is not None
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        with pytest.raises(RuntimeError, match="cannot reuse"):
            waiting.send(None)

    asyncio.run(main())


def test_ways_to_await(connection):
    async def main():
        await connection.send("1")
        await asyncio.create_task(connection.send("2"))
        await asyncio.gather(connection.send("3"), connection.send("4"))
        await asyncio.wait_for(connection.send("5"), 10)
        async with asyncio.TaskGroup() as group:
            group.create_task(connection.send("6"))
        await asyncio.shield(connection.send("7"))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.send(["8"]), 0.001)
        cancelled = asyncio.create_task(connection.send("never begun"))
        cancelled.cancel()
        with pytest.raises(asyncio.CancelledError):
            await cancelled

    asyncio.run(main(), debug=True)
    assert connection.peer.recv(1000) == b"".join(frame(TEXT, b"%d" % number) for number in range(1, 8))


def test_holds_nothing_when_done(connection):
    class Message(str):
        __slots__ = ()

    message = Message("x")
    sending = connection.send(message)
    held = len(gc.get_referrers(message))
    run(sending)
    assert len(gc.get_referrers(message)) < held or held == 0
