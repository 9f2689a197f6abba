"""Clocks, in nanoseconds."""

from libc.stdint cimport int64_t

cdef extern from "clock.hpp" namespace "fastws" nogil:
    int64_t monotonic_ns() noexcept
    int64_t deadline_ns(double seconds) noexcept
    int64_t wall_ns() noexcept
