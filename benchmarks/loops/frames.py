"""Frames by hand (RFC 6455 5.2), for the end of the wire that isn't measured. Imports no WebSocket library."""

from __future__ import annotations

import dataclasses
import struct
import zlib

__all__ = ["CLOSE", "CLOSE_FRAME", "Digest", "Stream", "frame", "masked_size"]

TEXT, CLOSE = 0x1, 0x8


def frame(payload: bytes, *, opcode: int = TEXT, rsv1: bool = False, masked: bool = False) -> bytes:
    """One unfragmented frame; if it is masked, with the key 0, which leaves the payload as it is."""
    first = 0x80 | (0x40 if rsv1 else 0) | opcode
    mask = 0x80 if masked else 0
    length = len(payload)
    if length < 126:
        header = struct.pack("!BB", first, mask | length)
    elif length < 2**16:
        header = struct.pack("!BBH", first, mask | 126, length)
    else:
        header = struct.pack("!BBQ", first, mask | 127, length)
    return header + (b"\0\0\0\0" if masked else b"") + payload


CLOSE_FRAME = frame(struct.pack("!H", 1000), opcode=CLOSE)


def masked_size(length: int) -> int:
    """Bytes on the wire of a masked frame with a payload of ``length`` bytes."""
    return length + 6 + (0 if length < 126 else 2 if length < 2**16 else 8)


class Digest:
    """Count, bytes and CRC-32 of a sequence of messages, their order and boundaries included."""

    def __init__(self) -> None:
        self.count = self.nbytes = self.crc = 0

    def add(self, message: str | bytes | memoryview) -> None:
        data = message.encode() if isinstance(message, str) else message
        self.count += 1
        self.nbytes += len(data)
        # The messages are JSON on one line, so a newline can only be a boundary.
        self.crc = zlib.crc32(b"\n", zlib.crc32(data, self.crc))

    def result(self) -> dict[str, int]:
        return {"count": self.count, "bytes": self.nbytes, "crc": self.crc}


@dataclasses.dataclass(frozen=True)
class Stream:
    """Messages as frames, one behind the other.

    Attributes:
        wire: The frames.
        digest: `Digest.result` of the messages.
    """

    wire: bytes
    digest: dict[str, int]

    @classmethod
    def of(cls, messages: list[str], deflate: str, *, masked: bool = False) -> Stream:
        """Encode all messages, compressed as RFC 7692 7.2.1 has it if ``deflate`` is "fresh" or "takeover"."""
        digest, wire = Digest(), []
        compressor = zlib.compressobj(wbits=-15)
        for message in messages:
            payload = message.encode()
            digest.add(payload)
            if deflate:
                if deflate == "fresh":
                    compressor = zlib.compressobj(wbits=-15)
                payload = (compressor.compress(payload) + compressor.flush(zlib.Z_SYNC_FLUSH))[:-4]
            wire.append(frame(payload, rsv1=bool(deflate), masked=masked))
        return cls(b"".join(wire), digest.result())
