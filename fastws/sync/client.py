"""Clients without asyncio: drop-in replacements for what ``websockets.sync.client`` has."""

from __future__ import annotations

import functools
from typing import Any, Literal, overload

import websockets.sync.client as upstream_module
from websockets.sync.client import ClientConnection as UpstreamClientConnection
from websockets.sync.client import connect as upstream_connect
from websockets.sync.client import reconnect as upstream_reconnect
from websockets.typing import PathLike

from ..connection import MaxQueue
from ..options import merged_signature, take_options
from .connection import ClientConnection
from .opening import take_sync_options

__all__ = ["ClientConnection", "connect", "reconnect", "unix_connect", "unix_reconnect"]


class reconnect(upstream_reconnect):
    """Connect to the WebSocket server at ``uri``, again and again if iterated.

    Takes all arguments of ``websockets.sync.client.reconnect``, is entered with ``with`` or iterated with ``for``, and
    raises the same exceptions. What differs is what differs for `connect`.
    """

    def __init__(
        self,
        uri: str,
        *,
        max_queue: MaxQueue = None,
        create_connection: Any = None,
        **kwargs: Any,
    ) -> None:
        factory = _connection_factory(create_connection, kwargs)
        super().__init__(uri, max_queue=max_queue, create_connection=factory, **kwargs)


def _connection_factory(given: Any, arguments: dict[str, Any]) -> Any:
    """What ``create_connection`` of ``websockets`` is to be.

    Args:
        given: By the user, or None.
        arguments: Keyword arguments, of which those are taken out that go to our classes only.

    Raises:
        TypeError: If an option isn't of its type, or has no effect as ``given`` isn't one of our classes.
        ValueError: If an option is out of range.
    """
    if given is None:
        given = ClientConnection
    ours = isinstance(given, type) and issubclass(given, ClientConnection)
    options = take_sync_options(arguments) if ours else take_options(arguments)
    if "write_limit" in arguments:
        options["write_limit"] = arguments.pop("write_limit")
    if ours:
        return functools.partial(given, **options)
    if useless := options.keys() - {"max_queue_bytes"}:
        raise TypeError(
            f"{', '.join(sorted(useless))}: only for a create_connection that is a subclass of {ClientConnection!r}"
        )
    return given


@overload
def connect(uri: str, *, legacy: Literal[True] | None = ..., **kwargs: Any) -> ClientConnection: ...


@overload
def connect(uri: str, *, legacy: Literal[False], **kwargs: Any) -> reconnect: ...


def connect(
    uri: str,
    *,
    max_queue: MaxQueue = None,
    create_connection: Any = None,
    legacy: bool | None = None,
    **kwargs: Any,
) -> ClientConnection | reconnect:
    """Connect to the WebSocket server at ``uri``.

    Takes all arguments of ``websockets.sync.client.connect`` and raises the same exceptions. What differs:

    Args:
        uri: URI of the WebSocket server.
        max_queue: Messages that may wait for the consumer before the queue is full, or a (high, low) pair of marks.
            None, the default here, is no limit.
        create_connection: Factory for the connection; a subclass of `ClientConnection`, or any other that
            ``websockets.sync.client.connect`` takes.
        legacy: As in ``websockets``.
        **kwargs: `Options`, such as ``max_queue_bytes`` and ``overflow``, and what ``websockets.sync.client.connect``
            takes. ``receive`` is "thread", the default here, or a `Pump`. ``write_limit``: bytes that may wait for
            the socket before sending waits, or a (high, low) pair of marks; 32 KiB is the default.
    """
    return _connected(reconnect(uri, max_queue=max_queue, create_connection=create_connection, **kwargs), legacy)


def _connected(connecter: reconnect, legacy: bool | None) -> ClientConnection | reconnect:
    if legacy is False:
        return connecter
    connection: Any = connecter.connect()
    if legacy:
        connection.pending_legacy_warning = False
    return connection  # type: ignore[no-any-return]


def unix_reconnect(path: PathLike | None = None, uri: str | None = None, **kwargs: Any) -> reconnect:
    """Connect to a WebSocket server listening on a Unix socket, again and again if iterated.

    Args:
        path: File system path to the Unix socket.
        uri: URI of the WebSocket server; ``ws://localhost/`` or, with an ``ssl`` argument, ``wss://localhost/``.
        **kwargs: As `reconnect` takes them.

    Raises:
        ValueError: If neither ``path`` nor ``sock`` is given, or both are.
    """
    sock = kwargs.get("sock")
    if path is None and sock is None:
        raise ValueError("missing path argument")
    if path is not None and sock is not None:
        raise ValueError("path is incompatible with sock")
    if uri is None:
        is_plain = kwargs.get("ssl") is None and kwargs.get("ssl_context") is None
        uri = "ws://localhost/" if is_plain else "wss://localhost/"
    return reconnect(uri=uri, unix=True, path=path, **kwargs)


@overload
def unix_connect(
    path: PathLike | None = ..., uri: str | None = ..., *, legacy: Literal[True] | None = ..., **kwargs: Any
) -> ClientConnection: ...


@overload
def unix_connect(
    path: PathLike | None = ..., uri: str | None = ..., *, legacy: Literal[False], **kwargs: Any
) -> reconnect: ...


def unix_connect(
    path: PathLike | None = None, uri: str | None = None, *, legacy: bool | None = None, **kwargs: Any
) -> ClientConnection | reconnect:
    """Connect to a WebSocket server listening on a Unix socket.

    Args:
        path: File system path to the Unix socket.
        uri: URI of the WebSocket server; ``ws://localhost/`` or, with an ``ssl`` argument, ``wss://localhost/``.
        legacy: As in ``websockets``.
        **kwargs: As `connect` takes them.
    """
    return _connected(unix_reconnect(path, uri, **kwargs), legacy)


connect.__signature__ = merged_signature(connect, upstream_connect)  # type: ignore[attr-defined]
reconnect.__signature__ = merged_signature(reconnect, upstream_reconnect)  # type: ignore[attr-defined]
ClientConnection.__signature__ = merged_signature(  # type: ignore[attr-defined]
    ClientConnection.__init__, UpstreamClientConnection
)


def __getattr__(name: str) -> Any:
    """``websockets.sync.client`` has names that programs use: ``MAX_REDIRECTS``, ..."""
    return getattr(upstream_module, name)
