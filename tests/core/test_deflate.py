"""RFC 7692: permessage-deflate, and what a peer can do with it."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import textwrap
import time
import zlib

import pytest

from fastws.deflate import Deflate
from fastws.wire import Utf8Reason, Violation

from .streams import BINARY, CONT, PING, TAIL, TEXT, UNLIMITED, Outcome, check, deflate, frame, key_for, outcome_of

PLAIN = Deflate()
NO_TAKEOVER = Deflate(remote_no_context_takeover=True)
WORDS = [b"price", b"quantity", b"BTCUSDT", b'{"e":"trade"}', b"0.0001", b"\xc3\xa9"]


def compressed(opcode, payload, **options):
    return frame(opcode, payload, rsv=4, **options)


def sample(seed, size):
    choose = random.Random(seed)
    return b"".join(choose.choice(WORDS) for _ in range(size))


class Compressor:
    """A peer's side of the extension, straight from zlib."""

    def __init__(self, bits=15, takeover=True, **settings):
        self.make = lambda: zlib.compressobj(wbits=-bits, **settings)
        self.takeover = takeover
        self.stream = self.make()

    def __call__(self, data, fin=True, start=True):
        if start and not self.takeover:
            self.stream = self.make()
        data = self.stream.compress(data) + self.stream.flush(zlib.Z_SYNC_FLUSH)
        return data.removesuffix(TAIL) if fin else data


def test_examples_of_the_rfc(impl):
    """RFC 7692 7.2.3."""
    hello = bytes.fromhex("f248cdc9c90700")
    check(impl, bytes.fromhex("c107") + hello, Outcome(("Hello",)), deflate=PLAIN)
    fragments = bytes.fromhex("4103f248cd 8004c9c90700")
    check(impl, fragments, Outcome(("Hello",)), deflate=PLAIN)
    twice = bytes.fromhex("c107") + hello + bytes.fromhex("c105f200110000")
    check(impl, twice, Outcome(("Hello", "Hello")), deflate=PLAIN)
    stored = bytes.fromhex("c10b000500faff48656c6c6f00")
    check(impl, stored, Outcome(("Hello",)), deflate=PLAIN)
    final = bytes.fromhex("c108f348cdc9c9070000")
    check(impl, final, Outcome(("Hello",)), deflate=PLAIN)
    two_blocks = bytes.fromhex("c10df248050000 00ffffcac9c90700")
    check(impl, two_blocks, Outcome(("Hello",)), deflate=PLAIN)


@pytest.mark.parametrize("role", ["client", "server"])
@pytest.mark.parametrize("bits", range(8, 16))
@pytest.mark.parametrize("takeover", [False, True])
def test_messages(impl, role, bits, takeover):
    # zlib can't compress for a window of 256 bytes; what fits in it is decoded with it, though.
    compress = Compressor(max(bits, 9), takeover)
    size = 20 if bits == 8 else 400
    payloads = [sample(seed, size * (seed % 3)) for seed in range(10)]
    if bits == 8:
        payloads = [payload[:200] for payload in payloads]
        compress = Compressor(9, False)
    options = Deflate(remote_no_context_takeover=not takeover, remote_max_window_bits=bits)
    data = b"".join(compressed(BINARY, compress(payload), key=key_for(role)) for payload in payloads)
    check(impl, data, Outcome(tuple(payloads)), role=role, deflate=options)


@pytest.mark.parametrize("level", [0, 1, 6, 9])
@pytest.mark.parametrize("strategy", [zlib.Z_DEFAULT_STRATEGY, zlib.Z_HUFFMAN_ONLY, zlib.Z_RLE, zlib.Z_FIXED])
def test_all_kinds_of_blocks(impl, level, strategy):
    compress = Compressor(level=level, strategy=strategy)
    payloads = [b"", b"a", bytes(5000), sample(1, 3000), os.urandom(70_000), b""]
    decoder = impl.FrameDecoder("client", deflate=PLAIN)
    for payload in payloads:
        decoder.feed(compressed(BINARY, compress(payload)))
    assert outcome_of(decoder) == Outcome(tuple(payloads))


@pytest.mark.parametrize("options", [PLAIN, NO_TAKEOVER])
def test_fragments_and_messages_that_are_not_compressed(impl, options):
    compress = Compressor(takeover=options is PLAIN)
    text = "Grüße, 世界! " * 5
    parts = [text.encode()[:7], text.encode()[7:30], text.encode()[30:]]
    data = compressed(TEXT, compress(parts[0], fin=False), fin=False)
    data += frame(PING, b"p")
    data += frame(CONT, compress(parts[1], fin=False, start=False), fin=False)
    data += frame(CONT, compress(parts[2], start=False))
    data += frame(TEXT, b"plain") + frame(TEXT, b"pl", fin=False) + frame(CONT, b"ain")
    data += compressed(TEXT, compress(text.encode()))
    expected = Outcome((text, "plain", "plain", text), ((PING, b"p"),))
    check(impl, data, expected, deflate=options)


def test_a_compressed_stream_cut_anywhere(impl):
    """A fragment may end within a block, even within a byte's bits."""
    payload = sample(3, 40)
    data = deflate(payload)
    for cut in range(len(data) + 1):
        decoder = impl.FrameDecoder("client", deflate=PLAIN)
        decoder.feed(compressed(BINARY, data[:cut], fin=False) + frame(CONT, b"", fin=False) + frame(CONT, data[cut:]))
        assert outcome_of(decoder) == Outcome((payload,)), cut


def test_counters_are_of_inflated_bytes(impl):
    decoder = impl.FrameDecoder("client", deflate=PLAIN)
    compress = Compressor()
    decoder.feed(compressed(BINARY, compress(bytes(1000), fin=False), fin=False))
    assert decoder.current_size == 1000
    assert decoder.queued_bytes == 1000
    decoder.feed(frame(CONT, compress(bytes(500), start=False)))
    assert decoder.current_size is None
    assert decoder.queued_bytes == 1500
    assert decoder.pop_fragment() == (BINARY, False, bytes(1000))
    assert decoder.pop_fragment() == (CONT, True, bytes(500))


@pytest.mark.parametrize("takeover", [False, True])
def test_final_blocks(impl, takeover):
    """RFC 7692 7.2.3.5: BFINAL may be set; nothing behind the block is lost, in this message or the next."""
    options = PLAIN if takeover else NO_TAKEOVER

    def final(data):
        stream = zlib.compressobj(wbits=-15)
        return stream.compress(data) + stream.flush(zlib.Z_FINISH)

    hello = final(b"Hello")
    check(impl, compressed(TEXT, hello + b"\x00") * 3, Outcome(("Hello",) * 3), deflate=options)
    several = final(b"one ") + final(b"two ") + deflate(b"three")
    check(impl, compressed(TEXT, several) * 2, Outcome(("one two three",) * 2), deflate=options)
    mixed = compressed(TEXT, hello + b"\x00") + compressed(TEXT, deflate(b"usual"))
    check(impl, mixed * 2, Outcome(("Hello", "usual") * 2), deflate=options)
    fragments = compressed(TEXT, hello, fin=False) + frame(CONT, final(b", ") + deflate(b"world"))
    check(impl, fragments * 2, Outcome(("Hello, world",) * 2), deflate=options)
    stored = b"\x01\x05\x00\xfa\xffHello"
    check(impl, compressed(TEXT, stored + b"\x00") * 2, Outcome(("Hello",) * 2), deflate=options)


@pytest.mark.parametrize("takeover", [False, True])
def test_a_final_block_without_padding(impl, takeover):
    """Some peers forget the 0x00 behind the final block; zlib's end of the stream tells all the same."""
    stream = zlib.compressobj(wbits=-15)
    hello = stream.compress(b"Hello") + stream.flush(zlib.Z_FINISH)
    data = compressed(TEXT, hello) * 3
    check(impl, data, Outcome(("Hello",) * 3), deflate=PLAIN if takeover else NO_TAKEOVER)


@pytest.mark.parametrize("takeover", [False, True])
def test_a_final_block_that_ends_in_what_was_appended(impl, takeover):
    """A sender that cut off too much: the 00 00 FF FF that we append completes the block, and begins no other.

    websockets receives such messages, too.
    """
    stream = zlib.compressobj(wbits=-15)
    hello = stream.compress(b"Hello") + stream.flush(zlib.Z_FINISH)
    assert hello[-1] == 0
    data = compressed(TEXT, hello[:-1]) + compressed(TEXT, deflate(b"usual"))
    check(impl, data * 2, Outcome(("Hello", "usual") * 2), deflate=PLAIN if takeover else NO_TAKEOVER)
    fragments = compressed(TEXT, hello[:3], fin=False) + frame(CONT, hello[3:-1])
    check(impl, fragments * 2, Outcome(("Hello",) * 2), deflate=PLAIN if takeover else NO_TAKEOVER)


def test_very_many_tiny_streams(impl):
    """Time must grow with the length of the message, not with its square."""
    empty_final_block = b"\x03\x00"
    data = compressed(BINARY, empty_final_block * 250_000 + b"\x00")
    decoder = impl.FrameDecoder("client", deflate=PLAIN)
    started = time.process_time()
    decoder.feed(data)
    assert decoder.pop() == b""
    # About 0.3 s in plain Python; quadratic copying took more than a minute.
    assert time.process_time() - started < 20


@pytest.mark.parametrize(
    "payload",
    [
        b"\x07",
        b"\xff\xff\xff",
        b"\x01\x05\x00\x00\x00Hello",
        b"\x06\x00\x00\x00",
        deflate(sample(1, 50))[3:],
        b"\x7f" * 20,
    ],
    ids=bytes.hex,
)
def test_not_deflate(impl, payload):
    with pytest.raises(zlib.error):
        zlib.decompressobj(wbits=-15).decompress(payload + TAIL)
    data = frame(TEXT, b"before") + compressed(TEXT, payload) + frame(TEXT, b"after")
    check(impl, data, Outcome(("before",), (), (Violation.INFLATE_FAILED, 0, 0)), deflate=PLAIN)


def test_a_distance_beyond_the_window(impl):
    """Without context takeover, nothing before the message can be referred to."""
    compress = Compressor()
    first, second = compress(sample(1, 30)), compress(sample(1, 30))
    assert len(second) < len(first)
    data = compressed(BINARY, first) + compressed(BINARY, second)
    expected = Outcome((sample(1, 30),), (), (Violation.INFLATE_FAILED, 0, 0))
    check(impl, data, expected, deflate=NO_TAKEOVER)
    check(impl, data, Outcome((sample(1, 30), sample(1, 30))), deflate=PLAIN)


def test_text_is_validated_as_inflated(impl):
    data = compressed(TEXT, deflate(b"abc\xff"))
    expected = Outcome((), (), (Violation.INVALID_UTF8, 3, Utf8Reason.START))
    check(impl, data, expected, deflate=PLAIN)


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_up_to_the_limit(impl, size):
    data = compressed(BINARY, deflate(bytes(size)))
    for max_size in (100, (100, None), (None, 100), (1000, 100)):
        check(impl, data * 2, Outcome((bytes(size),) * 2), max_size=max_size, deflate=NO_TAKEOVER)


@pytest.mark.parametrize("size", [101, 102, 1000, 100_000, 10_000_000])
def test_beyond_the_limit(impl, size):
    data = compressed(BINARY, deflate(bytes(size)))[:120]
    if len(deflate(bytes(size))) > 100:
        data = compressed(BINARY, deflate(bytes(size))[:100])
    for max_size in (100, (100, None), (None, 100), (1000, 100), (100, 1000)):
        expected = Outcome((), (), (Violation.INFLATED_TOO_BIG, 0, 100))
        decoder = impl.FrameDecoder("client", max_size=max_size, deflate=PLAIN)
        decoder.feed(data)
        assert outcome_of(decoder) == expected, max_size


def test_beyond_the_limit_in_fragments(impl):
    """The limit is what the message may still have."""
    first = compressed(BINARY, Compressor()(bytes(60), fin=False), fin=False)
    for size, max_size, limit in ((41, 100, 40), (41, (100, 60), 40), (61, (1000, 60), 60)):
        compress = Compressor()
        data = compressed(BINARY, compress(bytes(60), fin=False), fin=False)
        assert data == first
        data += frame(CONT, compress(bytes(size), start=False))
        decoder = impl.FrameDecoder("client", max_size=max_size, deflate=PLAIN)
        decoder.feed(data)
        assert decoder.violation == (Violation.INFLATED_TOO_BIG, 0, limit)
        assert decoder.queued_frames == 1
        assert decoder.queued_bytes == 60
    compress = Compressor()
    data = compressed(BINARY, compress(bytes(60), fin=False), fin=False)
    check(impl, data + frame(CONT), Outcome((bytes(60),)), max_size=60, deflate=PLAIN)
    # Nothing may come any more, and what is on the wire counts as well.
    decoder = impl.FrameDecoder("client", max_size=60, deflate=PLAIN)
    decoder.feed(data + frame(CONT, compress(b"", start=False)))
    assert decoder.violation == (Violation.MESSAGE_TOO_BIG, 61, 60)


def test_the_wire_length_is_limited_as_well(impl):
    data = compressed(BINARY, bytes(101))[:2]
    check(impl, data, Outcome(violation=(Violation.MESSAGE_TOO_BIG, 101, 100)), max_size=100, deflate=PLAIN)


BOMB = """
    import resource, sys, zlib
    sys.path[:] = {path!r}
    from {module} import FrameDecoder
    from fastws.deflate import Deflate

    def bomb(size):
        stream = zlib.compressobj(9, wbits=-15)
        piece = bytes(2**20)
        parts = [stream.compress(piece) for _ in range(size // 2**20)]
        return b"".join(parts) + stream.flush(zlib.Z_SYNC_FLUSH)[:-4]

    def decode(payload):
        decoder = FrameDecoder("client", max_size=2**20, deflate=Deflate())
        header = b"\\xc2\\x7f" + len(payload).to_bytes(8, "big")
        decoder.feed(header + payload)
        return decoder.violation

    decode(bomb(2**20)[:500])  # Warm: code, first buffers.
    payload = bomb({size})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    violation = decode(payload)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(len(payload), violation[0], violation[1], violation[2], after - before)
"""


def test_a_bomb_does_not_go_off(impl):
    """256 MiB in 256 KiB: memory stays in the order of max_size, as the system sees it."""
    module = "fastws.reference" if impl.name == "reference" else "fastws._decoder"
    script = textwrap.dedent(BOMB).format(path=sys.path, module=module, size=2**28)
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr
    length, *violation, grown_kib = map(int, result.stdout.split())
    assert length < 300_000
    assert tuple(violation) == (Violation.INFLATED_TOO_BIG, 0, 2**20)
    assert grown_kib < 12 * 1024


def test_large_messages_without_a_limit(impl):
    payload = sample(7, 400_000)
    decoder = impl.FrameDecoder("client", deflate=PLAIN, **UNLIMITED)
    compress = Compressor()
    decoder.feed(compressed(BINARY, compress(payload)) + compressed(BINARY, compress(bytes(5_000_000))))
    assert decoder.pop() == payload
    assert decoder.pop() == bytes(5_000_000)


def test_parameters():
    Deflate(remote_max_window_bits=8, local_max_window_bits=9, level=9, mem_level=9, strategy=4)
    for wrong in (
        {"remote_max_window_bits": 7},
        {"remote_max_window_bits": 16},
        {"local_max_window_bits": 8},
        {"local_max_window_bits": 16},
        {"level": 10},
        {"level": -2},
        {"mem_level": 0},
        {"strategy": 5},
    ):
        ((name, value),) = wrong.items()
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            Deflate(**wrong)
