"""The bounded queue between decoder and consumer: a ring of records, limits with low-water marks, all counters.

Every record owns one reference to its segment. The consumer gives references back in runs, since neighbours
mostly share a segment.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from ._segment cimport Segment, array_free, array_new, segment_release
from ._wire cimport RECORD_BYTES

cdef enum:
    FLAG_FIN = 1            # last frame of its message
    FLAG_FIRST = 2          # first frame of its message
    FLAG_TEXT = 4           # of a text message
    FLAG_ASCII = 8          # checked: all bytes < 0x80
    FLAG_DROPPABLE = 16     # may make room for others
    FLAG_RESYNC = 32        # may make room together with all of its key
    FLAG_DEAD = 64          # was lost; holds nothing any more
    FLAG_WHOLE = 3          # FLAG_FIN | FLAG_FIRST: an unfragmented message

cdef extern from *:
    """
    #ifndef FASTWS_RING_MIN     /* sanitizers take rings that few messages fill */
    #define FASTWS_RING_MIN 256
    #endif
    #ifndef FASTWS_RECORD
    #define FASTWS_RECORD
    #include <cstdint>
    /* 32 bytes; the segment is typed where it is known. */
    struct fastws_record {
        uint8_t *data;
        uint64_t length : 56;
        uint64_t flags : 8;
        void *segment;
        int64_t received_ns;
    };
    #endif
    """
    enum:
        RING_MIN "FASTWS_RING_MIN"  # records; a power of two

    ctypedef struct Record "struct fastws_record":
        uint8_t* data
        uint64_t length
        uint8_t flags
        void* segment
        int64_t received_ns

cdef extern from "run.hpp" namespace "fastws" nogil:
    cdef cppclass Held:
        uint64_t messages() noexcept
        uint64_t bytes() noexcept
        void set(uint64_t messages, uint64_t bytes) noexcept
        bint stopped() noexcept
        void stop(bint value) noexcept

cdef enum:
    RING_EXPECTED = 128 * 1024  # records that a new ring may have because the last one had them

cdef struct Tag:            # whose message a record is, where there are policies
    uint32_t key            # of a source of keys
    int32_t source          # -1: none

cdef struct Inbox:
    Record* ring
    Tag* tags               # beside the ring; NULL without policies
    bint tagged
    uint64_t capacity       # a power of two, or 0
    uint64_t capacity_next  # of the ring that replaces one that was given away
    uint64_t begun          # tail when the queue was last empty
    uint64_t head           # next to be taken; counts up for ever
    uint64_t tail           # next to be filled
    uint64_t messages       # complete messages queued
    uint64_t bytes          # payload bytes queued
    uint64_t dead           # records that were lost between head and tail; none is at the head
    uint64_t messages_in    # complete messages ever received
    # Taken out of the ring by a consumer that hasn't got to them, when it was last looked at. They count as queued.
    Held* held              # NULL: no such consumer
    uint64_t held_messages, held_bytes
    # Limits; UINT64_MAX is none.
    uint64_t messages_high, messages_low
    uint64_t bytes_high, bytes_low
    # References that the consumer hasn't given back yet.
    Segment* spent
    uint32_t spent_count


cdef inline uint64_t inbox_frames(const Inbox* inbox) noexcept nogil:
    return inbox.tail - inbox.head - inbox.dead


cdef inline void inbox_recount(Inbox* inbox) noexcept nogil:
    """Look at what a consumer holds."""
    if inbox.held != NULL:
        inbox.held_messages = inbox.held.messages()
        inbox.held_bytes = inbox.held.bytes()


cdef inline uint64_t inbox_charge(const Inbox* inbox) noexcept nogil:
    """What counts against the limit of bytes."""
    return inbox.bytes + inbox.held_bytes + RECORD_BYTES * (inbox_frames(inbox) + inbox.held_messages)


cdef inline bint inbox_exceeds(const Inbox* inbox) noexcept nogil:
    return inbox.messages + inbox.held_messages > inbox.messages_high or (
        inbox_charge(inbox) >= inbox.bytes_high
        # One frame may always wait, however low the limit.
        and (inbox.head != inbox.tail or inbox.held_messages)
    )


cdef inline bint inbox_is_over(Inbox* inbox) noexcept nogil:
    """At a limit: more messages than high, or as many bytes as may wait."""
    if not inbox_exceeds(inbox):
        return False
    if inbox.held == NULL:
        return True
    inbox_recount(inbox)
    return inbox_exceeds(inbox)


cdef inline bint inbox_is_low(Inbox* inbox) noexcept nogil:
    """At or below the low-water marks."""
    inbox_recount(inbox)
    return (
        inbox.messages + inbox.held_messages <= inbox.messages_low
        and inbox_charge(inbox) <= inbox.bytes_low
    )


cdef inline bint inbox_grow(Inbox* inbox) noexcept nogil:
    cdef uint64_t capacity = inbox.capacity * 2 if inbox.capacity else max(inbox.capacity_next, <uint64_t> RING_MIN)
    cdef uint64_t i
    cdef Record* ring = NULL
    cdef Tag* tags = NULL
    while True:
        ring = <Record*> array_new(capacity * sizeof(Record))
        tags = <Tag*> malloc(capacity * sizeof(Tag)) if inbox.tagged and ring != NULL else NULL
        if ring != NULL and (tags != NULL or not inbox.tagged):
            break
        array_free(ring)
        if inbox.capacity or capacity <= RING_MIN:
            return False
        # Less would do: it was the size of the last one.
        capacity = RING_MIN
    for i in range(inbox.head, inbox.tail):
        ring[i & (capacity - 1)] = inbox.ring[i & (inbox.capacity - 1)]
    if inbox.tagged:
        for i in range(inbox.head, inbox.tail):
            tags[i & (capacity - 1)] = inbox.tags[i & (inbox.capacity - 1)]
        free(inbox.tags)
        inbox.tags = tags
    array_free(inbox.ring)
    inbox.ring = ring
    inbox.capacity = capacity
    return True


cdef inline bint inbox_push(
    Inbox* inbox, uint8_t* data, uint64_t length, uint8_t flags, Segment* segment, int64_t received_ns
) noexcept nogil:
    """Queue a frame; the caller hands over one reference to its segment. False if there is no memory."""
    cdef Record* record
    if inbox.tail - inbox.head == inbox.capacity and not inbox_grow(inbox):
        return False
    record = &inbox.ring[inbox.tail & (inbox.capacity - 1)]
    record.data = data
    record.length = length
    record.flags = flags
    record.segment = segment
    record.received_ns = received_ns
    inbox.tail += 1
    inbox.bytes += length
    if flags & FLAG_FIN:
        inbox.messages += 1
        inbox.messages_in += 1
    return True


cdef inline Record* inbox_head(const Inbox* inbox) noexcept nogil:
    """The frame at the head; there must be one."""
    return &inbox.ring[inbox.head & (inbox.capacity - 1)]


cdef inline void inbox_flush_spent(Inbox* inbox) noexcept nogil:
    if inbox.spent_count:
        segment_release(inbox.spent, inbox.spent_count)
        inbox.spent_count = 0


cdef inline void inbox_drop_head(Inbox* inbox) noexcept nogil:
    """Remove the frame at the head and give its reference back, sooner or later."""
    cdef Record* record = inbox_head(inbox)
    inbox.bytes -= record.length
    if record.flags & FLAG_FIN:
        inbox.messages -= 1
    if <Segment*> record.segment != inbox.spent or inbox.spent_count == 0:
        inbox_flush_spent(inbox)
        inbox.spent = <Segment*> record.segment
    inbox.spent_count += 1
    inbox.head += 1
    if inbox.dead:
        inbox_skip_dead(inbox)
    if inbox.head == inbox.tail:
        inbox_settle(inbox)


cdef inline void inbox_skip_dead(Inbox* inbox) noexcept nogil:
    while inbox.dead and inbox_head(inbox).flags & FLAG_DEAD:
        inbox.head += 1
        inbox.dead -= 1


cdef inline void inbox_shed(Inbox* inbox, uint64_t index) noexcept nogil:
    """Remove the complete message at ``index``, wherever it is; its place stays until it is at the head."""
    cdef Record* record = &inbox.ring[index & (inbox.capacity - 1)]
    if index == inbox.head:
        inbox_drop_head(inbox)
        return
    inbox.bytes -= record.length
    inbox.messages -= 1
    segment_release(<Segment*> record.segment, 1)
    record.flags |= FLAG_DEAD
    record.segment = NULL
    record.length = 0
    inbox.dead += 1


cdef inline void inbox_settle(Inbox* inbox) noexcept nogil:
    """The queue is empty: give back references, and a ring that a backlog has made large."""
    inbox_flush_spent(inbox)
    if inbox.capacity > 16 * RING_MIN:
        inbox_expect_more(inbox)
        inbox_free(inbox)
    # From the beginning of a ring again, however large it gets: that is in cache, and what it holds in one piece.
    inbox.head = inbox.tail = inbox.begun = (inbox.tail + RING_EXPECTED - 1) & ~<uint64_t> (RING_EXPECTED - 1)


cdef inline void inbox_expect_more(Inbox* inbox) noexcept nogil:
    """The next backlog will be about as this one: what came since the queue was empty."""
    inbox.capacity_next = min(inbox.capacity, <uint64_t> RING_EXPECTED)
    while inbox.capacity_next > RING_MIN and inbox.capacity_next // 2 >= inbox.tail - inbox.begun:
        inbox.capacity_next //= 2


cdef inline Record* inbox_give(Inbox* inbox, uint64_t* start) noexcept nogil:
    """The ring itself for all that is queued, which begins at ``start``; NULL if it is to be copied.

    For unfragmented messages without policies. Rings of some size that are a quarter full or more: the rest is wasted.
    """
    cdef uint64_t count = inbox.tail - inbox.head
    cdef uint64_t first = inbox.head & (inbox.capacity - 1)
    cdef Record* ring = inbox.ring
    if count < RING_MIN or inbox.capacity > 4 * count or first + count > inbox.capacity or inbox.tagged:
        return NULL
    start[0] = first
    inbox_expect_more(inbox)
    inbox.ring = NULL
    inbox.messages = inbox.bytes = 0
    inbox.head = inbox.tail
    inbox.capacity = 0
    inbox_settle(inbox)
    return ring


cdef inline void inbox_free(Inbox* inbox) noexcept nogil:
    array_free(inbox.ring)
    free(inbox.tags)
    inbox.ring = NULL
    inbox.tags = NULL
    inbox.capacity = 0


cdef inline void inbox_clear(Inbox* inbox) noexcept nogil:
    while inbox.head != inbox.tail:
        inbox_drop_head(inbox)


cdef inline void inbox_close(Inbox* inbox) noexcept nogil:
    inbox_clear(inbox)
    inbox_flush_spent(inbox)
    inbox_free(inbox)
