from libc.stdint cimport uint8_t, uint64_t

from ._header cimport Header
from ._segment cimport Segment
from ._state cimport DecoderState


cdef class Decoding(DecoderState):
    cdef void decode(self) noexcept nogil
    cdef size_t decode_run(self, size_t position) noexcept nogil
    cdef bint must_stop(self) noexcept nogil
    cdef bint exceeds(self, Header* header) noexcept nogil
    cdef int data_frame(self, Header* header, uint8_t* payload, Segment* segment) noexcept nogil
    cdef void scan_ahead(self) noexcept nogil
    cdef bint add_control(self, Header* header, const uint8_t* payload) noexcept nogil
    cdef bint reply(self, int answer) noexcept nogil
    cdef int admit(self, uint8_t* payload, uint64_t length, uint8_t flags, Segment* segment) noexcept nogil
    cdef bint ask(self, const uint8_t* payload, uint64_t length, uint8_t flags) noexcept nogil
    cdef int admit_fragment(self, bint fin, uint8_t* payload, uint64_t length) noexcept nogil
    cdef void note_high_water(self) noexcept nogil
