/* Messages that a consumer has taken out of the queue of a pump in one visit, and hands out one by one. */

#pragma once

#include <atomic>
#include <cstdint>

struct fastws_record;

namespace fastws {

/* What a consumer has taken out of the queue and not got to. Only the consumer writes; looking is approximate while it
   works, and exact once it has stopped, which is when it matters. */
class Held {
  public:
    uint64_t messages() const { return messages_.load(std::memory_order_relaxed); }
    uint64_t bytes() const { return bytes_.load(std::memory_order_relaxed); }

    void set(uint64_t messages, uint64_t bytes) {
        messages_.store(messages, std::memory_order_relaxed);
        bytes_.store(bytes, std::memory_order_relaxed);
    }

    /* Whether the pump has stopped at a limit: for a glance without the latch. The pump also reports it, and whoever gets
       the report looks again: a consumer that looked too early misses nothing. */
    bool stopped() const { return stopped_.load(std::memory_order_relaxed); }
    void stop(bool value) { stopped_.store(value, std::memory_order_relaxed); }

  private:
    std::atomic<uint64_t> messages_{0}, bytes_{0};
    std::atomic<bool> stopped_{false};
};

/* Those at [at, end) are still to be handed out. All of it is the consumer's own, but for ``held``. */
struct Run {
    fastws_record *records = nullptr;   /* room, or in the ring */
    fastws_record *room = nullptr;
    fastws_record *ring = nullptr;      /* that the queue has given away, or NULL */
    uint64_t at = 0, end = 0;
    uint64_t bytes = 0;                 /* of payload */
    bool is_low = false;                /* the queue may be at its low-water marks before this is at its end */
    uint32_t spent = 0;                 /* messages whose references to one segment weren't given back */
    void *spent_segment = nullptr;
    Held held;
};

}  // namespace fastws
