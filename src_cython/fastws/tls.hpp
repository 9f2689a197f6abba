/* TLS without the GIL, over the `SSL` of a Python `ssl.SSLSocket` and with the libssl that Python itself has loaded.

   fastws isn't linked with libssl: two of them in one process don't get on. The functions are looked up in the library that
   Python's module `_ssl` has loaded; where that can't be done, there is none of this, and the event loop receives.

   An SSL belongs to one thread at a time: each call to it is made under its lock.
   - Reading, writing, session tickets and key updates may call functions of the user's SSLContext, which take the GIL. So
     nobody who has the GIL may ever block on the lock: Python threads only try it.
   - The pump may block on it: whoever has it isn't waiting for the pump, as the pump holds no other lock meanwhile. */

#pragma once

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <dlfcn.h>
#include <mutex>
#include <sys/types.h>

namespace fastws {

/* Functions of libssl and libcrypto, by their documented prototypes. */
struct Libssl {
    int (*SSL_read)(void *, void *, int) = nullptr;
    int (*SSL_write)(void *, const void *, int) = nullptr;
    int (*SSL_shutdown)(void *) = nullptr;
    int (*SSL_get_error)(const void *, int) = nullptr;
    int (*SSL_has_pending)(const void *) = nullptr;
    int (*SSL_get_fd)(const void *) = nullptr;
    void *(*SSL_get_ex_data)(const void *, int) = nullptr;
    void *(*SSL_get_SSL_CTX)(const void *) = nullptr;
    long (*SSL_ctrl)(void *, int, long, void *) = nullptr;
    void (*SSL_set_read_ahead)(void *, int) = nullptr;
    void (*ERR_clear_error)() = nullptr;
    unsigned long (*ERR_peek_last_error)() = nullptr;
    const char *(*ERR_reason_error_string)(unsigned long) = nullptr;
    unsigned long (*OpenSSL_version_num)() = nullptr;

    /* Of the extension module `_ssl` at ``path``, which is loaded. */
    bool load(const char *path) {
        void *handle = dlopen(path, RTLD_LAZY | RTLD_LOCAL | RTLD_NOLOAD);
        if (handle == nullptr) return false;
        /* The handle is kept, and with it the library. */
        return find(handle, "SSL_read", SSL_read) && find(handle, "SSL_write", SSL_write) &&
               find(handle, "SSL_shutdown", SSL_shutdown) && find(handle, "SSL_get_error", SSL_get_error) &&
               find(handle, "SSL_has_pending", SSL_has_pending) && find(handle, "SSL_get_fd", SSL_get_fd) &&
               find(handle, "SSL_get_ex_data", SSL_get_ex_data) && find(handle, "SSL_get_SSL_CTX", SSL_get_SSL_CTX) &&
               find(handle, "SSL_ctrl", SSL_ctrl) && find(handle, "SSL_set_read_ahead", SSL_set_read_ahead) &&
               find(handle, "ERR_clear_error", ERR_clear_error) &&
               find(handle, "ERR_peek_last_error", ERR_peek_last_error) &&
               find(handle, "ERR_reason_error_string", ERR_reason_error_string) &&
               find(handle, "OpenSSL_version_num", OpenSSL_version_num);
    }

  private:
    template <typename Function> static bool find(void *handle, const char *name, Function &function) {
        function = reinterpret_cast<Function>(dlsym(handle, name));
        return function != nullptr;
    }
};

class Tls {
  public:
    /* Most bytes of one SSL_write(): a record. What couldn't be written is tried again with at least as many. */
    static constexpr size_t RECORD_MAX = 16384;
    static constexpr size_t TRICKLE = 4096;     /* bytes; who gets less isn't asked whether there is more */

    Tls(const Libssl *lib, void *ssl) : lib_(lib), ssl_(ssl) {
        lib_->SSL_set_read_ahead(ssl_, 1);
        set_mode(lib_, ssl_);
    }
    Tls(const Tls &) = delete;
    Tls &operator=(const Tls &) = delete;

    /* A write that the socket doesn't take is tried again from another place in memory, and a large one goes in parts. */
    static void set_mode(const Libssl *lib, void *ssl) {
        constexpr int CTRL_MODE = 33;
        constexpr long PARTIAL_WRITE = 1, MOVING_BUFFER = 2;
        lib->SSL_ctrl(ssl, CTRL_MODE, PARTIAL_WRITE | MOVING_BUFFER, nullptr);
    }

    bool try_lock() { return mutex_.try_lock(); }
    void lock() { mutex_.lock(); }
    void unlock() { mutex_.unlock(); }

    /* For the pump; takes the lock. Bytes, 0 at the end of the stream, -EAGAIN if there is nothing now, or another negative
       errno; -EPROTO means that TLS has failed. ``more``: the poller doesn't know all that there is to read. */
    ssize_t read(char *data, size_t size, bool *more) {
        size_t done = 0;
        *more = true;
        while (done < size) {
            std::lock_guard<std::mutex> lock(mutex_);
            if (ssl_ == nullptr) return -EBADF;
            if (!error_ && !ended_) {
                lib_->ERR_clear_error();
                errno = 0;
                int got = lib_->SSL_read(ssl_, data + done, (int)std::min(size - done, (size_t)1 << 30));
                if (got > 0) {
                    done += (size_t)got;
                    if (done < TRICKLE && !lib_->SSL_has_pending(ssl_)) {
                        *more = false;
                        break;
                    }
                    continue;
                }
                switch (failed(got, true)) {
                case WANTS_READ:
                    *more = false;
                    return done ? (ssize_t)done : -EAGAIN;
                case WANTS_WRITE:
                    read_wants_write.store(true, std::memory_order_relaxed);
                    return done ? (ssize_t)done : -EAGAIN;
                default:
                    break;
                }
            }
            /* What came before the end is taken first. */
            if (done) break;
            return error_ ? -error_ : 0;
        }
        return (ssize_t)done;
    }

    /* With the lock. How many bytes were taken, or a negative errno. */
    ssize_t write(const char *data, size_t length) {
        size_t done = 0;
        bool wants_read = false;
        if (ssl_ == nullptr) return -EBADF;
        if (error_) return -error_;
        /* The peer has left without a word: nobody reads this, and that is no error of its own. */
        if (broken_) return (ssize_t)length;
        while (done < length) {
            lib_->ERR_clear_error();
            errno = 0;
            int sent = lib_->SSL_write(ssl_, data + done, (int)std::min(length - done, RECORD_MAX));
            if (sent > 0) {
                done += (size_t)sent;
                continue;
            }
            Failure failure = failed(sent, false);
            wants_read = failure == WANTS_READ;
            if (failure == FAILED) return -error_;
            break;
        }
        write_wants_read.store(wants_read, std::memory_order_relaxed);
        return (ssize_t)done;
    }

    /* With the lock: send close_notify (RFC 8446 6.1), once everything is written. False if the socket doesn't take it. */
    bool shut() {
        if (ssl_ == nullptr || error_ || broken_) return true;
        lib_->ERR_clear_error();
        errno = 0;
        int result = lib_->SSL_shutdown(ssl_);
        return result >= 0 || lib_->SSL_get_error(ssl_, result) != SSL_WANT_WRITE;
    }

    /* With the lock: the SSL isn't for use any more. */
    void forget() { ssl_ = nullptr; }

    /* Why TLS has failed, as libssl numbers it; 0 if it hasn't. */
    unsigned long failure() const { return failure_.load(std::memory_order_relaxed); }
    const Libssl *lib() const { return lib_; }

    /* A renegotiation or a key update makes one need the other. Set under the lock, looked at by the pump. */
    std::atomic<bool> read_wants_write{false}, write_wants_read{false};

  private:
    enum Failure { WANTS_READ, WANTS_WRITE, ENDED, FAILED };
    enum { SSL_SSL = 1, SSL_WANT_READ = 2, SSL_WANT_WRITE = 3, SSL_SYSCALL = 5, SSL_ZERO_RETURN = 6 };
    static constexpr unsigned long UNEXPECTED_EOF = 294;     /* since OpenSSL 3.0; before, a system call without an errno */

    Failure failed(int result, bool reading) {
        int why = lib_->SSL_get_error(ssl_, result);
        int error = errno;
        unsigned long code;
        switch (why) {
        case SSL_WANT_READ:
            return WANTS_READ;
        case SSL_WANT_WRITE:
            return WANTS_WRITE;
        case SSL_ZERO_RETURN:
            ended_ = true;
            if (!reading) error_ = EPIPE;
            return reading ? ENDED : FAILED;
        case SSL_SYSCALL:
            ended_ = error == 0;
            break;
        default:
            code = lib_->ERR_peek_last_error();
            ended_ = (code & 0x7FFFFF) == UNEXPECTED_EOF;
            if (!ended_) failure_.store(code, std::memory_order_relaxed);
            error = EPROTO;
        }
        /* After this, libssl wants no more calls. */
        error_ = ended_ ? EPIPE : error;
        if (ended_ && reading) {
            error_ = 0;
            broken_ = true;
            return ENDED;
        }
        return FAILED;
    }

    const Libssl *const lib_;
    std::mutex mutex_;
    void *ssl_;
    bool ended_ = false, broken_ = false;
    int error_ = 0;
    std::atomic<unsigned long> failure_{0};
};

}  // namespace fastws
