"""The control plane of a connection that threads use: one of asyncio that neither receives nor sends messages."""

from __future__ import annotations

import random
import struct
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

from websockets.asyncio.connection import Connection as UpstreamConnection
from websockets.client import ClientProtocol
from websockets.exceptions import ConcurrencyError
from websockets.frames import CLOSE, DATA_OPCODES, CloseCode, Frame, Opcode
from websockets.protocol import OPEN

from ..client import ClientConnection as AsyncioConnection
from ..core import Encryption, FrameEncoder, Pump, PumpedDecoder
from ..observe.events import Event
from ..pumping import PumpTransport, default_pump
from .background import Background
from .outbox import Outbox
from .sockets import SocketTransport

if TYPE_CHECKING:
    from .opening import Opening

__all__ = ["Control"]

_SHUTDOWN_TIMEOUT_S = 30.0
"""Default of asyncio."""


class _Pong:
    """Stands in for the future of an asyncio connection's ping; sets an event.

    Args:
        event: Of the user.
        at_end: Whether it is set as well when the connection is closed.
    """

    def __init__(self, event: threading.Event, at_end: bool) -> None:
        self._event = event
        self._at_end = at_end

    def done(self) -> bool:
        return False

    def set_result(self, latency: float) -> None:
        self._event.set()

    def set_exception(self, exc: BaseException) -> None:
        if self._at_end:
            self._event.set()

    def cancel(self) -> None:
        """Nothing waits."""


class Control(AsyncioConnection):
    """Keepalive, closing, events and figures of a connection whose messages go from the pump to threads.

    All methods are for its event loop, but for those that say otherwise.

    Args:
        owner: Whom users know. Only it keeps this one in use.
        background: Where it lives; it is left when the connection is lost.
        kwargs: As `fastws.ClientConnection` takes them.
    """

    def __init__(self, owner: Opening, background: Background, **kwargs: Any) -> None:
        protocol: ClientProtocol = owner.protocol
        super().__init__(protocol, **kwargs)
        # Log entries are of the connection that users know.
        self.logger = protocol.logger = owner.logger
        self.request, self.response = owner.request, owner.response
        self._owner = weakref.ref(owner)
        self._ended = owner._ended
        self._background = background
        self.outbox: Outbox

    # Beginning and end

    def begin(self, sock: Any, encryption: Encryption | None, rest: bytes) -> bool:
        """Give the socket to a pump; it reads from now on.

        Args:
            sock: Connected, behind the opening handshake.
            encryption: Of the socket, if it is one with TLS.
            rest: What came behind the handshake.

        Returns:
            Whether it could be done: an extension may need the data plane of ``websockets``.

        Raises:
            OSError: If there is no descriptor or thread to be had.
        """
        if not self._agreed():
            return False
        shutdown_timeout_s = _SHUTDOWN_TIMEOUT_S if self.close_timeout is None else self.close_timeout
        transport = SocketTransport(self.loop, sock, encryption, shutdown_timeout_s)
        UpstreamConnection.connection_made(self, transport)
        self._take_over(rest)
        return True

    def _pump(self) -> Pump:
        receive = self._options.receiver
        return receive if isinstance(receive, Pump) else default_pump()

    def _start_sending(self, encoder: FrameEncoder) -> None:
        assert isinstance(self.transport, PumpTransport)
        self._encoder = encoder
        self.outbox = Outbox(self.protocol, self.logger, encoder, self.transport.socket)
        self.protocol.send_frame = self._send_frame  # type: ignore[method-assign]
        # Before anything is decoded: events may come with that.
        if (owner := self._owner()) is not None:
            owner._attach(self, self._background)

    def connection_lost(self, exc: Exception | None) -> None:
        try:
            super().connection_lost(exc)
        finally:
            self._background.leave()

    def give_up(self, exc: Exception | None = None) -> None:
        """Close the socket at once."""
        if not self._lost:
            if exc is not None:
                self.set_connection_exc(exc)
            self.transport.abort()

    def fail(self, code: CloseCode, reason: str, exc: Exception | None = None) -> None:
        """Fail the connection, RFC 6455 7.1.7."""
        if exc is not None:
            self.set_connection_exc(exc)
        if self.protocol.state is OPEN:
            self.protocol.fail(code, reason)
            self._answer()

    def shut(self, code: CloseCode | int, reason: str) -> None:
        """Begin the closing handshake.

        Raises:
            ProtocolError: If the code isn't one that may be sent, or the reason is too long.
        """
        if self.protocol.state is OPEN:
            if self.outbox.fragmenting:
                self.protocol.fail(CloseCode.INTERNAL_ERROR, "close during fragmented message")
            else:
                self.protocol.send_close(code, reason)
            self._answer()

    def close_by(self) -> float | None:
        """``time.monotonic()`` at which a connection that isn't open must be closed; for any thread."""
        if self.close_deadline is None and self.close_timeout is not None:
            self.close_deadline = time.monotonic() + self.close_timeout
        return self.close_deadline

    # Pings

    def ping_now(self, data: bytes | None, ack_on_close: bool) -> threading.Event | None:
        """Send a ping; None if the connection isn't open.

        Raises:
            ConcurrencyError: If a ping with the same data waits for its pong.
        """
        if self.protocol.state is not OPEN:
            return None
        if data in self.pending_pings:
            raise ConcurrencyError("already waiting for a pong with the same data")
        while data is None or data in self.pending_pings:
            data = struct.pack("!I", random.getrandbits(32))
        event = threading.Event()
        pong: Any = _Pong(event, ack_on_close)
        self.pending_pings[data] = (pong, self.loop.time())
        self.protocol.send_ping(data)
        self._answer()
        return event

    def pong_now(self, data: bytes) -> bool:
        """Send a pong; False if the connection isn't open."""
        if self.protocol.state is not OPEN:
            return False
        self.protocol.send_pong(data)
        self._answer()
        return True

    # What is sent

    @property
    def _sent(self) -> tuple[int, int, int]:
        outbox = getattr(self, "outbox", None)
        if outbox is None:
            return 0, 0, 0
        own_messages, own_bytes, withheld = outbox.socket.sent
        return outbox.messages + own_messages, outbox.nbytes + own_bytes, withheld

    def _send_frame(self, frame: Frame) -> None:
        frame.check()
        if self.debug:
            self.logger.debug("> %s", frame)
        self.outbox.put_control(frame.opcode, frame.data, last=frame.opcode is CLOSE)
        if frame.opcode in DATA_OPCODES:
            self._messages_out += frame.fin
        else:
            self._controls_out += 1
        if frame.opcode is CLOSE and self._decoder is not None and self._decoder.blocked:
            self.loop.call_soon(self._unblock_closing)

    def _send_now(self, text: str) -> None:
        outbox = self.outbox
        if self._must_withhold():
            return
        with outbox.lock:
            if outbox.fragmenting:
                # Not between the fragments of another message, RFC 6455 5.4.
                self._defer(text)
            elif outbox.is_open:
                outbox.put(Opcode.TEXT, text)

    def send_deferred(self) -> None:
        """A thread has sent a message in fragments."""
        self._send_deferred()

    # What is received

    def check_fragments(self) -> None:
        """A thread waits for the end of a message of too many fragments."""
        assert self._decoder is not None
        self._check_fragments(self._decoder)

    def pumped_decoder(self) -> PumpedDecoder:
        """Where threads receive."""
        assert isinstance(self._decoder, PumpedDecoder)
        return self._decoder

    # Events

    def process_event(self, event: Any) -> None:
        UpstreamConnection.process_event(self, event)

    def _emit(self, event: Event) -> None:
        owner = self._owner()
        if owner is not None:
            self._bus.emit(owner, event)
