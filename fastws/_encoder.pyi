from collections.abc import Iterable
from typing import Literal, final

from typing_extensions import Buffer

from .deflate import Deflate

@final
class FrameEncoder:
    """Messages in, bytes for the wire out (RFC 6455 section 5.2 and 6.1, RFC 7692). Knows no socket.

    Args:
        role: Our side. A client masks its frames, with keys from the operating system's CSPRNG (RFC 6455 5.3, 10.3).
        deflate: permessage-deflate as negotiated; None if it wasn't.

    Raises:
        ValueError: If role is neither.
    """

    def __init__(self, role: Literal["client", "server"], *, deflate: Deflate | None = None) -> None: ...
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
    def encode_batch(self, messages: Iterable[str | Buffer], /, text: bool | None = None) -> bytes:
        """Many unfragmented messages, one behind the other.

        Args:
            messages: str becomes a text message, bytes-like a binary one.
            text: True makes all of them text, False all of them binary.

        Raises:
            TypeError: If a message is neither str nor bytes-like; nothing is encoded then.
        """

def apply_mask(data: Buffer, key: Buffer, position: int = 0, /) -> bytes:
    """XOR ``data`` with the 4-byte ``key``, beginning at byte ``position % 4`` of the key (RFC 6455 5.3)."""
