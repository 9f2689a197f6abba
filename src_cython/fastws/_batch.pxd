cimport cython
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy

from ._inbox cimport FLAG_ASCII, FLAG_TEXT, Record

cdef extern from *:
    """
    #if defined(__GNUC__)
    #define FASTWS_PREFETCH(data) __builtin_prefetch(data)
    #else
    #define FASTWS_PREFETCH(data) ((void)(data))
    #endif
    /* A payload that an object is soon to be made of: by its beginning, the processor's prefetcher finds the rest. */
    static inline void fastws_prefetch(const uint8_t *data, size_t length) {
        for (size_t i = 0; i < length && i < 256; i += 64) FASTWS_PREFETCH(data + i);
    }
    """
    void fastws_prefetch(const uint8_t* data, size_t length) noexcept nogil

cdef extern from "Python.h":
    object PyUnicode_New(Py_ssize_t size, unsigned int maxchar)
    void* PyUnicode_DATA(object text)


cdef inline object make_object(const uint8_t* data, Py_ssize_t length, uint8_t flags):
    """str for text, bytes for binary. Text was validated when it arrived."""
    cdef object text
    if flags & FLAG_ASCII and length > 1:
        text = PyUnicode_New(length, 127)
        memcpy(PyUnicode_DATA(text), data, length)
        return text
    if flags & FLAG_TEXT:
        return PyUnicode_DecodeUTF8(<const char*> data, length, NULL)
    return PyBytes_FromStringAndSize(<const char*> data, length)


@cython.final
cdef class Batch:
    cdef Record* records        # of the owner
    cdef Py_ssize_t start, step, length
    cdef Py_ssize_t owned       # records that this batch frees; 0 for a slice
    cdef object losses          # Lost since the batch before; None: nothing
    cdef Batch owner            # for a slice: the batch whose memory it shares

    cdef inline Record* record(self, Py_ssize_t index) noexcept:
        return &self.records[self.start + index * self.step]
    cdef Record* checked(self, Py_ssize_t index) except NULL
    cdef void own(self, Record* records, Py_ssize_t start, Py_ssize_t length) noexcept

cdef Batch batch_new()
