"""``async for message in connection`` without a coroutine per message, and fairness towards the event loop."""

cimport cython

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_REFCNT, Py_XDECREF
from cpython.weakref cimport PyWeakref_NewRef
from libc.stdint cimport int64_t, uint64_t

from ._batch cimport Batch, make_object
from ._clock cimport monotonic_ns
from ._decoder cimport FrameDecoder
from ._histogram cimport (
    Histogram,
    histogram_add,
    histogram_close,
    histogram_quantile,
)
from ._inbox cimport FLAG_WHOLE, Record, inbox_drop_head, inbox_head
from ._run cimport run_length, run_may_resume, run_message
from ._section cimport Claim, Claimed, Section

cdef extern from *:
    """
    typedef int (*fastws_send)(PyObject *, PyObject *, PyObject **);
    /* With am_send, the interpreter (3.10, 3.11, and where it asks PyIter_Send) takes a value without StopIteration. */
    static inline void fastws_set_am_send(PyObject *type, fastws_send send) {
        ((PyTypeObject *)type)->tp_as_async->am_send = (sendfunc)(void (*)(void))send;
    }
    static inline int fastws_iter_send(PyObject *iter, PyObject *value, PyObject **result) {
        return (int)PyIter_Send(iter, value, result);
    }
    """
    ctypedef int (*fastws_send)(PyObject*, PyObject*, PyObject**) except -1
    void fastws_set_am_send(PyObject* type, fastws_send send)
    int fastws_iter_send(PyObject* iterator, PyObject* value, PyObject** result) except -1

cdef enum:
    SEND_RETURN = 0             # PYGEN_RETURN
    SEND_NEXT = 1               # PYGEN_NEXT
    CLOCK_EVERY_MAX = 32        # messages between two looks at the clock
    SAMPLES_MAX = 16            # messages of a batch whose waiting time is looked at


cdef tuple quantiles(const Histogram* histogram):
    return (
        histogram.total,
        histogram_quantile(histogram, 0.5),
        histogram_quantile(histogram, 0.99),
        histogram_quantile(histogram, 0.999),
        histogram.largest,
    )


cdef inline uint64_t ready(FrameDecoder decoder) except? 0:
    """Messages that can be had at once, at least."""
    if decoder.run == NULL:
        return decoder.inbox.messages
    return run_length(decoder.run) or decoder.ready()


cdef inline bint may_resume(FrameDecoder decoder) noexcept:
    """Whether it is of use to ask `can_resume`."""
    return decoder.blocked if decoder.run == NULL else run_may_resume(decoder.run)


@cython.final
cdef class Turn:
    """How long a consumer may go on without giving the event loop its turn.

    A turn ends after ``max_ns``, or after ``max_messages`` or what was queued when it began, whichever is more.
    The clock is read rarely while messages are handled quickly, and at each message while they aren't.

    The same looks at the clock tell how long messages waited and how long the consumer took for them; all messages
    between two looks count alike.

    Attributes:
        busy: Whether a coroutine is receiving; others must not. Set by the connection, respected by the iterator.
        waiter: The future of the coroutine that waits for a message.
        consumer: Weak reference to the task that received last.
        burst: Bytes read since whoever waited was woken, or since the loop ran its other callbacks.
    """

    def __init__(self, FrameDecoder decoder not None, *, max_messages=1024, max_ns=5_000_000):
        cdef Section section
        section.enter(decoder)
        self.decoder = decoder
        self.max_messages = max_messages
        self.max_ns = max_ns
        self.begin()

    cdef int begin(self) except -1:
        cdef uint64_t queued = ready(self.decoder)
        self.left = queued if queued > self.max_messages else self.max_messages
        self.until_clock = self.clock_every = 1
        self.ends_ns = 0
        self.handed_ns = 0
        self.handed = 0
        return 0

    def __dealloc__(self):
        histogram_close(&self.waits)
        histogram_close(&self.processings)

    cdef bint count(self, uint64_t messages) noexcept:
        if self.left < messages:
            self.left = 0
            self.stop()
            return True
        self.left -= messages
        if self.until_clock > messages:
            self.until_clock -= messages
            return False
        return self.look()

    cdef bint look(self) noexcept:
        cdef int64_t now = monotonic_ns()
        cdef int64_t head_ns, took_ns = now - self.handed_ns
        cdef bint goes_on = self.handed_ns != 0
        self.processed(now)
        if self.ends_ns == 0:
            self.ends_ns = now + self.max_ns
        elif now >= self.ends_ns:
            self.left = 0
            self.handed_ns = 0
            return True
        self.handed_ns = now
        head_ns = self.decoder.head_ns()
        if head_ns:
            histogram_add(&self.waits, now - head_ns, self.clock_every)
        if not goes_on:
            self.clock_every = 1
        elif took_ns <= (self.ends_ns - now) // 8:
            # The next look is in time, though it is twice as far away. Else every message may be the last.
            if self.clock_every < CLOCK_EVERY_MAX:
                self.clock_every *= 2
        elif took_ns > (self.ends_ns - now) // 2:
            self.clock_every = 1
        self.until_clock = self.clock_every
        return False

    cdef void processed(self, int64_t now) noexcept:
        """The consumer has come back for more."""
        cdef uint64_t messages = self.handed if self.handed else self.clock_every - self.until_clock + 1
        if self.handed_ns:
            histogram_add(&self.processings, (now - self.handed_ns) // <int64_t> messages, messages)
        self.handed = 0

    cdef void stop(self) noexcept:
        """The consumer waits, or the loop has its turn: that isn't processing."""
        if self.handed_ns:
            self.processed(monotonic_ns())
            self.handed_ns = 0

    cdef bint rouse(self) except -1:
        cdef object waiter
        cdef Section section
        section.enter(self.decoder)
        waiter = self.waiting
        section.leave()
        if waiter is None:
            return False
        if not waiter.done():
            waiter.set_result(None)
        return True

    @property
    def waiter(self):
        """The future of the coroutine that waits for a message."""
        cdef Section section
        section.enter(self.decoder)
        return self.waiting

    @waiter.setter
    def waiter(self, future):
        cdef Section section
        section.enter(self.decoder)
        self.waiting = future

    @property
    def consumer(self):
        """Weak reference to the task that received last."""
        cdef Section section
        section.enter(self.decoder)
        return self.consuming

    def wake(self):
        """Wake who waits for a message. False if nobody does."""
        return self.rouse()

    cdef int note(self, object task) except -1:
        # Weak, as a task keeps its frame, which keeps the connection.
        cdef object consumer = None if task is None else PyWeakref_NewRef(task, None)
        cdef Section section
        section.enter(self.decoder)
        self.consuming = consumer
        return 0

    def note_consumer(self, task, /):
        """This task receives."""
        self.note(task)

    @property
    def busy(self):
        return self.is_busy

    @busy.setter
    def busy(self, bint value):
        cdef Section section
        section.enter(self.decoder)
        if value:
            self.stop()
        self.is_busy = value

    def took(self, Batch batch not None, /):
        """Count the messages of a batch that was handed out, after ``spend()`` for the first one."""
        cdef Py_ssize_t rest = batch.length - 1
        cdef Py_ssize_t step = rest // SAMPLES_MAX + 1
        cdef Py_ssize_t i = 1
        cdef int64_t now
        cdef Section section
        if rest < 0:
            return
        section.enter(self.decoder)
        self.left = self.left - <uint64_t> rest if self.left > <uint64_t> rest else 0
        now = monotonic_ns()
        while i <= rest:
            histogram_add(&self.waits, now - batch.record(i).received_ns, min(step, rest + 1 - i))
            i += step
        self.handed_ns = now
        self.handed = rest + 1
        self.until_clock = self.clock_every = 1

    @property
    def wait(self):
        """How long messages waited in the queue, in nanoseconds: (count, median, p99, p99.9, largest)."""
        cdef Section section
        section.enter(self.decoder)
        return quantiles(&self.waits)

    @property
    def processing(self):
        """How long the consumer took for a message, in nanoseconds: (count, median, p99, p99.9, largest)."""
        cdef Section section
        section.enter(self.decoder)
        return quantiles(&self.processings)

    def spend(self, uint64_t messages=1, /):
        """Count messages handed out; True if it's the loop's turn now (the caller then suspends and renews)."""
        cdef Section section
        section.enter(self.decoder)
        return self.count(messages)

    def renew(self):
        """A new turn begins: the loop has run."""
        cdef Section section
        section.enter(self.decoder)
        self.begin()

    def claim(self):
        """Set ``busy`` for a thread that receives; False if it was set already."""
        cdef Section section
        section.enter(self.decoder)
        if self.is_busy:
            return False
        self.is_busy = True
        return True

    def take(self, decode=None, /):
        """The next message for a thread that has no loop; None if none is there, or somebody is receiving.

        Raises:
            UnicodeDecodeError: If ``decode`` is True and it isn't UTF-8; it is lost.
        """
        cdef Section section
        section.enter(self.decoder)
        return self.take_message(decode)

    cdef object take_message(self, object decode):
        cdef object message
        if self.is_busy:
            return None
        # Before the GIL, or the section, may be given up.
        self.is_busy = True
        try:
            if not ready(self.decoder):
                return None
            if self.count(1):
                self.begin()
            message = self.decoder.pop_message(decode)
            if message is not None and may_resume(self.decoder) and self.decoder.can_resume():
                self.decoder.resumed()
            return message
        finally:
            self.is_busy = False


@cython.final
cdef class BlockingIterator:
    """``for message in connection``.

    Args:
        turn: Of the connection.
        wait: Called when no message is there; returns the next one, or raises StopIteration at the end.
    """

    cdef Turn turn
    cdef object wait

    def __init__(self, Turn turn not None, wait):
        self.turn = turn
        self.wait = wait

    def __iter__(self):
        return self

    def __next__(self):
        cdef Turn turn
        cdef object message
        cdef Section section
        section.enter(self)
        turn = self.turn
        section.leave()
        if turn is None:
            raise StopIteration
        section.enter(turn.decoder)
        message = turn.take_message(None)
        section.leave()
        return self.wait() if message is None else message

    def close(self):
        """End the iteration, as ``close()`` of a generator does; the connection stays open."""
        cdef Section section
        section.enter(self)
        self.turn = None


cdef inline object take_next(FrameDecoder decoder):
    """The next message of those that are `ready`, mostly without a call."""
    cdef Record* record
    cdef object message
    if decoder.run != NULL:
        if run_length(decoder.run):
            return run_message(decoder.run)
    elif not decoder.decoding and not decoder.admits:
        record = inbox_head(&decoder.inbox)
        if record.flags & FLAG_WHOLE == FLAG_WHOLE:
            message = make_object(record.data, record.length, record.flags)
            inbox_drop_head(&decoder.inbox)
            return message
    return decoder.pop_message(None)


@cython.final
cdef class Message:
    """The awaitable that `MessageIterator` gives out: a coroutine in all but type.

    It takes a message only when it is awaited, so one that is dropped or cancelled loses nothing.
    """

    cdef FrameDecoder decoder
    cdef Turn turn
    cdef object wait
    cdef object resume
    cdef object waiting         # the coroutine that waits for us, once the queue was empty
    cdef Claim running          # by the thread that runs us

    cdef int step(self, PyObject* value, PyObject** result) except -1:
        cdef object message
        cdef bint resumable
        cdef Section section
        cdef Claimed claimed
        claimed.take(&self.running)
        if self.waiting is None:
            section.enter(self.decoder)
            if not self.turn.is_busy and ready(self.decoder):
                if self.turn.count(1):
                    self.turn.begin()
                    result[0] = <PyObject*> None
                    Py_INCREF(None)
                    return SEND_NEXT
                message = take_next(self.decoder)
                if message is not None:
                    resumable = may_resume(self.decoder) and self.decoder.can_resume()
                    section.leave()
                    if resumable:
                        self.resume()
                    result[0] = <PyObject*> message
                    Py_INCREF(message)
                    return SEND_RETURN
            section.leave()
            self.waiting = self.wait()
        return self.step_waiting(value, result)

    cdef int step_waiting(self, PyObject* value, PyObject** result) except -1:
        cdef int status
        try:
            status = fastws_iter_send(<PyObject*> self.waiting, value, result)
        except BaseException:
            self.waiting = None
            raise
        if status == SEND_RETURN:
            self.waiting = None
        return status

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def send(self, value, /):
        """Run until the next suspension; StopIteration carries the message."""
        cdef PyObject* result = NULL
        cdef int status = self.step(<PyObject*> value, &result)
        cdef object taken = <object> result
        Py_XDECREF(result)
        if status == SEND_RETURN:
            raise StopIteration(taken)
        return taken

    def throw(self, typ, val=None, tb=None, /):
        """Raise an exception where it waits."""
        cdef Claimed claimed
        claimed.take(&self.running)
        waiting = self.waiting
        if waiting is None:
            if isinstance(typ, BaseException):
                raise typ
            if val is None:
                val = typ()
            elif not isinstance(val, BaseException):
                val = typ(val)
            raise val.with_traceback(tb)
        try:
            return waiting.throw(typ) if val is None else waiting.throw(typ, val, tb)
        except BaseException:
            self.waiting = None
            raise

    def close(self):
        """Stop waiting."""
        cdef Claimed claimed
        claimed.take(&self.running)
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.close()


cdef int message_send(PyObject* message, PyObject* value, PyObject** result) except -1:
    return (<Message> message).step(value, result)


fastws_set_am_send(<PyObject*> Message, message_send)


async def _ended():
    raise StopAsyncIteration


@cython.final
cdef class MessageIterator:
    """``async for message in connection``: completes without suspending while messages are queued.

    Args:
        decoder: Where the messages wait.
        turn: Fairness; at the end of a turn the iterator yields to the loop once.
        wait: Called when no message is queued; returns a coroutine that gives the next message, or raises
            StopAsyncIteration at the end.
        resume: Called after a message was taken that left the decoder ``resumable``.
    """

    cdef Message message
    cdef FrameDecoder decoder

    def __init__(self, FrameDecoder decoder not None, Turn turn not None, wait, resume):
        cdef Message message = Message.__new__(Message)
        message.decoder = self.decoder = decoder
        message.turn = turn
        message.wait = wait
        message.resume = resume
        self.message = message

    def __aiter__(self):
        return self

    def __anext__(self):
        # One awaitable serves message after message, unless somebody still holds it; whoever must wait gets a
        # coroutine of its own.
        cdef Message message
        cdef Section section
        section.enter(self.decoder)
        message = self.message
        if message is None:
            section.leave()
            return _ended()
        if message.turn.is_busy or not ready(self.decoder):
            section.leave()
            return message.wait()
        if Py_REFCNT(message) > 2:      # ours are the iterator's and the variable's
            self.message = Message.__new__(Message)
            self.message.decoder = message.decoder
            self.message.turn = message.turn
            self.message.wait = message.wait
            self.message.resume = message.resume
            return self.message
        return message

    async def aclose(self):
        """End the iteration, as ``aclose()`` of an asynchronous generator does; the connection stays open."""
        self.end()

    cdef void end(self):
        cdef Section section
        section.enter(self.decoder)
        self.message = None
