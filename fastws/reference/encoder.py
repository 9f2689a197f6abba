"""Messages in, bytes for the wire out: RFC 6455 sections 5.2 and 6.1, RFC 7692 section 7.2.1."""

from __future__ import annotations

import secrets
import zlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Literal

from ..deflate import Deflate
from ..wire import Opcode
from .header import MAX_CONTROL_LENGTH, OPCODES, apply_mask, format_header

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["FrameEncoder"]

_TAIL = b"\x00\x00\xff\xff"
"""How an empty uncompressed block ends; removed from the end of each message, RFC 7692 7.2.1."""


class FrameEncoder:
    """Messages in, bytes for the wire out. Knows no socket.

    Args:
        role: Our side. A client masks its frames, with keys from the operating system's CSPRNG (RFC 6455 5.3, 10.3).
        deflate: permessage-deflate as negotiated; None if it wasn't.

    Raises:
        ValueError: If role is neither.
    """

    def __init__(self, role: Literal["client", "server"], *, deflate: Deflate | None = None) -> None:
        if role not in ("client", "server"):
            raise ValueError(f"role is {role!r}, must be 'client' or 'server'")
        self._masks = role == "client"
        self._deflater = None if deflate is None else _Deflater(deflate)

    def encode(self, opcode: int, data: str | Buffer, /, fin: bool = True) -> bytes:
        """One frame. Data frames are compressed if deflate was negotiated.

        Args:
            opcode: An `Opcode`; 0x0, 0x1, 0x2 carry data, 0x8, 0x9, 0xA control.
            data: Payload; str is encoded to UTF-8.
            fin: Whether it is the last fragment of its message.

        Raises:
            ValueError: If the opcode is unknown, or a control frame is fragmented or longer than 125 bytes
                (RFC 6455 5.5).
            TypeError: If data is neither str nor bytes-like.
            UnicodeEncodeError: If a str has lone surrogates.
        """
        if opcode not in OPCODES:
            raise ValueError(f"opcode is {opcode:#x}, which is reserved (RFC 6455 5.2)")
        payload = _payload(data)
        if opcode >= Opcode.CLOSE:
            if not fin:
                raise ValueError("control frames can't be fragmented (RFC 6455 5.5)")
            if len(payload) > MAX_CONTROL_LENGTH:
                raise ValueError(f"control frame has {len(payload)} bytes > max {MAX_CONTROL_LENGTH} (RFC 6455 5.5)")
        return self._frame(opcode, payload, fin)

    def encode_batch(self, messages: Iterable[str | Buffer], /, text: bool | None = None) -> bytes:
        """Many unfragmented messages, one behind the other.

        Args:
            messages: str becomes a text message, bytes-like a binary one.
            text: True makes all of them text, False all of them binary.

        Raises:
            TypeError: If a message is neither str nor bytes-like; nothing is encoded then.
            UnicodeEncodeError: If a str has lone surrogates; nothing is encoded then.
        """
        # All payloads before the first frame: an error must not leave the compressor ahead of the peer's.
        payloads = [(isinstance(message, str) if text is None else text, _payload(message)) for message in messages]
        return b"".join(
            self._frame(Opcode.TEXT if is_text else Opcode.BINARY, payload, True) for is_text, payload in payloads
        )

    def _frame(self, opcode: int, payload: bytes, fin: bool) -> bytes:
        rsv1 = False
        if self._deflater is not None and opcode < Opcode.CLOSE:
            rsv1 = opcode != Opcode.CONT
            payload = self._deflater.deflate(payload, start=rsv1, fin=fin)
        key = secrets.token_bytes(4) if self._masks else None
        header = format_header(opcode, fin, rsv1, len(payload), key)
        return header + (payload if key is None else apply_mask(payload, key))


class _Deflater:
    """Compresses the payloads of messages, RFC 7692 7.2.1."""

    def __init__(self, deflate: Deflate) -> None:
        self._deflate = deflate
        self._stream = self._new_stream()

    def deflate(self, payload: bytes, *, start: bool, fin: bool) -> bytes:
        """Compress one frame's payload; ``start`` and ``fin`` say whether it begins and ends its message."""
        if start and self._deflate.local_no_context_takeover:
            self._stream = self._new_stream()
        data = self._stream.compress(payload) + self._stream.flush(zlib.Z_SYNC_FLUSH)
        return data.removesuffix(_TAIL) if fin else data

    def _new_stream(self) -> zlib._Compress:
        return zlib.compressobj(
            level=self._deflate.level,
            wbits=-self._deflate.local_max_window_bits,  # Negative: no zlib header.
            memLevel=self._deflate.mem_level,
            strategy=self._deflate.strategy,
        )


def _payload(data: str | Buffer) -> bytes:
    return data.encode() if isinstance(data, str) else memoryview(data).tobytes()
