"""``send()`` without a coroutine in Python: checks, frame and write in one step of a compiled awaitable."""

cimport cython

from cpython.bytearray cimport PyByteArray_Check
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_Check
from cpython.object cimport PyObject
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport uint64_t

from ._coroutine cimport (
    STEP_WAIT,
    Coroutine,
    coroutine_return,
    coroutine_step,
    fastws_set_code,
    fastws_set_step,
)
from ._encoder cimport FrameEncoder
from ._wire cimport BINARY, TEXT

import inspect

cdef extern from *:
    """
    #ifdef _WIN32
    static inline Py_ssize_t fastws_write_now(int, const char *, size_t) { return 0; }
    #else
    #include <errno.h>
    #include <sys/socket.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    static inline Py_ssize_t fastws_write_now(int descriptor, const char *data, size_t length) {
        Py_ssize_t sent;
        do {
            sent = send(descriptor, data, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        } while (sent < 0 && errno == EINTR);
        return sent;
    }
    #endif
    """
    Py_ssize_t fastws_write_now(int descriptor, const char* data, size_t length) nogil

cdef enum:
    WITH_GIL_MAX = 16 * 1024    # longest frame that is written without giving up the GIL: a few microseconds


@cython.final
cdef class Sender:
    """Writes the messages of one open connection.

    As long as nothing waits in the transport, a frame goes to the socket directly. Whatever the socket doesn't take
    at once, with or without an error, is the transport's, which then meets the same error and tells of it as ever.

    Args:
        encoder: Makes the frames.
        protocol: Its ``state`` must be ``open_state``, or `send` leaves the message to the connection.
        open_state: The state, compared by identity.
        transport: Where frames go.
        descriptor: File descriptor of the transport's own socket, if bytes that are written to it at a time when
            the transport is not closing and its buffer is empty are what ``write()`` would send; else -1.
    """

    cdef FrameEncoder encoder
    cdef object protocol, open_state, transport_write, is_closing, buffered
    cdef int descriptor
    cdef readonly uint64_t messages
    cdef readonly uint64_t nbytes

    def __init__(self, FrameEncoder encoder not None, protocol, open_state, transport, int descriptor=-1):
        self.encoder = encoder
        self.protocol = protocol
        self.open_state = open_state
        self.transport_write = transport.write
        self.is_closing = transport.is_closing
        self.buffered = transport.get_write_buffer_size
        self.descriptor = descriptor

    cdef object put(self, connection, message, bint text):
        """Send one message; returns None, or a coroutine that does what is left to wait for."""
        cdef bytes frame = self.encoder.frame(TEXT if text else BINARY, message, True)
        cdef const char* data = PyBytes_AS_STRING(frame)
        cdef Py_ssize_t length = PyBytes_GET_SIZE(frame)
        cdef Py_ssize_t sent = 0
        cdef bint goes = False
        try:
            goes = self.descriptor >= 0 and self.is_closing() is False and not self.buffered()
            if not goes:
                sent = -1
        finally:
            if not goes and sent == 0:
                self.encoder.forget()
        if goes:
            if length <= WITH_GIL_MAX:
                sent = fastws_write_now(self.descriptor, data, length)
            else:
                with nogil:
                    sent = fastws_write_now(self.descriptor, data, length)
        if sent < length:
            try:
                self.transport_write(frame if sent <= 0 else memoryview(frame)[sent:])
            except Exception as exc:
                return connection._write_failed(exc)
        self.messages += 1
        self.nbytes += length
        if sent < length and (connection.paused or self.is_closing()):
            return connection._drain_sent()
        return None


cdef inline bint is_whole(message):
    return (
        PyUnicode_Check(message)
        or PyBytes_Check(message)
        or PyByteArray_Check(message)
        or PyMemoryView_Check(message)
    )


@cython.final
cdef class Sending(Coroutine):
    """The awaitable that `send` gives out: a coroutine in all but type. Nothing is sent before it is awaited."""

    __name__ = "send"
    __qualname__ = "Connection.send"

    cdef int begin(self, PyObject** result) except -1:
        cdef object connection = self.connection, message = self.argument, text = self.option
        cdef object sender = connection._sender
        self.connection = self.argument = self.option = None
        if (
            sender is None
            or (<Sender?> sender).protocol.state is not (<Sender> sender).open_state
            or connection.send_in_progress is not None
            or not is_whole(message)
        ):
            self.waiting = connection._send(message, text)
        else:
            self.waiting = (<Sender> sender).put(
                connection, message, PyUnicode_Check(message) if text is None else text
            )
        return coroutine_return(None, result) if self.waiting is None else STEP_WAIT


fastws_set_step(<PyObject*> Sending, coroutine_step)


def send(self, message, *, text=None):
    """Send a message, as ``websockets`` does.

    Cost: one frame and one write; no suspension unless the transport's buffer is full.

    Args:
        message: A str is sent as text, a bytes-like object as binary; an iterable or asynchronous iterable
            of either as a fragmented message.
        text: True sends bytes as text, False sends str as binary.

    Raises:
        ConnectionClosed: When the connection is closed.
        TypeError: If ``message`` doesn't have a supported type.
    """
    cdef Sending sending = Sending.__new__(Sending)
    sending.connection = self
    sending.argument = message
    sending.option = text
    return sending


# Calling it gives a coroutine: what asks a function for that, looks at the flags of its code.
_code = send.__code__.replace(co_flags=send.__code__.co_flags | inspect.CO_COROUTINE)
fastws_set_code(<PyObject*> send, <PyObject*> _code)
send.__qualname__ = "Connection.send"
del _code
