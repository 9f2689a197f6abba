"""The pump's native side: its thread, its connections and what each sends; see pump.hpp, line.hpp and outlet.hpp."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

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
