"""Servers that dispatch by URL: ``route`` and ``unix_route``, as in ``websockets.asyncio.router``; needs werkzeug."""

from __future__ import annotations

from typing import Any

from websockets.asyncio.router import Router
from websockets.asyncio.router import route as upstream_route
from websockets.asyncio.server import Server
from websockets.typing import PathLike

from .client import connection_factory
from .connection import MaxQueue
from .options import merged_signature
from .server import ServerConnection

__all__ = ["Router", "route", "unix_route"]


def route(
    url_map: Any,
    *args: Any,
    max_queue: MaxQueue = None,
    create_connection: Any = None,
    **kwargs: Any,
) -> Server:
    """Create a WebSocket server that dispatches connections to handlers by URL, as ``websockets`` does.

    Args:
        url_map: A werkzeug ``Map`` of URL patterns to handlers.
        *args: As ``websockets.route`` takes them.
        max_queue: As `fastws.serve` takes it.
        create_connection: As `fastws.serve` takes it.
        **kwargs: `Options`, and what ``websockets.route`` takes.

    Raises:
        ImportError: If werkzeug isn't installed.
    """
    factory = connection_factory(create_connection, ServerConnection, kwargs)
    return upstream_route(url_map, *args, max_queue=max_queue, create_connection=factory, **kwargs)


def unix_route(url_map: Any, path: PathLike | None = None, **kwargs: Any) -> Server:
    """Create a WebSocket server on a Unix socket that dispatches connections to handlers by URL.

    Args:
        url_map: A werkzeug ``Map`` of URL patterns to handlers.
        path: File system path to the Unix socket.
        **kwargs: As `route` takes them.
    """
    return route(url_map, unix=True, path=path, **kwargs)


route.__signature__ = merged_signature(route, upstream_route)  # type: ignore[attr-defined]
