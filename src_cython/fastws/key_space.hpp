/* Keys of messages: a hash table that only grows, bounded in count and length, and globs. */
#ifndef FASTWS_KEY_SPACE_HPP
#define FASTWS_KEY_SPACE_HPP

#include <cstdint>
#include <cstring>
#include <new>
#include <random>
#include <string>
#include <vector>
#ifdef _MSC_VER
#include <intrin.h>
#endif

namespace fastws {

constexpr uint32_t NO_KEY = UINT32_MAX;

struct KeyEntry {
    uint64_t hash;
    uint32_t offset, length;        // of its bytes
    uint64_t position;              // Conflate: of the message that waits, if that is still in the queue
    int64_t number;                 // Inspect: the last one
    int64_t seen_ns;                // track: of its last message
    uint64_t dropped, conflated;
    int16_t policy;                 // Route: what its rules say
    bool positioned, numbered, given_up;
};

class KeySpace {
    std::vector<KeyEntry> entries_;
    std::vector<uint32_t> slots_;   // a power of two, at most half full; NO_KEY is empty
    std::string bytes_;
    size_t keys_max_, bytes_max_;

    static uint64_t seed() {
        static const uint64_t value = [] {
            std::random_device device;
            return static_cast<uint64_t>(device()) << 32 | device();
        }();
        return value;
    }

    static uint64_t mix(uint64_t a, uint64_t b) {
#ifdef _MSC_VER
        uint64_t high, low = _umul128(a, b, &high);
        return low ^ high;
#else
        __extension__ using wide = unsigned __int128;
        wide product = static_cast<wide>(a) * b;
        return static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64);
#endif
    }

    /* Seeded, so that a peer can't choose keys that collide. */
    static uint64_t hash(const char *data, size_t length) {
        uint64_t h = seed() ^ (length * 0x9E3779B97F4A7C15ull);
        uint64_t word;
        while (length >= 8) {
            std::memcpy(&word, data, 8);
            h = mix(h ^ word, 0xA0761D6478BD642Full);
            data += 8;
            length -= 8;
        }
        word = 0;
        std::memcpy(&word, data, length);
        return mix(h ^ word, 0xE7037ED1A0B428DBull);
    }

    void rehash(size_t size) {
        std::vector<uint32_t> slots(size, NO_KEY);
        for (uint32_t i = 0; i < entries_.size(); i++) {
            size_t slot = entries_[i].hash & (size - 1);
            while (slots[slot] != NO_KEY) slot = (slot + 1) & (size - 1);
            slots[slot] = i;
        }
        slots_.swap(slots);
    }

public:
    /* Throws if there is no entropy: afterwards, the seed is there. */
    KeySpace(size_t keys_max, size_t bytes_max) : keys_max_(keys_max), bytes_max_(bytes_max) { seed(); }

    /* Sets ``starved`` if there is no memory for a new key: then nothing has changed. */
    uint32_t find(const char *data, size_t length, bool add, bool *starved) noexcept {
        if (length > bytes_max_) return NO_KEY;
        if (slots_.empty() && !add) return NO_KEY;
        try {
            if (slots_.empty()) rehash(64);
            uint64_t h = hash(data, length);
            size_t slot = h & (slots_.size() - 1);
            for (; slots_[slot] != NO_KEY; slot = (slot + 1) & (slots_.size() - 1)) {
                const KeyEntry &entry = entries_[slots_[slot]];
                if (entry.hash == h && entry.length == length && !std::memcmp(bytes_.data() + entry.offset, data, length))
                    return slots_[slot];
            }
            if (!add || entries_.size() >= keys_max_) return NO_KEY;
            if (2 * (entries_.size() + 1) > slots_.size()) {
                rehash(2 * slots_.size());
                slot = h & (slots_.size() - 1);
                while (slots_[slot] != NO_KEY) slot = (slot + 1) & (slots_.size() - 1);
            }
            KeyEntry made{};
            made.hash = h;
            made.offset = static_cast<uint32_t>(bytes_.size());
            made.length = static_cast<uint32_t>(length);
            made.policy = -1;
            bytes_.append(data, length);
            entries_.push_back(made);
            slots_[slot] = static_cast<uint32_t>(entries_.size() - 1);
            return slots_[slot];
        } catch (const std::bad_alloc &) {
            *starved = true;
            return NO_KEY;
        }
    }

    KeyEntry *entry(uint32_t index) noexcept { return &entries_[index]; }
    const char *text(uint32_t index) const noexcept { return bytes_.data() + entries_[index].offset; }
    uint32_t size() const noexcept { return static_cast<uint32_t>(entries_.size()); }
};

/* Shell patterns as Python's fnmatchcase: * ? [seq] [!seq], by code points of valid UTF-8. */
class Glob {
    static uint32_t next(const char *&p, const char *end) {
        uint8_t first = static_cast<uint8_t>(*p++);
        int more = first >= 0xF0 ? 3 : first >= 0xE0 ? 2 : first >= 0xC0 ? 1 : 0;
        uint32_t code = more == 3 ? first & 0x07 : more == 2 ? first & 0x0F : more == 1 ? first & 0x1F : first;
        for (; more && p < end; more--) code = code << 6 | (static_cast<uint8_t>(*p++) & 0x3F);
        return code;
    }

    /* The set that begins behind a '['; false if it has no end, so that the bracket stands for itself. */
    static bool in_set(const char *&p, const char *end, uint32_t code, bool *matched) {
        const char *q = p;
        bool negated = q < end && *q == '!';
        if (negated) q++;
        const char *close = q;
        if (close < end && *close == ']') close++;
        while (close < end && *close != ']') close++;
        if (close == end) return false;
        bool found = false;
        while (q < close) {
            uint32_t low = next(q, close), high = low;
            if (close - q >= 2 && *q == '-') {
                q++;
                high = next(q, close);
            }
            found = found || (low <= code && code <= high);
        }
        p = close + 1;
        *matched = found != negated;
        return true;
    }

public:
    static bool match(const char *p, size_t pattern_length, const char *s, size_t length) {
        const char *pattern_end = p + pattern_length, *end = s + length;
        const char *star = nullptr, *retry = nullptr;
        while (true) {
            if (p < pattern_end && *p == '*') {
                star = ++p;
                retry = s;
                continue;
            }
            if (s == end) {
                if (p == pattern_end) return true;
                return false;
            }
            bool matched = false;
            if (p < pattern_end) {
                const char *rest = s;
                uint32_t code = next(rest, end);
                if (*p == '?') {
                    matched = true;
                    p++;
                } else if (*p == '[') {
                    const char *q = p + 1;
                    if (in_set(q, pattern_end, code, &matched)) { if (matched) p = q; }
                    else if ((matched = code == '[')) p++;
                } else {
                    const char *q = p;
                    if ((matched = next(q, pattern_end) == code)) p = q;
                }
                if (matched) s = rest;
            }
            if (!matched) {
                if (!star) return false;
                p = star;
                next(retry, end);
                s = retry;
                if (retry > end) return false;
            }
        }
    }
};

}  // namespace fastws

#endif
