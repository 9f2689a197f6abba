/* A thread that isn't Python's gets a thread state from PyGILState_Ensure() and loses it at the matching Release(). To make one
   and let it run Python took 10 µs (3.11), without a GIL 200 µs (3.13t), since its stack and its heaps come new from the system;
   with a state that is kept it is 0.1 µs. So a pump that has run Python once keeps its state, detached, until it ends. */

#pragma once

#include <Python.h>

namespace fastws {

/* Call it detached from the interpreter. It does nothing in a thread that has a state: one of Python's, for one. */
inline void keep_thread_state() {
    if (PyGILState_GetThisThreadState() != nullptr) return;
    PyGILState_Ensure();
    PyEval_SaveThread();
}

/* In a thread that may have kept one, before it ends; nobody may wait for it with the GIL. */
inline void drop_thread_state() {
    PyThreadState *state = PyGILState_GetThisThreadState();
    if (state == nullptr) return;
    PyEval_RestoreThread(state);
    PyGILState_Release(PyGILState_UNLOCKED);
}

} // namespace fastws
