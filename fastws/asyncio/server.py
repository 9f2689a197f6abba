"""Counterpart of ``websockets.asyncio.server``."""

from ..server import Server, ServerConnection, basic_auth, broadcast, serve, unix_serve

__all__ = ["Server", "ServerConnection", "basic_auth", "broadcast", "serve", "unix_serve"]
