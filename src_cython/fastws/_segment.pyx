"""The pool of receive memory: three sizes, last in first out, so that the next read lands in warm cache."""

import os

from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc

from ._segment cimport SEGMENT_CLASSES, SEGMENT_TAIL, Segment, fastws_refs_set

cdef extern from *:
    """
    #include <mutex>
    #include <new>
    static std::mutex fastws_pool_mutex;
    static inline void fastws_pool_lock() { fastws_pool_mutex.lock(); }
    static inline void fastws_pool_unlock() { fastws_pool_mutex.unlock(); }
    /* In a forked child, the thread that held the lock doesn't exist. */
    static inline void fastws_pool_lock_new() { new (&fastws_pool_mutex) std::mutex(); }
    """
    void fastws_pool_lock() noexcept nogil
    void fastws_pool_unlock() noexcept nogil
    void fastws_pool_lock_new() noexcept nogil

# The last one holds what one read brings, behind the frame that the read before it cut.
cdef size_t[SEGMENT_CLASSES] capacities = [16 * 1024, 64 * 1024, 256 * 1024]
# Most that a pool keeps: 2 MiB, 2 MiB, 8 MiB.
cdef int[SEGMENT_CLASSES] pool_limits = [128, 32, 32]

ctypedef Segment* SegmentPointer
cdef SegmentPointer[SEGMENT_CLASSES] pools
cdef int[SEGMENT_CLASSES] pooled
cdef Py_ssize_t live = 0


cdef size_t segment_class_capacity(int size_class) noexcept nogil:
    return capacities[size_class]


cdef Segment* segment_new(size_t capacity) noexcept nogil:
    """A segment of at least ``capacity`` bytes with one reference; NULL if there is no memory."""
    global live
    cdef int size_class = 0
    cdef Segment* segment = NULL
    while size_class < SEGMENT_CLASSES and capacities[size_class] < capacity:
        size_class += 1
    if size_class == SEGMENT_CLASSES:
        size_class = -1
        if capacity > (<size_t> -1) // 2:
            return NULL
    else:
        capacity = capacities[size_class]
    fastws_pool_lock()
    live += 1
    if size_class >= 0 and pools[size_class] != NULL:
        segment = pools[size_class]
        pools[size_class] = segment.next
        pooled[size_class] -= 1
    fastws_pool_unlock()
    if segment == NULL:
        segment = <Segment*> malloc(sizeof(Segment) + capacity + SEGMENT_TAIL)
        if segment == NULL:
            fastws_pool_lock()
            live -= 1
            fastws_pool_unlock()
            return NULL
        segment.size_class = size_class
        segment.capacity = capacity
        segment.data = <uint8_t*> segment + sizeof(Segment)
    fastws_refs_set(&segment.refs, 1)
    segment.pins = 0
    segment.next = NULL
    return segment


cdef void segment_free(Segment* segment) noexcept nogil:
    """Called by `segment_release` for the last reference."""
    global live
    cdef int size_class = segment.size_class
    fastws_pool_lock()
    live -= 1
    if size_class >= 0 and pooled[size_class] < pool_limits[size_class]:
        segment.next = pools[size_class]
        pools[size_class] = segment
        pooled[size_class] += 1
        segment = NULL
    fastws_pool_unlock()
    free(segment)


def live_segments() -> int:
    """Segments in use in this process, for leak tests."""
    cdef Py_ssize_t count
    fastws_pool_lock()
    count = live
    fastws_pool_unlock()
    return count


def pooled_bytes() -> int:
    """Bytes that the pools keep for the next read."""
    cdef Py_ssize_t total = 0
    cdef int i
    fastws_pool_lock()
    for i in range(SEGMENT_CLASSES):
        total += pooled[i] * <Py_ssize_t> capacities[i]
    fastws_pool_unlock()
    return total


cdef void forget_pools() noexcept:
    """The lock may have been held in mid-change when the process forked: begin anew."""
    cdef int i
    fastws_pool_lock_new()
    for i in range(SEGMENT_CLASSES):
        pools[i] = NULL
        pooled[i] = 0


def _after_fork_in_child() -> None:
    forget_pools()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
