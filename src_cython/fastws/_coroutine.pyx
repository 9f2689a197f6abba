"""What `send` and `recv` give out: coroutines in all but type, without a frame."""

cimport cython

from cpython.object cimport PyObject
from cpython.ref cimport Py_XDECREF

from ._section cimport Claimed

cdef extern from "Python.h":
    int PyErr_WarnFormat(object category, Py_ssize_t stack_level, const char* format, PyObject* name) except -1

cdef extern from *:
    """
    static inline int fastws_step_of(PyObject *iter, PyObject *value, PyObject **result) {
        return (int)PyIter_Send(iter, value, result);
    }
    """
    int fastws_step_of(PyObject* iterator, PyObject* value, PyObject** result) except -1


@cython.freelist(16)
cdef class Coroutine:
    """Nothing is done before it is awaited. Subclasses say what."""

    cdef int begin(self, PyObject** result) except -1:
        """The first step: returns, or sets ``waiting``."""
        raise NotImplementedError

    cdef int woken(self, PyObject** result) except -1:
        """What ``waiting`` waited for is there, and ``result`` is what it returned; as for begin."""
        return STEP_RETURN

    cdef void abandoned(self):
        """``waiting`` has raised, or is not to wait any more."""

    cdef int step(self, PyObject* value, PyObject** result) except -1:
        cdef int status
        cdef Claimed claimed
        claimed.take(&self.running)
        if not self.begun:
            if value != <PyObject*> None:
                raise TypeError("can't send non-None value to a just-started coroutine")
            self.begun = True
            status = self.begin(result)
            if status != STEP_WAIT:
                return status
        elif self.waiting is None:
            raise RuntimeError("cannot reuse already awaited coroutine")
        while True:
            try:
                status = fastws_step_of(<PyObject*> self.waiting, value, result)
            except BaseException:
                self.waiting = None
                self.abandoned()
                raise
            if status == STEP_NEXT:
                return STEP_NEXT
            self.waiting = None
            status = self.woken(result)
            if status != STEP_WAIT:
                return status
            value = <PyObject*> None

    def __await__(self):
        cdef Claimed claimed
        if not claimed.try_take(&self.running) or self.waiting is not None:
            raise RuntimeError("coroutine is being awaited already")
        return self

    def __iter__(self):
        return self

    def __next__(self):
        cdef PyObject* result = NULL
        cdef int status = self.step(<PyObject*> None, &result)
        cdef object taken = <object> result
        Py_XDECREF(result)
        if status == STEP_NEXT:
            return taken
        if taken is None:
            raise StopIteration         # Bare, it costs no exception.
        raise StopIteration(taken)

    def send(self, value, /):
        """Run until the next suspension; StopIteration carries what it returns."""
        return self.run(<PyObject*> value)

    cdef object run(self, PyObject* value):
        cdef PyObject* result = NULL
        cdef int status = self.step(value, &result)
        cdef object taken = <object> result
        Py_XDECREF(result)
        if status == STEP_RETURN:
            raise StopIteration(taken)
        return taken

    def throw(self, typ, val=None, tb=None, /):
        """Raise an exception where it waits. If it wasn't begun, nothing is done."""
        cdef Claimed claimed
        claimed.take(&self.running)
        waiting = self.waiting
        if waiting is None:
            if self.begun:
                raise RuntimeError("cannot reuse already awaited coroutine")
            self.stop()
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
            self.abandoned()
            raise

    def close(self):
        """Stop waiting. If it wasn't begun, nothing is done."""
        cdef Claimed claimed
        claimed.take(&self.running)
        self.stop()

    cdef int stop(self) except -1:
        self.begun = True
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            if hasattr(waiting, "close"):
                waiting.close()
            self.abandoned()
        self.connection = self.argument = self.option = None
        return 0

    def __dealloc__(self):
        if not self.begun:
            name = self.__qualname__
            PyErr_WarnFormat(RuntimeWarning, 1, "coroutine '%U' was never awaited", <PyObject*> name)

    # What asyncio and debuggers ask a coroutine for.

    @property
    def cr_await(self):
        cdef object waiting = None
        if self.running.take():
            waiting = self.waiting
            self.running.give()
        return waiting

    @property
    def cr_frame(self):
        return None

    @property
    def cr_running(self):
        return self.running.is_taken()
