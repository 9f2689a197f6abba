/* A thread that owns sockets: it reads when they are readable, sends what waits and heartbeats, closes. It never needs the
   GIL, but for Python functions that a decoder calls.

   The hand-over between the pump and other threads:

   - Of a line, the pump alone reads, closes, and changes what the poller looks for. Others give orders: an order is
     added and the bell rung under ``mutex_``, and the pump takes all orders under it after it has silenced the bell. So an
     order given before the take is obeyed now, and one given after it rings again: no order is lost. A bell that rings
     for something else is heard by the poller, then or in the next cycle.
   - A line is ``gone`` and reported so before it is in ``gone_``, all under ``mutex_``; afterwards the pump doesn't touch it,
     and orders do nothing. Its memory may go once it is taken out of ``gone_``.
   - A line is only ever closed while the pump handles that line, readiness before orders, each line at most once in
     each: nothing else in the same cycle points to it.
   - The thread ends, under ``mutex_``, when it has no lines and no orders; adopt(), under it, starts a new one. What may
     need the GIL, rest_(), comes before: adopt(), which has it, waits for a thread that isn't running any more.
   - An exception would end the process, so nothing here throws: it takes no memory, but for a line's heartbeats, and
     for the poller where that isn't epoll; what fails there is the line's error.

   Order of locks: a decoder's latch, then ``mutex_``, then that of Reports; an outlet's lock is a leaf. */

#pragma once

#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <pthread.h>
#include <string>

#ifdef __linux__
#include <sched.h>
#endif

#include "beats.hpp"
#include "bell.hpp"
#include "clock.hpp"
#include "line.hpp"
#include "poller.hpp"

namespace fastws {

/* What a step with the decoder says. */
enum Step : int {
    STEP_ON,                /* read on */
    STEP_BLOCKED,           /* take no more until ORDER_LOOK */
    STEP_END,               /* of the stream, or of the socket if line->error is set */
};

class Pump {
  public:
    typedef int (*StepFunction)(Line *);

    /* read: the socket is readable. look: ORDER_LOOK. beat: a heartbeat is due; returns whether there will be more of them.
       over: the line is about to be closed; what it returns is ignored. orphaned: a line is gone of which nobody takes
       reports. rest: the thread is about to end, or to look again whether it may. */
    Pump(const char *name, int cpu, StepFunction read, StepFunction look, StepFunction beat, StepFunction over,
         void (*orphaned)(), void (*rest)())
        : name_(name), cpu_(cpu), read_(read), look_(look), beat_(beat), over_(over), orphaned_(orphaned), rest_(rest) {}
    Pump(const Pump &) = delete;
    Pump &operator=(const Pump &) = delete;
    ~Pump() { stop(false); }

    /* 0, or errno: then the line isn't the pump's. */
    int adopt(Line *line) {
        std::unique_lock<std::mutex> lock(mutex_);
        if (stopping_) return ESHUTDOWN;
        while (!running_) {
            if (started_) {
                join(lock);
                if (stopping_) return ESHUTDOWN;
                continue;
            }
            int error = start();
            if (error) return error;
        }
        lines_.add(line);
        give(line, ORDER_LOOK);
        return 0;
    }

    void order(Line *line, uint32_t order) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!line->gone) give(line, order);
    }

    /* Report something of a line, unless the last report was made. */
    void tell(Line *line, uint32_t what) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!line->gone) report(line, what);
    }

    /* Heartbeats, one each so many nanoseconds from now on; once for a line. */
    void begin_beats(Line *line, int64_t every_ns) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (line->gone || line->beat_every_ns) return;
        line->beat_every_ns = every_ns;
        give(line, ORDER_BEATS);
    }

    /* A line whose memory may go; NULL if there is none. */
    Line *take_gone() {
        std::lock_guard<std::mutex> lock(mutex_);
        return gone_.pop();
    }

    /* Another time. */
    void return_gone(Line *line) {
        std::lock_guard<std::mutex> lock(mutex_);
        gone_.push(line);
    }

    size_t lines() {
        std::lock_guard<std::mutex> lock(mutex_);
        return lines_.size();
    }

    bool running() {
        std::lock_guard<std::mutex> lock(mutex_);
        return running_;
    }

    /* End the thread and wait for it, for good. Call it without the GIL.
       closes: lines are closed, and reported so, with ECANCELED; else they stay open, and nobody is told anything. */
    void stop(bool closes) {
        std::unique_lock<std::mutex> lock(mutex_);
        stopping_ = true;
        closing_ = closes;
        if (running_) bell_.ring();
        join(lock);
    }

    bool stopped() {
        std::lock_guard<std::mutex> lock(mutex_);
        return stopping_;
    }

    /* Whether it was stopped without closing the line: nothing will ever be done with it, nor reported. */
    bool has_left(Line *line) {
        std::lock_guard<std::mutex> lock(mutex_);
        return stopping_ && !running_ && !line->gone;
    }

  private:
    static constexpr int DRAINS_MAX = 16;   /* reads in one go */
    static constexpr int BEATS_MAX = 256;   /* heartbeats in one go */

    int start() {
        int error = poller_.open();
        if (!error) error = bell_.open();
        if (!error) error = poller_.set(bell_.fd(), nullptr, true, false, false, false);
        if (!error) {
            /* Signals are for Python's threads. */
            sigset_t all, before;
            sigfillset(&all);
            pthread_sigmask(SIG_SETMASK, &all, &before);
            error = pthread_create(&thread_, nullptr, main, this);
            pthread_sigmask(SIG_SETMASK, &before, nullptr);
        }
        if (error) {
            poller_.close();
            bell_.close();
            return error;
        }
        running_ = started_ = true;
        return 0;
    }

    void join(std::unique_lock<std::mutex> &lock) {
        if (!started_) return;
        started_ = false;
        pthread_t thread = thread_;
        lock.unlock();
        pthread_join(thread, nullptr);
        lock.lock();
    }

    void give(Line *line, uint32_t order) {
        bool silent = ordered_.empty();
        if (!line->orders) ordered_.push(line);
        line->orders |= order;
        if (silent && running_) bell_.ring();
    }

    static void *main(void *self) {
        ((Pump *)self)->run();
        return nullptr;
    }

    void run() {
        Chain<&Line::next_taken> taken;
        settle_in();
        for (;;) {
            int count = poller_.wait(beat());
            bool rung = false;
            for (int i = 0; i < count; i++) {
                const Readiness one = poller_.ready(i);
                Line *line = (Line *)one.tag;
                if (line == nullptr) {
                    rung = true;
                    continue;
                }
                if (line->outlet.tls() != nullptr) {
                    ready_encrypted(line, one);
                    continue;
                }
                if (one.writable && line->writing && !flush(line)) continue;
                if (one.readable && line->reading) after(line, read_(line));
            }
            {
                std::unique_lock<std::mutex> lock(mutex_);
                if (rung || !ordered_.empty()) bell_.silence();
                while (Line *line = ordered_.pop()) {
                    line->orders_taken = line->orders;
                    line->orders = 0;
                    taken.push(line);
                }
                if (stopping_) break;
                if (lines_.empty() && taken.empty()) {
                    lock.unlock();
                    rest_();
                    lock.lock();
                    if (lines_.empty() && ordered_.empty()) {
                        end();
                        return;
                    }
                }
            }
            while (Line *line = taken.pop()) obey(line, line->orders_taken);
        }
        /* No more lines come. */
        while (Line *line = to_be_closed()) fail(line, ECANCELED);
        rest_();
        std::lock_guard<std::mutex> lock(mutex_);
        end();
    }

    /* One that is, as the thread stops; NULL if there is none. */
    Line *to_be_closed() {
        std::lock_guard<std::mutex> lock(mutex_);
        return closing_ && !lines_.empty() ? lines_.first() : nullptr;
    }

    void end() {
        running_ = false;
        poller_.close();
        bell_.close();
    }

    void settle_in() {
#ifdef __linux__
        pthread_setname_np(pthread_self(), name_.substr(0, 15).c_str());
        if (cpu_ >= 0) {
            cpu_set_t cpus;
            CPU_ZERO(&cpus);
            CPU_SET(cpu_, &cpus);
            pthread_setaffinity_np(pthread_self(), sizeof cpus, &cpus);
        }
#elif defined(__APPLE__)
        pthread_setname_np(name_.c_str());
#endif
    }

    void obey(Line *line, uint32_t orders) {
        if (orders & ORDER_ABORT) {
            close(line);
            return;
        }
        if (orders & ORDER_CLOSE) line->closing = true;
        if (line->closing) beats_.remove(line);
        if ((orders & (ORDER_FLUSH | ORDER_CLOSE)) && !flush(line)) return;
        if ((orders & ORDER_BEATS) && !line->closing && !line->at_end
            && !beats_.set(line, monotonic_ns() + line->beat_every_ns)) {
            fail(line, ENOMEM);
            return;
        }
        if ((orders & ORDER_BEAT) && beats_.has(line)) beat(line, monotonic_ns());
        if (!line->closing && (orders & ORDER_LOOK)) {
            after(line, line->at_end ? (int)STEP_END : look_(line));
        } else if ((orders & ORDER_READ) && line->takes) {
            input(line);
        }
    }

    /* Send the heartbeats that are due. Returns for how many milliseconds there is nothing to do; -1: nothing ever. */
    int beat() {
        if (beats_.empty()) return -1;
        int64_t now_ns = monotonic_ns();
        bool any = false;
        for (int i = 0; i < BEATS_MAX && !beats_.empty() && beats_.next()->beat_due_ns <= now_ns; i++) {
            any = true;
            beat(beats_.next(), now_ns);
        }
        if (beats_.empty()) return -1;
        return wait_ms(beats_.next()->beat_due_ns - (any ? monotonic_ns() : now_ns));
    }

    /* Those that were missed, as the process didn't run, aren't made up for. */
    void beat(Line *line, int64_t now_ns) {
        int64_t due_ns = line->beat_due_ns + line->beat_every_ns;
        if (line->beat_due_ns > now_ns || due_ns <= now_ns) due_ns = now_ns + line->beat_every_ns;
        if (beat_(line)) {
            beats_.set(line, due_ns);
        } else {
            beats_.remove(line);
        }
        if (line->error.load(std::memory_order_relaxed)) order(line, ORDER_ABORT);
    }

    /* Reading may want to write and the other way round: TLS has messages of its own. */
    void ready_encrypted(Line *line, const Readiness &one) {
        Tls *tls = line->outlet.tls();
        if (line->sending || tls->read_wants_write.load(std::memory_order_relaxed)) {
            if (((one.writable && line->writing) || (one.readable && line->reading)) && !flush(line)) return;
        }
        if (one.readable && line->reading && line->takes) input(line);
    }

    void input(Line *line) {
        /* What is read now may be what a write waits for. */
        if (line->sending && line->outlet.tls()->write_wants_read.load(std::memory_order_relaxed)) {
            order(line, ORDER_FLUSH);
        }
        if (!line->lingering) {
            after(line, read_(line));
        } else if (drain(line)) {
            attend(line);
        }
    }

    /* Nobody wants it any more, but for the end of the stream. False if the line is closed now. */
    bool drain(Line *line) {
        char scratch[Tls::RECORD_MAX];
        for (int i = 0; i < DRAINS_MAX; i++) {
            ssize_t got = line->outlet.tls()->read(scratch, sizeof scratch, &line->more);
            if (got == -EAGAIN) return true;
            if (got <= 0) {
                close(line);
                return false;
            }
            if (!line->more) return true;
        }
        return true;
    }

    void after(Line *line, int step) {
        if (line->error.load(std::memory_order_relaxed)) {
            close(line);
            return;
        }
        line->blocked = step == STEP_BLOCKED;
        if (step == STEP_END && !line->at_end) {
            line->at_end = true;
            beats_.remove(line);
            report(line, REPORT_END);
        }
        attend(line);
    }

    /* False if the line is closed now. */
    bool flush(Line *line) {
        bool drained;
        Outlet::Written written = line->outlet.flush(&drained);
        if (written.error && written.error != EBADF) {
            fail(line, written.error);
            return false;
        }
        if (line->closing && !written.waiting) {
            /* As asyncio does: closing a socket with unread input would make the peer lose what it hasn't read. */
            line->lingering = line->outlet.tls() != nullptr && !line->at_end;
            if (!line->lingering) {
                close(line);
                return false;
            }
        }
        line->sending = written.waiting != 0;
        if (drained) report(line, REPORT_DRAINED);
        if (Tls *tls = line->outlet.tls()) {
            if (tls->read_wants_write.exchange(false, std::memory_order_relaxed)) line->more = true;
        }
        return attend(line);
    }

    /* Let the poller look for what matters now. False if the line is closed now. */
    bool attend(Line *line) {
        bool in = !line->blocked && !line->at_end && !line->closing && !line->paused.load(std::memory_order_relaxed);
        bool out = line->sending;
        line->takes = in = in || line->lingering;
        if (Tls *tls = line->outlet.tls()) {
            bool stuck = in && tls->read_wants_write.load(std::memory_order_relaxed);
            bool waits = out && tls->write_wants_read.load(std::memory_order_relaxed);
            if (in && line->more && !stuck) order(line, ORDER_READ);
            in = (in && !stuck) || waits;
            out = (out && !waits) || stuck;
        }
        int error = poller_.set(line->fd, line, in, out, line->reading, line->writing);
        if (error) {
            fail(line, error);
            return false;
        }
        line->reading = in;
        line->writing = out;
        return true;
    }

    void fail(Line *line, int error) {
        line->error.store(error, std::memory_order_relaxed);
        close(line);
    }

    void close(Line *line) {
        poller_.set(line->fd, line, false, false, line->reading, line->writing);
        line->reading = line->writing = false;
        beats_.remove(line);
        line->outlet.close();
        over_(line);
        std::lock_guard<std::mutex> lock(mutex_);
        line->gone = true;
        if (line->orders) ordered_.remove(line);
        line->orders = 0;
        lines_.remove(line);
        if (lines_.empty()) bell_.ring();       /* the thread's work is done */
        /* Before it is in gone_: whoever takes it from there may free it. */
        report(line, REPORT_GONE);
        gone_.push(line);
        if (line->orphan.load()) orphaned_();
    }

    void report(Line *line, uint32_t report) {
        if (line->reports) line->reports->add(line, report);
    }

    const std::string name_;
    const int cpu_;
    const StepFunction read_, look_, beat_, over_;
    void (*const orphaned_)();
    void (*const rest_)();
    Poller poller_;
    Beats beats_;
    Bell bell_;
    std::mutex mutex_;
    Chain<&Line::next_ordered> ordered_;
    Chain<&Line::next_gone> gone_;
    Lines lines_;
    bool running_ = false, started_ = false, stopping_ = false, closing_ = false;
    pthread_t thread_{};
};

}  // namespace fastws
