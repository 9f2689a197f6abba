from libc.stdint cimport int64_t, uint64_t

from ._batch cimport Batch
from ._decoding cimport Decoding
from ._inbox cimport Record


cdef class FrameDecoder(Decoding):
    cdef object lend(self, Py_ssize_t sizehint)
    cdef int prepare(self, Py_ssize_t sizehint) except -1
    cdef int updated(self, Py_ssize_t nbytes) except -1
    cdef void note_read(self, size_t nbytes) noexcept nogil
    cdef int reserve(self, size_t wanted) noexcept nogil
    cdef bint received(self, size_t nbytes) noexcept nogil
    cdef void advance(self, size_t nbytes) noexcept
    cdef int resumed(self) except -1
    cdef uint64_t ready(self) except? 0
    cdef int64_t head_ns(self) noexcept
    cdef bint can_resume(self) except -1
    cdef void expire(self) noexcept nogil
    cdef object pop_message(self, object decode)
    cdef Py_ssize_t head_fragments(self, uint64_t index) noexcept nogil
    cdef object join_head(self, object decode)
    cdef object take_fragment(self, tuple fragment)
    cdef uint64_t move_out(self, uint64_t most, Record** out, uint64_t* start) except? 0
    cdef bint unreported(self, uint64_t* lost) noexcept nogil
    cdef int tell_losses(self, Batch batch, const uint64_t* lost) except -1
    cdef bint take_one(self, Record* target, bint at_head) except -1
    cdef list take_unlogged(self)
    cdef list take_controls(self, bint timed)


cdef tuple fragment_new()
cdef object fragment_fill(tuple fragment, int opcode, bint fin, bytes payload)
