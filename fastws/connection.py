"""A connection of ``websockets`` whose data plane is replaced once the opening handshake is done.

While it is CONNECTING, bytes go to ``websockets``. Once it is OPEN, the transport writes straight into the memory
of a `FrameDecoder`; messages go to the user from there, and control frames to the state machine of
``websockets``, so that pongs, latency, the closing handshake and every exception stay its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from collections.abc import Callable
from typing import Any, Literal

from websockets.asyncio import messages as upstream_messages
from websockets.exceptions import ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import CLOSE, PING, PONG, CloseCode, Frame, Opcode
from websockets.protocol import CLIENT, CLOSED, CLOSING, OPEN, SERVER
from websockets.typing import BytesLike

from .blocking import Blocking
from .core import FrameDecoder, FrameEncoder, Intake, Pump, PumpedDecoder, Turn
from .deflate import Deflate
from .failures import failure
from .handshake import HeadEnd
from .pumping import PumpPauses, PumpTransport, default_pump, pumpable
from .security import Security
from .wire import Status, Violation

__all__ = ["Connection"]

MaxQueue = int | None | tuple[int | None, int | None]

_CONTROL, _VIOLATION, _NOTICE = int(Status.CONTROL), int(Status.VIOLATION), int(Status.NOTICE)
_BURST_MAX = 192 * 1024
"""Bytes read before the loop goes through its other callbacks: uvloop reads a socket up to 32 times in a cycle, which
starves consumers and leaves messages in a cold cache."""
ANSWERED = 0x80
"""Added to the opcode of a ping that was answered already."""
_HELD_MAX = 64 * 1024
"""Bytes that a client may send ahead of the server's response before reading pauses."""


class _Receiver(Intake, asyncio.BufferedProtocol):
    """What the transport talks to once the connection is OPEN: uvloop wants it not to be an `asyncio.Protocol`, too."""

    __slots__ = ()


class Connection(Blocking):
    """What client and server connections have in common.

    Don't use it directly: `ClientConnection` and `ServerConnection` are subclasses of this class and of those of
    ``websockets``. Arguments are those of ``websockets``, `Options`, and:

    Args:
        max_queue: Messages that may wait for the consumer before the queue is full, or a (high, low) pair of marks;
            None, the default of fastws, is no limit.
    """

    def __init__(self, *args: Any, max_queue: MaxQueue = None, **kwargs: Any) -> None:
        super().__init__(*args, max_queue=max_queue, **kwargs)
        # Until the handshake is done: where its head ends, and what a client sent too early.
        self._head: HeadEnd | None = HeadEnd()
        self._held: bytearray | None = None
        # Afterwards: the data plane, unless extensions keep it with websockets.
        self._deflate: Deflate | None = None
        self._pongs_at: dict[bytes, float] = {}  # When answers to pings were received that websockets hasn't told of.
        self._at_end = False
        self._reads_itself = False  # A pump does, and stops by itself.
        self._limit_tls: Callable[..., None] | None = None
        self._tls_limited = False
        # TLS that is to be done on the socket itself, for a pump.
        self._security: Security | None = None
        self._securing: asyncio.Task[None] | None = None

    # Taking over

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._security is not None:
            security, self._security = self._security, None
            self._securing = asyncio.ensure_future(security.begin(transport, self))
            if security.server_side:
                self._securing.add_done_callback(self._secured)
            return
        super().connection_made(transport)
        if self.protocol.state is OPEN:
            # A protocol that never was CONNECTING: there is no handshake to wait for.
            if self._options.receiver == "loop":
                self._take_over(b"")
            else:
                # uvloop begins to read after this method, which would be beside the pump.
                self._held = bytearray()
                self.loop.call_soon(self._opened)

    def _secured(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (exc := task.exception()) is not None:
            if isinstance(exc, OSError):
                # As asyncio does: anybody can make it fail.
                self.logger.debug("TLS handshake failed", exc_info=exc)
            else:
                self.loop.call_exception_handler({"message": "TLS handshake failed", "exception": exc})

    def data_received(self, data: bytes) -> None:
        """Bytes from a transport: the opening handshake, or frames where a transport knows no buffered protocol."""
        if self._decoder is not None:
            self._step(self._decoder.feed(data))
        elif self._held is not None:
            self._hold(data)
        elif self._head is None:
            super().data_received(data)
        else:
            size = self._head.find(data)
            if size < 0:
                super().data_received(data)
                return
            self._head = None
            super().data_received(data[:size])
            rest = data[size:]
            if self.protocol.state is OPEN:
                self._take_over(rest)
            elif self.protocol.side is SERVER and self.protocol.handshake_exc is None:
                # OPEN only after the response: see opened().
                self._held = bytearray()
                self._hold(rest)
            elif rest:
                super().data_received(rest)

    def _hold(self, data: bytes) -> None:
        assert self._held is not None
        self._held += data
        if len(self._held) > _HELD_MAX:
            self.transport.pause_reading()

    def _opened(self) -> None:
        """Called when a server has sent its response."""
        if self._held is None:
            return
        held, self._held = bytes(self._held), None
        if len(held) > _HELD_MAX:
            self.transport.resume_reading()
        if self.protocol.state is OPEN:
            self._take_over(held)

    def _take_over(self, rest: bytes) -> None:
        """Replace the data plane at the frame boundary behind the handshake; ``rest`` is what came after it."""
        self._head = None
        self._observe()
        options = self._options
        if not self._agreed():
            if options.decoder_arguments or options.heartbeat is not None or options.stale_after is not None:
                self.logger.warning(
                    "an extension keeps the data plane with websockets: options of fastws have no effect"
                )
            if rest:
                super().data_received(rest)
            return
        protocol = self.protocol
        role: Literal["client", "server"] = "client" if protocol.side is CLIENT else "server"
        pump = self._pump()
        self._decoder = (FrameDecoder if pump is None else PumpedDecoder)(
            role,
            max_size=(protocol.max_message_size, protocol.max_fragment_size),
            max_queue=(self.max_queue_high, self.max_queue_low),
            max_queue_bytes=self.max_queue_bytes,
            max_fragments=upstream_messages.MAX_FRAGMENTS,
            deflate=self._deflate,
            **options.decoder_arguments,
        )
        self._turn = Turn(self._decoder)
        if isinstance(self._decoder, PumpedDecoder):
            assert pump is not None
            self._adopt(self._decoder, pump)
        self._start_sending(FrameEncoder(role, deflate=self._deflate))
        protocol.fail = self._fail_protocol  # type: ignore[method-assign]
        protocol.send_ping = self._send_ping  # type: ignore[method-assign]
        self._start_vitals(self._decoder)
        if pump is not None:
            if rest:
                self._step(self._decoder.feed(rest))
            self.transport.resume_reading()
            return
        if self.transport.get_extra_info("sslcontext") is not None:
            self._decoder.honors_sizehint = True
            if self.transport.get_extra_info("uvloop.sslproto") is not None:
                self._limit_tls = getattr(self.transport, "set_read_buffer_limits", None)
        # A transport without this method goes on calling data_received().
        with contextlib.suppress(AttributeError, NotImplementedError):
            receiver = _Receiver(self, self._decoder, self._turn, _BURST_MAX, self.debug)
            self.transport.set_protocol(receiver)
            if getattr(self.transport, "_read_ready_cb", None) is not None and self._plain_descriptor >= 0:
                receiver.read_for(self.transport, self._plain_descriptor)
        if rest:
            self._step(self._decoder.feed(rest))

    def _pump(self) -> Pump | None:
        """The thread that is to receive; None is the event loop."""
        receive = self._options.receiver
        if receive == "loop":
            return None
        if (reason := pumpable(self.transport)) is not None:
            self.logger.warning("the event loop receives, and not a thread: %s", reason)
            return None
        return receive if isinstance(receive, Pump) else default_pump()

    def _adopt(self, decoder: PumpedDecoder, pump: Pump) -> None:
        """Give the socket to a pump, which doesn't read yet."""
        self.transport = transport = PumpTransport(self, self.transport, decoder, pump)
        transport.set_write_buffer_limits(self.write_limit_high, self.write_limit_low)
        self._pauses = PumpPauses(decoder)
        self._reads_itself = True
        self._arm = decoder.arm
        # The pump keeps the decoder until the socket is closed, which must not keep a connection that nobody else does.
        notices, log = weakref.WeakMethod(self._notices), weakref.WeakMethod(self._log_frames)
        decoder.call_ahead(
            lambda decoder: (method := notices()) and method(decoder),
            (lambda frames: (method := log()) and method(frames)) if self.debug else None,
        )
        decoder.reply_with(None if reply.send is None else reply.send.encode() for reply in self._options.replies)
        if (heartbeat := self._options.heartbeat) is not None:
            transport.begin_beats(heartbeat.send.encode(), heartbeat.every, expects=heartbeat.expect is not None)

    def _pumped(self, decoder: PumpedDecoder) -> None:
        """Something has happened in the pump."""
        sent: tuple[list[int], int] = [], 0
        if self.debug:
            assert isinstance(self.transport, PumpTransport)
            # Taken first, so that what they answer is logged ahead of them.
            sent = self.transport.take_log()
        self._step(decoder.step_status())
        self._log_sent(*sent)
        # The consumer may have looked for a pause just before there was one.
        if decoder.resumable:
            self._resume()

    def _agreed(self) -> bool:
        """Whether the core can do what the extensions negotiated; sets ``_deflate``."""
        match self.protocol.extensions:
            case []:
                return True
            case [PerMessageDeflate() as extension] if type(extension) is PerMessageDeflate:
                settings = dict(extension.compress_settings)
                known = {
                    "level": settings.pop("level", -1),
                    "mem_level": settings.pop("memLevel", 8),
                    "strategy": settings.pop("strategy", 0),
                }
                if settings.pop("method", 8) != 8 or settings:
                    return False
                self._deflate = Deflate(
                    extension.remote_no_context_takeover,
                    extension.local_no_context_takeover,
                    extension.remote_max_window_bits,
                    extension.local_max_window_bits,
                    **known,
                )
                return True
            case _:
                return False

    # Bytes in

    def _burst_over(self) -> None:
        self._pause_reading()
        self.loop.call_soon(self._next_cycle)

    def _next_cycle(self) -> None:
        if self._decoder is not None and not self._decoder.blocked:
            self._resume_reading()

    def _step(self, status: int) -> None:
        """Act on what a step of the decoder brought."""
        decoder = self._decoder
        assert decoder is not None
        if self.debug:
            self._log_frames(decoder.unlogged())
        if status & _CONTROL:
            self._control_frames(decoder)
        if status & _NOTICE:
            self._notices(decoder)
        if status & _VIOLATION:
            self._violated(decoder)
        if decoder.blocked:
            if self.protocol.state is CLOSING and not self._at_end:
                # The closing handshake must not wait behind data that nobody reads.
                decoder.dropping = True
                self._step(decoder.resume())
                return
            if not self._lost:
                self._pauses.start()
            self._pause_reading()
        assert self._turn is not None
        if not self._turn.wake() and not self._watched and not self._lost:
            self._watch()

    def _log_frames(self, frames: list[tuple[int, bool, bytes]]) -> None:
        for opcode, fin, payload in frames:
            self.logger.debug("< %s", Frame(Opcode(opcode), payload, fin))

    def _control_frames(self, decoder: FrameDecoder) -> None:
        """Hand control frames to the state machine of websockets, which answers pings and closes."""
        protocol = self.protocol
        frames = decoder.timed_controls()
        if protocol.state is CLOSED:
            return
        read_ns = time.monotonic_ns()
        pings = 0
        for opcode, payload, received_ns in frames:
            if opcode & ANSWERED:
                self.logger.debug("< %s", Frame(PING, payload))
                self.logger.debug("> %s", Frame(PONG, payload))
                continue
            frame = Frame(Opcode(opcode), payload)
            if self.debug:
                self.logger.debug("< %s", frame)
            if frame.opcode is PONG:
                self._pongs_in += 1
                if not self._may_answer(payload, received_ns / 1e9):
                    continue
            pings += frame.opcode is PING
            # RFC 6455 5.4: a close frame inside a fragmented message leaves the message incomplete.
            protocol.current_size = decoder.current_size if frame.opcode is CLOSE else None
            try:
                protocol.recv_frame(frame)
            except ProtocolError as exc:
                self._fail(CloseCode.PROTOCOL_ERROR, str(exc), exc)
                break
            except UnicodeDecodeError as exc:
                self._fail(CloseCode.INVALID_DATA, f"{exc.reason} at position {exc.start}", exc)
                break
        self._answer()
        if pings:
            self._pings_in += pings
            self._ping_delay_max_ns = max(self._ping_delay_max_ns, time.monotonic_ns() - read_ns)
        for event in protocol.events_received():
            self.process_event(event)

    def _send_ping(self, data: BytesLike) -> None:
        """Stands in for ``Protocol.send_ping``: latency begins here; the clock of uvloop stands still in a cycle."""
        payload = bytes(data)
        if payload in self.pending_pings:
            self.pending_pings[payload] = (self.pending_pings[payload][0], time.monotonic())
        type(self.protocol).send_ping(self.protocol, data)

    def _may_answer(self, payload: bytes, received_at: float) -> bool:
        """Whether a pong may answer a ping; `acknowledge_pings` will ask when it was received.

        One that was received before a ping with its payload was sent is unsolicited, RFC 6455 5.5.3.
        """
        if payload not in self.pending_pings:
            return True
        if received_at < self.pending_pings[payload][1]:
            return False
        self._pongs_at[payload] = received_at
        return True

    def acknowledge_pings(self, data: bytes) -> None:
        """As that of ``websockets``, by when the pong was received.

        Neither is it latency that the pong has waited for its turn, nor does the clock of uvloop, which counts
        milliseconds, come into it.
        """
        received_at = self._pongs_at.pop(data, None)
        if received_at is None or data not in self.pending_pings:
            super().acknowledge_pings(data)
            return
        self.latency = received_at - self.pending_pings[data][1]
        for ping in list(self.pending_pings):
            pong, sent_at = self.pending_pings.pop(ping)
            if not pong.done():
                pong.set_result(received_at - sent_at)
            if ping == data:
                break

    def _violated(self, decoder: FrameDecoder) -> None:
        """Fail the connection, RFC 6455 7.1.7; messages that came before stay receivable."""
        if decoder.violation is None or self.protocol.parser_exc is not None or self._lost:
            return
        violation, value, limit = decoder.violation
        self._fail(*failure(Violation(violation), value, limit, decoder.current_size))
        self._answer()

    def _fail(self, code: int, reason: str, exc: Exception) -> None:
        self.protocol.fail(code, reason)
        self.protocol.parser_exc = exc

    def _fail_protocol(self, code: CloseCode | int, reason: str = "") -> None:
        """Stands in for ``Protocol.fail``: RFC 6455 7.1.7, whoever fails it, further input isn't processed."""
        type(self.protocol).fail(self.protocol, code, reason)
        # After a network failure, what was read before it stays receivable.
        if self._decoder is not None and code != CloseCode.ABNORMAL_CLOSURE:
            self._decoder.discard()

    def _answer(self) -> None:
        """Write what the state machine wants to send after receiving, as ``data_received`` of websockets does."""
        try:
            self.send_data()
        except Exception as exc:
            if self.debug:
                self.logger.debug("! error while sending data", exc_info=True)
            self.set_connection_exc(exc)
        if self.protocol.close_expected() and self.close_deadline is None and self.close_timeout is not None:
            self.close_deadline = self.loop.time() + self.close_timeout

    def _pause_reading(self) -> None:
        if not self._reads_itself and not self._lost and not self.transport.is_closing():
            if self._limit_tls is not None:
                # uvloop throws away what its TLS transport holds when the stream ends meanwhile: it must hold nothing
                # behind what it has already, so that the end comes in its turn.
                self._tls_limited = True
                self._limit_tls(1, 0)
            self.transport.pause_reading()

    def _resume_reading(self) -> None:
        if not self._reads_itself and not self._lost and not self.transport.is_closing():
            self.transport.resume_reading()
            if self._limit_tls is not None:
                # After the transport's own callback, which hands out what it holds.
                self._tls_limited = False
                self.loop.call_soon(self._unlimit_tls, self._limit_tls)

    def _unlimit_tls(self, limit: Callable[..., None]) -> None:
        if not self._tls_limited and not self._lost:
            limit()

    def _resume(self) -> None:
        """The consumer has caught up: decode what is left, then read on."""
        decoder = self._decoder
        assert decoder is not None
        self._step(decoder.resume())
        if not decoder.blocked:
            self._pauses.stop()
            self._resume_reading()

    def _discard_queue(self) -> None:
        """Throw away what waits and what comes: the end is all that counts."""
        if self._decoder is not None:
            self._decoder.clear()
            self._decoder.dropping = True
            if self._decoder.blocked:
                self._resume()

    def eof_received(self) -> None:
        received, expected = self._decoder.partial_frame if self._decoder is not None else (0, 0)
        self._end_of_stream()
        self._peer_has_gone()
        super().eof_received()
        if expected and isinstance(self.protocol.parser_exc, EOFError):
            self.protocol.parser_exc = EOFError(f"stream ends after {received} bytes, expected {expected} bytes")

    def _end_of_stream(self) -> None:
        """What was read before the end of the stream counts, although its turn comes later."""
        if self._decoder is not None and not self._at_end:
            self._at_end = True
            self._step(self._decoder.end_of_stream())

    def connection_lost(self, exc: Exception | None) -> None:
        if exc is None:
            self._end_of_stream()
        self._lost = True
        if self._options.on_close == "raise":
            self._discard_queue()
        super().connection_lost(exc)
        if self._decoder is not None and not self._decoder.blocked:
            # Part of a frame, at most.
            self._decoder.discard()
        # Break reference cycles, to allow immediate garbage collection.
        if isinstance(self._decoder, PumpedDecoder):
            self._decoder.call_ahead(None)
        for name in ("send_frame", "send_ping", "fail"):
            vars(self.protocol).pop(name, None)
        if self._turn is not None:
            self._turn.wake()

    def _unblock_closing(self) -> None:
        """Reading was paused when the closing handshake began: what is unread is discarded, so that it can end."""
        if self._decoder is not None and self._decoder.blocked and self.protocol.state is CLOSING and not self._at_end:
            self._decoder.dropping = True
            self._resume()
