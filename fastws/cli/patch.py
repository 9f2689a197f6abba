"""Puts fastws in the place of websockets' asyncio client and server, for programs that don't know of it."""

from __future__ import annotations

import importlib

__all__ = ["replace_websockets"]

_MODULES = ("client", "connection", "router", "server")
"""Of ``websockets.asyncio``, with their counterparts in ``fastws.asyncio``."""


def replace_websockets() -> None:
    """Replace the names of ``websockets.asyncio`` that fastws has, in their modules.

    ``websockets`` itself looks them up there each time (they are lazy), so ``websockets.connect`` and
    ``from websockets import connect`` follow. Names that a module imported before keep what they had: call this
    before the program is imported. That is also why fastws, which has imported what it builds on, isn't affected.
    """
    # All of ours first: importing one after the first replacement, it would build on itself.
    counterparts = [importlib.import_module(f"fastws.asyncio.{name}") for name in _MODULES]
    for name, ours in zip(_MODULES, counterparts, strict=True):
        upstream = importlib.import_module(f"websockets.asyncio.{name}")
        for attribute in ours.__all__:
            setattr(upstream, attribute, getattr(ours, attribute))
