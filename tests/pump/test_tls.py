"""TLS on receive threads, with the user's own SSLContext: what is negotiated, carried, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import socket
import ssl
import threading
from pathlib import Path

import pytest
from connection.extensions import Factory, Nothing
from connection.net import (
    Link,
    against_peer,
    echo,
    on_asyncio,
    over_loops,
    pair,
    port_of,
    raw_server,
    request_to,
    serving,
    tls_link,
    until,
)
from core.streams import BINARY, CLOSE, KEY, PING, PONG, TEXT, frame

import fastws
import fastws.security
import fastws.tls
from fastws.core import Encryption
from fastws.pumping import PumpTransport

from .pinger import session_of

pytestmark = [
    pytest.mark.skipif(fastws.IMPLEMENTATION == "pure", reason="receive threads are in the compiled core only"),
    pytest.mark.skipif(
        fastws.IMPLEMENTATION != "pure" and fastws.security.unreachable() is not None,
        reason="the libssl of this Python can't be reached",
    ),
]

VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(autouse=True)
def receive(monkeypatch):
    monkeypatch.setenv("FASTWS_RECEIVE", "thread")


@pytest.fixture(params=VERSIONS, ids=lambda version: version.name)
def version(request):
    return request.param


@pytest.fixture
def contexts(certificate):
    """(server's, client's)."""
    return certificate.server_context(), certificate.client_context()


def versioned(certificate, version):
    """TLS of one version."""
    server, client = certificate.server_context(), certificate.client_context()
    for context in (server, client):
        context.minimum_version = context.maximum_version = version
    return tls_link(server, client)


def assert_pumped(*connections):
    for ws in connections:
        assert isinstance(ws.transport, PumpTransport), ws.transport
        assert ws.transport._socket.encryption is not None
        assert ws.stats.receive == "thread"


# libssl of the peer, for what the module ssl has no function


class Libssl:
    """Calls to libssl on the session of an asyncio peer."""

    def __init__(self):
        import _ssl

        self.lib = ctypes.CDLL(_ssl.__file__)

    def __call__(self, name, peer, *args):
        return self.on(peer.writer.get_extra_info("ssl_object"), name, *args)

    def needs(self, *names):
        for name in names:
            if getattr(self.lib, name, None) is None:
                pytest.skip(f"this libssl has no {name}()")

    def on(self, ssl_object, name, *args):
        self.needs(name)
        return getattr(self.lib, name)(session_of(ssl_object), *args)


# What is negotiated


@over_loops
async def test_both_sides_are_pumped(certificate, version):
    async with pair(versioned(certificate, version)) as (client, server):
        assert_pumped(client, server)
        for ws in (client, server):
            assert ws.transport.get_extra_info("ssl_object").version() == version.name.replace("_", ".")


@over_loops
async def test_extra_info_is_that_of_asyncio(tls, monkeypatch):
    names = ("peercert", "cipher", "compression", "sslcontext")
    infos = []
    for receive in ("loop", "thread"):
        monkeypatch.setenv("FASTWS_RECEIVE", receive)
        async with pair(tls) as (client, server):
            infos.append([[ws.transport.get_extra_info(name) for name in names] for ws in (client, server)])
            for ws, other in ((client, server), (server, client)):
                assert ws.transport.get_extra_info("peername") == other.transport.get_extra_info("sockname")
                assert ws.transport.get_extra_info("socket").getsockname() == ws.local_address
                assert isinstance(ws.transport.get_extra_info("ssl_object"), ssl.SSLObject | ssl.SSLSocket)
        sslobject = client.transport.get_extra_info("ssl_object")
        # Also after the end.
        assert sslobject.getpeercert() == infos[-1][0][0]
        assert sslobject.version() == "TLSv1.3"
    assert infos[0] == infos[1]


@over_loops
async def test_client_certificates(certificate, version):
    link = versioned(certificate, version)
    link.server["ssl"].load_verify_locations(certificate.cert)
    link.server["ssl"].verify_mode = ssl.CERT_REQUIRED
    link.client["ssl"].load_cert_chain(certificate.cert, certificate.key)
    async with pair(link) as (client, server):
        assert_pumped(client, server)
        assert ("DNS", "localhost") in server.transport.get_extra_info("peercert")["subjectAltName"]
        await client.send("x")
        assert await server.recv() == "x"


async def failure(connecting):
    with pytest.raises(Exception) as info:  # noqa: PT011  Which one is compared.
        await connecting
    exc = info.value
    details = [getattr(exc, name, None) for name in ("reason", "verify_code", "verify_message", "errno")]
    # libssl's line number in the module ssl tells nothing.
    return type(exc), details, str(exc).partition(" (_ssl.c")[0]


@over_loops
async def test_client_certificate_that_is_missing(certificate, version, monkeypatch):
    link = versioned(certificate, version)
    link.server["ssl"].load_verify_locations(certificate.cert)
    link.server["ssl"].verify_mode = ssl.CERT_REQUIRED
    failures = []
    for receive in ("loop", "thread"):
        monkeypatch.setenv("FASTWS_RECEIVE", receive)
        # The same server for both: asyncio's doesn't send the alert.
        async with serving(echo, link, receive="thread") as uri:
            failures.append(await failure(fastws.connect(uri, **link.client)))
    if version is ssl.TLSVersion.TLSv1_2:
        assert failures[0] == failures[1]
    else:
        # The alert races with the request; its exception is the cause of what websockets raises, or not.
        assert failures[0][0] is failures[1][0]


@over_loops
@pytest.mark.parametrize("trusted", [True, False], ids=["trusted", "untrusted"])
async def test_truststore(certificate, tls, trusted):
    """A context that wraps that of the interpreter, and judges certificates by itself on some systems."""
    truststore = pytest.importorskip("truststore")
    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if trusted:
        context.load_verify_locations(certificate.cert)
    async with serving(echo, tls) as uri:
        if trusted:
            async with fastws.connect(uri, ssl=context) as ws:
                assert_pumped(ws)
                assert ws.transport.get_extra_info("sslcontext") is context
                await ws.send("x")
                assert await ws.recv() == "x"
        else:
            with pytest.raises(ssl.SSLCertVerificationError):
                await fastws.connect(uri, ssl=context)


@over_loops
async def test_sockets_of_the_context_judge_the_peer(certificate, tls):
    """What a context's own class of sockets checks behind the handshake, is checked."""

    class Judge(ssl.SSLSocket):
        def do_handshake(self, block=False):
            super().do_handshake(block)
            judged.append(self.getpeercert(True))
            raise ssl.SSLCertVerificationError("not this one")

    judged = []
    context = certificate.client_context()
    context.sslsocket_class = Judge
    async with serving(echo, tls) as uri:
        with pytest.raises(ssl.SSLCertVerificationError, match="not this one"):
            await fastws.connect(uri, ssl=context)
    assert len(judged) == 1
    assert judged[0]


@over_loops
@pytest.mark.parametrize("wrapped", [False, True])
async def test_objects_of_the_context_judge_the_peer(certificate, tls, wrapped):
    """asyncio doesn't use sockets of a context, but its objects: if only they check, the loop encrypts."""

    class Judge(ssl.SSLObject):
        def do_handshake(self):
            super().do_handshake()
            raise ssl.SSLCertVerificationError("not this one")

    class Wrapping(ssl.SSLContext):
        def wrap_socket(self, *args, **kwargs):
            return inner.wrap_socket(*args, **kwargs)

        def wrap_bio(self, *args, **kwargs):
            return inner.wrap_bio(*args, **kwargs)

    context = inner = certificate.client_context()
    inner.sslobject_class = Judge
    if wrapped:
        context = Wrapping(ssl.PROTOCOL_TLS_CLIENT)
    async with serving(echo, tls) as uri:
        with pytest.raises(ssl.SSLCertVerificationError, match="not this one"):
            await fastws.connect(uri, ssl=context)


@on_asyncio
async def test_alpn_and_sni(certificate, contexts):
    server_context, client_context = contexts
    other = certificate.server_context()
    asked = []

    def choose(sock, name, context):
        asked.append(name)
        sock.context = other

    server_context.sni_callback = choose
    for context in (other, client_context, server_context):
        context.set_alpn_protocols(["http/1.1"])
    async with pair(tls_link(server_context, client_context), client={"server_hostname": "localhost"}) as (
        client,
        server,
    ):
        assert_pumped(client, server)
        assert asked == ["localhost"]
        for ws in (client, server):
            assert ws.transport.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
        await server.send("x")
        assert await client.recv() == "x"


@over_loops
async def test_key_log(contexts, tmp_path):
    for context, name in zip(contexts, ("server", "client"), strict=True):
        context.keylog_filename = str(tmp_path / name)
    async with pair(tls_link(*contexts)) as (client, server):
        assert_pumped(client, server)
        await client.send("x")
        assert await server.recv() == "x"
    logs = [
        {line for line in (tmp_path / name).read_text().splitlines() if line[:1] != "#"}
        for name in ("server", "client")
    ]
    assert logs[0] == logs[1]
    assert {line.split()[0] for line in logs[0]} >= {"CLIENT_TRAFFIC_SECRET_0", "SERVER_TRAFFIC_SECRET_0"}


# What is carried


@over_loops
async def test_messages_of_all_sizes(certificate, version):
    sizes = [0, 1, 125, 126, 1000, 16383, 16384, 16385, 65536, 300_000, 3_000_000]
    async with pair(versioned(certificate, version), max_size=None) as (client, server):
        assert_pumped(client, server)
        for ws, other in ((client, server), (server, client)):
            sending = asyncio.create_task(send_all(ws, [os.urandom(size) for size in sizes]))
            received = [await other.recv() for _ in sizes]
            assert received == await sending
            assert [len(message) for message in received] == sizes


async def send_all(ws, messages):
    for message in messages:
        await ws.send(message)
    return messages


@over_loops
async def test_flood_both_ways_with_slow_consumers(certificate, version):
    """Reading pauses again and again, and writing as well; nothing is lost, nothing out of order."""
    count = 3000
    messages = [b"%d" % number + b"." * (number * 37 % 5000) for number in range(count)]
    async with pair(versioned(certificate, version), max_queue=16, max_queue_bytes=50_000) as (client, server):
        assert_pumped(client, server)

        async def consume(ws):
            received = []
            async for message in ws:
                received.append(message)
                if len(received) % 100 == 0:
                    await asyncio.sleep(0.002)
                if len(received) == count:
                    return received

        both = await asyncio.gather(
            send_all(client, messages), send_all(server, messages), consume(client), consume(server)
        )
        assert both[2] == both[3] == messages
        assert client.stats.pauses > 0


@over_loops
async def test_nothing_stays_in_libssl(tls):
    """Several records in one segment, then silence: the poller sees nothing more, but all is delivered."""
    async with against_peer("client", tls, max_queue=2) as (ws, peer):
        assert_pumped(ws)
        for number in range(200):
            peer.write(peer.frame(TEXT, b"%d" % number))
        for number in range(200):
            assert await ws.recv() == str(number)


@over_loops
async def test_key_updates_in_mid_stream(certificate, side):
    libssl = Libssl()
    async with against_peer(side, versioned(certificate, ssl.TLSVersion.TLSv1_3), compression=None) as (ws, peer):
        assert_pumped(ws)
        for number in range(50):
            # The other half is asked for every second time.
            assert libssl("SSL_key_update", peer, number % 2) == 1
            await peer.send(BINARY, b"%d" % number * 1000)
            assert await ws.recv() == b"%d" % number * 1000
            await ws.send(b"%d" % number * 1000)
            assert (await peer.read())[2] == b"%d" % number * 1000
            await peer.through()


@over_loops
async def test_session_tickets_in_mid_stream(certificate):
    libssl = Libssl()
    async with against_peer("client", versioned(certificate, ssl.TLSVersion.TLSv1_3)) as (ws, peer):
        assert_pumped(ws)
        for number in range(20):
            assert libssl("SSL_new_session_ticket", peer) == 1
            await peer.send(TEXT, b"%d" % number)
            assert await ws.recv() == str(number)


@over_loops
async def test_renegotiation(certificate):
    """TLS 1.2: the server wants a new handshake while messages go both ways."""
    libssl = Libssl()
    async with against_peer("client", versioned(certificate, ssl.TLSVersion.TLSv1_2)) as (ws, peer):
        assert_pumped(ws)
        for number in range(5):
            assert libssl("SSL_renegotiate", peer) == 1
            await peer.send(TEXT, b"%d" % number)
            assert await ws.recv() == str(number)
            await ws.send(f"answer {number}")
            assert (await peer.read())[2] == f"answer {number}".encode()


@over_loops
async def test_callbacks_that_need_the_gil(certificate):
    """Each record makes both pump and writers call Python, while Python writes: nobody waits for ever."""
    link = tls_link(certificate.server_context(), certificate.client_context())
    seen = []
    for context in (link.server["ssl"], link.client["ssl"]):
        context._msg_callback = lambda *args: seen.append(threading.current_thread())
    messages = ["x" * (number % 3000) for number in range(1000)]
    async with pair(link) as (client, server):
        assert_pumped(client, server)

        async def consume(ws):
            return [await ws.recv() for _ in messages]

        both = await asyncio.gather(
            send_all(client, messages), send_all(server, messages), consume(client), consume(server)
        )
        assert both[2] == both[3] == messages
    assert threading.main_thread() in seen
    assert len(set(seen)) > 1


@over_loops
async def test_threads_that_write(tls):
    """Frames of several threads and pongs of the pump: none is cut by another."""
    async with against_peer("server", tls) as (ws, peer):
        assert_pumped(ws)
        transport, count = ws.transport, 300

        def write(letter):
            for number in range(count):
                transport._socket.write(frame(TEXT, letter * (number * 53 % 20_000 + 1)))

        threads = [threading.Thread(target=write, args=(letter,)) for letter in (b"a", b"b", b"c")]
        for thread in threads:
            thread.start()
        pings = [b"%d" % number for number in range(200)]
        for ping in pings:
            peer.write(peer.frame(PING, ping))
        pongs, lengths = [], {b"a": [], b"b": [], b"c": []}
        while len(pongs) < len(pings) or any(len(got) < count for got in lengths.values()):
            opcode, _, payload = await peer.read()
            if opcode == PONG:
                pongs.append(payload)
            else:
                assert payload == payload[:1] * len(payload)
                lengths[payload[:1]].append(len(payload))
        for thread in threads:
            thread.join()
        assert pongs == pings
        assert all(got == [number * 53 % 20_000 + 1 for number in range(count)] for got in lengths.values())


# The blocked loop


class Blocking:
    """A peer without a loop, in a thread of its own."""

    def __init__(self, port, context, **wrap):
        self.sock = context.wrap_socket(
            socket.create_connection(("127.0.0.1", port)),
            server_hostname="localhost",
            suppress_ragged_eofs=False,
            **wrap,
        )
        self.sock.settimeout(10)
        self.sock.sendall(request_to(port))
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self.sock.recv(1)
        assert head.startswith(b"HTTP/1.1 101 ")

    def read(self, size):
        data = b""
        while len(data) < size:
            data += self.sock.recv(size - len(data))
        return data

    def send(self, opcode, payload=b""):
        self.sock.sendall(frame(opcode, payload, key=KEY))


@over_loops
async def test_pings_while_the_loop_is_blocked(contexts, tmp_path):
    """They are answered before the loop goes on; a key log makes the pump call Python in this time."""
    contexts[0].keylog_filename = str(tmp_path / "keys")
    opened, answered = asyncio.Event(), threading.Event()

    async def handler(ws):
        assert_pumped(ws)
        opened.set()
        await ws.wait_closed()

    async with serving(handler, Link("wss", {"ssl": contexts[0]}, {})) as uri:
        port = int(uri.split(":")[2].strip("/"))
        peer = await asyncio.to_thread(Blocking, port, contexts[1])
        await opened.wait()

        def ping():
            for number in range(100):
                peer.send(PING, b"%03d" % number)
                assert peer.read(5) == frame(PONG, b"%03d" % number)
            answered.set()

        thread = threading.Thread(target=ping)
        thread.start()
        assert answered.wait(10)
        thread.join()
        peer.sock.close()


@on_asyncio
async def test_sessions_are_resumed(contexts):
    """Tickets of a server of fastws are good for its next connections."""
    contexts[1].maximum_version = ssl.TLSVersion.TLSv1_2
    async with serving(echo, Link("wss", {"ssl": contexts[0]}, {})) as uri:
        port = int(uri.split(":")[2].strip("/"))

        def connect(session):
            peer = Blocking(port, contexts[1], session=session)
            peer.send(TEXT, b"x")
            assert peer.read(3) == frame(TEXT, b"x")
            session, reused = peer.sock.session, peer.sock.session_reused
            peer.sock.close()
            return session, reused

        session, reused = await asyncio.to_thread(connect, None)
        assert not reused
        assert (await asyncio.to_thread(connect, session))[1]


# The end


@over_loops
async def test_close_notify(contexts, version):
    """Both sides say that they are done, RFC 8446 6.1; a peer that insists on it sees no truncation."""
    contexts[1].minimum_version = contexts[1].maximum_version = version

    async def handler(ws):
        await ws.send("x")

    async with serving(handler, Link("wss", {"ssl": contexts[0]}, {})) as uri:
        port = int(uri.split(":")[2].strip("/"))

        def end():
            peer = Blocking(port, contexts[1])
            assert peer.read(3) == frame(TEXT, b"x")
            assert peer.read(4)[:2] == bytes([0x80 | CLOSE, 2])
            peer.send(CLOSE, b"\x03\xe8")
            with peer.sock:
                # Without close_notify: SSLEOFError.
                assert peer.sock.recv(1) == b""
                peer.sock.unwrap().close()

        await asyncio.to_thread(end)


@over_loops
async def test_close_from_both_sides(tls, side):
    async with pair(tls) as (client, server):
        ours, theirs = (client, server) if side == "client" else (server, client)
        await theirs.send("last words")
        await ours.close(1000, "enough")
        assert await ours.recv() == "last words"
        with pytest.raises(fastws.ConnectionClosedOK):
            await ours.recv()
        with pytest.raises(fastws.ConnectionClosedOK):
            await theirs.recv()
        assert (theirs.close_code, theirs.close_reason) == (1000, "enough")


@over_loops
async def test_close_frame_arrives_amid_a_flood(tls, side):
    """The peer goes on sending: what it hasn't read isn't lost by closing the socket on its data."""
    async with against_peer(side, tls, max_size=100) as (ws, peer):
        assert_pumped(ws)

        async def flood():
            with contextlib.suppress(ConnectionError):
                while True:
                    await peer.send(BINARY, bytes(200_000))
                    # The pump takes all of it, so that sending alone never waits.
                    await asyncio.sleep(0)

        flooding = asyncio.create_task(flood())
        assert (await peer.expect_close())[0] == 1009
        flooding.cancel()
        await asyncio.gather(flooding, return_exceptions=True)
        peer.writer.transport.abort()
        await ws.wait_closed()
        assert ws.protocol.close_sent.code == 1009


@over_loops
@pytest.mark.parametrize("how", ["vanish", "drop"])
async def test_peer_that_vanishes(tls, side, how, monkeypatch):
    causes = []
    for receive in ("loop", "thread"):
        monkeypatch.setenv("FASTWS_RECEIVE", receive)
        async with against_peer(side, tls) as (ws, peer):
            await peer.send(TEXT, b"x")
            assert await ws.recv() == "x"
            getattr(peer, how)()
            with pytest.raises(fastws.ConnectionClosedError) as info:
                await ws.recv()
            assert ws.close_code == 1006
            causes.append(type(info.value.__cause__))
    assert causes[0] is causes[1]


@over_loops
async def test_record_that_is_broken(tls, side, monkeypatch):
    causes = []
    for receive in ("loop", "thread"):
        monkeypatch.setenv("FASTWS_RECEIVE", receive)
        async with against_peer(side, tls) as (ws, peer):
            await peer.send(TEXT, b"x")
            assert await ws.recv() == "x"
            os.write(peer.writer.get_extra_info("socket").fileno(), b"\x17\x03\x03\x00\x40" + bytes(64))
            with pytest.raises(fastws.ConnectionClosedError) as info:
                await ws.recv()
            cause = info.value.__cause__
            causes.append((type(cause), getattr(cause, "reason", None)))
    assert causes[0] == causes[1]
    assert causes[1][0] is ssl.SSLError


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="descriptors are listed on Linux only")
@over_loops
async def test_descriptors_and_memory_come_back(tls, side):
    def descriptors():
        return len(os.listdir("/proc/self/fd"))

    counts = []
    for number in range(12):
        async with against_peer(side, tls) as (ws, peer):
            assert_pumped(ws)
            await peer.send(TEXT, b"x")
            assert await ws.recv() == "x"
            if number % 3 == 0:
                peer.vanish()
            elif number % 3 == 1:
                peer.drop()
            else:
                ws.transport.abort()
            await ws.wait_closed()
        del ws, peer
        gc.collect()
        counts.append(descriptors())
    assert counts[3] == counts[6] == counts[9]


# Handshakes that fail


@over_loops
@pytest.mark.parametrize("what", ["untrusted", "hostname", "silence", "end", "plain"])
async def test_failures_are_those_of_the_loop(certificate, tls, what, monkeypatch):
    options = dict(tls.client)
    if what == "untrusted":
        options["ssl"] = ssl.create_default_context()
    elif what == "hostname":
        options["server_hostname"] = "example.com"
    elif what == "silence":
        options["ssl_handshake_timeout"] = 0.05

    async def script(peer):
        if what == "plain":
            await peer.reader.read(1)
            peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                await peer.reader.read()
        elif what == "silence":
            await peer.reader.read()
        else:
            await peer.reader.read(1)
            # All of it, or closing resets.
            await asyncio.sleep(0.01)
            peer.writer.close()

    @contextlib.asynccontextmanager
    async def listening():
        if what in ("untrusted", "hostname"):
            async with serving(echo, tls) as uri:
                yield uri
        else:
            async with raw_server(script) as port:
                yield f"wss://127.0.0.1:{port}/"

    failures = []
    async with listening() as uri:
        for receive in ("loop", "thread"):
            monkeypatch.setenv("FASTWS_RECEIVE", receive)
            failures.append(await failure(fastws.connect(uri, **options)))
    assert failures[0] == failures[1]
    expected = {
        "untrusted": ssl.SSLCertVerificationError,
        "hostname": ssl.SSLCertVerificationError,
        "silence": ConnectionAbortedError,
        "end": ConnectionResetError,
        "plain": ssl.SSLError,
    }
    assert failures[1][0] is expected[what]


@over_loops
async def test_clients_that_fail_leave_nothing_in_a_server(tls):
    """Neither its TLS handshake nor its end is the server's problem: others are served."""
    async with fastws.serve(echo, "127.0.0.1", 0, **tls.server, open_timeout=0.2) as server:
        port = port_of(server)
        for sent in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\x02\x00\x01"):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(sent)
            # Those that say nothing, or not enough, are ended by the timeout.
            with contextlib.suppress(ConnectionError):
                await reader.read()
            writer.close()
        async with fastws.connect(tls.uri(port), **tls.client) as ws:
            assert_pumped(ws)
            await ws.send("x")
            assert await ws.recv() == "x"


@over_loops
async def test_open_timeout_in_the_tls_handshake(tls):
    async with raw_server(lambda peer: peer.reader.read()) as port:
        with pytest.raises(TimeoutError, match="timed out during opening handshake"):
            await fastws.connect(tls.uri(port), **tls.client, open_timeout=0.05)


# Where libssl can't be reached


@over_loops
async def test_fallback(tls, monkeypatch, caplog):
    monkeypatch.setattr(fastws.security, "_unreachable", "libssl is elsewhere")
    with caplog.at_level(logging.WARNING):
        async with pair(tls) as (client, server):
            assert client.stats.receive == server.stats.receive == "loop"
            await client.send("x")
            assert await server.recv() == "x"
    assert "the event loop receives, and not a thread: it is encrypted, and libssl is elsewhere" in caplog.text


@over_loops
async def test_fallback_to_a_server_that_ends_at_once(tls, monkeypatch):
    """As without TLS in a pump: neither its session nor the loop's has begun by then."""

    ended = threading.Event()

    def end(listener):
        listener.accept()[0].close()
        ended.set()

    def refuse(sock):
        assert ended.wait(10)
        raise NotImplementedError("on purpose")

    assert fastws.security.unreachable() is None
    monkeypatch.setattr(fastws.security, "Encryption", refuse)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=end, args=(listener,))
        thread.start()
        with pytest.raises(ConnectionError):
            await fastws.connect(tls.uri(listener.getsockname()[1]), **tls.client)
        thread.join()


def test_sessions_that_are_not_what_they_seem(contexts):
    """All is checked before a pointer is followed."""
    ours, theirs = socket.socketpair()
    with theirs, contexts[1].wrap_socket(ours, do_handshake_on_connect=False, server_hostname="localhost") as sock:
        session = Encryption(sock)
        with pytest.raises(RuntimeError, match="in use"):
            session.__init__(sock)
        for wrong in (object(), theirs, contexts[1].wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="x")):
            with pytest.raises(NotImplementedError):
                Encryption(wrong)

        class Other:
            _sslobj = sock._sslobj
            fileno = sock.fileno

        with pytest.raises(NotImplementedError, match="isn't where it is expected"):
            Encryption(Other())
    with pytest.raises(NotImplementedError):
        Encryption(sock)


@on_asyncio
async def test_extension_of_ones_own_stays_with_the_loop(tls):
    """`websockets` keeps the data plane then, over the same transport."""
    async with pair(tls, extensions=[Factory(Nothing)]) as (client, server):
        assert isinstance(client.transport, fastws.tls.TlsTransport)
        for ws, other in ((client, server), (server, client)):
            for size in (0, 10, 100_000, 1_000_000):
                sending = asyncio.create_task(ws.send("x" * size))
                assert await other.recv() == "x" * size
                await sending
    await until(lambda: client.transport.is_closing())
