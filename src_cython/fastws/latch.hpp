/* The lock of a decoder that a pump feeds and Python consumes.

   Rules that exclude deadlock:
   - Whoever holds the GIL never blocks on a latch: it tries for some microseconds, then gives the GIL up while it waits.
     So a pump that holds the latch may ask for the GIL (keys given by Python functions).
   - No Python thread waits for the GIL while it holds a latch: the pump would wait for whoever has the GIL, too.
     So no Python code runs inside a latch.
   - A pump gives way between two messages when somebody waits, so that nobody waits for a whole chunk.
   - A thread that comes again while it holds the latch (a finalizer run by the garbage collector) gets an error.

   A decoder without a latch (NULL) belongs to whoever has the GIL, or is in its section (section.hpp), while its
   ``decoding`` flag isn't set. */

#pragma once

#include <Python.h>

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>

#ifndef _WIN32
#include <pthread.h>
#include <unistd.h>
#endif

#include "clock.hpp"
#include "section.hpp"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace fastws {

/* Which process this is, without a system call. A forked child has no pump thread, and a latch may have been held for
   ever when it was made. */
#ifdef _WIN32
struct Process {
    static int id() { return 0; }
};
#else
class Process {
  public:
    static int id() { return process().id_.load(std::memory_order_relaxed); }

  private:
    Process() : id_(getpid()) { pthread_atfork(nullptr, nullptr, [] { process().id_.store(getpid()); }); }

    static Process &process() {
        static Process one;
        return one;
    }

    std::atomic<int> id_;
};
#endif

static inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("isb");
#endif
}

class Latch {
  public:
    static constexpr int TRIES = 200;           /* some microseconds */
    static constexpr int GIVE_WAY_MAX = 2000;   /* then whoever waits isn't running, and has a futex to wake it */

    bool try_enter() {
        if (!mutex_.try_lock()) return false;
        take();
        return true;
    }

    bool is_mine() const { return owner_.load(std::memory_order_relaxed) == std::this_thread::get_id(); }

    /* For a short while; afterwards call wait() without the GIL. */
    bool enter_soon() {
        if (try_enter()) return true;
        if (is_mine()) return false;
        wanted_.fetch_add(1, std::memory_order_relaxed);
        bool entered = false;
        for (int i = 0; i < TRIES && !entered; i++) {
            relax();
            entered = try_enter();
        }
        wanted_.fetch_sub(1, std::memory_order_relaxed);
        return entered;
    }

    /* Until it was free for a moment. */
    void wait() {
        wanted_.fetch_add(1, std::memory_order_relaxed);
        mutex_.lock();
        wanted_.fetch_sub(1, std::memory_order_relaxed);
        mutex_.unlock();
    }

    /* For a pump, without the GIL. */
    void enter() {
        mutex_.lock();
        take();
    }

    void leave() {
        owner_.store(std::thread::id(), std::memory_order_relaxed);
        mutex_.unlock();
    }

    bool is_inherited() const { return process_ != Process::id(); }

    bool wanted() const { return wanted_.load(std::memory_order_relaxed) != 0; }

    /* Let those in who wait. */
    void give_way() {
        leave();
        for (int i = 0; i < GIVE_WAY_MAX && wanted(); i++) relax();
        enter();
    }

    /* Call the rest while inside. */

    void sleep_until(std::chrono::steady_clock::time_point deadline) {
        std::unique_lock<std::mutex> lock(mutex_, std::adopt_lock);
        owner_.store(std::thread::id(), std::memory_order_relaxed);
        sleepers_++;
        changed_.wait_until(lock, deadline);
        sleepers_--;
        take();
        lock.release();
    }

    void awaken() {
        if (sleepers_) changed_.notify_all();
    }

  private:
    void take() { owner_.store(std::this_thread::get_id(), std::memory_order_relaxed); }

    const int process_ = Process::id();
    std::mutex mutex_;
    std::atomic<std::thread::id> owner_{};
    std::atomic<uint32_t> wanted_{0};
    uint32_t sleepers_ = 0;
    std::condition_variable changed_;
};

/* Held while a method of a decoder runs, in its section; leaves when it goes out of scope. */
class Guard {
  public:
    Guard() = default;
    Guard(const Guard &) = delete;
    Guard &operator=(const Guard &) = delete;
    ~Guard() {
        if (latch_ != nullptr) latch_->leave();
    }

    /* For methods that Python calls: enters the section, too, before it looks. NULL: whether it decodes doesn't matter. */
    int enter(PyObject *decoder, Latch *latch, const int *decoding) {
        section_.enter(decoder);
        return enter(latch, decoding != nullptr && *decoding);
    }

    /* For what is inside of the section. -1 with a RuntimeError set if the decoder can't be used now. */
    int enter(Latch *latch, bool decoding) {
        if (latch == nullptr) {
            if (!decoding) return 0;
            PyErr_SetString(PyExc_RuntimeError, "the decoder is at work in another thread");
            return -1;
        }
        if (latch->is_inherited()) {
            PyErr_SetString(PyExc_RuntimeError, "the connection belongs to the parent process: it doesn't survive a fork");
            return -1;
        }
        while (!latch->enter_soon()) {
            if (latch->is_mine()) {
                PyErr_SetString(PyExc_RuntimeError, "the decoder is at work: called again from within itself");
                return -1;
            }
            PyThreadState *state = PyEval_SaveThread();
            latch->wait();
            PyEval_RestoreThread(state);
        }
        latch_ = latch;
        return 0;
    }

    /* The same for who may be in another thread than the one that decodes: waits for that. */
    int look(PyObject *decoder, Latch *latch, const int *decoding) {
        section_.enter(decoder);
        for (int i = 0; latch == nullptr && *decoding && i < LOOKS_MAX; i++) {
            PyThreadState *state = PyEval_SaveThread();
            std::this_thread::sleep_for(std::chrono::microseconds(50));
            PyEval_RestoreThread(state);
        }
        return enter(latch, *decoding);
    }

    /* The latch; the section is left at the end. */
    void leave() {
        if (latch_ != nullptr) latch_->leave();
        latch_ = nullptr;
    }

    /* Give the GIL up and sleep until somebody awakens us, or the deadline. */
    void sleep_until(int64_t deadline_ns) {
        Latch *latch = latch_;
        PyThreadState *state = PyEval_SaveThread();
        latch->sleep_until(monotonic_time(deadline_ns));
        latch->leave();
        /* A thread of an interpreter that has ended comes no further (up to 3.13 it unwinds from here). */
        latch_ = nullptr;
        PyEval_RestoreThread(state);
        enter(latch, false);
    }

  private:
    static constexpr int LOOKS_MAX = 2000;      /* 100 ms or more; a chunk takes one at most */

    Section section_;
    Latch *latch_ = nullptr;
};

}  // namespace fastws
