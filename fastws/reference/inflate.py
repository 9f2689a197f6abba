"""Decompression, RFC 7692 section 7.2.2, with the output bounded while it inflates."""

from __future__ import annotations

import zlib

from ..deflate import Deflate

__all__ = ["InflatedTooBigError", "Inflater"]

_TAIL = b"\x00\x00\xff\xff"
"""What the sender removed from the end of the message, RFC 7692 7.2.1."""

_PIECE_BYTES = 4096
"""At the end of a stream zlib hands back a copy of what it didn't read. Pieces bound that copy, so that a message made
of a great many tiny streams takes time in proportion to its length, not to its square."""


class InflatedTooBigError(Exception):
    """The payload inflates to more than the limit."""


class Inflater:
    """Inflates the payloads of compressed messages, fragment by fragment.

    Args:
        deflate: What was negotiated.
    """

    def __init__(self, deflate: Deflate) -> None:
        self._deflate = deflate
        self._stream = self._new_stream()

    def start_message(self) -> None:
        """Start a compressed message: with an empty window if the peer agreed to that (RFC 7692 7.1.1.1)."""
        if self._deflate.remote_no_context_takeover:
            self._stream = self._new_stream()

    def inflate(self, payload: bytes, fin: bool, limit: int | None) -> bytes:
        """Inflate the payload of one frame.

        Args:
            payload: As received, unmasked.
            fin: Whether the message ends with it.
            limit: Most bytes that may come out; at most one more is ever produced. None is no limit.

        Raises:
            InflatedTooBigError: If more than ``limit`` bytes come out.
            zlib.error: If the payload isn't DEFLATE.
        """
        output = bytearray()
        for start in range(0, len(payload), _PIECE_BYTES):
            self._inflate(payload[start : start + _PIECE_BYTES], output, limit)
        # A message may end with a final block (RFC 7692 7.2.3.5): no block is open then that the tail would complete.
        # If it ends within the tail, as after a sender that cut off too much, the rest of the tail means nothing.
        if fin and not self._stream.eof:
            self._decompress(_TAIL, output, limit)
        return bytes(output)

    def _inflate(self, data: bytes, output: bytearray, limit: int | None) -> None:
        while data:
            # After a final block the sender begins a new stream, RFC 7692 7.2.3.5.
            if self._stream.eof:
                self._stream = self._new_stream()
            self._decompress(data, output, limit)
            data = self._stream.unused_data

    def _decompress(self, data: bytes, output: bytearray, limit: int | None) -> None:
        if limit is None:
            output += self._stream.decompress(data)
        else:
            output += self._stream.decompress(data, limit + 1 - len(output))
            if len(output) > limit:
                raise InflatedTooBigError

    def _new_stream(self) -> zlib._Decompress:
        return zlib.decompressobj(wbits=-self._deflate.remote_max_window_bits)  # Negative: no zlib header.
