/* Clocks, in nanoseconds. */

#pragma once

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

static inline int64_t wall_ns() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(
        std::chrono::system_clock::now().time_since_epoch()).count();
}

}  // namespace fastws
