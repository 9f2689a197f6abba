"""The pools of receive memory, and of the arrays that say where messages are in it.

Last in, first out, so that the next read lands in warm cache. Large arrays are kept as well, since the C library gives
them back to the kernel, and each new one would cost page faults in one thread and an interrupt of the others.
"""

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

cdef enum:
    ARRAY_CLASSES = 7           # powers of two
    ARRAY_MIN = 64 * 1024       # smaller ones aren't kept
    ARRAYS_KEEP = 16 * 1024 * 1024

ctypedef Segment* SegmentPointer
cdef SegmentPointer[SEGMENT_CLASSES] pools
cdef int[SEGMENT_CLASSES] pooled
cdef Py_ssize_t live = 0

cdef struct Array:              # in front of its memory
    size_t capacity             # bytes behind this
    Array* next                 # in a pool

ctypedef Array* ArrayPointer
cdef ArrayPointer[ARRAY_CLASSES] arrays
cdef size_t arrays_bytes = 0


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


cdef int array_class(size_t capacity) noexcept nogil:
    """Index into the pools; -1 if such arrays aren't kept."""
    cdef int size_class = 0
    while size_class < ARRAY_CLASSES and <size_t> ARRAY_MIN << size_class < capacity:
        size_class += 1
    return size_class if size_class < ARRAY_CLASSES and capacity == <size_t> ARRAY_MIN << size_class else -1


cdef void* array_new(size_t nbytes) noexcept nogil:
    global arrays_bytes
    cdef int size_class
    cdef Array* array = NULL
    if nbytes > (<size_t> -1) // 2:
        return NULL
    size_class = array_class(nbytes)
    if size_class >= 0:
        fastws_pool_lock()
        array = arrays[size_class]
        if array != NULL:
            arrays[size_class] = array.next
            arrays_bytes -= nbytes
        fastws_pool_unlock()
    if array == NULL:
        array = <Array*> malloc(sizeof(Array) + nbytes)
        if array == NULL:
            return NULL
        array.capacity = nbytes
    return array + 1


cdef void array_free(void* memory) noexcept nogil:
    global arrays_bytes
    cdef Array* array
    cdef int size_class
    if memory == NULL:
        return
    array = <Array*> memory - 1
    size_class = array_class(array.capacity)
    if size_class >= 0:
        fastws_pool_lock()
        if arrays_bytes + array.capacity <= ARRAYS_KEEP:
            array.next = arrays[size_class]
            arrays[size_class] = array
            arrays_bytes += array.capacity
            array = NULL
        fastws_pool_unlock()
    free(array)


def live_segments() -> int:
    """Segments in use in this process, for leak tests."""
    cdef Py_ssize_t count
    fastws_pool_lock()
    count = live
    fastws_pool_unlock()
    return count


def pooled_bytes() -> int:
    """Bytes that the pools keep for the next read, and for the messages that it brings."""
    cdef Py_ssize_t total
    cdef int i
    fastws_pool_lock()
    total = arrays_bytes
    for i in range(SEGMENT_CLASSES):
        total += pooled[i] * <Py_ssize_t> capacities[i]
    fastws_pool_unlock()
    return total


cdef void forget_pools() noexcept:
    """The lock may have been held in mid-change when the process forked: begin anew."""
    global arrays_bytes
    cdef int i
    fastws_pool_lock_new()
    for i in range(SEGMENT_CLASSES):
        pools[i] = NULL
        pooled[i] = 0
    for i in range(ARRAY_CLASSES):
        arrays[i] = NULL
    arrays_bytes = 0


def _after_fork_in_child() -> None:
    forget_pools()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
