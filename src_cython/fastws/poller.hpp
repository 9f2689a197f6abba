/* Which descriptors are ready: epoll on Linux, poll elsewhere. Belongs to one thread. */

#pragma once

#include <cerrno>
#include <climits>
#include <cstdint>
#include <unistd.h>

#ifdef __linux__
#include <sys/epoll.h>
#else
#include <new>
#include <poll.h>
#include <vector>
#endif

namespace fastws {

/* Milliseconds for which to wait at most, from nanoseconds: not less, since whoever wakes too early waits again, unless it
   is more than there can be. */
static inline int wait_ms(int64_t ns) {
    if (ns <= 0) return 0;
    int64_t ms = (ns - 1) / 1000000 + 1;
    return ms > INT_MAX ? INT_MAX : (int)ms;
}

struct Readiness {
    void *tag;
    bool readable, writable;
};

#ifdef __linux__

class Poller {
  public:
    Poller() = default;
    Poller(const Poller &) = delete;
    Poller &operator=(const Poller &) = delete;
    ~Poller() { close(); }

    int open() {
        epoll_ = epoll_create1(EPOLL_CLOEXEC);
        return epoll_ < 0 ? errno : 0;
    }

    void close() {
        if (epoll_ >= 0) ::close(epoll_);
        epoll_ = -1;
    }

    /* What to look for, and what was looked for before; a descriptor of which nothing is wanted isn't looked at, since a
       hang-up would be told for ever. 0, or errno. */
    int set(int fd, void *tag, bool in, bool out, bool was_in, bool was_out) {
        if (in == was_in && out == was_out) return 0;
        epoll_event event{};
        event.events = (in ? (uint32_t)EPOLLIN : 0u) | (out ? (uint32_t)EPOLLOUT : 0u);
        event.data.ptr = tag;
        int operation = !(in || out) ? EPOLL_CTL_DEL : !(was_in || was_out) ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
        return epoll_ctl(epoll_, operation, fd, &event) < 0 ? errno : 0;
    }

    /* timeout_ms: -1 is no limit. Returns how many are ready; it may come back earlier, with none. */
    int wait(int timeout_ms) {
        int count = epoll_wait(epoll_, events_, EVENTS_MAX, timeout_ms);
        return count < 0 ? 0 : count;
    }

    Readiness ready(int index) const {
        uint32_t happened = events_[index].events;
        bool over = happened & (EPOLLHUP | EPOLLERR);
        return {events_[index].data.ptr, over || (happened & EPOLLIN), over || (happened & EPOLLOUT)};
    }

  private:
    static constexpr int EVENTS_MAX = 256;
    int epoll_ = -1;
    epoll_event events_[EVENTS_MAX];
};

#else

class Poller {
  public:
    int open() { return 0; }
    void close() { polled_.clear(); }

    int set(int fd, void *tag, bool in, bool out, bool, bool) {
        short wanted = (short)((in ? POLLIN : 0) | (out ? POLLOUT : 0));
        for (size_t i = 0; i < polled_.size(); i++) {
            if (polled_[i].fd != fd) continue;
            if (wanted) {
                polled_[i].events = wanted;
            } else {
                polled_[i] = polled_.back();
                tags_[i] = tags_.back();
                polled_.pop_back();
                tags_.pop_back();
            }
            return 0;
        }
        if (!wanted) return 0;
        try {
            size_t size = polled_.size() + 1;
            if (ready_.size() < size) ready_.resize(2 * size);
            tags_.reserve(ready_.size());
            polled_.reserve(ready_.size());
        } catch (const std::bad_alloc &) {
            return ENOMEM;
        }
        polled_.push_back({fd, wanted, 0});
        tags_.push_back(tag);
        return 0;
    }

    int wait(int timeout_ms) {
        int count = 0;
        if (poll(polled_.data(), (nfds_t)polled_.size(), timeout_ms) <= 0) return 0;
        for (size_t i = 0; i < polled_.size(); i++) {
            short happened = polled_[i].revents;
            bool over = happened & (POLLHUP | POLLERR | POLLNVAL);
            if (happened) ready_[(size_t)count++] = {tags_[i], over || (happened & POLLIN), over || (happened & POLLOUT)};
        }
        return count;
    }

    Readiness ready(int index) const { return ready_[(size_t)index]; }

  private:
    std::vector<pollfd> polled_;
    std::vector<void *> tags_;
    std::vector<Readiness> ready_;      /* as large as the two may be */
};

#endif

}  // namespace fastws
