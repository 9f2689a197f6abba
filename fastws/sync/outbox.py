"""What several threads send through one connection, in one order."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref
from typing import Any, ClassVar

from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol
from websockets.typing import BytesLike, DataLike, LoggerLike

from ..core import FrameEncoder, PumpSocket

__all__ = ["Outbox"]

_TEXT, _BINARY, _CONT = int(Opcode.TEXT), int(Opcode.BINARY), int(Opcode.CONT)


class Outbox:
    """Encodes frames and gives them to a pump's socket.

    A frame is encoded and written under `lock`: with permessage-deflate the peer must read frames in the order in
    which they were compressed, and none may follow a close frame (RFC 6455 5.5.1). Under it nobody waits for anything:
    what the socket doesn't take at once, the pump sends.

    Args:
        protocol: Of the connection; its state says whether messages may be sent.
        logger: Of the connection.
        encoder: Nobody else uses it.
        socket: Nobody else writes to it.

    Attributes:
        lock: Held for all that follows.
        fragmenting: Whether a message is being sent in fragments: no other may begin (RFC 6455 5.4).
        messages: That were sent.
        nbytes: Bytes of all frames.
    """

    _all: ClassVar[weakref.WeakSet[Outbox]] = weakref.WeakSet()

    def __init__(self, protocol: Protocol, logger: LoggerLike, encoder: FrameEncoder, socket: PumpSocket) -> None:
        self.lock = threading.Lock()
        self.socket = socket
        self.fragmenting = False
        self.messages = 0
        self.nbytes = 0
        self._protocol = protocol
        self._logger = logger
        self._debug = protocol.debug
        self._closing = False
        self._encode = encoder.encode
        self._encode_batch = encoder.encode_batch
        self._write = socket.write
        self._all.add(self)

    @property
    def is_open(self) -> bool:
        """Whether a frame may be sent."""
        return self._protocol.state is OPEN and not self._closing

    def put(self, opcode: int, data: Any, fin: bool = True) -> None:
        """Send a frame of a message; with the lock, and while it `is_open`.

        Raises:
            UnicodeEncodeError: If a str has lone surrogates.
        """
        if self._debug:
            payload = data.encode() if isinstance(data, str) else data
            self._logger.debug("> %s", Frame(Opcode(opcode), bytes(payload), fin))
        continues = opcode == _CONT
        if not fin and not continues:
            self.socket.hold_replies()
        frame = self._encode(opcode, data, fin)
        self._write(frame, fin and continues)
        self.messages += fin
        self.nbytes += len(frame)

    def put_batch(self, messages: list[DataLike], text: bool | None) -> None:
        """Send whole messages in one write; with the lock, and while it `is_open`."""
        if self._debug:
            for message in messages:
                self.put(_TEXT if (isinstance(message, str) if text is None else text) else _BINARY, message)
            return
        frames = self._encode_batch(messages, text)
        self._write(frames)
        self.messages += len(messages)
        self.nbytes += len(frames)

    def put_control(self, opcode: int, data: BytesLike, *, last: bool) -> None:
        """Send a control frame, or any that the protocol wants to send; takes the lock.

        Args:
            opcode: Of the frame.
            data: Payload.
            last: Whether no frame may follow.
        """
        with self.lock:
            frame = self._encode(opcode, data, True)
            if last:
                self._closing = True
                self.socket.stop_answers()
            self._write(frame)
            self.nbytes += len(frame)

    @classmethod
    def _forget(cls) -> None:
        """In a forked child: a thread that isn't here may have been sending. What is written, the socket refuses."""
        for outbox in list(cls._all):
            outbox.lock = threading.Lock()
            outbox.fragmenting = False


if hasattr(os, "register_at_fork"):
    with contextlib.suppress(RuntimeError):
        os.register_at_fork(after_in_child=Outbox._forget)
