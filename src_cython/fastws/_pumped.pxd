from libc.stdint cimport uint64_t

from ._fed cimport FedDecoder


cdef class PumpedDecoder(FedDecoder):
    cdef unsigned long loop_thread
    cdef object ahead
    cdef object log
    cdef bint logs_ahead        # log isn't None

    cdef uint64_t fetch(self, bint alone) except? 0
    cdef bint is_ahead(self) noexcept
    cdef bint wait_for(self, object timeout_s, bint whole) except -1
    cdef void take_run(self) noexcept nogil
