"""Counterpart of ``websockets.asyncio.client``."""

from ..client import ClientConnection, connect, unix_connect

__all__ = ["ClientConnection", "connect", "unix_connect"]
