"""Frames to messages (RFC 6455 5 and 8.1, RFC 7692), and what a policy does with each."""

from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport realloc
from libc.string cimport memcpy

from ._admission cimport (
    LOST_DISCARDED,
    LOST_NEWEST,
    LOST_OLDEST,
    LOST_RESYNC,
    NO_KEY,
    NOTICE_DISCONNECT,
    NOTICE_REPLY,
    POLICY_BLOCK,
    POLICY_CONFLATE,
    POLICY_DISCONNECT,
    POLICY_DROP_OLDEST,
    POLICY_RESYNC,
    Admission,
    KeyEntry,
    Policy,
    admission_compact,
    admission_entry,
    admission_expire,
    admission_give_up,
    admission_inspect,
    admission_is_full,
    admission_is_old,
    admission_lose,
    admission_no_room,
    admission_notice,
    admission_replace,
    admission_shed,
)
from ._batch cimport make_object
from ._clock cimport monotonic_ns
from ._header cimport Header, header_parse
from ._inbox cimport (
    FLAG_ASCII,
    FLAG_DROPPABLE,
    FLAG_FIN,
    FLAG_FIRST,
    FLAG_RESYNC,
    FLAG_TEXT,
    FLAG_WHOLE,
    Record,
    Tag,
    inbox_is_over,
    inbox_push,
    inbox_recount,
)
from ._inflate cimport inflater_begin, inflater_run
from ._mask cimport mask_into
from ._segment cimport Segment, segment_hold, segment_new, segment_release
from ._state cimport CONTROL_HEAD, DecoderState
from ._utf8 cimport is_ascii, utf8_begin, utf8_feed
from ._wire cimport (
    BINARY,
    CLOSE,
    CONT,
    EXPECTED_CONTINUATION,
    FRAGMENT_TOO_BIG,
    INFLATED_TOO_BIG,
    INVALID_UTF8,
    LENGTH_TOO_LARGE,
    MESSAGE_TOO_BIG,
    OUT_OF_MEMORY,
    TEXT,
    TOO_MANY_FRAGMENTS,
    UNEXPECTED_CONTINUATION,
)

cdef extern from "thread_state.hpp" namespace "fastws" nogil:
    void keep_thread_state() noexcept


cdef bint ask_python(void* decoder, const uint8_t* payload, uint64_t length, uint8_t flags) noexcept with gil:
    """A function of its own: one with Python variables takes the GIL in any case."""
    try:
        message = make_object(payload, length, flags)
    except MemoryError:
        return False
    return (<Decoding> decoder).gate.ask(message)


cdef class Decoding(DecoderState):
    """The part of `FrameDecoder` that turns bytes into queued messages and control frames, without the GIL."""

    cdef void decode(self) noexcept nogil:
        cdef Segment* segment = self.segment
        cdef uint8_t* data = segment.data
        cdef Header header
        cdef size_t position = self.parsed
        cdef size_t begun = position, begins
        cdef size_t filled = self.filled
        cdef size_t available
        cdef int size
        if self.blocked:
            self.scan_ahead()
            return
        while True:
            if self.latch != NULL and self.latch.wanted():
                self.latch.give_way()
            if self.ended:
                position = filled
                self.frame_size = 0
                break
            position = self.decode_run(position)
            available = filled - position
            if self.blocked or available == 0:
                self.frame_size = 0
                break
            if self.ended:
                continue
            size = header_parse(&header, data + position, available, self.masked, self.deflate)
            if size == -<int> LENGTH_TOO_LARGE or (size >= 0 and available >= 2):
                # The first two bytes are in order: do they fit what came before?
                if header.opcode == CONT and not self.fragmented:
                    self.fail(UNEXPECTED_CONTINUATION, 0, 0)
                    continue
                if self.fragmented and (header.opcode == TEXT or header.opcode == BINARY):
                    self.fail(EXPECTED_CONTINUATION, header.opcode, 0)
                    continue
            if size < 0:
                self.fail(-size, header.value, header.limit)
                continue
            if header.sized and header.opcode < CLOSE and self.exceeds(&header):
                continue
            if size == 0:
                self.frame_size = header.size
                break
            self.frame_size = size + header.length
            if available - size < header.length:
                break
            if header.opcode < CLOSE and self.must_stop():
                self.blocked = True
                self.frame_size = 0
                break
            begins = position
            position += size
            if header.opcode < CLOSE:
                if self.masked:
                    mask_into(data + position, data + position, header.length, header.key, 0)
                if self.data_frame(&header, data + position, segment) < 0:
                    continue
                position += header.length
                if self.must_stop():
                    self.blocked = True
                    self.frame_size = 0
                    break
                continue
            # scan_ahead() may have seen this ping or pong before.
            if begins - begun >= self.scanned and not self.add_control(&header, data + position):
                continue
            position += header.length
            if header.opcode == CLOSE:
                self.ended = True
        self.parsed = position
        self.scanned = self.scanned - (position - begun) if self.scanned > position - begun else 0
        if self.blocked and position < filled:
            self.scan_ahead()

    cdef size_t decode_run(self, size_t position) noexcept nogil:
        """Queue a run of unfragmented, uncompressed messages: nearly all of what a feed sends. Returns where it ends.

        Stops before a frame of any other kind, which `decode` looks at in full.
        """
        cdef Segment* segment = self.segment
        cdef size_t filled = self.filled
        cdef size_t size, available
        cdef size_t key_size = 4 if self.masked else 0
        cdef uint8_t mask_bit = 0x80 if self.masked else 0
        cdef uint64_t length
        cdef uint64_t limit = self.max_message if self.max_message < self.max_fragment else self.max_fragment
        cdef uint32_t queued = 0
        cdef uint8_t* frame
        cdef uint8_t* payload
        cdef uint8_t flags
        if self.fragmented or self.dropping or ((self.want or inbox_is_over(&self.inbox)) and not self.admits):
            return position
        while True:
            frame = segment.data + position
            available = filled - position
            if available < 4 or (frame[0] != 0x81 and frame[0] != 0x82) or frame[1] & 0x80 != mask_bit:
                break
            length = frame[1] & 0x7F
            size = 2 + key_size
            if length >= 126:
                if length == 127:
                    break
                length = (<uint64_t> frame[2] << 8) | frame[3]
                size = 4 + key_size
            if length > limit or available < size + length:
                break
            payload = frame + size
            if key_size:
                mask_into(payload, payload, length, payload - 4, 0)
            position += size + length
            flags = FLAG_WHOLE
            if frame[0] == 0x81:
                flags = FLAG_WHOLE | FLAG_TEXT | FLAG_ASCII
                if not is_ascii(payload, length):
                    flags = FLAG_WHOLE | FLAG_TEXT
                    utf8_begin(&self.utf8)
                    if not utf8_feed(&self.utf8, payload, length, True):
                        self.fail(INVALID_UTF8, self.utf8.start, self.utf8.reason)
                        break
            if self.admits:
                self.want = False
                if self.admit(payload, length, flags, segment) < 0 or self.ended:
                    break
                if self.must_stop():
                    self.blocked = True
                    break
                if self.latch != NULL and self.latch.wanted():
                    break
                continue
            if not inbox_push(&self.inbox, payload, length, flags, segment, self.received_ns):
                self.fail(OUT_OF_MEMORY, length, 0)
                break
            queued += 1
            if inbox_is_over(&self.inbox):
                self.blocked = True
                break
            if self.latch != NULL and self.latch.wanted():
                break
        if queued:
            # One atomic addition for all of them.
            segment_hold(segment, queued)
            self.stepped = True
        return position

    cdef bint must_stop(self) noexcept nogil:
        """At a queue limit, unless a consumer waits for a whole message: they would wait for each other for ever."""
        if self.dropping:
            return False
        if self.admits:
            return self.gate.admission.hold_full or self.gate.admission.hold_old
        return inbox_is_over(&self.inbox) and not (self.want and self.inbox.messages == 0)

    cdef bint exceeds(self, Header* header) noexcept nogil:
        """Whether a data frame is larger than allowed; fails if so (RFC 6455 10.4)."""
        if header.length > self.max_message - self.message_size:
            self.fail(MESSAGE_TOO_BIG, self.message_size + header.length, self.max_message)
            return True
        if header.length > self.max_fragment:
            self.fail(FRAGMENT_TOO_BIG, header.length, self.max_fragment)
            return True
        return False

    cdef int data_frame(self, Header* header, uint8_t* payload, Segment* segment) noexcept nogil:
        """Queue one whole, unmasked data frame. -1 after a violation."""
        cdef uint64_t length = header.length
        cdef uint64_t limit
        cdef uint8_t flags
        cdef int result
        if self.dropping:
            if header.fin:
                self.inbox.messages_in += 1
                admission_lose(&self.gate.admission, LOST_DISCARDED, -1, NO_KEY)
            self.fragmented = not header.fin
            if header.fin or header.opcode != CONT:
                self.message_size = 0
            return 0
        if header.opcode == CONT:
            flags = 0
        else:
            flags = FLAG_FIRST
            self.text = header.opcode == TEXT
            self.compressed = header.rsv1
            self.message_size = 0
            self.fragments = 0
            if header.rsv1:
                result = inflater_begin(&self.inflater)
                if result < 0:
                    self.fail(-result, length if -result == OUT_OF_MEMORY else 0, 0)
                    return -1
        if header.fin:
            flags |= FLAG_FIN
        if self.compressed:
            limit = UINT64_MAX if self.max_message == UINT64_MAX else self.max_message - self.message_size
            if limit > self.max_fragment:
                limit = self.max_fragment
            result = inflater_run(&self.inflater, payload, length, header.fin, limit, &payload, &length)
            if result < 0:
                self.fail(
                    -result,
                    header.length if -result == OUT_OF_MEMORY else 0,
                    limit if -result == INFLATED_TOO_BIG else 0,
                )
                return -1
            segment = self.inflater.segment
        if self.text:
            flags |= FLAG_TEXT
            if flags & FLAG_WHOLE == FLAG_WHOLE:
                if is_ascii(payload, length):
                    flags |= FLAG_ASCII
                else:
                    utf8_begin(&self.utf8)
            elif flags & FLAG_FIRST:
                utf8_begin(&self.utf8)
            if not flags & FLAG_ASCII and not utf8_feed(&self.utf8, payload, length, header.fin):
                self.fail(INVALID_UTF8, self.utf8.start, self.utf8.reason)
                return -1
        self.fragments += 1
        if self.admits:
            if flags & FLAG_WHOLE == FLAG_WHOLE:
                result = self.admit(payload, length, flags, segment)
            else:
                result = self.admit_fragment(header.fin, payload, length)
            if result < 0:
                return -1
        elif not inbox_push(&self.inbox, payload, length, flags, segment, self.received_ns):
            self.fail(OUT_OF_MEMORY, length, 0)
            return -1
        else:
            segment_hold(segment, 1)
            self.stepped = True
        if header.fin:
            self.fragmented = False
            self.message_size = 0
            self.want = False
        else:
            self.fragmented = True
            self.message_size += length
            if not self.admits and self.want and self.inbox.messages == 0 and self.fragments > self.max_fragments:
                self.fail(TOO_MANY_FRAGMENTS, self.fragments, self.max_fragments)
                return -1
        return 0

    cdef void scan_ahead(self) noexcept nogil:
        """Find the pings and pongs that lie behind the place where decoding stopped.

        A heartbeat never waits behind data that was read already. Close frames stay in their place until the stream
        has ended.
        """
        cdef uint8_t* data = self.segment.data + self.parsed
        cdef size_t available = self.filled - self.parsed
        cdef size_t position = self.scanned
        cdef Header header
        cdef int size
        while not self.close_seen:
            size = header_parse(&header, data + position, available - position, self.masked, self.deflate)
            if size <= 0 or available - position - size < header.length:
                break
            if header.opcode == CLOSE and not self.at_end:
                break
            position += size
            if header.opcode >= CLOSE and not self.add_control(&header, data + position):
                break
            position += header.length
            self.close_seen = header.opcode == CLOSE
        self.scanned = position

    cdef bint add_control(self, Header* header, const uint8_t* payload) noexcept nogil:
        cdef size_t size = CONTROL_HEAD + <size_t> header.length
        cdef size_t capacity
        cdef uint8_t* control
        if self.control_capacity - self.control_size < size:
            capacity = 2 * self.control_capacity + 256
            control = <uint8_t*> realloc(self.control, capacity)
            if control == NULL:
                self.fail(OUT_OF_MEMORY, capacity, 0)
                return False
            self.control = control
            self.control_capacity = capacity
        control = self.control + self.control_size
        control[0] = header.opcode
        control[1] = <uint8_t> header.length
        memcpy(control + 2, &self.received_ns, sizeof(int64_t))
        if self.masked:
            mask_into(control + CONTROL_HEAD, payload, header.length, header.key, 0)
        else:
            memcpy(control + CONTROL_HEAD, payload, header.length)
        self.control_size += size
        return True

    # With a policy

    cdef bint reply(self, int answer) noexcept nogil:
        """Send the answer that a message calls for; False leaves it to whoever takes the notices."""
        return False

    cdef int admit(self, uint8_t* payload, uint64_t length, uint8_t flags, Segment* segment) noexcept nogil:
        """Queue a complete message, or do with it what its policy says. -1 after a violation."""
        cdef Admission* admission = &self.gate.admission
        cdef Policy* policy = &admission.policies[0]
        cdef KeyEntry* entry
        cdef Record newer
        cdef Tag* tag
        cdef int kind, answer
        cdef int source = -1
        cdef uint32_t key = NO_KEY
        cdef int64_t now_ns = 0
        cdef int64_t made
        cdef bint full, old
        self.inbox.messages_in += 1
        # A message whose key isn't known is more than a message without: what comes after it would overtake it.
        if not self.ask(payload, length, flags) or not admission.lens.look(payload, length):
            self.inbox.messages_in -= 1
            self.fail(OUT_OF_MEMORY, length, 0)
            return -1
        if admission.answers:
            answer = admission.lens.answer()
            if answer >= 0:
                if admission.lens.tells(answer) and not self.reply(answer):
                    admission_notice(admission, NOTICE_REPLY, -1, NO_KEY, answer, 0)
                if not admission.lens.delivers(answer):
                    admission.answered += 1
                    return 0
        if admission.track_source >= 0:
            entry = admission_entry(admission, admission.track_source, admission.lens.key(admission.track_source))
            if entry != NULL:
                entry.seen_ns = self.received_ns
        if admission.inspects:
            admission_inspect(admission)
        if admission.time_value >= 0 and admission.lens.time(
            admission.time_value, admission.time_unit_ns, &made
        ):
            admission.lagged = True
            admission.lag_ns = admission.wall_ns - made
        if admission.route_source >= 0:
            source = admission.route_source
            key = admission.lens.key(source)
            policy = &admission.policies[admission.lens.route(source, key, 0)]
        kind = policy.kind
        if kind >= POLICY_CONFLATE:
            source = policy.source
            key = admission.lens.key(source)
            if key == NO_KEY:
                kind = policy.otherwise
        entry = admission_entry(admission, source, key)
        if kind == POLICY_RESYNC and entry.given_up:
            admission_lose(admission, LOST_RESYNC, source, key)
            return 0
        if kind == POLICY_CONFLATE and entry.positioned and entry.position >= self.inbox.head:
            newer.data = payload
            newer.length = length
            newer.flags = flags
            newer.segment = segment
            newer.received_ns = self.received_ns
            answer = admission_replace(admission, &self.inbox, policy, source, key, &newer)
            self.ended |= answer < 0
            self.stepped |= answer > 0
            if answer == -2:
                self.fail(OUT_OF_MEMORY, length, 0)
                return -1
            self.note_high_water()
            return 0
        if admission.max_age_ns:
            now_ns = monotonic_ns()
            admission_expire(admission, &self.inbox, now_ns)
        if admission_is_full(&self.inbox, length) or admission_is_old(admission, &self.inbox, now_ns):
            admission_shed(admission, &self.inbox, length, now_ns)
            if kind == POLICY_RESYNC and entry.given_up:
                admission_lose(admission, LOST_RESYNC, source, key)
                return 0
            full = admission_is_full(&self.inbox, length)
            old = admission_is_old(admission, &self.inbox, now_ns)
            if full or old:
                if kind == POLICY_RESYNC:
                    admission_give_up(admission, &self.inbox, source, key)
                    admission_lose(admission, LOST_RESYNC, source, key)
                    return 0
                answer = policy.otherwise if kind == POLICY_CONFLATE else kind
                if answer == POLICY_BLOCK:
                    if full and kind == POLICY_CONFLATE:
                        admission_no_room(admission, &self.inbox, source, key)
                    admission.hold_full |= full
                    admission.hold_old |= old
                elif answer == POLICY_DISCONNECT:
                    admission_lose(admission, LOST_DISCARDED, source, key)
                    self.ended = True
                    if not admission_notice(admission, NOTICE_DISCONNECT, -1, NO_KEY, policy.disconnect, 0):
                        self.fail(OUT_OF_MEMORY, length, 0)
                        return -1
                    return 0
                elif answer != POLICY_DROP_OLDEST:
                    admission_lose(admission, LOST_NEWEST, source, key)
                    return 0
                elif full:
                    admission_lose(admission, LOST_OLDEST, source, key)
                    return 0
        if kind == POLICY_DROP_OLDEST:
            flags |= FLAG_DROPPABLE
        elif kind == POLICY_RESYNC:
            flags |= FLAG_RESYNC
        if self.inbox.tail - self.inbox.head == self.inbox.capacity and self.inbox.dead > self.inbox.capacity // 4:
            admission_compact(admission, &self.inbox)
            self.logged = min(self.logged, self.inbox.tail)
        self.inbox.messages_in -= 1     # it counts there
        if not inbox_push(&self.inbox, payload, length, flags, segment, self.received_ns):
            self.fail(OUT_OF_MEMORY, length, 0)
            return -1
        segment_hold(segment, 1)
        tag = &self.inbox.tags[(self.inbox.tail - 1) & (self.inbox.capacity - 1)]
        tag.key = key
        tag.source = source
        if kind == POLICY_CONFLATE:
            entry.positioned = True
            entry.position = self.inbox.tail - 1
        elif kind == POLICY_BLOCK and inbox_is_over(&self.inbox):
            admission.hold_full = True
        self.note_high_water()
        self.stepped = True
        return 0

    cdef bint ask(self, const uint8_t* payload, uint64_t length, uint8_t flags) noexcept nogil:
        """Functions that give keys get a Python object, with the GIL. False if there is no memory for it."""
        if not self.asks:
            return True
        if self.pumping:
            keep_thread_state()
        return ask_python(<void*> self, payload, length, flags)

    cdef int admit_fragment(self, bint fin, uint8_t* payload, uint64_t length) noexcept nogil:
        """Join the fragments of a message as they come; admit it with the last one. -1 after a violation."""
        cdef Segment* grown
        cdef size_t capacity
        cdef int result
        if self.fragments > self.max_fragments:
            self.fail(TOO_MANY_FRAGMENTS, self.fragments, self.max_fragments)
            return -1
        if self.joined == NULL or self.joined.capacity - self.joined_bytes < length:
            capacity = self.joined_bytes + length
            grown = segment_new(capacity if self.joined == NULL else 2 * capacity)
            if grown == NULL:
                self.fail(OUT_OF_MEMORY, capacity, 0)
                return -1
            if self.joined != NULL:
                memcpy(grown.data, self.joined.data, self.joined_bytes)
                segment_release(self.joined, 1)
            self.joined = grown
        memcpy(self.joined.data + self.joined_bytes, payload, length)
        self.joined_bytes += length
        if not fin:
            return 0
        grown = self.joined
        length = self.joined_bytes
        self.joined = NULL
        self.joined_bytes = 0
        result = self.admit(grown.data, length, FLAG_WHOLE | (FLAG_TEXT if self.text else 0), grown)
        segment_release(grown, 1)
        return result

    cdef void note_high_water(self) noexcept nogil:
        if (
            self.inbox.messages + self.inbox.held_messages <= self.messages_max
            and self.inbox.bytes + self.inbox.held_bytes <= self.bytes_max
        ):
            return
        # A consumer may have got to what it held since.
        inbox_recount(&self.inbox)
        self.messages_max = max(self.messages_max, self.inbox.messages + self.inbox.held_messages)
        self.bytes_max = max(self.bytes_max, self.inbox.bytes + self.inbox.held_bytes)
