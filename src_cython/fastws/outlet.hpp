/* Bytes out of a socket that a pump owns: any thread writes whole frames, none is cut by another.

   What the socket doesn't take at once waits here and is sent by the pump.

   With TLS there are two locks: that of the SSL, under which data is encrypted and sent, then ``mutex_``, under which nothing
   happens that takes time. A writer tries the first while it has the second, and if the SSL is in use, its data waits for
   the pump; so those who have the GIL block on neither for long. Order holds, since nobody sends past data that waits, and
   what is left of a direct write goes ahead of what came after it.

   The pump sends frames of its own: pongs, replies and heartbeats. None follows a close frame (RFC 6455 5.5.1), and what is a
   message doesn't come between the fragments of another (5.4): it waits for the last of them, a reply here. What a peer that
   doesn't read gets of them is bounded, and the messages that it doesn't get are counted. */

#pragma once

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <string>
#include <sys/socket.h>
#include <unistd.h>

#include "sent_log.hpp"
#include "tls.hpp"

#ifndef MSG_NOSIGNAL
#define MSG_NOSIGNAL 0      /* macOS: SO_NOSIGPIPE, set where the socket is adopted */
#endif

namespace fastws {

class Outlet {
  public:
    explicit Outlet(int fd, std::unique_ptr<Tls> tls = nullptr) : fd_(fd), tls_(std::move(tls)) {}
    Outlet(const Outlet &) = delete;
    Outlet &operator=(const Outlet &) = delete;
    ~Outlet() {
        close();
        std::free(data_);
    }

    struct Written {
        size_t waiting;         /* bytes that the socket hasn't taken */
        bool first;             /* they are the first ones: the pump must look */
        bool full;              /* crossed the high-water mark: pause writing */
        int error;              /* errno; nothing more can be written */
        bool beat = false;      /* a heartbeat has waited for the last fragment */
        bool withheld = false;  /* replies or a heartbeat weren't sent, as the peer doesn't read */
        bool logged = false;    /* replies were sent that had waited, and are to be logged */
    };

    /* What became of a heartbeat. */
    enum Beat : int {
        BEAT_DONE,
        BEAT_WAITS,             /* until a write() says so */
        BEAT_OVER,              /* there will be none any more */
    };

    /* ``last``: of the fragments for which replies were held. An earlier error is told again: nothing is dropped without
       a word, unless the socket is closed. */
    Written write(const char *data, size_t length, bool last) {
        std::unique_lock<std::mutex> lock(mutex_);
        if (error_ && error_ != EBADF) return {waiting(), false, false, error_};
        Written written = put(lock, data, length);
        if (!last) return written;
        fragmented_ = false;
        written.beat = beat_waits_;
        beat_waits_ = false;
        if (held_.empty() || !answering_ || written.error) return written;
        std::string held;
        held.swap(held_);
        SentLog log;
        log.swap(held_log_);
        uint64_t count = held_count_;
        held_count_ = 0;
        Written more = put_own(lock, held.data(), held.size(), count, log);
        more.first |= written.first;
        more.full |= written.full;
        more.beat = written.beat;
        more.logged = !log.empty();
        return more;
    }

    /* Pongs; ``sent`` says whether they were. While the peer doesn't read those that it has got, the last one, at ``last``,
       is enough (RFC 6455 5.5.3): what waits of them is bounded by what one read can ask for, and a peer that only writes
       doesn't fill our memory. */
    Written answer(const char *data, size_t length, size_t last, int *sent) {
        std::unique_lock<std::mutex> lock(mutex_);
        *sent = answering_;
        if (!answering_) return {waiting(), false, false, 0};
        if (answers_ > ANSWERS_MAX) {
            late_size_ = length - last;
            std::memcpy(late_, data + last, late_size_);
            return {waiting(), false, false, 0};
        }
        late_size_ = 0;
        Written written = put_own(lock, data, length, 0, SentLog());
        answers_ = std::min(answers_ + length, waiting());
        return written;
    }

    /* ``count`` messages, and ``more`` for which there was no room. A peer that doesn't read what it has asked for gets no
       more of it. ``log`` has what is to be logged of them, once they are sent. */
    Written reply(const char *data, size_t length, uint64_t count, uint64_t more, const SentLog &log) {
        std::unique_lock<std::mutex> lock(mutex_);
        if (!answering_ || error_ || ending_) return {waiting(), false, false, 0};
        withheld_ += more;
        if (waiting() + held_.size() > UNSENT_MAX || (fragmented_ && !hold_back(data, length, count, log))) {
            withheld_ += count;
            return withheld();
        }
        Written written = fragmented_ ? Written{waiting(), false, false, 0} : put_own(lock, data, length, count, log);
        written.withheld = more != 0;
        return written;
    }

    /* A message, as reply() sends them. Between fragments it isn't held: however many are due meanwhile, one is enough.
       For a peer that doesn't read, it counts as done. */
    Written beat(const char *data, size_t length, const SentLog &log, Beat *what) {
        std::unique_lock<std::mutex> lock(mutex_);
        *what = !answering_ || error_ || ending_ ? BEAT_OVER : fragmented_ ? BEAT_WAITS : BEAT_DONE;
        if (*what == BEAT_WAITS) beat_waits_ = true;
        if (*what != BEAT_DONE) return {waiting(), false, false, 0};
        if (waiting() > UNSENT_MAX) {
            withheld_++;
            return withheld();
        }
        return put_own(lock, data, length, 1, log);
    }

    void stop_answers() {
        std::lock_guard<std::mutex> lock(mutex_);
        answering_ = false;
        late_size_ = 0;
    }

    /* Fragments are written next; the last one says so. */
    void hold_replies() {
        std::lock_guard<std::mutex> lock(mutex_);
        fragmented_ = true;
    }

    /* What the pump has sent of its own, and what it has not, as the peer doesn't read. */
    void count_own(uint64_t *messages, uint64_t *bytes, uint64_t *withheld) {
        std::lock_guard<std::mutex> lock(mutex_);
        *messages = own_messages_;
        *bytes = own_bytes_;
        *withheld = withheld_;
    }

    /* What was sent since the last call and is to be logged, into an empty ``log``. */
    void take_log(SentLog &log) {
        std::lock_guard<std::mutex> lock(mutex_);
        log.swap(sent_log_);
    }

    static constexpr size_t UNSENT_MAX = 1024 * 1024;   /* as that of replies by the loop */

    /* By the pump, when the socket takes more. Sets ``drained`` once the low-water mark is crossed downward. */
    Written flush(bool *drained) {
        if (tls_) tls_->lock();
        std::unique_lock<std::mutex> lock(mutex_);
        push_all(lock);
        if (late_size_ && answers_ <= ANSWERS_MAX && !error_ && !ending_ && keep(late_, late_size_)) {
            answers_ += late_size_;
            own_bytes_ += late_size_;
            late_size_ = 0;
            push_all(lock);
        }
        *drained = full_ && waiting() <= low_;
        if (*drained) {
            full_ = false;
            changed_.notify_all();
        }
        if (tls_) tls_->unlock();
        /* close_notify waits as well. */
        return {waiting() + (tls_ && ending_ && !ended_), false, false, error_};
    }

    void end() {
        std::lock_guard<std::mutex> lock(mutex_);
        ending_ = true;
        if (!tls_) finish();      /* with TLS, when the pump flushes */
    }

    void set_limits(size_t high, size_t low) {
        std::lock_guard<std::mutex> lock(mutex_);
        high_ = high;
        low_ = low;
    }

    size_t size() {
        std::lock_guard<std::mutex> lock(mutex_);
        return waiting();
    }

    /* Whether what waits has crossed the high-water mark, and not yet the low one. */
    bool is_full() {
        std::lock_guard<std::mutex> lock(mutex_);
        return is_held();
    }

    /* Until that isn't so, or the deadline. Call it without the GIL. */
    bool wait_drained(std::chrono::steady_clock::time_point deadline) {
        std::unique_lock<std::mutex> lock(mutex_);
        return changed_.wait_until(lock, deadline, [this] { return !is_held(); });
    }

    /* Nobody may use the descriptor any more: it may be somebody else's by then. */
    void close() {
        if (tls_) tls_->lock();
        {
            std::lock_guard<std::mutex> lock(mutex_);
            if (fd_ >= 0) ::close(fd_);
            fd_ = -1;
            head_ = tail_ = 0;
            if (!error_) error_ = EBADF;
            changed_.notify_all();
        }
        if (tls_) {
            tls_->forget();
            tls_->unlock();
        }
    }

    Tls *tls() const { return tls_.get(); }

  private:
    static constexpr size_t KEEP_MAX = 64 * 1024;   /* memory that an idle outlet keeps */
    static constexpr int RECORDS_MAX = 64;          /* in one go: other connections want their turn */
    static constexpr size_t ANSWERS_MAX = 64 * 1024;    /* bytes of pongs that wait; behind more, only the last matters */
    static constexpr size_t ANSWER_MAX = 2 + 4 + 125;   /* a pong, masked */

    size_t waiting() const { return tail_ - head_; }

    Written put(std::unique_lock<std::mutex> &lock, const char *data, size_t length) {
        return tls_ ? encrypt(lock, data, length) : append(data, length);
    }

    Written put_own(
        std::unique_lock<std::mutex> &lock, const char *data, size_t length, uint64_t messages, const SentLog &log
    ) {
        if (!error_ && !ending_) {
            own_messages_ += messages;
            own_bytes_ += length;
            sent_log_.add(log);
        }
        return put(lock, data, length);
    }

    Written withheld() const {
        Written written{waiting(), false, false, 0};
        written.withheld = true;
        return written;
    }

    /* Until the last fragment; false if there is no memory. */
    bool hold_back(const char *data, size_t length, uint64_t count, const SentLog &log) {
        try {
            held_.append(data, length);
        } catch (const std::bad_alloc &) {
            return false;
        }
        held_count_ += count;
        held_log_.add(log);
        return true;
    }

    bool is_held() const { return full_ && fd_ >= 0 && !error_; }

    Written append(const char *data, size_t length) {
        if (error_ || ending_) return {waiting(), false, false, 0};
        bool first = waiting() == 0;
        if (first) {
            ssize_t sent = send(data, length);
            if (sent < 0) return {0, false, false, error_};
            data += sent;
            length -= (size_t)sent;
        }
        if (length && !keep(data, length)) {
            error_ = ENOMEM;
            return {waiting(), false, false, error_};
        }
        bool full = !full_ && waiting() > high_;
        if (full) full_ = true;
        return {waiting(), first && length, full, 0};
    }

    Written encrypt(std::unique_lock<std::mutex> &lock, const char *data, size_t length) {
        if (error_ || ending_) return {waiting(), false, false, 0};
        if (waiting() == 0 && tls_->try_lock()) {
            lock.unlock();
            ssize_t sent = tls_->write(data, length);
            lock.lock();
            tls_->unlock();
            if (sent < 0) {
                error_ = (int)-sent;
                return {0, false, false, error_};
            }
            data += sent;
            length -= (size_t)sent;
            if (length && waiting()) return hold(data, length, true);
        }
        return hold(data, length, false);
    }

    /* Let it wait, behind or ahead of what waits already. */
    Written hold(const char *data, size_t length, bool ahead) {
        bool first = waiting() == 0;
        size_t before = waiting();
        if (length && !keep(data, length)) {
            error_ = ENOMEM;
            return {waiting(), false, false, error_};
        }
        if (ahead) {
            std::memmove(data_ + head_ + length, data_ + head_, before);
            std::memcpy(data_ + head_, data, length);
        }
        bool full = !full_ && waiting() > high_;
        if (full) full_ = true;
        return {waiting(), first && length, full, 0};
    }

    void push_all(std::unique_lock<std::mutex> &lock) {
        if (tls_) {
            push_encrypted(lock);
        } else {
            push();
        }
        answers_ = std::min(answers_, waiting());
    }

    /* With both locks; gives ``mutex_`` up while it encrypts. */
    void push_encrypted(std::unique_lock<std::mutex> &lock) {
        char chunk[Tls::RECORD_MAX];
        for (int i = 0; i < RECORDS_MAX && waiting() && !error_; i++) {
            size_t size = waiting() < sizeof chunk ? waiting() : sizeof chunk;
            /* Others may append meanwhile, and move it. */
            std::memcpy(chunk, data_ + head_, size);
            lock.unlock();
            ssize_t sent = tls_->write(chunk, size);
            lock.lock();
            if (sent < 0) error_ = (int)-sent;
            if (sent > 0) head_ += (size_t)sent;
            if (sent < (ssize_t)size) break;
        }
        settle();
        if (ending_ && !ended_ && !waiting() && !error_) {
            lock.unlock();
            bool done = tls_->shut();
            lock.lock();
            ended_ = done;
        }
    }

    /* How much the socket took, or -1 with error_ set. */
    ssize_t send(const char *data, size_t length) {
        size_t done = 0;
        while (done < length) {
            ssize_t sent = ::send(fd_, data + done, length - done, MSG_NOSIGNAL | MSG_DONTWAIT);
            if (sent >= 0) {
                done += (size_t)sent;
            } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
                break;
            } else if (errno != EINTR) {
                error_ = errno;
                return -1;
            }
        }
        return (ssize_t)done;
    }

    bool keep(const char *data, size_t length) {
        if (capacity_ - tail_ < length && head_) {
            std::memmove(data_, data_ + head_, waiting());
            tail_ -= head_;
            head_ = 0;
        }
        if (capacity_ - tail_ < length) {
            size_t capacity = 2 * capacity_ > tail_ + length ? 2 * capacity_ : tail_ + length;
            char *grown = (char *)std::realloc(data_, capacity);
            if (grown == nullptr) return false;
            data_ = grown;
            capacity_ = capacity;
        }
        std::memcpy(data_ + tail_, data, length);
        tail_ += length;
        return true;
    }

    void push() {
        if (waiting() && !error_) {
            ssize_t sent = send(data_ + head_, waiting());
            if (sent > 0) head_ += (size_t)sent;
        }
        settle();
        finish();
    }

    void settle() {
        if (head_ == tail_) {
            head_ = tail_ = 0;
            if (capacity_ > KEEP_MAX) {
                std::free(data_);
                data_ = nullptr;
                capacity_ = 0;
            }
        }
    }

    void finish() {
        if (ending_ && !ended_ && !waiting() && fd_ >= 0) {
            ended_ = true;
            ::shutdown(fd_, SHUT_WR);
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;       /* what waits is less, or nothing will be sent any more */
    int fd_;
    const std::unique_ptr<Tls> tls_;
    char *data_ = nullptr;
    size_t head_ = 0, tail_ = 0, capacity_ = 0;
    size_t high_ = 64 * 1024, low_ = 16 * 1024;
    char late_[ANSWER_MAX];
    size_t late_size_ = 0;
    size_t answers_ = 0;                /* bytes of pongs that wait, at most */
    bool full_ = false, answering_ = true, ending_ = false, ended_ = false;
    bool fragmented_ = false;           /* between the first and the last fragment of a message */
    bool beat_waits_ = false;           /* for the last fragment */
    std::string held_;                  /* replies meanwhile */
    uint64_t held_count_ = 0, own_messages_ = 0, own_bytes_ = 0, withheld_ = 0;
    SentLog held_log_, sent_log_;       /* of the pump's messages, where they are logged */
    int error_ = 0;
};

}  // namespace fastws
