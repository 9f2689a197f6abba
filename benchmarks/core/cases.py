"""What the benchmarks of the core have in common: the bytes, and how each implementation takes them."""

from __future__ import annotations

import dataclasses
import functools
import importlib
import types
from collections.abc import Callable
from typing import Any

from benchmarks import messages
from benchmarks.loops.frames import Digest, Stream
from fastws.deflate import Deflate
from fastws.wire import Opcode

__all__ = ["CASES", "DECODERS", "Case", "Decode", "Timed", "core", "read_all"]

CHUNK_BYTES = 256 * 1024
"""What one read brings at most."""

_MODULES = {
    "compiled": ("fastws._decoder", "fastws._encoder", "fastws._iterator"),
    "reference": ("fastws.reference", "fastws.reference", "fastws.reference"),
}


def core(name: str) -> types.SimpleNamespace:
    """`FrameDecoder`, `FrameEncoder`, `apply_mask` and `Turn` of the "compiled" or the "reference" implementation."""
    decoding, encoding, iterating = map(importlib.import_module, _MODULES[name])
    return types.SimpleNamespace(
        FrameDecoder=decoding.FrameDecoder,
        FrameEncoder=encoding.FrameEncoder,
        apply_mask=encoding.apply_mask,
        Turn=iterating.Turn,
    )


@dataclasses.dataclass(frozen=True)
class Case:
    """A stream of frames from a server.

    Attributes:
        name: What tables call it.
        make: Makes its messages.
        deflate: "" for none, "fresh" for permessage-deflate without context takeover, "takeover" with it.
    """

    name: str
    make: Callable[[], list[str]]
    deflate: str = ""

    @functools.cached_property
    def messages(self) -> list[str]:
        return self.make()

    @functools.cached_property
    def stream(self) -> Stream:
        return Stream.of(self.messages, self.deflate)

    @functools.cached_property
    def chunks(self) -> list[bytes]:
        wire = self.stream.wire
        return [wire[start : start + CHUNK_BYTES] for start in range(0, len(wire), CHUNK_BYTES)]

    @property
    def nbytes(self) -> int:
        """Payload bytes of all messages, uncompressed."""
        return self.stream.digest["bytes"]

    @property
    def negotiated(self) -> Deflate | None:
        return Deflate(remote_no_context_takeover=self.deflate == "fresh") if self.deflate else None


CASES = {
    case.name: case
    for case in (
        Case("150 B", functools.partial(messages.trades, 10_000)),
        Case("16 KiB", functools.partial(messages.books, 100)),
        Case("1 MiB", functools.partial(messages.books, 4, 2**20)),
        Case("150 B, deflate", functools.partial(messages.trades, 2_000), "fresh"),
        Case("150 B, deflate with takeover", functools.partial(messages.trades, 2_000), "takeover"),
        Case("16 KiB, deflate", functools.partial(messages.books, 50), "fresh"),
    )
}

Decode = Callable[[Case], int]
"""Decodes the stream of a case with a new decoder; returns the number of messages."""

Timed = Callable[..., Any]
"""The fixture ``timed``: group, bytes, function, arguments."""


def _decode_batches(frame_decoder: Any, case: Case) -> int:
    decoder = frame_decoder("client", max_size=None, max_queue_bytes=None, deflate=case.negotiated)
    count = 0
    for chunk in case.chunks:
        decoder.feed(chunk)
        count += len(decoder.take())
    return count


def _websockets_protocol(case: Case) -> Any:
    from websockets.extensions.permessage_deflate import PerMessageDeflate
    from websockets.protocol import CLIENT, OPEN, Protocol

    protocol = Protocol(CLIENT, state=OPEN, max_size=None)
    if case.negotiated is not None:
        remote = case.negotiated.remote_no_context_takeover
        protocol.extensions = [PerMessageDeflate(remote, False, 15, 15)]
    return protocol


def _decode_frames(case: Case) -> int:
    protocol = _websockets_protocol(case)
    count = 0
    for chunk in case.chunks:
        protocol.receive_data(chunk)
        count += len(protocol.events_received())
    return count


DECODERS: dict[str, Decode] = {
    "compiled": lambda case: _decode_batches(core("compiled").FrameDecoder, case),
    "reference": lambda case: _decode_batches(core("reference").FrameDecoder, case),
    "websockets": _decode_frames,
}


def read_all(name: str, case: Case) -> dict[str, int]:
    """Decode for the digest, not for the clock."""
    digest = Digest()
    if name == "websockets":
        protocol = _websockets_protocol(case)
        for chunk in case.chunks:
            protocol.receive_data(chunk)
            for frame in protocol.events_received():
                assert frame.opcode == Opcode.TEXT
                digest.add(bytes(frame.data))
    else:
        decoder = core(name).FrameDecoder("client", max_size=None, max_queue_bytes=None, deflate=case.negotiated)
        for chunk in case.chunks:
            decoder.feed(chunk)
            for message in decoder.take():
                digest.add(message)
    return digest.result()
