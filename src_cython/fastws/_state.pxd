cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from ._admission cimport Gate
from ._inbox cimport Inbox
from ._inflate cimport Inflater
from ._latch cimport Latch
from ._run cimport Run
from ._segment cimport Segment
from ._utf8 cimport Utf8

cdef enum:
    CARRY_MAX = 512             # a partial frame up to this size waits outside of a segment
    LEND_MAX = 256 * 1024       # most that one read may bring
    HINT_MAX = 1024 * 1024      # the same where a transport says how much waits in it
    RECORD_MAX = 16 * 1024      # plaintext of one TLS record, RFC 8446 5.1
    CONTROL_HEAD = 10           # opcode, length, received_ns


cdef uint64_t unlimited(object limit)

cdef class DecoderState:
    cdef Latch* latch           # NULL: one thread at a time
    cdef bint made              # initialised, once and for all
    cdef bint abandoned         # another process was at work on it: its memory can't be trusted
    cdef Inbox inbox
    cdef Run* run               # of who consumes what a pump feeds; NULL without a latch
    cdef Gate gate
    cdef bint admits            # by gate: anything but plain Block
    cdef bint asks              # functions for keys
    cdef Segment* joined        # a fragmented message so far, where complete ones only are queued
    cdef size_t joined_bytes
    cdef uint64_t messages_max, bytes_max

    # Received bytes: [parsed, filled) of segment, or carry while there is no segment.
    cdef Segment* segment
    cdef size_t parsed, filled
    cdef size_t lent            # what get_buffer lent last
    cdef bint hinted            # sizehint is what waits in the transport
    cdef int read_class         # size class of the next segment: grows with full reads
    cdef int small_reads
    cdef uint8_t carry[CARRY_MAX]
    cdef size_t carried
    cdef uint64_t frame_size    # of the incomplete frame at parsed, as far as known; 0 at a frame boundary

    # Rules
    cdef bint masked            # whether frames must be masked: our side is the server
    cdef bint deflate
    cdef uint64_t max_message, max_fragment, max_fragments

    # State
    cdef bint ended             # all further input is ignored
    cdef bint blocked
    cdef bint want
    cdef bint dropping          # data frames are thrown away
    cdef bint at_end            # of the stream
    cdef bint close_seen        # behind the place where decoding stopped
    cdef uint64_t logged        # frames up to this one were seen by unlogged()
    cdef bint fragmented        # between the first and the last frame of a message
    cdef bint compressed        # that message is compressed
    cdef bint text              # that message is text
    cdef uint64_t message_size  # of that message so far
    cdef uint64_t fragments     # of that message so far
    cdef Utf8 utf8
    cdef Inflater inflater
    cdef int64_t received_ns    # of the last read
    cdef uint64_t bytes_in
    cdef int violated           # a Violation, or 0
    cdef uint64_t violation_value, violation_limit

    # Control frames found and not yet taken: CONTROL_HEAD and payload, one behind the other.
    cdef uint8_t* control
    cdef size_t control_size, control_capacity
    cdef size_t scanned         # bytes behind parsed whose pings and pongs were taken already

    cdef bint stepped           # a data frame was queued in this step
    cdef bint decoding          # without the GIL; never with a latch, as it is looked at outside of that
    cdef bint pumping           # behind a latch, which may be given away for a moment

    cdef size_t pending(self) noexcept nogil
    cdef void settle(self) noexcept nogil
    cdef bint may_resume(self) noexcept nogil
    cdef void fail(self, int violation, uint64_t value, uint64_t limit) noexcept nogil
    cdef int status(self) noexcept nogil
    cdef void stop_decoding(self) noexcept nogil
    cdef int64_t oldest(self) noexcept nogil
