"""Messages that a consumer has taken out of the queue of a pump in one visit, and hands out one by one."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from ._batch cimport fastws_prefetch, make_object
from ._inbox cimport Held, Record
from ._segment cimport Segment, array_free, segment_release

cdef extern from "run.hpp" namespace "fastws" nogil:
    cdef cppclass Run:
        Record* records
        Record* room
        Record* ring
        uint64_t at, end, bytes
        bint is_low
        uint32_t spent
        void* spent_segment
        Held held

cdef enum:
    AHEAD = 2                   # messages to the one whose payload is fetched into the cache


cdef inline uint64_t run_length(const Run* run) noexcept nogil:
    """Messages in it."""
    return run.end - run.at


cdef inline int64_t run_head_ns(const Run* run) noexcept nogil:
    """When the next message was received; 0 if there is none."""
    return run.records[run.at].received_ns if run.at != run.end else 0


cdef inline bint run_may_resume(const Run* run) noexcept nogil:
    """Whether the queue may have come to its low-water marks since the pump has stopped."""
    return run.held.stopped() and (run.is_low or run.at == run.end)


cdef inline void run_flush(Run* run) noexcept nogil:
    if run.spent:
        segment_release(<Segment*> run.spent_segment, run.spent)
        run.spent = 0


cdef inline void run_end(Run* run) noexcept nogil:
    """All of it was dropped, or has gone elsewhere."""
    run_flush(run)
    array_free(run.ring)
    run.ring = NULL
    run.records = run.room
    run.at = run.end = run.bytes = 0


cdef inline void run_drop(Run* run) noexcept nogil:
    """Give back the reference of the next message, sooner or later."""
    cdef Record* record = &run.records[run.at]
    if record.segment != run.spent_segment or run.spent == 0:
        run_flush(run)
        run.spent_segment = record.segment
    run.spent += 1
    run.bytes -= record.length
    run.at += 1
    if run.at == run.end:
        run_end(run)
    run.held.set(run.end - run.at, run.bytes)


cdef inline void run_clear(Run* run) noexcept nogil:
    while run.at != run.end:
        run_drop(run)
    run_end(run)


cdef inline object run_message(Run* run):
    """Take the next message; there must be one."""
    cdef Record* record = &run.records[run.at]
    cdef object message
    if run.at + AHEAD < run.end:
        fastws_prefetch(record[AHEAD].data, record[AHEAD].length)
    message = make_object(record.data, record.length, record.flags)
    run_drop(run)
    return message
