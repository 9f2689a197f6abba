"""RFC 6455 5.3: size, alignment and position, against the definition."""

from __future__ import annotations

import pytest

from .streams import BINARY, KEY, Outcome, check, frame, xor

SIZES = [*range(67), 95, 96, 97, 127, 128, 129, 255, 256, 257, 1023, 1024, 1025]
DATA = bytes((i * 7 + 3) % 256 for i in range(1025 + 64))


@pytest.mark.parametrize("position", range(9))
def test_size_alignment_position(impl, position):
    key = KEY[position % 4 :] + KEY[: position % 4]
    for size in SIZES:
        for offset in (*range(17), 31, 32, 33, 63):
            view = memoryview(DATA)[offset : offset + size]
            assert impl.apply_mask(view, KEY, position) == xor(bytes(view), key), (size, offset)


def test_twice_is_nothing(impl):
    assert impl.apply_mask(impl.apply_mask(DATA, KEY), KEY) == DATA


def test_pieces(impl):
    """Cut anywhere, and go on with the position."""
    whole = impl.apply_mask(DATA[:200], KEY)
    for cut in range(200):
        assert impl.apply_mask(DATA[:cut], KEY) + impl.apply_mask(DATA[cut:200], KEY, cut) == whole


@pytest.mark.parametrize("make", [bytes, bytearray, memoryview])
def test_types(impl, make):
    result = impl.apply_mask(make(b"abcde"), make(KEY), 1)
    assert type(result) is bytes
    assert result == xor(b"abcde", KEY[1:] + KEY[:1])


def test_source_is_left_alone(impl):
    data = bytearray(DATA[:100])
    impl.apply_mask(data, KEY)
    assert data == DATA[:100]


@pytest.mark.parametrize("position", [2**31 + 3, 2**40 + 1, -1, -6])
def test_far_positions(impl, position):
    start = position % 4
    assert impl.apply_mask(b"0123456789", KEY, position) == xor(b"0123456789", KEY[start:] + KEY[:start])


@pytest.mark.parametrize("key", [b"", b"abc", b"abcde"])
def test_wrong_key(impl, key):
    with pytest.raises(ValueError, match="4"):
        impl.apply_mask(b"data", key)


@pytest.mark.parametrize("arguments", [("text", KEY), (b"data", "keys"), (5, KEY), (None, KEY), (b"data", 4)])
def test_wrong_types(impl, arguments):
    with pytest.raises(TypeError):
        impl.apply_mask(*arguments)


def test_decoder_unmasks_at_any_place_of_its_memory(impl):
    """A frame of each size behind a frame of each size."""
    for first in range(20):
        for second in (0, 1, 3, 4, 7, 8, 15, 16, 17, 31, 33, 64, 65):
            decoder = impl.FrameDecoder("server")
            payloads = [DATA[:first], DATA[5 : 5 + second], DATA[9:40]]
            decoder.feed(b"".join(frame(BINARY, payload, key=KEY) for payload in payloads))
            assert list(decoder.take()) == payloads


@pytest.mark.parametrize("key", [b"\x00\x00\x00\x00", b"\xff\xff\xff\xff", b"\x00\x01\x02\x03", b"\x80\x00\x00\x00"])
def test_keys(impl, key):
    check(impl, frame(BINARY, DATA[:70], key=key), Outcome((DATA[:70],)), role="server")
