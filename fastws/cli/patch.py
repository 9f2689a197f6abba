"""Puts fastws in the place of websockets' clients and its asyncio server, for programs that don't know of it."""

from __future__ import annotations

import importlib

from ..core import IMPLEMENTATION

__all__ = ["replace_websockets"]

_MODULES = ("client", "connection", "router", "server")
"""Of ``websockets.asyncio``, with their counterparts in ``fastws.asyncio``."""


def replace_websockets() -> None:
    """Replace the names of ``websockets.asyncio`` and ``websockets.sync.client`` that fastws has, in their modules.

    Without the compiled core, ``websockets.sync`` stays as it is: it would be no faster, and there
    are no receive threads.

    ``websockets`` itself looks them up there each time (they are lazy), so ``websockets.connect`` and
    ``from websockets import connect`` follow. Names that a module imported before keep what they had: call this
    before the program is imported. That is also why fastws, which has imported what it builds on, isn't affected.
    """
    # All of ours first: importing one after the first replacement, it would build on itself.
    counterparts = [importlib.import_module(f"fastws.asyncio.{name}") for name in _MODULES]
    sync = importlib.import_module("fastws.sync.client") if IMPLEMENTATION == "compiled" else None
    for name, ours in zip(_MODULES, counterparts, strict=True):
        upstream = importlib.import_module(f"websockets.asyncio.{name}")
        for attribute in ours.__all__:
            setattr(upstream, attribute, getattr(ours, attribute))
    for attribute in () if sync is None else sync.__all__:
        setattr(importlib.import_module("websockets.sync.client"), attribute, getattr(sync, attribute))
