"""Bytes from a transport, straight into a decoder's memory."""

from __future__ import annotations

from typing import Any

from ..wire import Status
from .decoder import FrameDecoder
from .iterator import Turn

__all__ = ["Intake"]

_MESSAGE = int(Status.MESSAGE)


class Intake:
    """A buffered protocol, what the transport of a connection talks to once it is OPEN.

    asyncio wants it to be an `asyncio.BufferedProtocol` besides, and uvloop wants it not to be an `asyncio.Protocol`.

    Args:
        connection: Hears of all that is rare.
        decoder: Whose memory the transport writes to.
        turn: Who waits for messages.
        burst_max: Bytes after which the connection is to let the loop run its other callbacks.
        verbose: Whether the connection wants to know of each step.
    """

    __slots__ = ("_burst_max", "_connection", "_decoder", "_turn", "_verbose")

    def __init__(self, connection: Any, decoder: FrameDecoder, turn: Turn, burst_max: int, verbose: bool) -> None:
        self._connection = connection
        self._decoder = decoder
        self._turn = turn
        self._burst_max = burst_max
        self._verbose = verbose

    def get_buffer(self, sizehint: int, /) -> memoryview:
        """Memory for the next read."""
        return self._decoder.get_buffer(sizehint)

    def buffer_updated(self, nbytes: int, /) -> None:
        """So much was read: decode it, and wake who waits for it."""
        status = self._decoder.buffer_updated(nbytes)
        self._turn.burst += nbytes
        if self._turn.burst >= self._burst_max:
            self._turn.burst = 0
            self._connection._burst_over()
        if status > _MESSAGE or self._verbose:
            self._connection._step(status)
        elif not self._turn.wake() and not self._connection._watched:
            self._connection._watch()

    def read_for(self, transport: Any, descriptor: int, /) -> None:
        """Read the socket of one of asyncio's own transports in its stead: in Python, nothing would be saved."""

    def eof_received(self) -> bool | None:
        """The end of the stream."""
        return self._connection.eof_received()  # type: ignore[no-any-return]

    def connection_lost(self, exc: Exception | None, /) -> None:
        """The end of the transport."""
        self._connection.connection_lost(exc)

    def pause_writing(self) -> None:
        """The transport has enough."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """The transport takes more."""
        self._connection.resume_writing()
