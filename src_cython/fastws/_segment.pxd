"""A refcounted block of receive memory with a readable tail, from a pool.

A segment is freed (or pooled) when its last reference goes. References are atomic: the decoder, queued messages,
batches and views hold them, from any thread, with or without the GIL.
"""

from libc.stdint cimport uint8_t, uint32_t

cdef extern from *:
    """
    #include <atomic>
    #include <cstdint>
    typedef std::atomic<uint32_t> fastws_refs;
    static inline void fastws_refs_set(fastws_refs *refs, uint32_t n) { refs->store(n, std::memory_order_relaxed); }
    static inline void fastws_refs_add(fastws_refs *refs, uint32_t n) { refs->fetch_add(n, std::memory_order_relaxed); }
    /* acq_rel: who frees the memory must see every access of those who gave up their reference before. */
    static inline uint32_t fastws_refs_sub(fastws_refs *refs, uint32_t n) {
        return refs->fetch_sub(n, std::memory_order_acq_rel) - n;
    }
    static inline uint32_t fastws_refs_get(fastws_refs *refs) { return refs->load(std::memory_order_acquire); }
    """
    ctypedef struct fastws_refs:
        pass
    void fastws_refs_set(fastws_refs* refs, uint32_t n) noexcept nogil
    void fastws_refs_add(fastws_refs* refs, uint32_t n) noexcept nogil
    uint32_t fastws_refs_sub(fastws_refs* refs, uint32_t n) noexcept nogil
    uint32_t fastws_refs_get(fastws_refs* refs) noexcept nogil

cdef enum:
    SEGMENT_CLASSES = 3
    SEGMENT_TAIL = 64           # readable (not initialised) bytes behind capacity: simdjson's padding

cdef struct Segment:
    fastws_refs refs
    uint32_t pins               # of these, references of buffers lent to transports; only touched with the GIL
    int size_class              # index into the pools; -1 is a size of its own
    size_t capacity             # bytes that may be filled
    Segment* next               # in a pool
    uint8_t* data

cdef Segment* segment_new(size_t capacity) noexcept nogil
cdef void segment_free(Segment* segment) noexcept nogil
cdef size_t segment_class_capacity(int size_class) noexcept nogil

# Arrays of records, at least nbytes large; NULL if there is no memory. Each ring of a queue, and what a batch owns.
cdef void* array_new(size_t nbytes) noexcept nogil
cdef void array_free(void* array) noexcept nogil

cdef inline void segment_hold(Segment* segment, uint32_t n) noexcept nogil:
    fastws_refs_add(&segment.refs, n)

cdef inline void segment_release(Segment* segment, uint32_t n) noexcept nogil:
    if fastws_refs_sub(&segment.refs, n) == 0:
        segment_free(segment)

cdef inline bint segment_is_exclusive(Segment* segment) noexcept nogil:
    """Whether nobody but one owner (and lent buffers) looks at it. Call it with the GIL."""
    return fastws_refs_get(&segment.refs) == 1 + segment.pins
