"""RFC 6455 5.2: everything a header can say, at the first byte that says it."""

from __future__ import annotations

import itertools
import struct

import pytest

from fastws.deflate import Deflate
from fastws.wire import Status, Violation

from .streams import (
    BINARY,
    CLOSE,
    CONT,
    KEY,
    PING,
    PONG,
    TEXT,
    UNLIMITED,
    WAYS,
    Outcome,
    by_feed,
    check,
    frame,
    key_for,
)

ROLES = ("client", "server")
MAX = 2**63 - 1


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 128, 255, 256, 1000])
def test_small_messages(impl, role, size):
    payload = bytes(i % 251 for i in range(size))
    check(impl, frame(BINARY, payload, key=key_for(role)), Outcome((payload,)), role=role)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("size", [65535, 65536, 65537, 300_000])
def test_large_messages(impl, role, size):
    payload = bytes(i % 251 for i in range(size))
    check(impl, frame(BINARY, payload, key=key_for(role)), Outcome((payload,)), role=role)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize(
    ("size", "length_bytes"),
    [(0, 2), (0, 8), (5, 2), (5, 8), (125, 2), (125, 8), (126, 8), (1000, 8)],
)
def test_lengths_may_be_longer_than_necessary(impl, role, size, length_bytes):
    payload = b"x" * size
    data = frame(TEXT, payload, key=key_for(role), length_bytes=length_bytes)
    check(impl, data, Outcome((payload.decode(),)), role=role)


@pytest.mark.parametrize("role", ROLES)
def test_many_frames_in_one_stream(impl, role):
    key = key_for(role)
    data = b"".join(
        [
            frame(TEXT, b"one", key=key),
            frame(PING, b"p", key=key),
            frame(BINARY, b"\x00\xff", key=key),
            frame(TEXT, b"", key=key),
            frame(PONG, b"", key=key),
            frame(TEXT, "Grüße".encode(), key=key),
        ]
    )
    expected = Outcome(("one", b"\x00\xff", "", "Grüße"), ((PING, b"p"), (PONG, b"")))
    check(impl, data, expected, role=role)


def test_examples_of_the_rfc(impl):
    hello = bytes.fromhex("8105 48656c6c6f")
    masked = bytes.fromhex("8185 37fa213d 7f9f4d5158")
    fragments = bytes.fromhex("0103 48656c 8002 6c6f")
    ping = bytes.fromhex("8905 48656c6c6f")
    pong = bytes.fromhex("8a85 37fa213d 7f9f4d5158")
    check(impl, hello, Outcome(("Hello",)))
    check(impl, masked, Outcome(("Hello",)), role="server")
    check(impl, fragments, Outcome(("Hello",)))
    check(impl, ping, Outcome((), ((PING, b"Hello"),)))
    check(impl, pong, Outcome((), ((PONG, b"Hello"),)), role="server")


def broken_rule(first: int, second: int, *, masked: bool, deflate: bool, in_message: bool):
    """The first broken rule of a header's first two bytes, in the order of the contract; None if they are fine."""
    opcode, rsv, length = first & 15, first >> 4 & 7, second & 127
    if opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15):
        return (Violation.INVALID_OPCODE, opcode, 0)
    if deflate and opcode == 0 and rsv >= 4:
        return (Violation.RSV1_CONTINUATION, 0, 0)
    if rsv and not (rsv == 4 and deflate and opcode in (1, 2)):
        return (Violation.RESERVED_BITS, rsv, 0)
    if opcode >= 8:
        if first < 128:
            return (Violation.CONTROL_FRAGMENTED, opcode, 0)
        if length > 125:
            return (Violation.CONTROL_TOO_LONG, length, 125)
    if (second >= 128) != masked:
        return (Violation.INCORRECT_MASKING, second >> 7, int(masked))
    if opcode == 0 and not in_message:
        return (Violation.UNEXPECTED_CONTINUATION, 0, 0)
    if opcode in (1, 2) and in_message:
        return (Violation.EXPECTED_CONTINUATION, opcode, 0)
    return None


@pytest.mark.parametrize("in_message", [False, True])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("role", ROLES)
def test_every_first_byte(impl, role, deflate, in_message):
    """All 256 first bytes with all kinds of second bytes: refused at the second byte, or not at all."""
    options = {"deflate": Deflate() if deflate else None}
    start = frame(BINARY, b"a", fin=False, key=key_for(role)) if in_message else b""
    for first, length, mask in itertools.product(range(256), (0, 1, 125, 126, 127), (0, 128)):
        decoder = impl.FrameDecoder(role, **options)
        decoder.feed(start)
        decoder.feed(bytes([first]))
        assert decoder.violation is None
        status = decoder.feed(bytes([mask | length]))
        expected = broken_rule(first, mask | length, masked=role == "server", deflate=deflate, in_message=in_message)
        assert decoder.violation == expected, f"{first:#04x} {mask | length:#04x}"
        assert bool(status & Status.VIOLATION) == (expected is not None)


@pytest.mark.parametrize("role", ROLES)
def test_a_violation_ends_it(impl, role):
    """Messages before it stay, everything behind it is counted and ignored."""
    key = key_for(role)
    good = frame(TEXT, b"good", key=key)
    bad = frame(TEXT, b"bad", rsv=3, key=key)
    expected = Outcome(("good",), ((PING, b""),), (Violation.RESERVED_BITS, 3, 0))
    check(impl, good + frame(PING, key=key) + bad + good + frame(PING, key=key), expected, role=role)


@pytest.mark.parametrize("way", WAYS)
def test_a_close_frame_ends_it(impl, way):
    decoder = impl.FrameDecoder("client")
    close = struct.pack("!H", 1000) + b"bye"
    status = way(decoder, frame(TEXT, b"last") + frame(CLOSE, close) + frame(TEXT, b"late") + frame(PING))
    assert status == Status.MESSAGE | Status.CONTROL
    assert way(decoder, b"\xff\xff\xff") == Status.CONTROL
    assert decoder.controls() == [(CLOSE, close)]
    assert decoder.controls() == []
    assert way(decoder, frame(TEXT, b"late")) == Status(0)
    assert decoder.pop() == "last"
    assert decoder.pop() is None
    assert decoder.violation is None
    assert decoder.messages_received == 1
    assert decoder.partial_frame == (0, 0)


@pytest.mark.parametrize("role", ROLES)
def test_control_payloads_are_unmasked(impl, role):
    payload = bytes(range(125))
    key = key_for(role)
    data = frame(PING, payload, key=key) + frame(PONG, payload[:7], key=key) + frame(CLOSE, b"\x03\xe8", key=key)
    check(impl, data, Outcome((), ((PING, payload), (PONG, payload[:7]), (CLOSE, b"\x03\xe8"))), role=role)


@pytest.mark.parametrize("role", ROLES)
def test_length_too_large(impl, role):
    mask = 0x80 if role == "server" else 0
    for length in (2**63, 2**63 + 5, 2**64 - 1):
        data = struct.pack("!BBQ", 0x82, mask | 127, length)
        for options in (UNLIMITED, {}):
            check(impl, data, Outcome(violation=(Violation.LENGTH_TOO_LARGE, length, MAX)), role=role, **options)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("length", [MAX, 2**62, 2**40, 2**32])
def test_memory_follows_what_arrives_not_what_is_announced(impl, role, way, length):
    mask = 0x80 if role == "server" else 0
    header = struct.pack("!BBQ", 0x82, mask | 127, length) + (KEY if mask else b"")
    decoder = impl.FrameDecoder(role, **UNLIMITED)
    way(decoder, header)
    for i in range(1, 20):
        assert way(decoder, b"\x00" * 50) == Status(0)
        assert decoder.partial_frame == (len(header) + 50 * i, len(header) + length)
    assert decoder.violation is None


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("max_size", [10, (10, None), (10, 100), (10, 10)])
def test_message_too_big_is_refused_by_its_header(impl, role, max_size):
    key = key_for(role)
    check(impl, frame(BINARY, b"x" * 10, key=key), Outcome((b"x" * 10,)), role=role, max_size=max_size)
    violation = (Violation.MESSAGE_TOO_BIG, 11, 10)
    check(impl, frame(BINARY, b"x" * 11, key=key)[:2], Outcome(violation=violation), role=role, max_size=max_size)
    data = frame(TEXT, b"1234", fin=False, key=key) + frame(PING, b"x" * 100, key=key)
    data += frame(CONT, b"5678", fin=False, key=key) + frame(CONT, b"9ab", key=key)[:2]
    expected = Outcome((), ((PING, b"x" * 100),), violation)
    check(impl, data, expected, role=role, max_size=max_size)


@pytest.mark.parametrize("role", ROLES)
def test_fragment_too_big_is_refused_by_its_header(impl, role):
    key = key_for(role)
    data = frame(TEXT, b"1234", fin=False, key=key) + frame(CONT, b"56", key=key)
    check(impl, data, Outcome(("123456",)), role=role, max_size=(None, 4))
    violation = (Violation.FRAGMENT_TOO_BIG, 5, 4)
    check(impl, frame(TEXT, b"12345", key=key)[:2], Outcome(violation=violation), role=role, max_size=(None, 4))
    data = frame(TEXT, b"1234", fin=False, key=key) + frame(CONT, b"12345", key=key)[:2]
    check(impl, data, Outcome(violation=violation), role=role, max_size=(100, 4))


def test_sizes_are_checked_as_soon_as_the_length_is_there(impl):
    for length, head in (
        (1000, struct.pack("!BBH", 0x82, 0xFE, 1000)),
        (2**40, struct.pack("!BBQ", 0x82, 0xFF, 2**40)),
    ):
        decoder = impl.FrameDecoder("server", max_size=999)
        for byte in head[:-1]:
            assert not decoder.feed(bytes([byte])) & Status.VIOLATION
        assert decoder.feed(head[-1:]) & Status.VIOLATION
        assert decoder.violation == (Violation.MESSAGE_TOO_BIG, length, 999)


def test_a_limit_of_zero_lets_empty_messages_pass(impl):
    check(impl, frame(TEXT), Outcome(("",)), max_size=0)
    check(impl, frame(TEXT, b"x"), Outcome(violation=(Violation.MESSAGE_TOO_BIG, 1, 0)), max_size=0)
    check(impl, frame(PING, b"x"), Outcome((), ((PING, b"x"),)), max_size=0)


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("size", [0, 3, 200, 70_000])
def test_partial_frame(impl, role, size):
    data = frame(BINARY, b"x" * size, key=key_for(role))
    header = len(data) - size
    for way in WAYS:
        decoder = impl.FrameDecoder(role)
        assert decoder.partial_frame == (0, 0)
        way(decoder, data)
        assert decoder.partial_frame == (0, 0)
        for received in (*range(1, header), header, header + 1, len(data) - 1):
            if received >= len(data):
                continue
            decoder = impl.FrameDecoder(role)
            way(decoder, data)
            way(decoder, data[:received])
            expected = 2 if received < 2 else header if received < header else len(data)
            assert decoder.partial_frame == (received, expected)


@pytest.mark.parametrize("way", WAYS)
def test_discard(impl, way):
    decoder = impl.FrameDecoder("client")
    way(decoder, frame(TEXT, b"kept") + frame(TEXT, b"half")[:3])
    decoder.discard()
    assert decoder.partial_frame == (0, 0)
    assert way(decoder, frame(TEXT, b"late") + frame(PING)) == Status(0)
    assert decoder.controls() == []
    assert decoder.pop() == "kept"
    assert decoder.pop() is None
    assert decoder.bytes_received == len(frame(TEXT, b"kept") + frame(TEXT, b"late") + frame(PING)) + 3
    assert decoder.violation is None


def test_empty_reads(impl):
    decoder = impl.FrameDecoder("client")
    assert decoder.feed(b"") == Status(0)
    decoder.get_buffer()
    assert decoder.buffer_updated(0) == Status(0)
    decoder.feed(frame(TEXT, b"hi")[:2])
    assert decoder.feed(b"") == Status(0)
    assert decoder.feed(b"hi") == Status.MESSAGE
    assert decoder.pop() == "hi"


def test_feed_takes_anything_bytes_like_and_keeps_no_hold_of_it(impl):
    data = bytearray(frame(TEXT, b"hello"))
    decoder = impl.FrameDecoder("client")
    decoder.feed(data)
    data[:] = bytes(len(data))
    data.extend(b"resizable again")
    decoder.feed(memoryview(frame(TEXT, b"world")))
    assert decoder.pop() == "hello"
    assert decoder.pop() == "world"
    for wrong in ("text", 5, None):
        with pytest.raises(TypeError):
            decoder.feed(wrong)


def test_get_buffer(impl):
    decoder = impl.FrameDecoder("client")
    for sizehint in (-1, 0, 1, 1000, 2**20, 2**30):
        with decoder.get_buffer(sizehint) as buffer:
            assert 0 < len(buffer) <= 256 * 1024
            assert not buffer.readonly
    decoder.get_buffer()
    data = frame(TEXT, b"twice")
    with decoder.get_buffer() as buffer:
        buffer[: len(data)] = data
    assert decoder.buffer_updated(len(data)) == Status.MESSAGE
    assert decoder.pop() == "twice"


def test_buffer_updated_refuses_what_was_not_lent(impl):
    decoder = impl.FrameDecoder("client")
    with pytest.raises(ValueError, match="1"):
        decoder.buffer_updated(1)
    size = len(decoder.get_buffer())
    with pytest.raises(ValueError, match=str(size + 1)):
        decoder.buffer_updated(size + 1)
    with pytest.raises(ValueError, match="-1"):
        decoder.buffer_updated(-1)
    assert decoder.bytes_received == 0


@pytest.mark.parametrize(
    "options",
    [
        {"max_size": -1},
        {"max_size": (-1, None)},
        {"max_size": (None, -1)},
        {"max_queue": -1},
        {"max_queue": (4, 5)},
        {"max_queue": (4, -1)},
        {"max_queue_bytes": -1},
        {"max_fragments": -1},
        {"max_fragments": 0},
    ],
)
def test_wrong_limits(impl, options):
    with pytest.raises(ValueError, match=r"-1|low.* 5 > high 4|max_fragments is 0, must be 1 or more"):
        impl.FrameDecoder("client", **options)


def test_wrong_role(impl):
    with pytest.raises(ValueError, match="proxy"):
        impl.FrameDecoder("proxy")
    assert by_feed(impl.FrameDecoder("client"), b"") == Status(0)
