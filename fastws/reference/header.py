"""Frame headers and masking, RFC 6455 sections 5.2 and 5.3.

A header says what a frame is before its payload is there, so all that can be wrong with it is found at the first
byte that shows it::

     0               1               2               3
     7 6 5 4 3 2 1 0 7 6 5 4 3 2 1 0 7             0 7             0
    +-+-+-+-+-------+-+-------------+-------------------------------+
    |F|R|R|R| opcode|M| Payload len |    Extended payload length    |
    |I|S|S|S|  (4)  |A|     (7)     |            (16/64)            |
    |N|V|V|V|       |S|             |   (if payload len is 126/127) |
    | |1|2|3|       |K|             |                               |
    +-+-+-+-+-------+-+-------------+ - - - - - - - - - - - - - - - +
    |               Masking-key (32), if MASK is set                |
    +---------------------------------------------------------------+
"""

from __future__ import annotations

import dataclasses
import struct
from typing import TYPE_CHECKING, Self

from ..wire import Opcode, Violation

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "MAX_CONTROL_LENGTH",
    "MAX_LENGTH",
    "OPCODES",
    "BrokenRuleError",
    "Header",
    "apply_mask",
    "format_header",
]

MAX_CONTROL_LENGTH = 125
"""Longest payload of a control frame in bytes, RFC 6455 5.5."""

MAX_LENGTH = 2**63 - 1
"""Longest payload that a header can announce: "the most significant bit MUST be 0", RFC 6455 5.2."""

OPCODES = frozenset(Opcode)
"""The opcodes that exist; the others are reserved, RFC 6455 5.2."""

_KEY_BYTES = 4
_EXTENDED_LENGTH_BYTES = {126: 2, 127: 8}


class BrokenRuleError(Exception):
    """The peer broke a rule of the protocol.

    Attributes:
        violation: (`Violation`, value, limit), as `fastws.wire.describe` takes them.
    """

    def __init__(self, violation: Violation, value: int, limit: int) -> None:
        super().__init__(violation, value, limit)
        self.violation = (violation, value, limit)


@dataclasses.dataclass(frozen=True, slots=True)
class Header:
    """What the first two bytes of a frame say, and what they say about the bytes that follow.

    Attributes:
        fin: Whether this is the final fragment of its message.
        rsv: The three reserved bits as a number: 4 for rsv1, 2 for rsv2, 1 for rsv3.
        opcode: What the payload means, see `fastws.wire.Opcode`; may be one that doesn't exist.
        masked: Whether a masking key follows.
        length_code: The payload length up to 125; 126 and 127 announce an extended one of 16 or 64 bits.
    """

    fin: bool
    rsv: int
    opcode: int
    masked: bool
    length_code: int

    @classmethod
    def parse(cls, data: Buffer, offset: int = 0) -> Self | None:
        """Read the two bytes at ``offset``; None if they aren't both there. Checks nothing."""
        view = memoryview(data)[offset : offset + 2]
        if len(view) < 2:
            return None
        first, second = view
        return cls(
            fin=bool(first & 0b1000_0000),
            rsv=(first & 0b0111_0000) >> 4,
            opcode=first & 0b0000_1111,
            masked=bool(second & 0b1000_0000),
            length_code=second & 0b0111_1111,
        )

    @property
    def rsv1(self) -> bool:
        """Whether the first reserved bit is set: "Per-Message Compressed", RFC 7692 6."""
        return bool(self.rsv & 0b100)

    @property
    def is_control(self) -> bool:
        """Whether the most significant bit of the opcode says control frame, RFC 6455 5.5."""
        return self.opcode >= Opcode.CLOSE

    @property
    def size(self) -> int:
        """Bytes of the whole header: the two that are read, the extended length and the masking key."""
        return self._length_end + (_KEY_BYTES if self.masked else 0)

    @property
    def _length_end(self) -> int:
        return 2 + _EXTENDED_LENGTH_BYTES.get(self.length_code, 0)

    def check(self, *, masked: bool, deflate: bool) -> None:
        """Check everything that the two bytes show without knowing which frames came before.

        Args:
            masked: Whether the peer must mask: true if it is the client (RFC 6455 5.1).
            deflate: Whether permessage-deflate was negotiated, which gives rsv1 a meaning.

        Raises:
            BrokenRuleError: With the first rule that is broken.
        """
        if self.opcode not in OPCODES:
            raise BrokenRuleError(Violation.INVALID_OPCODE, self.opcode, 0)
        self._check_reserved_bits(deflate)
        if self.is_control:
            if not self.fin:
                raise BrokenRuleError(Violation.CONTROL_FRAGMENTED, self.opcode, 0)
            if self.length_code > MAX_CONTROL_LENGTH:
                raise BrokenRuleError(Violation.CONTROL_TOO_LONG, self.length_code, MAX_CONTROL_LENGTH)
        if self.masked != masked:
            raise BrokenRuleError(Violation.INCORRECT_MASKING, int(self.masked), int(masked))

    def _check_reserved_bits(self, deflate: bool) -> None:
        # RFC 7692 6.1: the bit is set on the first frame of a compressed message and on no other.
        if deflate and self.rsv1 and self.opcode == Opcode.CONT:
            raise BrokenRuleError(Violation.RSV1_CONTINUATION, 0, 0)
        compressed = deflate and self.opcode in (Opcode.TEXT, Opcode.BINARY)
        if self.rsv & ~(0b100 if compressed else 0):
            raise BrokenRuleError(Violation.RESERVED_BITS, self.rsv, 0)

    def payload_length(self, data: Buffer, offset: int = 0) -> int | None:
        """Read the payload length of the header at ``offset``; None if its bytes aren't all there.

        An encoding longer than necessary is accepted, as in ``websockets``.
        """
        if self.length_code not in _EXTENDED_LENGTH_BYTES:
            return self.length_code
        view = memoryview(data)[offset + 2 : offset + self._length_end]
        if len(view) < _EXTENDED_LENGTH_BYTES[self.length_code]:
            return None
        return int.from_bytes(view, "big")

    def masking_key(self, data: Buffer, offset: int = 0) -> bytes | None:
        """Read the masking key of the complete header at ``offset``; None if the frame has none."""
        if not self.masked:
            return None
        return bytes(memoryview(data)[offset + self._length_end : offset + self.size])


def format_header(opcode: int, fin: bool, rsv1: bool, length: int, key: bytes | None) -> bytes:
    """Write a header; the length takes "the minimal number of bytes", RFC 6455 5.2."""
    first = (0b1000_0000 if fin else 0) | (0b0100_0000 if rsv1 else 0) | opcode
    mask = 0b1000_0000 if key is not None else 0
    if length <= 125:
        header = struct.pack("!BB", first, mask | length)
    elif length < 2**16:
        header = struct.pack("!BBH", first, mask | 126, length)
    else:
        header = struct.pack("!BBQ", first, mask | 127, length)
    return header if key is None else header + key


def apply_mask(data: Buffer, key: Buffer, position: int = 0, /) -> bytes:
    """XOR ``data`` with the 4-byte ``key``, beginning at byte ``position % 4`` of the key (RFC 6455 5.3).

    Raises:
        ValueError: If the key isn't 4 bytes long.
    """
    payload = memoryview(data).tobytes()
    key = memoryview(key).tobytes()
    if len(key) != _KEY_BYTES:
        raise ValueError(f"masking key is {len(key)} bytes, must be {_KEY_BYTES} (RFC 6455 5.3)")
    start = position % _KEY_BYTES
    stream = (key * (len(payload) // _KEY_BYTES + 2))[start : start + len(payload)]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(stream, "big")).to_bytes(len(payload), "big")
