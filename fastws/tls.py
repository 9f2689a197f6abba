"""TLS for receive threads: a transport whose TLS session can be handed to a `Pump`.

asyncio keeps the TLS of a connection in memory, between its transport and the protocol. Here the session is on the
socket itself, made by the user's own `ssl.SSLContext`, so that the pump can take it, with all that it holds, behind
the opening handshake. Until then, and if the connection stays with the loop, `TlsTransport` is one like asyncio's.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from asyncio.trsock import TransportSocket
from collections.abc import Iterable
from typing import Any

from .core import Encryption

__all__ = ["TlsTransport", "write_limits"]

_HANDSHAKE_TIMEOUT_S = 60.0
"""Default of asyncio, and so is the next."""
_SHUTDOWN_TIMEOUT_S = 30.0
_HIGH = 64 * 1024
"""Default of asyncio for bytes that wait before writing pauses."""
_READ = 64 * 1024
_READS_MAX = 4
"""Reads in one cycle of the loop."""


def write_limits(high: int | None = None, low: int | None = None) -> tuple[int, int]:
    """(high, low) that ``set_write_buffer_limits(high, low)`` of asyncio's transports means.

    Raises:
        ValueError: If one is negative, or low > high.
    """
    if high is None:
        high = _HIGH if low is None else 4 * low
    if low is None:
        low = high // 4
    if not high >= low >= 0:
        raise ValueError(f"high is {high} and low {low}, must be high >= low >= 0")
    return high, low


class _Plain(asyncio.Protocol):
    """The protocol of the loop's own transport, which stays paused, and keeps its place in a server."""

    def __init__(self, transport: TlsTransport) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport._plain_lost(exc)


class TlsTransport(asyncio.Transport):
    """A transport of asyncio with TLS on the socket itself.

    Args:
        loop: It runs.
        plain: Transport of the loop; it doesn't read.
        encryption: On a copy of its socket.
        connection: The protocol, once the TLS handshake is done.
        context: Of the user.
        handshake_timeout_s: Seconds; None is 60.
        shutdown_timeout_s: Seconds that the peer has to close TLS on its side; None is 30.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        plain: asyncio.Transport,
        encryption: Encryption,
        connection: Any,
        context: ssl.SSLContext,
        *,
        handshake_timeout_s: float | None = None,
        shutdown_timeout_s: float | None = None,
    ) -> None:
        super().__init__()
        self._loop = loop
        self._plain = plain
        self.encryption = encryption
        self._sock: ssl.SSLSocket = encryption.sock
        self._session: Any = self._sock._sslobj  # type: ignore[attr-defined]
        self._fd = self._sock.fileno()
        self._protocol: Any = connection
        self._handshake_timeout_s = handshake_timeout_s or _HANDSHAKE_TIMEOUT_S
        self.shutdown_timeout_s = shutdown_timeout_s or _SHUTDOWN_TIMEOUT_S
        self._extra: dict[str, Any] = {
            "sslcontext": context,
            "socket": TransportSocket(self._sock),
            "peername": plain.get_extra_info("peername"),
            "sockname": plain.get_extra_info("sockname"),
        }
        self._handshaking: asyncio.Future[None] | None = loop.create_future()
        self._watched = [False, False]
        self._paused = self._writing_paused = self._closing = self._shutting = self._over = self._handed = False
        self._buffer = bytearray()
        self._high, self._low = write_limits()
        # TLS has messages of its own: reading may want to write, and the other way round.
        self._read_wants_write = self._write_wants_read = False
        self._error: Exception | None = None
        self._timer: asyncio.TimerHandle | None = None
        plain.set_protocol(_Plain(self))

    def __repr__(self) -> str:
        state = "closed" if self._over else "closing" if self._closing else "open"
        return f"<TlsTransport {state} on {self._plain!r}>"

    # The TLS handshake

    async def made(self) -> None:
        """Do the handshake, then tell the protocol.

        Raises:
            OSError: What the loop's own TLS raises.
        """
        waiter = self._handshaking
        assert waiter is not None
        timeout_s = self._handshake_timeout_s
        timer = self._loop.call_later(timeout_s, self._handshake_timed_out, timeout_s)
        try:
            # uvloop has gone on reading after it was paused in connection_made.
            self._plain.pause_reading()
            self._handshake()
            await waiter
        except BaseException:
            self.abort()
            raise
        finally:
            timer.cancel()

    def _handshake_timed_out(self, timeout_s: float) -> None:
        self._fail(
            ConnectionAbortedError(f"SSL handshake is taking longer than {timeout_s} seconds: aborting the connection")
        )

    def _handshake(self) -> None:
        waiter = self._handshaking
        assert waiter is not None
        try:
            self._sock.do_handshake()
        except ssl.SSLWantReadError:
            self._watch(True, False)
        except ssl.SSLWantWriteError:
            self._watch(False, True)
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            self._fail(ConnectionResetError())
        except Exception as exc:
            self._fail(exc)
        else:
            self._handshaking = None
            sock = self._sock
            self._extra.update(
                peercert=sock.getpeercert(), cipher=sock.cipher(), compression=sock.compression(), ssl_object=sock
            )
            self._watch(False, False)
            self._protocol.connection_made(self)
            # What came with the end of the handshake isn't seen by the loop.
            self._loop.call_soon(self._ready)
            if not waiter.done():
                waiter.set_result(None)

    # Watching the socket

    def _watch(self, reads: bool, writes: bool) -> None:
        for number, wanted, add, remove in (
            (0, reads, self._loop.add_reader, self._loop.remove_reader),
            (1, writes, self._loop.add_writer, self._loop.remove_writer),
        ):
            if wanted != self._watched[number]:
                self._watched[number] = wanted
                if wanted:
                    add(self._fd, self._ready)
                else:
                    remove(self._fd)

    def _update(self) -> None:
        if self._over or self._handed or self._handshaking is not None:
            return
        reading = not self._paused or self._closing
        writing = bool(self._buffer)
        self._watch(
            (reading and not self._read_wants_write) or (writing and self._write_wants_read),
            (writing and not self._write_wants_read) or (reading and self._read_wants_write),
        )

    def _ready(self) -> None:
        if self._over or self._handed:
            return
        if self._handshaking is not None:
            self._handshake()
            return
        try:
            if self._buffer:
                self._flush()
            if self._shutting:
                self._shut()
            elif not self._paused:
                self._read()
        except Exception as exc:
            self._fail(exc)
        else:
            self._update()

    # Reading

    def _read(self) -> None:
        for _ in range(_READS_MAX):
            self._read_wants_write = False
            try:
                data = self._sock.recv(_READ)
            except ssl.SSLWantReadError:
                return
            except ssl.SSLWantWriteError:
                self._read_wants_write = True
                return
            if self._closing:
                # Nobody wants it any more.
                if not data:
                    return
                continue
            if not data:
                self._protocol.eof_received()
                self.close()
                return
            self._protocol.data_received(data)
            if self._paused or self._over or self._handed:
                return
        # libssl may hold more, which the loop doesn't see.
        self._loop.call_soon(self._ready)

    def pause_reading(self) -> None:
        self._paused = True
        self._update()

    def resume_reading(self) -> None:
        if self._paused:
            self._paused = False
            self._update()
            self._loop.call_soon(self._ready)

    def is_reading(self) -> bool:
        return not self._paused and not self._closing

    # Writing

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._handed or not data:
            return
        self._buffer += data
        if len(self._buffer) == len(data):
            try:
                self._flush()
            except Exception as exc:
                self._fail(exc)
                return
        if len(self._buffer) > self._high and not self._writing_paused:
            self._writing_paused = True
            self._protocol.pause_writing()
        self._update()

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        self.write(b"".join(list_of_data))

    def _flush(self) -> None:
        self._write_wants_read = False
        while self._buffer:
            try:
                sent = self._sock.send(self._buffer[:_READ])
            except ssl.SSLWantWriteError:
                break
            except ssl.SSLWantReadError:
                self._write_wants_read = True
                break
            del self._buffer[:sent]
        if self._writing_paused and len(self._buffer) <= self._low and not self._over:
            self._writing_paused = False
            self._protocol.resume_writing()
        if self._closing and not self._buffer:
            self._shutting = True

    def can_write_eof(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def get_write_buffer_limits(self) -> tuple[int, int]:
        return self._low, self._high

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._high, self._low = write_limits(high, low)

    # Handing over

    def hand_over(self) -> bytes:
        """A pump has adopted the TLS session: nothing is read or written here any more.

        Returns:
            What must be written first.
        """
        self._watch(False, False)
        self._handed = True
        unsent = bytes(self._buffer)
        self._buffer.clear()
        if self._writing_paused:
            self._writing_paused = False
            self._protocol.resume_writing()
        return unsent

    # Ending

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Send what waits, then close_notify; close the socket when the peer has done the same."""
        if self._closing:
            return
        self._closing = True
        self._timer = self._loop.call_later(self.shutdown_timeout_s, self.abort)
        self._shutting = not self._buffer
        self._loop.call_soon(self._ready)

    def _shut(self) -> None:
        try:
            self._session.shutdown()
        except ssl.SSLWantWriteError:
            self._read_wants_write = True
        except ssl.SSLWantReadError:
            self._read_wants_write = False
        except OSError:
            # Data came after close_notify, or nobody is there any more.
            with contextlib.suppress(OSError):
                while self._sock.recv(_READ):
                    pass
            self._end(None)
        else:
            self._end(None)

    def abort(self) -> None:
        self._end(None)

    def _fail(self, exc: Exception) -> None:
        if self._handshaking is not None and not self._handshaking.done():
            self._handshaking.set_exception(exc)
        self._end(exc)

    def _end(self, exc: Exception | None) -> None:
        if self._over:
            return
        self._over = self._closing = True
        self._error = exc
        if self._timer is not None:
            self._timer.cancel()
        self._watch(False, False)
        if not self._handed:
            # Otherwise it is the pump's.
            self.encryption.close()
        self._plain.abort()

    def _plain_lost(self, exc: Exception | None) -> None:
        self._end(exc)
        waiter = self._handshaking
        if waiter is not None:
            if not waiter.done():
                waiter.set_exception(exc or ConnectionResetError())
        else:
            self._protocol.connection_lost(self._error or exc)

    # What it is

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._extra[name] if name in self._extra else self._plain.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        if isinstance(protocol, asyncio.BufferedProtocol):
            raise NotImplementedError("only data_received() is called")
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol  # type: ignore[no-any-return]
