"""A decoder that a pump feeds without the GIL, and that Python consumes: the consumer's side.

A consumer takes a run of messages in one visit behind the latch, as long as nothing but their number and size decides
what is queued, and makes objects of them outside; with a policy it takes one by one, since those that wait may still be
replaced. But for what `Guard` says, methods hold the GIL, and on a free-threaded interpreter the section.
"""

cimport cython

from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_CheckSignals
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from ._admission cimport LOSSES, LOST_DISCARDED
from ._batch cimport Batch, batch_new, make_object
from ._clock cimport deadline_ns, monotonic_ns
from ._decoder cimport fragment_fill, fragment_new
from ._fed cimport ANSWERED, RUN_MAX, FedDecoder
from ._inbox cimport (
    FLAG_TEXT,
    Record,
    inbox_clear,
    inbox_frames,
    inbox_give,
    inbox_head,
    inbox_recount,
    inbox_settle,
)
from ._latch cimport Guard
from ._run cimport run_clear, run_drop, run_end, run_head_ns, run_length, run_may_resume, run_message
from ._section cimport Section
from ._segment cimport array_free, array_new
from ._state cimport CONTROL_HEAD
from ._wire cimport BINARY, RECORD_BYTES, TEXT

cdef extern from "Python.h":
    unsigned long PyThread_get_thread_ident() noexcept

cdef enum:
    RUN_BYTES_MAX = 64 * 1024   # payload that a consumer holds outside of the queue, unless it takes its ring
    AHEAD_MAX = 8               # times that something is told ahead of one message, while more and more comes
    SLEEP_MAX_NS = 100_000_000  # between two looks for signals


cdef unsigned long exiting_thread = 0


cdef void note_exit() noexcept:
    """Pumps have stopped, as the interpreter ends, and this thread ends it."""
    global exiting_thread
    exiting_thread = PyThread_get_thread_ident()


cdef bint is_exiting() noexcept:
    """Whether this thread ends the interpreter: it must not wait for what no pump does any more. Daemons may."""
    return exiting_thread and exiting_thread == PyThread_get_thread_ident()


@cython.final
cdef class PumpedDecoder(FedDecoder):
    """A `FrameDecoder` between a `fastws.Pump`, which reads the socket in a native thread, and Python.

    Arguments, methods and attributes are those of `FrameDecoder`; memory for reads is lent to nobody, so
    ``get_buffer`` and ``buffer_updated`` aren't for use. Any thread may consume, one at a time.
    """

    cdef uint64_t ready(self) except? 0:
        return run_length(&self.run_here) or self.fetch(False)

    cdef int64_t head_ns(self) noexcept:
        return run_head_ns(&self.run_here)

    cdef uint64_t fetch(self, bint alone) except? 0:
        """Take the next run out of the queue. Returns how many messages can be had.

        With a policy, or fragments, that is one message, and only if ``alone``: it may still be replaced or streamed.
        """
        cdef Guard guard
        cdef int tries = 0
        cdef uint64_t count = 0
        cdef list frames = None
        run_end(&self.run_here)
        guard.enter(self.latch, False)
        while self.is_ahead() and tries < AHEAD_MAX:
            guard.leave()
            self.ahead(self)
            guard.enter(self.latch, False)
            tries += 1
        if self.run_here.at != self.run_here.end:
            return run_length(&self.run_here)   # somebody has fetched while this thread was without the GIL
        self.run_here.held.set(0, 0)
        if self.admits:
            self.expire()
        if self.inbox.messages == 0:
            return 0
        if self.logs_ahead:
            frames = self.take_unlogged()
        if self.admits or inbox_frames(&self.inbox) != self.inbox.messages or not inbox_head(&self.inbox).flags & 2:
            if not alone:
                count = self.inbox.messages
            elif self.take_one(&self.run_here.records[0], True):
                self.run_here.end = count = 1
                self.run_here.bytes = self.run_here.records[0].length
        else:
            self.take_run()
            count = self.run_here.end
        self.run_here.held.set(self.run_here.end, self.run_here.bytes)
        inbox_recount(&self.inbox)
        # What is in the queue alone is above a low-water mark: no need to look before the run is at its end, as
        # without policies only its consumer makes a queue shorter.
        self.run_here.is_low = self.admits or (
            self.inbox.messages <= self.inbox.messages_low
            and self.inbox.bytes + RECORD_BYTES * inbox_frames(&self.inbox) <= self.inbox.bytes_low
        )
        guard.leave()
        if frames:
            self.log(frames)
        return count

    cdef bint is_ahead(self) noexcept:
        """Whether something is to be told before messages are taken."""
        return (
            self.ahead is not None
            and (self.gate.admission.notice_count or self.gate.admission.notices_lost)
            and self.loop_thread == PyThread_get_thread_ident()
        )

    def call_ahead(self, on_notices, on_frames=None):
        """What comes ahead of messages that are taken, although the report to the loop may still be under way.

        Args:
            on_notices: Called with the decoder in this thread, if there are `notices`.
            on_frames: Called with what `unlogged` gives, in any thread; then answered pings are told of, too.
        """
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        self.loop_thread = PyThread_get_thread_ident()
        self.ahead = on_notices
        self.log = on_frames
        self.logs_ahead = self.keeps_pings = on_frames is not None

    cdef void take_run(self) noexcept nogil:
        """Unfragmented messages from the head of the ring, with their references; or all of them, with the ring."""
        cdef uint64_t mask = self.inbox.capacity - 1
        cdef uint64_t count = self.inbox.messages, nbytes = self.inbox.bytes, start = 0
        cdef Record* record
        self.run_here.ring = inbox_give(&self.inbox, &start)
        if self.run_here.ring != NULL:
            self.run_here.records = self.run_here.ring + start
            self.run_here.end = count
            self.run_here.bytes = nbytes
            return
        while self.run_here.end < RUN_MAX and self.inbox.messages and self.run_here.bytes < RUN_BYTES_MAX:
            record = &self.inbox.ring[self.inbox.head & mask]
            self.run_here.records[self.run_here.end] = record[0]
            self.run_here.end += 1
            self.run_here.bytes += record.length
            self.inbox.bytes -= record.length
            self.inbox.messages -= 1
            self.inbox.head += 1
        if self.inbox.head == self.inbox.tail:
            inbox_settle(&self.inbox)

    cdef object pop_message(self, object decode):
        cdef Record* record
        cdef object message
        if self.run_here.at == self.run_here.end:
            self.fetch(True)
            if self.run_here.at == self.run_here.end:
                return None
        if decode is None:
            return run_message(&self.run_here)
        record = &self.run_here.records[self.run_here.at]
        if decode == ((record.flags & FLAG_TEXT) != 0):
            message = make_object(record.data, record.length, record.flags)
        else:
            message = PyBytes_FromStringAndSize(<char*> record.data, record.length)
        run_drop(&self.run_here)
        # Taken before an exception is made, as what the garbage collector finalizes for it may come here, too.
        return (<bytes> message).decode() if decode and isinstance(message, bytes) else message

    def pop(self, decode=None, /):
        cdef Section section
        section.enter(self)
        return self.pop_message(decode)

    def pop_fragment(self):
        cdef Section section
        cdef Guard guard
        cdef Record* record
        cdef int opcode
        cdef bytes payload
        cdef list frames = None
        cdef tuple fragment = fragment_new()
        section.enter(self)
        if self.run_here.at == self.run_here.end:
            guard.enter(self.latch, False)
            # Unless somebody has fetched while this thread was without the GIL.
            if self.run_here.at == self.run_here.end:
                if self.logs_ahead:
                    frames = self.take_unlogged()
                taken = self.take_fragment(fragment)
                guard.leave()
                if frames:
                    self.log(frames)
                return taken
            guard.leave()
        record = &self.run_here.records[self.run_here.at]
        opcode = TEXT if record.flags & FLAG_TEXT else BINARY
        payload = PyBytes_FromStringAndSize(<char*> record.data, record.length)
        fragment_fill(fragment, opcode, True, payload)
        run_drop(&self.run_here)
        return fragment

    def take(self, max_messages=None, /):
        cdef Guard guard
        cdef Record* records = NULL
        cdef Record* more = NULL
        cdef uint64_t[LOSSES] lost
        cdef uint64_t wanted, taken, most, added = 0, start = 0
        cdef bint told
        cdef Batch batch
        cdef list frames = None
        if max_messages is not None and max_messages < 1:
            raise ValueError(f"max_messages is {max_messages}, must be 1 or more")
        wanted = <uint64_t> -1 if max_messages is None else max_messages
        batch = batch_new()
        guard.enter(self, self.latch, NULL)
        if self.is_ahead():
            guard.leave()
            self.ahead(self)
            guard.enter(self.latch, False)
        if self.logs_ahead:
            frames = self.take_unlogged()
        # What is left of a run comes first. Counted inside: clear() may have come while we were without the GIL.
        taken = run_length(&self.run_here)
        if taken > wanted:
            taken = wanted
        elif taken < wanted:
            # First, as it may fail: nothing is lost then, and nothing comes out of order.
            most = min(wanted - taken, self.inbox.messages)
            if taken and most:
                records = <Record*> array_new((taken + most) * sizeof(Record))
                if records == NULL:
                    raise MemoryError(f"no memory for a batch of {taken + most} messages")
            try:
                added = self.move_out(most, &more, <uint64_t*> NULL if taken else &start)
            except BaseException:
                array_free(records)
                raise
        if taken + added == 0:
            guard.leave()
            if frames:
                self.log(frames)
            return batch
        if not taken:
            records = more
        elif (
            records == NULL
            and self.run_here.ring != NULL
            and taken == run_length(&self.run_here)
            and taken >= self.run_here.end // 2
        ):
            # The ring goes on to the batch, which keeps no more than eight records for a message.
            records = self.run_here.ring
            start = self.run_here.records - self.run_here.ring + self.run_here.at
            self.run_here.ring = NULL
            run_end(&self.run_here)
            self.run_here.held.set(0, 0)
        else:
            if records == NULL:
                records = <Record*> array_new(taken * sizeof(Record))
                if records == NULL:
                    raise MemoryError(f"no memory for a batch of {taken} messages")
            memcpy(records, &self.run_here.records[self.run_here.at], taken * sizeof(Record))
            if added:
                memcpy(records + taken, more, added * sizeof(Record))
                array_free(more)
            for i in range(taken):
                self.run_here.bytes -= records[i].length
            self.run_here.at += taken
            if self.run_here.at == self.run_here.end:
                run_end(&self.run_here)
            self.run_here.held.set(run_length(&self.run_here), self.run_here.bytes)
        told = self.unreported(lost)
        batch.own(records, start, taken + added)
        guard.leave()
        if frames:
            self.log(frames)
        if told:
            self.tell_losses(batch, lost)
        return batch

    cdef bint can_resume(self) except -1:
        cdef Guard guard
        cdef uint64_t rest = run_length(&self.run_here)
        if not run_may_resume(&self.run_here):
            return False
        if rest and (
            rest > self.inbox.messages_low
            or self.run_here.bytes + RECORD_BYTES * rest > self.inbox.bytes_low
        ):
            return False
        guard.enter(self.latch, False)
        return self.may_resume()

    cdef int resumed(self) except -1:
        cdef Guard guard
        guard.enter(self.latch, False)
        self.stepped = False
        if self.may_resume():
            self.go_on()
        return self.status()

    def clear(self):
        cdef Section section
        cdef Guard guard
        cdef uint64_t held
        section.enter(self)
        guard.enter(self.latch, False)
        held = run_length(&self.run_here)
        run_clear(&self.run_here)
        self.gate.admission.lost[LOST_DISCARDED] += self.inbox.messages + held
        inbox_clear(&self.inbox)
        inbox_recount(&self.inbox)

    def timed_controls(self):
        """Take the control frames as (opcode, payload, ``time.monotonic_ns()`` of the read).

        Pings that the pump has answered come only if frames are logged, with 0x80 added to their opcode.
        """
        return self.take_controls(True)

    cdef list take_controls(self, bint timed):
        cdef Guard guard
        cdef list frames = []
        cdef size_t position = 0, size
        cdef int64_t received_ns
        cdef uint8_t* control
        cdef uint8_t* rest = NULL
        cdef uint8_t* frame
        guard.enter(self, self.latch, NULL)
        control = self.control
        size = self.control_size
        if self.pumping and self.answered_to < size:
            # The pump gives way in the middle of a step: it answers the pings behind this place, and reports.
            size = self.answered_to
            rest = <uint8_t*> malloc(self.control_capacity)
            if rest == NULL:
                return frames
            memcpy(rest, control + size, self.control_size - size)
            self.control_size -= size
        else:
            self.control_size = self.control_capacity = 0
        self.control = rest
        self.answered_to = 0
        guard.leave()
        try:
            while position < size:
                frame = control + position
                memcpy(&received_ns, frame + 2, sizeof(int64_t))
                payload = PyBytes_FromStringAndSize(<char*> frame + CONTROL_HEAD, frame[1])
                frames.append((frame[0], payload, received_ns) if timed else (frame[0] & ~ANSWERED, payload))
                position += CONTROL_HEAD + frame[1]
        except MemoryError:
            # The rest is lost.
            self.starve(size - position)
        finally:
            free(control)
        return frames

    def step_status(self):
        """A `Status` of what is to be looked at now."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        return self.status()

    def arm(self):
        """Report the next change of the queue to the loop, once. Look at the queue after it, then wait."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        self.armed = True

    def wait(self, timeout_s=None, /):
        """Wait without the GIL until a complete message is queued, or until nothing more will come.

        Args:
            timeout_s: Seconds; None is no limit.

        Returns:
            Whether one of both is so; False after the timeout.
        """
        cdef Section section
        section.enter(self)
        return self.wait_for(timeout_s, True)

    def wait_frame(self, timeout_s=None, /):
        """As `wait`, for the next fragment or whole message."""
        cdef Section section
        section.enter(self)
        return self.wait_for(timeout_s, False)

    cdef bint wait_for(self, object timeout_s, bint whole) except -1:
        cdef Guard guard
        cdef int64_t until_ns = 0, now_ns
        cdef uint64_t there
        if timeout_s is not None:
            until_ns = deadline_ns(timeout_s)
        while True:
            guard.enter(self.latch, False)
            self.want = whole
            there = self.inbox.messages if whole else inbox_frames(&self.inbox)
            if self.run_here.at == self.run_here.end and not there and self.may_resume():
                # Perhaps only as somebody waits: for the end of a message that is larger than the queue.
                self.go_on()
                there = self.inbox.messages if whole else inbox_frames(&self.inbox)
            if is_exiting() and self.pump != NULL and self.pump.stopped():
                self.over = True
            if self.run_here.at != self.run_here.end or there or self.over:
                self.want = False
                return True
            now_ns = monotonic_ns()
            if timeout_s is not None and now_ns >= until_ns:
                self.want = False
                return False
            now_ns += SLEEP_MAX_NS
            guard.sleep_until(now_ns if timeout_s is None else min(now_ns, until_ns))
            guard.leave()
            PyErr_CheckSignals()

    @property
    def resumable(self):
        cdef Section section
        section.enter(self)
        return self.can_resume()

    @property
    def oldest_ns(self):
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        return run_head_ns(&self.run_here) or self.oldest()

    @property
    def is_over(self):
        """Whether nothing more will come: the socket is closed."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        return self.over
