"""Counterpart of ``websockets.asyncio.router``."""

from ..router import Router, route, unix_route

__all__ = ["Router", "route", "unix_route"]
