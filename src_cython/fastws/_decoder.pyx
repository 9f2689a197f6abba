"""Bytes in; messages, batches and control frames out (RFC 6455 5 and 6.2, RFC 7692). Knows no socket.

The kernel writes into a segment, messages stay where they were written, and the queue holds records that point
there. Nothing here makes a Python object until a consumer asks for one; decoding a large chunk needs no GIL.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_New, PyTuple_SET_ITEM
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcmp, memcpy, memmove

from ._admission cimport (
    LOSSES,
    LOST_DISCARDED,
    NO_KEY,
    Admission,
    admission_expire_head,
    admission_lose,
    losses_of,
)
from ._batch cimport Batch, batch_new, make_object
from ._clock cimport monotonic_ns, wall_ns
from ._decoding cimport Decoding
from ._inbox cimport (
    FLAG_DEAD,
    FLAG_FIN,
    FLAG_FIRST,
    FLAG_TEXT,
    FLAG_WHOLE,
    Record,
    inbox_clear,
    inbox_drop_head,
    inbox_frames,
    inbox_give,
    inbox_head,
    inbox_settle,
)
from ._latch cimport Guard
from ._section cimport Section
from ._segment cimport (
    Segment,
    array_free,
    array_new,
    segment_class_capacity,
    segment_hold,
    segment_is_exclusive,
    segment_new,
    segment_release,
)
from ._state cimport CONTROL_HEAD, HINT_MAX, LEND_MAX, RECORD_MAX, unlimited
from ._wire cimport BINARY, CONT, OUT_OF_MEMORY, TEXT, TOO_MANY_FRAGMENTS

cdef enum:
    # Taking the GIL back from a busy thread can cost a switch interval (5 ms): keep it for what takes microseconds.
    NOGIL_MIN = 32 * 1024
    # Reads below an eighth of the buffer, in a row, until smaller segments are used.
    SHRINK_AFTER = 32


cdef inline int opcode_of(uint8_t flags) noexcept:
    return CONT if not flags & FLAG_FIRST else TEXT if flags & FLAG_TEXT else BINARY


cdef tuple fragment_of(Record* record):
    return (
        opcode_of(record.flags),
        (record.flags & FLAG_FIN) != 0,
        PyBytes_FromStringAndSize(<char*> record.data, record.length),
    )


cdef tuple fragment_new():
    """What `fragment_fill` fills: made before a frame is taken, as that may fail, or have the garbage collector run."""
    return PyTuple_New(3)


cdef object fragment_fill(tuple fragment, int opcode, bint fin, bytes payload):
    cdef object number = opcode, last = fin
    # It takes the references.
    Py_INCREF(number)
    PyTuple_SET_ITEM(fragment, 0, number)
    Py_INCREF(last)
    PyTuple_SET_ITEM(fragment, 1, last)
    Py_INCREF(payload)
    PyTuple_SET_ITEM(fragment, 2, payload)
    return fragment


cdef class FrameDecoder(Decoding):
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

    # Bytes in

    def feed(self, data, /):
        """Take ``data`` (any length, copied) from the network and decode it."""
        cdef Py_buffer buffer
        cdef size_t offset = 0, nbytes
        cdef Guard guard
        guard.enter(self, self.latch, &self.decoding)
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
        cdef Section section
        section.enter(self)
        self.prepare(sizehint)
        section.leave()
        return PyMemoryView_FromObject(self)

    cdef int prepare(self, Py_ssize_t sizehint) except -1:
        """Have ``lent`` bytes of room behind ``filled``. Whoever keeps the place has to keep it from being moved."""
        cdef size_t wanted = 0
        cdef Guard guard
        guard.enter(self.latch, self.decoding)
        if self.hinted and sizehint > 0:
            wanted = min(<size_t> sizehint + RECORD_MAX, <size_t> HINT_MAX)
        if self.reserve(wanted) < 0:
            raise MemoryError("no memory for received bytes")
        return 0

    def buffer_updated(self, Py_ssize_t nbytes, /):
        """Decode ``nbytes`` that were written to the start of the memory that ``get_buffer`` returned last.

        Raises:
            ValueError: If ``nbytes`` is negative or more than was lent.
        """
        cdef Section section
        section.enter(self)
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
        cdef Section section
        section.enter(self)
        if self.segment == NULL:
            raise BufferError("nothing is lent: call get_buffer()")
        PyBuffer_FillInfo(buffer, self, self.segment.data + self.filled, self.lent, 0, flags)
        buffer.internal = self.segment
        segment_hold(self.segment, 1)
        self.segment.pins += 1

    def __releasebuffer__(self, Py_buffer* buffer):
        cdef Segment* segment = <Segment*> buffer.internal
        cdef Section section
        section.enter(self)
        segment.pins -= 1
        segment_release(segment, 1)

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
        if self.latch != NULL:
            self.decode()
        elif nbytes >= NOGIL_MIN:
            self.decoding = True
            with nogil:
                self.decode()
            self.decoding = False
        else:
            # Functions for keys are Python code, which others may come in between.
            self.decoding = self.asks
            self.decode()
            self.decoding = False
        self.note_high_water()
        self.settle()

    def resume(self):
        """Go on decoding what is left, if the queue is at or below its low-water marks; else still ``BLOCKED``."""
        cdef Section section
        section.enter(self)
        return self.resumed()

    cdef int resumed(self) except -1:
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
        guard.enter(self, self.latch, &self.decoding)
        self.stepped = False
        self.at_end = True
        self.lent = 0
        if self.blocked and self.pending():
            if self.segment == NULL and self.reserve(0) < 0:
                self.fail(OUT_OF_MEMORY, self.carried, 0)
            else:
                self.scan_ahead()
        return self.status()

    # Messages out

    def pop(self, decode=None, /):
        """Take the next complete message; None if there is none.

        Args:
            decode: None gives str for text and bytes for binary; False always bytes; True always str.

        Raises:
            UnicodeDecodeError: If ``decode`` is True and a binary message isn't UTF-8; the message is consumed.
        """
        cdef Section section
        section.enter(self)
        return self.pop_message(decode)

    cdef uint64_t ready(self) except? 0:
        """Messages that `pop_message` can give, at least."""
        return self.inbox.messages

    cdef int64_t head_ns(self) noexcept:
        """When the frame at the head was received; 0 if there is none."""
        return inbox_head(&self.inbox).received_ns if self.inbox.messages else 0

    cdef bint can_resume(self) except -1:
        return self.may_resume()

    cdef void expire(self) noexcept nogil:
        """Before delivery: messages that became too old meanwhile, as far as they may be lost."""
        if self.gate.admission.max_age_ns:
            admission_expire_head(&self.gate.admission, &self.inbox, monotonic_ns())

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
        else:
            message = PyBytes_FromStringAndSize(<char*> record.data, record.length)
        inbox_drop_head(&self.inbox)
        # Taken before an exception is made, as what the garbage collector finalizes for it may come here, too.
        return (<bytes> message).decode() if decode and isinstance(message, bytes) else message

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
        cdef object message
        cdef bytes joined
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
        message = joined = PyBytes_FromStringAndSize(NULL, length)
        target = PyBytes_AS_STRING(joined)
        for i in range(self.inbox.head, self.inbox.head + count):
            record = &self.inbox.ring[i & (self.inbox.capacity - 1)]
            memcpy(target, record.data, record.length)
            target += record.length
        if text and (decode is None or decode):
            # It is valid: if that fails, for want of memory, the message stays.
            message = joined.decode()
        for _ in range(count):
            inbox_drop_head(&self.inbox)
        return joined.decode() if decode and not text else message

    def pop_fragment(self):
        """Take the next data frame as (opcode, fin, payload), decompressed; None if there is none."""
        cdef Guard guard
        cdef tuple fragment = fragment_new()
        guard.enter(self, self.latch, &self.decoding)
        return self.take_fragment(fragment)

    cdef object take_fragment(self, tuple fragment):
        cdef Record* record
        cdef uint8_t flags
        cdef bytes payload
        if self.admits:
            self.expire()
        if inbox_frames(&self.inbox) == 0 or (self.admits and self.inbox.messages == 0):
            return None
        record = inbox_head(&self.inbox)
        flags = record.flags
        payload = PyBytes_FromStringAndSize(<char*> record.data, record.length)
        fragment_fill(fragment, opcode_of(flags), (flags & FLAG_FIN) != 0, payload)
        inbox_drop_head(&self.inbox)
        return fragment

    def take(self, max_messages=None, /):
        """Take all complete messages, or the first ``max_messages`` (>= 1); the batch is empty if there are none."""
        cdef Guard guard
        cdef Record* records = NULL
        cdef uint64_t[LOSSES] lost
        cdef uint64_t taken, start = 0
        cdef bint told
        cdef Batch batch
        if max_messages is not None and max_messages < 1:
            raise ValueError(f"max_messages is {max_messages}, must be 1 or more")
        batch = batch_new()
        guard.enter(self, self.latch, &self.decoding)
        taken = self.move_out(unlimited(max_messages), &records, &start)
        told = taken and self.unreported(lost)
        guard.leave()
        batch.own(records, start, taken)
        if told:
            self.tell_losses(batch, lost)
        return batch

    cdef uint64_t move_out(self, uint64_t most, Record** out, uint64_t* start) except? 0:
        """Move complete messages to memory of their own, with their references, fragmented ones joined.

        Returns how many. They begin at index ``start``; NULL is the beginning.
        """
        cdef uint64_t wanted, capacity
        cdef uint64_t taken = 0, i, first, size
        cdef Record* records
        cdef bint whole
        if self.admits:
            self.expire()
        capacity = self.inbox.capacity
        wanted = self.inbox.messages
        if most < wanted:
            wanted = most
        if wanted == 0:
            return 0
        # Without fragments the records move as they are, with their references.
        whole = (
            inbox_frames(&self.inbox) == self.inbox.messages
            and inbox_head(&self.inbox).flags & FLAG_FIRST
            and self.inbox.dead == 0
            and self.gate.admission.max_age_ns == 0
        )
        if whole and wanted == self.inbox.messages and start != NULL:
            out[0] = inbox_give(&self.inbox, start)
            if out[0] != NULL:
                return wanted
        records = <Record*> array_new(wanted * sizeof(Record))
        if records == NULL:
            raise MemoryError(f"no memory for a batch of {wanted} messages")
        out[0] = records
        if whole:
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
                array_free(records)
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

    cdef int tell_losses(self, Batch batch, const uint64_t* lost) except -1:
        cdef Guard guard
        try:
            batch.losses = losses_of(lost)
        except MemoryError:
            # The next batch tells of them; this one has messages.
            guard.enter(self, self.latch, NULL)
            for i in range(LOSSES):
                self.gate.admission.lost_reported[i] -= lost[i]
        return 0

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
        guard.enter(self, self.latch, &self.decoding)
        return self.take_unlogged()

    cdef list take_unlogged(self):
        cdef list frames = []
        cdef uint64_t i
        for i in range(max(self.logged, self.inbox.head), self.inbox.tail):
            if not self.inbox.ring[i & (self.inbox.capacity - 1)].flags & FLAG_DEAD:
                frames.append(fragment_of(&self.inbox.ring[i & (self.inbox.capacity - 1)]))
        self.logged = self.inbox.tail
        return frames

    def clear(self):
        """Throw away the queued messages."""
        cdef Guard guard
        guard.enter(self, self.latch, &self.decoding)
        self.gate.admission.lost[LOST_DISCARDED] += self.inbox.messages
        inbox_clear(&self.inbox)

    # Control frames out

    def timed_controls(self):
        """`controls` with ``time.monotonic_ns()`` of the read that brought each: (opcode, payload, received_ns)."""
        return self.take_controls(True)

    def controls(self):
        """Take the control frames that came since the last call, as (opcode, payload), in their order.

        Close frames come as they are; check their payload with ``websockets.frames.Close.parse``. After a close
        frame the decoder ignores all further input (RFC 6455 1.4).
        """
        return self.take_controls(False)

    cdef list take_controls(self, bint timed):
        cdef list frames = []
        cdef size_t position = 0
        cdef int64_t received_ns
        cdef uint8_t* control
        cdef Guard guard
        guard.enter(self, self.latch, &self.decoding)
        while position < self.control_size:
            control = self.control + position
            memcpy(&received_ns, control + 2, sizeof(int64_t))
            payload = PyBytes_FromStringAndSize(<char*> control + CONTROL_HEAD, control[1])
            frames.append((control[0], payload, received_ns) if timed else (control[0], payload))
            position += CONTROL_HEAD + control[1]
        self.control_size = 0
        if self.control_capacity > 4096:
            free(self.control)
            self.control = NULL
            self.control_capacity = 0
        return frames
