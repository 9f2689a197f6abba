"""What ``fastws.sync`` does as ``websockets.sync.client`` does: one table, tried with both, plain and with TLS."""

from __future__ import annotations

import contextlib
import inspect
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import websockets.sync.client
from core.streams import PING, TEXT, frame
from websockets.exceptions import (
    ConnectionClosed,
    ConnectionClosedError,
    InvalidMessage,
    InvalidStatus,
    ProtocolError,
)
from websockets.protocol import State

from .net import raw_peer, served, until, until_eof

Connection = Any
Outcome = Any

# The servers


def echo(peer: Any) -> None:
    for message in peer:
        peer.send(message)


def silent(peer: Any) -> None:
    peer.wait_closed()


def sends(*messages: Any) -> Callable[[Any], None]:
    def handler(peer: Any) -> None:
        for message in messages:
            peer.send(message)
        peer.wait_closed()

    return handler


def closes(code: int, reason: str, *messages: Any) -> Callable[[Any], None]:
    def handler(peer: Any) -> None:
        for message in messages:
            peer.send(message)
        peer.close(code, reason)

    return handler


def vanishes(peer: Any) -> None:
    peer.send("last words")
    peer.socket.shutdown(socket.SHUT_RDWR)


def in_fragments(peer: Any) -> None:
    peer.send(["some ", "text"])
    peer.send([b"some ", b"bytes"])
    peer.send(["in ", "parts"])
    peer.send("whole")
    peer.wait_closed()


def late(peer: Any) -> None:
    """A message whose fragments are far apart."""
    peer.recv()
    peer.send(part for part in _delayed("first ", "second"))
    peer.wait_closed()


def _delayed(*parts: str) -> Any:
    for part in parts:
        yield part
        time.sleep(0.1)


def answers_late(peer: Any) -> None:
    peer.recv()
    time.sleep(0.15)
    peer.send("late")
    peer.wait_closed()


# The clients


def error(function: Callable[..., Any], *args: Any, **kwargs: Any) -> tuple[str, str]:
    """The exception, as a user sees it."""
    try:
        function(*args, **kwargs)
    except Exception as exc:
        return type(exc).__name__, str(exc)
    raise AssertionError("nothing was raised")


def close_sent(ws: Connection) -> tuple[int, str]:
    """Code and reason of our close frame."""
    return ws.protocol.close_sent.code, ws.protocol.close_sent.reason


def in_thread(function: Callable[[], Any]) -> Callable[[], Any]:
    """Begin something in a thread; returns what waits for its result."""
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()

    def result() -> Any:
        thread.join(10)
        assert not thread.is_alive()
        return results[0]

    return result


def exchange(ws: Connection) -> Outcome:
    results = []
    for message in ("text", b"bytes", "", b"", bytearray(b"array"), memoryview(b"view"), "é" * 40_000):
        ws.send(message)
        results.append(ws.recv() == (message if isinstance(message, str) else bytes(message)))
    return results


def text_and_binary(ws: Connection) -> Outcome:
    ws.send("abc", text=False)
    first = ws.recv()
    ws.send(b"abc", text=True)
    return first, ws.recv()


def decoded(ws: Connection) -> Outcome:
    ws.send("abc")
    first = ws.recv(decode=False)
    ws.send(b"abc")
    return first, ws.recv(decode=True)


def undecodable(ws: Connection) -> Outcome:
    ws.send(b"\xff\xfe")
    name, _ = error(ws.recv, decode=True)
    return name, close_sent(ws)[0], ws.state is State.CLOSED


def fragments_out(ws: Connection) -> Outcome:
    ws.send(["a", "b", "c"])
    first = ws.recv()
    ws.send(iter([b"a", b"b"]))
    second = ws.recv()
    ws.send([])
    ws.send(["x", "y"], text=False)
    return first, second, ws.recv()


def fragments_of_two_kinds(ws: Connection) -> Outcome:
    return error(ws.send, ["a", b"b"]), close_sent(ws)[0], error(ws.send, "x")[0]


def fragments_that_fail(ws: Connection) -> Outcome:
    def parts():
        yield "a"
        raise LookupError("no more")

    return error(ws.send, parts()), *close_sent(ws)


def wrong_types(ws: Connection) -> Outcome:
    results = [error(ws.send, message) for message in ({"a": 1}, 1, None, [1])[:3]]
    return [*results, error(ws.ping, 1), error(ws.pong, None)], ws.state is State.OPEN


def send_while_fragmenting(ws: Connection) -> Outcome:
    results = []

    def parts():
        yield "a"
        results.append(error(ws.send, "between"))
        results.append(error(ws.send, ["be", "tween"]))
        yield "b"

    ws.send(parts())
    return results, ws.recv()


def close_while_fragmenting(ws: Connection) -> Outcome:
    def parts():
        yield "a"
        ws.close()
        yield "b"

    return error(ws.send, parts())[0], *close_sent(ws)


def streamed(ws: Connection) -> Outcome:
    return [list(ws.recv_streaming()), list(ws.recv_streaming()), list(ws.recv_streaming(False)), ws.recv()]


def streamed_half(ws: Connection) -> Outcome:
    stream = ws.recv_streaming()
    first = next(stream)
    # With websockets it is for ever that nobody else can receive.
    return first, error(ws.recv, 0), error(next, ws.recv_streaming()), list(stream)


def iterated(ws: Connection) -> Outcome:
    return list(ws)


def iterated_to_an_error(ws: Connection) -> Outcome:
    received = []
    try:
        for message in ws:
            received.append(message)  # noqa: PERF402
    except ConnectionClosedError as exc:
        return received, exc.rcvd and exc.rcvd.code, exc.rcvd and exc.rcvd.reason, str(exc)


def timeouts(ws: Connection) -> Outcome:
    results = [error(ws.recv, timeout)[0] for timeout in (0, -1, 0.05)]
    ws.send("x")
    return results, ws.recv(10), error(ws.recv, timeout=0)[0]


def timeout_loses_nothing(ws: Connection) -> Outcome:
    """The first part comes before the timeout, the second after it."""
    ws.send("go")
    missed = 0
    while True:
        try:
            return ws.recv(0.03), missed > 0
        except TimeoutError:
            missed += 1


def late_message(ws: Connection) -> Outcome:
    ws.send("go")
    return error(ws.recv, 0.01)[0], ws.recv(5)


def two_receive(ws: Connection) -> Outcome:
    waiting = in_thread(ws.recv)
    # Wherever the other thread is by now.
    until(lambda: is_receiving(ws))
    result = error(ws.recv)
    ws.send("x")
    return result, waiting()


def is_receiving(ws: Connection) -> bool:
    if isinstance(ws, _ours()):
        return ws._turn.busy
    return bool(ws.recv_messages.get_in_progress)


def _ours() -> Any:
    import fastws.sync

    return fastws.sync.ClientConnection


def close_while_receiving(ws: Connection) -> Outcome:
    waiting = in_thread(lambda: error(ws.recv))
    until(lambda: is_receiving(ws))
    ws.close()
    return waiting()


def close_while_streaming(ws: Connection) -> Outcome:
    waiting = in_thread(lambda: error(list, ws.recv_streaming()))
    until(lambda: is_receiving(ws))
    ws.close()
    return waiting()


def closed(ws: Connection) -> Outcome:
    ws.close(1001, "away")
    ws.close(1000, "again")
    state = (ws.state is State.CLOSED, ws.close_code, ws.close_reason, ws.wait_closed(0))
    return state, [error(f) for f in (lambda: ws.send("x"), ws.recv, ws.ping, ws.pong, lambda: ws.send(["x"]))]


def close_with_a_wrong_code(ws: Connection) -> Outcome:
    return error(ws.close, 1006), ws.state is State.OPEN


def left_by_exception(ws: Connection) -> Outcome:
    with contextlib.suppress(LookupError), ws:
        raise LookupError
    return ws.close_code


def closed_by_peer(ws: Connection) -> Outcome:
    ended = ws.wait_closed(10)
    return ended, ws.recv(), error(ws.recv), error(ws.send, "x"), ws.close_code, ws.close_reason


def gone(ws: Connection) -> Outcome:
    results = ws.recv(), error(ws.recv), ws.close_code
    return *results, error(ws.send, "x")[0]


def wait_closed(ws: Connection) -> Outcome:
    before = ws.wait_closed(0.01)
    ws.close()
    return before, ws.wait_closed()


def pinged(ws: Connection) -> Outcome:
    event = ws.ping()
    assert isinstance(event, threading.Event)
    waited = event.wait(10)
    return waited, ws.latency > 0.0, ws.ping("data").wait(10), ws.ping(b"data").wait(10)


def pinged_at_the_end(ws: Connection) -> Outcome:
    ws.send("don't read")
    events = ws.ping("a"), ws.ping("b", ack_on_close=True)
    again = error(ws.ping, "a")
    ws.close_timeout = 0.01
    ws.close()
    return [event.is_set() for event in events], again


def unread(peer: Any) -> None:
    """It takes one message and then nothing, not even pings."""
    peer.recv_messages.high = peer.recv_messages.low = 0
    peer.recv_flow_control.acquire()
    with contextlib.suppress(ConnectionClosed):
        time.sleep(0.3)
    peer.recv_flow_control.release()
    peer.wait_closed()


def described(ws: Connection) -> Outcome:
    return (
        ws.local_address == ws.socket.getsockname(),
        ws.remote_address == ws.socket.getpeername(),
        ws.request.headers["Host"] == ":".join(map(str, ws.remote_address)),
        ws.response.status_code,
        ws.subprotocol,
        ws.state is State.OPEN,
        ws.close_code,
        ws.close_reason,
        len(str(ws.id)),
        ws.latency,
        isinstance(ws, websockets.sync.client.ClientConnection),
        ws.logger.logger.name,
        str(ws.logger.extra["websocket"].id) == str(ws.id),
    )


OOPS = "received 1011 (internal error) oops; then sent 1011 (internal error) oops"
CLOSED_BY_US = "sent 1001 (going away) away; then received 1001 (going away) away"
OK_BY_US = ("ConnectionClosedOK", "sent 1000 (OK); then received 1000 (OK)")
LOST = ("ConnectionClosedError", "no close frame received or sent")
BUSY = "while another thread is already running recv or recv_streaming"
SENDING = ("ConcurrencyError", "cannot call send while another thread is already running send")

# Name: (server, client, what must come out of it, by both)
BEHAVIOURS: dict[str, tuple[Callable[[Any], None], Callable[[Connection], Outcome], Outcome]] = {
    "exchange": (echo, exchange, [True] * 7),
    "text and binary": (echo, text_and_binary, (b"abc", "abc")),
    "decode": (echo, decoded, (b"abc", "abc")),
    "undecodable": (echo, undecodable, ("ConnectionClosedError", 1007, True)),
    "fragments out": (echo, fragments_out, ("abc", b"ab", b"xy")),
    "fragments of two kinds": (
        echo,
        fragments_of_two_kinds,
        (("TypeError", "iterable must contain uniform types"), 1011, "ConnectionClosedError"),
    ),
    "fragments that fail": (
        echo,
        fragments_that_fail,
        (("LookupError", "no more"), 1011, "error in fragmented message"),
    ),
    "wrong types": (
        echo,
        wrong_types,
        (
            [
                ("TypeError", "data is a dict-like object"),
                ("TypeError", "data must be str, bytes, or iterable"),
                ("TypeError", "data must be str, bytes, or iterable"),
                ("TypeError", "data must be str or bytes-like"),
                ("TypeError", "data must be str or bytes-like"),
            ],
            True,
        ),
    ),
    "send while fragmenting": (echo, send_while_fragmenting, ([SENDING, SENDING], "ab")),
    "close while fragmenting": (
        echo,
        close_while_fragmenting,
        ("ConnectionClosedError", 1011, "close during fragmented message"),
    ),
    "fragments in": (in_fragments, streamed, [["some ", "text", ""], [b"some ", b"bytes", b""],
                                              [b"in ", b"parts", b""], "whole"]),
    "half a stream": (
        in_fragments,
        streamed_half,
        (
            "some ",
            ("ConcurrencyError", f"cannot call recv {BUSY}"),
            ("ConcurrencyError", f"cannot call recv_streaming {BUSY}"),
            ["text", ""],
        ),
    ),
    "iterate": (closes(1000, "", "a", b"b"), iterated, ["a", b"b"]),
    "iterate, going away": (closes(1001, "", "a"), iterated, ["a"]),
    "iterate to an error": (
        closes(1011, "oops", "a"),
        iterated_to_an_error,
        (["a"], 1011, "oops", OOPS),
    ),
    "timeouts": (
        echo,
        timeouts,
        (["TimeoutError"] * 3, "x", "TimeoutError"),
    ),
    "a timeout loses nothing": (late, timeout_loses_nothing, ("first second", True)),
    "late message": (answers_late, late_message, ("TimeoutError", "late")),
    "two receive": (echo, two_receive, (("ConcurrencyError", f"cannot call recv {BUSY}"), "x")),
    "close while receiving": (silent, close_while_receiving, OK_BY_US),
    "close while streaming": (silent, close_while_streaming, OK_BY_US),
    "closed": (
        silent,
        closed,
        ((True, 1001, "away", True), [("ConnectionClosedOK", CLOSED_BY_US)] * 5),
    ),
    "close with a wrong code": (silent, close_with_a_wrong_code, (("ProtocolError", "invalid status code"), True)),
    "left by an exception": (silent, left_by_exception, 1011),
    "closed by the peer": (
        closes(1011, "oops", "a"),
        closed_by_peer,
        (
            True,
            "a",
            *[("ConnectionClosedError", OOPS)] * 2,
            1011,
            "oops",
        ),
    ),
    "wait_closed": (silent, wait_closed, (False, True)),
    "ping": (silent, pinged, (True, True, True, True)),
    "described": (silent, described, (True, True, True, 101, None, True, None, None, 36, 0.0, True,
                                      "websockets.client", True)),
}  # fmt: skip


@pytest.mark.parametrize("name", BEHAVIOURS)
def test_behaviour(name, module):
    server, client, expected = BEHAVIOURS[name]
    with served(server) as uri, module.connect(uri, ping_interval=None, close_timeout=5) as ws:
        assert client(ws) == expected


@pytest.mark.parametrize("name", BEHAVIOURS)
@pytest.mark.parametrize("module", ["fastws"], indirect=True)
def test_behaviour_with_tls(name, module, certificate):
    server, client, expected = BEHAVIOURS[name]
    with served(server, "wss", ssl=certificate.server_context()) as uri:
        with module.connect(uri, ping_interval=None, close_timeout=5, ssl=certificate.client_context()) as ws:
            assert client(ws) == expected


def test_peer_is_gone(module):
    """The end of the stream without a close frame."""
    with served(vanishes) as uri, module.connect(uri, ping_interval=None) as ws:
        assert gone(ws) == ("last words", LOST, 1006, "ConnectionClosedError")


def test_pings_without_pongs(module):
    """At the end, events of pings are set for those who want it."""

    def ignore(sock):
        until_eof(sock)

    with raw_peer(ignore) as uri, module.connect(uri, ping_interval=None) as ws:
        events = ws.ping("a"), ws.ping("b", ack_on_close=True)
        assert error(ws.ping, "a") == ("ConcurrencyError", "already waiting for a pong with the same data")
        ws.close_timeout = 0.05
        ws.close()
        assert [event.is_set() for event in events] == [False, True]


def test_close_timeout(module):
    """A peer that doesn't answer doesn't hold up close(); the exception says what it was."""
    with raw_peer(until_eof) as uri, module.connect(uri, ping_interval=None, close_timeout=0.1) as ws:
        ws.close()
        assert ws.state is State.CLOSED
        with pytest.raises(ConnectionClosedError, match=r"sent 1000 \(OK\); no close frame received") as raised:
            ws.recv()
        assert str(raised.value.__cause__) == "timed out while closing connection"


def test_keepalive(module):
    """A peer that answers no ping loses the connection."""
    with raw_peer(until_eof) as uri:
        with module.connect(uri, ping_interval=0.05, ping_timeout=0.05, close_timeout=0.1) as ws:
            with pytest.raises(ConnectionClosedError, match="keepalive ping timeout"):
                ws.recv()


def test_violation(module):
    """What was received before comes first."""

    def work(sock):
        sock.sendall(frame(TEXT, b"good") + frame(3, b"bad"))
        # Neither waits for less than the end.
        sock.recv(65536)

    with raw_peer(work) as uri, module.connect(uri, ping_interval=None, close_timeout=0.1) as ws:
        assert ws.recv() == "good"
        with pytest.raises(ConnectionClosedError) as raised:
            ws.recv()
        assert raised.value.sent.code == 1002
        assert isinstance(raised.value.__cause__, ProtocolError | TimeoutError)


def test_too_long(module):
    with served(sends("x" * 101)) as uri, module.connect(uri, ping_interval=None, max_size=100) as ws:
        with pytest.raises(ConnectionClosedError) as raised:
            ws.recv()
        assert raised.value.sent.code == 1009


def test_behind_the_handshake(module):
    """Frames that come with the response aren't lost; pings among them are answered."""
    received = []

    def work(sock):
        received.append(sock.recv(65536))
        sock.sendall(b"ond")
        until_eof(sock)

    early = frame(PING, b"early") + frame(TEXT, b"first") + b"\x81\x06sec"
    with raw_peer(work, behind=early) as uri:
        with module.connect(uri, ping_interval=None, close_timeout=0.1) as ws:
            assert [ws.recv(), ws.recv()] == ["first", "second"]
    assert received[0][0] == 0x8A


# Opening


def test_arguments(module, scheme, ours, theirs):
    """What the server is told."""
    seen = []

    def handler(peer):
        seen.append((peer.subprotocol, dict(peer.request.headers.raw_items())))
        peer.wait_closed()

    with served(handler, scheme, subprotocols=["one"], **theirs) as uri:
        with module.connect(
            uri + "/path?query",
            subprotocols=["two", "one"],
            origin="http://example.com",
            additional_headers={"X-Ours": "yes"},
            user_agent_header="me",
            compression=None,
            source_address=("127.0.0.1", 0),
            **ours,
        ) as ws:
            assert ws.subprotocol == "one"
            assert ws.local_address[0] == "127.0.0.1"
            assert ws.request.path == "/path?query"
            until(lambda: seen)
    ((subprotocol, headers),) = seen
    assert subprotocol == "one"
    wanted = {"Origin": "http://example.com", "X-Ours": "yes", "User-Agent": "me"}
    assert {name: headers.get(name) for name in wanted} == wanted
    assert "Sec-WebSocket-Extensions" not in headers


@pytest.mark.parametrize("status", [403, 302])
def test_refusal(module, status):
    """A redirection without a place is a refusal, too."""
    body = b"no, thanks"
    head = b"HTTP/1.1 %d No\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)
    with raw_peer(until_eof, head) as uri, pytest.raises(InvalidStatus) as raised:
        module.connect(uri)
    assert (raised.value.response.status_code, raised.value.response.body) == (status, body)


def test_redirection(module):
    with served(echo) as uri:
        head = b"HTTP/1.1 302 Found\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % uri.encode()
        with raw_peer(until_eof, head) as other, module.connect(other) as ws:
            ws.send("x")
            assert ws.recv() == "x"


def test_nonsense(module):
    with raw_peer(until_eof, b"220 smtp.example.com ESMTP\r\n\r\n") as uri:
        with pytest.raises(InvalidMessage, match="did not receive a valid HTTP response"):
            module.connect(uri)


def test_end_in_the_handshake(module):
    with raw_peer(lambda sock: None, b"HTTP/1.1 101 Swit") as uri, pytest.raises(InvalidMessage):
        module.connect(uri)


def test_open_timeout(module):
    with raw_peer(until_eof, b"HTTP/1.1 101 Swit") as uri:
        with pytest.raises(TimeoutError, match="timed out while waiting for handshake response"):
            module.connect(uri, open_timeout=0.05)


def test_nobody_listens(module):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        module.connect(f"ws://127.0.0.1:{port}")


def test_wrong_certificate(module, certificate):
    import ssl

    with served(echo, "wss", ssl=certificate.server_context()) as uri:
        with pytest.raises(ssl.SSLCertVerificationError):
            module.connect(uri, ssl=ssl.create_default_context())


def test_wrong_arguments(module):
    import ssl

    for kwargs, text in (
        ({"compression": "zip"}, "unsupported compression: zip"),
        ({"ssl": ssl.create_default_context()}, "ssl argument is incompatible with a ws:// URI"),
        ({"max_queue": -1}, "high must be positive"),
    ):
        with served(echo) as uri, pytest.raises(ValueError, match=r"incompatible|unsupported|must be") as raised:
            module.connect(uri, **kwargs)
        if "max_queue" not in kwargs:
            assert str(raised.value) == text


def test_given_socket(module, scheme, ours, theirs):
    with served(echo, scheme, **theirs) as uri:
        sock = socket.create_connection(("127.0.0.1", int(uri.rpartition(":")[2])))
        with module.connect(f"{scheme}://localhost", sock=sock, server_hostname="localhost", **ours) as ws:
            ws.send("x")
            assert ws.recv() == "x"
        assert sock.fileno() == -1


def test_unix(module, tmp_path):
    path = str(tmp_path / "socket")
    with websockets.sync.server.unix_serve(echo, path) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        with module.unix_connect(path) as ws:
            ws.send("x")
            assert ws.recv() == "x"
        server.shutdown()
        thread.join()
    with pytest.raises(ValueError, match="missing path argument"):
        module.unix_connect()


def test_reconnect(module):
    """What iterates on connections gets a new one each time."""
    served_to = []

    def handler(peer):
        served_to.append(peer.recv())
        if len(served_to) < 3:
            peer.close(1012)
        else:
            peer.send("done")
            peer.wait_closed()

    with served(handler) as uri:
        connecter = module.reconnect(uri, reconnect_delays=lambda: iter([0.01] * 3))
        for number, ws in enumerate(connecter):
            ws.send(str(number))
            try:
                assert ws.recv() == "done"
                break
            except ConnectionClosed:
                continue
    assert served_to == ["0", "1", "2"]


def test_legacy(module):
    """A connection that no ``with`` has must be asked for by name."""
    with served(echo) as uri:
        ws = module.connect(uri)
        with pytest.warns(DeprecationWarning, match="must be used as a context manager") as warned:
            ws.send("x")
        assert warned[0].filename == __file__
        assert ws.recv() == "x"
        ws.close()
        ws = module.connect(uri, legacy=True)
        ws.send("x")
        ws.close()
        with module.connect(uri, legacy=False) as ws:
            ws.send("x")


def test_subclass(module):
    class Ours(module.ClientConnection):
        def greet(self):
            self.send("hello")
            return self.recv()

    with served(echo) as uri, module.connect(uri, create_connection=Ours) as ws:
        assert ws.greet() == "hello"


def test_log(module, caplog):
    """Frames at level DEBUG; each entry knows its connection."""
    caplog.set_level(logging.DEBUG, "test.sync")
    with served(echo) as uri, module.connect(uri, logger=logging.getLogger("test.sync"), ping_interval=None) as ws:
        ws.send("sent")
        assert ws.recv() == "sent"
        ws.ping("p").wait(10)
    entries = [record.getMessage() for record in caplog.records if record.name == "test.sync"]
    for entry in ("TEXT 'sent' [4 bytes]", "CLOSE 1000 (OK) [2 bytes]"):
        assert {f"> {entry}", f"< {entry}"} <= set(entries), entries
    assert {"> PING 'p' [text, 1 byte]", "< PONG 'p' [text, 1 byte]"} <= set(entries), entries
    assert all(record.websocket.id == ws.id for record in caplog.records if "TEXT" in record.getMessage())


def test_compression(module):
    with served(echo) as uri, module.connect(uri) as ws:
        assert ws.response.headers["Sec-WebSocket-Extensions"].startswith("permessage-deflate")
        messages = ["a" * 1000, "b" * 1000, "a" * 1000]
        for message in messages:
            ws.send(message)
        assert [ws.recv() for _ in messages] == messages
        ws.send(["a" * 100, "b" * 100])
        assert ws.recv() == "a" * 100 + "b" * 100


def test_many_send(module, scheme, ours, theirs):
    """Messages of several threads are whole, and in each thread's order."""
    received: list[str] = []
    done = threading.Event()

    def handler(peer):
        received.extend(peer)
        done.set()

    def send(ws, name):
        for number in range(200):
            ws.send(f"{name} {number} " + name * 300)

    with served(handler, scheme, **theirs) as uri:
        with module.connect(uri, **ours) as ws:
            threads = [threading.Thread(target=send, args=(ws, name)) for name in "abc"]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert done.wait(10)
    for name in "abc":
        mine = [message for message in received if message[0] == name]
        assert mine == [f"{name} {number} " + name * 300 for number in range(200)]
    assert len(received) == 600


def test_send_waits_for_the_peer(module):
    """A peer that reads nothing makes send() wait, and nothing is lost when it does."""
    go = threading.Event()
    read = []

    def work(sock):
        go.wait(10)
        read.append(len(until_eof(sock)))

    with raw_peer(work) as uri:
        with module.connect(uri, compression=None, ping_interval=None, close_timeout=0.2) as ws:
            sent = []

            def send():
                for _ in range(48):
                    ws.send(b"x" * 2**18)
                    sent.append(2**18)

            thread = threading.Thread(target=send)
            thread.start()
            thread.join(0.3)
            assert thread.is_alive()
            assert len(sent) < 48
            go.set()
            thread.join(10)
            assert not thread.is_alive()
    assert read[0] > sum(sent)


def test_broadcast(module):
    """What the server's function does with clients' connections."""
    with served(echo) as uri, module.connect(uri) as first, module.connect(uri) as second:
        websockets.sync.server.broadcast([first, second], "to all")
        assert [first.recv(), second.recv()] == ["to all", "to all"]


def test_names(module):
    upstream = websockets.sync.client
    for name in upstream.__all__:
        assert hasattr(module, name)
    for name in ("connect", "reconnect", "unix_connect"):
        theirs = inspect.signature(getattr(upstream, name)).parameters
        ours = inspect.signature(getattr(module, name)).parameters
        assert [p for p in ours if p in theirs] == list(theirs)
        changed = {p for p in theirs if theirs[p].default != ours[p].default}
        assert changed <= {"max_queue"}
