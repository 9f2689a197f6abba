from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from libcpp.string cimport string
from libcpp.vector cimport vector

from ._decoder cimport FrameDecoder
from ._inbox cimport Record
from ._run cimport Run

cdef extern from "sent_log.hpp" namespace "fastws" nogil:
    cdef cppclass SentLog:
        void add(int number) noexcept
        void clear() noexcept
        bint empty() noexcept
        size_t size() noexcept
        int number(size_t index) noexcept
        uint64_t more() noexcept

cdef extern from "line.hpp" namespace "fastws" nogil:
    cdef cppclass Reports:
        int open() noexcept
        int fd() noexcept
        void forget(Line* line) noexcept

    cdef struct Entry "fastws::Reports::Entry":
        void* reference
        uint32_t report

    cdef struct Written "fastws::Outlet::Written":
        size_t waiting
        bint first, full
        int error
        bint beat, withheld, logged

    cdef enum Beat "fastws::Outlet::Beat":
        BEAT_DONE "fastws::Outlet::BEAT_DONE"
        BEAT_WAITS "fastws::Outlet::BEAT_WAITS"
        BEAT_OVER "fastws::Outlet::BEAT_OVER"

    cdef cppclass Outlet:
        Written write(const char* data, size_t length, bint last) noexcept
        Written answer(const char* data, size_t length, size_t last, int* sent) noexcept
        Written reply(
            const char* data, size_t length, uint64_t count, uint64_t more, const SentLog& log
        ) noexcept
        Written beat(const char* data, size_t length, const SentLog& log, Beat* what) noexcept
        void stop_answers() noexcept
        void hold_replies() noexcept
        void count_own(uint64_t* messages, uint64_t* nbytes, uint64_t* withheld) noexcept
        void take_log(SentLog& log) noexcept
        void end() noexcept
        void set_limits(size_t high, size_t low) noexcept
        size_t size() noexcept
        bint is_full() noexcept

    cdef cppclass Line:
        int fd
        void* decoder
        void* handle
        Outlet outlet

    enum:
        ORDER_LOOK
        ORDER_FLUSH
        ORDER_CLOSE
        ORDER_ABORT
        ORDER_BEAT
        REPORT_STEP
        REPORT_END
        REPORT_DRAINED
        REPORT_GONE

cdef extern from "pump.hpp" namespace "fastws" nogil:
    ctypedef int (*StepFunction)(Line*) noexcept

    cdef cppclass Pump:
        Pump(const char* name, int cpu, StepFunction read, StepFunction look, StepFunction beat, StepFunction over,
             void (*orphaned)() noexcept) except +
        int adopt(Line* line) noexcept
        void order(Line* line, uint32_t order) noexcept
        void tell(Line* line, uint32_t what) noexcept
        void begin_beats(Line* line, int64_t every_ns) noexcept
        size_t lines() noexcept
        bint running() noexcept
        void stop() noexcept
        void allow() noexcept
        Line* take_gone() noexcept
        void return_gone(Line* line) noexcept

    enum:
        STEP_ON
        STEP_BLOCKED
        STEP_END

cdef enum:
    RUN_MAX = 128               # messages that a consumer takes in one visit to the queue, unless it takes its ring
    RUN_BYTES_MAX = 64 * 1024   # payload that it holds outside of it


cdef struct Frames:             # one behind the other
    uint8_t* data
    size_t size, capacity
    size_t last                 # where the last one begins
    uint64_t count


cdef class PumpedDecoder(FrameDecoder):
    cdef Pump* pump             # NULL: nobody reads (not yet, or no more)
    cdef Line* line

    # The consumer's own.
    cdef Run run_here
    cdef Record[RUN_MAX] room

    cdef unsigned long loop_thread
    cdef object ahead
    cdef object log
    cdef bint logs_ahead        # log isn't None

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
    cdef int detach(self) except -1
    cdef uint64_t fetch(self, bint alone) except? 0
    cdef bint is_ahead(self) noexcept
    cdef bint wait_for(self, object timeout_s, bint whole) except -1
    cdef void take_run(self) noexcept nogil
