"""RFC 6455 8.1: text is UTF-8; errors are those of Python's own decoder, at the frame that shows them."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.wire import Utf8Reason, Violation

from .streams import BINARY, CONT, PING, TEXT, Outcome, check, frame, outcome_of

REASONS = {
    "invalid start byte": Utf8Reason.START,
    "invalid continuation byte": Utf8Reason.CONTINUATION,
    "unexpected end of data": Utf8Reason.END,
}

# First and last of each class of bytes in the table of RFC 3629 section 4.
EDGES = bytes.fromhex("00 7f 80 8f 90 9f a0 bf c0 c1 c2 df e0 e1 ec ed ee ef f0 f1 f3 f4 f5 ff")


def expected_of(*fragments: bytes) -> Outcome:
    """What ``bytes.decode()`` says of the fragments received so far, each in its turn."""
    message = b""
    for number, fragment in enumerate(fragments, 1):
        message += fragment
        try:
            message.decode()
        except UnicodeDecodeError as error:
            if number == len(fragments) or error.reason != "unexpected end of data":
                return Outcome(violation=(Violation.INVALID_UTF8, error.start, REASONS[error.reason]))
    return Outcome((message.decode(),))


def stream_of(*fragments: bytes) -> bytes:
    last = len(fragments) - 1
    return b"".join(frame(TEXT if i == 0 else CONT, fragment, fin=i == last) for i, fragment in enumerate(fragments))


def decode(impl, *fragments: bytes) -> Outcome:
    decoder = impl.FrameDecoder("client")
    decoder.feed(stream_of(*fragments))
    return outcome_of(decoder)


def agree(impl, *fragments: bytes) -> None:
    assert decode(impl, *fragments) == expected_of(*fragments), fragments


@pytest.mark.parametrize(
    "text",
    [
        *("", "a", "ascii only", "κόσμε", "\x00", "\x7f", "\x80", "\u07ff", "\u0800", "\ud7ff", "\ue000", "\ufffd"),
        *("\uffff", "\U00010000", "\U0010ffff", "𝄞" * 30),
        *("a" * 63 + "é", "a" * 64 + "é", "é" * 100, "€" * 50, "x" * 1000 + "€"),
    ],
)
def test_valid(impl, text):
    check(impl, stream_of(text.encode()), Outcome((text,)))
    check(impl, frame(TEXT, text.encode(), key=b"\x01\x80\xff\x10"), Outcome((text,)), role="server")


@pytest.mark.parametrize(
    ("payload", "position", "reason"),
    [
        (b"\x80", 0, Utf8Reason.START),
        (b"abc\xff", 3, Utf8Reason.START),
        (b"\xc0\xaf", 0, Utf8Reason.START),  # overlong
        (b"\xe0\x9f\xbf", 0, Utf8Reason.CONTINUATION),  # overlong
        (b"\xf0\x8f\xbf\xbf", 0, Utf8Reason.CONTINUATION),  # overlong
        (b"\xed\xa0\x80", 0, Utf8Reason.CONTINUATION),  # surrogate
        (b"\xf4\x90\x80\x80", 0, Utf8Reason.CONTINUATION),  # beyond U+10FFFF
        (b"\xf5\x80\x80\x80", 0, Utf8Reason.START),
        (b"ab\xe2\x82", 2, Utf8Reason.END),
        (b"ab\xf0\x9f\x98", 2, Utf8Reason.END),
        (b"ab\xe2\x82c", 2, Utf8Reason.CONTINUATION),
        (b"a" * 100 + b"\xe2\x28\xa1", 100, Utf8Reason.CONTINUATION),
        # Autobahn|Testsuite 6.3.1
        (bytes.fromhex("cebae1bdb9cf83cebcceb5eda080656469746564"), 11, Utf8Reason.CONTINUATION),
    ],
)
def test_invalid(impl, payload, position, reason):
    data = frame(TEXT, b"before") + frame(PING) + frame(TEXT, payload) + frame(TEXT, b"after")
    expected = Outcome(("before",), ((PING, b""),), (Violation.INVALID_UTF8, position, reason))
    check(impl, data, expected)


def test_all_short_sequences(impl):
    for size in (1, 2):
        for sequence in itertools.product(range(256), repeat=size):
            agree(impl, bytes(sequence))


def test_longer_sequences_of_edges(impl):
    for sequence in itertools.product(b"\xe0\xe1\xed\xef\xf0\xf1\xf4\xf5\x41\x80", EDGES, EDGES):
        agree(impl, bytes(sequence))
    for sequence in itertools.product(b"\xf0\xf1\xf4", EDGES, b"\x7f\x80\xbf\xc0", b"\x7f\x80\xbf\xc0\xf0"):
        agree(impl, bytes(sequence))


@pytest.mark.parametrize("padding", [0, 1, 31, 62, 63, 64, 65, 127, 128, 1000])
def test_errors_at_any_place_of_a_block(impl, padding):
    """Bulk validation works in blocks: what is wrong across their edges must be found and placed, too."""
    for bad in (b"\x80", b"\xe2\x82", b"\xed\xa0\x80", b"\xf4\x90", b"\xc0\x80", b"\xf0\x9f\x98", b"\xf0\x9f\x98x"):
        for filler in ("a", "é", "€", "𝄞"):
            text = (filler * padding).encode()
            agree(impl, text + bad)
            agree(impl, text + bad + text)
            agree(impl, text + bad + b"z" * 70)


FRAGMENTED = [
    "aé€𝄞z".encode(),
    b"\xed\xa0\x80",  # Python's incremental decoder says of the first two bytes that they may become valid.
    b"\xf4\x90\x80\x80",
    b"\xe0\x80\x80",
    b"ok\xf0\x9f\x98",
    b"ok\xf0\x9f\x98\x41 and more",
    b"\xc3\x28",
    b"\xe2\x82\xac\xff",
]


@pytest.mark.parametrize("payload", FRAGMENTED, ids=bytes.hex)
def test_cut_into_fragments(impl, payload):
    for first in range(len(payload) + 1):
        for second in range(first, len(payload) + 1):
            agree(impl, payload[:first], payload[first:second], payload[second:])
    agree(impl, *(payload[i : i + 1] for i in range(len(payload))))
    agree(impl, *(payload[i : i + 1] for i in range(len(payload))), b"")
    agree(impl, b"", payload, b"", b"")


def test_the_frame_that_shows_it_is_refused_and_the_earlier_ones_stay(impl):
    data = frame(TEXT, b"a\xe2", fin=False) + frame(PING) + frame(CONT, b"\x82\xacb\xf0", fin=False)
    data += frame(CONT, b"\x9fz", fin=False) + frame(CONT, b"")
    decoder = impl.FrameDecoder("client")
    decoder.feed(data)
    assert decoder.violation == (Violation.INVALID_UTF8, 5, Utf8Reason.CONTINUATION)
    assert decoder.pop() is None
    assert decoder.queued_frames == 2
    assert decoder.pop_fragment() == (TEXT, False, b"a\xe2")
    assert decoder.pop_fragment() == (CONT, False, b"\x82\xacb\xf0")
    assert decoder.pop_fragment() is None


def test_state_does_not_leak_into_the_next_message(impl):
    decoder = impl.FrameDecoder("client")
    decoder.feed(stream_of(b"\xe2", b"\x82", b"\xac") + stream_of(b"abc") + stream_of(b"\xc3", b"\xa9"))
    assert outcome_of(decoder) == Outcome(("€", "abc", "é"))
    decoder.feed(frame(TEXT, b"xyz") + frame(TEXT, b"\xa9"))
    assert outcome_of(decoder) == Outcome(("xyz",), (), (Violation.INVALID_UTF8, 0, Utf8Reason.START))


def test_binary_is_not_looked_at(impl):
    check(
        impl, frame(BINARY, b"\xff\xfe\x80", fin=False) + frame(CONT, b"\xed\xa0"), Outcome((b"\xff\xfe\x80\xed\xa0",))
    )


def test_decode_argument(impl):
    decoder = impl.FrameDecoder("client")
    decoder.feed(frame(TEXT, "é".encode()) * 3 + frame(BINARY, "é".encode()) * 3 + frame(BINARY, b"\xff"))
    assert [decoder.pop(), decoder.pop(True), decoder.pop(False)] == ["é", "é", b"\xc3\xa9"]
    assert [decoder.pop(), decoder.pop(True), decoder.pop(False)] == [b"\xc3\xa9", "é", b"\xc3\xa9"]
    assert decoder.queued_messages == 1
    with pytest.raises(UnicodeDecodeError):
        decoder.pop(True)
    assert decoder.queued_messages == 0
    assert decoder.pop() is None


TEXTS = st.text(st.characters(codec="utf-8"), max_size=90)
MESSY = st.lists(
    st.one_of(TEXTS.map(str.encode), st.binary(max_size=4), st.lists(st.sampled_from(EDGES), max_size=5).map(bytes)),
    max_size=6,
).map(b"".join)


@given(payload=MESSY, cuts=st.lists(st.integers(0, 400), max_size=5))
def test_any_bytes_in_any_fragments(impl, payload, cuts):
    places = [0, *sorted(min(cut, len(payload)) for cut in cuts), len(payload)]
    agree(impl, *(payload[start:end] for start, end in itertools.pairwise(places)))
