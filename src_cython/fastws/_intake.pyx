"""Bytes from a transport, straight into a decoder's memory."""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport SIZE_MAX

from ._decoder cimport FrameDecoder
from ._iterator cimport Turn
from ._section cimport Section
from ._segment cimport Segment, segment_hold, segment_release
from ._wire cimport STATUS_MESSAGE

import os

cdef extern from *:
    """
    #ifdef _WIN32
    static inline Py_ssize_t fastws_read_now(int, void *, size_t) { errno = EAGAIN; return -1; }
    #else
    #include <sys/socket.h>
    static inline Py_ssize_t fastws_read_now(int descriptor, void *data, size_t length) {
        return recv(descriptor, data, length, MSG_DONTWAIT);
    }
    #endif
    """
    Py_ssize_t fastws_read_now(int descriptor, void* data, size_t length) nogil

cdef enum:
    WITH_GIL_MAX = 16 * 1024    # most that is read without giving up the GIL: a few microseconds


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
    cdef object transport       # whose socket is read here, or None; of the section of the decoder
    cdef int descriptor

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
        cdef int status
        cdef Section section
        section.enter(self.decoder)
        status = self.decoder.updated(nbytes)
        section.leave()
        self.tell(status, nbytes)

    def read_for(self, transport, int descriptor, /):
        """Read the socket of one of asyncio's own transports in its stead, when the loop finds it readable.

        Saves most of what the transport does in Python for each read. What is rare is left to it. asyncio's loop has
        one of these reads in a cycle, so bursts need no end.
        """
        cdef Section section
        section.enter(self.decoder)
        self.transport = transport
        self.descriptor = descriptor
        self.burst_max = SIZE_MAX
        section.leave()
        transport._read_ready_cb = self.read_ready

    def read_ready(self):
        """The socket is readable: stands in for the transport's own callback."""
        cdef object transport
        cdef void* target
        cdef Segment* segment
        cdef size_t size
        cdef Py_ssize_t nbytes
        cdef int error, status
        cdef Section section
        section.enter(self.decoder)
        transport = self.transport
        if transport is None or transport._conn_lost:
            return
        try:
            self.decoder.prepare(-1)
        except MemoryError as exc:
            section.leave()
            transport._fatal_error(exc, "Fatal error: protocol.get_buffer() call failed.")
            return
        segment = self.decoder.segment
        target = segment.data + self.decoder.filled
        size = self.decoder.lent
        if size <= WITH_GIL_MAX:
            nbytes = fastws_read_now(self.descriptor, target, size)
            error = errno
        else:
            # Kept for the kernel, whatever others do with the decoder meanwhile.
            segment_hold(segment, 1)
            with nogil:
                nbytes = fastws_read_now(self.descriptor, target, size)
                error = errno
            segment_release(segment, 1)
        if nbytes > 0:
            try:
                status = self.decoder.updated(nbytes)
                section.leave()
                self.tell(status, nbytes)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as exc:
                section.leave()
                transport._fatal_error(exc, "Fatal error: protocol.buffer_updated() call failed.")
            return
        section.leave()
        if nbytes == 0:
            transport._read_ready__on_eof()
        elif error != EAGAIN and error != EINTR:
            transport._fatal_error(OSError(error, os.strerror(error)), "Fatal read error on socket transport")

    cdef int tell(self, int status, Py_ssize_t nbytes) except -1:
        self.turn.burst += nbytes
        if self.turn.burst >= self.burst_max:
            self.turn.burst = 0
            self.connection._burst_over()
        if status > STATUS_MESSAGE or self.verbose:
            self.connection._step(status)
        elif not self.turn.rouse() and not self.connection._watched:
            self.connection._watch()
        return 0

    def eof_received(self):
        """The end of the stream."""
        return self.connection.eof_received()

    def connection_lost(self, exc, /):
        """The end of the transport."""
        cdef object transport
        cdef Section section
        section.enter(self.decoder)
        transport, self.transport = self.transport, None
        section.leave()
        if transport is not None:
            # Break the cycle.
            transport._read_ready_cb = None
        self.connection.connection_lost(exc)

    def pause_writing(self):
        """The transport has enough."""
        self.connection.pause_writing()

    def resume_writing(self):
        """The transport takes more."""
        self.connection.resume_writing()
