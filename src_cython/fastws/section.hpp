/* What stands for the GIL where there is none (free-threaded CPython): the rules, in one place.

   With a GIL, a compiled method is alone with all objects but at places where it gives the GIL up: blocking calls,
   ``with nogil``, and whatever may run Python code. That is what the core relies on, and what it gets without a GIL, object
   by object, from CPython's critical sections: one thread at a time is in the section of an object, and gives it up exactly
   where it would have given the GIL up. With a GIL all of this compiles to nothing.

   - A decoder's section is that of all that consumes from it or feeds it: its queue, its Turn, its Intake, the run that a
     consumer of a pump has taken, buffers lent. So what is looked at and what is then taken are of one moment.
   - Sections are entered by methods that Python calls, and by steps of iterators and coroutines, once each; functions
     inside rely on that. Python code is called after they were left where it is expected to come back to the same object:
     a second entry is right, but slow up to 3.13, where it gives the first one up for a moment.
   - What works on without the GIL says so in a flag, which others look at inside the section: ``decoding`` of a decoder.
     While it is set, who comes gets a RuntimeError, or waits (Guard::look).
   - A section comes before a latch, and nobody waits for a section while holding a latch: who waits for a latch detaches
     from the interpreter, and has then given up all sections. Pumps never enter sections, unless they run Python code.
   - An awaitable isn't locked but claimed, as CPython's own coroutines are: whoever else steps, throws at or closes it
     meanwhile gets "coroutine already executing". So is a fragment or frame under way never seen by two.
   - What is shared by all: masking keys are each thread's own; the pool of segments and its counters have a lock,
     references to segments are atomic, batches are never changed once they are handed out. */

#pragma once

#include <Python.h>

#include <atomic>

namespace fastws {

class Section {
  public:
    Section() = default;
    Section(const Section &) = delete;
    Section &operator=(const Section &) = delete;

#ifdef Py_GIL_DISABLED
    ~Section() { leave(); }

    void enter(PyObject *object) {
        PyCriticalSection_Begin(&section_, object);
        entered_ = true;
    }

    void leave() {
        if (!entered_) return;
        entered_ = false;
        /* A daemon thread at the end of the interpreter unwinds detached (up to 3.13), and has given it up already. */
        if (PyThreadState_GetUnchecked() != nullptr) PyCriticalSection_End(&section_);
    }

  private:
    PyCriticalSection section_;
    bool entered_ = false;
#else
    void enter(PyObject *) {}
    void leave() {}
#endif
};

/* Taken by one thread at a time, never waited for. */
class Claim {
  public:
#ifdef Py_GIL_DISABLED
    bool take() { return !taken_.exchange(true, std::memory_order_acquire); }
    void give() { taken_.store(false, std::memory_order_release); }
    bool is_taken() const { return taken_.load(std::memory_order_relaxed); }

  private:
    std::atomic<bool> taken_{false};
#else
    bool take() {
        if (taken_) return false;
        return taken_ = true;
    }
    void give() { taken_ = false; }
    bool is_taken() const { return taken_; }

  private:
    bool taken_ = false;
#endif
};

/* Gives it back at the end of its scope. */
class Claimed {
  public:
    Claimed() = default;
    Claimed(const Claimed &) = delete;
    Claimed &operator=(const Claimed &) = delete;
    ~Claimed() {
        if (claim_ != nullptr) claim_->give();
    }

    bool try_take(Claim *claim) {
        if (!claim->take()) return false;
        claim_ = claim;
        return true;
    }

    /* -1 with the ValueError of CPython's own coroutines set if it is taken. */
    int take(Claim *claim) {
        if (try_take(claim)) return 0;
        PyErr_SetString(PyExc_ValueError, "coroutine already executing");
        return -1;
    }

  private:
    Claim *claim_ = nullptr;
};

}  // namespace fastws

#ifdef Py_GIL_DISABLED
#define FASTWS_OF_THREAD thread_local
#else
#define FASTWS_OF_THREAD
#endif
