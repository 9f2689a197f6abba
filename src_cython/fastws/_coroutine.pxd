"""What `send` and `recv` give out: coroutines in all but type, without a frame."""

from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF

from ._section cimport Claim

cdef extern from *:
    """
    #ifndef FASTWS_COROUTINE
    #define FASTWS_COROUTINE
    typedef int (*fastws_step)(PyObject *, PyObject *, PyObject **);
    /* With am_send, the interpreter (3.10, 3.11, and where it asks PyIter_Send) takes a value without StopIteration. */
    static inline void fastws_set_step(PyObject *type, fastws_step step) {
        ((PyTypeObject *)type)->tp_as_async->am_send = (sendfunc)(void (*)(void))step;
    }
    /* A macro, as the struct is declared further down. */
    #define fastws_set_code(function, code) \\
        do { Py_INCREF(code); Py_XSETREF(((__pyx_CyFunctionObject *)(function))->func_code, code); } while (0)
    #endif
    """
    ctypedef int (*fastws_step)(PyObject*, PyObject*, PyObject**) except -1
    void fastws_set_step(PyObject* type, fastws_step step)
    void fastws_set_code(PyObject* function, PyObject* code)

cdef enum:
    STEP_RETURN = 0             # PYGEN_RETURN
    STEP_NEXT = 1               # PYGEN_NEXT
    STEP_WAIT = 2               # for what was put into ``waiting``


cdef class Coroutine:
    # Subclasses add no fields, so that they share the list of free objects.
    cdef object connection, argument, option
    cdef object waiting         # the iterator that waits for us, where there is something to wait for
    cdef bint begun
    cdef Claim running          # by the thread that runs us: all else belongs to it

    cdef int begin(self, PyObject** result) except -1
    cdef int woken(self, PyObject** result) except -1
    cdef void abandoned(self)
    cdef int step(self, PyObject* value, PyObject** result) except -1
    cdef object run(self, PyObject* value)
    cdef int stop(self) except -1


cdef inline int coroutine_step(PyObject* coroutine, PyObject* value, PyObject** result) except -1:
    return (<Coroutine> coroutine).step(value, result)


cdef inline int coroutine_return(object value, PyObject** result) except -1:
    Py_INCREF(value)
    result[0] = <PyObject*> value
    return STEP_RETURN
