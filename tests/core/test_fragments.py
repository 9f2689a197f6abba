"""RFC 6455 5.4: fragmentation, and what waits in the queue."""

from __future__ import annotations

import time

import pytest

from fastws.wire import Status, Violation

from .streams import BINARY, CLOSE, CONT, PING, PONG, TEXT, Outcome, check, frame, key_for, outcome_of

ROLES = ("client", "server")


def message(opcode, *parts, key=None):
    last = len(parts) - 1
    return b"".join(frame(CONT if i else opcode, part, fin=i == last, key=key) for i, part in enumerate(parts))


@pytest.mark.parametrize("role", ROLES)
def test_fragments_are_joined(impl, role):
    key = key_for(role)
    data = message(TEXT, b"one ", b"two ", b"three", key=key) + message(BINARY, b"", b"\xff", b"", b"", key=key)
    check(impl, data, Outcome(("one two three", b"\xff")), role=role)
    check(impl, message(TEXT, b"", b"", key=key), Outcome(("",)), role=role)


@pytest.mark.parametrize("role", ROLES)
def test_control_frames_between_fragments(impl, role):
    key = key_for(role)
    data = b"".join(
        [
            frame(BINARY, b"12", fin=False, key=key),
            frame(PING, b"a", key=key),
            frame(PONG, b"b", key=key),
            frame(CONT, b"34", fin=False, key=key),
            frame(PING, b"c", key=key),
            frame(CONT, b"56", key=key),
        ]
    )
    check(impl, data, Outcome((b"123456",), ((PING, b"a"), (PONG, b"b"), (PING, b"c"))), role=role)


def test_many_fragments(impl):
    parts = [bytes([i % 256]) * (i % 7) for i in range(3000)]
    decoder = impl.FrameDecoder("client")
    decoder.feed(message(BINARY, *parts))
    assert decoder.pop() == b"".join(parts)


def test_large_fragments(impl):
    parts = [bytes([i]) * 100_000 for i in range(5)]
    check(impl, message(BINARY, *parts), Outcome((b"".join(parts),)))


def test_wrong_sequences(impl):
    check(impl, frame(CONT, b"x")[:2], Outcome(violation=(Violation.UNEXPECTED_CONTINUATION, 0, 0)))
    data = message(TEXT, b"a", b"b") + frame(CONT)
    check(impl, data, Outcome(("ab",), (), (Violation.UNEXPECTED_CONTINUATION, 0, 0)))
    for opcode in (TEXT, BINARY):
        data = frame(TEXT, b"a", fin=False) + frame(PING) + frame(opcode, b"b")
        check(impl, data, Outcome((), ((PING, b""),), (Violation.EXPECTED_CONTINUATION, opcode, 0)))


def test_close_within_a_message(impl):
    decoder = impl.FrameDecoder("client")
    decoder.feed(frame(TEXT, b"a", fin=False) + frame(CLOSE) + frame(CONT, b"b"))
    assert outcome_of(decoder) == Outcome((), ((CLOSE, b""),))
    assert decoder.current_size == 1
    assert decoder.pop_fragment() == (TEXT, False, b"a")


def test_counters(impl):
    decoder = impl.FrameDecoder("client")

    def state():
        return decoder.queued_messages, decoder.queued_frames, decoder.queued_bytes, decoder.current_size

    assert state() == (0, 0, 0, None)
    assert decoder.feed(frame(TEXT, b"abc", fin=False)) == Status.MESSAGE
    assert state() == (0, 1, 3, 3)
    assert decoder.feed(frame(PING)) == Status.CONTROL
    assert decoder.feed(frame(CONT, b"", fin=False)) == Status.MESSAGE | Status.CONTROL
    assert state() == (0, 2, 3, 3)
    decoder.controls()
    decoder.feed(frame(CONT, b"de"))
    assert state() == (1, 3, 5, None)
    assert decoder.messages_received == 1
    decoder.feed(frame(BINARY, b"xyz"))
    assert state() == (2, 4, 8, None)
    assert decoder.pop() == "abcde"
    assert state() == (1, 1, 3, None)
    assert decoder.pop() == b"xyz"
    assert state() == (0, 0, 0, None)
    assert decoder.messages_received == 2
    assert decoder.feed(b"") == Status(0)


def test_pop_fragment(impl):
    decoder = impl.FrameDecoder("client")
    decoder.feed(message(TEXT, b"a", b"", b"bc") + frame(BINARY, b"d") + frame(TEXT, b"e", fin=False))
    fragments = []
    while (fragment := decoder.pop_fragment()) is not None:
        fragments.append(fragment)
    assert fragments == [
        (TEXT, False, b"a"),
        (CONT, False, b""),
        (CONT, True, b"bc"),
        (BINARY, True, b"d"),
        (TEXT, False, b"e"),
    ]
    assert all(type(fin) is bool for _, fin, _ in fragments)
    assert decoder.queued_frames == 0
    assert decoder.current_size == 1


def test_the_rest_of_a_message_is_only_for_pop_fragment(impl):
    """Whoever began to stream a message goes on so; half a message never looks like a whole one."""
    decoder = impl.FrameDecoder("client")
    decoder.feed(message(TEXT, b"a", b"b", b"c") + frame(TEXT, b"next"))
    assert decoder.pop_fragment() == (TEXT, False, b"a")
    assert decoder.pop() is None
    assert len(decoder.take()) == 0
    assert decoder.queued_frames == 3
    assert decoder.pop_fragment() == (CONT, False, b"b")
    assert decoder.queued_frames == decoder.queued_messages == 2
    assert decoder.pop() is None
    assert len(decoder.take()) == 0
    assert len(decoder.take(1)) == 0
    assert decoder.pop_fragment() == (CONT, True, b"c")
    assert decoder.pop() == "next"
    assert decoder.queued_bytes == 0


def test_take(impl):
    decoder = impl.FrameDecoder("client")
    assert list(decoder.take()) == []
    decoder.feed(message(TEXT, b"a", b"b") + b"".join(frame(BINARY, b"%d" % i) for i in range(5)))
    decoder.feed(frame(TEXT, b"half", fin=False))
    assert list(decoder.take(2)) == ["ab", b"0"]
    assert list(decoder.take(1)) == [b"1"]
    assert list(decoder.take(None)) == [b"2", b"3", b"4"]
    assert list(decoder.take()) == []
    assert decoder.queued_frames == 1
    decoder.feed(frame(CONT, b" whole"))
    assert list(decoder.take(100)) == ["half whole"]
    for wrong in (0, -1):
        with pytest.raises(ValueError, match="1"):
            decoder.take(wrong)


def test_pop_and_take_in_turn(impl):
    decoder = impl.FrameDecoder("client")
    expected = [f"{i}" for i in range(200)]
    decoder.feed(b"".join(frame(TEXT, text.encode()) for text in expected))
    got = []
    while decoder.queued_messages:
        got.append(decoder.pop())
        got.extend(decoder.take(3))
        if decoder.queued_messages:
            opcode, fin, payload = decoder.pop_fragment()
            assert (opcode, fin) == (TEXT, True)
            got.append(payload.decode())
    assert got == expected


def test_clear(impl):
    decoder = impl.FrameDecoder("client")
    decoder.feed(message(TEXT, b"a", b"b") + frame(BINARY, b"c"))
    decoder.clear()
    assert (decoder.queued_messages, decoder.queued_frames, decoder.queued_bytes) == (0, 0, 0)
    assert decoder.pop() is None
    assert decoder.messages_received == 2
    decoder.feed(frame(TEXT, b"new"))
    assert decoder.pop() == "new"


def test_unlogged(impl):
    decoder = impl.FrameDecoder("client")
    assert decoder.unlogged() == []
    decoder.feed(frame(TEXT, b"a") + frame(PING) + frame(BINARY, b"b", fin=False))
    assert decoder.unlogged() == [(TEXT, True, b"a"), (BINARY, False, b"b")]
    assert decoder.unlogged() == []
    decoder.feed(frame(CONT, b"c") + frame(TEXT, b"d"))
    assert decoder.pop() == "a"
    assert decoder.pop() == b"bc"
    assert decoder.unlogged() == [(TEXT, True, b"d")]
    assert decoder.pop() == "d"
    decoder.feed(frame(TEXT, b"e"))
    decoder.clear()
    assert decoder.unlogged() == []
    decoder.feed(frame(TEXT, b"f"))
    assert decoder.unlogged() == [(TEXT, True, b"f")]
    assert decoder.pop() == "f"


def test_received_ns(impl):
    """The time of the read that brought the last byte of the last fragment."""
    decoder = impl.FrameDecoder("client")
    reads = [
        frame(TEXT, b"whole") + frame(TEXT, b"in ", fin=False),
        frame(CONT, b"two ", fin=False) + frame(CONT, b"reads")[:-1],
        b"s" + frame(BINARY, b"same read"),
    ]
    times = []
    for number, read in enumerate(reads):
        before = time.monotonic_ns()
        if number % 2:
            decoder.get_buffer()[: len(read)] = read
            decoder.buffer_updated(len(read))
        else:
            decoder.feed(read)
        times.append((before, time.monotonic_ns()))
        time.sleep(0.001)
    batch = decoder.take()
    assert list(batch) == ["whole", "in two reads", b"same read"]
    for index, read in enumerate((0, 2, 2)):
        assert times[read][0] <= batch.received_ns_at(index) <= times[read][1]
    assert batch.received_ns_at(1) == batch.received_ns_at(2)
    assert batch.received_ns == batch.received_ns_at(0)


class TestTooManyFragments:
    """RFC 6455 10.4: a message of very many tiny fragments costs far more than its size."""

    def decoder(self, impl, **options):
        return impl.FrameDecoder("client", max_fragments=3, **options)

    def test_as_many_as_allowed(self, impl):
        check(impl, message(TEXT, b"a", b"b", b"c"), Outcome(("abc",)), max_fragments=3)

    def test_pop(self, impl):
        decoder = self.decoder(impl)
        status = decoder.feed(message(TEXT, *b"a b c d e".split()) + frame(TEXT, b"next"))
        assert status == Status.MESSAGE
        assert decoder.violation is None
        assert decoder.pop() is None
        assert decoder.violation == (Violation.TOO_MANY_FRAGMENTS, 5, 3)
        assert decoder.queued_messages == 1
        assert decoder.queued_bytes == 4
        assert decoder.feed(frame(TEXT, b"ignored")) == Status.VIOLATION
        assert decoder.pop() == "next"
        assert decoder.pop() is None

    def test_take(self, impl):
        decoder = self.decoder(impl)
        decoder.feed(frame(TEXT, b"1") + frame(TEXT, b"2") + message(TEXT, *b"a b c d".split()) + frame(TEXT, b"3"))
        assert list(decoder.take()) == ["1", "2"]
        assert decoder.violation is None
        assert decoder.queued_messages == 2
        assert list(decoder.take()) == []
        assert decoder.violation == (Violation.TOO_MANY_FRAGMENTS, 4, 3)
        assert list(decoder.take()) == ["3"]

    def test_streaming_has_no_such_limit(self, impl):
        decoder = self.decoder(impl)
        decoder.feed(message(TEXT, *b"a b c d e f".split()))
        assert b"".join(decoder.pop_fragment()[2] for _ in range(6)) == b"abcdef"
        assert decoder.violation is None

    def test_while_a_consumer_waits_for_the_whole(self, impl):
        decoder = self.decoder(impl)
        decoder.want_message = True
        decoder.feed(frame(TEXT, b"a", fin=False) + frame(CONT, b"b", fin=False) + frame(CONT, b"c", fin=False))
        assert decoder.violation is None
        status = decoder.feed(frame(CONT, b"d", fin=False) + frame(CONT, b"e", fin=False))
        assert status == Status.MESSAGE | Status.VIOLATION
        assert decoder.violation == (Violation.TOO_MANY_FRAGMENTS, 4, 3)
        assert decoder.queued_frames == 4

    def test_the_final_fragment_is_one_too_many(self, impl):
        """Then the message is complete, and it is up to the consumer how to take it."""
        decoder = self.decoder(impl)
        decoder.want_message = True
        decoder.feed(message(TEXT, *b"a b c d".split()))
        assert decoder.violation is None
        assert not decoder.want_message
        assert decoder.pop() is None
        assert decoder.violation == (Violation.TOO_MANY_FRAGMENTS, 4, 3)

    def test_not_while_another_message_waits(self, impl):
        decoder = self.decoder(impl)
        decoder.feed(frame(TEXT, b"whole") + frame(TEXT, b"a", fin=False))
        decoder.want_message = True
        decoder.feed(b"".join(frame(CONT, b"b", fin=False) for _ in range(5)))
        assert decoder.violation is None
        assert decoder.pop() == "whole"
        decoder.feed(frame(CONT, b"c", fin=False))
        assert decoder.violation == (Violation.TOO_MANY_FRAGMENTS, 7, 3)

    def test_the_first_violation_stays(self, impl):
        decoder = self.decoder(impl)
        decoder.feed(message(TEXT, *b"a b c d".split()) + frame(3))
        assert decoder.violation == (Violation.INVALID_OPCODE, 3, 0)
        assert decoder.pop() is None
        assert decoder.violation == (Violation.INVALID_OPCODE, 3, 0)
        assert decoder.queued_frames == 0
