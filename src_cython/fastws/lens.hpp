/* What a message says of itself: its keys, its numbers, its time, and whether it wants an answer. */
#ifndef FASTWS_LENS_HPP
#define FASTWS_LENS_HPP

#include <algorithm>
#include <deque>
#include <string>
#include <utility>
#include <vector>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

#include "json_fields.hpp"
#include "key_space.hpp"

namespace fastws {

/* Finds bytes in messages, behind which 64 bytes can be read. Two of the bytes are looked for, 16 places at a time:
   letters and digits where there are any, as quotes and colons stand everywhere in JSON. */
class Finder {
    std::string wanted_;
    size_t first_ = 0, second_ = 0;     // which bytes

    static bool rare(char c) {
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z');
    }

public:
    explicit Finder(const std::string &wanted = std::string()) : wanted_(wanted) {
        size_t size = wanted_.size();
        while (first_ < size && !rare(wanted_[first_])) first_++;
        if (first_ == size) first_ = 0;
        second_ = first_ + 1;
        while (second_ < size && !rare(wanted_[second_])) second_++;
        if (second_ >= size && size) second_ = first_ == size - 1 ? 0 : size - 1;
    }

    size_t size() const { return wanted_.size(); }

    const char *find(const char *text, size_t length) const {
        size_t size = wanted_.size();
        if (length < size) return nullptr;
        if (size == 1) return static_cast<const char *>(std::memchr(text, wanted_[0], length));
        const char *last = text + (length - size);
#if defined(__SSE2__) && defined(__GNUC__)
        const __m128i first = _mm_set1_epi8(wanted_[first_]), second = _mm_set1_epi8(wanted_[second_]);
        for (const char *p = text; p <= last; p += 16) {
            __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p + first_));
            __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i *>(p + second_));
            __m128i both = _mm_and_si128(_mm_cmpeq_epi8(a, first), _mm_cmpeq_epi8(b, second));
            for (unsigned mask = static_cast<unsigned>(_mm_movemask_epi8(both)); mask; mask &= mask - 1) {
                const char *found = p + __builtin_ctz(mask);
                if (found > last) return nullptr;
                if (!std::memcmp(found, wanted_.data(), size)) return found;
            }
        }
        return nullptr;
#else
        const char *found = std::search(text, text + length, wanted_.begin(), wanted_.end());
        return found == text + length ? nullptr : found;
#endif
    }
};

class Lens {
    struct Source {                     // where a key is, and the keys found there
        enum Kind : uint8_t { POINTERS, BETWEEN, CALLABLE } kind;
        std::vector<int> values;
        Finder before, after;
        KeySpace keys;
        uint32_t current = NO_KEY;      // of the message looked at
        Source(Kind kind, size_t keys_max, size_t bytes_max) : kind(kind), keys(keys_max, bytes_max) {}
    };

    using Condition = std::vector<std::pair<int, std::string>>;    // values and what they must be; all of them

    struct Answer {
        Condition when;
        std::string literal;            // the whole message, where there is no condition
        bool tell, deliver;             // the control plane; to the consumer
    };

    struct Rule {
        std::string pattern;
        int16_t policy;
    };

    Fields fields_;
    std::deque<Source> sources_;        // a deque, as they must not move
    std::vector<Answer> answers_;
    Condition restart_;
    std::vector<Rule> rules_;
    std::string joined_;
    const uint8_t *data_ = nullptr;     // of the message looked at
    size_t length_ = 0;
    size_t keys_max_, bytes_max_;
    char separator_;
    bool starved_ = false;              // there was no memory to look at the message

    uint32_t found(Source &source, const char *data, size_t length) noexcept {
        return source.keys.find(data, length, true, &starved_);
    }

    void take(Source &source, const uint8_t *data, size_t length) noexcept {
        const char *text = reinterpret_cast<const char *>(data);
        if (source.kind == Source::BETWEEN) {
            source.current = NO_KEY;
            const char *begin = source.before.find(text, length);
            if (!begin) return;
            begin += source.before.size();
            size_t rest = static_cast<size_t>(text + length - begin);
            const char *end = source.after.find(begin, rest);
            if (end) source.current = found(source, begin, static_cast<size_t>(end - begin));
        } else if (source.kind == Source::POINTERS) {
            source.current = NO_KEY;
            if (source.values.size() == 1) {
                const Value &value = fields_.value(source.values[0]);
                if (value.kind != Value::NONE) source.current = found(source, value.data, value.length);
                return;
            }
            joined_.clear();
            bool first = true;
            for (int index : source.values) {
                const Value &value = fields_.value(index);
                if (value.kind == Value::NONE) return;
                try {
                    if (!first) joined_.push_back(separator_);
                    joined_.append(value.data, value.length);
                } catch (const std::bad_alloc &) {
                    starved_ = true;
                    return;
                }
                first = false;
            }
            source.current = found(source, joined_.data(), joined_.size());
        }
    }

    bool holds(const Condition &condition) const noexcept {
        for (const auto &part : condition) {
            const Value &value = fields_.value(part.first);
            if (value.kind == Value::NONE || value.length != part.second.size()
                || std::memcmp(value.data, part.second.data(), value.length)) return false;
        }
        return true;
    }

public:
    Lens(size_t keys_max, size_t bytes_max, char separator)
        : keys_max_(keys_max), bytes_max_(bytes_max), separator_(separator) {}

    int add_pointer(const char *pointer, size_t length) { return fields_.add(pointer, length); }

    int add_pointers(const std::vector<int> &values) {
        sources_.emplace_back(Source::POINTERS, keys_max_, bytes_max_);
        sources_.back().values = values;
        return static_cast<int>(sources_.size()) - 1;
    }

    int add_between(const std::string &before, const std::string &after) {
        sources_.emplace_back(Source::BETWEEN, keys_max_, bytes_max_);
        sources_.back().before = Finder(before);
        sources_.back().after = Finder(after);
        return static_cast<int>(sources_.size()) - 1;
    }

    int add_callable() {
        sources_.emplace_back(Source::CALLABLE, keys_max_, bytes_max_);
        return static_cast<int>(sources_.size()) - 1;
    }

    void add_answer(bool tell, bool deliver, const std::string &literal) {
        answers_.push_back({{}, literal, tell, deliver});
    }
    void add_condition(int value, const std::string &text) { answers_.back().when.emplace_back(value, text); }
    void add_restart(int value, const std::string &text) { restart_.emplace_back(value, text); }
    void add_rule(const std::string &pattern, int16_t policy) { rules_.push_back({pattern, policy}); }

    /* Of a callable: the key of the message that is looked at next; null is none. */
    void give(int source, const char *data, size_t length) noexcept {
        Source &to = sources_[static_cast<size_t>(source)];
        to.current = data ? found(to, data, length) : NO_KEY;
    }

    /* False if there was no memory for it: then the message isn't what it seems, and must not be treated as if it had no
       key. */
    bool look(const uint8_t *data, size_t length) noexcept {
        data_ = data;
        length_ = length;
        if (!fields_.empty()) fields_.evaluate(data, length, &starved_);
        for (Source &source : sources_) take(source, data, length);
        bool good = !starved_;
        starved_ = false;
        return good;
    }

    uint32_t key(int source) const noexcept { return sources_[static_cast<size_t>(source)].current; }
    KeySpace *keys(int source) noexcept { return &sources_[static_cast<size_t>(source)].keys; }

    bool integer(int value, int64_t *result) const noexcept { return to_integer(fields_.value(value), result); }
    bool time(int value, int64_t unit_ns, int64_t *result) const noexcept {
        return to_time(fields_.value(value), unit_ns, result);
    }

    /* Index of the first answer that the message calls for; -1: none. */
    int answer() const noexcept {
        for (size_t i = 0; i < answers_.size(); i++) {
            const Answer &answer = answers_[i];
            bool called = answer.when.empty()
                ? length_ == answer.literal.size() && !std::memcmp(data_, answer.literal.data(), length_)
                : holds(answer.when);
            if (called) return static_cast<int>(i);
        }
        return -1;
    }
    bool tells(int answer) const noexcept { return answers_[static_cast<size_t>(answer)].tell; }
    bool delivers(int answer) const noexcept { return answers_[static_cast<size_t>(answer)].deliver; }

    /* Inspect: whether the message begins anew. */
    bool restarts() const noexcept { return !restart_.empty() && holds(restart_); }

    /* The policy that the rules say for a key of `source`; remembered with the key. */
    int route(int source, uint32_t key, int16_t otherwise) noexcept {
        if (key == NO_KEY) return otherwise;
        KeySpace &keys = sources_[static_cast<size_t>(source)].keys;
        KeyEntry *entry = keys.entry(key);
        if (entry->policy < 0) {
            entry->policy = otherwise;
            for (const Rule &rule : rules_) {
                bool same = rule.pattern.size() == entry->length
                    && !std::memcmp(rule.pattern.data(), keys.text(key), entry->length);
                if (same || Glob::match(rule.pattern.data(), rule.pattern.size(), keys.text(key), entry->length)) {
                    entry->policy = rule.policy;
                    break;
                }
            }
        }
        return entry->policy;
    }
};

}  // namespace fastws

#endif
