"""Bytes in; messages, batches and control frames out (RFC 6455 5 and 6.2, RFC 7692). Knows no socket.

The kernel writes into a segment, messages stay where they were written, and the queue holds records that point
there. Nothing here makes a Python object until a consumer asks for one; decoding a large chunk needs no GIL.
"""

from cpython.buffer cimport (
    PyBUF_SIMPLE,
    PyBuffer_FillInfo,
    PyBuffer_Release,
    PyObject_GetBuffer,
)
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport UINT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memmove

from ._admission cimport (
    LOSSES,
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
    Gate,
    KeyEntry,
    Policy,
    admission_compact,
    admission_entry,
    admission_expire,
    admission_expire_head,
    admission_give_up,
    admission_inspect,
    admission_is_full,
    admission_is_old,
    admission_lose,
    admission_no_room,
    admission_notice,
    admission_replace,
    admission_shed,
    losses_of,
)
from ._batch cimport Batch, batch_new, make_object
from ._clock cimport monotonic_ns, wall_ns
from ._header cimport Header, header_parse
from ._inbox cimport (
    FLAG_ASCII,
    FLAG_DEAD,
    FLAG_DROPPABLE,
    FLAG_FIN,
    FLAG_FIRST,
    FLAG_RESYNC,
    FLAG_TEXT,
    FLAG_WHOLE,
    Record,
    Tag,
    inbox_clear,
    inbox_close,
    inbox_drop_head,
    inbox_frames,
    inbox_head,
    inbox_is_low,
    inbox_is_over,
    inbox_push,
    inbox_recount,
    inbox_settle,
)
from ._inflate cimport (
    inflater_begin,
    inflater_close,
    inflater_init,
    inflater_run,
    inflater_settle,
)
from ._latch cimport Guard
from ._mask cimport mask_into
from ._segment cimport (
    Segment,
    segment_class_capacity,
    segment_hold,
    segment_is_exclusive,
    segment_new,
    segment_release,
)
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
    STATUS_BLOCKED,
    STATUS_CONTROL,
    STATUS_MESSAGE,
    STATUS_NOTICE,
    STATUS_VIOLATION,
    TEXT,
    TOO_MANY_FRAGMENTS,
    UNEXPECTED_CONTINUATION,
)

from fastws import wire
from fastws.overflow import Figures

cdef enum:
    # Taking the GIL back from a busy thread can cost a switch interval (5 ms): keep it for what takes microseconds.
    NOGIL_MIN = 32 * 1024
    # Reads below an eighth of the buffer, in a row, until smaller segments are used.
    SHRINK_AFTER = 32


cdef tuple limit_pair(object limit, str name):
    """(high, low) of an int, None or a pair, checked."""
    high, low = limit if isinstance(limit, tuple) else (limit, None)
    for value in (high, low):
        if value is not None and value < 0:
            raise ValueError(f"{name} is {value}, must be positive or zero")
    return high, low


cdef uint64_t unlimited(object limit):
    return UINT64_MAX if limit is None else limit


cdef tuple fragment_of(Record* record):
    return (
        CONT if not record.flags & FLAG_FIRST else TEXT if record.flags & FLAG_TEXT else BINARY,
        (record.flags & FLAG_FIN) != 0,
        PyBytes_FromStringAndSize(<char*> record.data, record.length),
    )


cdef class FrameDecoder:
    """Bytes in; messages, batches and control frames out (RFC 6455 section 5 and 6.2, RFC 7692). Knows no socket.

    Feed it with ``feed(data)``, or without a copy by ``get_buffer()`` and ``buffer_updated(n)``. Each step returns a
    `Status` that tells what to look at. Messages wait in a queue that is bounded in count and bytes: at a limit
    the decoder stops in the middle of a chunk, says ``BLOCKED``, and goes on at ``resume()``. Pings and pongs behind
    the place where it stopped are still found.

    Args:
        role: Our side. A server demands masked frames, a client unmasked ones (RFC 6455 5.1).
        max_size: Largest message in bytes, or ``(largest message, largest fragment)``; None is no limit.
        max_queue: Messages that may wait: blocks when there are *more* than high, and may go on when there
            are low or fewer. An int is high, with low = high // 4; a pair is (high, low). None is no limit.
        max_queue_bytes: Blocks when queued payloads plus ``RECORD_BYTES`` for each queued frame reach it, and may go
            on at a quarter of it. None is no limit.
        max_fragments: Most fragments of a message received whole.
        deflate: permessage-deflate as negotiated; None if it wasn't.
        overflow: What happens to complete messages when there is no room; None is `Block`.
        max_queue_age: Seconds; older messages are the overflow. None is no limit.
        inspect: Which numbers to compare as messages arrive.
        exchange_time: Where messages say when they were made.
        replies: Messages that are answered at once.
        track: Key whose last messages `last_seen` tells.

    Raises:
        ValueError: If a limit is negative, low > high, role is neither, or a JSON Pointer isn't one.
        TypeError: If a policy or key isn't one.
    """

    def __cinit__(self):
        self.gate = Gate.__new__(Gate)
        self.inbox.messages_high = self.inbox.messages_low = UINT64_MAX
        self.inbox.bytes_high = self.inbox.bytes_low = UINT64_MAX

    def __init__(
        self,
        role,
        *,
        max_size=wire.DEFAULT_MAX_SIZE,
        max_queue=None,
        max_queue_bytes=wire.DEFAULT_MAX_QUEUE_BYTES,
        max_fragments=wire.DEFAULT_MAX_FRAGMENTS,
        deflate=None,
        overflow=None,
        max_queue_age=None,
        inspect=None,
        exchange_time=None,
        replies=(),
        track=None,
    ):
        if self.bytes_in or self.inbox.messages_in:
            raise RuntimeError("the decoder is in use")
        if role not in ("client", "server"):
            raise ValueError(f"role is {role!r}, must be 'client' or 'server'")
        self.masked = role == "server"
        max_message, max_fragment = limit_pair(max_size, "max_size")
        self.max_message = unlimited(max_message)
        self.max_fragment = unlimited(max_fragment)
        high, low = limit_pair(max_queue, "max_queue")
        if high is None and low is not None:
            high = low * 4
        if high is not None:
            low = high // 4 if low is None else low
            if low > high:
                raise ValueError(f"max_queue low is {low} > high {high}")
        self.inbox.messages_high = unlimited(high)
        self.inbox.messages_low = unlimited(low)
        if max_queue_bytes is not None:
            if max_queue_bytes < 0:
                raise ValueError(f"max_queue_bytes is {max_queue_bytes}, must be positive or zero")
            self.inbox.bytes_high = max_queue_bytes
            self.inbox.bytes_low = self.inbox.bytes_high // 4
        if max_fragments < 0:
            raise ValueError(f"max_fragments is {max_fragments}, must be positive or zero")
        self.max_fragments = max_fragments
        if deflate is not None:
            self.deflate = True
            inflater_init(&self.inflater, deflate.remote_no_context_takeover, deflate.remote_max_window_bits)
        self.gate = Gate(overflow, max_queue_age, inspect, exchange_time, replies, track)
        self.admits = self.inbox.tagged = self.gate.admission.active
        self.asks = len(self.gate.callables) > 0

    def __dealloc__(self):
        if self.abandoned:
            return
        inbox_close(&self.inbox)
        inflater_close(&self.inflater)
        if self.segment != NULL:
            segment_release(self.segment, 1)
        if self.joined != NULL:
            segment_release(self.joined, 1)
        free(self.control)

    # Bytes in

    def feed(self, data, /):
        """Take ``data`` (any length, copied) from the network and decode it."""
        cdef Py_buffer buffer
        cdef size_t offset = 0, nbytes
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        self.received_ns = monotonic_ns()
        PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
        try:
            self.stepped = False
            while self.read_class < 2 and segment_class_capacity(self.read_class) < <size_t> buffer.len:
                self.read_class += 1
            while offset < <size_t> buffer.len:
                if self.ended:
                    self.bytes_in += buffer.len - offset
                    break
                if self.reserve(0) < 0:
                    raise MemoryError("no memory for received bytes")
                nbytes = buffer.len - offset
                if nbytes > self.lent:
                    nbytes = self.lent
                memcpy(self.segment.data + self.filled, <uint8_t*> buffer.buf + offset, nbytes)
                offset += nbytes
                self.advance(nbytes)
        finally:
            PyBuffer_Release(&buffer)
        return self.status()

    def get_buffer(self, Py_ssize_t sizehint=-1, /):
        """Writable memory for the next read, never empty, at most 256 KiB; its size follows what reads have brought.

        Calling it again without ``buffer_updated`` is harmless; the earlier memoryview must not be written to any more.

        Args:
            sizehint: Ignored unless `honors_sizehint` is set: then room for more than that, at most 1 MiB.
        """
        return self.lend(sizehint)

    cdef object lend(self, Py_ssize_t sizehint):
        cdef size_t wanted = 0
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        if self.hinted and sizehint > 0:
            wanted = min(<size_t> sizehint + RECORD_MAX, <size_t> HINT_MAX)
        if self.reserve(wanted) < 0:
            raise MemoryError("no memory for received bytes")
        return PyMemoryView_FromObject(self)

    def buffer_updated(self, Py_ssize_t nbytes, /):
        """Decode ``nbytes`` that were written to the start of the memory that ``get_buffer`` returned last.

        Raises:
            ValueError: If ``nbytes`` is negative or more than was lent.
        """
        return self.updated(nbytes)

    cdef int updated(self, Py_ssize_t nbytes) except -1:
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        if nbytes < 0 or <size_t> nbytes > self.lent:
            raise ValueError(f"buffer_updated({nbytes}), but {self.lent} bytes were lent")
        self.note_read(nbytes)
        self.advance(nbytes)
        return self.status()

    cdef void note_read(self, size_t nbytes) noexcept nogil:
        """A step begins; the size of the next segment follows what reads bring."""
        self.received_ns = monotonic_ns()
        self.stepped = False
        if nbytes and nbytes == self.lent:
            self.small_reads = 0
            if self.read_class < 2:
                self.read_class += 1
        elif self.read_class > 0 and nbytes < self.lent // 8:
            self.small_reads += 1
            if self.small_reads >= SHRINK_AFTER:
                self.small_reads = 0
                self.read_class -= 1

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        """The free end of the segment; used through ``get_buffer``."""
        if self.segment == NULL:
            raise BufferError("nothing is lent: call get_buffer()")
        PyBuffer_FillInfo(buffer, self, self.segment.data + self.filled, self.lent, 0, flags)
        buffer.internal = self.segment
        segment_hold(self.segment, 1)
        self.segment.pins += 1

    def __releasebuffer__(self, Py_buffer* buffer):
        cdef Segment* segment = <Segment*> buffer.internal
        segment.pins -= 1
        segment_release(segment, 1)

    cdef size_t pending(self) noexcept nogil:
        return self.filled - self.parsed if self.segment != NULL else self.carried

    cdef int reserve(self, size_t wanted) noexcept nogil:
        """Have room behind ``filled``, for ``wanted`` bytes and to make the pending frame contiguous; sets ``lent``.

        Returns -1 if there is no memory.
        """
        cdef Segment* segment = self.segment
        cdef size_t pending = self.pending()
        cdef size_t capacity = segment_class_capacity(self.read_class)
        cdef size_t least = max(wanted, capacity // 16)
        cdef size_t lend_max = max(wanted, <size_t> LEND_MAX)
        cdef size_t doubled
        # A segment that reads have outgrown is replaced as soon as nobody looks at it.
        if segment != NULL and not (segment.capacity < capacity and segment_is_exclusive(segment)):
            if self.parsed and segment_is_exclusive(segment) and (
                pending == 0
                or segment.capacity - self.filled < least
                or self.frame_size > segment.capacity - self.parsed
            ):
                memmove(segment.data, segment.data + self.parsed, pending)
                self.parsed = 0
                self.filled = pending
            if segment.capacity - self.filled >= least and self.frame_size <= segment.capacity - self.parsed:
                self.lent = min(segment.capacity - self.filled, lend_max)
                return 0
        # A header may promise 2**63 - 1 bytes: memory follows what has arrived, not what was announced.
        if self.frame_size > capacity:
            doubled = 2 * pending if 2 * pending > segment_class_capacity(2) else segment_class_capacity(2)
            capacity = self.frame_size if self.frame_size < doubled else doubled
        if capacity < pending + least:
            capacity = pending + max(wanted, segment_class_capacity(self.read_class))
        segment = segment_new(capacity)
        if segment == NULL:
            return -1
        if self.segment != NULL:
            memcpy(segment.data, self.segment.data + self.parsed, pending)
            segment_release(self.segment, 1)
        else:
            memcpy(segment.data, self.carry, pending)
            self.carried = 0
        self.segment = segment
        self.parsed = 0
        self.filled = pending
        self.lent = min(segment.capacity - pending, lend_max)
        return 0

    cdef bint received(self, size_t nbytes) noexcept nogil:
        """``nbytes`` more are there; whether there is something to decode."""
        self.bytes_in += nbytes
        self.lent = 0
        if self.gate.admission.time_value >= 0 and nbytes:
            self.gate.admission.wall_ns = wall_ns()
        if self.segment == NULL:
            return False
        self.filled += nbytes
        return True

    cdef void advance(self, size_t nbytes) noexcept:
        """``nbytes`` more are there: decode them."""
        if not self.received(nbytes):
            return
        if nbytes >= NOGIL_MIN and self.latch == NULL:
            self.decoding = True
            with nogil:
                self.decode()
            self.decoding = False
        else:
            self.decode()
        self.note_high_water()
        self.settle()

    cdef void settle(self) noexcept nogil:
        """Give memory back as soon as nobody looks at it: an idle connection holds no segment."""
        cdef size_t pending
        if self.latch != NULL and (self.lent or self.pumping):
            return                      # a pump is at work
        if self.deflate:
            inflater_settle(&self.inflater)
        if self.segment == NULL or not segment_is_exclusive(self.segment):
            return
        pending = self.filled - self.parsed
        if pending > CARRY_MAX:
            return
        memcpy(self.carry, self.segment.data + self.parsed, pending)
        self.carried = pending
        segment_release(self.segment, 1)
        self.segment = NULL
        self.parsed = self.filled = 0

    def resume(self):
        """Go on decoding what is left, if the queue is at or below its low-water marks; else still ``BLOCKED``."""
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        self.stepped = False
        if self.may_resume():
            self.blocked = False
            self.gate.admission.hold_full = self.gate.admission.hold_old = False
            if self.pending():
                # What was carried moves back into a segment: payloads are queued where they lie.
                if self.segment == NULL and self.reserve(0) < 0:
                    self.fail(OUT_OF_MEMORY, self.carried, 0)
                else:
                    self.advance(0)
        return self.status()

    def end_of_stream(self):
        """Nothing more will come. A close frame behind the place where decoding stopped is found now, as nobody may be
        left to answer it later; the messages before it stay receivable."""
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        self.stepped = False
        self.at_end = True
        self.lent = 0
        if self.blocked and self.pending():
            if self.segment == NULL and self.reserve(0) < 0:
                self.fail(OUT_OF_MEMORY, self.carried, 0)
            else:
                self.scan_ahead()
        return self.status()

    cdef bint may_resume(self) noexcept nogil:
        cdef Admission* admission = &self.gate.admission
        if not self.blocked or self.dropping:
            return self.blocked
        if not self.admits:
            return inbox_is_low(&self.inbox) or (self.want and self.inbox.messages == 0)
        return (not admission.hold_full or inbox_is_low(&self.inbox)) and (
            not admission.hold_old or not admission_is_old(admission, &self.inbox, monotonic_ns())
        )

    # Decoding

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
                    self.fail(-result, 0, 0)
                    return -1
        if header.fin:
            flags |= FLAG_FIN
        if self.compressed:
            limit = UINT64_MAX if self.max_message == UINT64_MAX else self.max_message - self.message_size
            if limit > self.max_fragment:
                limit = self.max_fragment
            result = inflater_run(&self.inflater, payload, length, header.fin, limit, &payload, &length)
            if result < 0:
                self.fail(-result, 0, limit if -result == INFLATED_TOO_BIG else 0)
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
        self.ask(payload, length, flags)
        admission.lens.look(payload, length)
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
                    admission_notice(admission, NOTICE_DISCONNECT, -1, NO_KEY, policy.disconnect, 0)
                    self.ended = True
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
        if not inbox_push(&self.inbox, payload, length, flags, segment, self.received_ns):
            self.fail(OUT_OF_MEMORY, length, 0)
            return -1
        self.inbox.messages_in -= 1     # counted above
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

    cdef void ask(self, const uint8_t* payload, uint64_t length, uint8_t flags) noexcept nogil:
        """Functions that give keys get a Python object, with the GIL."""
        if not self.asks:
            return
        with gil:
            self.gate.ask(make_object(payload, length, flags))

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
        if self.inbox.messages + self.inbox.held_messages > self.messages_max:
            self.messages_max = self.inbox.messages + self.inbox.held_messages
        if self.inbox.bytes + self.inbox.held_bytes > self.bytes_max:
            self.bytes_max = self.inbox.bytes + self.inbox.held_bytes

    cdef void expire(self) noexcept nogil:
        """Before delivery: messages that became too old meanwhile, as far as they may be lost."""
        if self.gate.admission.max_age_ns:
            admission_expire_head(&self.gate.admission, &self.inbox, monotonic_ns())

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

    cdef void fail(self, int violation, uint64_t value, uint64_t limit) noexcept nogil:
        if not self.violated:
            self.violated = violation
            self.violation_value = value
            self.violation_limit = limit
        self.ended = True
        self.blocked = False

    cdef int status(self) noexcept nogil:
        return (
            (STATUS_MESSAGE if self.stepped else 0)
            | (STATUS_CONTROL if self.control_size else 0)
            | (STATUS_VIOLATION if self.violated else 0)
            | (STATUS_BLOCKED if self.blocked else 0)
            | (STATUS_NOTICE if self.gate.admission.notice_count else 0)
        )

    # Messages out

    def pop(self, decode=None, /):
        """Take the next complete message; None if there is none.

        Args:
            decode: None gives str for text and bytes for binary; False always bytes; True always str.

        Raises:
            UnicodeDecodeError: If ``decode`` is True and a binary message isn't UTF-8; the message is consumed.
        """
        return self.pop_message(decode)

    cdef uint64_t ready(self) except? 0:
        """Messages that `pop_message` can give, at least."""
        return self.inbox.messages

    cdef int64_t head_ns(self) noexcept:
        """When the frame at the head was received; 0 if there is none."""
        return inbox_head(&self.inbox).received_ns if self.inbox.messages else 0

    cdef bint can_resume(self) except -1:
        return self.may_resume()

    cdef object pop_message(self, object decode):
        cdef Record* record
        cdef uint8_t flags
        cdef object message
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        if self.admits:
            self.expire()
        if self.inbox.messages == 0:
            return None
        record = inbox_head(&self.inbox)
        flags = record.flags
        if flags & FLAG_WHOLE != FLAG_WHOLE:
            return self.join_head(decode)
        if decode is None or decode == ((flags & FLAG_TEXT) != 0):
            message = make_object(record.data, record.length, flags)
        elif not decode:
            message = PyBytes_FromStringAndSize(<char*> record.data, record.length)
        else:
            try:
                message = PyUnicode_DecodeUTF8(<char*> record.data, record.length, NULL)
            except UnicodeDecodeError:
                inbox_drop_head(&self.inbox)
                raise
        inbox_drop_head(&self.inbox)
        return message

    cdef Py_ssize_t head_fragments(self, uint64_t index) noexcept nogil:
        """Fragments of the complete message at ``index``; 0 if it isn't its first frame."""
        cdef uint64_t mask = self.inbox.capacity - 1
        cdef uint64_t i = index
        if not self.inbox.ring[i & mask].flags & FLAG_FIRST:
            return 0
        while not self.inbox.ring[i & mask].flags & FLAG_FIN:
            i += 1
        return i - index + 1

    cdef object join_head(self, object decode):
        """Take a fragmented message from the head, joined."""
        cdef Py_ssize_t count = self.head_fragments(self.inbox.head)
        cdef uint64_t length = 0
        cdef uint64_t i
        cdef bint text
        cdef bytes message
        cdef char* target
        cdef Record* record
        if count == 0:
            return None
        if <uint64_t> count > self.max_fragments:
            for _ in range(count):
                inbox_drop_head(&self.inbox)
            admission_lose(&self.gate.admission, LOST_DISCARDED, -1, NO_KEY)
            self.fail(TOO_MANY_FRAGMENTS, count, self.max_fragments)
            self.stop_decoding()
            return None
        text = (inbox_head(&self.inbox).flags & FLAG_TEXT) != 0
        for i in range(self.inbox.head, self.inbox.head + count):
            length += self.inbox.ring[i & (self.inbox.capacity - 1)].length
        message = PyBytes_FromStringAndSize(NULL, length)
        target = PyBytes_AS_STRING(message)
        for _ in range(count):
            record = inbox_head(&self.inbox)
            memcpy(target, record.data, record.length)
            target += record.length
            inbox_drop_head(&self.inbox)
        if text if decode is None else decode:
            return message.decode()
        return message

    def pop_fragment(self):
        """Take the next data frame as (opcode, fin, payload), decompressed; None if there is none."""
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        return self.take_fragment()

    cdef object take_fragment(self):
        cdef tuple fragment
        if self.admits:
            self.expire()
        if inbox_frames(&self.inbox) == 0 or (self.admits and self.inbox.messages == 0):
            return None
        fragment = fragment_of(inbox_head(&self.inbox))
        inbox_drop_head(&self.inbox)
        return fragment

    def take(self, max_messages=None, /):
        """Take all complete messages, or the first ``max_messages`` (>= 1); the batch is empty if there are none."""
        cdef Guard guard
        cdef Record* records = NULL
        cdef uint64_t[LOSSES] lost
        cdef uint64_t taken
        cdef bint told
        cdef Batch batch
        if max_messages is not None and max_messages < 1:
            raise ValueError(f"max_messages is {max_messages}, must be 1 or more")
        guard.enter(self.latch, self.decoding)
        taken = self.move_out(unlimited(max_messages), &records)
        told = taken and self.unreported(lost)
        guard.leave()
        batch = batch_new(records, taken)
        if told:
            batch.losses = losses_of(lost)
        return batch

    cdef uint64_t move_out(self, uint64_t most, Record** out) except? 0:
        """Move complete messages to new memory, with their references, fragmented ones joined. Returns how many."""
        cdef uint64_t wanted, capacity
        cdef uint64_t taken = 0, i, first, size
        cdef Record* records
        if self.admits:
            self.expire()
        capacity = self.inbox.capacity
        wanted = self.inbox.messages
        if most < wanted:
            wanted = most
        if wanted == 0:
            return 0
        records = <Record*> malloc(wanted * sizeof(Record))
        if records == NULL:
            raise MemoryError(f"no memory for a batch of {wanted} messages")
        out[0] = records
        if (
            inbox_frames(&self.inbox) == self.inbox.messages
            and inbox_head(&self.inbox).flags & FLAG_FIRST
            and self.inbox.dead == 0
            and self.gate.admission.max_age_ns == 0
        ):
            # No fragments: the records move as they are, with their references.
            first = self.inbox.head & (capacity - 1)
            size = wanted if wanted < capacity - first else capacity - first
            memcpy(records, self.inbox.ring + first, size * sizeof(Record))
            memcpy(records + size, self.inbox.ring, (wanted - size) * sizeof(Record))
            if wanted == self.inbox.messages:
                self.inbox.bytes = 0
            else:
                for i in range(wanted):
                    self.inbox.bytes -= records[i].length
            self.inbox.messages -= wanted
            self.inbox.head += wanted
            if self.inbox.head == self.inbox.tail:
                inbox_settle(&self.inbox)
            return wanted
        try:
            while taken < wanted:
                if self.admits:
                    self.expire()
                if self.inbox.messages == 0 or not self.take_one(&records[taken], taken == 0):
                    break
                taken += 1
        finally:
            if taken == 0:
                out[0] = NULL
                free(records)
        return taken

    cdef bint unreported(self, uint64_t* lost) noexcept nogil:
        """What was lost since the batch before; False if nothing was."""
        cdef Admission* admission = &self.gate.admission
        cdef int i
        if memcmp(admission.lost, admission.lost_reported, sizeof(admission.lost)) == 0:
            return False
        for i in range(LOSSES):
            lost[i] = admission.lost[i] - admission.lost_reported[i]
        memcpy(admission.lost_reported, admission.lost, sizeof(admission.lost))
        return True

    cdef bint take_one(self, Record* target, bint at_head) except -1:
        """Move the message at the head to ``target``, joined; False if it can't be taken."""
        cdef Record* record = inbox_head(&self.inbox)
        cdef Py_ssize_t count = self.head_fragments(self.inbox.head)
        cdef uint64_t length = 0
        cdef uint64_t i
        cdef size_t offset = 0
        cdef Segment* segment
        if count == 0:
            return False
        if count == 1:
            target[0] = record[0]
            segment_hold(<Segment*> record.segment, 1)
            inbox_drop_head(&self.inbox)
            return True
        if <uint64_t> count > self.max_fragments:
            if at_head:
                self.join_head(None)
            return False
        for i in range(self.inbox.head, self.inbox.head + count):
            length += self.inbox.ring[i & (self.inbox.capacity - 1)].length
        segment = segment_new(length)
        if segment == NULL:
            if at_head:
                raise MemoryError(f"no memory for a message of {length} bytes")
            return False
        target.data = segment.data
        target.length = length
        target.flags = FLAG_WHOLE | (record.flags & FLAG_TEXT)
        target.segment = segment
        for _ in range(count):
            record = inbox_head(&self.inbox)
            memcpy(segment.data + offset, record.data, record.length)
            offset += record.length
            target.received_ns = record.received_ns
            inbox_drop_head(&self.inbox)
        return True

    def unlogged(self):
        """The queued data frames that came since the last call, as `pop_fragment` gives them; they stay queued."""
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        return self.take_unlogged()

    cdef list take_unlogged(self):
        cdef list frames = []
        cdef uint64_t i
        for i in range(max(self.logged, self.inbox.head), self.inbox.tail):
            if not self.inbox.ring[i & (self.inbox.capacity - 1)].flags & FLAG_DEAD:
                frames.append(fragment_of(&self.inbox.ring[i & (self.inbox.capacity - 1)]))
        self.logged = self.inbox.tail
        return frames

    def timed_controls(self):
        """`controls` with ``time.monotonic_ns()`` of the read that brought each: (opcode, payload, received_ns)."""
        cdef list frames = []
        cdef size_t position = 0
        cdef int64_t received_ns
        cdef uint8_t* control
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        while position < self.control_size:
            control = self.control + position
            memcpy(&received_ns, control + 2, sizeof(int64_t))
            payload = PyBytes_FromStringAndSize(<char*> control + CONTROL_HEAD, control[1])
            frames.append((control[0], payload, received_ns))
            position += CONTROL_HEAD + control[1]
        self.control_size = 0
        if self.control_capacity > 4096:
            free(self.control)
            self.control = NULL
            self.control_capacity = 0
        return frames

    def controls(self):
        """Take the control frames that came since the last call, as (opcode, payload), in their order.

        Close frames come as they are; check their payload with ``websockets.frames.Close.parse``. After a close
        frame the decoder ignores all further input (RFC 6455 1.4).
        """
        return [(opcode, payload) for opcode, payload, _ in self.timed_controls()]

    def notices(self):
        """Take what the control plane is to know, see `fastws.wire.Notice`: (kind, key or reason, two numbers)."""
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        return self.gate.notices()

    def given_up(self):
        """Keys that the policy `Resync` has given up, in alphabetical order."""
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        return self.gate.given_up()

    def resynced(self, key):
        """Messages of a key that was given up (policy `Resync`) are taken again."""
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        self.gate.resynced(key)

    def discard(self):
        """Ignore all further input and what isn't decoded yet. Queued messages stay."""
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        self.stop_decoding()

    cdef void stop_decoding(self) noexcept nogil:
        self.ended = True
        self.blocked = False
        self.frame_size = 0
        self.carried = self.scanned = 0
        if not self.decoding and not self.pumping:      # else what is at work does so
            self.parsed = self.filled
        self.settle()

    def clear(self):
        """Throw away the queued messages."""
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        self.gate.admission.lost[LOST_DISCARDED] += self.inbox.messages
        inbox_clear(&self.inbox)

    # Figures

    def figures(self):
        """All of them that add up, of one moment: a `Figures`."""
        cdef Guard guard
        cdef uint64_t[LOSSES] lost
        cdef uint64_t received, delivered, answered, messages, messages_max, nbytes, nbytes_max, bytes_in, gaps
        cdef Admission* admission = &self.gate.admission
        cdef int64_t lag_ns
        cdef bint lagged
        cdef int i
        guard.look(self.latch, &self.decoding)
        inbox_recount(&self.inbox)
        received = self.inbox.messages_in
        messages = self.inbox.messages + self.inbox.held_messages
        nbytes = self.inbox.bytes + self.inbox.held_bytes
        messages_max, nbytes_max, bytes_in = self.messages_max, self.bytes_max, self.bytes_in
        answered, gaps, lagged, lag_ns = admission.answered, admission.gaps, admission.lagged, admission.lag_ns
        memcpy(lost, admission.lost, sizeof(lost))
        guard.leave()
        delivered = received - messages - answered
        for i in range(LOSSES):
            delivered -= lost[i]
        return Figures(
            received, bytes_in, delivered, answered, messages, max(messages, messages_max), nbytes,
            max(nbytes, nbytes_max), losses_of(lost), gaps, lag_ns if lagged else None
        )

    @property
    def violation(self):
        """(`Violation`, value, limit) once the peer broke a rule, else None."""
        cdef Guard guard
        guard.enter(self.latch, False)
        if not self.violated:
            return None
        return self.violated, self.violation_value, self.violation_limit

    @property
    def blocked(self):
        """Whether decoding stopped at a queue limit."""
        cdef Guard guard
        guard.enter(self.latch, False)
        return self.blocked

    @property
    def resumable(self):
        """Whether it is blocked and the queue is at or below its low-water marks: call ``resume()``."""
        cdef Guard guard
        guard.enter(self.latch, False)
        return self.may_resume()

    @property
    def want_message(self):
        """Set by a consumer that waits for a whole message: while no complete message is queued, queue limits
        don't apply (``max_size`` and ``max_fragments`` do), as they would wait for each other for ever. Cleared when a
        message completes."""
        cdef Guard guard
        guard.enter(self.latch, False)
        return self.want

    @want_message.setter
    def want_message(self, bint value):
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        self.want = value
        # Who waits has consumed everything; memory that is lent to a transport stays.
        if value and self.lent == 0 and not self.decoding and not self.pumping:
            self.settle()

    @property
    def honors_sizehint(self):
        """Set where ``sizehint`` is what waits in the transport, as asyncio's TLS does: what it read before the end of
        the stream must fit into one buffer, or the rest is lost."""
        return self.hinted

    @honors_sizehint.setter
    def honors_sizehint(self, bint value):
        self.hinted = value

    @property
    def dropping(self):
        """Set when a closing handshake must not wait behind data: from then on data frames are thrown away, without a
        look at their payload, and no queue limit applies. Queued messages stay."""
        cdef Guard guard
        guard.enter(self.latch, False)
        return self.dropping

    @dropping.setter
    def dropping(self, bint value):
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        self.dropping = value

    @property
    def queued_messages(self):
        """Complete messages that wait."""
        cdef Guard guard
        guard.enter(self.latch, False)
        inbox_recount(&self.inbox)
        return self.inbox.messages + self.inbox.held_messages

    @property
    def queued_frames(self):
        """Data frames that wait, those of incomplete messages included."""
        cdef Guard guard
        guard.enter(self.latch, False)
        inbox_recount(&self.inbox)
        return inbox_frames(&self.inbox) + self.inbox.held_messages

    @property
    def queued_bytes(self):
        """Payload bytes that wait, those of incomplete messages included."""
        cdef Guard guard
        guard.enter(self.latch, False)
        inbox_recount(&self.inbox)
        return self.inbox.bytes + self.inbox.held_bytes

    @property
    def current_size(self):
        """Bytes of the fragmented message that is being received; None outside of one."""
        cdef Guard guard
        guard.enter(self.latch, False)
        return self.message_size if self.fragmented else None

    @property
    def partial_frame(self):
        """(bytes received, bytes expected) of a frame that isn't complete; (0, 0) at a frame boundary.

        While its header isn't complete, the expected number is that of the header so far known (at least 2).
        """
        cdef Guard guard
        guard.enter(self.latch, False)
        if self.frame_size == 0 or self.blocked:
            return 0, 0
        return self.pending(), self.frame_size

    @property
    def oldest_ns(self):
        """When the first queued message was received (``time.monotonic_ns()``); 0 if none is."""
        cdef Guard guard
        guard.enter(self.latch, False)
        return self.oldest()

    cdef int64_t oldest(self) noexcept nogil:
        cdef uint64_t i = self.inbox.head
        if self.inbox.messages == 0:
            return 0
        while not self.inbox.ring[i & (self.inbox.capacity - 1)].flags & FLAG_FIN:
            i += 1
        return self.inbox.ring[i & (self.inbox.capacity - 1)].received_ns

    @property
    def queued_messages_max(self):
        """Most messages that ever waited at the end of a step."""
        cdef Guard guard
        guard.enter(self.latch, False)
        return self.messages_max

    @property
    def queued_bytes_max(self):
        """Most payload bytes that ever waited at the end of a step."""
        cdef Guard guard
        guard.enter(self.latch, False)
        return self.bytes_max

    @property
    def delivered(self):
        """Messages that a consumer took."""
        cdef Guard guard
        cdef uint64_t count
        cdef int i
        guard.enter(self.latch, False)
        inbox_recount(&self.inbox)
        count = self.inbox.messages_in - self.inbox.messages - self.inbox.held_messages - self.gate.admission.answered
        for i in range(LOSSES):
            count -= self.gate.admission.lost[i]
        return count

    @property
    def answered(self):
        """Messages that a `Reply` took."""
        cdef Guard guard
        guard.enter(self.latch, False)
        return self.gate.admission.answered

    @property
    def lost(self):
        """Messages that no consumer will get, since the beginning."""
        cdef Guard guard
        cdef uint64_t[LOSSES] lost
        guard.enter(self.latch, False)
        memcpy(lost, self.gate.admission.lost, sizeof(lost))
        guard.leave()
        return losses_of(lost)

    def lost_by_key(self, limit=10, /):
        """Keys that lost most: (key, dropped, conflated), most first."""
        cdef Guard guard
        guard.look(self.latch, &self.decoding)
        return self.gate.lost_by_key(limit)

    def last_seen(self):
        """For ``track``: when the last message of each key was received (``time.monotonic_ns()``)."""
        cdef Guard guard
        guard.look(self.latch, &self.decoding)
        return self.gate.last_seen()

    @property
    def gaps(self):
        """Messages that didn't follow their predecessor."""
        cdef Guard guard
        guard.enter(self.latch, False)
        return self.gate.admission.gaps

    @property
    def exchange_lag_ns(self):
        """Age of the last message on arrival, by the exchange's clock and ours; None if none told."""
        cdef Guard guard
        guard.enter(self.latch, False)
        return self.gate.admission.lag_ns if self.gate.admission.lagged else None

    @property
    def messages_received(self):
        """Complete messages decoded so far."""
        cdef Guard guard
        guard.enter(self.latch, False)
        return self.inbox.messages_in

    @property
    def bytes_received(self):
        """Bytes taken from the network so far."""
        cdef Guard guard
        guard.enter(self.latch, False)
        return self.bytes_in
