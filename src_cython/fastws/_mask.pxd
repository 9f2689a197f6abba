"""Masking, RFC 6455 5.3: XOR with a 4-byte key that repeats. A payload may be cut anywhere and go on."""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy


cdef inline void mask_into(
    uint8_t* target, const uint8_t* source, size_t length, const uint8_t* key, size_t position
) noexcept nogil:
    """``target[i] = source[i] ^ key[(position + i) % 4]``; target may be source, but must not overlap otherwise."""
    cdef uint8_t turned[8]
    cdef uint64_t word, key8
    cdef size_t i
    for i in range(8):
        turned[i] = key[(position + i) & 3]
    memcpy(&key8, turned, 8)
    i = 0
    # Plain 8-byte words: the compiler turns this loop into the widest vectors it may use.
    while i + 8 <= length:
        memcpy(&word, source + i, 8)
        word ^= key8
        memcpy(target + i, &word, 8)
        i += 8
    while i < length:
        target[i] = source[i] ^ turned[i & 7]
        i += 1
