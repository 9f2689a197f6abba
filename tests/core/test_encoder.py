"""Outgoing frames, read back by ``websockets`` and by our own decoders."""

from __future__ import annotations

import array
import os
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Frame
from websockets.frames import Opcode as TheirOpcode
from websockets.streams import StreamReader

from fastws.deflate import Deflate
from fastws.wire import Violation

from .streams import BINARY, CLOSE, CONT, PING, PONG, TEXT, UNLIMITED, frame, pop_all, xor

ROLES = ("client", "server")
SIZES = [0, 1, 2, 124, 125, 126, 127, 1000, 65535, 65536, 70_000]
OPTIONS = [
    Deflate(),
    Deflate(local_no_context_takeover=True),
    Deflate(local_max_window_bits=9, level=1, mem_level=1),
    Deflate(local_max_window_bits=12, level=9, mem_level=9, strategy=2),
    Deflate(level=0),
]


def other(role):
    return "client" if role == "server" else "server"


def extension_for(deflate):
    """The peer's extension: our local parameters are its remote ones."""
    return PerMessageDeflate(deflate.local_no_context_takeover, False, deflate.local_max_window_bits, 15)


def parse(data, *, mask, extensions=()):
    """Parse frames with ``websockets``; all of ``data`` must be used up."""
    reader = StreamReader()
    reader.feed_data(data)
    frames = []
    while reader.buffer:
        parser = Frame.parse(reader.read_exact, mask=mask, extensions=extensions)
        with pytest.raises(StopIteration) as stop:
            next(parser)
        frames.append(stop.value.value)
    return frames


def keys_of(data):
    """The masking keys of small masked frames."""
    keys = []
    while data:
        length, start = data[1] & 127, 2
        if length == 126:
            (length,) = struct.unpack("!H", data[2:4])
            start = 4
        keys.append(data[start : start + 4])
        data = data[start + 4 + length :]
    return keys


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("size", SIZES)
def test_read_by_websockets(impl, role, size):
    encoder = impl.FrameEncoder(role)
    payload = bytes(i % 251 for i in range(size))
    text = "a" * size
    for opcode, data, expected in ((BINARY, payload, payload), (TEXT, text, text.encode()), (CONT, payload, payload)):
        for fin in (True, False):
            encoded = encoder.encode(opcode, data, fin)
            assert type(encoded) is bytes
            assert parse(encoded, mask=role == "client") == [Frame(TheirOpcode(opcode), expected, fin)]


@pytest.mark.parametrize("size", SIZES)
def test_header_is_the_shortest(impl, size):
    payload = bytes(size)
    assert impl.FrameEncoder("server").encode(BINARY, payload) == frame(BINARY, payload)
    masked = impl.FrameEncoder("client").encode(BINARY, payload)
    header = len(masked) - size
    key = masked[header - 4 : header]
    assert masked == frame(BINARY, payload[:0], key=key) if size == 0 else masked[header:] == xor(payload, key)
    assert header == (2 if size < 126 else 4 if size < 65536 else 10) + 4


def test_same_bytes_as_websockets(impl):
    encoder = impl.FrameEncoder("server")
    for opcode, payload, fin in (
        (TEXT, b"hi", True),
        (BINARY, bytes(300), False),
        (CONT, b"", True),
        (PING, b"x", True),
    ):
        assert encoder.encode(opcode, payload, fin=fin) == Frame(TheirOpcode(opcode), payload, fin).serialize(
            mask=False
        )


@pytest.mark.parametrize("role", ROLES)
def test_control_frames(impl, role):
    encoder = impl.FrameEncoder(role, deflate=Deflate())
    for opcode in (PING, PONG, CLOSE):
        for payload in (b"", b"\x03\xe8bye", bytes(125)):
            encoded = encoder.encode(opcode, payload)
            assert parse(encoded, mask=role == "client") == [Frame(TheirOpcode(opcode), payload)]
        with pytest.raises(ValueError, match="125"):
            encoder.encode(opcode, bytes(126))
        with pytest.raises(ValueError, match="fragmented"):
            encoder.encode(opcode, b"", fin=False)
    assert encoder.encode(PING, "é")[-2:] != b""


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15, 16, 255, 256, 257, -1])
def test_unknown_opcodes(impl, opcode):
    with pytest.raises(ValueError):  # noqa: PT011
        impl.FrameEncoder("client").encode(opcode, b"")


@pytest.mark.parametrize(
    "data",
    [
        b"bytes",
        bytearray(b"bytes"),
        memoryview(b"bytes"),
        memoryview(b"xbytesx")[1:-1],
        array.array("b", b"bytes"),
        "bytes",
    ],
    ids=lambda data: type(data).__name__,
)
@pytest.mark.parametrize("deflate", [None, Deflate()])
def test_types(impl, data, deflate):
    encoder = impl.FrameEncoder("client", deflate=deflate)
    decoder = impl.FrameDecoder("server", deflate=deflate)
    decoder.feed(encoder.encode(BINARY, data))
    decoder.feed(encoder.encode_batch([data], text=False))
    assert list(decoder.take()) == [b"bytes", b"bytes"]


def test_wider_items_count_in_bytes(impl):
    data = array.array("I", [1, 2, 3])
    assert impl.FrameEncoder("server").encode(BINARY, data) == frame(BINARY, data.tobytes())


@pytest.mark.parametrize("data", [5, None, 1.5, ["a"], object()], ids=repr)
def test_wrong_types(impl, data):
    encoder = impl.FrameEncoder("server")
    with pytest.raises(TypeError):
        encoder.encode(BINARY, data)
    with pytest.raises(TypeError):
        encoder.encode_batch([data])
    with pytest.raises(TypeError):
        encoder.encode_batch(5)


def test_lone_surrogates(impl):
    encoder = impl.FrameEncoder("client")
    with pytest.raises(UnicodeEncodeError):
        encoder.encode(TEXT, "\ud800")
    with pytest.raises(UnicodeEncodeError):
        encoder.encode_batch(["fine", "\ud800"])


def test_source_is_left_alone(impl):
    data = bytearray(b"payload " * 20)
    encoder = impl.FrameEncoder("client")
    encoder.encode(BINARY, data)
    encoder.encode_batch([data, memoryview(data)])
    assert data == b"payload " * 20
    data.append(0)  # And nothing holds it.


def test_wrong_role(impl):
    with pytest.raises(ValueError, match="proxy"):
        impl.FrameEncoder("proxy")


@pytest.mark.parametrize("role", ROLES)
def test_batch(impl, role):
    messages = ["text", b"binary", "", b"", bytearray(b"x" * 200), "é" * 100, bytes(70_000)]
    encoder = impl.FrameEncoder(role)
    as_bytes = [m.encode() if isinstance(m, str) else bytes(m) for m in messages]
    for text in (None, True, False):
        kinds = [isinstance(m, str) if text is None else text for m in messages]
        frames = parse(encoder.encode_batch(messages, text), mask=role == "client")
        assert [(f.opcode, f.data, f.fin) for f in frames] == [
            (TEXT if kind else BINARY, data, True) for kind, data in zip(kinds, as_bytes, strict=True)
        ]
    assert encoder.encode_batch([]) == b""
    assert encoder.encode_batch(message for message in ["a", "b"]) != b""
    assert len(parse(encoder.encode_batch(tuple(messages), text=False), mask=role == "client")) == len(messages)


def test_batch_of_a_generator_that_fails(impl):
    def messages():
        yield "one"
        raise RuntimeError("stop")

    encoder = impl.FrameEncoder("server", deflate=Deflate())
    decoder = impl.FrameDecoder("client", deflate=Deflate())
    with pytest.raises(RuntimeError, match="stop"):
        encoder.encode_batch(messages())
    decoder.feed(encoder.encode(TEXT, "one"))
    assert decoder.pop() == "one"


@pytest.mark.parametrize("bad", [5, "\ud800", None])
def test_nothing_is_encoded_of_a_batch_with_an_error(impl, bad):
    """Or the compressor would be ahead of the peer's."""
    encoder = impl.FrameEncoder("server", deflate=Deflate())
    decoder = impl.FrameDecoder("client", deflate=Deflate())
    decoder.feed(encoder.encode(TEXT, "first message, first message"))
    with pytest.raises((TypeError, UnicodeEncodeError)):
        encoder.encode_batch(["first message, second message", bad])
    decoder.feed(encoder.encode(TEXT, "first message, second message"))
    assert list(decoder.take()) == ["first message, first message", "first message, second message"]


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("deflate", OPTIONS)
def test_deflate_is_read_by_websockets(impl, role, deflate):
    encoder = impl.FrameEncoder(role, deflate=deflate)
    extension = extension_for(deflate)
    payloads = [
        b"",
        b"hello " * 3,
        b"",
        b"",
        os.urandom(300),
        bytes(100_000),
        os.urandom(70_000),
        b"a",
        b"",
        b"hello " * 9,
    ]
    for payload in payloads:
        assert parse(encoder.encode(BINARY, payload), mask=role == "client", extensions=[extension]) == [
            Frame(TheirOpcode.BINARY, payload)
        ]
    frames = parse(encoder.encode_batch(payloads), mask=role == "client", extensions=[extension])
    assert [f.data for f in frames] == payloads
    parts = [b"frag", b"", b"men", b"", b"ted"]
    encoded = b"".join(
        encoder.encode(CONT if i else TEXT, part, fin=i == len(parts) - 1) for i, part in enumerate(parts)
    )
    frames = parse(encoded, mask=role == "client", extensions=[extension])
    assert b"".join(f.data for f in frames) == b"fragmented"
    assert [f.fin for f in frames] == [False, False, False, False, True]


@pytest.mark.parametrize("takeover", [False, True])
def test_a_continuation_of_nothing(impl, takeover):
    """Refusing it is up to who knows the messages; the encoder makes the frame, and stays usable."""
    encoder = impl.FrameEncoder("server", deflate=Deflate(local_no_context_takeover=not takeover))
    stray = encoder.encode(CONT, b"stray")
    decoder = impl.FrameDecoder("client", deflate=Deflate())
    decoder.feed(stray)
    assert decoder.violation[0] == Violation.UNEXPECTED_CONTINUATION
    decoder = impl.FrameDecoder("client", deflate=Deflate(remote_no_context_takeover=not takeover))
    # With a beginning in front, what it holds is readable: with context takeover the next message may refer to it.
    decoder.feed(frame(BINARY, fin=False, rsv=4) + stray + encoder.encode_batch([b"stray", "and text"]))
    assert [decoder.pop() for _ in range(3)] == [b"stray", b"stray", "and text"]


@pytest.mark.parametrize("deflate", OPTIONS)
@pytest.mark.parametrize("parts", [[b"", b""], [b"", b"x"], [b"x", b""], [b"x", b"", b""], [b"", b"", b""]], ids=repr)
def test_empty_fragments(impl, deflate, parts):
    encoder = impl.FrameEncoder("server", deflate=deflate)
    extension = extension_for(deflate)
    for _ in range(3):
        encoded = b"".join(
            encoder.encode(CONT if i else BINARY, part, fin=i == len(parts) - 1) for i, part in enumerate(parts)
        )
        frames = parse(encoded, mask=False, extensions=[extension])
        assert [f.data for f in frames] == parts


def test_deflate_sets_rsv1_on_the_first_frame_only(impl):
    encoder = impl.FrameEncoder("server", deflate=Deflate())
    assert encoder.encode(TEXT, "a", fin=False)[0] == 0x41
    assert encoder.encode(CONT, "b", fin=False)[0] == 0x00
    assert encoder.encode(CONT, "c")[0] == 0x80
    assert encoder.encode(BINARY, b"d")[0] == 0xC2
    assert encoder.encode(PING, b"e") == frame(PING, b"e")


def test_deflate_takes_over_the_context(impl):
    text = "a message that repeats itself in the next message"
    with_context = impl.FrameEncoder("server", deflate=Deflate())
    without = impl.FrameEncoder("server", deflate=Deflate(local_no_context_takeover=True))
    first = with_context.encode(TEXT, text)
    assert len(with_context.encode(TEXT, text)) < len(first) / 2
    assert without.encode(TEXT, text) == without.encode(TEXT, text)


def test_keys_differ(impl):
    encoders = [impl.FrameEncoder("client") for _ in range(3)]
    keys = []
    for _ in range(1000):
        for encoder in encoders:
            keys += keys_of(encoder.encode(BINARY, b"x"))
    keys += keys_of(encoders[0].encode_batch([b"x"] * 3000))
    assert len(keys) == 6000
    # Of 6000 random keys, more than 5 equal pairs are less likely than 1 in 10 ** 15.
    assert len(set(keys)) >= 5995
    for position in range(4):
        assert len({key[position] for key in keys}) == 256


def test_keys_differ_after_fork(impl):
    """Parent and child must not go on with the same keys."""
    encoder = impl.FrameEncoder("client")
    encoder.encode(BINARY, b"")
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(sending, encoder.encode_batch([b""] * 500))
        finally:
            os._exit(0)
    os.close(sending)
    mine = encoder.encode_batch([b""] * 500)
    theirs = b""
    while data := os.read(receiving, 65536):
        theirs += data
    os.close(receiving)
    os.waitpid(child, 0)
    assert len(keys_of(theirs)) == 500
    assert len(set(keys_of(mine)) & set(keys_of(theirs))) <= 1


MESSAGES = st.lists(st.one_of(st.text(st.characters(codec="utf-8"), max_size=300), st.binary(max_size=300)), max_size=8)


@given(messages=MESSAGES, role=st.sampled_from(ROLES), deflate=st.sampled_from([None, *OPTIONS]))
def test_round_trip(impl, messages, role, deflate):
    peer = None
    if deflate is not None:
        peer = Deflate(
            remote_no_context_takeover=deflate.local_no_context_takeover,
            remote_max_window_bits=deflate.local_max_window_bits,
        )
    encoder = impl.FrameEncoder(role, deflate=deflate)
    decoder = impl.FrameDecoder(other(role), deflate=peer, **UNLIMITED)
    decoder.feed(b"".join(encoder.encode(TEXT if isinstance(m, str) else BINARY, m) for m in messages))
    decoder.feed(encoder.encode_batch(messages))
    assert pop_all(decoder) == (*messages, *messages)
