"""Connections for threads, without asyncio: the names of ``websockets.sync.client``, on a receive thread."""

from .client import ClientConnection, connect, reconnect, unix_connect, unix_reconnect

__all__ = ["ClientConnection", "connect", "reconnect", "unix_connect", "unix_reconnect"]
