"""Frame headers, RFC 6455 5.2: parse and format. Bytes in, a struct out; knows neither limits nor state."""

from libc.stdint cimport uint8_t, uint64_t

from ._wire cimport (
    BINARY,
    CLOSE,
    CONT,
    CONTROL_FRAGMENTED,
    CONTROL_TOO_LONG,
    INCORRECT_MASKING,
    INVALID_OPCODE,
    LENGTH_TOO_LARGE,
    MAX_CONTROL,
    PONG,
    RESERVED_BITS,
    RSV1_CONTINUATION,
    TEXT,
)


cdef struct Header:
    uint8_t opcode
    bint fin
    bint rsv1
    uint64_t length         # payload length
    bint sized              # length is known, though the masking key may be missing
    uint8_t key[4]          # masking key; zero if the frame isn't masked
    size_t size             # bytes of the header itself; while it is incomplete, bytes known to be needed
    uint64_t value          # on a violation: what was found
    uint64_t limit          # on a violation: what was allowed


cdef inline int header_parse(
    Header* header, const uint8_t* data, size_t available, bint masked, bint deflate
) noexcept nogil:
    """Parse the header at ``data``.

    Returns the bytes consumed; 0 if more are needed (``header.size`` says how many in all); -Violation if the
    frame breaks a rule that its header alone can break.
    """
    cdef uint8_t first, second, opcode, code
    cdef size_t size
    cdef size_t key_size = 4 if masked else 0
    cdef int i
    header.sized = False
    if available < 2:
        header.size = 2
        return 0
    first = data[0]
    second = data[1]
    opcode = first & 0x0F
    header.opcode = opcode
    header.fin = (first & 0x80) != 0
    header.rsv1 = (first & 0x40) != 0
    header.limit = 0
    if opcode > PONG or (opcode > BINARY and opcode < CLOSE):
        header.value = opcode
        return -<int> INVALID_OPCODE
    if first & 0x70:
        if deflate and opcode == CONT and header.rsv1:
            header.value = 0
            return -<int> RSV1_CONTINUATION
        if not deflate or (first & 0x30) or opcode >= CLOSE:
            header.value = (first >> 4) & 7
            return -<int> RESERVED_BITS
    code = second & 0x7F
    if opcode >= CLOSE:
        if not header.fin:
            header.value = opcode
            return -<int> CONTROL_FRAGMENTED
        if code > MAX_CONTROL:
            header.value = code
            header.limit = MAX_CONTROL
            return -<int> CONTROL_TOO_LONG
    if ((second & 0x80) != 0) != masked:
        header.value = not masked
        header.limit = masked
        return -<int> INCORRECT_MASKING
    if code < 126:
        header.length = code
        size = 2
    elif code == 126:
        size = 4
        header.size = size + key_size
        if available < 4:
            return 0
        header.length = (<uint64_t> data[2] << 8) | data[3]
    else:
        size = 10
        header.size = size + key_size
        if available < 10:
            return 0
        header.length = 0
        for i in range(2, 10):
            header.length = (header.length << 8) | data[i]
        if header.length >> 63:
            header.value = header.length
            header.limit = (<uint64_t> 1 << 63) - 1
            return -<int> LENGTH_TOO_LARGE
    header.sized = True
    header.size = size + key_size
    if masked:
        if available < size + 4:
            return 0
        header.key[0] = data[size]
        header.key[1] = data[size + 1]
        header.key[2] = data[size + 2]
        header.key[3] = data[size + 3]
        size += 4
    return <int> size


cdef inline size_t header_size(uint64_t length, bint masked) noexcept nogil:
    """Bytes that the header of a frame with ``length`` bytes of payload takes."""
    return (2 if length < 126 else 4 if length < 65536 else 10) + (4 if masked else 0)


cdef inline size_t header_format(
    uint8_t* target, uint8_t opcode, bint fin, bint rsv1, uint64_t length, const uint8_t* key
) noexcept nogil:
    """Write a header, at most 14 bytes; ``key`` is NULL for an unmasked frame. Returns the bytes written."""
    cdef uint8_t mask_bit = 0x80 if key != NULL else 0
    cdef size_t size
    cdef int i
    target[0] = (0x80 if fin else 0) | (0x40 if rsv1 else 0) | opcode
    if length < 126:
        target[1] = mask_bit | <uint8_t> length
        size = 2
    elif length < 65536:
        target[1] = mask_bit | 126
        target[2] = <uint8_t> (length >> 8)
        target[3] = <uint8_t> length
        size = 4
    else:
        target[1] = mask_bit | 127
        for i in range(8):
            target[2 + i] = <uint8_t> (length >> (56 - 8 * i))
        size = 10
    if key != NULL:
        for i in range(4):
            target[size + i] = key[i]
        size += 4
    return size
