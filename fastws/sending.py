"""Messages out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, Iterable
from typing import Any

from websockets.frames import CLOSE, CTRL_OPCODES, Frame, Opcode
from websockets.protocol import OPEN
from websockets.typing import BytesLike, DataLike

from .core import FrameEncoder
from .pumping import PumpTransport
from .vitals import Vitals

__all__ = ["Sending"]

_TEXT, _BINARY = int(Opcode.TEXT), int(Opcode.BINARY)
_WHOLE = (str, bytes, bytearray, memoryview)  # A union would be made anew at each call.


class Sending(Vitals):
    """The part of `Connection` that sends."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._encoder: FrameEncoder | None = None

    async def send(
        self,
        message: DataLike | Iterable[DataLike] | AsyncIterable[DataLike],
        *,
        text: bool | None = None,
    ) -> None:
        """Send a message, as ``websockets`` does.

        Args:
            message: A str is sent as text, a bytes-like object as binary; an iterable or asynchronous iterable
                of either as a fragmented message.
            text: True sends bytes as text, False sends str as binary.

        Raises:
            ConnectionClosed: When the connection is closed.
            TypeError: If ``message`` doesn't have a supported type.
        """
        if (
            self._encoder is None
            or self.send_in_progress is not None
            or self.protocol.state is not OPEN
            or self.debug
            or not isinstance(message, _WHOLE)
        ):
            await super().send(message, text=text)
            return
        is_text = isinstance(message, str) if text is None else text
        frame = self._encoder.encode(_TEXT if is_text else _BINARY, message)
        try:
            self.transport.write(frame)
            self._messages_out += 1
            self._bytes_out += len(frame)
            if self.paused or self.transport.is_closing():
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
        messages = list(messages)
        for message in messages:
            if not isinstance(message, str | BytesLike):
                raise TypeError(f"messages must be str or bytes-like, not {type(message).__name__}")
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

    async def drain(self) -> None:
        """Wait until the peer has read enough; in a closing handshake no longer than ``close_timeout``."""
        if self.close_deadline is None:
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
        if frame.opcode is CLOSE and self._decoder is not None and self._decoder.blocked:
            self.loop.call_soon(self._unblock_closing)

    def _unblock_closing(self) -> None:
        raise NotImplementedError
