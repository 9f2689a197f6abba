"""Bytes from a transport, straight into a decoder's memory."""

from ._decoder cimport FrameDecoder
from ._iterator cimport Turn
from ._wire cimport STATUS_MESSAGE


cdef class Intake:
    """A buffered protocol, what the transport of a connection talks to once it is OPEN.

    asyncio wants it to be an `asyncio.BufferedProtocol` besides, and uvloop wants it not to be an `asyncio.Protocol`.

    Args:
        connection: Hears of all that is rare.
        decoder: Whose memory the transport writes to.
        turn: Who waits for messages.
        burst_max: Bytes after which the connection is to let the loop run its other callbacks.
        verbose: Whether the connection wants to know of each step.
    """

    cdef object connection
    cdef FrameDecoder decoder
    cdef Turn turn
    cdef size_t burst_max
    cdef bint verbose

    def __init__(self, connection, FrameDecoder decoder not None, Turn turn not None, size_t burst_max, bint verbose):
        self.connection = connection
        self.decoder = decoder
        self.turn = turn
        self.burst_max = burst_max
        self.verbose = verbose

    def get_buffer(self, Py_ssize_t sizehint, /):
        """Memory for the next read."""
        return self.decoder.lend(sizehint)

    def buffer_updated(self, Py_ssize_t nbytes, /):
        """So much was read: decode it, and wake who waits for it."""
        cdef int status = self.decoder.updated(nbytes)
        self.turn.burst += nbytes
        if self.turn.burst >= self.burst_max:
            self.turn.burst = 0
            self.connection._burst_over()
        if status > STATUS_MESSAGE or self.verbose:
            self.connection._step(status)
        elif not self.turn.rouse() and not self.connection._watched:
            self.connection._watch()

    def eof_received(self):
        """The end of the stream."""
        return self.connection.eof_received()

    def connection_lost(self, exc, /):
        """The end of the transport."""
        self.connection.connection_lost(exc)

    def pause_writing(self):
        """The transport has enough."""
        self.connection.pause_writing()

    def resume_writing(self):
        """The transport takes more."""
        self.connection.resume_writing()
