"""Early warning: thresholds, the episodes in which a consumer is beyond them, and who looks."""

from __future__ import annotations

import asyncio
import time
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, Protocol, TypeAlias

from .stats import Stats

__all__ = ["Crossing", "Episode", "Monitor", "PauseClock", "Threshold", "advice"]

What: TypeAlias = Literal["messages", "bytes", "age"]

TICK_S = 0.05
"""Seconds between two looks of the monitor."""


@dataclass(frozen=True, slots=True)
class Threshold:
    """When a consumer counts as slow: as soon as one of the high marks is reached.

    It counts as slow, and one `SlowConsumer` event is enough, until all figures are at their low marks or below, and,
    where messages or bytes count, reading wasn't paused.

    Args:
        messages: High mark of the messages that wait.
        bytes: High mark of the bytes that wait, counted as ``max_queue_bytes`` does.
        age: High mark of the age of the oldest message that waits, in seconds.
        low: Low marks, as a fraction of the high marks, or each by its name: ``{"messages": 100}``.
        min_duration: Seconds for which a high mark must be reached before it counts.

    Raises:
        ValueError: If there is no mark, a mark isn't positive, or a low mark is above its high mark.
    """

    messages: int | None = None
    bytes: int | None = None
    age: float | None = None
    low: float | Mapping[str, float] = 0.5
    min_duration: float = 0.0

    def __post_init__(self) -> None:
        marks = {"messages": self.messages, "bytes": self.bytes, "age": self.age}
        given = {name: mark for name, mark in marks.items() if mark is not None}
        if not given:
            raise ValueError("a threshold needs a mark: messages, bytes or age")
        for name, mark in given.items():
            if not mark > 0:
                raise ValueError(f"{name} is {mark}, must be positive")
        if self.min_duration < 0:
            raise ValueError(f"min_duration is {self.min_duration}, must be positive or zero")
        if isinstance(self.low, Mapping):
            if unknown := self.low.keys() - given.keys():
                raise ValueError(f"low has {sorted(unknown)}, which have no high mark")
            for name, mark in self.low.items():
                if not 0 <= mark <= given[name]:
                    raise ValueError(f"low mark of {name} is {mark}, must be 0 to {given[name]}")
        elif not 0 <= self.low <= 1:
            raise ValueError(f"low is {self.low}, must be a fraction from 0 to 1")

    @property
    def marks(self) -> tuple[tuple[What, float, float], ...]:
        """(what, high mark, low mark) of each figure that counts."""
        names: tuple[What, ...] = ("messages", "bytes", "age")
        marks: list[tuple[What, float, float]] = []
        for name in names:
            high = getattr(self, name)
            if high is not None:
                low = self.low.get(name, high * 0.5) if isinstance(self.low, Mapping) else high * self.low
                marks.append((name, high, low))
        return tuple(marks)


class Crossing(NamedTuple):
    """An episode begins or ends."""

    phase: Literal["started", "cleared"]
    what: What
    value: float
    threshold: float
    lasted_s: float


class Episode:
    """Where one connection stands with one threshold.

    Attributes:
        active: Whether the consumer counts as slow.
    """

    def __init__(self, threshold: Threshold) -> None:
        self._marks = threshold.marks
        self._counts = any(what != "age" for what, _, _ in self._marks)
        self._min_duration = threshold.min_duration
        self._reached_at: float | None = None
        self._what: What = self._marks[0][0]
        self.active = False

    def update(self, now: float, figures: Mapping[str, float], was_full: bool) -> Crossing | None:
        """Look at the figures again.

        Args:
            now: Seconds of a monotonic clock.
            figures: By the names of the marks.
            was_full: Whether reading was paused since the last look: the queue was full in between, however it is now.
        """
        full = was_full and self._counts
        if self.active:
            assert self._reached_at is not None
            if full or any(figures[what] > low for what, _, low in self._marks):
                return None
            self.active = False
            lasted, self._reached_at = now - self._reached_at, None
            low = next(low for what, _, low in self._marks if what == self._what)
            return Crossing("cleared", self._what, figures[self._what], low, lasted)
        for what, high, _ in self._marks:
            if figures[what] >= high:
                if self._reached_at is None:
                    self._reached_at = now
                if now - self._reached_at < self._min_duration:
                    return None
                self.active, self._what = True, what
                return Crossing("started", what, figures[what], high, 0.0)
        if not full:
            self._reached_at = None
        return None


class PauseClock:
    """How long and how often reading was paused as the queue was full."""

    def __init__(self) -> None:
        self._since_ns = 0
        self._total_ns = 0
        self._longest_ns = 0
        self.count = 0

    @property
    def running(self) -> bool:
        """Whether it is paused now."""
        return self._since_ns > 0

    def start(self) -> None:
        """Reading pauses; nothing happens if it is paused already."""
        if not self._since_ns:
            self._since_ns = time.monotonic_ns()
            self.count += 1

    def stop(self) -> None:
        """Reading goes on."""
        if self._since_ns:
            paused_ns = time.monotonic_ns() - self._since_ns
            self._total_ns += paused_ns
            self._longest_ns = max(self._longest_ns, paused_ns)
            self._since_ns = 0

    def read_s(self) -> tuple[float, float]:
        """Seconds of all pauses, and of the longest, up to now."""
        running_ns = time.monotonic_ns() - self._since_ns if self._since_ns else 0
        return (self._total_ns + running_ns) / 1e9, max(self._longest_ns, running_ns) / 1e9


class Watched(Protocol):
    """What a monitor looks at."""

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that it belongs to."""

    def _look(self, now: float) -> bool:
        """Called every `TICK_S`; False if there is nothing to look at any more."""


_Monitors: TypeAlias = "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[Monitor]]"


class Monitor:
    """Looks at the connections of one event loop whose messages wait; without such, it does nothing.

    Attributes:
        lag_s: By how much its timer was late the last time.
        lag_max_s: By how much at most.
    """

    # Connections keep it; a loop's own timer would keep the loop for ever.
    _of: ClassVar[_Monitors] = weakref.WeakKeyDictionary()

    def __init__(self) -> None:
        self._watched: set[Watched] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._late_at = 0.0
        self.lag_s = 0.0
        self.lag_max_s = 0.0

    @classmethod
    def of(cls, loop: asyncio.AbstractEventLoop) -> Monitor:
        """The monitor of a loop: the same as long as somebody keeps it."""
        kept = cls._of.get(loop)
        monitor = None if kept is None else kept()
        if monitor is None:
            monitor = cls()
            cls._of[loop] = weakref.ref(monitor)
        return monitor

    def watch(self, one: Watched) -> None:
        """Look at a connection until it says that there is nothing to see, or `forget`."""
        self._watched.add(one)
        if self._timer is None:
            self._start(one.loop)

    def forget(self, one: Watched) -> None:
        """Don't look at a connection any more."""
        self._watched.discard(one)
        if not self._watched and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def lag_now_s(self) -> float:
        """By how much the loop is late now or was when it was last looked at."""
        overdue = time.monotonic() - self._due if self._timer is not None else 0.0
        return max(overdue, self.lag_s)

    def was_late(self, limit_s: float, within_s: float = 1.0) -> bool:
        """Whether the loop is late by more than ``limit_s``, or was so within the last ``within_s``."""
        now = time.monotonic()
        if self._timer is not None and now - self._due > limit_s:
            return True
        return self.lag_s > limit_s and now - self._late_at < within_s

    def note_late(self, late_s: float) -> None:
        """The loop was seen to be late by ``late_s``."""
        now = time.monotonic()
        # It counts for a second, however punctual the loop is afterwards.
        if late_s >= self.lag_s or now - self._late_at > 1.0:
            self.lag_s, self._late_at = late_s, now
        self.lag_max_s = max(self.lag_max_s, late_s)

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due = time.monotonic() + TICK_S
        self._timer = loop.call_later(TICK_S, self._tick, loop)

    def _tick(self, loop: asyncio.AbstractEventLoop) -> None:
        now = time.monotonic()
        self.note_late(max(0.0, now - self._due))
        for one in list(self._watched):
            try:
                going_on = one._look(now)
            except Exception as exc:
                # The others are still looked at.
                going_on = False
                loop.call_exception_handler({"message": "a look at a connection failed", "exception": exc})
            if not going_on:
                self._watched.discard(one)
        if self._watched:
            self._start(loop)
        else:
            self._timer = None


def advice(stats: Stats) -> str:
    """Say what is slow and what to do, for the log."""
    facts = [
        f"{stats.queued_messages} messages ({stats.queued_bytes:,} bytes) wait, the oldest for {stats.oldest_s:.1f} s"
    ]
    if stats.paused:
        facts.append("reading is paused, so the peer may cut the connection")
    if stats.stalled_by == "loop":
        facts.append(
            f"the event loop was late by {stats.loop_lag_s:.1f} s: "
            "find what blocks it and move that to a thread or process"
        )
    else:
        if stats.processing.count:
            facts.append(f"the consumer takes {stats.processing.p50 * 1000:.3g} ms for a message (median)")
        facts.append(
            "make it faster, receive in batches, subscribe to less (SubscriptionGovernor), "
            "or choose what may be lost (overflow=)"
        )
    return "slow consumer: " + "; ".join(facts)
