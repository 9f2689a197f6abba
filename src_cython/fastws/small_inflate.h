/* Whole small messages of permessage-deflate (RFC 1951, RFC 7692), where zlib spends its time on making tables.

A message that is compressed by itself brings its own Huffman codes, and for 150 bytes of text zlib makes tables of 512
entries of them. Here tables are no larger than the codes need, and only symbols that occur are looked at.

Whatever is wrong, unusual or too long for the room is refused, never judged: zlib then looks at the message from its
start. So all that counts is that zlib accepts what is accepted here, and makes the same of it. */

#ifndef FASTWS_SMALL_INFLATE_H
#define FASTWS_SMALL_INFLATE_H

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace fastws {

constexpr ptrdiff_t REFUSED = -1;
constexpr size_t READ_MORE = 32;    // bytes behind the input that are read, and don't matter
constexpr size_t STEP_MOST = 320;   // output of one step: literals, a match, and what is written behind it
constexpr unsigned LONGEST = 15;    // bits of a code
constexpr unsigned ROOT_MOST = 10;  // bits that index a table, at most

/* What a code means: the template of its symbol, and its length.
    bits 0-7: bits to drop: the code and the "extra bits" behind it
    bits 8-11: bits of the code alone
    bits 16-30: what the extra bits are added to: length or distance; or the literal; 0 is the end of the block
    bit 31: a literal
For lengths of codes: 12 a length that isn't 0, 16-19 how often or that length, 24-30 mask of the extra bits, 31 as before.
NONE is in the place of longer codes than the table is for, and of codes that don't exist; FREE where nothing is yet. */
typedef uint32_t Entry;
constexpr Entry CODE_BIT = 0x101, LITERAL = 1u << 31, NONE = 1 << 15, FREE = 1 << 14;
constexpr Entry ONCE = 1 << 12, AS_BEFORE = 1u << 31;

struct Constants {
    Entry literals[288], distances[32], lengths[19];
    uint16_t reversed[1 << ROOT_MOST];

    constexpr Constants() : literals(), distances(), lengths(), reversed() {
        for (unsigned i = 0; i < 256; i++)
            literals[i] = LITERAL | i << 16;
        for (unsigned i = 0, base = 3; i < 28; base += 1u << (literals[257 + i++] & 7))
            literals[257 + i] = base << 16 | (i < 8 ? 0 : i / 4 - 1);
        literals[285] = 258 << 16;
        for (unsigned i = 0, base = 1; i < 30; base += 1u << (distances[i++] & 15))
            distances[i] = base << 16 | (i < 4 ? 0 : i / 2 - 1);
        // Symbols that have fixed codes but no meaning: an end with an extra bit. 30 and 31 are a distance of 0.
        literals[286] = literals[287] = 1;
        lengths[0] = 1 << 16;
        for (unsigned i = 1; i < 16; i++)
            lengths[i] = ONCE | i << 16;
        lengths[16] = AS_BEFORE | 3 << 24 | 3 << 16 | 2;
        lengths[17] = 7 << 24 | 3 << 16 | 3;
        lengths[18] = 127 << 24 | 11 << 16 | 7;
        for (unsigned i = 0; i < 1 << ROOT_MOST; i++)
            for (unsigned bit = 0; bit < ROOT_MOST; bit++)
                reversed[i] |= (i >> bit & 1) << (ROOT_MOST - 1 - bit);
    }
};

constexpr Constants CONSTANTS;

/* A Huffman code (RFC 1951 3.2.2), and a table for its first ROOT bits. At most MOST symbols have a code.
Codes are compared as if each had LONGEST bits, zeros behind it. */
template <unsigned ROOT, unsigned MOST> struct Code {
    struct Symbol {
        uint16_t symbol, length;
        uint32_t place;             // its code less the first code of that length
    };
    unsigned size, mask;
    uint32_t space[LONGEST + 1];    // what the codes of each length take
    Symbol symbols[MOST];
    Entry sorted[MOST];             // by code; only made if some are longer than ROOT
    Entry entries[1 << ROOT];

    void clear() {
        size = 0;
        memset(space, 0, sizeof space);
    }

    /* Symbols come in ascending order. */
    void add(unsigned symbol, unsigned length) {
        symbols[size++] = {uint16_t(symbol), uint16_t(length), space[length]};
        space[length] += 1u << (LONGEST - length);
    }

    /* False unless every sequence of bits begins with exactly one code; or one code of one bit is left out, if it may. */
    bool make(const Entry *templates, bool may_lack = false) {
        unsigned longest = LONGEST;
        while (longest > 1 && space[longest] == 0)
            longest--;
        unsigned first[LONGEST + 1], end = 0;
        for (unsigned length = 1; length <= longest; length++) {
            first[length] = end;
            end += space[length];
        }
        const bool complete = end == 1u << LONGEST;
        if (!complete && !(may_lack && longest == 1 && size < 2))
            return false;
        const unsigned root = longest < ROOT ? longest : ROOT;
        const unsigned all = 1u << root;
        mask = all - 1;
        // Not zero: compilers make of that what costs more to begin than to do.
        for (unsigned i = 0; i < all; i++)
            entries[i] = FREE;
        for (unsigned i = 0; i < size; i++) {
            const Symbol it = symbols[i];
            const unsigned index = CONSTANTS.reversed[(first[it.length] + it.place) >> (LONGEST - ROOT_MOST)];
            if (it.length <= root)
                entries[index] = templates[it.symbol] + it.length * CODE_BIT;
            else
                entries[index & mask] = NONE;
        }
        if (!complete)
            entries[size] = entries[1] = NONE;
        // A place is free where a shorter code goes on with a 1: it gets what is where the code goes on with a 0.
        for (unsigned half = 1; half < all; half *= 2)
            if (half < 4)
                fill<1>(entries + half, entries, half);
            else
                fill<4>(entries + half, entries, half);
        if (longest > ROOT)
            sort(templates);
        return true;
    }

    /* Fill free places of the upper half, STEP at a time, as vectorizers want it. */
    template <unsigned STEP> static void fill(Entry *upper, const Entry *lower, unsigned half) {
        for (unsigned i = 0; i < half; i += STEP) {
            Entry high[STEP], low[STEP];
            memcpy(high, upper + i, sizeof high);
            memcpy(low, lower + i, sizeof low);
            for (unsigned k = 0; k < STEP; k++)
                high[k] ^= (high[k] ^ low[k]) & (0 - Entry(high[k] == FREE));
            memcpy(upper + i, high, sizeof high);
        }
    }

    void sort(const Entry *templates) {
        unsigned before[LONGEST + 1], n = 0;
        for (unsigned length = 1; length <= LONGEST; length++) {
            before[length] = n;
            n += space[length] >> (LONGEST - length);
        }
        for (unsigned i = 0; i < size; i++) {
            const unsigned length = symbols[i].length;
            const unsigned index = before[length] + (symbols[i].place >> (LONGEST - length));
            sorted[index] = templates[symbols[i].symbol] + length * CODE_BIT;
        }
    }

    /* The entry of a code that is longer than the index of the table; NONE if there is none. */
    Entry find(uint64_t bits) const {
        unsigned code = 0, first = 0, before = 0;
        for (unsigned length = 1; length <= LONGEST; length++, bits >>= 1) {
            code |= unsigned(bits & 1) << (LONGEST - length);
            if (code - first < space[length])
                return mask + 1 == 1u << ROOT ? sorted[before + ((code - first) >> (LONGEST - length))] : NONE;
            first += space[length];
            before += space[length] >> (LONGEST - length);
        }
        return NONE;
    }
};

struct Codes {
    Code<ROOT_MOST, 328> literals;  // room for the lengths of both codes, and a repetition that goes too far
    Code<8, 32> distances;
    Code<7, 20> lengths;
};

/* The next bits of the input, lowest first. */
struct Bits {
    const uint8_t *next;
    uint64_t bits = 0;
    uint8_t count = 0;

    /* Have at least 56. Those above count are valid, too, and are read again. */
    void refill() {
        uint64_t word;
        memcpy(&word, next, 8);
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
        word = __builtin_bswap64(word);
#endif
        bits |= word << count;
        next += (63 - count) >> 3;
        count |= 56;
    }
    void drop(Entry entry) {
        bits >>= entry & 63;
        count = uint8_t(count - entry);
    }
    unsigned take(unsigned n) {
        const unsigned value = unsigned(bits) & ((1u << n) - 1);
        drop(n);
        return value;
    }
    /* Length or distance. */
    unsigned take_value(Entry entry) {
        const uint64_t both = bits & ((uint64_t(1) << (entry & 63)) - 1);
        drop(entry);
        return (entry >> 16) + unsigned(both >> (entry >> 8 & 15));
    }
};

/* Read the codes of a dynamic block, RFC 1951 3.2.7. False where something isn't right. */
inline bool read_codes(Bits &input, const uint8_t *stop, Codes &codes) {
    static constexpr uint8_t ORDER[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    Bits in = input;
    const unsigned literals = in.take(5) + 257, distances = in.take(5) + 1, n = in.take(4) + 4;
    const unsigned all = literals + distances;
    if (literals > 286 || distances > 30)
        return false;
    uint8_t lengths[19] = {};
    for (unsigned i = 0; i < n; i++) {
        if (i % 16 == 0)
            in.refill();
        lengths[ORDER[i]] = uint8_t(in.take(3));
    }
    codes.lengths.clear();
    for (unsigned i = 0; i < 19; i++) {
        codes.lengths.add(i, lengths[i]);
        codes.lengths.size -= lengths[i] == 0;
    }
    if (!codes.lengths.make(CONSTANTS.lengths))
        return false;

    // Both codes' lengths come as one sequence.
    auto &code = codes.literals;
    code.clear();
    const Entry *const entries = codes.lengths.entries;
    const unsigned mask = codes.lengths.mask;
    unsigned length = 16;           // the one before; there is none yet
    for (unsigned i = 0; i < all;) {
        if (in.next > stop)
            return false;
        in.refill();
        // 4 times at most 7 bits and 7 extra bits.
        for (unsigned k = 0; k < 4 && i < all; k++) {
            const Entry entry = entries[in.bits & mask];
            const uint64_t behind = in.bits >> (entry >> 8 & 15);
            in.drop(entry);
            if (entry & ONCE) {
                length = entry >> 16 & 15;
                code.add(i++, length);
                continue;
            }
            const unsigned times = (entry >> 16 & 15) + (unsigned(behind) & entry >> 24 & 127);
            if (!(entry & AS_BEFORE))
                length = 0;
            else if (length == 16)
                return false;
            for (unsigned j = 0; j < times && length; j++)
                code.add(i + j, length);
            i += times;
        }
        if (i > all)
            return false;
    }
    input = in;
    codes.distances.clear();
    unsigned size = code.size;
    while (size && code.symbols[size - 1].symbol >= literals)
        size--;
    for (unsigned i = size; i < code.size; i++) {
        const unsigned bits = code.symbols[i].length;
        codes.distances.add(code.symbols[i].symbol - literals, bits);
        code.space[bits] -= 1u << (LONGEST - bits);
    }
    code.size = size;
    // Where its end has no code, a block has no end, and is refused for that.
    return code.make(CONSTANTS.literals) && codes.distances.make(CONSTANTS.distances, true);
}

/* The codes of RFC 1951 3.2.6. */
inline const Codes &fixed_codes() {
    static const Codes fixed = [] {
        Codes codes;
        codes.literals.clear();
        for (unsigned i = 0; i < 288; i++)
            codes.literals.add(i, i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8);
        codes.literals.make(CONSTANTS.literals);
        codes.distances.clear();
        for (unsigned i = 0; i < 32; i++)
            codes.distances.add(i, 5);
        codes.distances.make(CONSTANTS.distances);
        return codes;
    }();
    return fixed;
}

/* Inflate a whole message, without the 00 00 FF FF that its sender removed (RFC 7692 7.2.1).

Args:
    data: READ_MORE bytes behind its end must be readable.
    room: Bytes that may be written to output; behind the message, what is written doesn't matter.
    window: Most that a distance may be.

Returns its length, or REFUSED. */
inline ptrdiff_t inflate_small(const uint8_t *data, size_t length, uint8_t *output, size_t room, size_t window) {
    if (room < STEP_MOST)
        return REFUSED;
    const uint8_t *const end = data + length;
    const uint8_t *const stop = end + 8;    // Bits.next is up to 8 bytes ahead.
    uint8_t *out = output;
    uint8_t *const last = output + room - STEP_MOST;
    Bits in{data};
    Codes own;
    for (;;) {
        if (in.next > stop)
            return REFUSED;
        in.refill();
        const unsigned kind = in.take(3);   // The lowest bit marks the final block, which feeds don't send.
        if (kind == 0) {
            in.drop(in.count & 7);
            const uint8_t *block = in.next - in.count / 8;
            // All was read: what the sender removed is the rest of this block, which is empty.
            if (block == end)
                return out - output;
            if (end - block < 4)
                return REFUSED;
            const unsigned size = block[0] | block[1] << 8;
            const unsigned inverted = block[2] | block[3] << 8;
            block += 4;
            if ((size ^ inverted) != 0xFFFF || size > size_t(end - block) || out > last || size > size_t(last - out))
                return REFUSED;
            memcpy(out, block, size);
            out += size;
            in = Bits{block + size};
            continue;
        }
        if ((kind != 2 && kind != 4) || (kind == 4 && !read_codes(in, stop, own)))
            return REFUSED;
        const Codes &codes = kind == 4 ? own : fixed_codes();
        const Entry *const literals = codes.literals.entries;
        const unsigned mask = codes.literals.mask;
        for (;;) {
            if (in.next > stop || out > last)
                return REFUSED;
            in.refill();
            Entry entry = literals[in.bits & mask];
            if (entry & LITERAL) {
                // Up to 5 of at most 10 bits.
                unsigned left = 4;
                do {
                    in.drop(entry);
                    *out++ = uint8_t(entry >> 16);
                    entry = literals[in.bits & mask];
                } while (entry & LITERAL && left--);
                if (entry & LITERAL)
                    continue;
                in.refill();
            }
            if (entry == NONE)
                entry = codes.literals.find(in.bits);
            if (entry & LITERAL) {
                in.drop(entry);
                *out++ = uint8_t(entry >> 16);
                continue;
            }
            if (entry >> 16 == 0) {
                // Not so for what has no meaning, and for NONE.
                if (entry != (entry & 15) * CODE_BIT)
                    return REFUSED;
                in.drop(entry);
                break;
            }
            // At most 20 bits and 28.
            const unsigned size = in.take_value(entry);
            entry = codes.distances.entries[in.bits & codes.distances.mask];
            if (entry == NONE)
                entry = codes.distances.find(in.bits);
            const size_t distance = in.take_value(entry);
            // NONE and what has no meaning are a distance of 0.
            if (distance - 1 >= size_t(out - output) || distance > window)
                return REFUSED;
            uint8_t *const after = out + size;
            const uint8_t *from = out - distance;
            if (distance >= 16)
                for (; out < after; out += 16, from += 16)
                    memcpy(out, from, 16);
            else
                while (out < after)
                    *out++ = *from++;
            out = after;
        }
    }
}

}  // namespace fastws

#endif
