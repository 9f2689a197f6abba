"""How long things take: buckets of an eighth of a power of two, so that a quantile is right within 12.5 %."""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport calloc, free

cdef enum:
    BUCKETS = 488               # up to 2**63 - 1

cdef extern from *:
    """
    #ifdef _MSC_VER
    #include <intrin.h>
    static inline int fastws_top_bit(uint64_t v) { unsigned long i; _BitScanReverse64(&i, v); return (int)i; }
    #else
    static inline int fastws_top_bit(uint64_t v) { return 63 - __builtin_clzll(v); }
    #endif
    """
    int fastws_top_bit(uint64_t value) noexcept nogil

cdef struct Histogram:
    uint64_t* counts            # NULL until the first value
    uint64_t total
    int64_t largest


cdef inline void histogram_close(Histogram* self) noexcept nogil:
    free(self.counts)
    self.counts = NULL


cdef inline void histogram_add(Histogram* self, int64_t value, uint64_t weight) noexcept nogil:
    """Count ``weight`` times ``value``; a negative one counts as 0."""
    cdef int index, top
    if value < 0:
        value = 0
    if self.counts == NULL:
        self.counts = <uint64_t*> calloc(BUCKETS, sizeof(uint64_t))
        if self.counts == NULL:
            return
    if value < 8:
        index = <int> value
    else:
        top = fastws_top_bit(value)
        index = (top - 2) * 8 + <int> ((value >> (top - 3)) & 7)
    self.counts[index] += weight
    self.total += weight
    if value > self.largest:
        self.largest = value


cdef inline int64_t histogram_quantile(const Histogram* self, double quantile) noexcept nogil:
    """The largest value of the bucket with the value of this rank; 0 if there is none."""
    cdef uint64_t rank = <uint64_t> (quantile * <double> self.total)
    cdef uint64_t seen = 0, bound
    cdef int index
    if self.total == 0:
        return 0
    for index in range(BUCKETS):
        seen += self.counts[index]
        if seen > rank or seen == self.total:
            if index < 8:
                return index
            bound = <uint64_t> (9 + index % 8) << (index // 8 - 1)
            return min(<int64_t> (bound - 1), self.largest)
    return self.largest
