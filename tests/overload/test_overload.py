"""2,000 messages per second for a consumer of 20: what each policy promises, shown on a connection.

The venue pings and cuts off, buffers are small, a second is overload. In every test each message that the venue sent
is found again: delivered, or counted under a name.
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from fastws import (
    Between,
    Block,
    Closed,
    Conflate,
    Disconnect,
    DropNewest,
    DropOldest,
    Inspect,
    PeerGone,
    Reply,
    Resync,
    ResyncNeeded,
    Route,
    SlowConsumer,
    Threshold,
)

from .consumer import Market, Outcome, consume, consume_apart, market, p99
from .venue import Load

SLACK_S = 0.25
"""By how much a busy machine may be late; without a policy, ages come to 0.95 s."""

KEYS = 270
WARN = Threshold(messages=5, min_duration=0.1)
"""An episode begins early, so that a second is enough to see it."""

POINTER = Conflate("/stream")
BETWEEN = Conflate(Between(b'"stream":"', b'"'))
INSPECT = Inspect("/data/u", "/stream", previous="/data/pu")
ROUTE = Route("/stream", {"*@bookTicker": Conflate(), "*@trade": DropOldest(), "*@depth": Resync()})

GROUP = 5
"""Consumers that await run together, so many in a loop."""

CASES: dict[str, dict[str, Any]] = {
    "unlimited": {},
    "block": {"max_queue": 64},
    "websockets": {"library": "websockets"},
    "picows.websockets": {"library": "picows.websockets"},
    "oldest": {"overflow": DropOldest(), "max_queue": 8},
    "newest": {"overflow": DropNewest(), "max_queue": 4},
    "age": {"overflow": DropOldest(), "max_queue_age": 0.1},
    "pointer": {"overflow": POINTER, "inspect": INSPECT},
    "between": {"overflow": BETWEEN, "inspect": INSPECT},
    "no room": {"overflow": POINTER, "max_queue": 64},
    "no room, newest": {"overflow": Conflate("/stream", otherwise=DropNewest()), "max_queue": 64},
    "resynced": {"overflow": Resync("/stream"), "max_queue": 64, "snapshot_s": 0.05},
    "never": {"overflow": Resync("/stream"), "max_queue": 64},
    "route": {
        "overflow": ROUTE,
        "max_queue": 128,
        "snapshot_s": 0.05,
        "replies": [Reply({"/stream": "s000usdt@trade"}, "{}")],
        "inspect": INSPECT,
    },
    "route, block": {
        "overflow": Route("/stream", {"*@bookTicker": Conflate(), "*@trade": Block(), "*@depth": Resync()}),
        "max_queue": 128,
        "snapshot_s": 0.05,
    },
    "drain": {"overflow": Disconnect(1008, "too slow"), "max_queue": 32, "on_close": "drain"},
    "raise": {"overflow": Disconnect(1008, "too slow"), "max_queue": 32, "on_close": "raise"},
    "batches": {"overflow": DropOldest(), "max_queue": 16, "batch": 4},
}


class Bench:
    """Runs cases, a few at a time, and remembers them; in every one the sum is checked.

    Args:
        venue: A running venue.
    """

    def __init__(self, venue: Market) -> None:
        self._venue = venue
        self._names = itertools.count()
        self._outcomes: dict[str, Outcome] = {}

    def load(self, **changes: Any) -> Load:
        return Load(name=f"{next(self._names)}", **changes)

    def case(self, name: str) -> Outcome:
        """What became of one of `CASES`."""
        if name not in self._outcomes:
            names = list(CASES)
            start = names.index(name) // GROUP * GROUP
            group = names[start : start + GROUP]
            self._outcomes.update(zip(group, asyncio.run(self._together(group)), strict=True))
        outcome = self._outcomes[name]
        if outcome.stats is not None:
            assert_adds_up(outcome)
        return outcome

    async def _together(self, names: list[str]) -> list[Outcome]:
        return await asyncio.gather(*(self._consume(self.load(), **CASES[name]) for name in names))

    async def _consume(self, load: Load, **kwargs: Any) -> Outcome:
        if "library" not in kwargs:
            kwargs["thresholds"] = WARN
        outcome = await consume(self._venue.port, load, **kwargs)
        outcome.report = await asyncio.to_thread(self._venue.report, load.name)
        return outcome

    def alone(self, load: Load, **kwargs: Any) -> Outcome:
        """A consumer that has the loop for itself."""
        outcome = asyncio.run(self._consume(load, **kwargs))
        assert_adds_up(outcome)
        return outcome

    def apart(self, load: Load, **kwargs: Any) -> Outcome:
        """A consumer in a process of its own."""
        outcome = consume_apart(self._venue.port, load, **kwargs)
        outcome.report = self._venue.report(load.name)
        assert_adds_up(outcome)
        return outcome


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    with market() as venue:
        yield Bench(venue)


def assert_adds_up(outcome: Outcome) -> None:
    """Every message that arrived is delivered, or counted as lost under a name; each stream keeps its order."""
    stats, report = outcome.stats, outcome.report
    assert stats.messages_in == stats.delivered + stats.queued_messages + stats.answered + stats.lost.total
    assert stats.delivered == len(outcome.seen)
    # By the venue's count. A consumer that closes doesn't read on.
    if report["end"] == "closed by consumer":
        assert stats.messages_in <= report["sent"]
    else:
        assert stats.messages_in == report["sent"]
    last: dict[str, int] = {}
    for seen in outcome.seen:
        assert seen.u > last.get(seen.stream, 0), seen
        last[seen.stream] = seen.u


def assert_alive(outcome: Outcome) -> None:
    assert outcome.report["end"] == "finished", outcome.report
    assert outcome.ended == "end"
    assert outcome.report["made"] == outcome.report["sent"]
    assert outcome.report["pings"] == outcome.report["pongs"] > 5


def assert_cut_off(outcome: Outcome) -> None:
    assert outcome.report["end"] == "no pong", outcome.report
    assert 0.5 <= outcome.report["after_s"] < 1.2
    assert "1011" in outcome.ended


def assert_warned(outcome: Outcome) -> None:
    """One episode, told while it lasted, with the losses so far in its figures."""
    episodes = [(count, event) for count, event in outcome.events if isinstance(event, SlowConsumer)]
    assert [event.phase for _, event in episodes][:1] == ["started"], outcome.events
    assert sum(event.phase == "started" for _, event in episodes) == 1
    assert episodes[0][0] <= 12  # of 20 messages


def assert_younger(outcome: Outcome, seconds: float) -> None:
    assert len(outcome.slow) >= 5
    assert p99(outcome.ages) <= seconds + SLACK_S


def assert_no_older_than_turns(outcome: Outcome, turns: int) -> None:
    """A message waits for no more than ``turns`` others to be consumed."""
    times = [0.0] * turns + [seen.at for seen in outcome.slow]
    for since, seen in zip(times, outcome.slow, strict=False):
        assert seen.age_s <= seen.at - since + SLACK_S, seen


def lost_by(outcome: Outcome) -> dict[str, int]:
    """What isn't 0 of what was lost."""
    names = ("dropped_oldest", "dropped_newest", "expired", "conflated", "resync", "discarded")
    return {name: count for name in names if (count := getattr(outcome.stats.lost, name))}


# Block: nothing is lost, and messages grow old


def test_block_without_a_limit(bench):
    """Memory takes what the consumer doesn't: alive and complete, and a second old."""
    outcome = bench.case("unlimited")
    assert_alive(outcome)
    assert_warned(outcome)
    assert [seen.n for seen in outcome.seen] == list(range(1, 2001))
    assert not outcome.stats.lost
    assert outcome.stats.pauses == 0
    assert p99(outcome.ages) > 0.6


def test_block_is_cut_off(bench):
    """Reading pauses, so pings are in the kernel where nobody sees them; what had come isn't lost."""
    outcome = bench.case("block")
    assert_cut_off(outcome)
    assert_warned(outcome)
    assert [seen.n for seen in outcome.seen] == list(range(1, outcome.report["sent"] + 1))
    assert not outcome.stats.lost
    assert outcome.stats.pauses >= 1
    assert outcome.stats.pause_max_s > 0.4
    assert p99(outcome.ages) > 0.6


@pytest.mark.parametrize("library", ["websockets", "picows.websockets"])
def test_others_are_cut_off(bench, library):
    """The bench bites."""
    outcome = bench.case(library)
    assert_cut_off(outcome)
    assert p99(outcome.ages) > 0.6


# Shedding


def test_drop_oldest(bench):
    """What is consumed is new: the queue holds what came last."""
    outcome = bench.case("oldest")
    assert_alive(outcome)
    assert_warned(outcome)
    assert_younger(outcome, 8 / 2000)
    assert set(lost_by(outcome)) == {"dropped_oldest"}


def test_drop_newest(bench):
    """A message waits for those that were there before it, and no longer."""
    outcome = bench.case("newest")
    assert_alive(outcome)
    assert_no_older_than_turns(outcome, 5)
    assert p99(outcome.ages) < 0.6
    assert set(lost_by(outcome)) == {"dropped_newest"}


def test_max_queue_age(bench):
    """However many wait: none gets older than that."""
    outcome = bench.case("age")
    assert_alive(outcome)
    assert_warned(outcome)
    assert_younger(outcome, 0.1)
    assert set(lost_by(outcome)) == {"expired"}


@pytest.mark.parametrize("key", ["pointer", "between"])
def test_conflate(bench, key):
    """At most one waits for each key, and at the end the newest of each is consumed."""
    outcome = bench.case(key)
    assert_alive(outcome)
    assert_warned(outcome)
    assert set(lost_by(outcome)) == {"conflated"}
    assert outcome.stats.queued_messages_max <= KEYS
    assert outcome.stats.gaps == 0  # The network lost nothing: it was us.
    hurried = [seen for seen in outcome.seen if not seen.slow]
    assert max(Counter(seen.stream for seen in hurried).values()) <= 2
    assert max(seen.n for seen in hurried) == outcome.report["sent"]


def test_conflate_without_room_for_its_keys(bench):
    """First messages of keys are those of ``otherwise``: Block is cut off, DropNewest isn't."""
    assert_cut_off(bench.case("no room"))
    outcome = bench.case("no room, newest")
    assert_alive(outcome)
    assert set(lost_by(outcome)) == {"conflated", "dropped_newest"}


def assert_books_are_right(outcome: Outcome) -> None:
    """A delta follows its predecessor, or it was told that a snapshot is needed."""
    told: dict[str, list[int]] = {}
    for count, event in outcome.events:
        if isinstance(event, ResyncNeeded):
            told.setdefault(event.key, []).append(count)
    last: dict[str, tuple[int, int]] = {}
    for count, seen in enumerate(outcome.seen):
        if seen.stream.endswith("@depth"):
            since, u = last.get(seen.stream, (0, 0))
            if seen.pu != u:
                assert any(since <= place <= count for place in told.get(seen.stream, ())), seen
            last[seen.stream] = count, seen.u


@pytest.mark.parametrize("answers", [True, False], ids=["resynced", "never"])
def test_resync(bench, answers):
    """No book is silently wrong."""
    outcome = bench.case("resynced" if answers else "never")
    assert_alive(outcome)
    assert set(lost_by(outcome)) == {"resync"}
    assert_books_are_right(outcome)
    needed = Counter(event.key for _, event in outcome.events if isinstance(event, ResyncNeeded))
    assert needed
    if answers:
        assert_warned(outcome)
        assert_younger(outcome, 64 / 2000)
    else:
        # Told once; nothing of that key comes any more.
        assert set(needed.values()) == {1}
        gone = {event.key: count for count, event in outcome.events if isinstance(event, ResyncNeeded)}
        assert all(seen.stream not in gone or count < gone[seen.stream] for count, seen in enumerate(outcome.seen))


def test_route(bench):
    """State is conflated, events are dropped with a mark, deltas resynchronised; what is answered is counted, too."""
    outcome = bench.case("route")
    assert_alive(outcome)
    assert_warned(outcome)
    assert set(lost_by(outcome)) == {"conflated", "dropped_oldest", "resync"}
    assert outcome.stats.answered > 0
    assert not any(seen.stream == "s000usdt@trade" for seen in outcome.seen)
    assert outcome.stats.gaps == 0
    assert_books_are_right(outcome)
    tickers = [seen for seen in outcome.seen if seen.stream.endswith("@bookTicker") and not seen.slow]
    assert max(Counter(seen.stream for seen in tickers).values()) <= 2


def test_route_that_blocks_trades(bench):
    """Trades without loss in a queue with a limit: they pause reading, and that is the end."""
    outcome = bench.case("route, block")
    assert_cut_off(outcome)
    assert set(lost_by(outcome)) <= {"conflated", "resync"}
    trades = [seen for seen in outcome.seen if seen.stream.endswith("@trade")]
    last: dict[str, int] = {}
    for trade in trades:
        assert trade.pu == last.get(trade.stream, 0)
        last[trade.stream] = trade.u


@pytest.mark.parametrize("on_close", ["drain", "raise"])
def test_disconnect(bench, on_close):
    """Rather dead than stale; what waits is delivered as old as it is, or not at all."""
    outcome = bench.case(on_close)
    report = outcome.report
    assert (report["end"], report["code"], report["reason"]) == ("closed by consumer", 1008, "too slow")
    assert report["after_s"] < 0.3
    assert "1008" in outcome.ended
    # No close frame came: what we sent isn't what websockets calls the close code. And it wasn't the peer who went.
    assert [event.code for _, event in outcome.events if isinstance(event, Closed)] == [1006]
    assert not any(isinstance(event, PeerGone) for _, event in outcome.events)
    assert outcome.stats.lost.total == outcome.stats.lost.discarded > 0
    assert len(outcome.seen) == (33 if on_close == "drain" else 1)


def test_batches_tell_ahead(bench):
    """``batch.lost`` is the hole before the batch, to the message."""
    outcome = bench.case("batches")
    assert_alive(outcome)
    lost = 0
    for (place, told), following in itertools.zip_longest(outcome.told, [place for place, _ in outcome.told[1:]]):
        lost += told.total
        batch = [seen.n for seen in outcome.seen[place:following]]
        assert batch == list(range(place + lost + 1, place + lost + 1 + len(batch)))
    assert lost == outcome.stats.lost.total > 1000


# The loop doesn't get its turn


@pytest.mark.parametrize("style", ["blocking", "starving"])
@pytest.mark.parametrize(
    ("options", "oldest_s"),
    [({"overflow": DropOldest(), "max_queue": 8}, 0.05), ({"overflow": POINTER}, None)],
    ids=["oldest", "conflate"],
)
def test_consumer_that_never_awaits(bench, style, options, oldest_s):
    """Iteration gives the loop its turn: pings are answered, and old messages go."""
    outcome = bench.alone(bench.load(seconds=0.8), style=style, **options)
    assert_alive(outcome)
    assert_warned(outcome)
    assert outcome.report["pong_max_s"] < 0.5
    if oldest_s is None:
        assert set(lost_by(outcome)) == {"conflated"}
    else:
        assert_younger(outcome, oldest_s)


def test_block_without_a_limit_and_a_starving_consumer(bench):
    outcome = bench.alone(bench.load(seconds=0.8), style="starving")
    assert_alive(outcome)
    assert [seen.n for seen in outcome.seen] == list(range(1, 1601))


def test_loop_that_is_blocked_for_too_long(bench):
    """No policy answers pings while the loop stands still; the figures say who it was."""
    outcome = bench.alone(bench.load(seconds=0.6), style="blocking", pause_s=0.8, overflow=DropOldest(), max_queue=8)
    assert_cut_off(outcome)
    assert outcome.stats.loop_lag_max_s > 0.5


# In a process of its own


@pytest.mark.parametrize("options", ["overflow=Conflate('/stream')", "overflow=DropOldest(), max_queue=8"])
def test_plain_python(bench, options):
    """The reference implementation keeps the same promises."""
    outcome = bench.apart(bench.load(), pure=True, options=options)
    assert_alive(outcome)
    assert lost_by(outcome)
    assert outcome.stats.queued_messages_max <= KEYS
    if "DropOldest" in options:
        assert_younger(outcome, 8 / 2000)


SECONDS = float(os.environ.get("FASTWS_OVERLOAD_SECONDS", "3"))
SCALE = float(os.environ.get("FASTWS_OVERLOAD_SCALE", "10"))
"""Times 2,000 and 20 per second. Ten minutes of those: FASTWS_OVERLOAD_SECONDS=60, or 600 with FASTWS_OVERLOAD_SCALE=1.
"""
GROWTH_MAX = 6 * 2**20
BENCH_BYTES = 64
"""What the bench itself keeps for a message that was consumed: its row, and a line of the memory log now and then."""


def test_conflate_stays_young_and_small(bench):
    """270 keys, a hundred times too slow, for several passes over the keys: age below one pass, memory constant."""
    # A venue's own patience: in ten minutes, a busy machine may let a process stand still for a second.
    load = bench.load(rate=2_000 * SCALE, seconds=SECONDS, buffer_bytes=64 * 1024, deadline_s=10.0)
    outcome = bench.apart(load, pause_s=0.05 / SCALE, options="overflow=Conflate('/stream')")
    assert_alive(outcome)
    assert set(lost_by(outcome)) == {"conflated"}
    assert outcome.stats.queued_messages_max <= KEYS
    assert len(outcome.slow) > 1.2 * KEYS
    assert_no_older_than_turns(outcome, KEYS)
    settled = [rss for at, rss in outcome.rss if at > 0.5]
    assert max(settled) - settled[0] < GROWTH_MAX + BENCH_BYTES * len(outcome.seen)
    second_half = [rss for at, rss in outcome.rss if at > SECONDS / 2]
    assert max(second_half) - second_half[0] < GROWTH_MAX / 2 + BENCH_BYTES * len(outcome.seen) / 2
