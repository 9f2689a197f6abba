"""A connection of ``websockets.sync`` that receives on a pump.

Threads that receive wait for the pump, without the GIL; those that send write to the socket themselves. What is rare
(keepalive, the closing handshake, events) is done by a `Control` in the event loop of a `Background` thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from websockets.exceptions import ConcurrencyError
from websockets.frames import CloseCode, Opcode
from websockets.typing import BytesLike, DataLike

from ..sending import checked
from .outbox import Outbox
from .receiving import Receiving

__all__ = ["ClientConnection"]

_TEXT, _BINARY, _CONT = int(Opcode.TEXT), int(Opcode.BINARY), int(Opcode.CONT)


class ClientConnection(Receiving):
    """A client connection of ``websockets.sync`` with the data plane of fastws.

    It receives and sends as ``websockets.sync.client.ClientConnection`` does, and in batches::

        with connect("ws://localhost:8765") as websocket:
            for batch in websocket.iter_batches():
                for message in batch:
                    ...

    One thread may receive at a time; any number may send. Where a pump can't receive (TLS in TLS, an extension that
    isn't permessage-deflate), it does as ``websockets`` does, with a thread of Python, after a warning in the log.

    Args:
        socket: Connected to a WebSocket server.
        protocol: Sans-I/O connection.
        ping_interval: As in ``websockets``, and so are the next two.
        ping_timeout: Seconds, or None.
        close_timeout: Seconds, or None.
        max_queue: Messages that may wait for the consumer before the queue is full, or a (high, low) pair of marks;
            None is no limit.
        write_limit: Bytes that may wait for the socket before sending waits, or a (high, low) pair of marks.
        **kwargs: `Options`.
    """

    def send(self, message: DataLike | Iterable[DataLike], *, text: bool | None = None) -> None:
        """Send a message, as ``websockets.sync`` does: it waits while more than ``write_limit`` bytes wait.

        Args:
            message: A str is sent as text, a bytes-like object as binary; an iterable of either as a fragmented
                message.
            text: True sends bytes as text, False sends str as binary.

        Raises:
            ConnectionClosed: When the connection is closed.
            ConcurrencyError: If another thread is sending a fragmented message.
            TypeError: If ``message`` doesn't have a supported type.
        """
        if self.pending_legacy_warning:
            self.maybe_raise_legacy_warning()
        outbox = self._outbox
        if outbox is None:
            super().send(message, text=text)
            return
        if isinstance(message, str):
            opcode = _BINARY if text is False else _TEXT
        elif isinstance(message, BytesLike):
            opcode = _TEXT if text is True else _BINARY
        elif isinstance(message, Mapping):
            raise TypeError("data is a dict-like object")
        elif isinstance(message, Iterable):
            self._send_fragments(outbox, message, text)
            return
        else:
            raise TypeError("data must be str, bytes, or iterable")
        with outbox.lock:
            if is_open := outbox.is_open:
                if outbox.fragmenting:
                    raise ConcurrencyError("cannot call send while another thread is already running send")
                outbox.put(opcode, message)
        self._sent(outbox, is_open)

    def _sent(self, outbox: Outbox, is_open: bool) -> None:
        """What is to be done after a frame, without the lock: wait for room, or for the end."""
        sock = outbox.socket
        if not is_open or sock.error:
            self._raise_closed()
        if sock.is_full and not self._is_in_loop:
            sock.wait_drained()
            if sock.error:
                self._raise_closed()

    def _send_fragments(self, outbox: Outbox, message: Iterable[DataLike], text: bool | None) -> None:
        chunks = iter(message)
        try:
            chunk = next(chunks)
        except StopIteration:
            return
        begun = False
        try:
            if isinstance(chunk, str):
                opcode = _BINARY if text is False else _TEXT
                kind: Any = str
            elif isinstance(chunk, BytesLike):
                opcode = _TEXT if text is True else _BINARY
                kind = BytesLike
            else:
                raise TypeError("iterable must contain bytes or str")
            with outbox.lock:
                if is_open := outbox.is_open:
                    if outbox.fragmenting:
                        raise ConcurrencyError("cannot call send while another thread is already running send")
                    outbox.put(opcode, chunk, False)
                    outbox.fragmenting = begun = True
            self._sent(outbox, is_open)
            for chunk in chunks:
                if not isinstance(chunk, kind):
                    raise TypeError("iterable must contain uniform types")
                self._send_fragment(outbox, chunk, False)
            self._send_fragment(outbox, b"", True)
        except ConcurrencyError:
            if begun:
                self._fail(CloseCode.INTERNAL_ERROR, "error in fragmented message")
            raise
        except Exception:
            self._fail(CloseCode.INTERNAL_ERROR, "error in fragmented message")
            raise
        self._post(self._control_().send_deferred)

    def _send_fragment(self, outbox: Outbox, chunk: DataLike, fin: bool) -> None:
        with outbox.lock:
            if is_open := outbox.is_open:
                outbox.put(_CONT, chunk, fin)
                outbox.fragmenting = not fin
        self._sent(outbox, is_open)

    def send_batch(self, messages: Iterable[DataLike], *, text: bool | None = None) -> None:
        """Send many messages in one write.

        Args:
            messages: Each str becomes a text message, each bytes-like object a binary one.
            text: True sends all of them as text, False all of them as binary.

        Raises:
            ConnectionClosed: When the connection is closed.
            ConcurrencyError: If another thread is sending a fragmented message.
            TypeError: If a message is neither str nor bytes-like; nothing is sent then.
        """
        if self.pending_legacy_warning:
            self.maybe_raise_legacy_warning()
        batch = checked(messages)
        outbox = self._outbox
        if outbox is None:
            for message in batch:
                super().send(message, text=text)
            return
        with outbox.lock:
            if is_open := outbox.is_open:
                if outbox.fragmenting:
                    raise ConcurrencyError("cannot call send_batch while another thread is already running send")
                if batch:
                    outbox.put_batch(batch, text)
        self._sent(outbox, is_open)

    @property
    def send_in_progress(self) -> bool:
        """Whether a message is being sent in fragments."""
        return self._fragmenting if self._outbox is None else self._outbox.fragmenting

    @send_in_progress.setter
    def send_in_progress(self, value: bool) -> None:
        self._fragmenting = value

    _fragmenting = False
