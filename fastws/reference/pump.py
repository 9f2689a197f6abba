"""Receive threads are in the compiled core only: what they are for, receiving without the GIL, Python can't do."""

from __future__ import annotations

from typing import Any, NoReturn

from .decoder import FrameDecoder

__all__ = ["Encryption", "Hub", "Pump", "PumpSocket", "PumpedDecoder", "libssl_missing"]


class _Compiled:
    def __init__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError("receive threads need the compiled core, and FASTWS_PURE is set")


class Pump(_Compiled):
    """A native thread that reads many connections without the GIL."""


class Hub(_Compiled):
    """What pumps tell one event loop."""


class PumpSocket(_Compiled):
    """A socket that a pump owns."""


class Encryption(_Compiled):
    """The TLS session of an `ssl.SSLSocket`, for use without Python."""


def libssl_missing() -> str:
    """Why Python's libssl can't be used without Python."""
    return "receive threads need the compiled core"


class PumpedDecoder(FrameDecoder):
    """A decoder that a pump feeds."""

    def __init__(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise RuntimeError("receive threads need the compiled core, and FASTWS_PURE is set")
