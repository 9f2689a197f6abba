"""permessage-deflate, RFC 7692, in and out. Output is bounded while it inflates, not afterwards.

Inflated messages lie one behind the other in segments of their own, so that a batch refers to them as it does to
messages that came uncompressed.
"""

from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

from ._segment cimport (
    Segment,
    segment_class_capacity,
    segment_is_exclusive,
    segment_new,
    segment_release,
)
from ._wire cimport INFLATE_FAILED, INFLATED_TOO_BIG, OUT_OF_MEMORY

cdef extern from "zlib.h" nogil:
    ctypedef struct z_stream:
        uint8_t* next_in
        unsigned int avail_in
        uint8_t* next_out
        unsigned int avail_out
    int Z_OK, Z_STREAM_END, Z_BUF_ERROR, Z_MEM_ERROR, Z_SYNC_FLUSH, Z_DEFLATED
    int inflateInit2(z_stream* stream, int window_bits)
    int inflate(z_stream* stream, int flush)
    int inflateReset(z_stream* stream)
    int inflateEnd(z_stream* stream)
    int deflateInit2(z_stream* stream, int level, int method, int window_bits, int mem_level, int strategy)
    int deflate(z_stream* stream, int flush)
    int deflateReset(z_stream* stream)
    int deflateEnd(z_stream* stream)
    unsigned long deflateBound(z_stream* stream, unsigned long length)

cdef extern from "small_inflate.h" namespace "fastws" nogil:
    Py_ssize_t REFUSED
    Py_ssize_t inflate_small(const uint8_t* data, size_t length, uint8_t* output, size_t room, size_t window)

cdef enum:
    SMALL_MAX = 8192            # longest compressed message for which `inflate_small` is tried
    ROOM_MIN = 1024             # least room left in a segment to begin inflating there
    CHUNK_MAX = 1 << 30         # zlib counts in unsigned int

cdef struct Inflater:
    bint ready                  # stream is initialised
    bint fresh                  # stream has inflated nothing since its last reset
    bint no_context_takeover
    int window_bits
    z_stream stream
    Segment* segment            # where output goes; one reference is the inflater's
    size_t used


cdef inline void inflater_init(Inflater* self, bint no_context_takeover, int window_bits) noexcept nogil:
    memset(self, 0, sizeof(Inflater))
    self.no_context_takeover = no_context_takeover
    self.window_bits = window_bits


cdef inline void inflater_close(Inflater* self) noexcept nogil:
    if self.ready:
        inflateEnd(&self.stream)
        self.ready = False
    if self.segment != NULL:
        segment_release(self.segment, 1)
        self.segment = NULL


cdef inline void inflater_settle(Inflater* self) noexcept nogil:
    """Give the output segment back, or begin it anew, when no message lies in it. With the GIL."""
    if self.segment != NULL and segment_is_exclusive(self.segment):
        segment_release(self.segment, 1)
        self.segment = NULL


cdef inline int inflater_begin(Inflater* self) noexcept nogil:
    """Called at the first frame of a compressed message. 0, or -Violation."""
    if not self.ready:
        if inflateInit2(&self.stream, -self.window_bits) != Z_OK:
            return -<int> OUT_OF_MEMORY
        self.ready = True
    elif self.no_context_takeover and not self.fresh and inflateReset(&self.stream) != Z_OK:
        return -<int> INFLATE_FAILED
    self.fresh = True
    return 0


cdef inline bint inflater_more_room(Inflater* self, size_t start, size_t least) noexcept nogil:
    """Move what was inflated since ``start`` to a segment with at least ``least`` bytes in all."""
    cdef Segment* segment
    cdef size_t done = self.used - start if self.segment != NULL else 0
    if least < segment_class_capacity(1):
        least = segment_class_capacity(1)
    segment = segment_new(least)
    if segment == NULL:
        return False
    if self.segment != NULL:
        memcpy(segment.data, self.segment.data + start, done)
        segment_release(self.segment, 1)
    self.segment = segment
    self.used = done
    return True


cdef inline int inflater_run(
    Inflater* self, uint8_t* data, uint64_t length, bint fin, uint64_t limit, uint8_t** output, uint64_t* produced
) noexcept nogil:
    """Inflate one frame. 0 with ``output`` and ``produced`` set, or -Violation.

    For the last frame of a message, the 4 bytes behind ``data`` are overwritten for a while: RFC 7692 7.2.2 wants
    00 00 FF FF there, and a segment always has a tail.
    """
    cdef z_stream* stream = &self.stream
    cdef uint8_t saved[4]
    cdef size_t start, room
    cdef uint64_t done, left, left_over
    cdef unsigned int before
    cdef int status, result = 0
    cdef Py_ssize_t small
    if self.segment == NULL or self.segment.capacity - self.used < ROOM_MIN:
        if self.segment != NULL:
            segment_release(self.segment, 1)
            self.segment = NULL
        self.used = 0
        if not inflater_more_room(self, 0, 0):
            return -<int> OUT_OF_MEMORY
    start = self.used
    # A whole message that needs no window and leaves none. What is refused or beyond the limit is for zlib to judge.
    if fin and self.fresh and self.no_context_takeover and length <= SMALL_MAX:
        small = inflate_small(
            data, length, self.segment.data + start, self.segment.capacity - start, <size_t> 1 << self.window_bits
        )
        if small != REFUSED and <uint64_t> small <= limit:
            self.used += small
            output[0] = self.segment.data + start
            produced[0] = small
            return 0
    self.fresh = False
    left = length
    if fin:
        memcpy(saved, data + length, 4)
        data[length] = data[length + 1] = 0
        data[length + 2] = data[length + 3] = 0xFF
        left += 4
    stream.next_in = data
    while True:
        if stream.avail_in == 0:
            stream.avail_in = <unsigned int> (left if left < CHUNK_MAX else CHUNK_MAX)
            left -= stream.avail_in
        done = self.used - start
        room = self.segment.capacity - self.used
        if room == 0:
            if not inflater_more_room(self, start, 2 * done):
                result = -<int> OUT_OF_MEMORY
                break
            start = 0
            room = self.segment.capacity - self.used
        # One byte more than allowed, so that too much shows.
        if room > limit - done:
            room = limit - done + 1
        if room > CHUNK_MAX:
            room = CHUNK_MAX
        before = <unsigned int> room
        stream.next_out = self.segment.data + self.used
        stream.avail_out = before
        status = inflate(stream, Z_SYNC_FLUSH)
        self.used += before - stream.avail_out
        if self.used - start > limit:
            result = -<int> INFLATED_TOO_BIG
            break
        if status == Z_STREAM_END:
            # A final block (RFC 7692 7.2.3.5): what follows is a stream of its own.
            if inflateReset(stream) != Z_OK:
                result = -<int> INFLATE_FAILED
                break
            # Nothing does, or only (the rest of) what was put there, and that is then for nobody.
            left_over = left + stream.avail_in
            if left_over == 0 or (fin and left_over <= 4):
                break
        elif status == Z_OK or status == Z_BUF_ERROR:
            if stream.avail_in == 0 and left == 0 and stream.avail_out > 0:
                break
            if status == Z_BUF_ERROR and stream.avail_out > 0 and stream.avail_in > 0:
                result = -<int> INFLATE_FAILED
                break
        else:
            # The window is made when it is needed: that isn't the peer's fault.
            result = -<int> OUT_OF_MEMORY if status == Z_MEM_ERROR else -<int> INFLATE_FAILED
            break
    stream.avail_in = 0
    if fin:
        memcpy(data + length, saved, 4)
    output[0] = self.segment.data + start
    produced[0] = self.used - start
    return result


cdef struct Deflater:
    bint ready
    bint fresh
    bint no_context_takeover
    int window_bits, level, mem_level, strategy
    z_stream stream


cdef inline void deflater_close(Deflater* self) noexcept nogil:
    if self.ready:
        deflateEnd(&self.stream)
        self.ready = False


cdef inline bint deflater_begin(Deflater* self) noexcept nogil:
    """Called at the first frame of a message. False if there is no memory."""
    if not self.ready:
        if deflateInit2(
            &self.stream, self.level, Z_DEFLATED, -self.window_bits, self.mem_level, self.strategy
        ) != Z_OK:
            return False
        self.ready = True
    elif self.no_context_takeover and not self.fresh and deflateReset(&self.stream) != Z_OK:
        return False
    self.fresh = True
    return True


cdef inline void deflater_forget(Deflater* self) noexcept nogil:
    """What was compressed last isn't sent: what follows must not refer to it, as the peer's window doesn't have it."""
    if self.ready and deflateReset(&self.stream) != Z_OK:
        deflater_close(self)
    self.fresh = True


cdef inline size_t deflater_bound(Deflater* self, size_t length) noexcept nogil:
    """Most bytes that ``length`` bytes may become, the mark of a flush included."""
    return deflateBound(&self.stream, length) + 16


cdef inline Py_ssize_t deflater_run(
    Deflater* self, const uint8_t* data, size_t length, bint fin, uint8_t* output, size_t room
) noexcept nogil:
    """Compress one frame into ``output`` of at least `deflater_bound` bytes. Returns its length, or -1.

    The last frame of a message loses its 00 00 FF FF (RFC 7692 7.2.1). An empty one becomes 0x00 (7.2.3.6).
    """
    cdef z_stream* stream = &self.stream
    cdef size_t done = 0
    cdef size_t chunk
    cdef int status
    if length == 0:
        if fin:
            output[0] = 0
            return 1
        return 0
    self.fresh = False
    stream.next_in = <uint8_t*> data
    stream.next_out = output
    while True:
        chunk = length if length < CHUNK_MAX else CHUNK_MAX
        length -= chunk
        stream.avail_in = <unsigned int> chunk
        while True:
            chunk = room - done if room - done < CHUNK_MAX else CHUNK_MAX
            stream.avail_out = <unsigned int> chunk
            status = deflate(stream, Z_SYNC_FLUSH)
            done += chunk - stream.avail_out
            if status != Z_OK and status != Z_BUF_ERROR:
                return -1
            if stream.avail_out > 0:
                break
            if done == room:
                return -1
        if length == 0:
            break
    return <Py_ssize_t> (done - 4 if fin else done)
