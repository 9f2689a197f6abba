"""``send()``: checks, frame and write."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterable, Iterable
from typing import TYPE_CHECKING, Any

from ..wire import Opcode
from .encoder import FrameEncoder

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Sender", "send"]


class Sender:
    """Writes the messages of one open connection.

    As long as nothing waits in the transport, a frame goes to the socket directly. Whatever the socket doesn't take
    at once, with or without an error, is the transport's, which then meets the same error and tells of it as ever.

    Args:
        encoder: Makes the frames.
        protocol: Its ``state`` must be ``open_state``, or `send` leaves the message to the connection.
        open_state: The state, compared by identity.
        transport: Where frames go.
        descriptor: File descriptor of the transport's own socket, if bytes that are written to it at a time when
            the transport is not closing and its buffer is empty are what ``write()`` would send; else -1.

    Attributes:
        messages: How many were sent.
        nbytes: Bytes of their frames.
    """

    def __init__(
        self, encoder: FrameEncoder, protocol: Any, open_state: Any, transport: Any, descriptor: int = -1
    ) -> None:
        self.messages = 0
        self.nbytes = 0
        self._encoder = encoder
        self._protocol = protocol
        self._open_state = open_state
        self._transport = transport
        self._descriptor = descriptor

    def _is_open(self) -> bool:
        return self._protocol.state is self._open_state

    def _frame(self, message: str | Buffer, is_text: bool) -> bytes:
        return self._encoder.encode(Opcode.TEXT if is_text else Opcode.BINARY, message)

    def _write(self, frame: bytes) -> bool:
        """Send a message's frame; whether the transport has got something to write later."""
        sent = 0
        if self._descriptor >= 0 and not self._transport.is_closing() and not self._transport.get_write_buffer_size():
            with contextlib.suppress(OSError):
                sent = os.write(self._descriptor, frame)
        if sent < len(frame):
            self._transport.write(memoryview(frame)[sent:] if sent else frame)
        self.messages += 1
        self.nbytes += len(frame)
        return sent < len(frame)


async def send(
    self: Any,
    message: str | Buffer | Iterable[str | Buffer] | AsyncIterable[str | Buffer],
    *,
    text: bool | None = None,
) -> None:
    """Send a message, as ``websockets`` does.

    Cost: one frame and one write; no suspension unless the transport's buffer is full.

    Args:
        message: A str is sent as text, a bytes-like object as binary; an iterable or asynchronous iterable
            of either as a fragmented message.
        text: True sends bytes as text, False sends str as binary.

    Raises:
        ConnectionClosed: When the connection is closed.
        TypeError: If ``message`` doesn't have a supported type.
    """
    sender: Sender | None = self._sender
    if (
        sender is None
        or not sender._is_open()
        or self.send_in_progress is not None
        or not isinstance(message, str | bytes | bytearray | memoryview)
    ):
        await self._send(message, text)
        return
    frame = sender._frame(message, isinstance(message, str) if text is None else text)
    try:
        later = sender._write(frame)
    except Exception as exc:
        await self._write_failed(exc)
        return
    if later and (self.paused or self.transport.is_closing()):
        await self._drain_sent()


send.__qualname__ = "Connection.send"
