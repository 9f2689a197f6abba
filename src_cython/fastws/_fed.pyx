"""The pump's side of a decoder: it reads, decodes and answers without the GIL.

All state of `FrameDecoder` lies behind a latch, which is given up while the socket is read. What is read becomes
messages in the queue and control frames as in the loop; pings, replies and heartbeats are answered here.
"""

from libc.errno cimport EAGAIN
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove

from ._admission cimport NOTICE_WITHHELD, NO_KEY, admission_notice
from ._clock cimport monotonic_ns
from ._decoder cimport FrameDecoder
from ._header cimport header_format
from ._latch cimport Guard, Latch
from ._line cimport (
    BEAT_DONE,
    BEAT_OVER,
    ORDER_FLUSH,
    ORDER_LOOK,
    REPORT_STEP,
    STEP_BLOCKED,
    STEP_END,
    STEP_ON,
    Beat,
    Line,
    Pump,
    Written,
)
from ._mask cimport mask_into
from ._run cimport run_clear
from ._state cimport CONTROL_HEAD
from ._wire cimport (
    MAX_HEADER,
    OUT_OF_MEMORY,
    PING,
    PONG,
    STATUS_BLOCKED,
    STATUS_CONTROL,
    STATUS_NOTICE,
    STATUS_VIOLATION,
    TEXT,
)

cdef extern from *:
    """
    /* Bytes, 0 at the end of the stream, -EAGAIN if there is nothing now, or another negative errno. */
    static inline ssize_t fastws_receive(fastws::Line *line, void *data, size_t size) {
        if (fastws::Tls *tls = line->outlet.tls()) return tls->read((char *)data, size, &line->more);
        ssize_t got = ::recv(line->fd, data, size, MSG_DONTWAIT);
        if (got >= 0) return got;
        return errno == EWOULDBLOCK || errno == EINTR ? -EAGAIN : -errno;
    }
    static inline void fastws_set_error(fastws::Line *line, int error) {
        line->error.store(error, std::memory_order_relaxed);
    }
    /* What the pump couldn't send ends the line; unless the peer has left: behind what it has sent, reading says so. */
    static inline void fastws_unsent(fastws::Line *line, const fastws::Outlet::Written &written) {
        int error = written.error;
        if (error && error != EPIPE && error != ECONNRESET) fastws_set_error(line, error);
    }
    static inline void fastws_report(fastws::Line *line, uint32_t report) {
        if (line->reports) line->reports->add(line, report);
    }
    """
    ssize_t fastws_receive(Line* line, void* data, size_t size) noexcept nogil
    void fastws_set_error(Line* line, int error) noexcept nogil
    void fastws_report(Line* line, uint32_t report) noexcept nogil
    void fastws_unsent(Line* line, const Written& written) noexcept nogil

cdef extern from "entropy.hpp" namespace "fastws" nogil:
    bint masking_key(uint8_t* key) noexcept

cdef enum:
    READS_MAX = 4               # reads of up to 256 KiB each before somebody is woken
    REPLIES_MAX = 1024 * 1024   # bytes of replies to the messages of one read; further ones get none
    REPLIES_KEEP = 64 * 1024    # memory for them that is kept
    URGENT = STATUS_CONTROL | STATUS_BLOCKED | STATUS_NOTICE


cdef class FedDecoder(FrameDecoder):
    """The part of `PumpedDecoder` that a pump drives, without the GIL."""

    def __cinit__(self):
        self.latch = new Latch()
        self.inbox.held = &self.run_here.held
        self.run = &self.run_here
        self.run_here.room = self.run_here.records = self.room
        self.armed = True

    def __dealloc__(self):
        if self.latch == NULL:
            return
        if self.latch.is_inherited():
            # The pump may have been at work on it when the process forked; the memory is the price.
            self.abandoned = True
            return
        del self.latch
        run_clear(&self.run_here)
        free(self.pongs.data)
        free(self.replies.data)

    cdef int attach(self, Pump* pump, Line* line) except -1:
        """From now on the pump feeds it."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        self.pump = pump
        self.line = line
        return 0

    cdef int starve(self, uint64_t nbytes) except -1:
        """So much was lost for want of memory: the connection ends, and the loop is told why."""
        cdef Guard guard
        guard.enter(self.latch, False)
        self.fail(OUT_OF_MEMORY, nbytes, 0)
        if self.line != NULL:
            fastws_report(self.line, REPORT_STEP)
        return 0

    cdef int detach(self) except -1:
        """The pump is done with it; what it left undone is done here."""
        cdef Guard guard
        if self.latch.is_inherited():
            return 0
        guard.enter(self, self.latch, NULL)
        self.pump = NULL
        self.line = NULL
        self.over = True
        self.decode_rest()
        self.latch.awaken()
        return 0

    cdef int read(self, Line* line) noexcept nogil:
        """The socket is readable.

        A flood is read a few times before its consumer is woken: that costs it, and the pump, more than to wait for
        another read. Who waits for an answer to a ping, or for the end, doesn't wait for that.
        """
        cdef ssize_t nbytes = 0
        cdef bint full = True, stepped = False
        cdef int reads = 0
        self.latch.enter()
        if self.blocked:
            self.latch.leave()
            return STEP_BLOCKED
        while full and reads < READS_MAX:
            nbytes = self.read_once(line, &full)
            if nbytes <= 0:
                break
            reads += 1
            stepped |= self.stepped
            full = full and self.control_size == self.answered_to and not self.status() & (URGENT | STATUS_VIOLATION)
        self.stepped = stepped
        if nbytes > 0 or (nbytes == -EAGAIN and reads):
            return self.end_step(line, STEP_ON)
        if nbytes == -EAGAIN:
            self.settle()
            self.latch.leave()
            return STEP_ON
        if nbytes < 0:
            fastws_set_error(line, <int> -nbytes)
        return self.end_step(line, STEP_END)

    cdef ssize_t read_once(self, Line* line, bint* full) noexcept nogil:
        """Read and decode behind the latch, which is given up meanwhile. Returns as `fastws_receive` does."""
        cdef uint8_t* target
        cdef size_t room
        cdef ssize_t nbytes
        if self.reserve(0) < 0:
            # As if it had been received; then the stream ends, after that of the user's connection has failed.
            self.fail(OUT_OF_MEMORY, self.pending(), 0)
            return 0
        target = self.segment.data + self.filled
        room = self.lent
        self.latch.leave()
        nbytes = fastws_receive(line, target, room)
        self.latch.enter()
        if nbytes <= 0:
            self.lent = 0
            return nbytes
        full[0] = <size_t> nbytes == room
        self.note_read(nbytes)
        if self.received(nbytes):
            self.decode_pending()
        return nbytes

    cdef int look(self, Line* line) noexcept nogil:
        """A consumer has caught up, or wants something else of us."""
        self.latch.enter()
        self.stepped = False
        if self.resuming:
            self.resuming = False
            if self.pending():
                if self.segment == NULL and self.reserve(0) < 0:
                    self.fail(OUT_OF_MEMORY, self.carried, 0)
                elif self.received(0):
                    self.decode_pending()
        return self.end_step(line, STEP_ON)

    cdef void finish(self) noexcept nogil:
        """The socket is about to be closed."""
        self.latch.enter()
        self.over = True
        self.end_pause()
        self.latch.awaken()
        self.latch.leave()

    cdef void decode_pending(self) noexcept nogil:
        self.pumping = True
        self.decode()
        self.pumping = False
        self.note_high_water()

    cdef int end_step(self, Line* line, int step) noexcept nogil:
        """Leave the latch, answer pings, tell who must know."""
        cdef int status
        cdef uint32_t report = 0
        self.settle()
        if self.control_size > self.answered_to:
            self.gather_pongs()
        status = self.status()
        if status & URGENT or (status & STATUS_VIOLATION and not self.told) or (self.stepped and self.armed):
            report = REPORT_STEP
            self.armed = False
        if status & STATUS_VIOLATION:
            self.told = True
        if not self.blocked:
            self.end_pause()
        else:
            self.run_here.held.stop(True)
            self.note_pause()
            step = STEP_BLOCKED if step == STEP_ON else step
        if self.stepped or step == STEP_END:
            self.latch.awaken()
        self.latch.leave()
        if self.pongs.size or self.replies.size:
            report |= self.send_answers(line)
        if report:
            fastws_report(line, report)
        return step

    cdef void gather_pongs(self) noexcept nogil:
        """Build the answers to new pings (RFC 6455 5.5.2 and 5.5.3); such pings needn't go to Python."""
        cdef size_t position = self.answered_to
        cdef size_t kept = position
        cdef size_t size
        cdef uint8_t* control
        while position < self.control_size:
            control = self.control + position
            size = CONTROL_HEAD + control[1]
            position += size
            if control[0] == PING and self.add(&self.pongs, PONG, control + CONTROL_HEAD, control[1]):
                if not self.keeps_pings:
                    continue
                control[0] = PING | ANSWERED
            memmove(self.control + kept, control, size)
            kept += size
        self.control_size = self.answered_to = kept

    cdef bint reply(self, int answer) noexcept nogil:
        """The answer to a message goes out behind this step (RFC 7692 6: not compressed, whatever was negotiated)."""
        cdef string* text
        if not self.pumping or self.pump == NULL:
            return False
        if <size_t> answer >= self.replies_here.size():
            self.heard_count += 1
            return True
        if not self.replies_here[answer]:
            return False
        if self.replies.size > REPLIES_MAX:
            self.crowded_out += 1
            return True
        text = &self.reply_texts[answer]
        if not self.add(&self.replies, TEXT, <const uint8_t*> text.data(), text.size()):
            return False
        if self.keeps_pings:
            self.replies_log.add(answer)
        return True

    cdef bint add(self, Frames* frames, int opcode, const uint8_t* payload, size_t length) noexcept nogil:
        """A frame of the pump's own; False if there is no memory, or no masking key."""
        cdef uint8_t[4] key
        cdef uint8_t* target
        cdef size_t capacity
        if frames.capacity - frames.size < MAX_HEADER + length:
            capacity = 2 * frames.capacity + MAX_HEADER + length
            target = <uint8_t*> realloc(frames.data, capacity)
            if target == NULL:
                return False
            frames.data = target
            frames.capacity = capacity
        frames.last = frames.size
        target = frames.data + frames.size
        if self.masked:                 # the peer is a client, we aren't
            target += header_format(target, opcode, True, False, length, NULL)
            memcpy(target, payload, length)
        else:
            if not masking_key(key):
                return False
            target += header_format(target, opcode, True, False, length, key)
            mask_into(target, payload, length, key, 0)
        frames.size = target + length - frames.data
        frames.count += 1
        return True

    cdef uint32_t send_answers(self, Line* line) noexcept nogil:
        """Returns what is to be reported of it."""
        cdef int sent = 0
        cdef uint32_t report = 0
        cdef bint first = False
        cdef Written written
        cdef int64_t delay_ns
        if self.pongs.size:
            written = line.outlet.answer(<const char*> self.pongs.data, self.pongs.size, self.pongs.last, &sent)
            fastws_unsent(line, written)
            delay_ns = monotonic_ns() - self.received_ns
            first = written.first
            if sent and not written.error:
                self.latch.enter()
                self.pings_answered += self.pongs.count
                if delay_ns > self.ping_delay_max_ns:
                    self.ping_delay_max_ns = delay_ns
                self.latch.leave()
            self.pongs.size = self.pongs.count = 0
        if self.replies.size:
            written = line.outlet.reply(
                <const char*> self.replies.data, self.replies.size, self.replies.count, self.crowded_out,
                self.replies_log,
            )
            fastws_unsent(line, written)
            first |= written.first
            if written.withheld:
                report = self.tell_withheld()
            if not self.replies_log.empty():
                report = REPORT_STEP
            self.settle_replies()
        if first:
            self.pump.order(line, ORDER_FLUSH)
        return report

    cdef uint32_t tell_withheld(self) noexcept nogil:
        """Replies or a heartbeat weren't sent, as the peer doesn't read: the first time, the loop is told."""
        if self.told_withheld:
            return 0
        self.told_withheld = True
        self.latch.enter()
        admission_notice(&self.gate.admission, NOTICE_WITHHELD, -1, NO_KEY, 0, 0)
        self.latch.leave()
        return REPORT_STEP

    cdef void settle_replies(self) noexcept nogil:
        self.replies.size = self.replies.count = self.crowded_out = 0
        self.replies_log.clear()
        if self.replies.capacity > REPLIES_KEEP:
            free(self.replies.data)
            self.replies.data = NULL
            self.replies.capacity = 0

    cdef int beat(self, Line* line) noexcept nogil:
        """A heartbeat is due. Whether there will be more."""
        cdef Beat what = BEAT_DONE
        cdef Written written
        cdef uint32_t report = 0
        cdef bint over, logs
        self.latch.enter()
        over = self.ended or self.close_seen
        logs = self.keeps_pings
        self.latch.leave()
        if over:
            # The peer has closed the connection or broken a rule: the loop will say so.
            return False
        if not self.add(&self.replies, TEXT, <const uint8_t*> self.beat_text.data(), self.beat_text.size()):
            return True
        if logs:
            self.replies_log.add(<int> self.replies_here.size())
        written = line.outlet.beat(<const char*> self.replies.data, self.replies.size, self.replies_log, &what)
        fastws_unsent(line, written)
        self.settle_replies()
        if what == BEAT_DONE:
            # No answer can have come in between: whoever decodes is here.
            self.latch.enter()
            self.beat_ns = monotonic_ns()
            if not self.unanswered_ns or self.answers() != self.unanswered:
                self.unanswered = self.answers()
                self.unanswered_ns = self.beat_ns
            self.latch.leave()
            if written.withheld:
                report = self.tell_withheld()
            elif logs:
                report = REPORT_STEP
            if report:
                fastws_report(line, report)
        if written.first:
            self.pump.order(line, ORDER_FLUSH)
        return what != BEAT_OVER

    cdef uint64_t answers(self) noexcept nogil:
        """What may be answers to heartbeats, so far."""
        return self.heard_count if self.beat_expects else self.inbox.messages_in

    cdef void note_pause(self) noexcept nogil:
        if not self.paused_since_ns:
            self.paused_since_ns = monotonic_ns()
            self.pauses += 1

    cdef void end_pause(self) noexcept nogil:
        cdef int64_t paused_ns
        if self.paused_since_ns:
            paused_ns = monotonic_ns() - self.paused_since_ns
            self.paused_ns += paused_ns
            if paused_ns > self.pause_max_ns:
                self.pause_max_ns = paused_ns
            self.paused_since_ns = 0

    cdef void go_on(self) noexcept:
        """Let what waits be decoded."""
        self.blocked = False
        self.run_here.held.stop(False)
        self.gate.admission.hold_full = self.gate.admission.hold_old = False
        self.resuming = True
        if self.pump != NULL:
            self.pump.order(self.line, ORDER_LOOK)
        else:
            self.decode_rest()

    cdef void decode_rest(self) noexcept nogil:
        """No pump is there to do it."""
        if not self.resuming:
            return
        self.resuming = False
        if self.pending():
            if self.segment == NULL and self.reserve(0) < 0:
                self.fail(OUT_OF_MEMORY, self.carried, 0)
            elif self.received(0):
                self.decode_pending()
                self.settle()
                self.run_here.held.stop(self.blocked)
        if not self.blocked:
            self.end_pause()

    def discard(self):
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        self.stop_decoding()
        self.run_here.held.stop(False)
        self.end_pause()
        if self.pump != NULL:
            self.pump.order(self.line, ORDER_LOOK)

    cdef int beat_with(self, string text, bint expects) except -1:
        """What heartbeats say, before they begin."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        if self.beats_begun:
            raise RuntimeError("heartbeats have begun already")
        self.beats_begun = True
        self.beat_text.swap(text)       # which takes no memory
        self.beat_expects = expects
        return 0

    def reply_with(self, texts):
        """What the pump answers by itself; to be called before it reads.

        Args:
            texts: The text of each of the ``replies``, as bytes; None leaves one to the loop, by a notice. Those at the
                end that have none are what a heartbeat expects: `heard` counts them.
        """
        cdef Guard guard
        cdef list kept = list(texts)
        guard.enter(self, self.latch, NULL)
        self.reply_texts.clear()
        self.replies_here.clear()
        for text in kept:
            self.reply_texts.push_back(<string> (b"" if text is None else text))
            self.replies_here.push_back(text is not None)

    @property
    def heard(self):
        """Answers to heartbeats that the pump has seen."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        return self.heard_count

    @property
    def beats(self):
        """``time.monotonic_ns()`` of two heartbeats: the earliest that no answer has followed, and the last; or 0."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        return self.unanswered_ns if self.answers() == self.unanswered else 0, self.beat_ns

    @property
    def pings(self):
        """(pings answered by the pump, longest time from the read to the answer in nanoseconds)."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        return self.pings_answered, self.ping_delay_max_ns

    @property
    def pause(self):
        """Pauses of reading at a limit: (number, whether there is one, nanoseconds in all, those of the longest)."""
        cdef Guard guard
        cdef int64_t running_ns = 0
        guard.enter(self, self.latch, NULL)
        if self.paused_since_ns:
            running_ns = monotonic_ns() - self.paused_since_ns
        return self.pauses, self.paused_since_ns != 0, self.paused_ns + running_ns, max(self.pause_max_ns, running_ns)
