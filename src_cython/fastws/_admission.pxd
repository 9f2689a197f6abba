"""What happens to a message that is complete: queued, conflated, dropped, or reason to stop. Needs no GIL.

The rules stand in `fastws.reference.admission`, written to be read; fastws/overflow.py says what they are for.
Messages that are lost in the middle of the ring stay there as dead records until they reach its head, or until the
ring is full and a quarter of it is dead.
"""

cimport cython
from libc.stdint cimport int16_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libcpp.string cimport string
from libcpp.vector cimport vector

from ._inbox cimport (
    FLAG_DEAD,
    FLAG_DROPPABLE,
    FLAG_RESYNC,
    Inbox,
    Record,
    Tag,
    inbox_frames,
    inbox_shed,
)
from ._segment cimport Segment, segment_hold, segment_release
from ._wire cimport RECORD_BYTES

cdef extern from "lens.hpp" namespace "fastws" nogil:
    const uint32_t NO_KEY

    cdef struct KeyEntry:
        uint32_t length
        uint64_t position
        int64_t number
        int64_t seen_ns
        uint64_t dropped, conflated
        bint positioned, numbered, given_up

    cdef cppclass KeySpace:
        KeyEntry* entry(uint32_t index) noexcept
        const char* text(uint32_t index) noexcept
        uint32_t size() noexcept

    cdef cppclass Lens:
        Lens(size_t keys_max, size_t bytes_max, char separator) except +
        int add_pointer(const char* pointer, size_t length) except +
        int add_pointers(const vector[int]& values) except +
        int add_between(const string& before, const string& after) except +
        int add_callable() except +
        void add_answer(bint tell, bint deliver, const string& literal) except +
        void add_condition(int value, const string& text) except +
        void add_restart(int value, const string& text) except +
        void add_rule(const string& pattern, int16_t policy) except +
        void give(int source, const char* data, size_t length) noexcept
        bint look(const uint8_t* data, size_t length) noexcept
        uint32_t key(int source) noexcept
        KeySpace* keys(int source) noexcept
        bint integer(int value, int64_t* result) noexcept
        bint time(int value, int64_t unit_ns, int64_t* result) noexcept
        int answer() noexcept
        bint tells(int answer) noexcept
        bint delivers(int answer) noexcept
        bint restarts() noexcept
        int route(int source, uint32_t key, int16_t otherwise) noexcept

cdef enum:
    POLICY_BLOCK
    POLICY_DROP_OLDEST
    POLICY_DROP_NEWEST
    POLICY_DISCONNECT
    POLICY_CONFLATE             # this and the next need a key
    POLICY_RESYNC

cdef enum:
    LOST_OLDEST
    LOST_NEWEST
    LOST_EXPIRED
    LOST_CONFLATED
    LOST_RESYNC
    LOST_DISCARDED
    LOSSES

cdef enum:
    NOTICE_GAP = 1
    NOTICE_RESYNC = 2
    NOTICE_DISCONNECT = 3
    NOTICE_REPLY = 4
    NOTICE_LOST = 5
    NOTICE_NO_ROOM = 6
    NOTICE_WITHHELD = 7
    NOTICES_MAX = 4096

cdef struct Policy:
    int kind
    int otherwise               # kind for a message without key, or without room
    int source                  # of the key, or -1
    int disconnect              # code and reason, of either

cdef struct Notice:
    int kind
    int source                  # whose key; -1: none
    uint32_t key
    int64_t a, b

cdef struct Admission:
    bint active                 # anything but plain Block
    Lens* lens                  # NULL: no message needs to be looked at
    Policy* policies
    int route_source            # -1: no route
    int default_policy
    int64_t max_age_ns          # 0: none
    bint hold_full              # a message of Block found no room
    bint hold_old               # or an old one in front of it
    bint told_no_room           # of Conflate
    # Inspect: values, or -1
    bint inspects
    int sequence, first, previous
    int inspect_source          # -1: numbers of the connection
    bint numbered
    int64_t number
    uint64_t gaps
    # ExchangeTime
    int time_value              # -1: none
    int64_t time_unit_ns
    int64_t wall_ns             # of the last read
    bint lagged
    int64_t lag_ns
    bint answers
    uint64_t answered
    int track_source
    uint64_t[LOSSES] lost
    uint64_t[LOSSES] lost_reported
    # Where to look for the oldest message that may be shed: none comes before.
    uint64_t droppable_from, sheddable_from
    Notice* notices
    uint32_t notice_count, notice_capacity
    uint64_t notices_lost


@cython.final
cdef class Gate:
    """Holds an `Admission` and what it needs of Python."""
    cdef Admission admission
    cdef list callables         # (source, callable)
    cdef list disconnects       # (code, reason)
    cdef dict sources           # of keys, by Key

    cdef int source_of(self, object key) except -1
    cdef int pointer(self, object pointer) except -1
    cdef list condition(self, str where, object pairs)
    cdef object key_text(self, int source, uint32_t key)
    cdef int configure_policies(self, object overflow) except -1
    cdef int set_policy(self, int index, object policy, object route_key) except -1
    cdef int kind_of(self, object policy, Policy* target) except -1
    cdef bint ask(self, object message) noexcept


cdef object losses_of(const uint64_t* counts)


cdef inline void admission_close(Admission* self) noexcept nogil:
    del self.lens
    free(self.policies)
    free(self.notices)
    self.lens = NULL
    self.policies = NULL
    self.notices = NULL


cdef inline bint admission_notice(
    Admission* self, int kind, int source, uint32_t key, int64_t a, int64_t b
) noexcept nogil:
    """False if it is lost: its number will be told."""
    cdef Notice* notices
    cdef uint32_t capacity
    # Those two come once.
    if self.notice_count >= NOTICES_MAX and kind != NOTICE_DISCONNECT and kind != NOTICE_WITHHELD:
        self.notices_lost += 1
        return False
    if self.notice_count == self.notice_capacity:
        capacity = 2 * self.notice_capacity + 8
        notices = <Notice*> realloc(self.notices, capacity * sizeof(Notice))
        if notices == NULL:
            self.notices_lost += 1
            return False
        self.notices = notices
        self.notice_capacity = capacity
    self.notices[self.notice_count] = Notice(kind, source, key, a, b)
    self.notice_count += 1
    return True


cdef inline KeyEntry* admission_entry(Admission* self, int source, uint32_t key) noexcept nogil:
    if source < 0 or key == NO_KEY:
        return NULL
    return self.lens.keys(source).entry(key)


cdef inline void admission_lose(Admission* self, int reason, int source, uint32_t key) noexcept nogil:
    cdef KeyEntry* entry = admission_entry(self, source, key)
    self.lost[reason] += 1
    if entry != NULL:
        if reason == LOST_CONFLATED:
            entry.conflated += 1
        elif reason != LOST_DISCARDED:
            entry.dropped += 1


cdef inline void admission_lose_at(Admission* self, Inbox* inbox, int reason, uint64_t index) noexcept nogil:
    """The queued message at ``index`` is lost."""
    cdef Tag* tag = &inbox.tags[index & (inbox.capacity - 1)]
    admission_lose(self, reason, tag.source, tag.key)
    inbox_shed(inbox, index)


cdef inline bint admission_find(Inbox* inbox, uint8_t flags, uint64_t* cursor) noexcept nogil:
    """Move ``cursor`` to the oldest queued message with one of ``flags``; False if there is none."""
    cdef uint64_t mask = inbox.capacity - 1
    cdef uint8_t found
    if cursor[0] < inbox.head:
        cursor[0] = inbox.head
    while cursor[0] < inbox.tail:
        found = inbox.ring[cursor[0] & mask].flags
        if found & flags and not found & FLAG_DEAD:
            return True
        cursor[0] += 1
    return False


cdef inline bint admission_is_full(Inbox* inbox, uint64_t length) noexcept nogil:
    """Whether there is no room for a message of ``length`` bytes."""
    return inbox.head != inbox.tail and (
        inbox.messages + 1 > inbox.messages_high
        or inbox.bytes + length + RECORD_BYTES * (inbox_frames(inbox) + 1) >= inbox.bytes_high
    )


cdef inline bint admission_is_old(Admission* self, Inbox* inbox, int64_t now_ns) noexcept nogil:
    """Whether the first message is older than it may be."""
    return (
        self.max_age_ns != 0
        and inbox.head != inbox.tail
        and now_ns - inbox.ring[inbox.head & (inbox.capacity - 1)].received_ns > self.max_age_ns
    )


cdef inline void admission_expire(Admission* self, Inbox* inbox, int64_t now_ns) noexcept nogil:
    """Lose the droppable messages that are too old, oldest first."""
    cdef Record* record
    while admission_find(inbox, FLAG_DROPPABLE, &self.droppable_from):
        record = &inbox.ring[self.droppable_from & (inbox.capacity - 1)]
        if now_ns - record.received_ns <= self.max_age_ns:
            break
        admission_lose_at(self, inbox, LOST_EXPIRED, self.droppable_from)


cdef inline void admission_expire_head(Admission* self, Inbox* inbox, int64_t now_ns) noexcept nogil:
    """The same before delivery, as far as they stand in front."""
    while admission_is_old(self, inbox, now_ns):
        if not inbox.ring[inbox.head & (inbox.capacity - 1)].flags & FLAG_DROPPABLE:
            break
        admission_lose_at(self, inbox, LOST_EXPIRED, inbox.head)


cdef inline void admission_give_up(Admission* self, Inbox* inbox, int source, uint32_t key) noexcept nogil:
    """A delta of this key is lost: what waits of it is of no use any more."""
    cdef uint64_t mask = inbox.capacity - 1
    cdef uint64_t i
    cdef uint8_t flags
    cdef Tag* tag
    cdef KeyEntry* entry = admission_entry(self, source, key)
    entry.given_up = True
    admission_notice(self, NOTICE_RESYNC, source, key, 0, 0)
    for i in range(inbox.head, inbox.tail):
        if inbox.head == inbox.tail:
            break                       # the ring may be gone
        if i < inbox.head:
            continue
        flags = inbox.ring[i & mask].flags
        tag = &inbox.tags[i & mask]
        if flags & FLAG_RESYNC and not flags & FLAG_DEAD and tag.key == key and tag.source == source:
            admission_lose_at(self, inbox, LOST_RESYNC, i)


cdef inline bint admission_shed_oldest(Admission* self, Inbox* inbox) noexcept nogil:
    """Lose the oldest queued message that may be lost; False if there is none."""
    cdef Tag* tag
    cdef uint64_t index
    if not admission_find(inbox, FLAG_DROPPABLE | FLAG_RESYNC, &self.sheddable_from):
        return False
    index = self.sheddable_from & (inbox.capacity - 1)
    if inbox.ring[index].flags & FLAG_DROPPABLE:
        admission_lose_at(self, inbox, LOST_OLDEST, self.sheddable_from)
    else:
        tag = &inbox.tags[index]
        admission_give_up(self, inbox, tag.source, tag.key)
    return True


cdef inline void admission_shed(Admission* self, Inbox* inbox, uint64_t length, int64_t now_ns) noexcept nogil:
    """Make room for a message of ``length`` bytes, as far as queued messages may be lost."""
    cdef Tag* tag
    cdef uint64_t index
    while admission_is_full(inbox, length) and admission_shed_oldest(self, inbox):
        pass
    # What stands behind an old message doesn't make it younger.
    while admission_is_old(self, inbox, now_ns):
        index = inbox.head & (inbox.capacity - 1)
        if not inbox.ring[index].flags & FLAG_RESYNC:
            break
        tag = &inbox.tags[index]
        admission_give_up(self, inbox, tag.source, tag.key)


cdef inline bint admission_outgrows(Inbox* inbox, uint64_t growth) noexcept nogil:
    """Whether there is no room for ``growth`` bytes more in a message that waits."""
    return (
        growth != 0
        and inbox_frames(inbox) > 1
        and inbox.bytes + growth + RECORD_BYTES * inbox_frames(inbox) >= inbox.bytes_high
    )


cdef inline void admission_no_room(Admission* self, Inbox* inbox, int source, uint32_t key) noexcept nogil:
    """A message of Conflate blocks."""
    if not self.told_no_room:
        self.told_no_room = True
        admission_notice(self, NOTICE_NO_ROOM, source, key, <int64_t> inbox.messages, 0)


cdef inline int admission_replace(
    Admission* self, Inbox* inbox, Policy* policy, int source, uint32_t key, const Record* newer
) noexcept nogil:
    """Put a message in the place of the one of its key that waits; what is longer needs room.

    1: it waits, and the caller holds a reference more to its segment; 0: it is lost; -1: it is, and the connection; -2:
    and there is no memory to say so.
    """
    cdef KeyEntry* entry = admission_entry(self, source, key)
    cdef Record* older = &inbox.ring[entry.position & (inbox.capacity - 1)]
    cdef uint64_t growth = newer.length - older.length if newer.length > older.length else 0
    while admission_outgrows(inbox, growth) and admission_shed_oldest(self, inbox):
        pass
    if admission_outgrows(inbox, growth):
        if policy.otherwise == POLICY_DISCONNECT:
            admission_lose(self, LOST_DISCARDED, source, key)
            return -1 if admission_notice(self, NOTICE_DISCONNECT, -1, NO_KEY, policy.disconnect, 0) else -2
        if policy.otherwise != POLICY_BLOCK:
            # Neither: the older one is out of date.
            admission_lose_at(self, inbox, LOST_CONFLATED, entry.position)
            entry.positioned = False
            admission_lose(self, LOST_OLDEST if policy.otherwise == POLICY_DROP_OLDEST else LOST_NEWEST, source, key)
            return 0
        admission_no_room(self, inbox, source, key)
        self.hold_full = True
    segment_hold(<Segment*> newer.segment, 1)
    segment_release(<Segment*> older.segment, 1)
    inbox.bytes += newer.length - older.length
    older[0] = newer[0]
    admission_lose(self, LOST_CONFLATED, source, key)
    return 1


cdef inline void admission_compact(Admission* self, Inbox* inbox) noexcept nogil:
    """Close the gaps that dead records have left; what waits gets new positions."""
    cdef uint64_t mask = inbox.capacity - 1
    cdef uint64_t i, to = inbox.head
    cdef Tag tag
    cdef KeyEntry* entry
    for i in range(inbox.head, inbox.tail):
        if inbox.ring[i & mask].flags & FLAG_DEAD:
            continue
        tag = inbox.tags[i & mask]
        inbox.ring[to & mask] = inbox.ring[i & mask]
        inbox.tags[to & mask] = tag
        entry = admission_entry(self, tag.source, tag.key)
        if entry != NULL and entry.positioned and entry.position == i:
            entry.position = to
        to += 1
    inbox.tail = to
    inbox.dead = 0
    self.droppable_from = self.sheddable_from = inbox.head


cdef inline void admission_inspect(Admission* self) noexcept nogil:
    """Compare the message's numbers with its predecessor's."""
    cdef int64_t sequence, first, previous = 0, expected, got
    cdef uint32_t key = NO_KEY
    cdef KeyEntry* entry
    cdef bint numbered, restarts
    cdef int64_t last
    if not self.lens.integer(self.sequence, &sequence) or sequence < 0:
        return
    first = sequence
    restarts = self.lens.restarts()
    if not restarts:
        if self.first >= 0 and (not self.lens.integer(self.first, &first) or first < 0):
            return
        if self.previous >= 0 and not self.lens.integer(self.previous, &previous):
            return
    if self.inspect_source >= 0:
        key = self.lens.key(self.inspect_source)
        if key == NO_KEY:
            return
    entry = admission_entry(self, self.inspect_source, key)
    numbered = self.numbered if entry == NULL else entry.numbered
    last = self.number if entry == NULL else entry.number
    if numbered and not restarts and not (self.previous >= 0 and previous < 0):
        if self.previous >= 0:
            expected = last
            got = previous
        else:
            expected = last + 1
            got = first
        if got != expected:
            self.gaps += 1
            admission_notice(self, NOTICE_GAP, self.inspect_source, key, expected, got)
    if entry == NULL:
        self.numbered = True
        self.number = sequence
    else:
        entry.numbered = True
        entry.number = sequence
