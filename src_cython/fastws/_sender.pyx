"""``send()`` without a coroutine in Python: checks, frame and write in one step of a compiled awaitable."""

cimport cython

from cpython.bytearray cimport PyByteArray_Check
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_Check
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF
from cpython.unicode cimport PyUnicode_Check
from libc.stdint cimport uint64_t

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
    typedef int (*fastws_step)(PyObject *, PyObject *, PyObject **);
    /* With am_send, the interpreter (3.10, 3.11, and where it asks PyIter_Send) takes a value without StopIteration. */
    static inline void fastws_set_step(PyObject *type, fastws_step step) {
        ((PyTypeObject *)type)->tp_as_async->am_send = (sendfunc)(void (*)(void))step;
    }
    static inline int fastws_step_of(PyObject *iter, PyObject *value, PyObject **result) {
        return (int)PyIter_Send(iter, value, result);
    }
    static inline void fastws_drop(PyObject *object) { Py_XDECREF(object); }
    /* A macro, as the struct is declared further down. */
    #define fastws_set_code(function, code) \\
        do { Py_INCREF(code); Py_XSETREF(((__pyx_CyFunctionObject *)(function))->func_code, code); } while (0)
    """
    Py_ssize_t fastws_write_now(int descriptor, const char* data, size_t length) nogil
    ctypedef int (*fastws_step)(PyObject*, PyObject*, PyObject**) except -1
    void fastws_set_step(PyObject* type, fastws_step step)
    int fastws_step_of(PyObject* iterator, PyObject* value, PyObject** result) except -1
    void fastws_drop(PyObject* object)
    void fastws_set_code(PyObject* function, PyObject* code)

cdef extern from "Python.h":
    int PyErr_WarnEx(object category, const char* message, Py_ssize_t stack_level) except -1

cdef enum:
    STEP_RETURN = 0             # PYGEN_RETURN
    STEP_NEXT = 1               # PYGEN_NEXT
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
        if self.descriptor >= 0 and self.is_closing() is False and not self.buffered():
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
@cython.freelist(8)
cdef class Sending:
    """The awaitable that `send` gives out: a coroutine in all but type. Nothing is sent before it is awaited."""

    cdef object connection, message, text
    cdef object waiting         # the coroutine that waits for us, where there is something to wait for
    cdef bint begun

    cdef object begin(self):
        cdef object connection = self.connection, message = self.message, text = self.text
        cdef object sender = connection._sender
        self.begun = True
        self.connection = self.message = self.text = None
        if (
            sender is None
            or (<Sender?> sender).protocol.state is not (<Sender> sender).open_state
            or connection.send_in_progress is not None
            or not is_whole(message)
        ):
            return connection._send(message, text)
        return (<Sender> sender).put(connection, message, PyUnicode_Check(message) if text is None else text)

    cdef int step(self, PyObject* value, PyObject** result) except -1:
        cdef int status
        if not self.begun:
            if value != <PyObject*> None:
                raise TypeError("can't send non-None value to a just-started coroutine")
            self.waiting = self.begin()
            if self.waiting is None:
                result[0] = <PyObject*> None
                Py_INCREF(None)
                return STEP_RETURN
        elif self.waiting is None:
            raise RuntimeError("cannot reuse already awaited coroutine")
        try:
            status = fastws_step_of(<PyObject*> self.waiting, value, result)
        except BaseException:
            self.waiting = None
            raise
        if status == STEP_RETURN:
            self.waiting = None
        return status

    def __await__(self):
        if self.waiting is not None:
            raise RuntimeError("coroutine is being awaited already")
        return self

    def __iter__(self):
        return self

    def __next__(self):
        cdef PyObject* result = NULL
        cdef object taken
        if self.step(<PyObject*> None, &result) == STEP_RETURN:
            # The result is None. Bare, it costs no exception.
            fastws_drop(result)
            raise StopIteration
        taken = <object> result
        fastws_drop(result)
        return taken

    def send(self, value, /):
        """Run until the next suspension; StopIteration says that the message was sent."""
        cdef PyObject* result = NULL
        cdef int status = self.step(<PyObject*> value, &result)
        cdef object taken = <object> result
        fastws_drop(result)
        if status == STEP_RETURN:
            raise StopIteration
        return taken

    def throw(self, typ, val=None, tb=None, /):
        """Raise an exception where it waits. If it wasn't begun, nothing is sent."""
        waiting = self.waiting
        if waiting is None:
            if self.begun:
                raise RuntimeError("cannot reuse already awaited coroutine")
            self.close()
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
        """Stop waiting. If it wasn't begun, nothing is sent."""
        self.begun = True
        self.connection = self.message = self.text = None
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            waiting.close()

    def __dealloc__(self):
        if not self.begun:
            PyErr_WarnEx(RuntimeWarning, "coroutine 'Connection.send' was never awaited", 1)

    # What asyncio and debuggers ask a coroutine for.

    __name__ = "send"
    __qualname__ = "Connection.send"

    @property
    def cr_await(self):
        return self.waiting

    @property
    def cr_frame(self):
        return None

    @property
    def cr_running(self):
        return False


cdef int sending_step(PyObject* sending, PyObject* value, PyObject** result) except -1:
    return (<Sending> sending).step(value, result)


fastws_set_step(<PyObject*> Sending, sending_step)


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
    sending.message = message
    sending.text = text
    return sending


# Calling it gives a coroutine: what asks a function for that, looks at the flags of its code.
_code = send.__code__.replace(co_flags=send.__code__.co_flags | inspect.CO_COROUTINE)
fastws_set_code(<PyObject*> send, <PyObject*> _code)
send.__qualname__ = "Connection.send"
del _code
