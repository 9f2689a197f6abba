"""``import fastws as websockets``: every name, signature, relation and escape hatch of ``websockets`` is there."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import gc
import http
import importlib
import inspect
import logging
import pickle
import socket
import unittest.mock
import uuid
import weakref

import pytest
import websockets
import websockets.asyncio.client
import websockets.asyncio.connection
import websockets.asyncio.router
import websockets.asyncio.server
import websockets.exceptions
from core.streams import KEY, TEXT, frame
from websockets.extensions import Extension
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory, ServerPerMessageDeflateFactory
from websockets.protocol import Protocol, Side

import fastws
from fastws.connection import Connection
from fastws.failures import failure
from fastws.wire import Violation

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
    raw_server,
    response_to,
    serving,
    until,
)

# Names

MODULES = ["asyncio.client", "asyncio.connection", "asyncio.router", "asyncio.server", "exceptions"]


@pytest.mark.parametrize("name", websockets.__all__)
def test_names(name):
    assert name in fastws.__all__
    ours, theirs = getattr(fastws, name), getattr(websockets, name)
    assert callable(ours) == callable(theirs)
    if isinstance(theirs, type) and name != "connect":
        assert isinstance(ours, type)
        assert issubclass(ours, theirs)


def test_all_is_complete():
    assert len(fastws.__all__) == len(set(fastws.__all__))
    for name in fastws.__all__:
        getattr(fastws, name)
    with pytest.raises(AttributeError, match="module 'fastws' has no attribute 'no_such_name'"):
        _ = fastws.no_such_name


@pytest.mark.parametrize("module", MODULES)
def test_names_of_modules(module):
    ours, theirs = importlib.import_module(f"fastws.{module}"), importlib.import_module(f"websockets.{module}")
    assert set(ours.__all__) >= set(theirs.__all__)
    for name in theirs.__all__:
        assert getattr(ours, name) is getattr(fastws, name, getattr(ours, name))


@pytest.mark.parametrize("module", ["datastructures", "frames", "headers", "http11", "protocol", "typing", "uri"])
def test_modules_reached_through_the_package(module):
    assert getattr(fastws, module) is importlib.import_module(f"websockets.{module}")


@pytest.mark.parametrize("name", websockets.exceptions.__all__)
def test_exceptions_are_those_of_websockets(name):
    """What a program catches by the names of one package, it catches of the other."""
    assert getattr(fastws, name) is getattr(websockets, name) is getattr(fastws.exceptions, name)


def test_reached_as_in_websockets():
    assert fastws.asyncio.client.connect is fastws.connect
    assert fastws.asyncio.server.serve is fastws.serve
    assert fastws.asyncio.connection.Connection is Connection
    assert fastws.asyncio.router.route is fastws.route
    assert fastws.exceptions.ConnectionClosed is websockets.ConnectionClosed


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("client", "ClientProtocol"),
        ("client", "process_exception"),
        ("client", "backoff"),
        ("server", "ServerProtocol"),
    ],
)
def test_modules_of_the_same_name(module, name):
    """``process_exception`` of users calls ``websockets.client.process_exception``, as its documentation says."""
    theirs = importlib.import_module(f"websockets.{module}")
    assert getattr(getattr(fastws, module), name, None) is getattr(theirs, name)


# Signatures

OURS_DIFFERS = {"max_queue"}
"""Parameters whose default is documented as different."""


def assert_takes_the_same(ours, theirs):
    """Whatever call fits ``theirs`` fits ``ours`` and means the same; ours may take more by keyword."""
    mine, their = inspect.signature(ours).parameters, inspect.signature(theirs).parameters
    assert [name for name in mine if name in their] == list(their)
    for name, parameter in their.items():
        assert mine[name].kind is parameter.kind, name
        if name not in OURS_DIFFERS:
            assert mine[name].default == parameter.default, name
    for name in mine.keys() - their.keys():
        assert mine[name].kind is inspect.Parameter.KEYWORD_ONLY, name
        assert mine[name].default is not inspect.Parameter.empty, name


@pytest.mark.parametrize(
    "name",
    [
        "connect",
        "unix_connect",
        "serve",
        "unix_serve",
        "route",
        "unix_route",
        "broadcast",
        "basic_auth",
        "ClientConnection",
        "ServerConnection",
        "Server",
        "Router",
    ],
)
def test_signatures(name):
    assert_takes_the_same(getattr(fastws, name), getattr(websockets, name))


def public_names(cls):
    return [name for name in dir(cls) if not name.startswith("_")] + ["__aenter__", "__aexit__"]


@pytest.mark.parametrize("cls", ["ClientConnection", "ServerConnection"])
def test_signatures_of_methods(cls):
    ours, theirs = getattr(fastws, cls), getattr(websockets, cls)
    for name in public_names(theirs):
        mine, their = inspect.getattr_static(ours, name), inspect.getattr_static(theirs, name)
        assert isinstance(mine, property) == isinstance(their, property), name
        if callable(their):
            assert_takes_the_same(mine, their)
            assert inspect.iscoroutinefunction(mine) == inspect.iscoroutinefunction(their), name
            assert inspect.isasyncgenfunction(mine) == inspect.isasyncgenfunction(their), name


def test_documented():
    for name in ("connect", "serve", "broadcast", "ClientConnection", "ServerConnection", "unix_connect", "route"):
        assert getattr(fastws, name).__doc__
        assert getattr(fastws, name).__module__.startswith("fastws.")
    assert "max_queue_bytes" in inspect.signature(fastws.connect).parameters
    assert "max_queue_bytes" in inspect.signature(fastws.serve).parameters


# Relations


def test_classes():
    assert issubclass(fastws.ClientConnection, websockets.ClientConnection)
    assert issubclass(fastws.ServerConnection, websockets.ServerConnection)
    assert not issubclass(fastws.ClientConnection, fastws.ServerConnection)
    for cls in (fastws.ClientConnection, fastws.ServerConnection):
        assert issubclass(cls, websockets.asyncio.connection.Connection)
        assert issubclass(cls, asyncio.Protocol)
    assert issubclass(fastws.connect, websockets.connect)


@over_loops
async def test_instances(link):
    async with pair(link) as (client, server):
        assert type(client) is fastws.ClientConnection
        assert type(server) is fastws.ServerConnection
        assert isinstance(client, websockets.ClientConnection)
        assert isinstance(server, websockets.ServerConnection)


PACKAGES = [websockets, fastws]


@over_loops
@pytest.mark.parametrize("server_of", PACKAGES, ids=lambda package: f"serve-{package.__name__}")
@pytest.mark.parametrize("client_of", PACKAGES, ids=lambda package: f"connect-{package.__name__}")
async def test_create_connection(client_of, server_of, link):
    """fastws's classes in functions of websockets, and the other way round."""
    done = asyncio.Event()
    opened = asyncio.get_running_loop().create_future()

    async def handler(ws):
        opened.set_result(ws)
        await done.wait()

    one, other = [fastws if package is websockets else websockets for package in (client_of, server_of)]
    async with server_of.serve(
        handler, "127.0.0.1", 0, create_connection=other.ServerConnection, compression=None, **link.server
    ) as server:
        async with client_of.connect(
            link.uri(port_of(server)), create_connection=one.ClientConnection, compression=None, **link.client
        ) as client:
            ends = (client, await opened)
            assert [type(ws) for ws in ends] == [one.ClientConnection, other.ServerConnection]
            for ws, peer in (ends, reversed(ends)):
                for message in ("text", b"binary", "x" * 100_000):
                    await ws.send(message)
                    assert await peer.recv() == message
                assert await asyncio.wait_for(await ws.ping(), 5) >= 0
            done.set()
        for ws in ends:
            await ws.wait_closed()
            assert (ws.close_code, ws.state) == (1000, websockets.State.CLOSED)


@on_asyncio
async def test_create_connection_with_defaults():
    """In the functions of websockets, with nothing said about queues: its limit of messages, our limit of bytes."""
    async with websockets.serve(echo, "127.0.0.1", 0, create_connection=fastws.ServerConnection) as server:
        async with websockets.connect(PLAIN.uri(port_of(server)), create_connection=fastws.ClientConnection) as ws:
            assert (ws.max_queue_high, ws.max_queue_bytes) == (16, 16 * 2**20)
            await ws.send("x")
            assert await ws.recv() == "x"


# Subclasses and wrappers


class Counting(fastws.ClientConnection):
    """A subclass as users write them."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.received = 0
        self.lost = 0

    async def recv(self, decode=None):
        message = await super().recv(decode)
        self.received += 1
        return message

    def connection_lost(self, exc):
        self.lost += 1
        super().connection_lost(exc)


class Guarding(fastws.ServerConnection):
    async def handshake(self, *args, **kwargs):
        await super().handshake(*args, **kwargs)
        self.shaken = self.state


@over_loops
async def test_subclasses(link):
    async with pair(link, server={"create_connection": Guarding}, client={"create_connection": Counting}) as ends:
        client, server = ends
        assert server.shaken is websockets.State.OPEN
        await server.send_batch(["a", "b"])
        assert [await client.recv(), await client.recv()] == ["a", "b"]
        assert client.received == 2
        await client.close()
    assert client.lost == 1


@on_asyncio
async def test_iteration_calls_recv_of_a_subclass():
    """``websockets`` iterates by calling ``recv()``: an override of it takes effect there."""

    class Upper(fastws.ClientConnection):
        async def recv(self, decode=None):
            return (await super().recv(decode)).upper()

    async with pair(client={"create_connection": Upper}) as (client, server):
        await server.send_batch(["a", "b"])
        await server.close()
        assert [message async for message in client] == ["A", "B"]


@on_asyncio
async def test_create_connection_is_any_callable():
    made = []

    def factory(*args, **kwargs):
        made.append(fastws.ClientConnection(*args, max_queue_bytes=12_345, **kwargs))
        return made[-1]

    async with pair(client={"create_connection": factory}) as (client, _):
        assert client is made[0]
        assert client.max_queue_bytes == 12_345


@on_asyncio
async def test_limits_reach_subclasses():
    class Mine(fastws.ClientConnection):
        pass

    async with pair(client={"create_connection": Mine, "max_queue_bytes": 999, "max_queue": (7, 3)}) as (client, _):
        assert type(client) is Mine
        assert (client.max_queue_bytes, client.max_queue_high, client.max_queue_low) == (999, 7, 3)


# Attributes


def public_attributes(ws):
    return {name for name in dir(ws) if not name.startswith("_")}


@over_loops
async def test_attributes(link):
    async with (
        pair(link, subprotocols=["chat"]) as (client, server),
        pair(
            link,
            subprotocols=["chat"],
            server={"create_connection": websockets.ServerConnection},
            client={"create_connection": websockets.ClientConnection},
        ) as theirs,
    ):
        for ws, their in zip((client, server), theirs, strict=True):
            assert public_attributes(ws) >= public_attributes(their)
            assert isinstance(ws.id, uuid.UUID)
            assert ws.id == ws.protocol.id
            assert isinstance(ws.logger, logging.LoggerAdapter)
            assert ws.state is websockets.State.OPEN
            assert ws.latency == 0.0
            assert ws.subprotocol == "chat"
            assert (ws.close_code, ws.close_reason) == (None, None)
            assert isinstance(ws.request, websockets.Request)
            assert isinstance(ws.response, websockets.Response)
            assert ws.request.path == "/"
            assert ws.response.status_code == 101
            assert ws.transport.get_extra_info("peername") == ws.remote_address
        assert client.id != server.id
        assert client.local_address == server.remote_address
        assert client.remote_address == server.local_address
        assert client.request.headers == server.request.headers
        assert server.server.connections == {server}
        assert client.request.headers["User-Agent"] == theirs[0].request.headers["User-Agent"]
        assert server.response.headers["Server"] == theirs[1].response.headers["Server"]
        closing = [asyncio.create_task(ws.close(4321, "enough")) for ws in (client, theirs[0])]
        await asyncio.sleep(0)
        assert client.state is theirs[0].state is websockets.State.CLOSING
        await asyncio.gather(*closing)
        for ws, their in zip((client, server), theirs, strict=True):
            await asyncio.gather(ws.wait_closed(), their.wait_closed())
            assert ws.state is websockets.State.CLOSED
            assert (ws.close_code, ws.close_reason) == (their.close_code, their.close_reason) == (4321, "enough")
            assert str(ws.close_exc) == str(their.close_exc)


@on_asyncio
async def test_attributes_of_users():
    async with pair() as (client, _):
        client.name = "mine"
        assert {client: client.name} == {client: "mine"}
        assert client != copy.copy(object())
        with pytest.raises(AttributeError):
            client.state = None


@on_asyncio
async def test_double_of_a_transport(side):
    """Mocks in users' tests answer any get_extra_info(), and have the methods of asyncio.Transport only."""
    ws = Connection(Protocol(Side[side.upper()]), max_queue=1, write_limit=4096)
    transport = unittest.mock.Mock(spec=asyncio.Transport)
    transport.is_closing.return_value = False
    ws.connection_made(transport)
    transport.set_write_buffer_limits.assert_called_once_with(4096, None)
    # A receive thread would begin once the transport reads, so in the next cycle.
    await asyncio.sleep(0)
    (receiver,) = transport.set_protocol.call_args.args
    data = b"".join(frame(TEXT, text, key=KEY if side == "server" else None) for text in (b"one", b"two"))
    receiver.get_buffer(-1)[: len(data)] = data
    receiver.buffer_updated(len(data))
    transport.pause_reading.assert_called()
    assert [await ws.recv(), await ws.recv()] == ["one", "two"]
    transport.resume_reading.assert_called()


@over_loops
async def test_weak_references(side):
    registry = weakref.WeakSet()
    async with against_peer(side) as (ws, peer):
        registry.add(ws)
        reference = weakref.ref(ws)
        assert reference() is ws
        await peer.send(TEXT, b"x")
        assert await ws.recv() == "x"
        await peer.close()
        await ws.wait_closed()
    del ws
    await asyncio.sleep(0)
    gc.collect()
    assert reference() is None
    assert not registry


# Copies


@pytest.mark.parametrize("violation", Violation, ids=lambda violation: violation.name)
@pytest.mark.parametrize("current_size", [None, 3])
@pytest.mark.parametrize("way", [copy.copy, lambda exc: pickle.loads(pickle.dumps(exc))], ids=["copy", "pickle"])
def test_copies_of_exceptions(violation, current_size, way):
    """Exceptions cross process boundaries, as those of websockets do."""
    _, _, exc = failure(violation, 5, 1, current_size)
    copied = way(exc)
    assert type(copied) is type(exc)
    assert str(exc) in str(copied)


@on_asyncio
async def test_copies_of_connection_closed(side):
    async with against_peer(side) as (ws, peer):
        peer.write(peer.frame(TEXT, b"\xff"))
        assert (await peer.expect_close())[0] == 1007
        await peer.end()
        with pytest.raises(fastws.ConnectionClosedError) as info:
            await ws.recv()
    for copied in (copy.copy(info.value), pickle.loads(pickle.dumps(info.value))):
        assert type(copied) is fastws.ConnectionClosedError
        assert (copied.rcvd, copied.sent, str(copied)) == (info.value.rcvd, info.value.sent, str(info.value))


# Dialling


@over_loops
async def test_unix_sockets_over_tls(tls, tmp_path):
    path = str(tmp_path / "socket")
    async with fastws.unix_serve(echo, path, **tls.server) as server:
        assert isinstance(server, websockets.Server)
        async with fastws.unix_connect(path, **tls.client) as ws:
            assert ws.request.headers["Host"] == "localhost"
            await ws.send("hello")
            assert await ws.recv() == "hello"


@over_loops
async def test_host_and_port_override(link):
    """The TCP connection goes to them; the Host header is that of the URI."""
    async with serving(echo, link) as uri:
        port = int(uri.rstrip("/").rpartition(":")[2])
        target = {"host": "127.0.0.1", "port": port}
        async with fastws.connect(f"{link.scheme}://localhost/path", **target, **link.client) as ws:
            assert ws.request.headers["Host"] == "localhost"
            assert ws.remote_address[:2] == ("127.0.0.1", port)
            await ws.send("hello")
            assert await ws.recv() == "hello"


@over_loops
async def test_given_sockets(link):
    """``sock`` on both sides, here a pair that no address belongs to."""
    ours, theirs = socket.socketpair()
    listening = socket.create_server(("127.0.0.1", 0))
    async with fastws.serve(echo, sock=listening, **QUIET, **link.server) as server:
        sock = socket.create_connection(listening.getsockname())
        options = {"server_hostname": "localhost"} if link.client else {}
        async with fastws.connect(link.uri(port_of(server)), sock=sock, **QUIET, **link.client, **options) as ws:
            assert ws.local_address == sock.getsockname()
            await ws.send_batch(["a", b"b"])
            assert [await ws.recv(), await ws.recv()] == ["a", b"b"]

    async def answer():
        reader, writer = await asyncio.open_connection(sock=theirs)
        peer = Peer(reader, writer, None)
        peer.write(response_to(await reader.readuntil(b"\r\n\r\n")))
        await peer.send(TEXT, b"hi")
        await peer.close()

    task = asyncio.create_task(answer())
    async with fastws.connect("ws://nowhere.invalid/", sock=ours, **QUIET) as ws:
        assert [message async for message in ws] == ["hi"]
        assert ws.close_code == 1000
    await task


@on_asyncio
async def test_wrong_arguments_are_refused_alike():
    cases = [
        ({"uri": "http://localhost/"}, {}),
        ({"uri": "ws://localhost/"}, {"compression": "zip"}),
        ({"uri": "ws://localhost/"}, {"ssl": True}),
        ({"uri": "ws://localhost/"}, {"subprotocols": "chat"}),
    ]
    for arguments, options in cases:
        raised = []
        for package in PACKAGES:
            with pytest.raises(Exception) as info:  # noqa: PT011  Whatever websockets raises.
                await package.connect(**arguments, **options)
            raised.append((type(info.value), str(info.value)))
        assert raised[0] == raised[1]
    for package in PACKAGES:
        with pytest.raises(TypeError, match="no_such"):
            await package.connect("ws://127.0.0.1:9/", no_such=1)


# Proxies


@contextlib.asynccontextmanager
async def connect_proxy(answer=b"HTTP/1.1 200 Connection established\r\n\r\n", **options):
    """A proxy for CONNECT that gives ``answer``; yields (port, heads of requests). 2xx answers open a tunnel."""
    heads = []
    tasks = set()

    async def forward(reader, writer):
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()

    async def tunnel(reader, writer):
        tasks.add(asyncio.current_task())
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head.decode())
        if not answer.startswith(b"HTTP/1.1 2"):
            writer.write(answer)
            writer.close()
            return
        host, _, port = head.split()[1].decode().rpartition(":")
        far_reader, far_writer = await asyncio.open_connection(host, int(port))
        writer.write(answer)
        await asyncio.gather(forward(reader, far_writer), forward(far_reader, writer))

    server = await asyncio.start_server(tunnel, "127.0.0.1", 0, **options)
    try:
        yield port_of(server), heads
    finally:
        server.close()
        await asyncio.gather(*tasks)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    """Whatever the environment says."""
    for name in ("http", "https", "all", "no", "socks", "ws", "wss"):
        monkeypatch.delenv(f"{name}_proxy", raising=False)
        monkeypatch.delenv(f"{name}_proxy".upper(), raising=False)


@on_asyncio
async def test_proxy_with_credentials():
    async with connect_proxy() as (port, heads), serving(echo) as uri:
        async with fastws.connect(uri, proxy=f"http://user:secret@127.0.0.1:{port}", user_agent_header="me") as ws:
            await ws.send("hello")
            assert await ws.recv() == "hello"
    (head,) = heads
    assert "Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=" in head
    assert "User-Agent: me" in head


@on_asyncio
async def test_proxy_of_the_environment(monkeypatch):
    async with connect_proxy() as (port, heads), serving(echo) as uri:
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
        async with fastws.connect(uri) as ws:
            await ws.send("through")
            assert await ws.recv() == "through"
        assert len(heads) == 1
        async with fastws.connect(uri, proxy=None):
            pass
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        async with fastws.connect(uri):
            pass
        assert len(heads) == 1


@on_asyncio
async def test_proxy_that_refuses():
    refusal = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
    for answer, error in [(refusal, fastws.InvalidProxyStatus), (b"nonsense\r\n\r\n", fastws.InvalidProxyMessage)]:
        async with connect_proxy(answer) as (port, _):
            with pytest.raises(error):
                await fastws.connect("ws://127.0.0.1:9/", proxy=f"http://127.0.0.1:{port}")
    with pytest.raises(fastws.InvalidProxy):
        await fastws.connect("ws://127.0.0.1:9/", proxy="ftp://127.0.0.1/")


@over_loops
async def test_proxy_over_tls(tls):
    """TLS to the proxy; inside the tunnel, plain frames."""
    async with connect_proxy(**tls.server) as (port, heads), serving(echo) as uri:
        proxy = {"proxy": f"https://127.0.0.1:{port}", "proxy_ssl": tls.client["ssl"]}
        async with fastws.connect(uri, **proxy, **QUIET) as ws:
            await ws.send_batch([str(number) for number in range(1000)])
            assert [await ws.recv() for _ in range(1000)] == [str(number) for number in range(1000)]
    assert len(heads) == 1


# Redirects


def redirecting(target, status=http.HTTPStatus.FOUND):
    def process_request(connection, request):
        if request.path != "/final":
            response = connection.respond(status, "")
            response.headers["Location"] = target() if callable(target) else target
            return response
        return None

    return process_request


@on_asyncio
async def test_redirects_to_another_origin_lose_credentials():
    async def handler(ws):
        headers = ws.request.headers
        await ws.send(f"{headers.get('Authorization')} {headers.get('Cookie')} {headers.get('X-Other')}")

    async with serving(handler) as far:
        async with serving(handler, process_request=redirecting(f"{far}final")) as near:
            headers = {"Authorization": "Bearer x", "Cookie": "a=b", "X-Other": "c"}
            async with fastws.connect(near, additional_headers=headers) as ws:
                assert type(ws) is fastws.ClientConnection
                assert await ws.recv() == "None None c"
        async with serving(handler, process_request=redirecting("/final")) as near:
            async with fastws.connect(near, additional_headers=headers) as ws:
                assert await ws.recv() == "Bearer x a=b c"


@on_asyncio
async def test_redirects_that_are_not_followed(tls):
    async with serving(echo, process_request=redirecting("/again")) as uri:
        with pytest.raises(fastws.SecurityError, match="more than 10 redirects"):
            await fastws.connect(uri)
    async with serving(echo, tls, process_request=redirecting("ws://127.0.0.1:9/")) as uri:
        with pytest.raises(fastws.SecurityError, match="non-secure"):
            await fastws.connect(uri, **tls.client)
    async with serving(echo, process_request=redirecting("/final")) as uri:
        sock = socket.create_connection(("127.0.0.1", int(uri.rstrip("/").rpartition(":")[2])))
        with pytest.raises(ValueError, match="preexisting socket"):
            await fastws.connect(uri, sock=sock)


# Again and again


@over_loops
async def test_reconnecting_with_delays_and_process_exception():
    async def handler(ws):
        await ws.send("hello")

    failures = []
    delays = iter([0.0, 0.0])

    def process_exception(exc):
        failures.append(type(exc))
        return None if len(failures) < 3 else RuntimeError("enough")

    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    options = {"process_exception": process_exception, "reconnect_delays": lambda: delays}
    with pytest.raises(RuntimeError, match="enough"):
        await anext(aiter(fastws.connect(PLAIN.uri(port), **options)))
    assert failures == [ConnectionRefusedError] * 3

    kinds = []
    async with serving(handler) as uri:
        async for ws in fastws.connect(uri, max_queue_bytes=5000):
            kinds.append((type(ws), ws.max_queue_bytes, [message async for message in ws]))
            if len(kinds) == 3:
                break
        await until(lambda: ws.state is websockets.State.CLOSED)
    assert kinds == [(fastws.ClientConnection, 5000, ["hello"])] * 3


@on_asyncio
async def test_ways_to_connect():
    async with serving(echo) as uri:
        connecting = fastws.connect(uri)
        async with connecting as ws:
            assert type(ws) is fastws.ClientConnection
            with pytest.raises(RuntimeError, match="reentrant"):
                await connecting.__aenter__()
        ws = await fastws.connect(uri)
        async with ws as same:
            assert same is ws
        with pytest.raises(KeyError):
            async with fastws.connect(uri) as ws:
                raise KeyError
        assert ws.close_code == 1011


@on_asyncio
async def test_ways_to_serve():
    server = await fastws.serve(echo, "127.0.0.1", 0)
    assert type(server) is fastws.Server is websockets.Server
    assert server.is_serving()
    async with fastws.connect(PLAIN.uri(port_of(server))) as ws:
        assert len(server.connections) == 1
        server.close(code=4000, reason="bye")
        await server.wait_closed()
        with pytest.raises(fastws.ConnectionClosedError):
            await ws.recv_batch()
        assert (ws.close_code, ws.close_reason) == (4000, "bye")


@on_asyncio
async def test_router_of_ones_own():
    routing = pytest.importorskip("werkzeug.routing")

    class Mine(fastws.Router):
        async def handler(self, connection):
            await connection.send("mine")

    url_map = routing.Map([routing.Rule("/", endpoint=echo)])
    async with fastws.route(url_map, "127.0.0.1", 0, create_router=Mine) as server:
        async with fastws.connect(PLAIN.uri(port_of(server))) as ws:
            assert await ws.recv() == "mine"


@on_asyncio
async def test_unix_route(tmp_path):
    routing = pytest.importorskip("werkzeug.routing")
    path = str(tmp_path / "socket")
    async with fastws.unix_route(routing.Map([routing.Rule("/", endpoint=echo)]), path):
        async with fastws.unix_connect(path) as ws:
            await ws.send("hello")
            assert await ws.recv() == "hello"


# Processing requests and responses


@on_asyncio
async def test_process_request_that_fails(caplog):
    def process_request(connection, request):
        raise KeyError("oops")

    async with serving(echo, process_request=process_request) as uri:
        with pytest.raises(fastws.InvalidStatus) as info:
            await fastws.connect(uri)
    assert info.value.response.status_code == 500
    assert "process_request failed" in caplog.text


@on_asyncio
async def test_process_response_that_replaces():
    def process_response(connection, request, response):
        return connection.respond(http.HTTPStatus.IM_A_TEAPOT, "short and stout\n")

    async with serving(echo, process_response=process_response) as uri:
        with pytest.raises(fastws.InvalidStatus) as info:
            await fastws.connect(uri)
    assert info.value.response.status_code == 418
    assert info.value.response.body == b"short and stout\n"


@on_asyncio
async def test_basic_auth_of_coroutines_and_lists():
    async def check(username, password):
        return (username, password) == ("user", "secret")

    for guard in (
        fastws.basic_auth("here", check_credentials=check),
        fastws.basic_auth("here", credentials=[("user", "secret"), ("other", "word")]),
    ):
        async with serving(echo, process_request=guard) as uri:
            async with fastws.connect(uri.replace("ws://", "ws://user:secret@")) as ws:
                await ws.send("in")
                assert await ws.recv() == "in"
            with pytest.raises(fastws.InvalidStatus):
                await fastws.connect(uri.replace("ws://", "ws://user:wrong@"))


# Compression


@over_loops
async def test_default_compression(link):
    """What ``websockets`` negotiates by default, the core does."""
    async with pair(link, compression="deflate") as (client, server):
        for ws, other in ((client, server), (server, client)):
            assert ws._deflate is not None
            await ws.send_batch(["again and again " * 100] * 3)
            assert list(await other.recv_batch(1)) == ["again and again " * 100]
            assert [await other.recv() for _ in range(2)] == ["again and again " * 100] * 2


@on_asyncio
async def test_compression_as_a_factory_of_ones_own():
    """A subclass of the factory that makes websockets' extension is done by the core; another extension isn't."""

    class Factory(ServerPerMessageDeflateFactory):
        pass

    class Other(ClientPerMessageDeflateFactory):
        def process_response_params(self, params, accepted_extensions):
            made = super().process_response_params(params, accepted_extensions)
            made.__class__ = type("Subclass", (type(made),), {})
            return made

    async with pair(server={"extensions": [Factory()]}, client={"extensions": [Other()]}) as (client, server):
        assert server._deflate is not None
        assert client._decoder is None
        for ws, other in ((client, server), (server, client)):
            await ws.send("x" * 1000)
            assert await other.recv() == "x" * 1000


# Another extension


class Rotating(Extension):
    """Adds to every byte the number of data frames so far: order and direction matter."""

    name = "x-rotate"

    def __init__(self):
        self.sent = self.received = 0

    def _turn(self, frame, step):
        return type(frame)(frame.opcode, bytes((byte + step) % 256 for byte in frame.data), frame.fin)

    def decode(self, frame, *, max_size=None):
        if frame.opcode >= 8:
            return frame
        self.received += 1
        return self._turn(frame, -self.received)

    def encode(self, frame):
        if frame.opcode >= 8:
            return frame
        self.sent += 1
        return self._turn(frame, self.sent)


ROTATING = {"extensions": [Factory(Rotating)]}

MESSAGES = ["text", b"binary", "", b"", "é" * 500, b"\xff" * 70_000, "last"]


@over_loops
@pytest.mark.parametrize("how", ["recv", "iteration", "recv_batch", "batches", "recv_streaming"])
@pytest.mark.parametrize("sending", ["send", "send_batch"])
async def test_another_extension(link, how, sending):
    async with pair(link, **ROTATING) as ends:
        for one, other in (ends, reversed(ends)):
            assert one._decoder is None

            async def feed(one=one):
                if sending == "send_batch":
                    await one.send_batch(MESSAGES)
                else:
                    for message in MESSAGES:
                        await one.send(message)

            task = asyncio.create_task(feed())
            received = []
            if how == "recv":
                received = [await other.recv() for _ in MESSAGES]
            elif how == "iteration":
                async for message in other:
                    received.append(message)
                    if len(received) == len(MESSAGES):
                        break
            elif how == "recv_batch":
                while len(received) < len(MESSAGES):
                    received.extend(await other.recv_batch())
            elif how == "batches":
                async for batch in other.batches(max_wait=0.001):
                    received.extend(batch)
                    if len(received) == len(MESSAGES):
                        break
            else:
                for _ in MESSAGES:
                    fragments = [fragment async for fragment in other.recv_streaming()]
                    received.append(type(fragments[0])().join(fragments))
            await task
            assert received == MESSAGES


@on_asyncio
async def test_another_extension_closes_and_fails_as_ever():
    async with pair(**ROTATING) as (client, server):
        closing = asyncio.create_task(client.close(4000, "bye"))
        with pytest.raises(fastws.ConnectionClosedError):
            await server.recv_batch()
        with pytest.raises(fastws.ConnectionClosedError):
            async for _ in server.batches():
                pass
        with pytest.raises(fastws.ConnectionClosedError):
            await server.send_batch(["x"])
        await closing
    async with pair(**ROTATING, max_size=100) as (client, server):
        await client.send("x" * 101)
        with pytest.raises(fastws.ConnectionClosedError) as info:
            await server.recv()
        assert info.value.sent.code == 1009


@on_asyncio
async def test_a_server_that_declines_the_extension():
    """The client offers it, the server doesn't know it: the core takes over."""
    async with pair(client=ROTATING) as (client, server):
        assert client._decoder is not None
        await server.send("x")
        assert await client.recv() == "x"


@on_asyncio
async def test_a_server_that_accepts_what_was_not_offered():
    async def script(peer):
        head = await peer.reader.readuntil(b"\r\n\r\n")
        peer.write(response_to(head, "Sec-WebSocket-Extensions: x-rotate"))
        await peer.reader.read()

    async with raw_server(script) as port:
        with pytest.raises(fastws.NegotiationError):
            await fastws.connect(PLAIN.uri(port), compression=None)
