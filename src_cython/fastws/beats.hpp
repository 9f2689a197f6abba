/* Which line's heartbeat is due next. Belongs to one thread. Looking costs nothing that grows with the lines; adding, moving
   and removing one costs the logarithm of their number, and moving takes no memory. */

#pragma once

#include <cstdint>
#include <set>
#include <utility>

#include "line.hpp"

namespace fastws {

class Beats {
  public:
    bool empty() const { return due_.empty(); }

    /* The one that is due next; there must be one. */
    Line *next() const { return due_.begin()->second; }

    bool has(const Line *line) const { return line->beat_due_ns != 0; }

    /* Add a line, or move it. */
    void set(Line *line, int64_t due_ns) {
        auto node = due_.extract({line->beat_due_ns, line});
        line->beat_due_ns = due_ns;
        if (node) {
            node.value().first = due_ns;
            due_.insert(std::move(node));
        } else {
            due_.emplace(due_ns, line);
        }
    }

    void remove(Line *line) {
        due_.erase({line->beat_due_ns, line});
        line->beat_due_ns = 0;
    }

  private:
    std::set<std::pair<int64_t, Line *>> due_;
};

}  // namespace fastws
