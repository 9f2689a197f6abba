"""The queue is bounded, within one read as well; what stops goes on, and heartbeats pass by."""

from __future__ import annotations

import pytest

from fastws.deflate import Deflate
from fastws.wire import RECORD_BYTES, Status, Violation

from .streams import (
    BINARY,
    CLOSE,
    CONT,
    PING,
    PONG,
    TEXT,
    UNLIMITED,
    WAYS,
    deflate,
    frame,
    key_for,
    pop_all,
)

ROLES = ("client", "server")


def numbered(count, *, key=None, start=0):
    return b"".join(frame(TEXT, b"%d" % i, key=key) for i in range(start, start + count))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("high", [0, 1, 3, 10])
def test_blocks_when_there_are_more_than_high(impl, way, high):
    decoder = impl.FrameDecoder("client", max_queue=high)
    for i in range(high):
        assert way(decoder, numbered(1, start=i)) == Status.MESSAGE
    assert not decoder.blocked
    # At once, although nothing is left to decode: reading must stop at the limit, not behind it.
    assert way(decoder, numbered(1, start=high)) == Status.MESSAGE | Status.BLOCKED
    assert decoder.blocked
    assert way(decoder, numbered(5, start=high + 1)) == Status.BLOCKED
    assert decoder.queued_messages == high + 1


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    ("max_queue", "high", "low"),
    [
        (0, 0, 0),
        (1, 1, 0),
        (16, 16, 4),
        ((5, 2), 5, 2),
        ((5, 5), 5, 5),
        ((5, 0), 5, 0),
        ((8, None), 8, 2),
        ((None, 2), 8, 2),
    ],
)
def test_high_and_low(impl, way, max_queue, high, low):
    decoder = impl.FrameDecoder("client", max_queue=max_queue)
    way(decoder, numbered(60))
    got = []
    while True:
        assert decoder.blocked == (len(got) + decoder.queued_messages < 60 or decoder.queued_messages > high)
        if not decoder.blocked:
            break
        assert decoder.queued_messages == high + 1
        while decoder.queued_messages > low:
            assert not decoder.resumable
            assert decoder.resume() == Status.BLOCKED
            got.append(decoder.pop())
        assert decoder.resumable
        status = decoder.resume()
        assert bool(status & Status.BLOCKED) == decoder.blocked
        assert bool(status & Status.MESSAGE) == (decoder.queued_messages > low)
    got.extend(pop_all(decoder))
    assert got == [str(i) for i in range(60)]


@pytest.mark.parametrize("max_queue", [None, (None, None)])
def test_no_limits(impl, max_queue):
    decoder = impl.FrameDecoder("client", max_queue=max_queue, max_queue_bytes=None)
    decoder.feed(numbered(10_000))
    assert not decoder.blocked
    assert not decoder.resumable
    assert decoder.queued_messages == 10_000


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("size", [0, 1, 68, 100, 5000])
def test_bytes(impl, way, size):
    """Payloads and 32 bytes for each frame; goes on at a quarter."""
    limit = 1000
    decoder = impl.FrameDecoder("client", max_queue_bytes=limit)
    payload = bytes(size)
    way(decoder, frame(BINARY, payload) * 80)
    fit = max(1, -(-limit // (size + RECORD_BYTES)))
    got = 0
    while decoder.blocked:
        assert decoder.queued_messages == fit
        while decoder.queued_bytes + RECORD_BYTES * decoder.queued_frames > limit // 4:
            assert not decoder.resumable
            assert decoder.resume() == Status.BLOCKED
            assert decoder.pop() == payload
            got += 1
        assert decoder.resumable
        fit = min(80 - got, max(1, -(-limit // (size + RECORD_BYTES))))
        decoder.resume()
    assert got + len(pop_all(decoder)) == 80


def test_both_limits(impl):
    decoder = impl.FrameDecoder("client", max_queue=(4, 2), max_queue_bytes=2000)
    decoder.feed(frame(BINARY, bytes(10)) * 4 + frame(BINARY, bytes(2000)) + frame(BINARY))
    assert decoder.queued_messages == 5
    decoder.take(3)
    assert decoder.queued_messages == 2
    assert not decoder.resumable  # Few enough, but too many bytes.
    decoder.take(1)
    assert not decoder.resumable
    decoder.take(1)
    assert decoder.resumable


@pytest.mark.parametrize("max_queue_bytes", [0, 1, 31, 32, 33])
def test_the_smallest_limits_let_one_frame_at_a_time_pass(impl, max_queue_bytes):
    decoder = impl.FrameDecoder("client", max_queue_bytes=max_queue_bytes)
    decoder.feed(numbered(5))
    got = []
    for _ in range(20):
        got.extend(pop_all(decoder))
        if decoder.resumable:
            decoder.resume()
    assert got == [str(i) for i in range(5)]


def test_default_limit(impl):
    """16 MiB, no count."""
    decoder = impl.FrameDecoder("client", max_size=None)
    while not decoder.blocked:
        decoder.feed(frame(BINARY, bytes(2**20 - RECORD_BYTES)))
    assert decoder.queued_messages == 16


@pytest.mark.parametrize("way", WAYS)
def test_the_place_where_it_stops_is_exact(impl, way):
    """Nothing behind it is decoded: neither messages nor what is wrong."""
    bad = frame(TEXT, b"\xff") + frame(3)
    decoder = impl.FrameDecoder("client", max_queue=2)
    way(decoder, numbered(3) + bad)
    assert decoder.blocked
    assert decoder.violation is None
    assert decoder.messages_received == 3
    assert decoder.partial_frame == (0, 0)
    assert way(decoder, b"and more") == Status.BLOCKED
    assert pop_all(decoder) == ("0", "1", "2")
    assert decoder.resume() == Status.VIOLATION
    assert decoder.violation == (Violation.INVALID_UTF8, 0, 0)
    assert not decoder.blocked
    assert decoder.bytes_received == len(numbered(3) + bad + b"and more")


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("high", [0, 1, 2, 5])
def test_nothing_is_lost_duplicated_or_reordered(impl, role, high):
    """Whatever the cut of the bytes and the pace of the consumer."""
    key = key_for(role)
    data = b"".join(
        frame(TEXT, b"%d," % i, fin=False, key=key) + frame(PING, b"%d" % i, key=key) + frame(CONT, b"%d" % i, key=key)
        for i in range(40)
    )
    for way in WAYS:
        for size in (1, 2, 3, 7, 11, 64, len(data)):
            decoder = impl.FrameDecoder(role, max_queue=high)
            got, pings = [], []
            for start in range(0, len(data), size):
                way(decoder, data[start : start + size])
                pings += decoder.controls()
                if start % 3 == 0:
                    got.extend(decoder.take(1))
                if start % 5 == 0 and decoder.resumable:
                    decoder.resume()
            while decoder.queued_messages or decoder.resumable:
                got.extend(pop_all(decoder))
                decoder.resume()
                pings += decoder.controls()
            assert got == [f"{i},{i}" for i in range(40)]
            assert pings == [(PING, b"%d" % i) for i in range(40)]
            assert not decoder.blocked


class TestScanAhead:
    """A heartbeat never waits behind data that was read already."""

    @pytest.mark.parametrize("way", WAYS)
    @pytest.mark.parametrize("role", ROLES)
    def test_pings_and_pongs_behind_the_data(self, impl, role, way):
        key = key_for(role)
        decoder = impl.FrameDecoder(role, max_queue=0)
        data = numbered(2, key=key) + frame(PING, b"p", key=key) + numbered(2, key=key) + frame(PONG, b"q", key=key)
        status = way(decoder, data)
        assert status == Status.MESSAGE | Status.CONTROL | Status.BLOCKED
        assert decoder.controls() == [(PING, b"p"), (PONG, b"q")]
        assert decoder.queued_messages == 1
        assert way(decoder, b"") == Status.BLOCKED

    @pytest.mark.parametrize("way", WAYS)
    def test_reported_once(self, impl, way):
        data = frame(PING, b"1") + numbered(3) + frame(PING, b"2") + numbered(3) + frame(PING, b"3") + numbered(1)
        data += frame(PING, b"4")
        for size in (1, 2, 3, 5, 8, 100):
            decoder = impl.FrameDecoder("client", max_queue=0)
            got, pings = [], []
            for start in range(0, len(data), size):
                way(decoder, data[start : start + size])
                pings += decoder.controls()
            assert pings == [(PING, b"1"), (PING, b"2"), (PING, b"3"), (PING, b"4")]
            while decoder.blocked:
                got.extend(pop_all(decoder))
                assert not decoder.resume() & Status.CONTROL
            got.extend(pop_all(decoder))
            assert decoder.controls() == []
            assert len(got) == 7

    def test_a_ping_that_was_not_complete_yet(self, impl):
        ping = frame(PING, b"heartbeat", key=b"abcd")
        key = b"wxyz"
        for cut in range(len(ping)):
            decoder = impl.FrameDecoder("server", max_queue=0)
            decoder.feed(numbered(2, key=key) + ping[:cut])
            assert decoder.controls() == []
            assert decoder.feed(ping[cut:] + frame(PONG, key=key)) == Status.CONTROL | Status.BLOCKED
            assert decoder.controls() == [(PING, b"heartbeat"), (PONG, b"")]

    def test_a_ping_behind_half_a_message(self, impl):
        data = frame(BINARY, bytes(70_000))
        for cut in (1, 5, 1000):
            decoder = impl.FrameDecoder("client", max_queue=0)
            decoder.feed(numbered(1) + data[:cut])
            assert decoder.feed(data[cut:] + frame(PING, b"x")) == Status.CONTROL | Status.BLOCKED
            assert decoder.controls() == [(PING, b"x")]
            pop_all(decoder)
            assert decoder.resume() == Status.MESSAGE | Status.BLOCKED
            assert decoder.pop() == bytes(70_000)
            assert decoder.resume() == Status(0)

    @pytest.mark.parametrize("stop", [frame(CLOSE, b"\x03\xe8"), frame(3), frame(PING, rsv=1), b"\x89\x7e\x00\x80"])
    def test_stops_at_a_close_frame_and_at_what_is_wrong(self, impl, stop):
        decoder = impl.FrameDecoder("client", max_queue=0)
        decoder.feed(numbered(2) + frame(PING, b"seen") + stop + frame(PING, b"not seen"))
        assert decoder.controls() == [(PING, b"seen")]
        decoder.feed(frame(PING, b"not seen either"))
        assert decoder.controls() == []
        assert decoder.violation is None
        assert decoder.pop() == "0"
        decoder.resume()
        assert decoder.pop() == "1"
        decoder.resume()
        if stop[0] == 0x88:
            assert decoder.violation is None
            assert decoder.controls() == [(CLOSE, b"\x03\xe8")]
        else:
            assert decoder.violation is not None
            assert decoder.controls() == []
        assert not decoder.blocked

    def test_blocked_again_and_again(self, impl):
        """What was found before one stop isn't found again behind the next."""
        decoder = impl.FrameDecoder("client", max_queue=0)
        decoder.feed(numbered(1) + frame(PING, b"a") + numbered(1) + frame(PING, b"b") + numbered(1))
        assert decoder.controls() == [(PING, b"a"), (PING, b"b")]
        decoder.pop()
        decoder.resume()
        assert decoder.blocked
        decoder.feed(frame(PING, b"c") + numbered(1) + frame(PONG, b"d")[:1])
        assert decoder.controls() == [(PING, b"c")]
        decoder.pop()
        decoder.resume()
        decoder.feed(frame(PONG, b"d")[1:])
        assert decoder.controls() == [(PONG, b"d")]
        while decoder.blocked:
            decoder.pop()
            decoder.resume()
        assert decoder.controls() == []
        assert decoder.messages_received == 4


class TestWantMessage:
    """A consumer that waits for a whole message and a decoder that waits for room must not wait for each other."""

    @pytest.mark.parametrize("way", WAYS)
    def test_a_fragmented_message_larger_than_the_queue(self, impl, way):
        decoder = impl.FrameDecoder("client", max_queue_bytes=100)
        data = frame(BINARY, bytes(80), fin=False) + frame(CONT, bytes(80), fin=False) + frame(CONT, bytes(80))
        way(decoder, data + numbered(1))
        assert decoder.blocked
        assert decoder.queued_messages == 0
        assert not decoder.resumable
        assert decoder.resume() == Status.BLOCKED
        decoder.want_message = True
        assert decoder.resumable
        assert decoder.resume() == Status.MESSAGE | Status.BLOCKED
        assert not decoder.want_message
        assert decoder.pop() == bytes(240)
        assert decoder.resume() == Status.MESSAGE
        assert decoder.pop() == "0"

    def test_set_beforehand(self, impl):
        decoder = impl.FrameDecoder("client", max_queue_bytes=100)
        decoder.want_message = True
        for _ in range(10):
            assert decoder.feed(frame(CONT if decoder.queued_frames else TEXT, b"x" * 50, fin=False)) == Status.MESSAGE
        assert decoder.feed(frame(CONT)) == Status.MESSAGE | Status.BLOCKED
        assert decoder.want_message is False
        assert decoder.pop() == "x" * 500

    def test_not_while_a_message_waits(self, impl):
        decoder = impl.FrameDecoder("client", max_queue=0)
        decoder.feed(numbered(3))
        decoder.want_message = True
        assert not decoder.resumable
        assert decoder.resume() == Status.BLOCKED
        assert decoder.queued_messages == 1

    def test_given_up(self, impl):
        """Once nobody waits for the whole message any more, the limit holds for the next frame."""
        decoder = impl.FrameDecoder("client", max_queue_bytes=100)
        decoder.want_message = True
        decoder.feed(frame(TEXT, b"x" * 200, fin=False))
        assert not decoder.blocked
        decoder.want_message = False
        assert decoder.feed(frame(CONT, b"y", fin=False)) == Status.BLOCKED
        assert decoder.queued_frames == 1
        assert decoder.pop_fragment() == (TEXT, False, b"x" * 200)
        assert decoder.resume() == Status.MESSAGE

    def test_max_size_still_holds(self, impl):
        decoder = impl.FrameDecoder("client", max_queue_bytes=10, max_size=100)
        decoder.want_message = True
        decoder.feed(frame(TEXT, b"x" * 90, fin=False) + frame(CONT, b"x" * 11))
        assert decoder.violation == (Violation.MESSAGE_TOO_BIG, 101, 100)


def test_fragments_count_in_bytes_but_not_as_messages(impl):
    decoder = impl.FrameDecoder("client", max_queue=1, max_queue_bytes=None)
    decoder.feed(frame(TEXT, b"a", fin=False) + frame(CONT, b"b", fin=False) * 10)
    assert not decoder.blocked
    decoder.feed(frame(CONT) + numbered(3))
    assert decoder.blocked
    assert decoder.queued_messages == 2


def test_clear_makes_room(impl):
    decoder = impl.FrameDecoder("client", max_queue=(3, 1))
    decoder.feed(numbered(10))
    assert not decoder.resumable
    decoder.clear()
    assert decoder.resumable
    assert decoder.resume() == Status.MESSAGE | Status.BLOCKED
    assert list(decoder.take()) == ["4", "5", "6", "7"]


@pytest.mark.parametrize("way", WAYS)
def test_discard_while_blocked(impl, way):
    decoder = impl.FrameDecoder("client", max_queue=0)
    way(decoder, numbered(3))
    decoder.discard()
    assert not decoder.blocked
    assert not decoder.resumable
    assert way(decoder, numbered(1) + frame(PING)) == Status(0)
    assert decoder.resume() == Status(0)
    assert pop_all(decoder) == ("0",)


def test_refusing_a_message_ends_the_blockade(impl):
    """After a violation nothing is decoded any more, so nobody must wait for ``resume()``."""
    decoder = impl.FrameDecoder("client", max_queue=0, max_fragments=1)
    decoder.feed(frame(TEXT, b"a", fin=False) + frame(CONT, b"b") + numbered(2))
    assert decoder.blocked
    assert decoder.pop() is None
    assert decoder.violation == (Violation.TOO_MANY_FRAGMENTS, 2, 1)
    assert not decoder.blocked
    assert not decoder.resumable
    assert decoder.resume() == Status.VIOLATION
    assert decoder.queued_messages == 0


class TestDropping:
    """While closing, data is thrown away, so that the peer's close frame is reached."""

    @pytest.mark.parametrize("way", WAYS)
    def test_while_blocked(self, impl, way):
        decoder = impl.FrameDecoder("client", max_queue=0)
        way(decoder, numbered(3) + frame(PING, b"p") + numbered(2) + frame(CLOSE, b"\x03\xe8"))
        assert decoder.controls() == [(PING, b"p")]
        assert not decoder.resumable
        decoder.dropping = True
        assert decoder.resumable
        assert decoder.resume() == Status.CONTROL
        assert decoder.controls() == [(CLOSE, b"\x03\xe8")]
        assert pop_all(decoder) == ("0",)
        assert decoder.messages_received == 5

    def test_no_limit_applies(self, impl):
        decoder = impl.FrameDecoder("client", max_queue=0, max_queue_bytes=10)
        decoder.dropping = True
        assert decoder.feed(numbered(100)) == Status(0)
        assert decoder.queued_frames == 0

    def test_payloads_are_not_looked_at(self, impl):
        decoder = impl.FrameDecoder("client", deflate=Deflate())
        decoder.dropping = True
        assert decoder.feed(frame(TEXT, b"\xff") + frame(BINARY, b"\xff\xff", rsv=4)) == Status(0)

    def test_headers_are_checked(self, impl):
        for bad, violation in (
            (frame(CONT), Violation.UNEXPECTED_CONTINUATION),
            (frame(TEXT, fin=False) + frame(TEXT), Violation.EXPECTED_CONTINUATION),
            (frame(TEXT, fin=False) + frame(CONT) + frame(CONT), Violation.UNEXPECTED_CONTINUATION),
            (frame(BINARY, bytes(11)), Violation.MESSAGE_TOO_BIG),
        ):
            decoder = impl.FrameDecoder("client", max_size=10)
            decoder.dropping = True
            decoder.feed(bad)
            assert decoder.violation[0] == violation

    def test_begun_within_a_message(self, impl):
        decoder = impl.FrameDecoder("client", max_size=10)
        decoder.feed(frame(TEXT, bytes(8), fin=False))
        decoder.dropping = True
        decoder.feed(frame(CONT, b"z" * 2, fin=False) + frame(CONT) + frame(TEXT, b"x" * 10))
        assert decoder.violation is None
        assert decoder.current_size is None
        assert decoder.queued_frames == 1
        assert decoder.pop_fragment() == (TEXT, False, bytes(8))


def test_inflated_bytes_are_what_counts(impl):
    decoder = impl.FrameDecoder("client", max_queue_bytes=1000, deflate=Deflate(remote_no_context_takeover=True))
    data = frame(BINARY, deflate(bytes(968)), rsv=4)
    decoder.feed(data * 2)
    assert decoder.blocked
    assert decoder.queued_bytes == 968
    assert decoder.pop() == bytes(968)
    assert decoder.resume() == Status.MESSAGE | Status.BLOCKED


def test_limits_do_not_change_what_comes_out(impl):
    data = numbered(3000)
    free = impl.FrameDecoder("client", **UNLIMITED)
    free.feed(data)
    bounded = impl.FrameDecoder("client", max_queue=7, max_queue_bytes=300)
    bounded.feed(data)
    got = []
    while True:
        got.extend(bounded.take())
        if not bounded.blocked:
            break
        bounded.resume()
    assert got == list(free.take())
