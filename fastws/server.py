"""Servers: ``serve``, ``unix_serve`` and ``broadcast``, drop-in replacements for ``websockets.asyncio.server``."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import websockets.server as upstream_module
from websockets.asyncio.connection import Connection as UpstreamConnection
from websockets.asyncio.server import Server, basic_auth
from websockets.asyncio.server import ServerConnection as UpstreamServerConnection
from websockets.asyncio.server import serve as upstream_serve
from websockets.exceptions import ConcurrencyError
from websockets.http11 import SERVER as SERVER_HEADER
from websockets.protocol import OPEN, SERVER
from websockets.typing import BytesLike, DataLike, PathLike

from .client import connection_factory, is_pumped, secured
from .connection import Connection, MaxQueue
from .options import merged_signature
from .security import Security
from .wire import Opcode

__all__ = ["Server", "ServerConnection", "basic_auth", "broadcast", "serve", "unix_serve"]

_DEFAULTS = inspect.signature(upstream_serve).parameters


class ServerConnection(Connection, UpstreamServerConnection):
    """A server connection of ``websockets`` with the data plane of fastws."""

    async def handshake(
        self,
        process_request: Any = None,
        process_response: Any = None,
        server_header: str | None = SERVER_HEADER,
    ) -> None:
        await super().handshake(process_request, process_response, server_header)
        self._opened()


def serve(
    handler: Callable[[Any], Awaitable[None]],
    host: str | None = None,
    port: int | None = None,
    *,
    max_queue: MaxQueue = None,
    create_connection: Any = None,
    **kwargs: Any,
) -> Server:
    """Create a WebSocket server listening on ``host`` and ``port``.

    Takes all arguments of ``websockets.serve`` and returns its `Server`. What differs:

    Args:
        handler: Coroutine that receives each `ServerConnection`.
        host: As `asyncio.loop.create_server` takes it.
        port: As `asyncio.loop.create_server` takes it.
        max_queue: Messages that may wait for the handler before the queue is full, or a (high, low) pair of marks.
            None, the default here, is no limit.
        create_connection: Factory for connections; a subclass of `ServerConnection`, or any other that
            ``websockets.serve`` takes.
        **kwargs: `Options`, such as ``max_queue_bytes`` and ``overflow``, for each connection, and what
            ``websockets.serve`` takes.
    """
    factory = connection_factory(create_connection, ServerConnection, kwargs)
    if kwargs.get("ssl") is not None and is_pumped(factory):
        arguments = {
            "ssl_handshake_timeout": kwargs.get("open_timeout", _DEFAULTS["open_timeout"].default),
            "ssl_shutdown_timeout": kwargs.get("close_timeout", _DEFAULTS["close_timeout"].default),
            **kwargs,
        }
        security = Security.taken_from(arguments, server_side=True)
        if security is not None:
            factory, kwargs = secured(factory, security), arguments
    return upstream_serve(handler, host, port, max_queue=max_queue, create_connection=factory, **kwargs)


def unix_serve(handler: Callable[[Any], Awaitable[None]], path: PathLike | None = None, **kwargs: Any) -> Server:
    """Create a WebSocket server listening on a Unix socket.

    Args:
        handler: Coroutine that receives each `ServerConnection`.
        path: File system path to the Unix socket.
        **kwargs: As `serve` takes them.
    """
    return serve(handler, unix=True, path=path, **kwargs)


def broadcast(
    connections: Iterable[UpstreamConnection],
    message: DataLike,
    *,
    text: bool | None = None,
    raise_exceptions: bool = False,
) -> None:
    """Send a message to several connections at once, without waiting for slow ones, as ``websockets`` does.

    Uncompressed connections share one frame, which is built once.

    Args:
        connections: Connections of fastws or ``websockets``, in any mixture; those that aren't open are skipped.
        message: A str is sent as text, a bytes-like object as binary.
        text: True sends bytes as text, False sends str as binary.
        raise_exceptions: Raise failures to write, together in an `ExceptionGroup`, instead of logging them.

    Raises:
        TypeError: If ``message`` doesn't have a supported type.
    """
    if not isinstance(message, str | BytesLike):
        raise TypeError("data must be str or bytes")
    is_text = isinstance(message, str) if text is None else text
    payload = message.encode() if isinstance(message, str) else message
    opcode = Opcode.TEXT if is_text else Opcode.BINARY
    shared: bytes | None = None
    exceptions: list[Exception] = []
    for connection in connections:
        if connection.protocol.state is not OPEN:
            continue
        if connection.send_in_progress is not None:
            if raise_exceptions:
                exceptions.append(ConcurrencyError("sending a fragmented message"))
            else:
                connection.logger.warning("skipped broadcast: sending a fragmented message")
            continue
        try:
            if (
                isinstance(connection, Connection)
                and connection._encoder is not None
                and connection._deflate is None
                and connection.protocol.side is SERVER
                and not connection.debug
            ):
                # A server doesn't mask (RFC 6455 5.1): the same bytes serve all.
                if shared is None:
                    shared = connection._encoder.encode(opcode, payload)
                connection.transport.write(shared)
                connection._messages_out += 1
                connection._bytes_out += len(shared)
            else:
                protocol = connection.protocol
                (protocol.send_text if is_text else protocol.send_binary)(payload)
                connection.send_data()
        except Exception as exc:
            if raise_exceptions:
                failed = RuntimeError("failed to write message")
                failed.__cause__ = exc
                exceptions.append(failed)
            else:
                connection.logger.warning(
                    "skipped broadcast: failed to write message: %s",
                    traceback.format_exception_only(exc)[0].strip(),
                )
    if exceptions:
        raise ExceptionGroup("skipped broadcast", exceptions)


serve.__signature__ = merged_signature(serve, upstream_serve)  # type: ignore[attr-defined]
ServerConnection.__signature__ = merged_signature(Connection, UpstreamServerConnection)  # type: ignore[attr-defined]


def __getattr__(name: str) -> Any:
    """``websockets.server``, the module of the same name, has names that programs use: ``ServerProtocol``, ..."""
    return getattr(upstream_module, name)
