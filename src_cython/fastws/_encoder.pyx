"""Messages in, bytes for the wire out (RFC 6455 5.2 and 6.1, RFC 7692). Knows no socket."""

cimport cython

import os

from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBuffer_Release,
    PyObject_CheckBuffer,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from ._header cimport header_format, header_size
from ._inflate cimport (
    deflater_begin,
    deflater_bound,
    deflater_close,
    deflater_forget,
    deflater_run,
)
from ._mask cimport mask_into
from ._section cimport Section
from ._wire cimport BINARY, CLOSE, CONT, MAX_CONTROL, MAX_HEADER, PONG, TEXT

cdef extern from "Python.h":
    int _PyBytes_Resize(PyObject** bytes, Py_ssize_t size) except -1
    ctypedef struct PyObject:
        pass

cdef extern from *:
    """
    #include <cstdint>
    #include "section.hpp"
    struct fastws_keys {
        uint8_t bytes[4096];
        size_t left;
    };
    static FASTWS_OF_THREAD fastws_keys fastws_keys_here;
    static inline fastws_keys *fastws_get_keys() { return &fastws_keys_here; }
    """
    ctypedef struct fastws_keys:
        uint8_t[4096] bytes
        size_t left
    fastws_keys* fastws_get_keys() noexcept

cdef enum:
    SCRATCH_KEEP = 64 * 1024    # compression scratch that an idle encoder keeps


cdef int next_key(uint8_t* key) except -1:
    """Masking keys come from the operating system's CSPRNG (RFC 6455 5.3, 10.3), many at a time.

    Of the thread where there is no GIL. To fill it gives the GIL up, or the section.
    """
    cdef fastws_keys* keys = fastws_get_keys()
    cdef bytes fresh
    if keys.left < 4:
        fresh = os.urandom(sizeof(keys.bytes))
        memcpy(keys.bytes, PyBytes_AS_STRING(fresh), sizeof(keys.bytes))
        keys.left = sizeof(keys.bytes)
    keys.left -= 4
    memcpy(key, keys.bytes + keys.left, 4)
    return 0


def _after_fork_in_child() -> None:
    """Parent and child must not go on with the same keys. No other thread has survived."""
    fastws_get_keys().left = 0


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)


cdef int source_open(Source* source, object data) except -1:
    """Borrow the bytes of a str or bytes-like object, without a copy where they are contiguous."""
    cdef Py_ssize_t length
    if isinstance(data, str):
        source.data = <const uint8_t*> PyUnicode_AsUTF8AndSize(data, &length)
        source.length = length
        source.text = True
        source.lent = False
        return 0
    if not PyObject_CheckBuffer(data):
        raise TypeError(f"data must be str or bytes-like, not {type(data).__name__}")
    try:
        PyObject_GetBuffer(data, &source.buffer, PyBUF_SIMPLE)
    except BufferError:
        # Not contiguous: every second byte of a buffer, say.
        PyObject_GetBuffer(memoryview(data).tobytes(), &source.buffer, PyBUF_SIMPLE)
    source.data = <const uint8_t*> source.buffer.buf
    source.length = source.buffer.len
    source.text = False
    source.lent = True
    return 0


cdef inline void source_close(Source* source) noexcept:
    if source.lent:
        PyBuffer_Release(&source.buffer)


@cython.final
cdef class FrameEncoder:
    """Messages in, bytes for the wire out (RFC 6455 section 5.2 and 6.1, RFC 7692). Knows no socket.

    Args:
        role: Our side. A client masks its frames, with keys from the operating system's CSPRNG (RFC 6455 5.3, 10.3).
        deflate: permessage-deflate as negotiated; None if it wasn't.

    Raises:
        ValueError: If role is neither.
    """

    def __init__(self, role, *, deflate=None):
        if role not in ("client", "server"):
            raise ValueError(f"role is {role!r}, must be 'client' or 'server'")
        self.masked = role == "client"
        if deflate is not None:
            self.deflate = True
            self.deflater.no_context_takeover = deflate.local_no_context_takeover
            self.deflater.window_bits = deflate.local_max_window_bits
            self.deflater.level = deflate.level
            self.deflater.mem_level = deflate.mem_level
            self.deflater.strategy = deflate.strategy

    def __dealloc__(self):
        deflater_close(&self.deflater)
        free(self.scratch)

    def encode(self, int opcode, data, /, bint fin=True):
        """One frame. Data frames are compressed if deflate was negotiated.

        Args:
            opcode: An `Opcode`; 0x0, 0x1, 0x2 carry data, 0x8, 0x9, 0xA control.
            data: Payload; str is encoded to UTF-8.
            fin: Whether it is the last fragment of its message.

        Raises:
            ValueError: If the opcode is unknown, or a control frame is fragmented or longer than 125 bytes
                (RFC 6455 5.5).
            TypeError: If data is neither str nor bytes-like.
            UnicodeEncodeError: If a str has lone surrogates.
        """
        return self.frame(opcode, data, fin)

    cdef bytes frame(self, int opcode, object data, bint fin):
        cdef Source source
        cdef bytes frame
        cdef size_t size
        cdef uint8_t* target
        cdef uint8_t[4] key
        cdef bint compressed = False
        cdef Section section
        if opcode < 0 or opcode > PONG or BINARY < opcode < CLOSE:
            raise ValueError(f"opcode {opcode:#x} is reserved (RFC 6455 5.2)")
        source_open(&source, data)
        try:
            if opcode >= CLOSE:
                if not fin:
                    raise ValueError(f"control frame {opcode:#x} can't be fragmented (RFC 6455 5.5)")
                if source.length > MAX_CONTROL:
                    raise ValueError(
                        f"control frame payload length {source.length} > max {MAX_CONTROL} (RFC 6455 5.5)"
                    )
            if self.masked:
                next_key(key)
            # From here until it is written, what is in scratch is ours.
            section.enter(self)
            if self.deflate and opcode < CLOSE:
                compressed = True
                self.compress(opcode, &source, fin)
            size = header_size(source.length, self.masked) + source.length
            frame = PyBytes_FromStringAndSize(NULL, size)
            target = <uint8_t*> PyBytes_AS_STRING(frame)
            self.write(target, opcode, fin, &source, key)
            compressed = False
            self.settle()
            section.leave()
        finally:
            if compressed:
                deflater_forget(&self.deflater)
            source_close(&source)
        return frame

    def encode_batch(self, messages, /, text=None):
        """Many unfragmented messages, one behind the other.

        Args:
            messages: str becomes a text message, bytes-like a binary one.
            text: True makes all of them text, False all of them binary.

        Raises:
            TypeError: If a message is neither str nor bytes-like; nothing is encoded then.
        """
        cdef list items = list(messages)
        cdef Source source
        cdef size_t room = 0, used = 0, need
        cdef uint8_t* target = NULL
        cdef uint8_t* grown
        cdef int opcode
        cdef bytes frames = None
        cdef uint8_t[4] key
        cdef Section section
        for item in items:
            # Before the first byte of deflate state changes: all must be encodable.
            source_open(&source, item)
            room += source.length + MAX_HEADER
            source_close(&source)
        if not self.deflate:
            # One pass, straight into the bytes that are returned.
            frames = PyBytes_FromStringAndSize(NULL, room)
            target = <uint8_t*> PyBytes_AS_STRING(frames)
            for item in items:
                source_open(&source, item)
                try:
                    if source.length + MAX_HEADER > room - used:
                        raise BufferError("a message grew while it was encoded")
                    opcode = TEXT if (source.text if text is None else text) else BINARY
                    if self.masked:
                        next_key(key)
                    used += self.write(target + used, opcode, True, &source, key)
                finally:
                    source_close(&source)
            return frames[:used]
        room = 0
        try:
            for item in items:
                source_open(&source, item)
                try:
                    opcode = TEXT if (source.text if text is None else text) else BINARY
                    if self.masked:
                        next_key(key)
                    section.enter(self)
                    self.compress(opcode, &source, True)
                    need = used + source.length + MAX_HEADER
                    if need > room:
                        room = 2 * need
                        grown = <uint8_t*> realloc(target, room)
                        if grown == NULL:
                            raise MemoryError(f"no memory for {room} bytes of frames")
                        target = grown
                    used += self.write(target + used, opcode, True, &source, key)
                finally:
                    section.leave()
                    source_close(&source)
            frames = PyBytes_FromStringAndSize(<char*> target, used)
        finally:
            free(target)
            section.enter(self)
            if frames is None:
                deflater_forget(&self.deflater)
            self.settle()
        return frames

    cdef int compress(self, int opcode, Source* source, bint fin) except -1:
        """Replace the payload of ``source`` by its compressed form, in scratch."""
        cdef size_t bound
        cdef Py_ssize_t length
        cdef uint8_t* scratch
        # A continuation of nothing is for the peer to refuse; it must not meet a stream that was never begun.
        if (opcode != CONT or not self.deflater.ready) and not deflater_begin(&self.deflater):
            raise MemoryError("no memory for a deflate stream")
        bound = deflater_bound(&self.deflater, source.length)
        if bound > self.scratch_size:
            scratch = <uint8_t*> realloc(self.scratch, bound)
            if scratch == NULL:
                raise MemoryError(f"no memory for {bound} bytes of compressed payload")
            self.scratch = scratch
            self.scratch_size = bound
        length = deflater_run(&self.deflater, source.data, source.length, fin, self.scratch, self.scratch_size)
        if length < 0:
            raise RuntimeError("zlib failed to compress (RFC 7692 7.2.1)")
        source.data = self.scratch
        source.length = length
        return 0

    cdef size_t write(self, uint8_t* target, int opcode, bint fin, Source* source, const uint8_t* key) noexcept:
        """Header, key and payload; returns the bytes written."""
        cdef size_t size
        cdef bint rsv1 = self.deflate and (opcode == TEXT or opcode == BINARY)
        if self.masked:
            size = header_format(target, opcode, fin, rsv1, source.length, key)
            mask_into(target + size, source.data, source.length, key, 0)
        else:
            size = header_format(target, opcode, fin, rsv1, source.length, NULL)
            memcpy(target + size, source.data, source.length)
        return size + source.length

    cdef void settle(self) noexcept:
        if self.scratch_size > SCRATCH_KEEP:
            free(self.scratch)
            self.scratch = NULL
            self.scratch_size = 0

    cdef void forget(self) noexcept:
        """The last frame isn't sent."""
        cdef Section section
        if self.deflate:
            section.enter(self)
            deflater_forget(&self.deflater)


def apply_mask(data, key, Py_ssize_t position=0, /):
    """XOR ``data`` with the 4-byte ``key``, beginning at byte ``position % 4`` of the key (RFC 6455 5.3)."""
    cdef Source source
    cdef uint8_t four[4]
    cdef bytes key_bytes = memoryview(key).tobytes()
    cdef bytes result
    cdef int i
    if len(key_bytes) != 4:
        raise ValueError(f"masking key has {len(key_bytes)} bytes, must have 4 (RFC 6455 5.3)")
    for i in range(4):
        four[i] = key_bytes[i]
    source_open(&source, memoryview(data))
    try:
        result = PyBytes_FromStringAndSize(NULL, source.length)
        mask_into(<uint8_t*> PyBytes_AS_STRING(result), source.data, source.length, four, <size_t> (position & 3))
    finally:
        source_close(&source)
    return result
