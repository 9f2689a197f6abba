"""Opening handshakes: where the data plane takes over, and everything else that ``websockets`` does before that."""

from __future__ import annotations

import asyncio
import contextlib
import http
import ssl

import pytest
import websockets
from core.streams import BINARY, CLOSE, CONT, KEY, PING, PONG, TEXT, deflate
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory

import fastws
from fastws import ConnectionClosedError, ConnectionClosedOK, InvalidHandshake, InvalidStatus
from fastws.connection import Connection

from .extensions import Factory
from .net import (
    PLAIN,
    QUIET,
    Peer,
    against_peer,
    echo,
    on_asyncio,
    over_loops,
    pair,
    port_of,
    raw_client,
    raw_server,
    request_to,
    response_to,
    serving,
    until,
)

# Frames right behind the handshake


@over_loops
async def test_frames_behind_the_handshake_in_one_segment(side, link):
    def early(peer):
        return (
            peer.frame(TEXT, b"one")
            + peer.frame(PING, b"p")
            + peer.frame(BINARY, b"\r\n\r\n")
            + peer.frame(TEXT, b"cut", fin=False)
        )

    async with against_peer(side, link, early=early) as (ws, peer):
        assert ws._decoder is not None
        assert await peer.read() == (PONG, True, b"p")
        assert [await ws.recv(), await ws.recv()] == ["one", b"\r\n\r\n"]
        await peer.send(CONT, b" in two")
        assert await ws.recv() == "cut in two"
        await ws.send("sent")
        assert await peer.read() == (TEXT, True, b"sent")


def cuts(data):
    """Byte by byte, and in two at each place."""
    yield [data[i : i + 1] for i in range(len(data))]
    for place in range(1, len(data)):
        yield [data[:place], data[place:]]


def deliver(ws, chunk):
    """As a transport does it."""
    protocol = ws.transport.get_protocol()
    if isinstance(protocol, asyncio.BufferedProtocol):
        protocol.get_buffer(-1)[: len(chunk)] = chunk
        protocol.buffer_updated(len(chunk))
    else:
        protocol.data_received(chunk)


@on_asyncio
async def test_client_with_the_stream_cut_at_every_byte():
    made = []
    pending = None
    done = asyncio.Event()

    class Recorded(fastws.ClientConnection):
        def connection_made(self, transport):
            made.append(self)
            super().connection_made(transport)

    async def script(peer):
        nonlocal pending
        head = await peer.reader.readuntil(b"\r\n\r\n")
        data = response_to(head) + peer.frame(TEXT, b"one") + peer.frame(BINARY, b"two")
        ways = list(cuts(data))
        if pending is None:
            pending = len(ways)
        pending -= 1
        for chunk in ways[pending]:
            deliver(made[-1], chunk)
        await done.wait()

    async with raw_server(script) as port:
        while pending != 0:
            ws = await fastws.connect(PLAIN.uri(port), create_connection=Recorded, **QUIET)
            assert [await ws.recv(), await ws.recv()] == ["one", b"two"]
            assert ws._decoder.bytes_received == 10
            ws.transport.abort()
        done.set()
    assert len(made) > 100


@on_asyncio
async def test_server_with_the_stream_cut_at_every_byte():
    received = []

    async def handler(ws):
        received.append([await ws.recv(), await ws.recv()])

    async with fastws.serve(handler, "127.0.0.1", 0, compression=None) as server:
        port = port_of(server)
        request = request_to(port)
        frames = Peer(None, None, KEY).frame(TEXT, b"one") + Peer(None, None, KEY).frame(BINARY, b"two")
        data = request + frames
        places = [*range(1, len(data), 7), *range(len(request) - 6, len(data))]
        for place in places:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(data[:place])
            await asyncio.sleep(0.001)  # So that it is two reads.
            writer.write(data[place:])
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 101")
            assert await Peer(reader, writer, KEY).expect_close() == (1000, "")
            writer.transport.abort()
    assert received == [["one", b"two"]] * len(places)


@over_loops
async def test_client_bytewise_over_the_network():
    async def script(peer):
        head = await peer.reader.readuntil(b"\r\n\r\n")
        for byte in response_to(head) + peer.frame(TEXT, b"one"):
            peer.write(bytes([byte]))
            await asyncio.sleep(0)
        await peer.close()

    async with raw_server(script) as port, fastws.connect(PLAIN.uri(port)) as ws:
        assert [message async for message in ws] == ["one"]


@over_loops
async def test_client_that_does_not_wait_for_the_response(link):
    """Frames ahead of the response, while ``process_request`` takes its time."""
    go = asyncio.Event()

    async def process_request(connection, request):
        await go.wait()

    received = []

    async def handler(ws):
        received.extend([message async for message in ws])

    async with fastws.serve(
        handler, "127.0.0.1", 0, process_request=process_request, max_queue=3, **QUIET, **link.server
    ) as server:
        port = port_of(server)
        reader, writer = await asyncio.open_connection("127.0.0.1", port, **link.client)
        peer = Peer(reader, writer, KEY)
        peer.write(request_to(port))
        for number in range(100):
            peer.write(peer.frame(TEXT, b"%d" % number))
            if number % 10 == 0:
                await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        go.set()
        await reader.readuntil(b"\r\n\r\n")
        peer.write(peer.frame(TEXT, b"100"))
        await peer.close()
    assert received == [str(number) for number in range(101)]


@over_loops
async def test_client_that_sends_very_much_ahead_of_the_response():
    """Bounded: reading pauses until the response has left."""
    go = asyncio.Event()
    connections = []

    async def process_request(connection, request):
        connections.append(connection)
        await go.wait()

    received = []

    async def handler(ws):
        received.extend([message async for message in ws])

    total = 5000
    async with fastws.serve(handler, "127.0.0.1", 0, process_request=process_request, **QUIET, max_size=None) as server:
        port = port_of(server)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        peer = Peer(reader, writer, KEY)
        peer.write(request_to(port) + peer.frame(BINARY, b"x" * 2000) * total)
        await until(lambda: connections and len(connections[0]._held or b"") > 64 * 1024)
        await asyncio.sleep(0.02)
        assert len(connections[0]._held) < 600_000
        go.set()
        await reader.readuntil(b"\r\n\r\n")
        await peer.close()
    assert len(received) == total


@over_loops
async def test_client_that_sends_ahead_and_is_rejected():
    async def process_request(connection, request):
        await asyncio.sleep(0.01)
        return connection.respond(http.HTTPStatus.FORBIDDEN, "no\n")

    async def handler(ws):
        raise AssertionError("was rejected")

    async with fastws.serve(handler, "127.0.0.1", 0, process_request=process_request) as server:
        port = port_of(server)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        peer = Peer(reader, writer, KEY)
        peer.write(request_to(port) + peer.frame(TEXT, b"early") * 100)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 403 ")
        writer.transport.abort()


# Rejected


@over_loops
async def test_rejected_with_a_body(link):
    def process_request(connection, request):
        return connection.respond(http.HTTPStatus.NOT_FOUND, "nothing here\n")

    async with serving(echo, link, process_request=process_request) as uri:
        with pytest.raises(InvalidStatus) as info:
            await fastws.connect(uri, **link.client)
    assert info.value.response.status_code == 404
    assert info.value.response.body == b"nothing here\n"


@on_asyncio
@pytest.mark.parametrize("cut", [0, 1, 20, 60, 90])
async def test_rejected_with_a_body_in_pieces(cut):
    data = b"HTTP/1.1 500 Oops\r\nContent-Length: 30\r\n\r\n" + b"0123456789" * 3

    async def script(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.write(data[:cut])
        await asyncio.sleep(0.01)
        peer.write(data[cut:])
        await peer.reader.read()

    async with raw_server(script) as port:
        with pytest.raises(InvalidStatus) as info:
            await fastws.connect(PLAIN.uri(port))
    assert info.value.response.body == b"0123456789" * 3


@on_asyncio
@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (b"", websockets.InvalidMessage),
        (b"HTTP/1.1 101", websockets.InvalidMessage),
        (b"SSH-2.0-OpenSSH\r\n\r\n", websockets.InvalidMessage),
        (b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n", websockets.InvalidHandshake),
        (
            b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: x\r\n\r\n\x81\x00",
            websockets.InvalidHeaderValue,
        ),
        (b"HTTP/1.1 204 No Content\r\n\r\n", InvalidStatus),
    ],
)
async def test_invalid_responses(answer, error):
    async def script(peer):
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.write(answer)
        peer.writer.write_eof()
        await peer.reader.read()

    async with raw_server(script) as port:
        with pytest.raises(error) as info:
            await fastws.connect(PLAIN.uri(port))
    assert isinstance(info.value, InvalidHandshake)


@on_asyncio
@pytest.mark.parametrize(
    ("request_head", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"426"),
        (b"POST / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nbody", b"405"),
        (b"\x16\x03\x01 not HTTP\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n\x81\x80abcd", b"400"),
    ],
)
async def test_invalid_requests(request_head, status):
    async with fastws.serve(echo, "127.0.0.1", 0) as server:
        reader, writer = await asyncio.open_connection("127.0.0.1", port_of(server))
        writer.write(request_head)
        answer = await reader.read()
        if answer:
            assert answer.startswith(b"HTTP/1.1 " + status), answer
        else:
            assert status in (b"400", b"405")
        writer.close()


@on_asyncio
async def test_open_timeout():
    async def script(peer):
        await peer.reader.read()

    async with raw_server(script) as port:
        with pytest.raises(TimeoutError):
            await fastws.connect(PLAIN.uri(port), open_timeout=0.05)


# What servers and clients may say


@over_loops
async def test_redirects(link):
    def process_request(connection, request):
        if request.path == "/old":
            response = connection.respond(http.HTTPStatus.FOUND, "elsewhere\n")
            response.headers["Location"] = "/new"
            return response
        return None

    async with serving(echo, link, process_request=process_request) as uri:
        async with fastws.connect(uri.removesuffix("/") + "/old", **link.client) as ws:
            assert isinstance(ws, fastws.ClientConnection)
            assert ws.request.path == "/new"
            await ws.send("hello")
            assert await ws.recv() == "hello"


@on_asyncio
async def test_process_request_and_response_and_headers():
    seen = []

    async def process_request(connection, request):
        seen.append(("request", type(connection), request.headers["X-Client"]))

    def process_response(connection, request, response):
        seen.append(("response", response.status_code))
        response.headers["X-Server"] = "yes"
        return response

    async with serving(
        echo, process_request=process_request, process_response=process_response, server_header="mine"
    ) as uri:
        for headers in ({"X-Client": "a"}, fastws.Headers({"X-Client": "a"}), [("X-Client", "a")]):
            async with fastws.connect(uri, additional_headers=headers, user_agent_header="me") as ws:
                assert ws.response.headers["X-Server"] == "yes"
                assert ws.response.headers["Server"] == "mine"
                assert ws.request.headers["User-Agent"] == "me"
    assert seen == [("request", fastws.ServerConnection, "a"), ("response", 101)] * 3


@on_asyncio
async def test_subprotocols_and_origin():
    async with serving(echo, subprotocols=["b", "a"], origins=["https://ok", None]) as uri:
        async with fastws.connect(uri, subprotocols=["a", "b"], origin="https://ok") as ws:
            assert ws.subprotocol == "b"
        with pytest.raises(InvalidStatus) as info:
            await fastws.connect(uri, subprotocols=["c"])
        assert info.value.response.status_code == 400
        with pytest.raises(InvalidStatus) as info:
            await fastws.connect(uri, origin="https://no")
        assert info.value.response.status_code == 403
    async with serving(echo, subprotocols=["a", "b"], select_subprotocol=lambda ws, offered: offered[-1]) as uri:
        async with fastws.connect(uri, subprotocols=["a", "b"]) as ws:
            assert ws.subprotocol == "b"


@on_asyncio
async def test_basic_auth():
    guard = fastws.basic_auth(realm="here", credentials=("user", "secret"))

    async def handler(ws):
        await ws.send(ws.username)

    async with serving(handler, process_request=guard) as uri:
        async with fastws.connect(uri.replace("ws://", "ws://user:secret@")) as ws:
            assert await ws.recv() == "user"
        with pytest.raises(InvalidStatus) as info:
            await fastws.connect(uri)
        assert info.value.response.status_code == 401


# Extensions


DEFLATES = [
    ("", {}, {}),
    ("takeover", {"server_no_context_takeover": False}, {}),
    ("none", {"server_no_context_takeover": True, "client_no_context_takeover": True}, {}),
    ("client none", {"client_no_context_takeover": True}, {}),
    ("small windows", {"server_max_window_bits": 9, "client_max_window_bits": 9}, {}),
    ("settings", {}, {"compress_settings": {"level": 9, "memLevel": 9, "strategy": 1}}),
]


@on_asyncio
@pytest.mark.parametrize(("offer", "settings"), [case[1:] for case in DEFLATES], ids=[case[0] for case in DEFLATES])
@pytest.mark.parametrize("peers", ["fastws-fastws", "fastws-websockets", "websockets-fastws"])
async def test_compression(offer, settings, peers):
    client, server = peers.split("-")
    messages = ["", "a", "é" * 1000, "ab" * 50_000, b"\0" * 70_000, b"x", "last", *["repeated " * 5] * 20]
    async with pair(
        compression="deflate",
        server={
            "extensions": [ServerPerMessageDeflateFactory(**settings)],
            "create_connection": websockets.ServerConnection if server == "websockets" else None,
        },
        client={
            "extensions": [ClientPerMessageDeflateFactory(**offer, **settings)],
            "create_connection": websockets.ClientConnection if client == "websockets" else None,
        },
    ) as ends:
        assert [extension.name for extension in ends[0].protocol.extensions] == ["permessage-deflate"]
        for one, other in (ends, reversed(ends)):
            for message in messages:
                await one.send(message)
                assert await other.recv() == message
            await one.send(["frag", "", "ments"])
            assert await other.recv() == "fragments"
            if isinstance(one, Connection):
                assert one._decoder is not None
                await one.send_batch(messages)
                assert [await other.recv() for _ in messages] == messages


@on_asyncio
async def test_compression_is_optional():
    cases = [("deflate", "deflate", 1), (None, "deflate", 0), ("deflate", None, 0), (None, None, 0)]
    for server, client, expected in cases:
        async with serving(echo, compression=server) as uri:
            async with fastws.connect(uri, compression=client) as ws:
                assert len(ws.protocol.extensions) == expected
                assert (ws._deflate is not None) == bool(expected)
                await ws.send("x" * 1000)
                assert await ws.recv() == "x" * 1000


@on_asyncio
async def test_frames_of_a_deflating_peer(side):
    header = "Sec-WebSocket-Extensions: permessage-deflate; client_no_context_takeover; server_no_context_takeover"
    async with against_peer(side, headers=(header,), compression="deflate") as (ws, peer):
        assert ws._deflate is not None
        await peer.send(TEXT, deflate(b"compressed " * 100), rsv=4)
        await peer.send(TEXT, b"plain")
        data = deflate(b"in pieces " * 100)
        await peer.send(TEXT, data[:5], rsv=4, fin=False)
        await peer.send(PING, b"between")
        await peer.send(CONT, data[5:])
        assert await ws.recv() == "compressed " * 100
        assert await ws.recv() == "plain"
        assert await ws.recv() == "in pieces " * 100
        assert await peer.read() == (PONG, True, b"between")


class Reversing(Extension):
    """An extension that the core doesn't know."""

    name = "x-reverse"

    def decode(self, frame, *, max_size=None):
        return frame if frame.opcode >= 8 else type(frame)(frame.opcode, bytes(frame.data)[::-1], frame.fin)

    def encode(self, frame):
        return frame if frame.opcode >= 8 else type(frame)(frame.opcode, bytes(frame.data)[::-1], frame.fin)


@over_loops
async def test_unknown_extension_stays_with_websockets(link):
    async with pair(link, extensions=[Factory(Reversing)]) as ends:
        for one, other in (ends, reversed(ends)):
            assert one._decoder is None
            await one.send("abc")
            assert await other.recv() == "abc"
            await one.send(["ab", "cd"])
            assert [fragment async for fragment in other.recv_streaming()] == ["ab", "cd", ""]
            await one.send_batch(["one", b"two"])
            batch = await other.recv_batch()
            assert (list(batch), batch.is_text(0), batch.nbytes) == (["one"], True, 3)
            assert bytes(batch.view(0)) == b"one"
            assert batch.received_ns > 0
            assert list(await other.recv_batch(max_messages=5)) == [b"two"]
            fastws.broadcast([one], "to all")
            async for message in other:
                assert message == "to all"
                break
            latency = await asyncio.wait_for(await one.ping(), 5)
            assert latency >= 0
        client, server = ends
        await client.send_batch(["x", "y"])
        closing = asyncio.create_task(client.close())
        assert [list(batch) async for batch in server.batches()] == [["x"], ["y"]]
        await closing
        with pytest.raises(ConnectionClosedOK):
            await server.recv_batch()


@on_asyncio
async def test_unknown_extension_in_one_segment_with_frames(side):
    """The fallback gets what lies behind the handshake."""
    async with against_peer(
        side,
        early=lambda peer: peer.frame(TEXT, b"cba") + peer.frame(PING, b"p"),
        headers=("Sec-WebSocket-Extensions: x-reverse",),
        extensions=[Factory(Reversing)],
    ) as (ws, peer):
        assert await ws.recv() == "abc"
        assert await peer.read() == (PONG, True, b"p")
        peer.write(peer.frame(CLOSE, b"\x03\xe8"))
        await peer.expect_close()


@on_asyncio
async def test_deflate_with_another_extension_stays_with_websockets():
    async with pair(
        compression="deflate",
        server={"extensions": [Factory(Reversing), ServerPerMessageDeflateFactory()]},
        client={"extensions": [Factory(Reversing), ClientPerMessageDeflateFactory()]},
    ) as (client, server):
        assert [extension.name for extension in client.protocol.extensions] == ["x-reverse", "permessage-deflate"]
        assert client._decoder is None
        await client.send("abc" * 1000)
        assert await server.recv() == "abc" * 1000


# Sockets


@over_loops
async def test_unix_sockets(tmp_path):
    path = str(tmp_path / "socket")
    async with fastws.unix_serve(echo, path):
        async with fastws.unix_connect(path) as ws:
            await ws.send("hello")
            assert await ws.recv() == "hello"
        async with fastws.unix_connect(path, "ws://elsewhere/x") as ws:
            assert ws.request.headers["Host"] == "elsewhere"
            await ws.send_batch(["a", "b"])
            assert [await ws.recv(), await ws.recv()] == ["a", "b"]


@on_asyncio
async def test_routes():
    werkzeug = pytest.importorskip("werkzeug.routing")

    async def channel(ws, name):
        await ws.send(f"{name} {type(ws).__module__} {ws.max_queue_bytes}")

    url_map = werkzeug.Map([werkzeug.Rule("/channel/<name>", endpoint=channel)])
    async with fastws.route(url_map, "127.0.0.1", 0, max_queue_bytes=12345) as server:
        async with fastws.connect(PLAIN.uri(port_of(server), "/channel/news")) as ws:
            assert await ws.recv() == "news fastws.server 12345"
        with pytest.raises(InvalidStatus):
            await fastws.connect(PLAIN.uri(port_of(server), "/elsewhere"))


@contextlib.asynccontextmanager
async def http_proxy(credentials=None):
    """A CONNECT proxy; yields (its port, the requests it has had)."""
    requests = []
    tasks = set()

    async def pump(reader, writer):
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def accept(reader, writer):
        tasks.add(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        requests.append(head)
        host, port = head.split()[1].decode().rsplit(":", 1)
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield port_of(server), requests
    finally:
        server.close()
        await asyncio.gather(*tasks, return_exceptions=True)


@over_loops
async def test_http_proxy(link, monkeypatch):
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    async with http_proxy() as (port, requests), serving(echo, link) as uri:
        async with fastws.connect(uri, proxy=f"http://127.0.0.1:{port}", **link.client) as ws:
            await ws.send_batch([str(number) for number in range(1000)])
            received = [await ws.recv() for _ in range(1000)]
    assert received == [str(number) for number in range(1000)]
    assert len(requests) == 1
    assert requests[0].startswith(b"CONNECT 127.0.0.1:")


@over_loops
async def test_given_socket():
    import socket

    async with serving(echo) as uri:
        sock = socket.create_connection(("127.0.0.1", int(uri.rstrip("/").rpartition(":")[2])))
        sock.setblocking(False)
        async with fastws.connect(uri, sock=sock) as ws:
            await ws.send("hello")
            assert await ws.recv() == "hello"


# Again and again


@over_loops
async def test_reconnecting(monkeypatch):
    monkeypatch.setenv("WEBSOCKETS_BACKOFF_INITIAL_DELAY", "0")
    attempts = 0

    async def script(peer):
        nonlocal attempts
        attempts += 1
        head = await peer.reader.readuntil(b"\r\n\r\n")
        peer.write(response_to(head) + peer.frame(TEXT, b"%d" % attempts))
        if attempts == 2:
            peer.write(peer.frame(3))  # a broken rule
            await peer.expect_close()
        elif attempts == 3:
            await peer.through()
            peer.vanish()
        else:
            await peer.close(1012)

    received = []
    async with raw_server(script) as port:
        async for ws in fastws.connect(PLAIN.uri(port)):
            assert type(ws) is fastws.ClientConnection
            try:
                async for message in ws:
                    received.append(message)  # noqa: PERF401  What came before the error counts.
            except ConnectionClosedError:
                pass
            if len(received) == 5:
                break
    assert received == ["1", "2", "3", "4", "5"]


@on_asyncio
async def test_raw_peers_handshake_is_checked():
    """The tests' own client is refused by no server: it is a valid one."""
    async with websockets.serve(echo, "127.0.0.1", 0) as server, raw_client(port_of(server)) as peer:
        await peer.send(TEXT, b"hello")
        assert await peer.read() == (TEXT, True, b"hello")
