/* Values at JSON Pointers, for many pointers in one pass over a message, where it lies.

   simdjson's first stage (chosen at run time for the processor) finds the structure: where tokens begin, that strings
   are closed and all is UTF-8. One walk over these tokens then follows only the names that some pointer needs; the rest
   is skipped by counting brackets. So whatever is wrong in what is followed is found, and elsewhere what is
   unbalanced; nothing is read behind the message, and there is no parser state that could outlive an error. */
#ifndef FASTWS_JSON_FIELDS_HPP
#define FASTWS_JSON_FIELDS_HPP

#include <array>
#include <cstdint>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "simdjson.h"

namespace fastws {

struct Value {
    enum Kind : uint8_t { NONE, STRING, NUMBER, WORD };
    const char *data = nullptr;
    uint32_t length = 0;
    Kind kind = NONE;
};

/* RFC 8259 6; `integer` tells whether it has digits only, but for a minus. */
inline bool is_number(const char *p, const char *end, bool *integer) {
    auto digit = [](char c) { return c >= '0' && c <= '9'; };
    *integer = true;
    if (p < end && *p == '-') p++;
    if (p == end || !digit(*p)) return false;
    if (*p == '0') p++;
    else while (p < end && digit(*p)) p++;
    if (p < end && *p == '.') {
        *integer = false;
        if (++p == end || !digit(*p)) return false;
        while (p < end && digit(*p)) p++;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        *integer = false;
        if (++p < end && (*p == '+' || *p == '-')) p++;
        if (p == end || !digit(*p)) return false;
        while (p < end && digit(*p)) p++;
    }
    return p == end;
}

/* An integer of int64_t: a JSON number without fraction, or a string of digits. */
inline bool to_integer(const Value &value, int64_t *result) {
    const char *p = value.data, *end = p + value.length;
    bool negative = false;
    if (value.kind == Value::NUMBER) {
        if (*p == '-') { negative = true; p++; }
    } else if (value.kind != Value::STRING) return false;
    if (p == end || end - p > 19) return false;
    uint64_t number = 0;
    for (; p < end; p++) {
        if (*p < '0' || *p > '9') return false;
        number = number * 10 + static_cast<uint64_t>(*p - '0');
    }
    if (number > static_cast<uint64_t>(INT64_MAX) + negative) return false;
    *result = static_cast<int64_t>(negative ? 0 - number : number);
    return true;
}

/* A time as a number, or a string of digits, with or without a fraction; in nanoseconds, rounded down. */
inline bool to_time(const Value &value, int64_t unit_ns, int64_t *result) {
    if (value.kind != Value::NUMBER && value.kind != Value::STRING) return false;
    const char *p = value.data, *end = p + value.length;
    uint64_t whole = 0, fraction = 0;
    if (p == end) return false;
    for (; p < end && *p != '.'; p++) {
        if (*p < '0' || *p > '9' || whole > INT64_MAX / 10) return false;
        whole = whole * 10 + static_cast<uint64_t>(*p - '0');
    }
    if (p == value.data) return false;
    if (p < end) {
        if (++p == end) return false;
        uint64_t scale = static_cast<uint64_t>(unit_ns);
        for (; p < end; p++) {
            if (*p < '0' || *p > '9') return false;
            scale /= 10;
            fraction += scale * static_cast<uint64_t>(*p - '0');
        }
    }
    if (whole > (INT64_MAX - fraction) / static_cast<uint64_t>(unit_ns)) return false;
    *result = static_cast<int64_t>(whole * static_cast<uint64_t>(unit_ns) + fraction);
    return true;
}

class Fields {
    static constexpr int DEPTH_MAX = 32;

    struct Child {
        uint64_t prefix;                // its name's first bytes, zeros behind
        size_t length;
        int node;
    };

    struct Node {
        std::string name;
        int64_t index = -1;             // name as an array index, RFC 6901 4
        int value = -1;                 // into values; -1: only on the way to others
        uint64_t seen = 0;              // the message in which its name was met: of equal names, the first counts
        std::vector<Child> children;
    };

    struct Stage1 {
        std::unique_ptr<simdjson::internal::dom_parser_implementation> parser;
        size_t capacity = 0;
        bool run(const uint8_t *data, size_t length, bool *starved) {
            if (length > capacity) {
                size_t wanted = length < 4096 ? 4096 : length + length / 2;
                if (wanted > simdjson::SIMDJSON_MAXSIZE_BYTES) wanted = length;
                if (!parser) {
                    if (simdjson::get_active_implementation()->create_dom_parser_implementation(wanted, 1, parser)) {
                        parser.reset();
                        *starved = true;
                        return false;
                    }
                } else if (parser->allocate(wanted, 1)) {
                    parser.reset();
                    capacity = 0;
                    *starved = true;
                    return false;
                }
                capacity = wanted;
            }
            bool good = !parser->stage1(data, length, simdjson::stage1_mode::regular);
            return good;
        }
    };

    /* One for each thread, as it is as large as the largest message four times over. */
    static Stage1 &stage1() {
        static thread_local Stage1 stage;
        return stage;
    }

    std::vector<Node> nodes_{Node{}};
    std::vector<Value> values_;
    std::vector<std::string> arena_;    // for each value, where a string with escapes is without them
    const char *data_ = nullptr;
    const uint32_t *tokens_ = nullptr;
    size_t count_ = 0, length_ = 0;
    uint64_t message_ = 0;
    bool escapes_ = false;

    char at(size_t token) const { return data_[tokens_[token]]; }

    /* What a value may begin with, unless it is an object or an array. */
    static bool begins_scalar(char c) {
        static const std::array<bool, 256> table = [] {
            std::array<bool, 256> made{};
            for (char first : {'"', '-', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 't', 'f', 'n'})
                made[static_cast<uint8_t>(first)] = true;
            return made;
        }();
        return table[static_cast<uint8_t>(c)];
    }

    static bool space(char c) { return c == ' ' || c == '\n' || c == '\r' || c == '\t'; }

    /* Where the token ends, without the white space behind it. */
    size_t end_of(size_t token) const {
        size_t end = token + 1 < count_ ? tokens_[token + 1] : length_;
        while (end > tokens_[token] + 1 && space(data_[end - 1])) end--;
        return end;
    }

    static int hex(const char *p, const char *end) {
        if (end - p < 4) return -1;
        int code = 0;
        for (int i = 0; i < 4; i++) {
            char c = p[i];
            int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10
                : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
            if (digit < 0) return -1;
            code = code * 16 + digit;
        }
        return code;
    }

    /* 1: done; 0: a lone surrogate, which UTF-8 can't say; -1: not JSON. */
    static int unescape(const char *p, const char *end, std::string &out) {
        int result = 1;
        out.clear();
        while (p < end) {
            if (*p != '\\') { out.push_back(*p++); continue; }
            if (++p == end) return -1;
            char c = *p++;
            switch (c) {
                case '"': case '\\': case '/': out.push_back(c); break;
                case 'b': out.push_back('\b'); break;
                case 'f': out.push_back('\f'); break;
                case 'n': out.push_back('\n'); break;
                case 'r': out.push_back('\r'); break;
                case 't': out.push_back('\t'); break;
                case 'u': {
                    int code = hex(p, end);
                    if (code < 0) return -1;
                    p += 4;
                    if (code >= 0xD800 && code < 0xDC00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u') {
                        int low = hex(p + 2, end);
                        if (low < 0) return -1;
                        if (low >= 0xDC00 && low < 0xE000) {
                            code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
                            p += 6;
                        }
                    }
                    if (code >= 0xD800 && code < 0xE000) { result = 0; break; }
                    if (code < 0x80) out.push_back(static_cast<char>(code));
                    else if (code < 0x800) {
                        out.push_back(static_cast<char>(0xC0 | code >> 6));
                        out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
                    } else if (code < 0x10000) {
                        out.push_back(static_cast<char>(0xE0 | code >> 12));
                        out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
                        out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
                    } else {
                        out.push_back(static_cast<char>(0xF0 | code >> 18));
                        out.push_back(static_cast<char>(0x80 | (code >> 12 & 0x3F)));
                        out.push_back(static_cast<char>(0x80 | (code >> 6 & 0x3F)));
                        out.push_back(static_cast<char>(0x80 | (code & 0x3F)));
                    }
                    break;
                }
                default: return -1;
            }
        }
        return result;
    }

    static uint64_t prefix_of(const std::string &name) {
        uint64_t prefix = 0;
        std::memcpy(&prefix, name.data(), name.size() < 8 ? name.size() : 8);
        return prefix;
    }

    /* The same of a name in the message, behind which more can be read. */
    static uint64_t prefix_at(const char *name, size_t length) {
        static constexpr auto masks = [] {
            std::array<std::array<uint8_t, 8>, 9> made{};
            for (size_t size = 0; size < 9; size++)
                for (size_t i = 0; i < size; i++) made[size][i] = 0xFF;
            return made;
        }();
        uint64_t prefix, mask;
        std::memcpy(&prefix, name, 8);
        std::memcpy(&mask, masks[length < 8 ? length : 8].data(), 8);
        return prefix & mask;
    }

    int child_named(int node, const char *name, size_t length, uint64_t prefix) const {
        for (const Child &child : nodes_[static_cast<size_t>(node)].children) {
            if (child.prefix == prefix && child.length == length
                && (length <= 8 || !std::memcmp(nodes_[static_cast<size_t>(child.node)].name.data(), name, length)))
                return child.node;
        }
        return -1;
    }

    int child_named(int node, const std::string &name) const {
        return child_named(node, name.data(), name.size(), prefix_of(name));
    }

    bool scalar(size_t token, int node) {
        char first = at(token);
        size_t begin = tokens_[token];
        if (!begins_scalar(first)) return false;
        if (node < 0 || nodes_[node].value < 0) return true;
        Value &value = values_[nodes_[node].value];
        size_t end = end_of(token);
        const char *p = data_ + begin, *stop = data_ + end;
        if (first == '"') {
            if (end - begin < 2 || stop[-1] != '"') return false;
            p++;
            stop--;
            if (escapes_ && std::memchr(p, '\\', static_cast<size_t>(stop - p))) {
                std::string &text = arena_[static_cast<size_t>(nodes_[node].value)];
                int result = unescape(p, stop, text);
                if (result < 0) return false;
                if (result == 0) return true;
                value = {text.data(), static_cast<uint32_t>(text.size()), Value::STRING};
                return true;
            }
            value = {p, static_cast<uint32_t>(stop - p), Value::STRING};
            return true;
        }
        size_t size = end - begin;
        bool integer;
        if (first == 't' || first == 'f') {
            if (!(size == 4 && !std::memcmp(p, "true", 4)) && !(size == 5 && !std::memcmp(p, "false", 5))) return false;
            value = {p, static_cast<uint32_t>(size), Value::WORD};
        } else if (first == 'n') {
            if (size != 4 || std::memcmp(p, "null", 4)) return false;
        } else {
            if (!is_number(p, stop, &integer)) return false;
            value = {p, static_cast<uint32_t>(size), Value::NUMBER};
        }
        return true;
    }

    /* An object or an array; false if there is none, or no end of it. */
    bool skip(size_t &token) {
        if (at(token) != '{' && at(token) != '[') return false;
        int64_t braces = 0, brackets = 0;
        do {
            switch (at(token)) {
                case '{': braces++; break;
                case '}': braces--; break;
                case '[': brackets++; break;
                case ']': brackets--; break;
                default: break;
            }
            token++;
            if (braces < 0 || brackets < 0) return false;
        } while (token < count_ && (braces || brackets));
        return !braces && !brackets;
    }

    /* The child that the name at a token means; -1: none; -2: it isn't a name with its colon. */
    int named(size_t token, int node) const {
        if (token + 1 >= count_ || at(token) != '"' || at(token + 1) != ':') return -2;
        const char *name = data_ + tokens_[token] + 1;
        const char *end = data_ + tokens_[token + 1];
        if (end[-1] != '"') end = data_ + end_of(token);
        if (end <= name || end[-1] != '"') return -2;
        size_t size = static_cast<size_t>(end - 1 - name);
        if (!escapes_ || !std::memchr(name, '\\', size)) return child_named(node, name, size, prefix_at(name, size));
        std::string text;
        int result = unescape(name, name + size, text);
        if (result < 0) return -2;
        return result > 0 ? child_named(node, text) : -1;
    }

    /* Recursion goes as deep as the longest pointer. */
    bool walk(size_t &token, int node) {
        if (token >= count_) return false;
        char first = at(token);
        if (first != '{' && first != '[') return scalar(token++, node);
        if (nodes_[static_cast<size_t>(node)].children.empty()) return skip(token);
        bool object = first == '{';
        char close = object ? '}' : ']';
        token++;
        if (token < count_ && at(token) == close) { token++; return true; }
        for (int64_t index = 0;; index++) {
            int child = -1;
            if (object) {
                child = named(token, node);
                if (child == -2) return false;
                token += 2;
            } else {
                for (const Child &candidate : nodes_[static_cast<size_t>(node)].children)
                    if (nodes_[static_cast<size_t>(candidate.node)].index == index) child = candidate.node;
            }
            if (child >= 0) {
                uint64_t &seen = nodes_[static_cast<size_t>(child)].seen;
                if (seen == message_) child = -1;
                else seen = message_;
            }
            if (token >= count_) return false;
            if (child >= 0) {
                if (!walk(token, child)) return false;
            } else if (begins_scalar(at(token))) token++;
            else if (!skip(token)) return false;
            if (token >= count_) return false;
            char next = at(token++);
            if (next == close) return true;
            if (next != ',') return false;
        }
    }

public:
    /* Index of the value at a pointer (RFC 6901); -1: it isn't one. The same pointer twice is the same value. */
    int add(const char *pointer, size_t length) {
        if (length == 0 || pointer[0] != '/') return -1;
        int node = 0, depth = 0;
        size_t i = 0;
        while (i < length) {
            std::string part;
            for (i++; i < length && pointer[i] != '/'; i++) {
                if (pointer[i] != '~') { part.push_back(pointer[i]); continue; }
                if (++i == length || (pointer[i] != '0' && pointer[i] != '1')) return -1;
                part.push_back(pointer[i] == '0' ? '~' : '/');
            }
            if (++depth > DEPTH_MAX) return -1;
            int child = child_named(node, part);
            if (child < 0) {
                child = static_cast<int>(nodes_.size());
                Node made;
                made.name = part;
                bool digits = !part.empty() && part.size() < 10 && (part.size() == 1 || part[0] != '0');
                for (char c : part) digits = digits && c >= '0' && c <= '9';
                if (digits) made.index = std::stoll(part);
                nodes_.push_back(made);
                nodes_[static_cast<size_t>(node)].children.push_back({prefix_of(part), part.size(), child});
            }
            node = child;
        }
        Node &last = nodes_[static_cast<size_t>(node)];
        if (last.value < 0) {
            last.value = static_cast<int>(values_.size());
            values_.emplace_back();
        }
        return last.value;
    }

    bool empty() const { return values_.empty(); }

    /* Take all values from a message; false (and all NONE) if it isn't JSON. They hold until the next call. Sets
       ``starved`` if there is no memory to say so. */
    bool evaluate(const uint8_t *data, size_t length, bool *starved) noexcept {
        for (Value &value : values_) value.kind = Value::NONE;
        if (length == 0) return false;
        bool good = false;
        try {
            Stage1 &stage = stage1();
            if (!stage.run(data, length, starved)) return false;
            data_ = reinterpret_cast<const char *>(data);
            length_ = length;
            tokens_ = stage.parser->structural_indexes.get();
            count_ = stage.parser->n_structural_indexes;
            escapes_ = std::memchr(data, '\\', length) != nullptr;
            if (escapes_ && arena_.size() < values_.size()) arena_.resize(values_.size());
            message_++;
            size_t token = 0;
            good = walk(token, 0) && token == count_;
        } catch (const std::bad_alloc &) {
            *starved = true;
            good = false;
        }
        if (!good) for (Value &value : values_) value.kind = Value::NONE;
        return good;
    }

    const Value &value(int index) const { return values_[static_cast<size_t>(index)]; }
};

}  // namespace fastws

#endif
