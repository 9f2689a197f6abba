"""``recv()`` without a coroutine in Python: the message, or a future that is resolved when there may be one."""

cimport cython

from cpython.object cimport PyObject

from ._batch cimport make_object
from ._coroutine cimport (
    STEP_RETURN,
    STEP_WAIT,
    Coroutine,
    coroutine_return,
    coroutine_step,
    fastws_set_code,
    fastws_set_step,
)
from ._decoder cimport FrameDecoder
from ._inbox cimport (
    FLAG_WHOLE,
    Record,
    inbox_drop_head,
    inbox_frames,
    inbox_head,
)
from ._iterator cimport Turn
from ._section cimport Section

import inspect


@cython.final
cdef class Receiving(Coroutine):
    """The awaitable that `recv` gives out: a coroutine in all but type. It takes no message before it is awaited.

    While it waits for a future of its own, ``option`` is that; what is rare is left to the connection's ``_recv()``.
    """

    __name__ = "recv"
    __qualname__ = "Connection.recv"

    cdef int begin(self, PyObject** result) except -1:
        cdef object connection = self.connection, turn = connection._turn, loop
        cdef FrameDecoder decoder
        cdef Section section
        if turn is None:
            return self.leave()
        decoder = (<Turn?> turn).decoder
        section.enter(decoder)
        if not (<Turn> turn).is_busy:
            if decoder.latch != NULL:
                # A pump fills the queue: to wait takes more than a look at it.
                if decoder.ready() and not (<Turn> turn).count(1):
                    return self.take(decoder, &section, result)
            elif decoder.inbox.messages:
                if not (<Turn> turn).count(1):
                    return self.take(decoder, &section, result)
            elif not decoder.blocked and not inbox_frames(&decoder.inbox) and not connection._lost:
                (<Turn> turn).stop()
                (<Turn> turn).is_busy = True
                section.leave()
                decoder.want_message = True
                loop = connection.loop
                (<Turn> turn).note(connection._current_task(loop))
                self.option = loop.create_future()
                section.enter(decoder)
                (<Turn> turn).waiting = self.option
                section.leave()
                self.waiting = iter(self.option)
                return STEP_WAIT
        section.leave()
        return self.leave()

    cdef int woken(self, PyObject** result) except -1:
        cdef object connection
        cdef Turn turn
        cdef Section section
        if self.option is None:
            return STEP_RETURN
        connection, turn = self.connection, self.connection._turn
        self.abandoned()
        if not turn.decoder.inbox.messages:
            return self.leave()
        if turn.decoder.inbox.messages > 1 and not connection._watched:
            connection._watch()
        section.enter(turn.decoder)
        if not turn.decoder.inbox.messages:
            section.leave()
            return self.leave()
        turn.begin()
        if turn.count(1):
            section.leave()
            return self.leave()
        return self.take(turn.decoder, &section, result)

    cdef void abandoned(self):
        """The future is resolved, or not waited for any more."""
        cdef Turn turn
        cdef Section section
        if self.option is not None:
            self.option = None
            turn = self.connection._turn
            section.enter(turn.decoder)
            turn.waiting = None
            turn.burst = 0
            turn.decoder.want = False
            turn.is_busy = False

    cdef int leave(self) except -1:
        self.waiting = self.connection._recv(self.argument)
        return STEP_WAIT

    cdef int take(self, FrameDecoder decoder, Section* section, PyObject** result) except -1:
        """Take a message, and leave the section."""
        cdef object message
        cdef Record* record
        cdef bint resumable
        if (
            self.argument is None
            and decoder.latch == NULL
            and inbox_head(&decoder.inbox).flags & FLAG_WHOLE == FLAG_WHOLE
            and not decoder.decoding
            and not decoder.admits
        ):
            record = inbox_head(&decoder.inbox)
            message = make_object(record.data, record.length, record.flags)
            inbox_drop_head(&decoder.inbox)
        else:
            try:
                message = decoder.pop_message(self.argument)
            except UnicodeDecodeError as exc:
                section.leave()
                self.waiting = self.connection._undecodable(exc)
                return STEP_WAIT
            if message is None:
                section.leave()
                self.connection._violated(decoder)
                return self.leave()
        resumable = (decoder.latch != NULL or decoder.blocked) and decoder.can_resume()
        section.leave()
        if resumable:
            self.connection._resume()
        self.connection = None
        return coroutine_return(message, result)


fastws_set_step(<PyObject*> Receiving, coroutine_step)


def recv(self, decode=None):
    """Receive the next message, as ``websockets`` does.

    Cancelling it never loses a message. Cost: no suspension while messages are queued, but for fairness.

    Args:
        decode: None gives str for text and bytes for binary messages; False always bytes; True always str.

    Raises:
        ConnectionClosed: When the connection is closed and all messages were received.
        ConcurrencyError: If two coroutines receive concurrently.
    """
    cdef Receiving receiving = Receiving.__new__(Receiving)
    receiving.connection = self
    receiving.argument = decode
    return receiving


# Calling it gives a coroutine: what asks a function for that, looks at the flags of its code.
_code = recv.__code__.replace(co_flags=recv.__code__.co_flags | inspect.CO_COROUTINE)
fastws_set_code(<PyObject*> recv, <PyObject*> _code)
recv.__qualname__ = "Connection.recv"
del _code
