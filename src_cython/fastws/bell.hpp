/* Wakes whoever polls its descriptor: an eventfd, or a pipe where there is none. Ringing needs no GIL. */

#pragma once

#include <cerrno>
#include <cstdint>
#include <fcntl.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/eventfd.h>
#endif

namespace fastws {

class Bell {
  public:
    Bell() = default;
    Bell(const Bell &) = delete;
    Bell &operator=(const Bell &) = delete;
    ~Bell() { close(); }

    /* 0, or errno. */
    int open() {
#ifdef __linux__
        heard_ = rung_ = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        return heard_ < 0 ? errno : 0;
#else
        int ends[2];
        if (pipe(ends) < 0) return errno;
        heard_ = ends[0];
        rung_ = ends[1];
        for (int end : ends) {
            fcntl(end, F_SETFD, FD_CLOEXEC);
            fcntl(end, F_SETFL, O_NONBLOCK);
        }
        return 0;
#endif
    }

    void close() {
        if (heard_ >= 0) ::close(heard_);
        if (rung_ != heard_ && rung_ >= 0) ::close(rung_);
        heard_ = rung_ = -1;
    }

    /* A full pipe or counter rings already. */
    void ring() {
        uint64_t one = 1;
#ifdef __linux__
        ssize_t written = ::write(rung_, &one, sizeof one);
#else
        ssize_t written = ::write(rung_, &one, 1);
#endif
        (void)written;
    }

    void silence() {
        char bytes[64];
        while (::read(heard_, bytes, sizeof bytes) == (ssize_t)sizeof bytes) {
        }
    }

    int fd() const { return heard_; }

  private:
    int heard_ = -1, rung_ = -1;
};

}  // namespace fastws
