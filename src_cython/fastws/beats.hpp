/* Which line's heartbeat is due next. Belongs to one thread. Looking costs nothing that grows with the lines; adding, moving
   and removing one costs the logarithm of their number, and moving takes no memory. */

#pragma once

#include <cstdint>
#include <new>
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

    /* Add a line, or move it. False if there is no memory to add it. */
    bool set(Line *line, int64_t due_ns) {
        auto node = due_.extract({line->beat_due_ns, line});
        if (node) {
            node.value().first = due_ns;
            due_.insert(std::move(node));
        } else {
            try {
                due_.emplace(due_ns, line);
            } catch (const std::bad_alloc &) {
                return false;
            }
        }
        line->beat_due_ns = due_ns;
        return true;
    }

    void remove(Line *line) {
        due_.erase({line->beat_due_ns, line});
        line->beat_due_ns = 0;
    }

  private:
    std::set<std::pair<int64_t, Line *>> due_;
};

}  // namespace fastws
