"""What Python sees of received messages: an immutable sequence that makes objects only of what is touched."""

cimport cython

from collections.abc import Sequence

from cpython.buffer cimport PyBuffer_FillInfo
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy

from ._inbox cimport FLAG_TEXT, FLAG_WHOLE, Record
from ._section cimport Section
from ._segment cimport Segment, array_free, array_new, segment_hold, segment_new, segment_release

from fastws import pickled
from fastws.overflow import Lost

NOTHING_LOST = Lost()


@cython.final
cdef class Payload:
    """Lends one message of a batch as a buffer, and keeps the batch."""

    cdef Batch batch
    cdef uint8_t* data
    cdef Py_ssize_t length

    def __getbuffer__(self, Py_buffer* buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.data, self.length, 1, flags)


@cython.final
cdef class BatchIterator:
    cdef Batch batch
    cdef Py_ssize_t index

    def __iter__(self):
        return self

    def __next__(self):
        cdef Record* record
        cdef Section section
        section.enter(self)
        if self.index >= self.batch.length:
            raise StopIteration
        record = self.batch.record(self.index)
        self.index += 1
        return make_object(record.data, record.length, record.flags)

    def __length_hint__(self):
        return self.batch.length - self.index


@cython.final
cdef class Batch:
    """An immutable sequence of messages that makes a Python object only of those you touch.

    Iterating and indexing give ``str`` for text and ``bytes`` for binary messages. A batch keeps the memory its
    messages were received in; a slice shares it. Batches compare equal element by element, and pickle.
    """

    def __init__(self):
        raise TypeError("a Batch comes from recv_batch(), batches() or FrameDecoder.take()")

    def __dealloc__(self):
        cdef Py_ssize_t i = 0, first
        cdef void* segment
        # Neighbours mostly share a segment: give references back in runs.
        while i < self.owned:
            first = i
            segment = self.record(i).segment
            while i < self.owned and self.record(i).segment == segment:
                i += 1
            segment_release(<Segment*> segment, <uint32_t> (i - first))
        if self.owned:
            array_free(self.records)

    cdef void own(self, Record* records, Py_ssize_t start, Py_ssize_t length) noexcept:
        """From now on it owns the array ``records``: ``length`` of them from ``start`` on, and a reference of each."""
        self.records = records
        self.start = start
        self.length = self.owned = length

    cdef Record* checked(self, Py_ssize_t index) except NULL:
        if index < 0:
            index += self.length
        if index < 0 or index >= self.length:
            raise IndexError(f"batch index out of range: batch has {self.length} messages")
        return self.record(index)

    @property
    def nbytes(self):
        """Sum of the payload lengths in bytes. O(n)."""
        cdef uint64_t total = 0
        cdef Py_ssize_t i
        for i in range(self.length):
            total += self.record(i).length
        return total

    @property
    def lost(self):
        """What was lost between the batch before and this one: it comes ahead of the messages. A `Lost`."""
        return NOTHING_LOST if self.losses is None else self.losses

    @property
    def received_ns(self):
        """``time.monotonic_ns()`` of the read that brought the first (oldest) message; 0 if the batch is empty."""
        return self.record(0).received_ns if self.length else 0

    def received_ns_at(self, Py_ssize_t index, /):
        """``time.monotonic_ns()`` of the read that brought (the last byte of) message ``index``."""
        return self.checked(index).received_ns

    def view(self, Py_ssize_t index, /):
        """The payload of message ``index`` as a read-only memoryview, without a copy; valid as long as it lives."""
        cdef Record* record = self.checked(index)
        cdef Payload payload = Payload.__new__(Payload)
        payload.batch = self
        payload.data = record.data
        payload.length = record.length
        return PyMemoryView_FromObject(payload)

    def is_text(self, Py_ssize_t index, /):
        """Whether message ``index`` is text (opcode 0x1) rather than binary."""
        return (self.checked(index).flags & FLAG_TEXT) != 0

    def __len__(self):
        return self.length

    def __getitem__(self, index, /):
        cdef Record* record
        cdef Batch part
        cdef Py_ssize_t start, step, length
        if isinstance(index, slice):
            start, stop, step = index.indices(self.length)
            length = len(range(start, stop, step))
            part = Batch.__new__(Batch)
            part.owner = self.owner if self.owner is not None else self
            part.records = self.records
            part.start = self.start + start * self.step
            part.step = self.step * step
            part.length = length
            return part
        record = self.checked(index)
        return make_object(record.data, record.length, record.flags)

    def __iter__(self):
        cdef BatchIterator iterator = BatchIterator.__new__(BatchIterator)
        iterator.batch = self
        iterator.index = 0
        return iterator

    def __reversed__(self):
        return iter(self[::-1])

    def __contains__(self, item, /):
        for message in self:
            if message == item:
                return True
        return False

    def index(self, value, start=0, stop=None, /):
        """First index of ``value`` in ``self[start:stop]``; ValueError if it isn't there."""
        for i in range(*slice(start, stop).indices(self.length)):
            if self[i] == value:
                return i
        raise ValueError(f"{value!r} is not in the batch")

    def count(self, value, /):
        """How many messages equal ``value``."""
        return sum(1 for message in self if message == value)

    def __eq__(self, other, /):
        cdef Batch batch
        cdef Record* mine
        cdef Record* theirs
        cdef Py_ssize_t i
        if not isinstance(other, Batch):
            return NotImplemented
        batch = other
        if self.length != batch.length:
            return False
        for i in range(self.length):
            mine = self.record(i)
            theirs = batch.record(i)
            if mine.length != theirs.length or (mine.flags ^ theirs.flags) & FLAG_TEXT:
                return False
            if memcmp(mine.data, theirs.data, mine.length) != 0:
                return False
        return True

    def __hash__(self):
        return object.__hash__(self)

    def __repr__(self):
        return f"<Batch of {self.length} messages, {self.nbytes} bytes>"

    def __reduce__(self):
        """Payloads in one piece, so that a batch travels to another process in a few large copies."""
        cdef Py_ssize_t i
        cdef uint64_t total = self.nbytes
        cdef bytes payload = PyBytes_FromStringAndSize(NULL, total)
        cdef bytes lengths = PyBytes_FromStringAndSize(NULL, self.length * 8)
        cdef bytes kinds = PyBytes_FromStringAndSize(NULL, self.length)
        cdef bytes times = PyBytes_FromStringAndSize(NULL, self.length * 8)
        cdef char* target = payload
        cdef char* length_target = lengths
        cdef char* kind_target = kinds
        cdef char* time_target = times
        cdef uint64_t length
        cdef int64_t received_ns
        cdef Record* record
        for i in range(self.length):
            record = self.record(i)
            length = record.length
            received_ns = record.received_ns
            memcpy(target, record.data, length)
            target += length
            memcpy(length_target + 8 * i, &length, 8)
            memcpy(time_target + 8 * i, &received_ns, 8)
            kind_target[i] = 1 if record.flags & FLAG_TEXT else 0
        return pickled.rebuild_batch, (payload, lengths, kinds, times)


Sequence.register(Batch)


cdef Batch batch_new():
    """An empty batch: made before messages are taken for it, so that none is lost for want of memory."""
    cdef Batch batch = Batch.__new__(Batch)
    batch.step = 1
    return batch


def rebuild_batch(bytes payload not None, bytes lengths not None, bytes kinds not None, bytes received_ns not None):
    """Make a batch of the parts that pickling took it into; see the stub for their shapes.

    Raises:
        ValueError: If the parts don't fit together, or a text message isn't UTF-8.
    """
    cdef Py_ssize_t count = len(kinds)
    cdef Py_ssize_t i
    cdef uint64_t total = len(payload)
    cdef uint64_t length, offset = 0
    cdef int64_t when
    cdef const char* length_source = lengths
    cdef const char* time_source = received_ns
    cdef const char* kind_source = kinds
    cdef const char* payload_source = payload
    cdef Segment* segment
    cdef Record* records
    cdef Batch batch = batch_new()
    if len(lengths) != 8 * count or len(received_ns) != 8 * count:
        raise ValueError(
            f"{count} kinds need {8 * count} bytes of lengths and times, "
            f"not {len(lengths)} and {len(received_ns)}"
        )
    for i in range(count):
        memcpy(&length, length_source + 8 * i, 8)
        if length > total - offset:
            raise ValueError(f"message {i} has {length} bytes > {total - offset} left of the payload")
        if kind_source[i] not in (0, 1):
            raise ValueError(f"message {i} has kind {kind_source[i]}, must be 0 or 1")
        if kind_source[i]:
            payload[offset:offset + length].decode()
        offset += length
    if offset != total:
        raise ValueError(f"payload has {total} bytes, messages have {offset}")
    if count == 0:
        return batch
    segment = segment_new(total)
    records = <Record*> array_new(count * sizeof(Record))
    if segment == NULL or records == NULL:
        array_free(records)
        if segment != NULL:
            segment_release(segment, 1)
        raise MemoryError(f"no memory for a batch of {total} bytes")
    memcpy(segment.data, payload_source, total)
    segment_hold(segment, <uint32_t> count)
    segment_release(segment, 1)
    offset = 0
    for i in range(count):
        memcpy(&length, length_source + 8 * i, 8)
        memcpy(&when, time_source + 8 * i, 8)
        records[i].data = segment.data + offset
        records[i].length = length
        records[i].flags = FLAG_WHOLE | (FLAG_TEXT if kind_source[i] else 0)
        records[i].segment = segment
        records[i].received_ns = when
        offset += length
    batch.own(records, 0, count)
    return batch
