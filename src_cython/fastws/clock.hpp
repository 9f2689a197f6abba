/* Clocks, in nanoseconds. */

#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>

namespace fastws {

/* The clock of time.monotonic_ns() wherever steady_clock is CLOCK_MONOTONIC (glibc, musl, libc++). */
static inline int64_t monotonic_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::steady_clock::now().time_since_epoch()).count();
}

static inline std::chrono::steady_clock::time_point monotonic_time(int64_t ns) {
    return std::chrono::steady_clock::time_point(
        std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::nanoseconds(ns)));
}

/* So many seconds from now on; what is more than thirty years can't be counted any more, and nobody waits for it. */
static inline int64_t deadline_ns(double seconds) {
    constexpr double LONGEST = 1e9;
    return monotonic_ns() + (int64_t)((seconds > 0.0 ? std::min(seconds, LONGEST) : 0.0) * 1e9);
}

static inline int64_t wall_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace fastws
