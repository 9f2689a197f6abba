/* Lets chosen calls of chosen callers fail. Loaded ahead of all else (LD_PRELOAD); glibc on Linux. See faults.py. */

#define _GNU_SOURCE

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <unistd.h>

enum { RANGES_MAX = 256 };

/* What can fail; the same order as in faults.py. */
enum Site { MEMORY, RECV, SEND, READ, WRITE, EPOLL_WAIT, EPOLL_CTL, EPOLL_CREATE, EVENTFD, THREAD, ENTROPY, SHUTDOWN, SITES };

static struct { uintptr_t begin, end; int callers; } ranges[RANGES_MAX];
static int range_count;

static _Atomic int callers_of[SITES];       /* a sum of classes of callers; 0: nobody's calls are looked at */
static _Atomic long calls[SITES], fired[SITES];
static long first_of[SITES], times_of[SITES];
static int action_of[SITES];                /* errno; 0: one byte only */

/* Set up while nothing is armed. */
void faults_range(uintptr_t begin, uintptr_t end, int callers) {
    if (range_count < RANGES_MAX) {
        ranges[range_count].begin = begin;
        ranges[range_count].end = end;
        ranges[range_count++].callers = callers;
    }
}

/* The calls [first, first + times) of ``site``, counted from 1, by ``callers`` fail from now on. */
void faults_arm(int site, int callers, long first, long times, int action) {
    first_of[site] = first;
    times_of[site] = times;
    action_of[site] = action;
    atomic_store(&calls[site], 0);
    atomic_store(&fired[site], 0);
    atomic_store(&callers_of[site], callers);
}

void faults_disarm(int site) { atomic_store(&callers_of[site], 0); }
long faults_calls(int site) { return atomic_load(&calls[site]); }
long faults_fired(int site) { return atomic_load(&fired[site]); }

static int hits(int site, const void *caller) {
    int callers = atomic_load(&callers_of[site]);
    if (!callers) return 0;
    for (int i = 0; i < range_count; i++) {
        if ((uintptr_t)caller < ranges[i].begin || (uintptr_t)caller >= ranges[i].end) continue;
        if (!(ranges[i].callers & callers)) return 0;
        long number = atomic_fetch_add(&calls[site], 1) + 1;
        if (number < first_of[site] || number - first_of[site] >= times_of[site]) return 0;
        atomic_fetch_add(&fired[site], 1);
        return 1;
    }
    return 0;
}

#define CALLER __builtin_extract_return_addr(__builtin_return_address(0))

/* Evaluates to whether the call fails, with errno set. */
#define FAILS(site) (hits(site, CALLER) && (errno = action_of[site], 1))

extern void *__libc_malloc(size_t);
extern void *__libc_calloc(size_t, size_t);
extern void *__libc_realloc(void *, size_t);

void *malloc(size_t size) { return FAILS(MEMORY) ? NULL : __libc_malloc(size); }
void *calloc(size_t count, size_t size) { return FAILS(MEMORY) ? NULL : __libc_calloc(count, size); }
void *realloc(void *memory, size_t size) { return FAILS(MEMORY) ? NULL : __libc_realloc(memory, size); }

/* The next definition of a function, looked up once. */
#define NEXT(name)                                                          \
    static _Atomic(void *) next_##name;                                     \
    void *next = atomic_load_explicit(&next_##name, memory_order_relaxed);  \
    if (next == NULL) {                                                     \
        next = dlsym(RTLD_NEXT, #name);                                     \
        atomic_store_explicit(&next_##name, next, memory_order_relaxed);    \
    }

/* Whether it fails; else ``length`` may have become shorter. */
#define CUT(site, length) (hits(site, CALLER) && (action_of[site] ? (errno = action_of[site], 1) : ((length) = !!(length), 0)))

ssize_t recv(int fd, void *data, size_t length, int flags) {
    NEXT(recv)
    return CUT(RECV, length) ? -1 : ((ssize_t(*)(int, void *, size_t, int))next)(fd, data, length, flags);
}

ssize_t send(int fd, const void *data, size_t length, int flags) {
    NEXT(send)
    return CUT(SEND, length) ? -1 : ((ssize_t(*)(int, const void *, size_t, int))next)(fd, data, length, flags);
}

ssize_t read(int fd, void *data, size_t length) {
    NEXT(read)
    return CUT(READ, length) ? -1 : ((ssize_t(*)(int, void *, size_t))next)(fd, data, length);
}

ssize_t write(int fd, const void *data, size_t length) {
    NEXT(write)
    return CUT(WRITE, length) ? -1 : ((ssize_t(*)(int, const void *, size_t))next)(fd, data, length);
}

int epoll_wait(int fd, struct epoll_event *events, int most, int timeout_ms) {
    NEXT(epoll_wait)
    return FAILS(EPOLL_WAIT) ? -1 : ((int (*)(int, struct epoll_event *, int, int))next)(fd, events, most, timeout_ms);
}

int epoll_ctl(int fd, int operation, int other, struct epoll_event *event) {
    NEXT(epoll_ctl)
    /* Nothing is needed to look no more. */
    if (operation != EPOLL_CTL_DEL && FAILS(EPOLL_CTL)) return -1;
    return ((int (*)(int, int, int, struct epoll_event *))next)(fd, operation, other, event);
}

int epoll_create1(int flags) {
    NEXT(epoll_create1)
    return FAILS(EPOLL_CREATE) ? -1 : ((int (*)(int))next)(flags);
}

int eventfd(unsigned int value, int flags) {
    NEXT(eventfd)
    return FAILS(EVENTFD) ? -1 : ((int (*)(unsigned int, int))next)(value, flags);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*function)(void *), void *argument) {
    NEXT(pthread_create)
    if (hits(THREAD, CALLER)) return action_of[THREAD];
    return ((int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))next)(
        thread, attributes, function, argument);
}

int getentropy(void *data, size_t length) {
    NEXT(getentropy)
    return FAILS(ENTROPY) ? -1 : ((int (*)(void *, size_t))next)(data, length);
}

int shutdown(int fd, int how) {
    NEXT(shutdown)
    return FAILS(SHUTDOWN) ? -1 : ((int (*)(int, int))next)(fd, how);
}
