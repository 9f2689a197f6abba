"""The lock of a decoder that a pump feeds and Python consumes; see latch.hpp for the rules that exclude deadlock."""

from libc.stdint cimport int64_t

cdef extern from "latch.hpp" namespace "fastws" nogil:
    cdef cppclass Latch:
        Latch() except +
        void enter() noexcept
        void leave() noexcept
        bint wanted() noexcept
        void give_way() noexcept
        void awaken() noexcept
        bint is_inherited() noexcept

    cdef cppclass Guard:
        int enter(object decoder, Latch* latch, const bint* decoding) except -1 with gil
        int enter(Latch* latch, bint decoding) except -1 with gil
        int look(object decoder, Latch* latch, const bint* decoding) except -1 with gil
        void leave() noexcept
        void sleep_until(int64_t deadline_ns) except * with gil
