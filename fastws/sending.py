"""Messages out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterable
from typing import Any

from websockets.frames import CLOSE, CONT, CTRL_OPCODES, Frame
from websockets.protocol import OPEN
from websockets.typing import BytesLike, DataLike

from .core import FrameEncoder, Sender, send
from .pumping import PumpTransport
from .vitals import Vitals

__all__ = ["Sending"]

_PLAIN_TRANSPORTS = (
    "asyncio.selector_events._SelectorSocketTransport",
    "uvloop.loop.TCPTransport",
    "uvloop.loop.UnixTransport",
)
"""Their ``write()`` sends the very bytes to their own socket at once, if they hold none that must go first; and they
hand out what they read as it comes."""


_CLOSING_S = 0.1
"""Most that a write to a transport that is closing waits for its end."""


class Sending(Vitals):
    """The part of `Connection` that sends."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._encoder: FrameEncoder | None = None
        self._sender: Sender | None = None

    send = send

    @property
    def _sent(self) -> tuple[int, int, int]:
        messages, nbytes = (0, 0) if self._sender is None else (self._sender.messages, self._sender.nbytes)
        if isinstance(self.transport, PumpTransport):
            own_messages, own_bytes, withheld = self.transport.sent
            return messages + own_messages, nbytes + own_bytes, withheld
        return messages, nbytes, 0

    async def _send(self, message: Any, text: bool | None) -> None:
        """What `send` leaves to ``websockets``: fragments, waiting for another message's, connections not open."""
        await super().send(message, text=text)

    async def _drain_sent(self) -> None:
        """`send` has written, and the transport's buffer is full, or the transport is closing."""
        try:
            await self.drain()
        except Exception as exc:
            await self._write_failed(exc)

    async def send_batch(self, messages: Iterable[DataLike], *, text: bool | None = None) -> None:
        """Send many messages in one write.

        Args:
            messages: Each str becomes a text message, each bytes-like object a binary one.
            text: True sends all of them as text, False all of them as binary.

        Raises:
            ConnectionClosed: When the connection is closed.
            TypeError: If a message is neither str nor bytes-like; nothing is sent then.
        """
        messages = checked(messages)
        while self.send_in_progress is not None:
            await asyncio.shield(self.send_in_progress)
        async with self.send_context():
            if self._encoder is None or self.debug:
                for message in messages:
                    is_text = isinstance(message, str) if text is None else text
                    payload = message.encode() if isinstance(message, str) else message
                    (self.protocol.send_text if is_text else self.protocol.send_binary)(payload)
            elif messages:
                frames = self._encoder.encode_batch(messages, text)
                self._messages_out += len(messages)
                self._bytes_out += len(frames)
                self.protocol.writes.append(frames)

    def _start_sending(self, encoder: FrameEncoder) -> None:
        """The connection is open, and the core makes its frames."""
        self._encoder = encoder
        self.protocol.send_frame = self._send_frame  # type: ignore[method-assign]
        if self.debug:
            # Each frame is to be logged: websockets does that.
            return
        self._sender = Sender(encoder, self.protocol, OPEN, self.transport, self._plain_descriptor)

    @property
    def _plain_descriptor(self) -> int:
        """That of a transport whose own socket carries the very bytes of the connection; else -1."""
        kind, sock = type(self.transport), self.transport.get_extra_info("socket")
        if sys.platform == "win32" or f"{kind.__module__}.{kind.__qualname__}" not in _PLAIN_TRANSPORTS or sock is None:
            return -1
        return int(sock.fileno())

    async def drain(self) -> None:
        """Wait until the peer has read enough; in a closing handshake no longer than ``close_timeout``."""
        if self.close_deadline is None:
            if isinstance(self.transport, PumpTransport) and self.transport.is_closing():
                # It takes a pump some microseconds to close a socket.
                await asyncio.wait([self.connection_lost_waiter], timeout=_CLOSING_S)
            await super().drain()
        else:
            async with asyncio.timeout_at(self.close_deadline):
                await super().drain()

    async def _write_failed(self, exc: Exception) -> None:
        self.set_connection_exc(exc)
        self.transport.abort()
        await asyncio.shield(self.connection_lost_waiter)
        raise self.close_exc

    def _send_frame(self, frame: Frame) -> None:
        """Stands in for ``Protocol.send_frame``: the core builds the frame."""
        frame.check()
        if self.debug:
            self.logger.debug("> %s", frame)
        assert self._encoder is not None
        data = self._encoder.encode(frame.opcode, frame.data, frame.fin)
        self.protocol.writes.append(data)
        self._bytes_out += len(data)
        if frame.opcode in CTRL_OPCODES:
            self._controls_out += 1
            if frame.opcode is CLOSE and isinstance(self.transport, PumpTransport):
                self.transport.stop_answers()
        else:
            self._messages_out += frame.fin
            if isinstance(self.transport, PumpTransport):
                if not frame.fin:
                    self.transport.begin_fragments()
                elif frame.opcode is CONT:
                    self.transport.end_fragments()
        if frame.opcode is CLOSE and self._decoder is not None and self._decoder.blocked:
            self.loop.call_soon(self._unblock_closing)

    def _unblock_closing(self) -> None:
        raise NotImplementedError


def checked(messages: Iterable[DataLike]) -> list[DataLike]:
    """Messages that can be sent.

    Raises:
        TypeError: If one is neither str nor bytes-like.
    """
    checked = list(messages)
    for message in checked:
        if not isinstance(message, str | BytesLike):
            raise TypeError(f"messages must be str or bytes-like, not {type(message).__name__}")
    return checked
