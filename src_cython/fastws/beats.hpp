/* Which line's heartbeat is due next: a binary heap, whose places the lines know. Belongs to one thread.

   Looking costs nothing that grows with the lines; adding, moving and removing one costs the logarithm of their number. */

#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "line.hpp"

namespace fastws {

class Beats {
  public:
    bool empty() const { return heap_.empty(); }

    /* The one that is due next; there must be one. */
    Line *next() const { return heap_[0]; }

    bool has(const Line *line) const { return line->beat_place != Line::NOWHERE; }

    /* Add a line, or move it. */
    void set(Line *line, int64_t due_ns) {
        line->beat_due_ns = due_ns;
        if (!has(line)) {
            line->beat_place = heap_.size();
            heap_.push_back(line);
        }
        sink(rise(line->beat_place));
    }

    void remove(Line *line) {
        if (!has(line)) return;
        size_t place = line->beat_place;
        Line *last = heap_.back();
        heap_.pop_back();
        line->beat_place = Line::NOWHERE;
        if (last == line) return;
        put(last, place);
        sink(rise(place));
    }

  private:
    void put(Line *line, size_t place) {
        heap_[place] = line;
        line->beat_place = place;
    }

    bool is_before(size_t a, size_t b) const { return heap_[a]->beat_due_ns < heap_[b]->beat_due_ns; }

    void swap(size_t a, size_t b) {
        Line *line = heap_[a];
        put(heap_[b], a);
        put(line, b);
    }

    size_t rise(size_t place) {
        while (place && is_before(place, (place - 1) / 2)) {
            swap(place, (place - 1) / 2);
            place = (place - 1) / 2;
        }
        return place;
    }

    void sink(size_t place) {
        for (;;) {
            size_t child = 2 * place + 1;
            if (child + 1 < heap_.size() && is_before(child + 1, child)) child++;
            if (child >= heap_.size() || !is_before(child, place)) return;
            swap(place, child);
            place = child;
        }
    }

    std::vector<Line *> heap_;
};

}  // namespace fastws
