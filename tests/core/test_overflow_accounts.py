"""Messages are joined and inflated before a policy decides; every loss is counted, also while closing."""

from __future__ import annotations

import time
import zlib

import pytest

from fastws.deflate import Deflate
from fastws.overflow import (
    Conflate,
    DropNewest,
    DropOldest,
    Lost,
    Reply,
    Resync,
    Route,
)
from fastws.wire import Status, Violation

from .admitted import KEY, ROUTE_KEY, after, check_sum, left, numbered, texts
from .streams import BINARY, CLOSE, CONT, PING, TEXT, WAYS, deflate, frame, key_for


class TestFragments:
    """Where messages are looked at, they are joined first."""

    DATA = frame(TEXT, b"<a>1", fin=False) + frame(PING, b"p") + frame(CONT, b"2", fin=False) + frame(CONT, b"3")

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("size", [1, 3, 100])
    def test_joined(self, impl, way, size):
        decoder = impl.FrameDecoder("client", overflow=Conflate(KEY))
        for start in range(0, len(self.DATA), size):
            way(decoder, self.DATA[start : start + size])
        assert decoder.queued_frames == decoder.queued_messages == 1
        assert decoder.queued_bytes == 6
        assert decoder.pop_fragment() == (TEXT, True, b"<a>123")
        assert decoder.delivered == 1

    def test_not_queued_before_it_is_complete(self, impl):
        decoder = impl.FrameDecoder("client", overflow=DropOldest(), max_queue=1, max_queue_bytes=100)
        assert decoder.feed(frame(BINARY, bytes(500), fin=False)) == Status(0)
        assert decoder.current_size == 500
        assert decoder.queued_frames == decoder.queued_bytes == decoder.queued_messages == 0
        assert decoder.messages_received == 0
        assert decoder.pop() is None
        assert decoder.pop_fragment() is None
        assert len(decoder.take()) == 0
        assert decoder.unlogged() == []
        assert decoder.feed(frame(CONT, b"x")) == Status.MESSAGE
        assert decoder.unlogged() == [(BINARY, True, bytes(500) + b"x")]
        assert decoder.current_size is None

    def test_a_message_between_two_fragments_goes(self, impl):
        """Memory of a message under reception isn't the queue's."""
        decoder = impl.FrameDecoder("client", overflow=DropOldest(), max_queue=1)
        decoder.feed(numbered(1) + frame(TEXT, b"a", fin=False))
        decoder.clear()
        decoder.feed(frame(CONT, b"b"))
        assert left(decoder) == ["ab"]

    def test_too_many(self, impl):
        for fin in (True, False):
            decoder = impl.FrameDecoder("client", overflow=DropOldest(), max_fragments=3)
            data = frame(TEXT, b"a", fin=False) + frame(CONT, b"b", fin=False) + frame(CONT, b"c", fin=False)
            decoder.feed(numbered(1) + data)
            assert decoder.violation is None
            assert decoder.feed(frame(CONT, b"d", fin=fin)) == Status.VIOLATION
            assert decoder.violation == (Violation.TOO_MANY_FRAGMENTS, 4, 3)
            assert decoder.messages_received == 1
            assert left(decoder) == ["0"]

    def test_just_enough(self, impl):
        decoder = impl.FrameDecoder("client", overflow=DropOldest(), max_fragments=3)
        data = frame(TEXT, b"a", fin=False) + frame(CONT, b"b", fin=False) + frame(CONT, b"c")
        decoder.feed(data * 2)
        assert left(decoder) == ["abc", "abc"]

    def test_max_size(self, impl):
        decoder = impl.FrameDecoder("client", overflow=DropOldest(), max_size=10)
        decoder.feed(
            frame(TEXT, b"x" * 10, fin=False) + frame(CONT) + frame(TEXT, b"x" * 9, fin=False) + frame(CONT, b"yy")
        )
        assert decoder.violation == (Violation.MESSAGE_TOO_BIG, 11, 10)
        assert left(decoder) == ["x" * 10]

    def test_utf8_across_fragments(self, impl):
        decoder = impl.FrameDecoder("client", overflow=Conflate("/k"))
        text = '{"k":"ü"}'.encode()
        for place in range(1, len(text)):
            decoder.feed(frame(TEXT, text[:place], fin=False) + frame(CONT, text[place:]))
        assert decoder.lost.conflated == len(text) - 2
        decoder.feed(frame(TEXT, b"\xff", fin=False))
        assert decoder.violation == (Violation.INVALID_UTF8, 0, 0)

    def test_want_message_makes_no_difference(self, impl):
        decoder = impl.FrameDecoder("client", overflow=DropNewest(), max_queue=1)
        decoder.want_message = True
        decoder.feed(self.DATA[:9])
        assert decoder.want_message
        decoder.feed(self.DATA[9:] + numbered(2))
        assert not decoder.want_message
        assert left(decoder) == ["<a>123"]

    def test_masked(self, impl):
        key = key_for("server")
        decoder = impl.FrameDecoder("server", overflow=Conflate("/k"))
        for n in b"12":
            payload = b'{"k":"a","n":%d}' % n
            decoder.feed(frame(TEXT, payload[:5], fin=False, key=key) + frame(CONT, payload[5:], key=key))
            decoder.feed(frame(TEXT, b'{"k":"b","n":%d}' % n, key=key))
        assert left(decoder) == ['{"k":"a","n":50}', '{"k":"b","n":50}']


class TestCompressed:
    @pytest.mark.parametrize("way", WAYS)
    def test_keys_of_compressed_messages(self, impl, way):
        decoder = impl.FrameDecoder("client", overflow=Conflate("/k"), deflate=Deflate(remote_no_context_takeover=True))
        for n in range(3):
            for key in "ab":
                way(decoder, frame(TEXT, deflate(b'{"k":"%s","n":%d}' % (key.encode(), n)), rsv=4))
        assert decoder.lost.conflated == 4
        assert left(decoder) == ['{"k":"a","n":2}', '{"k":"b","n":2}']

    def test_fragmented(self, impl):
        decoder = impl.FrameDecoder("client", overflow=Conflate("/k"), deflate=Deflate(remote_no_context_takeover=True))
        data = deflate(b'{"k":"a","n":"%s"}' % (b"x" * 5000))
        for _ in range(2):
            decoder.feed(
                frame(TEXT, data[:7], rsv=4, fin=False) + frame(CONT, data[7:9], fin=False) + frame(CONT, data[9:])
            )
        assert decoder.lost.conflated == 1
        assert decoder.queued_bytes == 5000 + len('{"k":"a","n":""}')

    def test_the_window_outlives_what_is_lost(self, impl):
        """A message that is dropped was inflated all the same: the next one refers to it."""
        stream = zlib.compressobj(wbits=-15)

        def compressed(payload):
            data = stream.compress(payload) + stream.flush(zlib.Z_SYNC_FLUSH)
            return frame(BINARY, data[:-4], rsv=4)

        decoder = impl.FrameDecoder("client", overflow=DropNewest(), max_queue=1, deflate=Deflate())
        decoder.feed(compressed(b"first") + compressed(b"the same text again and again"))
        assert decoder.lost.dropped_newest == 1
        assert decoder.pop() == b"first"
        decoder.feed(compressed(b"the same text again and again"))
        assert decoder.pop() == b"the same text again and again"

    def test_inflated_bytes_are_what_counts(self, impl):
        options = {"max_queue_bytes": 1000, "deflate": Deflate(remote_no_context_takeover=True)}
        decoder = impl.FrameDecoder("client", overflow=DropOldest(), **options)
        decoder.feed(frame(BINARY, deflate(bytes(900)), rsv=4) * 3)
        assert decoder.lost.dropped_oldest == 2
        assert decoder.queued_bytes == 900


class TestClosing:
    def test_dropping_counts(self, impl):
        for options in ({}, {"overflow": Conflate(KEY)}):
            decoder = impl.FrameDecoder("client", **options)
            decoder.feed(texts("<a>1", "<b>1"))
            decoder.dropping = True
            decoder.feed(texts("<a>2") + frame(TEXT, b"x", fin=False) + frame(CONT, b"y", fin=False))
            assert decoder.lost == Lost(discarded=1)
            decoder.feed(frame(CONT, b"z") + frame(CLOSE))
            assert decoder.lost == Lost(discarded=2)
            assert decoder.messages_received == 4
            assert left(decoder) == ["<a>1", "<b>1"]

    def test_dropping_begun_within_a_message(self, impl):
        decoder = impl.FrameDecoder("client", overflow=Conflate(KEY))
        decoder.feed(frame(TEXT, b"<a>1", fin=False))
        decoder.dropping = True
        decoder.feed(frame(CONT, b"2") + texts("<a>3"))
        assert decoder.lost == Lost(discarded=2)
        assert decoder.messages_received == 2
        assert decoder.queued_frames == 0
        assert decoder.current_size is None

    def test_dropping_while_blocked(self, impl):
        decoder = after(impl, Conflate(KEY), "<a>", "<b>", "<c>", "<d>", max_queue=1)
        assert decoder.blocked
        decoder.dropping = True
        assert decoder.resumable
        decoder.resume()
        assert not decoder.blocked
        assert decoder.lost == Lost(discarded=2)
        check_sum(decoder)

    @pytest.mark.parametrize("overflow", [None, DropOldest(), Conflate(KEY), Resync(KEY)])
    def test_clear(self, impl, overflow):
        decoder = after(impl, overflow, "<a>1", "<b>1", "<a>1", "0", max_queue=10)
        waiting = decoder.queued_messages
        decoder.clear()
        assert decoder.lost.discarded == waiting
        assert decoder.queued_messages == decoder.queued_bytes == decoder.queued_frames == 0
        assert decoder.oldest_ns == 0
        check_sum(decoder)
        decoder.feed(texts("<a>2", "<b>2"))
        assert left(decoder) == ["<a>2", "<b>2"]
        decoder.clear()
        assert decoder.lost.discarded == waiting

    def test_clear_makes_room(self, impl):
        decoder = after(impl, Resync(KEY), "<a>1", "<b>1", "<c>1", max_queue=2)
        decoder.clear()
        decoder.feed(texts("<b>2", "<c>2", "<a>2"))
        assert left(decoder) == ["<b>2", "<c>2"]  # a is still given up.

    def test_discard_keeps_what_waits(self, impl):
        decoder = after(impl, Conflate(KEY), "<a>1", "<b>1")
        decoder.discard()
        decoder.feed(texts("<a>2"))
        assert left(decoder) == ["<a>1", "<b>1"]

    def test_a_message_that_is_refused(self, impl):
        decoder = impl.FrameDecoder("client", max_fragments=1)
        decoder.feed(frame(TEXT, b"a", fin=False) + frame(CONT, b"b"))
        assert decoder.pop() is None
        assert decoder.violation[0] == Violation.TOO_MANY_FRAGMENTS
        assert decoder.lost == Lost(discarded=1)
        check_sum(decoder)


class TestBatches:
    def test_lost_since_the_batch_before(self, impl):
        decoder = impl.FrameDecoder("client", overflow=DropOldest(), max_queue=2)
        decoder.feed(numbered(5))
        assert decoder.take(1).lost == Lost(dropped_oldest=3)
        assert decoder.take(1).lost == Lost()
        decoder.feed(numbered(3))
        decoder.pop()  # Doesn't report.
        assert decoder.take().lost == Lost(dropped_oldest=1)
        assert decoder.lost == Lost(dropped_oldest=4)

    def test_an_empty_batch_reports_nothing(self, impl):
        decoder = impl.FrameDecoder("client")
        decoder.feed(numbered(2))
        decoder.clear()
        empty = decoder.take()
        assert len(empty) == 0
        assert empty.lost == Lost()
        decoder.feed(numbered(1))
        assert decoder.take().lost == Lost(discarded=2)

    def test_what_is_made_of_batches(self, impl):
        decoder = after(impl, Conflate(KEY), "<a>1", "<a>2", "<b>1")
        batch = decoder.take()
        assert batch.lost == Lost(conflated=1)
        assert batch[:].lost == batch[:1].lost == Lost()
        again = impl.rebuild_batch(*batch.__reduce__()[1])  # As pickling does.
        assert again == batch
        assert again.lost == Lost()
        assert impl.rebuild_batch(b"", b"", b"", b"").lost == Lost()

    def test_read_only(self, impl):
        batch = after(impl, DropOldest(), "a").take()
        with pytest.raises(AttributeError):
            batch.lost = Lost()


class TestCounters:
    def test_at_the_beginning(self, impl):
        for options in ({}, {"overflow": Conflate(KEY), "max_queue_age": 5}):
            decoder = impl.FrameDecoder("client", **options)
            assert decoder.lost == Lost()
            assert not decoder.lost
            assert decoder.lost_by_key() == []
            assert decoder.delivered == decoder.answered == decoder.gaps == decoder.oldest_ns == 0
            assert decoder.queued_messages_max == decoder.queued_bytes_max == 0
            assert decoder.exchange_lag_ns is None
            assert decoder.notices() == []
            assert decoder.last_seen() == {}

    @pytest.mark.parametrize("overflow", [None, DropOldest()])
    def test_delivered(self, impl, overflow):
        decoder = after(impl, overflow, "1", "2", "3", "4", "5", "6")
        decoder.pop()
        assert decoder.delivered == 1
        decoder.take(2)
        assert decoder.delivered == 3
        decoder.pop_fragment()
        assert decoder.delivered == 4
        decoder.take()
        assert decoder.delivered == 6
        assert decoder.pop() is None
        assert decoder.pop_fragment() is None
        assert len(decoder.take()) == 0
        assert decoder.delivered == 6
        decoder.feed(frame(BINARY, b"\xff"))
        with pytest.raises(UnicodeDecodeError):
            decoder.pop(True)
        assert decoder.delivered == 7
        check_sum(decoder)

    @pytest.mark.parametrize("overflow", [None, DropOldest()])
    def test_delivered_by_the_iterator(self, impl, overflow):
        decoder = after(impl, overflow, "1", "2")
        iterator = impl.MessageIterator(decoder, impl.Turn(decoder), lambda: None, lambda: None)
        with pytest.raises(StopIteration, match="1"):
            iterator.__anext__().send(None)
        assert decoder.delivered == 1

    def test_iterator_skips_what_has_expired(self, impl):
        decoder = after(impl, DropOldest(), "1", "2", max_queue_age=0.05)
        waits = []

        async def wait():
            waits.append(decoder.queued_messages)
            return "waited"

        iterator = impl.MessageIterator(decoder, impl.Turn(decoder, max_ns=10**12), wait, lambda: None)
        time.sleep(0.1)
        decoder.feed(texts("3"))
        with pytest.raises(StopIteration, match="3"):
            iterator.__anext__().send(None)
        assert decoder.lost == Lost(expired=2)
        decoder.feed(texts("4"))
        time.sleep(0.1)
        with pytest.raises(StopIteration, match="waited"):
            iterator.__anext__().send(None)
        assert waits == [0]

    def test_fragments_of_plain_mode_count_once(self, impl):
        decoder = impl.FrameDecoder("client")
        decoder.feed(frame(TEXT, b"a", fin=False) + frame(CONT, b"b") + numbered(1))
        decoder.pop_fragment()
        assert decoder.delivered == 0
        decoder.pop_fragment()
        assert decoder.delivered == 1
        check_sum(decoder)

    @pytest.mark.parametrize("overflow", [None, DropOldest()])
    def test_high_water(self, impl, overflow):
        decoder = impl.FrameDecoder("client", overflow=overflow, max_queue=(10, 3))
        decoder.feed(texts("aaa", "bb"))
        decoder.take()
        decoder.feed(texts("c"))
        assert (decoder.queued_messages_max, decoder.queued_bytes_max) == (2, 5)
        decoder.feed(texts("d" * 10, "e"))
        assert (decoder.queued_messages_max, decoder.queued_bytes_max) == (3, 12)
        decoder.clear()
        assert (decoder.queued_messages_max, decoder.queued_bytes_max) == (3, 12)

    def test_high_water_is_never_above_the_limit(self, impl):
        decoder = after(impl, DropOldest(), *map(str, range(100)), max_queue=7)
        assert decoder.queued_messages_max == 7

    @pytest.mark.parametrize("overflow", [None, DropNewest()])
    def test_oldest(self, impl, overflow):
        decoder = impl.FrameDecoder("client", overflow=overflow, max_queue=3)
        before = time.monotonic_ns()
        decoder.feed(texts("1"))
        between = time.monotonic_ns()
        time.sleep(0.001)
        decoder.feed(texts("2"))
        assert before <= decoder.oldest_ns <= between
        assert decoder.oldest_ns == decoder.oldest_ns
        decoder.pop()
        assert decoder.oldest_ns > between
        assert decoder.oldest_ns == decoder.take().received_ns
        assert decoder.oldest_ns == 0

    def test_lost_by_key(self, impl):
        route = Route(KEY, {"a": Conflate(), "b*": DropOldest(), "c": DropNewest()}, default=DropNewest())
        decoder = impl.FrameDecoder("client", overflow=route, max_queue=2)
        decoder.feed(texts("<a>", "<a>", "<a>", "<a>"))  # 3 conflated.
        decoder.feed(texts("<b1>", "<b1>", "<b2>"))  # 2 dropped.
        decoder.feed(texts("<c>", "<c>", "nothing", "<d>"))  # 1 of b2, then 1 of c, and one of nobody, and 1 of d.
        assert decoder.lost == Lost(conflated=3, dropped_oldest=3, dropped_newest=3)
        expected = [("a", 0, 3), ("b1", 2, 0), ("b2", 1, 0), ("c", 1, 0), ("d", 1, 0)]
        assert decoder.lost_by_key() == expected
        for limit in range(6):
            assert decoder.lost_by_key(limit) == expected[:limit]
        assert decoder.lost_by_key(-1) == []
        decoder.clear()
        assert decoder.lost_by_key(100) == expected  # Thrown away isn't said of keys.

    def test_lost_by_key_has_ten(self, impl):
        decoder = impl.FrameDecoder("client", overflow=Conflate(KEY))
        for i in range(20):
            decoder.feed(texts(*[f"<{i:02}>"] * (i + 2)))
        assert decoder.lost_by_key() == [(f"{i:02}", 0, i + 1) for i in range(19, 9, -1)]
        with pytest.raises(TypeError):
            decoder.lost_by_key(limit=3)

    def test_lost_by_key_of_resync(self, impl):
        decoder = after(impl, Resync(KEY), "<a>", "<a>", "<a>", "<a>", "<b>", max_queue=2)
        assert decoder.lost_by_key() == [("a", 4, 0)]

    def test_unlogged(self, impl):
        decoder = impl.FrameDecoder("client", overflow=Conflate(KEY))
        decoder.feed(texts("<a>1", "<b>1"))
        assert decoder.unlogged() == [(TEXT, True, b"<a>1"), (TEXT, True, b"<b>1")]
        assert decoder.unlogged() == []
        decoder.feed(texts("<c>1"))
        decoder.pop()
        assert decoder.unlogged() == [(TEXT, True, b"<c>1")]
        assert left(decoder) == ["<b>1", "<c>1"]

    @pytest.mark.parametrize("way", WAYS)
    def test_all_at_once(self, impl, way):
        """Replies, losses of all kinds, deliveries: the sum holds after each step."""
        route = Route(
            ROUTE_KEY,
            {
                "state": Conflate(KEY),
                "delta": Resync(KEY),
                "old": DropOldest(),
                "new": DropNewest(),
            },
        )
        decoder = impl.FrameDecoder("client", overflow=route, replies=[Reply({"/op": "ping"}, "")], max_queue=4)
        kinds = ["@state <a>", "@delta <b>", "@old ", "@new ", '{"op":"ping"}', "@state <c>", "@delta <d>", "x"]
        for i in range(400):
            way(decoder, texts(kinds[i * i % 7 if i % 3 else i % 8]))
            check_sum(decoder)
            if i % 11 == 0:
                decoder.take(2)
                check_sum(decoder)
            if i % 7 == 0:
                decoder.resynced("b")
            if decoder.resumable:
                decoder.resume()
                check_sum(decoder)
        way(decoder, texts(*["@new "] * 10))
        check_sum(decoder)
        assert decoder.answered
        assert decoder.lost.conflated
        assert decoder.lost.dropped_oldest
        assert decoder.lost.dropped_newest
        assert decoder.lost.resync
