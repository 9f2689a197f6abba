"""Clients: ``connect`` and ``unix_connect``, drop-in replacements for those of ``websockets.asyncio.client``."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import websockets.client as upstream_module
from websockets.asyncio.client import ClientConnection as UpstreamClientConnection
from websockets.asyncio.client import connect as upstream_connect
from websockets.proxy import get_proxy
from websockets.typing import PathLike

from .connection import Connection, MaxQueue
from .options import Options, merged_signature, take_options
from .security import Security

__all__ = ["ClientConnection", "connect", "unix_connect"]


class ClientConnection(Connection, UpstreamClientConnection):
    """A client connection of ``websockets`` with the data plane of fastws.

    It receives and sends as ``websockets.ClientConnection`` does, and in batches::

        async with connect("ws://localhost:8765") as websocket:
            async for batch in websocket.batches():
                for message in batch:
                    ...
    """


class connect(upstream_connect):
    """Connect to the WebSocket server at ``uri``.

    Takes all arguments of ``websockets.connect``, may be awaited, entered with ``async with``, or iterated with
    ``async for`` to reconnect, and raises the same exceptions. What differs:

    Args:
        uri: URI of the WebSocket server.
        max_queue: Messages that may wait for the consumer before the queue is full, or a (high, low) pair of marks.
            None, the default here, is no limit.
        create_connection: Factory for the connection; a subclass of `ClientConnection`, or any other that
            ``websockets.connect`` takes.
        **kwargs: `Options`, such as ``max_queue_bytes`` and ``overflow``, and what ``websockets.connect`` takes.
    """

    def __init__(
        self,
        uri: str,
        *,
        max_queue: MaxQueue = None,
        create_connection: Any = None,
        **kwargs: Any,
    ) -> None:
        factory = connection_factory(create_connection, ClientConnection, kwargs)
        super().__init__(uri, max_queue=max_queue, create_connection=factory, **kwargs)
        self._pumped = is_pumped(factory)

    async def open_tcp_connection(self) -> Any:
        """As in ``websockets``; TLS for a receive thread is on the socket itself, whatever has opened it."""
        arguments = {**self.create_connection_kwargs}
        security = None
        if self._pumped and self.ws_uri.secure:
            arguments = {"ssl": True, "server_hostname": self.ws_uri.host, **arguments}
            security = Security.taken_from(arguments, server_side=False)
        if security is None:
            return await super().open_tcp_connection()
        dialing = copy.copy(self)
        if dialing.proxy is True:
            dialing.proxy = get_proxy(self.ws_uri)
        dialing.ws_uri = dataclasses.replace(self.ws_uri, secure=False)
        dialing.create_connection_kwargs = arguments
        dialing.factory = secured(lambda _: self.factory(self.ws_uri), security)
        connection: Any = await upstream_connect.open_tcp_connection(dialing)
        await connection._securing
        return connection

    async def __aenter__(self) -> ClientConnection:
        return await super().__aenter__()  # type: ignore[return-value]

    def __await__(self) -> Any:
        return super().__await__()


def connection_factory(given: Any, default: type[Connection], arguments: dict[str, Any]) -> Any:
    """What ``create_connection`` of ``websockets`` is to be.

    Args:
        given: By the user, or None.
        default: Our class.
        arguments: Keyword arguments, of which `Options` are taken out: they go to our classes only.

    Raises:
        TypeError: If an option isn't of its type, or has no effect as ``given`` isn't one of our classes.
        ValueError: If an option is out of range.
    """
    options = take_options(arguments)
    if given is None:
        given = default
    if isinstance(given, type) and issubclass(given, Connection):
        return functools.partial(given, **options) if options else given
    if useless := options.keys() - {"max_queue_bytes"}:
        raise TypeError(f"{', '.join(sorted(useless))}: only for a create_connection that is a subclass of {default!r}")
    return given


def is_pumped(factory: Any) -> bool:
    """Whether connections of such a factory, by `connection_factory`, are received by a thread."""
    options: dict[str, Any] = {}
    if isinstance(factory, functools.partial):
        factory, options = factory.func, factory.keywords
    return isinstance(factory, type) and issubclass(factory, Connection) and Options(**options).receiver != "loop"


def secured(factory: Callable[..., Any], security: Security) -> Callable[..., Any]:
    """A factory of connections that begin with TLS."""

    def make(*args: Any, **kwargs: Any) -> Any:
        connection = factory(*args, **kwargs)
        connection._security = security
        return connection

    return make


def unix_connect(path: PathLike | None = None, uri: str | None = None, **kwargs: Any) -> connect:
    """Connect to a WebSocket server listening on a Unix socket.

    Args:
        path: File system path to the Unix socket.
        uri: URI of the WebSocket server; ``ws://localhost/`` or, with an ``ssl`` argument, ``wss://localhost/``.
        **kwargs: As `connect` takes them.
    """
    if uri is None:
        uri = "ws://localhost/" if kwargs.get("ssl") is None else "wss://localhost/"
    return connect(uri=uri, unix=True, path=path, **kwargs)


connect.__signature__ = merged_signature(connect, upstream_connect)  # type: ignore[attr-defined]
ClientConnection.__signature__ = merged_signature(Connection, UpstreamClientConnection)  # type: ignore[attr-defined]


def __getattr__(name: str) -> Any:
    """``websockets.client``, the module of the same name, has names that programs use: ``process_exception``, ..."""
    return getattr(upstream_module, name)
