"""The same bytes in arbitrary cuts: the compiled core against the reference, and both against ``websockets``.

More examples, other ones each time: FASTWS_HYPOTHESIS=long python -m pytest tests/core/test_differential.py
"""

from __future__ import annotations

import itertools
import struct
import zlib
from typing import Any

from hypothesis import event, example, given
from hypothesis import strategies as st
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import CloseCode
from websockets.protocol import OPEN, Protocol, Side

from fastws.deflate import Deflate
from fastws.wire import RULES, Opcode, Status, Violation

from .streams import BINARY, CLOSE, CONT, PING, PONG, TAIL, TEXT, UNLIMITED, WAYS, frame, key_for, pop_all

ROLES = st.sampled_from(["client", "server"])
TEXTS = st.text(st.characters(codec="utf-8"), max_size=40).map(str.encode)
SMALL = st.binary(max_size=30)
PAYLOADS = st.one_of(
    SMALL,
    SMALL,
    st.integers(120, 132).map(bytes),
    st.builds(lambda unit, count: unit * count, st.binary(min_size=1, max_size=6), st.integers(1, 60)),
)
LARGE = st.integers(65_530, 65_540).map(bytes)


@st.composite
def key_of(draw, role):
    """A masking key, where the peer masks."""
    return draw(st.one_of(st.just(key_for(role)), st.binary(min_size=4, max_size=4))) if role == "server" else None


class Peer:
    """Draws a valid stream of frames, in the right sequence and rightly compressed.

    Attributes:
        frames: What was drawn so far, one item per frame.
    """

    def __init__(self, draw, role: str, deflate: Deflate | None) -> None:
        self.draw = draw
        self.role = role
        self.deflate = deflate
        self.frames: list[bytes] = []
        self.stream = self.new_stream()

    def new_stream(self) -> Any:
        bits = 15 if self.deflate is None else max(9, self.deflate.remote_max_window_bits)
        return zlib.compressobj(wbits=-bits)

    def add(self, opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0) -> None:
        length_bytes = None
        if opcode < Opcode.CLOSE:
            fitting = [None, 2, 8] if len(payload) < 2**16 else [None, 8]
            length_bytes = self.draw(st.sampled_from([None] * 6 + fitting))
        key = self.draw(key_of(self.role))
        self.frames.append(frame(opcode, payload, fin=fin, rsv=rsv, key=key, length_bytes=length_bytes))

    def add_control(self) -> None:
        self.add(self.draw(st.sampled_from([PING, PONG])), self.draw(st.one_of(SMALL, st.just(bytes(125)))))

    def compress(self, data: bytes, *, start: bool, fin: bool) -> bytes:
        if start and self.deflate is not None and self.deflate.remote_no_context_takeover:
            self.stream = self.new_stream()
        data = self.stream.compress(data) + self.stream.flush(zlib.Z_SYNC_FLUSH)
        return data.removesuffix(TAIL) if fin else data

    def add_message(self, payloads: st.SearchStrategy[bytes], *, complete: bool = True) -> None:
        opcode = self.draw(st.sampled_from([TEXT, BINARY]))
        content = self.draw(TEXTS if opcode == TEXT else payloads)
        count = self.draw(st.sampled_from([1, 1, 1, 2, 3, 5]))
        places = sorted(self.draw(st.integers(0, len(content))) for _ in range(count - 1))
        compressed = self.deflate is not None and self.draw(st.booleans())
        for i, (start, end) in enumerate(zip([0, *places], [*places, len(content)], strict=True)):
            if i:
                for _ in range(self.draw(st.sampled_from([0, 0, 0, 1, 2]))):
                    self.add_control()
            fin = complete and i == count - 1
            part = content[start:end]
            if compressed:
                part = self.compress(part, start=i == 0, fin=fin)
            self.add(CONT if i else opcode, part, fin=fin, rsv=4 if compressed and i == 0 else 0)

    def add_some(self, payloads: st.SearchStrategy[bytes], most: int = 8) -> None:
        for _ in range(self.draw(st.integers(0, most))):
            if self.draw(st.integers(0, 3)) == 0:
                self.add_control()
            else:
                self.add_message(payloads)


DEFLATES = st.sampled_from(
    [
        None,
        None,
        Deflate(),
        Deflate(remote_no_context_takeover=True),
        Deflate(remote_max_window_bits=9),
        Deflate(remote_no_context_takeover=True, remote_max_window_bits=9),
    ]
)


@st.composite
def mutations(draw, data: bytes) -> bytes:
    """The stream with some bytes changed, removed, inserted or repeated."""
    result = bytearray(data)
    for _ in range(draw(st.sampled_from([0, 0, 1, 1, 2, 4]))):
        if not result:
            break
        place = draw(st.integers(0, len(result) - 1))
        kind = draw(st.sampled_from(["flip", "set", "remove", "insert", "truncate", "repeat"]))
        if kind == "flip":
            result[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            result[place] = draw(st.sampled_from(b"\x00\x01\x02\x7e\x7f\x80\x81\x82\x88\x89\xc1\xc2\xff\xed\xf4"))
        elif kind == "remove":
            del result[place : place + draw(st.integers(1, 4))]
        elif kind == "insert":
            result[place:place] = draw(st.binary(min_size=1, max_size=4))
        elif kind == "truncate":
            del result[place:]
        else:
            result[place:place] = result[place : place + draw(st.integers(1, 20))]
    return bytes(result)


@st.composite
def streams(draw) -> tuple[str, Deflate | None, bytes]:
    """(our role, deflate, bytes): valid, mutated, or noise."""
    role = draw(ROLES)
    deflate = draw(DEFLATES)
    if draw(st.integers(0, 9)) == 0:
        return role, deflate, draw(st.binary(max_size=60))
    peer = Peer(draw, role, deflate)
    peer.add_some(PAYLOADS)
    if draw(st.integers(0, 5)) == 0:
        peer.add_message(PAYLOADS, complete=False)
    if draw(st.integers(0, 3)) == 0:
        peer.add(CLOSE, draw(st.sampled_from([b"", b"\x03\xe8", b"\x03\xe9bye", b"\x00"])))
        peer.add_some(PAYLOADS, 2)
    return role, deflate, draw(mutations(b"".join(peer.frames)))


LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "max_size": st.one_of(
            st.none(), st.integers(0, 200), st.tuples(*[st.one_of(st.none(), st.integers(0, 100))] * 2)
        ),
        "max_queue": st.one_of(
            st.integers(0, 6),
            st.tuples(st.integers(3, 6), st.integers(0, 3)),
            st.tuples(st.none(), st.integers(0, 2)),
        ),
        "max_queue_bytes": st.one_of(st.none(), st.integers(1, 500)),
        "max_fragments": st.integers(1, 4),
    },
)


def state_of(decoder: Any) -> dict[str, Any]:
    """All that can be seen without changing anything."""
    return {
        name: getattr(decoder, name)
        for name in (
            "violation",
            "blocked",
            "resumable",
            "want_message",
            "queued_messages",
            "queued_frames",
            "queued_bytes",
            "current_size",
            "partial_frame",
            "messages_received",
            "bytes_received",
        )
    }


def describe_batch(batch: Any) -> list[tuple[bool, bytes]]:
    return [(batch.is_text(i), bytes(batch.view(i))) for i in range(len(batch))]


def pop_decoded(decoder: Any, decode: bool | None) -> Any:
    try:
        return decoder.pop(decode)
    except UnicodeDecodeError as error:
        return "not UTF-8", error.start, error.reason


def want(decoder: Any, value: bool) -> None:
    decoder.want_message = value


def drop(decoder: Any) -> None:
    decoder.dropping = True


ACTIONS = {
    "pop": lambda decoder: decoder.pop(),
    "pop str": lambda decoder: pop_decoded(decoder, True),
    "pop bytes": lambda decoder: pop_decoded(decoder, False),
    "pop_fragment": lambda decoder: decoder.pop_fragment(),
    "take 1": lambda decoder: describe_batch(decoder.take(1)),
    "take 2": lambda decoder: describe_batch(decoder.take(2)),
    "take": lambda decoder: describe_batch(decoder.take()),
    "resume": lambda decoder: Status(decoder.resume()),
    "controls": lambda decoder: decoder.controls(),
    "unlogged": lambda decoder: decoder.unlogged(),
    "want": lambda decoder: want(decoder, True),
    "want no more": lambda decoder: want(decoder, False),
    "clear": lambda decoder: decoder.clear(),
    "discard": lambda decoder: decoder.discard(),
    "drop": drop,
}
OFTEN = ["pop", "resume", "take", "take 2", "controls", "want"]


@st.composite
def scripts(draw) -> list[tuple[str, int]]:
    """What happens: (action, bytes to feed)."""
    sizes = st.one_of(st.integers(0, 6), st.integers(0, 200))
    feeding = st.tuples(st.sampled_from(["feed", "buffer"]), sizes)
    acting = st.tuples(st.sampled_from(OFTEN * 3 + list(ACTIONS)), st.just(0))
    return draw(st.lists(st.one_of(feeding, acting), max_size=40))


def play(decoder: Any, data: bytes, script: list[tuple[str, int]]) -> list[Any]:
    """Play a script, then the rest of the data, then empty the decoder; the record of all that could be seen."""
    record: list[Any] = []
    by_feed, by_buffer = WAYS
    for action, size in [*script, ("feed", len(data)), *[("take", 0), ("resume", 0), ("pop_fragment", 0)] * 30]:
        if action in ("feed", "buffer"):
            chunk, data = data[:size], data[size:]
            result = (by_feed if action == "feed" else by_buffer)(decoder, chunk)
        else:
            result = ACTIONS[action](decoder)
        record.append((action, size, result, state_of(decoder)))
    record.append(("controls", 0, decoder.controls(), state_of(decoder)))
    return record


@given(case=streams(), limits=LIMITS, script=scripts())
@example(  # The rest of a message whose beginning was taken, alone in the queue.
    case=("client", None, frame(TEXT, b"a", fin=False) + frame(CONT, b"b")),
    limits={},
    script=[("feed", 100), ("pop_fragment", 0), ("take", 0), ("take 1", 0), ("pop", 0)],
)
def test_compiled_against_reference(compiled, reference, case, limits, script):
    role, deflate, data = case
    options = {"max_queue": None, "max_queue_bytes": None, "deflate": deflate, **limits}
    expected = play(reference.FrameDecoder(role, **options), data, script)
    got = play(compiled.FrameDecoder(role, **options), data, script)
    violation = expected[-1][3]["violation"]
    event("no violation" if violation is None else Violation(violation[0]).name)
    event(f"blocked: {any(state['blocked'] for *_, state in expected)}")
    for number, (mine, theirs) in enumerate(zip(got, expected, strict=True)):
        assert mine == theirs, f"step {number} of {data.hex()} as {role} with {options}"


@given(case=streams(), cuts=st.lists(st.integers(0, 600), max_size=12), way=st.sampled_from(WAYS))
def test_cuts_make_no_difference(impl, case, cuts, way):
    role, deflate, data = case
    outcomes = []
    for places in ([0, len(data)], [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]):
        decoder = impl.FrameDecoder(role, deflate=deflate, **UNLIMITED)
        for start, end in itertools.pairwise(places):
            way(decoder, data[start:end])
        outcomes.append(
            (decoder.violation, decoder.partial_frame, decoder.controls(), decoder.queued_frames, pop_all(decoder))
        )
    assert outcomes[0] == outcomes[1]


# Against websockets.

FAULTS: dict[str, Any] = {
    "none": None,
    "invalid opcode": {"opcode": 3},
    "invalid control opcode": {"opcode": 0xB},
    "reserved bits": {"opcode": BINARY, "rsv": 1},
    "reserved bit of a control frame": {"opcode": PING, "rsv": 2},
    "fragmented control frame": {"opcode": PING, "fin": False},
    "long control frame": {"opcode": PONG, "payload": bytes(126)},
    "incorrect masking": {"opcode": BINARY},
    "too big": {"opcode": BINARY, "payload": bytes(1001)},
    "close": {"opcode": CLOSE, "payload": struct.pack("!H", 1000) + b"bye"},
    "empty close": {"opcode": CLOSE},
}


@st.composite
def single_faults(draw) -> tuple[str, Deflate | None, bytes, str]:
    """A valid stream with one thing wrong at its end, as with two it's a matter of order which counts."""
    role = draw(ROLES)
    deflate = draw(DEFLATES)
    peer = Peer(draw, role, deflate)
    peer.add_some(PAYLOADS)
    kinds = [*FAULTS, "unexpected continuation", "expected continuation"]
    if deflate is not None:
        kinds += ["not deflate", "rsv1 on a continuation"]
    kind = draw(st.sampled_from(kinds))
    key = key_for(role)
    if kind == "incorrect masking":
        key = key_for("client" if role == "server" else "server")
    if kind == "unexpected continuation":
        fault = frame(CONT, b"x", key=key)
    elif kind == "expected continuation":
        fault = frame(TEXT, b"x", fin=False, key=key) + frame(BINARY, b"y", key=key)
    elif kind == "not deflate":
        fault = frame(BINARY, b"\x07\xff", rsv=4, key=key)
    elif kind == "rsv1 on a continuation":
        start = peer.compress(b"x", start=True, fin=False)
        fault = frame(TEXT, start, fin=False, rsv=4, key=key) + frame(CONT, b"", rsv=4, key=key)
    elif kind == "none":
        fault = b""
    else:
        options = {"payload": b"", **FAULTS[kind]}
        fault = frame(options.pop("opcode"), options.pop("payload"), key=key, **options)
    return role, deflate, b"".join(peer.frames) + fault, kind


def websockets_outcome(role: str, deflate: Deflate | None, data: bytes, max_size: int | None) -> tuple[Any, Any, Any]:
    """(messages, controls, close code of a failure) according to ``websockets``."""
    protocol = Protocol(Side.SERVER if role == "server" else Side.CLIENT, state=OPEN, max_size=max_size)
    if deflate is not None:
        protocol.extensions = [
            PerMessageDeflate(
                deflate.remote_no_context_takeover, False, deflate.remote_max_window_bits, deflate.local_max_window_bits
            )
        ]
    protocol.receive_data(data)
    messages, controls, parts, is_text = [], [], [], False
    for got in protocol.events_received():
        if got.opcode >= Opcode.CLOSE:
            controls.append((int(got.opcode), bytes(got.data)))
            continue
        if got.opcode != Opcode.CONT:
            parts, is_text = [], got.opcode == Opcode.TEXT
        parts.append(bytes(got.data))
        if got.fin:
            payload = b"".join(parts)
            messages.append(payload.decode() if is_text else payload)
    code = None
    if protocol.parser_exc is not None:
        assert protocol.close_sent is not None
        code = protocol.close_sent.code
    return messages, controls, code


@given(case=single_faults())
@example(case=("client", Deflate(), frame(BINARY, b"\x00", rsv=4) * 3, "none"))
def test_against_websockets(impl, case):
    """Same messages, same control frames, same close code."""
    role, deflate, data, kind = case
    event(kind)
    messages, controls, code = websockets_outcome(role, deflate, data, 1000)
    for way in WAYS:
        decoder = impl.FrameDecoder(role, max_size=1000, max_queue_bytes=None, deflate=deflate)
        way(decoder, data)
        assert list(decoder.take()) == messages
        assert decoder.controls() == controls
        violation = decoder.violation
        assert (None if violation is None else RULES[Violation(violation[0])].close_code) == code
        assert (code is None) == (kind in ("none", "close", "empty close"))
        assert kind != "too big" or code == CloseCode.MESSAGE_TOO_BIG


@given(
    role=ROLES,
    payload=LARGE,
    cut=st.integers(0, 70_000),
    limits=st.sampled_from([{}, {"max_queue": 0}, {"max_queue_bytes": 50_000}]),
)
def test_large_frames(impl, role, payload, cut, limits):
    key = key_for(role)
    data = frame(BINARY, payload, key=key) + frame(PING, b"p", key=key) + frame(BINARY, payload[1:], key=key)
    for way in WAYS:
        decoder = impl.FrameDecoder(role, **limits)
        way(decoder, data[:cut])
        way(decoder, data[cut:])
        got = []
        while decoder.queued_messages:
            got.append(decoder.pop())
            decoder.resume()
        assert got == [payload, payload[1:]]
        assert decoder.controls() == [(PING, b"p")]
