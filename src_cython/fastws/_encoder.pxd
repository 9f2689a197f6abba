from cpython.buffer cimport Py_buffer
from libc.stdint cimport uint8_t

from ._inflate cimport Deflater

cdef struct Source:
    const uint8_t* data
    size_t length
    bint text
    bint lent               # buffer must be released
    Py_buffer buffer


cdef class FrameEncoder:
    cdef bint masked
    cdef bint deflate
    cdef Deflater deflater
    cdef uint8_t* scratch
    cdef size_t scratch_size

    cdef bytes frame(self, int opcode, object data, bint fin)
    cdef int compress(self, int opcode, Source* source, bint fin) except -1
    cdef size_t write(self, uint8_t* target, int opcode, bint fin, Source* source, const uint8_t* key) noexcept
    cdef void settle(self) noexcept
    cdef void forget(self) noexcept
