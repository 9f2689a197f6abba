"""Bytes as a peer would send them, and every way in which a network may deliver them."""

from __future__ import annotations

import dataclasses
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

from fastws.wire import Opcode, Status

CONT, TEXT, BINARY, CLOSE, PING, PONG = Opcode.CONT, Opcode.TEXT, Opcode.BINARY, Opcode.CLOSE, Opcode.PING, Opcode.PONG

KEY = b"\x37\xfa\x21\x3d"
"""The masking key of the examples in RFC 6455 5.7."""

TAIL = b"\x00\x00\xff\xff"

UNLIMITED = {"max_size": None, "max_queue": None, "max_queue_bytes": None}


def xor(data: bytes, key: bytes) -> bytes:
    """Mask byte by byte: the definition in RFC 6455 5.3."""
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(data))


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = None,
    length_bytes: int | None = None,
) -> bytes:
    """A frame, right or wrong.

    Args:
        opcode: 0 to 15.
        payload: Masked here if there is a key.
        fin: Whether the fin bit is set.
        rsv: The three reserved bits as a number, 4 for rsv1.
        key: Masking key; None leaves the mask bit unset.
        length_bytes: 0, 2 or 8 for the extended length; None takes the shortest that fits.
    """
    length = len(payload)
    if length_bytes is None:
        length_bytes = 0 if length < 126 else 2 if length < 2**16 else 8
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    mask = 0 if key is None else 0x80
    if length_bytes == 0:
        header = struct.pack("!BB", first, mask | length)
    elif length_bytes == 2:
        header = struct.pack("!BBH", first, mask | 126, length)
    else:
        header = struct.pack("!BBQ", first, mask | 127, length)
    if key is None:
        return header + payload
    return header + key + xor(payload, key)


def key_for(role: str) -> bytes | None:
    """The key that a peer of ``role`` masks with."""
    return KEY if role == "server" else None


def deflate(data: bytes, **settings: int) -> bytes:
    """One message compressed by itself, RFC 7692 7.2.1."""
    stream = zlib.compressobj(wbits=-15, **settings)
    return (stream.compress(data) + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


# Ways in which bytes arrive.


def by_feed(decoder: Any, chunk: bytes) -> Status:
    """Through ``feed()``."""
    return Status(decoder.feed(chunk))


def by_buffer(decoder: Any, chunk: bytes) -> Status:
    """Through ``get_buffer()`` and ``buffer_updated()``, as often as it takes."""
    status = Status(0)
    while True:
        with decoder.get_buffer() as buffer:
            size = min(len(buffer), len(chunk))
            buffer[:size] = chunk[:size]
        status |= decoder.buffer_updated(size)
        chunk = chunk[size:]
        if not chunk:
            return status


WAYS: tuple[Callable[[Any, bytes], Status], ...] = (by_feed, by_buffer)


def cuts(data: bytes) -> Iterator[list[bytes]]:
    """Whole, byte by byte, and cut in two at every place; of long data, at the places near its ends."""
    yield [data]
    if len(data) <= 300:
        yield [data[i : i + 1] for i in range(len(data))]
        places = list(range(1, len(data)))
    else:
        edge = [data[i : i + 1] for i in range(40)]
        yield [*edge, data[40:-20], *(data[i : i + 1] for i in range(len(data) - 20, len(data)))]
        places = [*range(1, 20), len(data) // 3, len(data) // 2, *range(len(data) - 10, len(data))]
    for place in places:
        yield [data[:place], data[place:]]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of a stream.

    Attributes:
        messages: str or bytes.
        controls: (opcode, payload).
        violation: (`Violation`, value, limit) or None.
    """

    messages: tuple[str | bytes, ...] = ()
    controls: tuple[tuple[int, bytes], ...] = ()
    violation: tuple[int, int, int] | None = None


def pop_all(decoder: Any) -> tuple[str | bytes, ...]:
    """All complete messages."""
    messages = []
    while (message := decoder.pop()) is not None:
        messages.append(message)
    return tuple(messages)


def outcome_of(decoder: Any) -> Outcome:
    """Empty a decoder."""
    return Outcome(pop_all(decoder), tuple(decoder.controls()), decoder.violation)


def check(impl: Any, data: bytes, expected: Outcome, *, role: str = "client", **options: Any) -> None:
    """Whichever way and in whichever pieces ``data`` arrives, ``expected`` must come of it, and nothing be blocked."""
    for way in WAYS:
        for chunks in cuts(data):
            decoder = impl.FrameDecoder(role, **options)
            status = Status(0)
            for chunk in chunks:
                status |= way(decoder, chunk)
            context = f"{way.__name__} of {[len(chunk) for chunk in chunks]}"
            assert outcome_of(decoder) == expected, context
            assert bool(status & Status.MESSAGE) >= bool(expected.messages), context
            assert bool(status & Status.CONTROL) == bool(expected.controls), context
            assert bool(status & Status.VIOLATION) == (expected.violation is not None), context
            assert not decoder.blocked, context
            assert decoder.bytes_received == len(data), context
