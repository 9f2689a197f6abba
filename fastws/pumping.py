"""``receive="thread"``: a transport whose socket belongs to a `Pump`, a native thread.

The opening handshake is over when the pump gets its copy of the descriptor. The transport of the event loop stays,
paused, until the end: it keeps what belongs to it (its place in a server, its extra information) and closes last.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
import time
import warnings
import weakref
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias, cast

from .core import Encryption, Hub, Pump, PumpedDecoder, PumpSocket
from .observe.pressure import Monitor, PauseClock
from .security import unreachable
from .tls import TlsTransport, write_limits

if TYPE_CHECKING:
    from .connection import Connection

__all__ = ["PumpPauses", "PumpTransport", "default_pump", "pumpable"]

_default: dict[str, Pump] = {}
"""None or one. Threads may ask for it at the same time, and a lock would have to know of forks."""


def default_pump() -> Pump:
    """The pump that all connections of this process share, but for those with one of their own."""
    return _default.get("pump") or _default.setdefault("pump", Pump())


_Hubs: TypeAlias = "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[LoopHub]]"


class PumpPauses(PauseClock):
    """How long and how often a pump has paused reading, measured there: also while the loop is blocked."""

    def __init__(self, decoder: PumpedDecoder) -> None:
        self._decoder = decoder

    @property
    def running(self) -> bool:
        return self._decoder.pause[1]

    @property
    def count(self) -> int:  # type: ignore[override]
        return self._decoder.pause[0]

    def start(self) -> None:
        """The pump knows."""

    def stop(self) -> None:
        """The pump knows."""

    def read_s(self) -> tuple[float, float]:
        _, _, total_ns, longest_ns = self._decoder.pause
        return total_ns / 1e9, longest_ns / 1e9


class LoopHub:
    """What pumps tell the transports of one event loop, by one descriptor that the loop watches."""

    # Transports keep it, and the loop while there are any.
    _of: ClassVar[_Hubs] = weakref.WeakKeyDictionary()

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self.hub = Hub()
        self._monitor = Monitor.of(loop)
        self._transports: dict[PumpSocket, PumpTransport] = {}

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> LoopHub:
        """The hub of a loop: the same as long as somebody keeps it."""
        kept = cls._of.get(loop)
        hub = None if kept is None else kept()
        if hub is None:
            hub = cls(loop)
            cls._of[loop] = weakref.ref(hub)
        return hub

    def add(self, sock: PumpSocket, transport: PumpTransport) -> None:
        """Tell ``transport`` of what happens to its socket; the loop keeps it from now on."""
        if not self._transports:
            loop = self._loop()
            assert loop is not None
            loop.add_reader(self.hub.fileno(), self._ready)
        self._transports[sock] = transport

    def remove(self, sock: PumpSocket) -> None:
        """After the last report."""
        self._transports.pop(sock, None)
        loop = self._loop()
        if not self._transports and loop is not None and not loop.is_closed():
            loop.remove_reader(self.hub.fileno())

    def _ready(self) -> None:
        reports = self.hub.take()
        if self.hub.rung_ns:
            # By so much the loop was late, whether somebody looked at it or not.
            self._monitor.note_late((time.monotonic_ns() - self.hub.rung_ns) / 1e9)
        for sock, report in reports:
            transport = self._transports.get(sock)
            if transport is None:
                continue
            try:
                transport._reported(report)
            except Exception as exc:
                # The others are still told.
                transport._loop.call_exception_handler(
                    {"message": "a connection failed to take what its pump reported", "exception": exc}
                )
                transport._failed(report, exc)


class _Retired(asyncio.Protocol):
    """The protocol of the loop's own transport, after its socket went to a pump."""

    def __init__(self, transport: PumpTransport) -> None:
        self._transport = transport

    def resume_writing(self) -> None:
        self._transport._flushed()

    def eof_received(self) -> bool:
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport._original_lost(exc)


class PumpTransport(asyncio.Transport):
    """A transport of asyncio over a socket that a pump reads and both write.

    Args:
        connection: Its protocol.
        original: Transport of the event loop, at the frame boundary behind the opening handshake.
        decoder: Where the pump puts what it reads.
        pump: Which pump.

    Raises:
        OSError: If there is no descriptor or thread to be had.
    """

    def __init__(self, connection: Connection, original: asyncio.Transport, decoder: PumpedDecoder, pump: Pump) -> None:
        super().__init__()
        self._loop = connection.loop
        self._protocol: Any = connection
        self._original = original
        self._decoder = decoder
        self._hub: LoopHub | None = LoopHub.of(self._loop)
        fd = original.get_extra_info("socket").fileno()
        encryption: Encryption | None = getattr(original, "encryption", None)
        # A `TlsTransport`, or another that has a session of libssl to hand over.
        self._tls: Any = None if encryption is None else cast(Any, original)
        self._closing = self._ending = self._writing_paused = False
        self._is_gone, self._is_lost, self._told = True, False, False
        self._socket = pump.adopt(fd, decoder, self._hub.hub, encryption)
        self._deadline: asyncio.TimerHandle | None = None
        try:
            self._hub.add(self._socket, self)
        except BaseException:
            self._socket.abandon()
            raise
        self._is_gone = False
        self._paused = True
        self._error: Exception | None = None
        self._limits = write_limits()
        original.pause_reading()
        unsent = b"" if self._tls is None else self._tls.hand_over()
        # What is left of the handshake's last message goes out ahead of anything else.
        self._ahead = original.get_write_buffer_size() > 0
        self._early: list[bytes] = []
        self._early_bytes = 0
        self._last = False  # What is written next ends a message in fragments.
        self._beats: tuple[bytes, float, bool] | None = None
        original.set_protocol(_Retired(self))
        if self._ahead:
            original.set_write_buffer_limits(0)
        if unsent:
            self.write(unsent)

    def __del__(self, warn: Any = warnings.warn) -> None:
        if not self._is_gone:
            warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
            self._socket.abandon()

    def __repr__(self) -> str:
        state = "closed" if self._told else "closing" if self._closing else "open"
        return f"<PumpTransport {state} of {self._socket.pump!r}>"

    # What the pump reports

    def _reported(self, report: int) -> None:
        if report & Hub.STEP and not self._told:
            self._protocol._pumped(self._decoder)
        if report & Hub.DRAINED:
            self._resume_writing()
        if report & Hub.END and not self._closing and not self._protocol.eof_received():
            self.close()
        if report & Hub.GONE:
            self._gone()

    def _gone(self) -> None:
        self._is_gone = self._closing = True
        if self._deadline is not None:
            self._deadline.cancel()
        self._error = self._failure() or self._error
        assert self._hub is not None
        self._hub.remove(self._socket)
        self._socket.pump.purge()
        # A connection may be kept for long after its end, and its loop may be gone by then.
        self._hub = None
        self._socket.release()
        if self._is_lost:
            self._tell()
        else:
            self._original.abort()

    def _failed(self, report: int, exc: Exception) -> None:
        """Its protocol didn't take a report: what was in it is lost, so the connection ends, as in asyncio."""
        self._error = self._error or exc
        if not report & Hub.GONE:
            self.abort()
        elif not self._is_gone:
            self._gone()

    def _failure(self) -> OSError | None:
        sock = self._socket
        if (text := sock.tls_failure) is not None:
            reason = text.upper().replace(" ", "_")
            failure = ssl.SSLError(ssl.SSLErrorNumber.SSL_ERROR_SSL, f"[SSL: {reason}] {text}")
            failure.library, failure.reason = "SSL", reason
            return failure
        return OSError(sock.error, os.strerror(sock.error)) if sock.error else None

    def _original_lost(self, exc: Exception | None) -> None:
        self._is_lost = self._closing = True
        self._error = self._error or exc
        if self._is_gone:
            self._tell()
        else:
            # Not by us: the server or the loop has closed it.
            self._socket.abort()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            protocol, self._protocol = self._protocol, None
            protocol.connection_lost(self._error)

    # Reading

    def pause_reading(self) -> None:
        if not self._paused:
            self._paused = True
            self._socket.pause(True)

    def resume_reading(self) -> None:
        if self._paused and not self._closing:
            self._paused = False
            self._socket.pause(False)

    def is_reading(self) -> bool:
        return not self._paused and not self._closing and not self._decoder.pause[1]

    # Writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._ending:
            raise RuntimeError("cannot call write() after write_eof()")
        if self._closing:
            return
        if self._ahead:
            self._early.append(bytes(data))
            self._early_bytes += len(data)
            if self._early_bytes > self._limits[0]:
                self._pause_writing()
        else:
            last, self._last = self._last, False
            if self._socket.write(data, last):
                self._pause_writing()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def _flushed(self) -> None:
        """The loop's own transport has nothing to send any more."""
        if not self._ahead:
            return
        self._ahead = False
        early, self._early = b"".join(self._early), []
        self._early_bytes = 0
        if early:
            last, self._last = self._last, False
            if not self._socket.write(early, last):
                self._resume_writing()
        if self._beats is not None:
            self._socket.begin_beats(*self._beats)
        if self._ending:
            self._socket.end()
        if self._closing and not self._is_gone:
            self._socket.close()

    def _pause_writing(self) -> None:
        if not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()

    def _resume_writing(self) -> None:
        if self._writing_paused and not self._told:
            self._writing_paused = False
            self._protocol.resume_writing()

    def begin_beats(self, text: bytes, every_s: float, *, expects: bool) -> None:
        """Have the pump send heartbeats, behind the handshake; see `PumpSocket.begin_beats`."""
        if self._ahead:
            self._beats = (text, every_s, expects)
        else:
            self._socket.begin_beats(text, every_s, expects)

    def stop_answers(self) -> None:
        """The pump may send neither pongs, replies nor heartbeats any more."""
        self._socket.stop_answers()

    def begin_fragments(self) -> None:
        """The first fragment of a message is written next: the pump sends no message until after the last one."""
        self._last = False
        self._socket.hold_replies()

    def end_fragments(self) -> None:
        """The last fragment is written next."""
        self._last = True

    @property
    def sent(self) -> tuple[int, int, int]:
        """What the pump has sent of its own, and hasn't; see `PumpSocket.sent`."""
        return self._socket.sent

    def take_log(self) -> tuple[list[int], int]:
        """What the pump has sent of its own since the last call; see `PumpSocket.take_log`."""
        return self._socket.take_log()

    def can_write_eof(self) -> bool:
        return self._tls is None

    def write_eof(self) -> None:
        if not self._ending and not self._closing:
            self._ending = True
            if not self._ahead:
                self._socket.end()

    def get_write_buffer_size(self) -> int:
        return 0 if self._is_gone else self._socket.waiting_bytes + self._early_bytes

    def get_write_buffer_limits(self) -> tuple[int, int]:
        high, low = self._limits
        return low, high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._limits = write_limits(high, low)
        self._socket.set_limits(*self._limits)

    # Ending

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            if self._tls is not None and not self._is_gone and not self._loop.is_closed():
                self._deadline = self._loop.call_later(self._tls.shutdown_timeout_s, self.abort)
            if not self._ahead:
                self._socket.close()

    def abort(self) -> None:
        self._closing = True
        if not self._is_gone:
            self._socket.abort()

    # What it is

    @property
    def socket(self) -> PumpSocket:
        """What the pump owns."""
        return self._socket

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._original.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        raise NotImplementedError("the pump decodes for one connection")

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]


def pumpable(transport: asyncio.Transport) -> str | None:
    """Why a pump can't read the socket of this transport; None if it can."""
    if isinstance(transport, TlsTransport):
        return None
    if transport.get_extra_info("sslcontext") is not None:
        return f"it is encrypted, and {unreachable() or 'not by a socket of the module ssl'}"
    sock = transport.get_extra_info("socket")
    with contextlib.suppress(Exception):
        if sock.fileno() >= 0:
            return None
    return "it has no socket"
