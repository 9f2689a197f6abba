/* What src_cython/fastws/small_inflate.h accepts, zlib must accept, with the same result.

Usage: small_inflate SECONDS SEED

Streams are made by zlib, or bit by bit of random codes, then mutated. Buffers end where they may: run it under
AddressSanitizer. A stream that is valid, fits, and has no final block must not be refused. */

#include <zlib.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "small_inflate.h"

using std::string;
using std::vector;

static std::mt19937_64 rng;

static unsigned below(unsigned n) { return unsigned(rng() % n); }
static bool one_in(unsigned n) { return below(n) == 0; }

struct Writer {
    string bytes;
    unsigned used = 0;              // bits of the last byte

    void put(unsigned value, unsigned n) {
        for (unsigned i = 0; i < n; i++) {
            if (used % 8 == 0)
                bytes.push_back(0);
            bytes.back() = char(bytes.back() | (value >> i & 1) << used % 8);
            used = (used + 1) % 8;
        }
    }
    void align() { used = 0; }
};

/* Lengths of a complete code for n random symbols of all, in at most most bits. */
static vector<unsigned> random_lengths(unsigned all, unsigned n, unsigned most) {
    vector<unsigned> leaves{1, 1};
    bool skewed = one_in(2);
    while (leaves.size() < n) {
        unsigned i = skewed ? unsigned(leaves.size()) - 1 - below(2) : below(unsigned(leaves.size()));
        if (leaves[i] >= most) {
            auto shortest = std::min_element(leaves.begin(), leaves.end());
            if (*shortest >= most)
                break;
            i = unsigned(shortest - leaves.begin());
        }
        leaves[i]++;
        leaves.push_back(leaves[i]);
    }
    vector<unsigned> symbols(all), lengths(all, 0);
    for (unsigned i = 0; i < all; i++)
        symbols[i] = i;
    std::shuffle(symbols.begin(), symbols.end(), rng);
    for (unsigned i = 0; i < leaves.size() && i < all; i++)
        lengths[symbols[i]] = leaves[i];
    return lengths;
}

struct Coder {
    vector<unsigned> lengths, codes;

    explicit Coder(const vector<unsigned> &of) : lengths(of), codes(of.size()) {
        unsigned code = 0;
        for (unsigned length = 1; length <= 15; length++, code <<= 1)
            for (size_t i = 0; i < lengths.size(); i++)
                if (lengths[i] == length)
                    codes[i] = code++;
    }
    void put(Writer &to, unsigned symbol) const {
        for (unsigned i = lengths[symbol]; i--;)
            to.put(codes[symbol] >> i & 1, 1);
    }
    unsigned random() const {
        for (;;) {
            unsigned symbol = below(unsigned(lengths.size()));
            if (lengths[symbol])
                return symbol;
        }
    }
};

static void put_symbols(Writer &to, const Coder &literals, const Coder &distances, bool any_distance, size_t &produced,
                        unsigned window) {
    for (unsigned n = below(200); n; n--) {
        unsigned symbol = literals.random();
        if (symbol == 256 || symbol > 285)
            continue;
        if (symbol < 256) {
            literals.put(to, symbol);
            produced++;
            continue;
        }
        if (!any_distance)
            continue;
        unsigned extra = symbol < 265 || symbol == 285 ? 0 : (symbol - 261) / 4;
        unsigned base = symbol < 265 ? symbol - 254 : symbol == 285 ? 258 : 3 + ((4 + (symbol - 261) % 4) << extra);
        unsigned more = below(1u << extra), code = distances.random();
        if (code > 29)
            continue;
        unsigned bits = code < 4 ? 0 : code / 2 - 1;
        unsigned least = code < 4 ? code + 1 : 1 + ((2 + code % 2) << bits);
        unsigned rest = below(1u << bits);
        if (least + rest > produced || least + rest > window)
            continue;
        literals.put(to, symbol);
        to.put(more, extra);
        distances.put(to, code);
        to.put(rest, bits);
        produced += base + more;
    }
    literals.put(to, 256);
}

static void put_dynamic(Writer &to, size_t &produced, unsigned window) {
    const unsigned beyond = one_in(20) ? 2 : 0;     // More symbols than there may be.
    unsigned n_literals = 257 + below(30 + beyond), n_distances = 1 + below(30 + beyond);
    auto literals = random_lengths(n_literals, 2 + below(one_in(2) ? 30 : n_literals - 1), one_in(2) ? 15 : 9 + below(7));
    if (!literals[256])
        for (unsigned i = 0; i < n_literals; i++)
            if (literals[i]) {
                std::swap(literals[i], literals[256]);
                break;
            }
    vector<unsigned> distances(n_distances, 0);
    bool any = true;
    if (n_distances > 1 && !one_in(4))
        distances = random_lengths(n_distances, 2 + below(n_distances - 1), one_in(2) ? 15 : 5);
    else if (one_in(2))
        distances[below(n_distances)] = 1;
    else
        any = false;
    auto all = literals;
    all.insert(all.end(), distances.begin(), distances.end());
    struct Run { unsigned symbol, extra, bits; };
    vector<Run> runs;
    const bool from_nothing = one_in(20);   // The first length is to be as before.
    for (size_t i = 0; i < all.size();) {
        size_t same = 1;
        while (i + same < all.size() && all[i + same] == all[i])
            same++;
        if (i == 0 && from_nothing && all[i] == 0 && same >= 3) {
            same = std::min<size_t>(same, 6);
            runs.push_back({16, unsigned(same - 3), 2});
        } else if (all[i] == 0 && same >= 11 && !one_in(8)) {
            same = std::min<size_t>(same, 138);
            runs.push_back({18, unsigned(same - 11), 7});
        } else if (all[i] == 0 && same >= 3 && !one_in(8)) {
            same = std::min<size_t>(same, 10);
            runs.push_back({17, unsigned(same - 3), 3});
        } else if (i && all[i] == all[i - 1] && same >= 3 && !one_in(8)) {
            same = std::min<size_t>(same, 6);
            runs.push_back({16, unsigned(same - 3), 2});
        } else {
            same = 1;
            runs.push_back({all[i], 0, 0});
        }
        i += same;
    }
    vector<bool> needed(19);
    for (auto &run : runs)
        needed[run.symbol] = true;
    Coder lengths{vector<unsigned>(19, 0)};
    for (bool fits = false; !fits;) {
        auto random = random_lengths(19, 2 + below(18), 7);
        fits = true;
        for (unsigned i = 0; i < 19; i++)
            fits &= !needed[i] || random[i];
        if (fits)
            lengths = Coder(random);
    }
    static const unsigned ORDER[19] = {16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15};
    unsigned n = 19;
    while (n > 4 && !lengths.lengths[ORDER[n - 1]])
        n--;
    to.put(n_literals - 257, 5);
    to.put(n_distances - 1, 5);
    to.put(n - 4, 4);
    for (unsigned i = 0; i < n; i++)
        to.put(lengths.lengths[ORDER[i]], 3);
    for (auto &run : runs) {
        lengths.put(to, run.symbol);
        to.put(run.extra, run.bits);
    }
    put_symbols(to, Coder(literals), Coder(distances), any, produced, window);
}

static string random_stream(unsigned window) {
    Writer to;
    size_t produced = 0;
    for (unsigned blocks = below(4); blocks; blocks--) {
        unsigned kind = below(4);
        to.put(0, 1);
        if (kind == 0) {
            unsigned size = below(one_in(4) ? 600 : 20);
            to.put(0, 2);
            to.align();
            to.put(size, 16);
            to.put(size ^ 0xFFFF, 16);
            for (unsigned i = 0; i < size; i++)
                to.put(below(256), 8);
            produced += size;
        } else if (kind == 1) {
            vector<unsigned> literals(288);
            for (unsigned i = 0; i < 288; i++)
                literals[i] = i < 144 ? 8 : i < 256 ? 9 : i < 280 ? 7 : 8;
            to.put(1, 2);
            put_symbols(to, Coder(literals), Coder(vector<unsigned>(32, 5)), true, produced, window);
        } else {
            to.put(2, 2);
            put_dynamic(to, produced, window);
        }
    }
    to.put(0, 3);
    return to.bytes;
}

static string made_by_zlib(unsigned bits) {
    static const unsigned SIZES[] = {10, 200, 200, 1000, 5000, 70000};
    string text;
    for (unsigned size = below(SIZES[below(6)] + 1), kind = below(4); text.size() < size;) {
        if (kind == 0)
            text += char(below(256));
        else if (kind == 1)
            text += "{\"e\":\"aggTrade\",\"p\":\"" + std::to_string(below(100000)) + "\"}";
        else if (kind == 2)
            text += string(1 + below(400), char('a' + below(3)));
        else
            text += char('a' + std::min(below(26), below(26)));
    }
    z_stream stream = {};
    deflateInit2(&stream, int(below(10)), Z_DEFLATED, -int(std::max(bits, 9u)), int(1 + below(9)), int(below(5)));
    string result(deflateBound(&stream, text.size()) + 100, 0);
    stream.next_in = reinterpret_cast<Bytef *>(&text[0]);
    stream.next_out = reinterpret_cast<Bytef *>(&result[0]);
    stream.avail_out = unsigned(result.size());
    for (size_t left = text.size(); left;) {
        stream.avail_in = unsigned(one_in(4) ? 1 + below(unsigned(left)) : left);
        left -= stream.avail_in;
        deflate(&stream, left ? Z_BLOCK : Z_SYNC_FLUSH);
    }
    if (text.empty())
        deflate(&stream, Z_SYNC_FLUSH);
    result.resize(result.size() - stream.avail_out);
    deflateEnd(&stream);
    result.resize(result.size() < 4 ? 0 : result.size() - 4);
    return result;
}

static string mutated(string data) {
    for (unsigned n = 1 + below(3); n && !data.empty(); n--) {
        unsigned place = below(unsigned(data.size()));
        if (one_in(2))
            place = below(std::min(unsigned(data.size()), 60u));
        switch (below(5)) {
        case 0: data.resize(place); break;
        case 1: data[place] = char(rng()); break;
        case 2: data.insert(place, 1, char(rng())); break;
        case 3: data.erase(place, 1 + below(3)); break;
        default: data[place] = char(data[place] ^ 1 << below(8));
        }
    }
    return data;
}

/* Whether zlib accepts the message, and what it makes of it. */
static bool zlib_says(const string &data, unsigned bits, string &result) {
    static vector<char> output(200000);
    string input = data + string("\0\0\xff\xff", 4);
    z_stream stream = {};
    inflateInit2(&stream, -int(bits));
    stream.next_in = reinterpret_cast<Bytef *>(&input[0]);
    stream.avail_in = unsigned(input.size());
    stream.next_out = reinterpret_cast<Bytef *>(output.data());
    stream.avail_out = unsigned(output.size());
    int status = inflate(&stream, Z_SYNC_FLUSH);
    bool good = (status == Z_OK || status == Z_BUF_ERROR) && stream.avail_in == 0 && stream.avail_out > 0;
    result.assign(output.data(), output.size() - stream.avail_out);
    inflateEnd(&stream);
    return good;
}

static void fail(const char *what, const string &data) {
    printf("%s:", what);
    for (unsigned char byte : data)
        printf(" %02x", byte);
    printf("\n");
    exit(1);
}

int main(int, char **arguments) {
    double seconds = atof(arguments[1]);
    rng.seed(strtoull(arguments[2], nullptr, 10));
    auto start = std::chrono::steady_clock::now();
    size_t tried = 0, accepted = 0, broken = 0;
    while (std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count() < seconds) {
        const unsigned bits = 8 + below(8);
        const string whole = one_in(2) ? made_by_zlib(bits) : random_stream(1u << bits);
        for (unsigned round = 0; round < 8; round++) {
            const string data = round ? mutated(whole) : whole;
            string expected;
            const bool good = zlib_says(data, bits, expected);
            size_t room = round % 2 ? below(2000) : expected.size() + 1 + fastws::STEP_MOST + below(100);
            std::unique_ptr<uint8_t[]> input(new uint8_t[data.size() + fastws::READ_MORE]);
            std::unique_ptr<uint8_t[]> output(new uint8_t[room]);
            for (size_t i = 0; i < fastws::READ_MORE; i++)
                input[data.size() + i] = uint8_t(rng());
            memcpy(input.get(), data.data(), data.size());
            ptrdiff_t size = fastws::inflate_small(input.get(), data.size(), output.get(), room, size_t(1) << bits);
            tried++;
            broken += !good;
            if (size != fastws::REFUSED) {
                accepted++;
                if (!good)
                    fail("zlib refuses", data);
                if (size_t(size) != expected.size() || memcmp(output.get(), expected.data(), expected.size()) != 0)
                    fail("the results differ", data);
            } else if (round == 0 && good)
                fail("refused", data);
        }
    }
    printf("%zu messages, %zu of them broken, %zu accepted: all as zlib has it\n", tried, broken, accepted);
}
