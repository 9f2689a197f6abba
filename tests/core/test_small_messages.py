"""Small messages compressed by themselves have an inflater of their own: what zlib says of them must stay.

All is compared with the reference, which is plain zlib.
"""

from __future__ import annotations

import json
import random
import zlib

import pytest

from fastws.deflate import Deflate
from fastws.wire import Violation

from .streams import BINARY, CONT, TAIL, UNLIMITED, Outcome, deflate, frame, outcome_of

STRATEGIES = [zlib.Z_DEFAULT_STRATEGY, zlib.Z_FILTERED, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED]
JSON = json.dumps(
    {
        "e": "aggTrade",
        "E": 1709164806211,
        "s": "1000SHIBUSDT",
        "p": "0.012733",
        "q": "28019",
        "T": 1709164806208,
        "m": True,
    }
).encode()
PAYLOADS = {
    "json": JSON,
    "short": b'{"op":"ping","op":"pong"}',
    "run": b"ab" + bytes(300) + b"ba" * 40,
    "bytes": random.Random(1).randbytes(60),
    "skewed": b"".join(bytes([97 + i]) * 2**i for i in range(11)),
}


def compressed(payload: bytes) -> bytes:
    return frame(BINARY, payload, rsv=4)


def no_takeover(bits: int = 15) -> Deflate:
    return Deflate(remote_no_context_takeover=True, remote_max_window_bits=bits)


class Comparison:
    """Streams of which both implementations must make the same."""

    def __init__(self, reference, compiled, options: Deflate) -> None:
        self.implementations = (reference, compiled)
        self.options = options
        self.refused = 0

    def __call__(self, payload: bytes, **limits: object) -> None:
        """The message between two good ones, so that nothing of it may stay behind."""
        good = compressed(deflate(JSON))
        outcomes = []
        for implementation in self.implementations:
            decoder = implementation.FrameDecoder("client", deflate=self.options, **limits)
            decoder.feed(good + compressed(payload) + good)
            outcomes.append(outcome_of(decoder))
        assert outcomes[0] == outcomes[1], payload.hex()
        self.refused += outcomes[0].violation is not None


@pytest.fixture
def same(reference, compiled):
    return Comparison(reference, compiled, no_takeover())


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", PAYLOADS)
def test_every_truncation(same, name, strategy):
    data = deflate(PAYLOADS[name], strategy=strategy)
    for size in range(len(data) + 1):
        same(data[:size])
        same(data[size:])
    same(data + TAIL)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", PAYLOADS)
def test_every_bit(same, name, strategy):
    data = deflate(PAYLOADS[name], strategy=strategy)
    for place in range(len(data)):
        for bit in range(8):
            broken = bytearray(data)
            broken[place] ^= 1 << bit
            same(bytes(broken))
    if name == "json" and strategy == zlib.Z_DEFAULT_STRATEGY:
        assert 0 < same.refused < 8 * len(data)


def test_every_first_two_bytes(same):
    for first in range(256):
        for second in range(0, 256, 5):
            same(bytes([first, second, 0, 0xFF, 0xFF, 0x55]))


@pytest.mark.parametrize("takeover", [False, True])
def test_a_final_block_that_ends_in_what_the_sender_removed(reference, compiled, takeover):
    """What is left of the 00 00 FF FF begins a new stream."""
    same = Comparison(reference, compiled, Deflate(remote_no_context_takeover=not takeover))
    for first in range(256):
        for second in range(0, 256, 3):
            same(bytes([0x03 | first << 3 & 0xFF, first >> 5 | second << 3 & 0xFF]))
    assert same.refused > 0


@pytest.mark.parametrize("bits", range(8, 16))
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_all_that_zlib_makes(impl, strategy, bits):
    choose = random.Random(bits)
    sizes = [0, 1, 2, 3, 257, 258, 259, 1000, 65_536, 70_000, *(int(2 ** choose.uniform(0, 14)) for _ in range(40))]
    if bits == 8:
        # zlib can't compress for a window of 256 bytes.
        sizes = [size for size in sizes if size < 250]
    payloads = []
    decoder = impl.FrameDecoder("client", deflate=no_takeover(bits), **UNLIMITED)
    for size in sizes:
        kind = choose.randrange(3)
        if kind == 0:
            payload = choose.randbytes(size)
        elif kind == 1:
            payload = (JSON * (size // len(JSON) + 1))[:size]
        else:
            payload = bytes(choose.choices(b"abcdefghijklmnopqrstuvwxyz", [2**-i for i in range(26)], k=size))
        stream = zlib.compressobj(
            level=choose.randrange(10), wbits=-max(bits, 9), memLevel=choose.randrange(1, 10), strategy=strategy
        )
        data = stream.compress(payload[: size // 3])
        if choose.randrange(3) == 0:
            data += stream.flush(choose.choice((zlib.Z_PARTIAL_FLUSH, zlib.Z_SYNC_FLUSH, zlib.Z_FULL_FLUSH)))
        data += stream.compress(payload[size // 3 :]) + stream.flush(zlib.Z_SYNC_FLUSH)
        decoder.feed(compressed(data.removesuffix(TAIL)))
        payloads.append(payload)
    assert outcome_of(decoder) == Outcome(tuple(payloads))


@pytest.mark.parametrize("size", [0, 1, 150, 1000, 5000])
def test_limits(same, impl, size):
    data = deflate(bytes(size))
    for limit in (0, 1, size - 1, size, size + 1):
        if limit >= 0:
            same(data, max_size=limit)
            same(data, max_size=(None, limit))
            same(data[:-1], max_size=limit)
            same(b"\x07" + data, max_size=limit)
    if size > len(data):
        decoder = impl.FrameDecoder("client", max_size=size - 1, deflate=no_takeover())
        decoder.feed(compressed(data))
        assert outcome_of(decoder) == Outcome(violation=(Violation.INFLATED_TOO_BIG, 0, size - 1))


def test_where_output_segments_end(impl):
    """Messages of all sizes come to lie across the end of one, and each must move as a whole."""
    choose = random.Random(3)
    decoder = impl.FrameDecoder("client", deflate=no_takeover(), **UNLIMITED)
    payloads = [bytes(choose.choices(b"0123456789abcdef", k=choose.randrange(3000))) for _ in range(300)]
    decoder.feed(b"".join(compressed(deflate(payload)) for payload in payloads))
    assert outcome_of(decoder) == Outcome(tuple(payloads))


def test_between_fragmented_and_large_messages(impl):
    """The small inflater and zlib take turns, and neither sees what the other has in its window."""
    decoder = impl.FrameDecoder("client", deflate=no_takeover(), **UNLIMITED)
    small, large = deflate(JSON), deflate(random.Random(5).randbytes(20_000) + JSON)
    for _ in range(3):
        decoder.feed(compressed(small) + frame(BINARY, small[:20], rsv=4, fin=False) + frame(CONT, small[20:]))
        decoder.feed(compressed(large) + frame(BINARY, b"", rsv=4, fin=False) + frame(CONT, small))
        decoder.feed(frame(BINARY, b"plain") + compressed(small))
    large_payload = random.Random(5).randbytes(20_000) + JSON
    assert outcome_of(decoder) == Outcome((JSON, JSON, large_payload, JSON, b"plain", JSON) * 3)


def test_a_distance_before_the_message(same, impl):
    stream = zlib.compressobj(wbits=-15)
    first, second = ((stream.compress(JSON) + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL) for _ in range(2))
    assert len(second) < 30
    same(second)
    assert same.refused == 1
    decoder = impl.FrameDecoder("client", deflate=no_takeover())
    decoder.feed(compressed(first) + compressed(second))
    assert outcome_of(decoder) == Outcome((JSON,), (), (Violation.INFLATE_FAILED, 0, 0))
