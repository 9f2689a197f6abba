from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libcpp.string cimport string
from libcpp.vector cimport vector

from ._decoder cimport FrameDecoder
from ._inbox cimport Record
from ._line cimport Line, Pump, SentLog
from ._run cimport Run

cdef enum:
    RUN_MAX = 128               # messages that a consumer takes in one visit to the queue, unless it takes its ring
    ANSWERED = 0x80             # set in the opcode of a ping that the pump has answered


cdef struct Frames:             # one behind the other
    uint8_t* data
    size_t size, capacity
    size_t last                 # where the last one begins
    uint64_t count


cdef class FedDecoder(FrameDecoder):
    cdef Pump* pump             # NULL: nobody reads (not yet, or no more)
    cdef Line* line

    # The consumer's own, but for what it tells of what it holds.
    cdef Run run_here
    cdef Record[RUN_MAX] room

    # Behind the latch.
    cdef bint armed             # the loop is to be told of the next message
    cdef bint resuming          # the pump is to decode what waits
    cdef bint over              # nothing more will come
    cdef bint told              # of a violation
    cdef bint keeps_pings       # answered ones too, for the log
    cdef uint64_t pings_answered, heard_count
    cdef int64_t ping_delay_max_ns
    cdef uint64_t pauses
    cdef int64_t paused_since_ns, paused_ns, pause_max_ns
    cdef uint64_t unanswered    # what had been heard before the earliest heartbeat without an answer
    cdef int64_t unanswered_ns, beat_ns     # when that was sent, and the last one; 0: none was

    # Set before heartbeats begin.
    cdef bint beats_begun
    cdef string beat_text
    cdef bint beat_expects      # not any message is an answer

    # The pump's own.
    cdef size_t answered_to     # control frames up to here were looked at
    cdef Frames pongs, replies  # to be sent
    cdef SentLog replies_log    # if they are to be logged then
    cdef uint64_t crowded_out   # further replies, for which there is no room
    cdef bint told_withheld     # the loop knows that replies or heartbeats aren't sent

    # Set before the pump reads.
    cdef vector[string] reply_texts
    cdef vector[bint] replies_here  # whether the pump sends it

    cdef int read(self, Line* line) noexcept nogil
    cdef ssize_t read_once(self, Line* line, bint* full) noexcept nogil
    cdef int look(self, Line* line) noexcept nogil
    cdef int beat(self, Line* line) noexcept nogil
    cdef void finish(self) noexcept nogil
    cdef int end_step(self, Line* line, int step) noexcept nogil
    cdef void decode_pending(self) noexcept nogil
    cdef void gather_pongs(self) noexcept nogil
    cdef bint add(self, Frames* frames, int opcode, const uint8_t* payload, size_t length) noexcept nogil
    cdef uint32_t send_answers(self, Line* line) noexcept nogil
    cdef uint32_t tell_withheld(self) noexcept nogil
    cdef void settle_replies(self) noexcept nogil
    cdef uint64_t answers(self) noexcept nogil
    cdef void note_pause(self) noexcept nogil
    cdef void end_pause(self) noexcept nogil
    cdef void decode_rest(self) noexcept nogil
    cdef void go_on(self) noexcept
    cdef int beat_with(self, string text, bint expects) except -1
    cdef int attach(self, Pump* pump, Line* line) except -1
    cdef int starve(self, uint64_t nbytes) except -1
    cdef int detach(self) except -1
