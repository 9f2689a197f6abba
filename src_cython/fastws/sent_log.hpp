/* Which messages a pump has sent of its own, for whoever logs them: by their numbers, of which it keeps so many. */

#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>
#include <vector>

namespace fastws {

class SentLog {
  public:
    void add(int number) {
        if (numbers_.size() < NUMBERS_MAX) {
            try {
                numbers_.push_back(number);
                return;
            } catch (const std::bad_alloc &) {
            }
        }
        more_++;
    }

    void add(const SentLog &other) {
        for (int number : other.numbers_) add(number);
        more_ += other.more_;
    }

    void swap(SentLog &other) {
        numbers_.swap(other.numbers_);
        std::swap(more_, other.more_);
    }

    void clear() {
        numbers_.clear();
        more_ = 0;
    }

    bool empty() const { return numbers_.empty() && !more_; }
    size_t size() const { return numbers_.size(); }
    int number(size_t index) const { return numbers_[index]; }

    /* How many came when there were too many of them. */
    uint64_t more() const { return more_; }

  private:
    static constexpr size_t NUMBERS_MAX = 4096;

    std::vector<int> numbers_;
    uint64_t more_ = 0;
};

}  // namespace fastws
