"""What becomes of messages when there is no room: each policy's promises."""

from __future__ import annotations

import json
import time

import pytest

from fastws.overflow import (
    Block,
    Conflate,
    Disconnect,
    DropNewest,
    DropOldest,
    Inspect,
    Lost,
    Resync,
    Route,
)
from fastws.wire import NOTICES_MAX, RECORD_BYTES, Notice, Status

from .admitted import KEY, ROUTE_KEY, after, check_sum, left, numbered, texts
from .streams import BINARY, CONT, PING, TEXT, WAYS, frame, pop_all


class TestBlock:
    @pytest.mark.parametrize("overflow", [None, Block()])
    def test_is_the_default(self, impl, overflow):
        decoder = impl.FrameDecoder("client", overflow=overflow, max_queue=2)
        decoder.feed(frame(TEXT, b"a", fin=False))
        assert decoder.queued_frames == 1  # Frames are queued as they come.
        decoder.feed(frame(CONT, b"b") + numbered(5))
        assert decoder.blocked
        assert list(decoder.take()) == ["ab", "0", "1"]
        decoder.resume()
        assert pop_all(decoder) == ("2", "3", "4")
        assert decoder.delivered == 6
        assert not decoder.lost
        check_sum(decoder)

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("high", [0, 1, 5])
    def test_when_messages_are_looked_at(self, impl, way, high):
        """Nothing is lost, duplicated or reordered."""
        decoder = impl.FrameDecoder("client", max_queue=high, inspect=Inspect("/n"))
        data = b"".join(frame(TEXT, b"%d" % i, fin=False) + frame(CONT, b".") for i in range(40))
        got = []
        for start in range(0, len(data), 7):
            way(decoder, data[start : start + 7])
            assert decoder.queued_messages <= high + 1
            if start % 3 == 0:
                got.extend(decoder.take(1))
            if decoder.resumable:
                decoder.resume()
        while decoder.queued_messages:
            got.append(decoder.pop())
            decoder.resume()
        assert got == [f"{i}." for i in range(40)]
        check_sum(decoder)

    def test_low_water(self, impl):
        decoder = impl.FrameDecoder("client", max_queue=(4, 1), track="/k")
        assert decoder.feed(numbered(8)) == Status.MESSAGE | Status.BLOCKED
        for left_over in (4, 3, 2):
            decoder.pop()
            assert decoder.queued_messages == left_over
            assert not decoder.resumable
            assert decoder.resume() == Status.BLOCKED
        decoder.pop()
        assert decoder.resumable
        assert decoder.resume() == Status.MESSAGE
        assert decoder.queued_messages == 4

    def test_bytes(self, impl):
        decoder = impl.FrameDecoder("client", max_queue_bytes=1000, track="/k")
        decoder.feed(frame(BINARY, bytes(500 - RECORD_BYTES)) + frame(BINARY, bytes(500 - RECORD_BYTES)) * 3)
        assert decoder.queued_messages == 2
        assert decoder.blocked
        decoder.pop()
        assert not decoder.resumable
        decoder.pop()
        assert decoder.resume() == Status.MESSAGE | Status.BLOCKED
        assert decoder.queued_messages == 2

    def test_heartbeats_pass_by(self, impl):
        decoder = impl.FrameDecoder("client", max_queue=0, track="/k")
        decoder.feed(numbered(3) + frame(PING, b"p"))
        assert decoder.blocked
        assert decoder.controls() == [(PING, b"p")]


class TestDropOldest:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("high", [1, 2, 7])
    def test_the_newest_stay(self, impl, way, high):
        decoder = impl.FrameDecoder("client", overflow=DropOldest(), max_queue=high)
        assert way(decoder, numbered(20)) == Status.MESSAGE
        assert not decoder.blocked
        assert decoder.lost == Lost(dropped_oldest=20 - high)
        assert left(decoder) == [str(i) for i in range(20 - high, 20)]

    def test_no_room_at_all(self, impl):
        """An empty queue always has room for one."""
        decoder = after(impl, DropOldest(), "a", "b", "c", max_queue=0)
        assert left(decoder) == ["c"]

    def test_bytes(self, impl):
        decoder = impl.FrameDecoder("client", overflow=DropOldest(), max_queue_bytes=1000)
        for i in range(30):
            decoder.feed(frame(BINARY, bytes([i]) * 68))
            assert decoder.queued_bytes + RECORD_BYTES * decoder.queued_messages < 1000
        assert [message[0] for message in left(decoder)] == list(range(21, 30))

    def test_one_that_is_larger_than_the_queue(self, impl):
        decoder = impl.FrameDecoder("client", overflow=DropOldest(), max_queue_bytes=100)
        decoder.feed(numbered(2) + frame(BINARY, bytes(500)))
        assert decoder.lost.dropped_oldest == 2
        assert decoder.queued_bytes == 500
        decoder.feed(numbered(1))
        assert left(decoder) == ["0"]

    def test_a_large_one_takes_the_place_of_several(self, impl):
        decoder = impl.FrameDecoder("client", overflow=DropOldest(), max_queue_bytes=400)
        decoder.feed(numbered(8) + frame(BINARY, bytes(200)))
        assert left(decoder) == ["3", "4", "5", "6", "7", bytes(200)]

    def test_no_limits(self, impl):
        decoder = after(impl, DropOldest(), *map(str, range(5000)), max_queue_bytes=None)
        assert len(left(decoder)) == 5000
        assert not decoder.lost

    def test_between_consumption(self, impl):
        decoder = impl.FrameDecoder("client", overflow=DropOldest(), max_queue=3)
        decoder.feed(numbered(5))
        assert decoder.pop() == "2"
        decoder.feed(numbered(1, start=5))
        assert decoder.pop() == "3"
        decoder.feed(numbered(4, start=6))
        assert left(decoder) == ["7", "8", "9"]
        assert decoder.lost.dropped_oldest == 5


class TestDropNewest:
    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("high", [1, 2, 7])
    def test_the_oldest_stay(self, impl, way, high):
        decoder = impl.FrameDecoder("client", overflow=DropNewest(), max_queue=high)
        assert way(decoder, numbered(20)) == Status.MESSAGE
        assert not decoder.blocked
        assert decoder.lost == Lost(dropped_newest=20 - high)
        assert left(decoder) == [str(i) for i in range(high)]

    def test_status_says_if_nothing_was_queued(self, impl):
        decoder = impl.FrameDecoder("client", overflow=DropNewest(), max_queue=1)
        assert decoder.feed(numbered(1)) == Status.MESSAGE
        assert decoder.feed(numbered(5)) == Status(0)

    def test_no_low_water(self, impl):
        decoder = impl.FrameDecoder("client", overflow=DropNewest(), max_queue=(4, 0))
        decoder.feed(numbered(10))
        decoder.pop()
        decoder.feed(numbered(2, start=10))
        assert left(decoder) == ["1", "2", "3", "10"]

    def test_bytes(self, impl):
        """A small one may still fit where a large one doesn't."""
        decoder = impl.FrameDecoder("client", overflow=DropNewest(), max_queue_bytes=200)
        decoder.feed(numbered(1) + frame(BINARY, bytes(200)) + numbered(1, start=1))
        assert left(decoder) == ["0", "1"]


class TestDisconnect:
    def test_at_the_first_without_room(self, impl):
        decoder = impl.FrameDecoder("client", overflow=Disconnect(), max_queue=2)
        assert decoder.feed(numbered(2)) == Status.MESSAGE
        assert decoder.feed(numbered(5)) == Status.NOTICE
        assert decoder.notices() == [(Notice.DISCONNECT, "slow consumer", 1008, 0)]
        assert decoder.lost == Lost(discarded=1)
        assert decoder.messages_received == 3
        # All that comes is ignored, heartbeats too; what is queued stays.
        assert decoder.feed(frame(PING) + frame(TEXT)) == Status(0)
        assert decoder.partial_frame == (0, 0)
        assert not decoder.blocked
        assert decoder.violation is None
        assert left(decoder) == ["0", "1"]
        assert decoder.feed(numbered(1)) == Status(0)
        assert decoder.notices() == []

    def test_code_and_reason(self, impl):
        decoder = after(impl, Disconnect(4000, "zu langsam, für uns"), "a", "b", max_queue=0)
        assert decoder.notices() == [(Notice.DISCONNECT, "zu langsam, für uns", 4000, 0)]

    def test_each_its_own(self, impl):
        route = Route(ROUTE_KEY, {"a": Disconnect(4001, "a"), "b": Conflate(KEY, otherwise=Disconnect(4002, "b"))})
        for message, code in (("@a ", 4001), ("@b <1>", 4002), ("@b ", 4002)):
            decoder = after(impl, route, "0", "1", message, max_queue=(1, 1))
            assert decoder.blocked
            decoder.pop()
            assert decoder.resume() == Status.NOTICE
            assert [notice[2] for notice in decoder.notices()] == [code]

    def test_is_heard_whatever_else_there_is(self, impl):
        decoder = impl.FrameDecoder("client", overflow=Disconnect(), max_queue=NOTICES_MAX + 5, inspect=Inspect("/n"))
        decoder.feed(b"".join(frame(TEXT, b'{"n":%d}' % (2 * n)) for n in range(NOTICES_MAX + 6)))
        notices = decoder.notices()
        assert notices[-2:] == [
            (Notice.DISCONNECT, "slow consumer", 1008, 0),
            (Notice.NOTICES_LOST, None, 5, 0),
        ]


class TestConflate:
    def test_the_newest_in_the_place_of_the_first(self, impl):
        decoder = after(impl, Conflate(KEY), "<a>1", "<b>1", "<a>2", "<c>1", "<b>2", "<a>3")
        assert decoder.lost == Lost(conflated=3)
        assert left(decoder) == ["<a>3", "<b>2", "<c>1"]

    def test_only_while_it_waits(self, impl):
        decoder = after(impl, Conflate(KEY), "<a>1", "<b>1")
        assert decoder.pop() == "<a>1"
        decoder.feed(texts("<a>2", "<b>2"))
        assert left(decoder) == ["<b>2", "<a>2"]
        assert decoder.lost.conflated == 1

    def test_kind_size_and_time_are_the_newest(self, impl):
        decoder = impl.FrameDecoder("client", overflow=Conflate(KEY))
        decoder.feed(texts("<a>" + "x" * 500, "<b>"))
        time.sleep(0.002)
        before = time.monotonic_ns()
        decoder.feed(frame(BINARY, b"<a>\xff"))
        assert decoder.queued_bytes == 7
        assert decoder.queued_bytes_max == 506
        assert decoder.queued_messages_max == 2
        assert decoder.oldest_ns >= before
        batch = decoder.take()
        assert list(batch) == [b"<a>\xff", "<b>"]
        assert batch.received_ns_at(0) >= before > batch.received_ns_at(1)

    def test_grows(self, impl):
        decoder = impl.FrameDecoder("client", overflow=Conflate(KEY))
        for size in (0, 100, 100_000, 5):
            decoder.feed(frame(TEXT, b"<a>" + b"x" * size))
            assert decoder.queued_bytes == size + 3
        assert decoder.queued_bytes_max == 100_003
        assert left(decoder) == ["<a>xxxxx"]

    # 3 messages of 4 bytes and RECORD_BYTES, in a queue that takes 8 bytes more.
    FULL = ("<a>1", "<b>1", "<c>1")
    LIMIT = 3 * (RECORD_BYTES + 4) + 8 + 1

    def test_grows_within_the_limit(self, impl):
        decoder = after(impl, Conflate(KEY), *self.FULL, "<b>" + 9 * "x", max_queue_bytes=self.LIMIT)
        assert not decoder.blocked
        assert decoder.notices() == []
        assert decoder.lost == Lost(conflated=1)

    def test_outgrows_the_limit(self, impl):
        """It waits in its place, and nothing more comes in."""
        longer = "<b>" + 10 * "x"
        decoder = after(impl, Conflate(KEY), *self.FULL, longer, "<a>2", max_queue_bytes=self.LIMIT)
        assert decoder.blocked
        assert decoder.notices() == [(Notice.NO_ROOM, "b", 3, 0)]
        assert left(decoder) == ["<a>1", longer, "<c>1"]
        assert decoder.resume() == Status.MESSAGE
        assert left(decoder) == ["<a>2"]
        assert decoder.lost == Lost(conflated=1)

    @pytest.mark.parametrize("otherwise", [DropOldest(), DropNewest()])
    def test_outgrows_the_limit_and_is_lost(self, impl, otherwise):
        """With its predecessor, that is out of date; the key goes on with the next one."""
        name = "dropped_oldest" if otherwise == DropOldest() else "dropped_newest"
        messages = [*self.FULL, "<b>" + 10 * "x", "<b>3", "<a>2"]
        decoder = after(impl, Conflate(KEY, otherwise), *messages, max_queue_bytes=self.LIMIT)
        assert decoder.lost == Lost(conflated=2, **{name: 1})
        assert decoder.lost_by_key() == [("b", 1, 1), ("a", 0, 1)]
        assert left(decoder) == ["<a>2", "<c>1", "<b>3"]
        assert decoder.notices() == []

    def test_outgrows_the_limit_at_the_head(self, impl):
        messages = [*self.FULL, "<a>" + 10 * "x", "<a>3", "<b>2"]
        decoder = after(impl, Conflate(KEY, DropNewest()), *messages, max_queue_bytes=self.LIMIT)
        assert left(decoder) == ["<b>2", "<c>1", "<a>3"]

    def test_outgrows_the_limit_and_disconnects(self, impl):
        messages = [*self.FULL, "<b>" + 10 * "x", "<a>2"]
        decoder = after(impl, Conflate(KEY, Disconnect(4000, "slow")), *messages, max_queue_bytes=self.LIMIT)
        assert decoder.notices() == [(Notice.DISCONNECT, "slow", 4000, 0)]
        assert decoder.lost == Lost(discarded=1)
        assert left(decoder) == list(self.FULL)

    def test_shrinks_beyond_the_limit(self, impl):
        """What gets shorter always fits, and so does the only one."""
        decoder = after(impl, Conflate(KEY), "<a>1", "<a>" + 500 * "x", "<a>" + 400 * "x", max_queue_bytes=100)
        assert not decoder.blocked
        decoder = after(impl, Conflate(KEY, DropNewest()), "<a>" + 500 * "x", "<a>" + 400 * "x", max_queue_bytes=100)
        assert decoder.lost == Lost(conflated=1)

    def test_others_make_room_for_what_grows(self, impl):
        """The oldest of DropOldest and of Resync, as for a message that is new."""
        rules = {"state": Conflate(KEY), "event": DropOldest(), "delta": Resync(KEY)}
        messages = ["@delta <d>", "@event 1", "@state <a>", "@delta <d>", "@event 2", "@state <b>"]
        cost = sum(len(message) + RECORD_BYTES for message in messages)
        for growth, lost in (
            (0, Lost(conflated=1)),
            (RECORD_BYTES, Lost(conflated=1, resync=2)),
            (3 * RECORD_BYTES, Lost(conflated=1, resync=2, dropped_oldest=1)),
        ):
            options = {"max_queue_bytes": cost + 1}
            decoder = after(impl, Route(ROUTE_KEY, rules), *messages, "@state <a>" + growth * "x", **options)
            assert decoder.lost == lost
            assert not decoder.blocked
            assert [message[:10] for message in left(decoder) if "state" in message] == ["@state <a>", "@state <b>"]

    def test_status(self, impl):
        """A consumer that looks at the newest is told."""
        decoder = impl.FrameDecoder("client", overflow=Conflate(KEY))
        assert decoder.feed(texts("<a>")) == Status.MESSAGE
        assert decoder.feed(texts("<a>")) == Status.MESSAGE

    def test_a_full_queue_takes_known_keys(self, impl):
        decoder = after(impl, Conflate(KEY, otherwise=DropNewest()), "<a>1", "<b>1", "<c>1", "<a>2", max_queue=2)
        assert decoder.lost == Lost(dropped_newest=1, conflated=1)
        assert left(decoder) == ["<a>2", "<b>1"]

    def test_otherwise_block(self, impl):
        decoder = after(impl, Conflate(KEY), "<a>1", "<b>1", "<c>1", "<a>2", "<d>1", max_queue=(2, 1))
        assert decoder.blocked
        assert decoder.queued_messages == 3
        assert decoder.messages_received == 3
        assert decoder.notices() == [(Notice.NO_ROOM, "c", 2, 0)]
        # What is left of the read waits; the message that blocked can still be conflated.
        assert decoder.pop() == "<a>1"
        assert not decoder.resumable
        assert decoder.pop() == "<b>1"
        assert decoder.resume() == Status.MESSAGE | Status.BLOCKED
        assert left(decoder) == ["<c>1", "<a>2", "<d>1"]
        assert decoder.notices() == []  # It is told once.

    def test_blocked_by_one_that_is_replaced_later(self, impl):
        decoder = after(impl, Conflate(KEY), "<a>1", "<b>1", "<c>1", "<c>2", max_queue=(2, 2))
        decoder.pop()
        decoder.resume()
        assert left(decoder) == ["<b>1", "<c>2"]

    def test_blocks_only_for_room(self, impl):
        """Full isn't over: a queue of conflated messages that is at its limit goes on."""
        decoder = after(impl, Conflate(KEY), "<a>1", "<b>1", "<a>2", "<b>2", max_queue=2)
        assert not decoder.blocked
        decoder = after(impl, Conflate(KEY), "<a>1", "<a>2", "<a>3", max_queue=0)
        assert not decoder.blocked
        assert left(decoder) == ["<a>3"]

    @pytest.mark.parametrize(
        ("otherwise", "lost", "messages"),
        [
            (DropNewest(), Lost(dropped_newest=2), ["<a>", "0", "<b>"]),
            (DropOldest(), Lost(dropped_oldest=2), ["<a>", "<b>", "<c>"]),
            (Disconnect(), Lost(discarded=1), ["<a>", "0", "<b>"]),
        ],
    )
    def test_otherwise(self, impl, otherwise, lost, messages):
        """Messages without a key have that policy, and first ones of a key get it when there is no room."""
        decoder = after(impl, Conflate(KEY, otherwise), "<a>", "0", "<b>", "<c>", "1", max_queue=3)
        assert decoder.lost == lost
        assert left(decoder) == messages

    def test_many_keys(self, impl):
        decoder = impl.FrameDecoder("client", overflow=Conflate("/s"), max_queue=10_000)
        for turn in range(3):
            decoder.feed(b"".join(frame(TEXT, b'{"s":"%d","n":%d}' % (i, turn)) for i in range(5000)))
        assert decoder.lost.conflated == 10_000
        assert [json.loads(message) for message in left(decoder)] == [{"s": str(i), "n": 2} for i in range(5000)]

    def test_for_a_long_time(self, impl):
        """Places are used again and again, in turns with consumption."""
        decoder = impl.FrameDecoder("client", overflow=Conflate(KEY))
        expected: dict[str, str] = {}
        for i in range(5000):
            key = f"<{i * i % 17}>"
            expected[key] = f"{key}{i}"
            decoder.feed(texts(expected[key]))
            if i % 5 == 0:
                first = next(iter(expected))
                assert decoder.pop() == expected.pop(first)
        assert left(decoder) == list(expected.values())


class TestResync:
    def test_gives_up_the_key_of_the_oldest(self, impl):
        decoder = impl.FrameDecoder("client", overflow=Resync(KEY), max_queue=3)
        status = decoder.feed(texts("<a>1", "<b>1", "<a>2", "<b>2"))
        assert status == Status.MESSAGE | Status.NOTICE
        assert decoder.notices() == [(Notice.RESYNC, "a", 0, 0)]
        assert decoder.lost == Lost(resync=2)
        assert left(decoder) == ["<b>1", "<b>2"]

    def test_until_it_was_resynchronised(self, impl):
        decoder = after(impl, Resync(KEY), "<a>1", "<b>1", "<c>1", max_queue=2)
        decoder.feed(texts("<a>2", "<b>2", "<a>3"))
        assert decoder.notices() == [(Notice.RESYNC, "a", 0, 0), (Notice.RESYNC, "b", 0, 0)]
        assert decoder.given_up() == ["a", "b"]
        # Once given up, a key's messages take nobody's place, and nobody is told again.
        assert left(decoder) == ["<c>1"]
        decoder.feed(texts("<a>4"))
        assert decoder.notices() == []
        decoder.resynced("a")
        assert decoder.given_up() == ["b"]
        decoder.feed(texts("<a>5", "<b>3", "<a>6"))
        assert left(decoder) == ["<a>5", "<a>6"]
        assert decoder.lost.resync == 7

    def test_its_own_key(self, impl):
        """The message that finds no room may be of the key that is given up."""
        decoder = after(impl, Resync(KEY), "<a>1", "<a>2", "<a>3", "<a>4", "<b>1", max_queue=2)
        assert decoder.notices() == [(Notice.RESYNC, "a", 0, 0)]
        assert decoder.lost == Lost(resync=4)
        assert left(decoder) == ["<b>1"]

    def test_given_up_again(self, impl):
        decoder = impl.FrameDecoder("client", overflow=Resync(KEY), max_queue=1)
        for _ in range(3):
            decoder.feed(texts("<a>1", "<a>2"))
            assert decoder.notices() == [(Notice.RESYNC, "a", 0, 0)]
            decoder.resynced("a")
        assert decoder.lost.resync == 6

    def test_no_room_among_others(self, impl):
        """Where nothing can go to make room, its own key is given up."""
        route = Route(ROUTE_KEY, {"delta": Resync(KEY), "event": DropNewest()})
        decoder = after(impl, route, "@event 1", "@event 2", "@delta <a>1", "@delta <a>2", max_queue=2)
        assert decoder.notices() == [(Notice.RESYNC, "a", 0, 0)]
        assert decoder.lost == Lost(resync=2)
        assert left(decoder) == ["@event 1", "@event 2"]
        decoder.feed(texts("@delta <a>3"))
        assert decoder.queued_messages == 0
        decoder.resynced("a")
        decoder.feed(texts("@delta <a>4"))
        assert decoder.queued_messages == 1

    def test_without_a_key(self, impl):
        decoder = after(impl, Resync(KEY, otherwise=DropOldest()), "1", "<a>1", "2", "3", max_queue=2)
        # 1 was the oldest, then a's.
        assert decoder.lost == Lost(dropped_oldest=1, resync=1)
        assert left(decoder) == ["2", "3"]

    def test_resynced_unknown(self, impl):
        decoder = after(impl, Resync(KEY), "<a>1")
        decoder.resynced("a")
        decoder.resynced("never heard of")
        decoder.resynced("")
        assert left(decoder) == ["<a>1"]
        for other in (impl.FrameDecoder("client"), impl.FrameDecoder("client", overflow=DropOldest())):
            other.resynced("a")
            assert other.given_up() == []

    def test_resynced_while_it_waits_for_nothing(self, impl):
        """Of several keys only the one that is named."""
        decoder = after(impl, Resync(KEY), "<a>", "<b>", "<c>", "<d>", max_queue=1)
        assert [key for _, key, *_ in decoder.notices()] == ["a", "b", "c"]
        decoder.resynced("b")
        decoder.take()
        decoder.feed(texts("<a>", "<b>", "<c>"))
        assert left(decoder) == ["<b>"]

    def test_bytes(self, impl):
        decoder = impl.FrameDecoder("client", overflow=Resync(KEY), max_queue_bytes=200)
        decoder.feed(texts("<a>", "<b>", "<a>", "<c>" + "x" * 60))
        assert decoder.lost == Lost(resync=2)
        assert left(decoder) == ["<b>", "<c>" + "x" * 60]


class TestRoute:
    ROUTE = Route(
        "/stream",
        {
            "*@bookTicker": Conflate(),
            "*@depth*": Resync(),
            "*@trade": Block(),
            "news": DropOldest(),
            "btc*": Disconnect(),
        },
        default=DropNewest(),
    )

    @staticmethod
    def feed(decoder, *streams):
        for number, stream in enumerate(streams):
            decoder.feed(frame(TEXT, json.dumps({"stream": stream, "n": number}).encode()))
        check_sum(decoder)

    @staticmethod
    def numbers(decoder):
        return [json.loads(message)["n"] for message in left(decoder)]

    def test_state_events_and_deltas(self, impl):
        decoder = impl.FrameDecoder("client", overflow=self.ROUTE)
        self.feed(decoder, "a@bookTicker", "a@trade", "a@bookTicker", "a@trade", "b@bookTicker", "a@depth", "a@depth")
        assert decoder.lost == Lost(conflated=1)
        assert self.numbers(decoder) == [2, 1, 3, 4, 5, 6]

    def test_who_makes_room_for_whom(self, impl):
        decoder = impl.FrameDecoder("client", overflow=self.ROUTE, max_queue=4)
        self.feed(decoder, "news", "a@depth", "a@bookTicker", "a@trade", "b@trade", "b@bookTicker")
        # The oldest of news and deltas go; neither trades nor tickers do.
        assert decoder.lost == Lost(dropped_oldest=1, resync=1)
        assert decoder.notices() == [(Notice.RESYNC, "a@depth", 0, 0)]
        assert not decoder.blocked
        self.feed(decoder, "other", None, "news")
        assert decoder.lost == Lost(dropped_oldest=2, resync=1, dropped_newest=2)
        self.feed(decoder, "c@trade")
        assert decoder.blocked
        assert self.numbers(decoder) == [2, 3, 4, 5, 0]

    def test_first_rule_that_matches(self, impl):
        decoder = impl.FrameDecoder("client", overflow=self.ROUTE, max_queue=1)
        self.feed(decoder, "btcusdt@bookTicker", "btcusdt@bookTicker", "btcusdt@ticker")
        assert [kind for kind, *_ in decoder.notices()] == [Notice.DISCONNECT]

    @pytest.mark.parametrize(
        ("pattern", "key", "matches"),
        [
            ("a", "a", True),
            ("a", "A", False),
            ("a", "ab", False),
            ("", "", True),
            ("", "a", False),
            ("*", "", True),
            ("*", "anything at all\n", True),
            ("a*", "a", True),
            ("a*c", "abbbc", True),
            ("a*c", "abbbcd", False),
            ("a*b*c", "abcbc", True),
            ("*.*", "a.b", True),
            ("**", "ab", True),
            ("?", "ü", True),
            ("?", "", False),
            ("?", "ab", False),
            ("a?c", "abc", True),
            ("[ab]x", "bx", True),
            ("[ab]x", "cx", False),
            ("[!ab]x", "cx", True),
            ("[!ab]x", "ax", False),
            ("[a-c]", "b", True),
            ("[a-c]", "-", False),
            ("[a-]", "-", True),
            ("[ä-ü]", "ö", True),
            ("[", "[", True),
            ("[a", "[a", True),
            ("[]]", "]", True),
            ("[[]", "[", True),
            ("a[1]", "a[1]", True),  # A pattern is also a key.
            ("a[1]", "a1", True),
            ("\\*", "\\x", True),
            ("\\*", "*", False),
            ("a|b", "a", False),
            ("a/b", "a/b", True),
            ("*usdt@depth", "btcusdt@depth", True),
            ("*usdt@depth", "btcusdt@depth5", False),
            ("*" * 20 + "x", "y" * 200, False),
        ],
    )
    def test_patterns(self, impl, pattern, key, matches):
        decoder = impl.FrameDecoder("client", overflow=Route("/k", {pattern: Conflate()}))
        for _ in range(2):
            decoder.feed(frame(TEXT, json.dumps({"k": key}).encode()))
        assert decoder.lost.conflated == matches

    def test_patterns_that_take_long(self, impl):
        """Keys come from the peer: matching must not take exponential time."""
        decoder = impl.FrameDecoder("client", overflow=Route(KEY, {"*a" * 60 + "b": Conflate()}))
        start = time.monotonic()
        decoder.feed(texts("<" + "a" * 250 + ">"))
        assert time.monotonic() - start < 1

    def test_key_of_its_own(self, impl):
        route = Route("/kind", {"book": Conflate("/symbol"), "delta": Resync(("/symbol", "/side"))})
        decoder = impl.FrameDecoder("client", overflow=route)
        messages = [
            {"kind": "book", "symbol": "A", "n": 0},
            {"kind": "book", "symbol": "B", "n": 1},
            {"kind": "book", "symbol": "A", "n": 2},
            {"kind": "book", "n": 3},
            {"kind": "book", "n": 4},
        ]
        for message in messages:
            decoder.feed(frame(TEXT, json.dumps(message).encode()))
        assert [json.loads(message)["n"] for message in left(decoder)] == [2, 1, 3, 4]

    def test_in_a_mixed_queue(self, impl):
        """A message whose key is given up makes room for one of another policy, and only as much as is needed."""
        route = Route(ROUTE_KEY, {"old": DropOldest(), "delta": Resync(KEY)}, default=DropNewest())
        decoder = after(
            impl, route, "@delta <a>1", "@old 1", "@delta <b>1", "@delta <a>2", "@x 1", "@x 2", "@x 3", max_queue=4
        )
        assert decoder.lost == Lost(resync=2, dropped_oldest=1)
        assert left(decoder) == ["@delta <b>1", "@x 1", "@x 2", "@x 3"]

    def test_block_makes_room_before_it_blocks(self, impl):
        route = Route(ROUTE_KEY, {"old": DropOldest()})
        decoder = after(impl, route, "@old 1", "@x 1", "@old 2", "@x 2", "@x 3", max_queue=2)
        assert decoder.lost == Lost(dropped_oldest=2)
        assert decoder.blocked
        assert left(decoder) == ["@x 1", "@x 2", "@x 3"]

    def test_drop_oldest_among_those_that_stay(self, impl):
        """Where it is the oldest of its policy itself, it is dropped itself."""
        route = Route(ROUTE_KEY, {"old": DropOldest()}, default=DropNewest())
        decoder = after(impl, route, "1", "2", "@old 1", "@old 2", max_queue=2)
        assert decoder.lost == Lost(dropped_oldest=2)
        assert left(decoder) == ["1", "2"]


AGE = {"max_queue_age": 0.05}


class TestAge:
    """Few tests, as time passes in them."""

    @staticmethod
    def grow_old():
        time.sleep(0.1)

    def test_expire_on_delivery(self, impl):
        takings = (
            lambda decoder: [decoder.pop()],
            lambda decoder: list(decoder.take()),
            lambda decoder: [decoder.pop_fragment()[2].decode()],
        )
        decoders = [after(impl, DropOldest(), "1", "2", **AGE) for _ in takings]
        self.grow_old()
        for take, decoder in zip(takings, decoders, strict=True):
            assert decoder.queued_messages == 2
            assert not decoder.lost
            decoder.feed(texts("3"))
            assert take(decoder) == ["3"]
            assert decoder.lost == Lost(expired=2)
            assert decoder.queued_messages == 0
            check_sum(decoder)

    def test_all_of_them(self, impl):
        decoders = [after(impl, DropOldest(), "1", "2", **AGE) for _ in range(3)]
        self.grow_old()
        assert decoders[0].pop() is None
        assert len(decoders[1].take()) == 0
        assert decoders[2].pop_fragment() is None
        for decoder in decoders:
            assert decoder.lost == Lost(expired=2)
            assert decoder.queued_messages == 0
            assert decoder.oldest_ns == 0
            check_sum(decoder)

    def test_only_drop_oldest(self, impl):
        route = Route(ROUTE_KEY, {"old": DropOldest(), "state": Conflate(), "delta": Resync()}, default=DropNewest())
        decoder = after(impl, route, "@old 1", "x", "@old 2", "@state 1", "@old 3", "@delta 1", **AGE)
        self.grow_old()
        assert left(decoder) == ["x", "@state 1", "@delta 1"]
        assert decoder.lost == Lost(expired=3)

    def test_on_arrival(self, impl):
        """Also behind a head that stays."""
        route = Route(ROUTE_KEY, {"old": DropOldest()}, default=DropNewest())
        decoder = after(impl, route, "x", "@old 1", "@old 2", **AGE)
        self.grow_old()
        # It finds an old head, but makes nothing younger by going itself.
        decoder.feed(texts("@old 3"))
        assert decoder.lost == Lost(expired=2)
        decoder.feed(texts("y"))
        assert decoder.lost == Lost(expired=2, dropped_newest=1)
        assert left(decoder) == ["x", "@old 3"]

    def test_what_is_behind_an_old_head_stays(self, impl):
        route = Route(ROUTE_KEY, {"old": DropOldest(), "delta": Resync()}, default=DropNewest())
        decoder = after(impl, route, "x", **AGE)
        self.grow_old()
        decoder.feed(texts("@old 1", "@old 2", "y"))
        assert decoder.lost == Lost(dropped_newest=1)
        assert left(decoder) == ["x", "@old 1", "@old 2"]

    def test_block(self, impl):
        decoder = after(impl, Block(), "1", "2", max_queue=(10, 1), **AGE)
        assert not decoder.blocked
        self.grow_old()
        assert decoder.feed(texts("3", "4")) == Status.MESSAGE | Status.BLOCKED
        assert decoder.queued_messages == 3
        decoder.pop()
        assert not decoder.resumable  # The next one is as old.
        assert decoder.resume() == Status.BLOCKED
        decoder.pop()
        assert decoder.resumable
        assert decoder.resume() == Status.MESSAGE
        assert left(decoder) == ["3", "4"]
        assert not decoder.lost

    def test_drop_newest_and_disconnect(self, impl):
        dropping = after(impl, DropNewest(), "1", **AGE)
        ending = after(impl, Disconnect(), "1", **AGE)
        self.grow_old()
        dropping.feed(texts("2"))
        ending.feed(texts("2"))
        assert dropping.lost == Lost(dropped_newest=1)
        assert left(dropping) == ["1"]
        dropping.feed(texts("3"))
        assert left(dropping) == ["3"]
        assert ending.notices() == [(Notice.DISCONNECT, "slow consumer", 1008, 0)]
        assert left(ending) == ["1"]

    def test_conflate(self, impl):
        """A newer message makes its place younger; another key's finds an old head."""
        decoder = after(impl, Conflate(KEY, otherwise=DropNewest()), "<a>1", "<b>1", **AGE)
        self.grow_old()
        decoder.feed(texts("<c>1"))
        assert decoder.lost == Lost(dropped_newest=1)
        decoder.feed(texts("<a>2", "<c>1"))
        assert left(decoder) == ["<a>2", "<b>1", "<c>1"]

    def test_resync(self, impl):
        decoder = after(impl, Resync(KEY), "<a>1", "<b>1", **AGE)
        self.grow_old()
        decoder.feed(texts("<c>1"))
        assert decoder.notices() == [(Notice.RESYNC, "a", 0, 0), (Notice.RESYNC, "b", 0, 0)]
        assert left(decoder) == ["<c>1"]

    @pytest.mark.parametrize("age", [0, -1, 0.0, float("nan"), float("inf")])
    def test_wrong(self, impl, age):
        with pytest.raises(ValueError, match="max_queue_age"):
            impl.FrameDecoder("client", max_queue_age=age)

    @pytest.mark.parametrize("age", ["1", (1, 2), [1]])
    def test_wrong_type(self, impl, age):
        with pytest.raises(TypeError):
            impl.FrameDecoder("client", max_queue_age=age)

    @pytest.mark.parametrize("age", [1e-9, 1, 3600.0, 10**6])
    def test_right(self, impl, age):
        impl.FrameDecoder("client", max_queue_age=age)


@pytest.mark.parametrize(
    "overflow",
    [
        "drop",
        5,
        DropOldest,
        Conflate,
        Conflate("/k", otherwise=DropOldest),
        Conflate("/k", otherwise=Conflate("/k")),
        Resync("/k", otherwise=Resync("/k")),
        Route("/k", {}, default=Conflate("/k")),
        Route("/k", {"a": DropOldest}),
        Route("/k", {"a": None}),
        Route("/k", {5: DropOldest()}),
        Route("/k", {"a": Conflate(otherwise="drop")}),
        Route(None, {}),
    ],
)
def test_wrong_policies(impl, overflow):
    with pytest.raises(TypeError):
        impl.FrameDecoder("client", overflow=overflow)


@pytest.mark.parametrize(
    "overflow", [Conflate(), Resync(), Conflate("k"), Route("k", {}), Route("/k", {"a": Resync("")})]
)
def test_wrong_keys(impl, overflow):
    with pytest.raises(ValueError):  # noqa: PT011
        impl.FrameDecoder("client", overflow=overflow)


@pytest.mark.parametrize("overflow", [None, DropOldest(), Conflate(KEY), Resync(KEY)])
def test_time_is_in_proportion(impl, overflow):
    """Nothing here takes time that grows with the square of what waits."""
    count = 20_000
    data = b"".join(frame(TEXT, b"<%d>" % (i % 5000)) for i in range(count))
    decoder = impl.FrameDecoder("client", overflow=overflow, max_queue=None if overflow is None else 10_000)
    start = time.monotonic()
    for place in range(0, len(data), 65536):
        decoder.feed(data[place : place + 65536])
    decoder.take(100)
    while decoder.pop() is not None:
        pass
    assert time.monotonic() - start < 20
    check_sum(decoder)
