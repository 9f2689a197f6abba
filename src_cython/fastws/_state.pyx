"""What a decoder is made of, and what it tells of itself."""

from libc.stdint cimport UINT64_MAX, int64_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

from ._admission cimport LOSSES, Admission, Gate, admission_is_old, losses_of
from ._clock cimport monotonic_ns
from ._inbox cimport FLAG_FIN, inbox_close, inbox_frames, inbox_is_low, inbox_recount
from ._inflate cimport inflater_close, inflater_init, inflater_settle
from ._latch cimport Guard
from ._segment cimport segment_is_exclusive, segment_release
from ._wire cimport STATUS_BLOCKED, STATUS_CONTROL, STATUS_MESSAGE, STATUS_NOTICE, STATUS_VIOLATION

from fastws import wire
from fastws.overflow import Figures


cdef tuple limit_pair(object limit, str name):
    """(high, low) of an int, None or a pair, checked."""
    high, low = limit if isinstance(limit, tuple) else (limit, None)
    for value in (high, low):
        if value is not None and value < 0:
            raise ValueError(f"{name} is {value}, must be positive or zero")
    return high, low


cdef uint64_t unlimited(object limit):
    return UINT64_MAX if limit is None else limit


cdef class DecoderState:
    """The part of `FrameDecoder` that does nothing: see there for the arguments."""

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
        if self.made:
            raise RuntimeError("the decoder is in use")
        self.made = True
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
        if max_fragments < 1:
            raise ValueError(f"max_fragments is {max_fragments}, must be 1 or more")
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

    cdef size_t pending(self) noexcept nogil:
        return self.filled - self.parsed if self.segment != NULL else self.carried

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

    cdef bint may_resume(self) noexcept nogil:
        cdef Admission* admission = &self.gate.admission
        if not self.blocked or self.dropping:
            return self.blocked
        if not self.admits:
            return inbox_is_low(&self.inbox) or (self.want and self.inbox.messages == 0)
        return (not admission.hold_full or inbox_is_low(&self.inbox)) and (
            not admission.hold_old or not admission_is_old(admission, &self.inbox, monotonic_ns())
        )

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
            | (STATUS_NOTICE if self.gate.admission.notice_count or self.gate.admission.notices_lost else 0)
        )

    def discard(self):
        """Ignore all further input and what isn't decoded yet. Queued messages stay."""
        cdef Guard guard
        guard.enter(self, self.latch, &self.decoding)
        self.stop_decoding()

    cdef void stop_decoding(self) noexcept nogil:
        self.ended = True
        self.blocked = False
        self.frame_size = 0
        self.carried = self.scanned = 0
        if not self.decoding and not self.pumping:      # else what is at work does so
            self.parsed = self.filled
        self.settle()

    # Keys

    def notices(self):
        """Take what the control plane is to know, see `fastws.wire.Notice`: (kind, key or reason, two numbers)."""
        cdef Guard guard
        guard.enter(self, self.latch, &self.decoding)
        return self.gate.notices()

    def given_up(self):
        """Keys that the policy `Resync` has given up, in alphabetical order."""
        cdef Guard guard
        guard.enter(self, self.latch, &self.decoding)
        return self.gate.given_up()

    def resynced(self, key):
        """Messages of a key that was given up (policy `Resync`) are taken again."""
        cdef Guard guard
        guard.enter(self, self.latch, &self.decoding)
        self.gate.resynced(key)

    def lost_by_key(self, limit=10, /):
        """Keys that lost most: (key, dropped, conflated), most first."""
        cdef Guard guard
        guard.look(self, self.latch, &self.decoding)
        return self.gate.lost_by_key(limit)

    def last_seen(self):
        """For ``track``: when the last message of each key was received (``time.monotonic_ns()``)."""
        cdef Guard guard
        guard.look(self, self.latch, &self.decoding)
        return self.gate.last_seen()

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
        guard.look(self, self.latch, &self.decoding)
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
        guard.enter(self, self.latch, NULL)
        if not self.violated:
            return None
        return self.violated, self.violation_value, self.violation_limit

    @property
    def blocked(self):
        """Whether decoding stopped at a queue limit."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        return self.blocked

    @property
    def resumable(self):
        """Whether it is blocked and the queue is at or below its low-water marks: call ``resume()``."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        return not self.decoding and self.may_resume()

    @property
    def want_message(self):
        """Set by a consumer that waits for a whole message: while no complete message is queued, queue limits
        don't apply (``max_size`` and ``max_fragments`` do), as they would wait for each other for ever. Cleared when a
        message completes."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        return self.want

    @want_message.setter
    def want_message(self, bint value):
        cdef Guard guard
        guard.enter(self, self.latch, &self.decoding)
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
        guard.enter(self, self.latch, NULL)
        return self.dropping

    @dropping.setter
    def dropping(self, bint value):
        cdef Guard guard
        guard.enter(self, self.latch, &self.decoding)
        self.dropping = value

    @property
    def queued_messages(self):
        """Complete messages that wait."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        inbox_recount(&self.inbox)
        return self.inbox.messages + self.inbox.held_messages

    @property
    def queued_frames(self):
        """Data frames that wait, those of incomplete messages included."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        inbox_recount(&self.inbox)
        return inbox_frames(&self.inbox) + self.inbox.held_messages

    @property
    def queued_bytes(self):
        """Payload bytes that wait, those of incomplete messages included."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        inbox_recount(&self.inbox)
        return self.inbox.bytes + self.inbox.held_bytes

    @property
    def current_size(self):
        """Bytes of the fragmented message that is being received; None outside of one."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        return self.message_size if self.fragmented else None

    @property
    def partial_frame(self):
        """(bytes received, bytes expected) of a frame that isn't complete; (0, 0) at a frame boundary.

        While its header isn't complete, the expected number is that of the header so far known (at least 2).
        """
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        if self.frame_size == 0 or self.blocked:
            return 0, 0
        return self.pending(), self.frame_size

    @property
    def oldest_ns(self):
        """When the first queued message was received (``time.monotonic_ns()``); 0 if none is."""
        cdef Guard guard
        guard.look(self, self.latch, &self.decoding)
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
        guard.enter(self, self.latch, NULL)
        return self.messages_max

    @property
    def queued_bytes_max(self):
        """Most payload bytes that ever waited at the end of a step."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        return self.bytes_max

    @property
    def delivered(self):
        """Messages that a consumer took."""
        cdef Guard guard
        cdef uint64_t count
        cdef int i
        guard.enter(self, self.latch, NULL)
        inbox_recount(&self.inbox)
        count = self.inbox.messages_in - self.inbox.messages - self.inbox.held_messages - self.gate.admission.answered
        for i in range(LOSSES):
            count -= self.gate.admission.lost[i]
        return count

    @property
    def answered(self):
        """Messages that a `Reply` took."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        return self.gate.admission.answered

    @property
    def lost(self):
        """Messages that no consumer will get, since the beginning."""
        cdef Guard guard
        cdef uint64_t[LOSSES] lost
        guard.enter(self, self.latch, NULL)
        memcpy(lost, self.gate.admission.lost, sizeof(lost))
        guard.leave()
        return losses_of(lost)

    @property
    def gaps(self):
        """Messages that didn't follow their predecessor."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        return self.gate.admission.gaps

    @property
    def exchange_lag_ns(self):
        """Age of the last message on arrival, by the exchange's clock and ours; None if none told."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        return self.gate.admission.lag_ns if self.gate.admission.lagged else None

    @property
    def messages_received(self):
        """Complete messages decoded so far."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        return self.inbox.messages_in

    @property
    def bytes_received(self):
        """Bytes taken from the network so far."""
        cdef Guard guard
        guard.enter(self, self.latch, NULL)
        return self.bytes_in
