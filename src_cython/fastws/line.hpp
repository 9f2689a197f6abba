/* A socket that a pump owns, and what others want of it. */

#pragma once

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <sys/socket.h>

#include "bell.hpp"
#include "outlet.hpp"

namespace fastws {

class Pump;
class Reports;

/* What the pump is to do with a line. */
enum Order : uint32_t {
    ORDER_LOOK = 1,         /* decode what waits, read on unless somebody said no */
    ORDER_FLUSH = 2,        /* what the socket didn't take waits */
    ORDER_CLOSE = 4,        /* once everything is sent */
    ORDER_ABORT = 8,        /* at once */
    ORDER_READ = 16,        /* there is more than the poller knows: with TLS */
    ORDER_BEATS = 32,       /* heartbeats begin */
    ORDER_BEAT = 64,        /* one that had to wait can be sent */
};

/* What happened to a line, for its event loop. */
enum Report : uint32_t {
    REPORT_STEP = 1,        /* look at the decoder */
    REPORT_END = 2,         /* of the stream */
    REPORT_DRAINED = 4,     /* writing may go on */
    REPORT_GONE = 8,        /* the socket is closed; the last report */
};

struct Line {
    Line(
        int socket, void *decoder, void *handle, void *reference, std::shared_ptr<Reports> loop,
        std::unique_ptr<Tls> tls = nullptr
    )
        : fd(socket), decoder(decoder), handle(handle), reference(reference), reports(std::move(loop)),
          outlet(socket, std::move(tls)) {}

    const int fd;                       /* for the pump only: the outlet closes it */
    void *const decoder;                /* a PumpedDecoder, kept by handle */
    void *const handle;                 /* a PumpSocket, kept while the pump knows the line */
    void *const reference;              /* a weak one to it, kept until Reports::forget() */
    std::shared_ptr<Reports> reports;   /* none: somebody waits in the decoder; or the last one was taken */
    Outlet outlet;
    std::atomic<bool> paused{false};    /* by its user */
    std::atomic<int> error{0};          /* errno; why it is gone */
    std::atomic<bool> orphan{false};    /* nobody takes reports */

    /* The pump's own. */
    bool reading = false, writing = false;      /* what the poller looks for */
    bool blocked = false;               /* the decoder takes no more */
    bool at_end = false;                /* of the stream */
    bool sending = false;               /* something waits in the outlet */
    bool closing = false;               /* once everything is sent */
    bool takes = false;                 /* input is wanted; with TLS that isn't what the poller looks for */
    bool more = true;                   /* TLS may hold input that the poller doesn't see: at first that of the handshake */
    bool lingering = false;             /* TLS: close_notify is sent, that of the peer isn't here */
    int64_t beat_due_ns = 0;            /* when the next heartbeat is; 0: there is none */

    uint32_t orders_taken = 0;
    Line *next_taken = nullptr;

    /* Of the pump's lock. */
    uint32_t orders = 0;
    Line *next_ordered = nullptr, *next_gone = nullptr;
    Line *line_before = nullptr, *line_behind = nullptr;    /* among all of the pump */
    int64_t beat_every_ns = 0;          /* set before ORDER_BEATS, never again: the pump reads it without the lock */
    bool gone = false;

    /* Of the lock of the reports. */
    uint32_t reported = 0;
    Line *next_reported = nullptr;
};

/* Lines one behind the other, each at most once. It takes no memory, so what happens to a line can always be told. */
template <Line *Line::*next> class Chain {
  public:
    bool empty() const { return first_ == nullptr; }

    void push(Line *line) {
        line->*next = nullptr;
        if (first_ == nullptr) {
            first_ = line;
        } else {
            last_->*next = line;
        }
        last_ = line;
    }

    /* The first one, or NULL. */
    Line *pop() {
        Line *line = first_;
        if (line != nullptr) first_ = line->*next;
        return line;
    }

    /* Wherever it is. */
    void remove(Line *line) {
        Line *before = nullptr;
        for (Line *here = first_; here != nullptr; before = here, here = here->*next) {
            if (here != line) continue;
            if (before == nullptr) {
                first_ = line->*next;
            } else {
                before->*next = line->*next;
            }
            if (last_ == line) last_ = before;
            return;
        }
    }

  private:
    Line *first_ = nullptr, *last_ = nullptr;
};

/* All lines of a pump. It takes no memory. */
class Lines {
  public:
    bool empty() const { return first_ == nullptr; }
    size_t size() const { return size_; }

    /* Any of them; there must be one. */
    Line *first() const { return first_; }

    void add(Line *line) {
        line->line_before = nullptr;
        line->line_behind = first_;
        if (first_ != nullptr) first_->line_before = line;
        first_ = line;
        size_++;
    }

    void remove(Line *line) {
        if (line->line_before != nullptr) {
            line->line_before->line_behind = line->line_behind;
        } else {
            first_ = line->line_behind;
        }
        if (line->line_behind != nullptr) line->line_behind->line_before = line->line_before;
        size_--;
    }

  private:
    Line *first_ = nullptr;
    size_t size_ = 0;
};

/* From pumps to one event loop: one ring for any number of lines and events, until the loop takes them. */
class Reports {
  public:
    int open() { return bell_.open(); }
    int fd() const { return bell_.fd(); }

    void add(Line *line, uint32_t report) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (!line->reported) lines_.push(line);
        line->reported |= report;
        if (!rung_) {
            rung_ = true;
            rung_at_ = std::chrono::steady_clock::now();
            bell_.ring();
        }
    }

    struct Entry {
        void *reference;
        uint32_t report;
    };

    /* At most so many of those that are there: when they aren't fewer, more may be. ``rung_ns`` is set to when the bell
       was rung, as time.monotonic_ns() tells it, unless it wasn't since the last call. ``hold`` is called with each
       reference under the lock, so before forget() lets it go: without a GIL nothing else keeps it meanwhile. */
    template <typename Hold> size_t take(Entry *entries, size_t most, int64_t *rung_ns, Hold hold) {
        std::lock_guard<std::mutex> lock(mutex_);
        size_t count = 0;
        while (count < most && !lines_.empty()) {
            Line *line = lines_.pop();
            hold(line->reference);
            entries[count++] = {line->reference, line->reported};
            line->reported = 0;
        }
        if (rung_) {
            bell_.silence();
            *rung_ns = std::chrono::duration_cast<std::chrono::nanoseconds>(rung_at_.time_since_epoch()).count();
        }
        rung_ = false;
        return count;
    }

    /* Before its memory goes. */
    void forget(Line *line) {
        std::lock_guard<std::mutex> lock(mutex_);
        if (line->reported) lines_.remove(line);
        line->reported = 0;
    }

  private:
    std::mutex mutex_;
    Bell bell_;
    bool rung_ = false;
    std::chrono::steady_clock::time_point rung_at_;
    Chain<&Line::next_reported> lines_;
};

}  // namespace fastws
