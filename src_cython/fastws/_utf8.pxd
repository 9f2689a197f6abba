"""UTF-8, resumable: a message may be cut between any two bytes (RFC 6455 5.6, 8.1; RFC 3629).

simdjson validates in bulk; the scalar machine below carries code points over the cuts and says what is wrong,
in the terms of Python's own decoder.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy

from ._wire cimport UTF8_CONTINUATION, UTF8_END, UTF8_START

cdef extern from "simdjson.h" namespace "simdjson" nogil:
    bint validate_utf8(const char* data, size_t length)


cdef struct Utf8:
    uint64_t position       # bytes of the message seen so far
    uint64_t start          # where the unfinished (or wrong) sequence begins
    uint8_t need            # continuation bytes still expected
    uint8_t low, high       # bounds of the next one
    uint8_t reason          # after a failure: a Utf8Reason


cdef inline void utf8_begin(Utf8* state) noexcept nogil:
    state.position = 0
    state.need = 0


cdef inline uint64_t load64(const uint8_t* data) noexcept nogil:
    cdef uint64_t word
    memcpy(&word, data, 8)
    return word


cdef inline bint is_ascii(const uint8_t* data, size_t length) noexcept nogil:
    """Whether all bytes are < 0x80. The last words overlap those before, so that no byte is looked at alone."""
    cdef uint64_t a = 0, b = 0, c = 0, d = 0
    cdef size_t i = 0
    if length >= 32:
        while i + 32 <= length:
            a |= load64(data + i)
            b |= load64(data + i + 8)
            c |= load64(data + i + 16)
            d |= load64(data + i + 24)
            i += 32
        data += length - 32
        a |= load64(data)
        b |= load64(data + 8)
        c |= load64(data + 16)
        d |= load64(data + 24)
        a |= b | c | d
    elif length >= 8:
        while i + 8 <= length:
            a |= load64(data + i)
            i += 8
        a |= load64(data + length - 8)
    else:
        for i in range(length):
            a |= data[i]
    return (a & 0x8080808080808080U) == 0


cdef inline bint utf8_step(Utf8* state, const uint8_t* data, size_t length) noexcept nogil:
    """Byte by byte. False at the first wrong sequence, with ``start`` and ``reason`` set."""
    cdef size_t i
    cdef uint8_t byte
    for i in range(length):
        byte = data[i]
        if state.need:
            if byte < state.low or byte > state.high:
                state.reason = UTF8_CONTINUATION
                return False
            state.need -= 1
            state.low = 0x80
            state.high = 0xBF
        elif byte >= 0x80:
            state.start = state.position + i
            state.low = 0x80
            state.high = 0xBF
            if byte < 0xC2 or byte > 0xF4:
                state.reason = UTF8_START
                return False
            if byte < 0xE0:
                state.need = 1
            elif byte < 0xF0:
                state.need = 2
                if byte == 0xE0:
                    state.low = 0xA0        # overlong
                elif byte == 0xED:
                    state.high = 0x9F       # surrogates
            else:
                state.need = 3
                if byte == 0xF0:
                    state.low = 0x90        # overlong
                elif byte == 0xF4:
                    state.high = 0x8F       # beyond U+10FFFF
    state.position += length
    return True


cdef inline bint utf8_feed(Utf8* state, const uint8_t* data, size_t length, bint fin) noexcept nogil:
    """Take the next ``length`` bytes of a message; ``fin`` if they are its last. False if they aren't UTF-8."""
    cdef size_t head = 0, tail
    while head < length and state.need:
        if not utf8_step(state, data + head, 1):
            return False
        head += 1
    # At most 3 bytes at the end can belong to a sequence that goes on in the next fragment.
    tail = length
    while tail > head and length - tail < 3 and data[tail - 1] & 0xC0 == 0x80:
        tail -= 1
    if tail > head and data[tail - 1] >= 0xC0:
        tail -= 1
    else:
        tail = length
    if tail > head:
        if validate_utf8(<const char*> data + head, tail - head):
            state.position += tail - head
        elif not utf8_step(state, data + head, tail - head):
            return False
    if not utf8_step(state, data + tail, length - tail):
        return False
    if fin and state.need:
        state.reason = UTF8_END
        return False
    return True
