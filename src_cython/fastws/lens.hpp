/* What a message says of itself: its keys, its numbers, its time, and whether it wants an answer. */
#ifndef FASTWS_LENS_HPP
#define FASTWS_LENS_HPP

#include <algorithm>
#include <deque>
#include <string>
#include <utility>
#include <vector>

#include "json_fields.hpp"
#include "key_space.hpp"

namespace fastws {

/* memmem is POSIX since 2024 only. */
inline const char *find_bytes(const char *text, size_t length, const std::string &wanted) {
#ifdef _WIN32
    const char *found = std::search(text, text + length, wanted.begin(), wanted.end());
    return found == text + length ? nullptr : found;
#else
    return static_cast<const char *>(memmem(text, length, wanted.data(), wanted.size()));
#endif
}

class Lens {
    struct Source {                     // where a key is, and the keys found there
        enum Kind : uint8_t { POINTERS, BETWEEN, CALLABLE } kind;
        std::vector<int> values;
        std::string before, after;
        KeySpace keys;
        uint32_t current = NO_KEY;      // of the message looked at
        Source(Kind kind, size_t keys_max, size_t bytes_max) : kind(kind), keys(keys_max, bytes_max) {}
    };

    struct Answer {
        std::vector<std::pair<int, std::string>> when;
        bool deliver;
    };

    struct Rule {
        std::string pattern;
        int16_t policy;
    };

    Fields fields_;
    std::deque<Source> sources_;        // a deque, as they must not move
    std::vector<Answer> answers_;
    std::vector<Rule> rules_;
    std::string joined_;
    size_t keys_max_, bytes_max_;
    char separator_;

    void take(Source &source, const uint8_t *data, size_t length) noexcept {
        const char *text = reinterpret_cast<const char *>(data);
        if (source.kind == Source::BETWEEN) {
            source.current = NO_KEY;
            const char *begin = find_bytes(text, length, source.before);
            if (!begin) return;
            begin += source.before.size();
            size_t rest = static_cast<size_t>(text + length - begin);
            const char *end = source.after.size() == 1
                ? static_cast<const char *>(std::memchr(begin, source.after[0], rest))
                : find_bytes(begin, rest, source.after);
            if (end) source.current = source.keys.find(begin, static_cast<size_t>(end - begin), true);
        } else if (source.kind == Source::POINTERS) {
            source.current = NO_KEY;
            if (source.values.size() == 1) {
                const Value &value = fields_.value(source.values[0]);
                if (value.kind != Value::NONE) source.current = source.keys.find(value.data, value.length, true);
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
                    return;
                }
                first = false;
            }
            source.current = source.keys.find(joined_.data(), joined_.size(), true);
        }
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
        sources_.back().before = before;
        sources_.back().after = after;
        return static_cast<int>(sources_.size()) - 1;
    }

    int add_callable() {
        sources_.emplace_back(Source::CALLABLE, keys_max_, bytes_max_);
        return static_cast<int>(sources_.size()) - 1;
    }

    void add_answer(bool deliver) { answers_.push_back({{}, deliver}); }
    void add_condition(int value, const std::string &text) { answers_.back().when.emplace_back(value, text); }
    void add_rule(const std::string &pattern, int16_t policy) { rules_.push_back({pattern, policy}); }

    /* Of a callable: the key of the message that is looked at next; null is none. */
    void give(int source, const char *data, size_t length) noexcept {
        Source &to = sources_[static_cast<size_t>(source)];
        to.current = data ? to.keys.find(data, length, true) : NO_KEY;
    }

    void look(const uint8_t *data, size_t length) noexcept {
        if (!fields_.empty()) fields_.evaluate(data, length);
        for (Source &source : sources_) take(source, data, length);
    }

    uint32_t key(int source) const noexcept { return sources_[static_cast<size_t>(source)].current; }
    KeySpace *keys(int source) noexcept { return &sources_[static_cast<size_t>(source)].keys; }

    bool integer(int value, int64_t *result) const noexcept { return to_integer(fields_.value(value), result); }
    bool time(int value, int64_t unit_ns, int64_t *result) const noexcept {
        return to_time(fields_.value(value), unit_ns, result);
    }

    /* Index of the first answer whose conditions all hold; -1: none. */
    int answer() const noexcept {
        for (size_t i = 0; i < answers_.size(); i++) {
            bool all = true;
            for (const auto &condition : answers_[i].when) {
                const Value &value = fields_.value(condition.first);
                all = all && value.kind != Value::NONE && value.length == condition.second.size()
                    && !std::memcmp(value.data, condition.second.data(), value.length);
            }
            if (all) return static_cast<int>(i);
        }
        return -1;
    }
    bool delivers(int answer) const noexcept { return answers_[static_cast<size_t>(answer)].deliver; }

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
