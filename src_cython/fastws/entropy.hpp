/* Masking keys for threads without Python: from the operating system's CSPRNG (RFC 6455 5.3, 10.3), many at a time. */

#pragma once

#include <cstdint>
#include <cstring>

#ifdef __APPLE__
#include <sys/random.h>
#endif
#include <unistd.h>

namespace fastws {

/* False if the system has none; then nothing may be sent. */
static inline bool masking_key(uint8_t key[4]) {
    static thread_local uint8_t pool[256];      /* most that getentropy() gives at a time */
    static thread_local unsigned used = sizeof pool;
    if (used + 4 > sizeof pool) {
        if (getentropy(pool, sizeof pool) != 0) return false;
        used = 0;
    }
    std::memcpy(key, pool + used, 4);
    std::memset(pool + used, 0, 4);
    used += 4;
    return true;
}

}  // namespace fastws
