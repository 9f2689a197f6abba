cimport cython

from libc.stdint cimport int64_t, uint64_t

from ._decoder cimport FrameDecoder
from ._histogram cimport Histogram


@cython.final
cdef class Turn:
    # All of it belongs to the section of the decoder.
    cdef bint is_busy           # another coroutine is receiving
    cdef object waiting         # the future of who waits for a message
    cdef object consuming       # weak reference to the task that received last
    cdef public size_t burst    # bytes read since somebody who waited was woken, or since the loop went round
    cdef Histogram waits, processings
    cdef int64_t handed_ns      # of the last look while the consumer has been at work; 0: it waits
    cdef uint64_t handed        # messages of the last batch; 0: single ones
    cdef FrameDecoder decoder
    cdef uint64_t max_messages
    cdef int64_t max_ns
    cdef uint64_t left          # messages in this turn
    cdef uint64_t until_clock   # messages until the clock is read
    cdef uint64_t clock_every
    cdef int64_t ends_ns        # 0: the turn's first message wasn't handed out yet

    cdef int begin(self) except -1
    cdef bint count(self, uint64_t messages) noexcept
    cdef bint look(self) noexcept
    cdef void processed(self, int64_t now) noexcept
    cdef void stop(self) noexcept
    cdef bint rouse(self) except -1
    cdef int note(self, object task) except -1
    cdef object take_message(self, object decode)
