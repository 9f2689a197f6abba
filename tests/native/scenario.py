"""What a peer sends, how the network cuts it, what the consumer does: a scenario, derived from bytes."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any

from fastws.deflate import Deflate
from fastws.wire import Opcode
from tests.core.streams import BINARY, CLOSE, CONT, PING, PONG, TAIL, TEXT, frame
from tests.core.test_differential import ACTIONS

from .source import Source

MOST_STEPS = 400
MOST_STREAM_BYTES = 2_000_000

# Lengths next to which something changes: header forms, a carried partial frame, segment sizes, most that is lent.
EDGES = (0, 125, 126, 127, 512, 1024, 4096, 16_384, 32_768, 65_535, 65_536, 262_144, 294_912)
STRATEGIES = (zlib.Z_DEFAULT_STRATEGY, zlib.Z_DEFAULT_STRATEGY, zlib.Z_FIXED, zlib.Z_RLE, zlib.Z_HUFFMAN_ONLY)
WORDS = (
    b"a",
    b"{}",
    b'{"p":1.5}',
    b"\x00",
    b"\xff",
    "é".encode(),
    "€".encode(),
    "😀".encode(),
    b"\x80",
    b"\xed\xa0\x80",
)


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Everything that one run of a decoder depends on.

    Attributes:
        role: Our side.
        options: Keyword arguments of the decoder.
        turn: Keyword arguments of its `Turn`.
        steps: (name, argument). "feed …" and "buffer …" deliver the bytes that are their argument.
    """

    role: str
    options: dict[str, Any]
    turn: dict[str, int]
    steps: list[tuple[str, Any]]


def length_near_edge(source: Source) -> int:
    edge = source.pick(EDGES if source.one_in(8) else EDGES[:7])
    return max(0, edge + source.below(9) - 4)


class Peer:
    """Builds the bytes of a stream; valid as long as only the ``send_…`` methods are used.

    Attributes:
        wire: Sent and not delivered yet.
        sent: Bytes sent so far.
    """

    def __init__(self, source: Source, role: str, deflate: Deflate | None) -> None:
        self.source = source
        self.masks = role == "server"
        self.deflate = deflate
        self.wire = bytearray()
        self.sent = 0
        if deflate is not None:
            bits = deflate.remote_max_window_bits
            # zlib can't produce a window of 8 bits; without matches it doesn't matter.
            strategy = zlib.Z_HUFFMAN_ONLY if bits == 8 else source.pick(STRATEGIES)
            level = source.pick((-1, 0, 1, 9))
            self.new_stream = lambda: zlib.compressobj(level, wbits=-max(9, bits), strategy=strategy)
            self.stream = self.new_stream()

    def key(self) -> bytes | None:
        if not self.masks:
            return None
        return bytes(self.source.byte() for _ in range(4))

    def put(self, data: bytes) -> None:
        if self.sent + len(data) <= MOST_STREAM_BYTES:
            self.sent += len(data)
            self.wire += data

    def send(self, opcode: int, payload: bytes, *, fin: bool = True, rsv: int = 0, shortest: bool = True) -> None:
        length_bytes = None
        if not shortest:
            length_bytes = 8 if len(payload) >= 2**16 else self.source.pick((2, 8))
        self.put(frame(opcode, payload, fin=fin, rsv=rsv, key=self.key(), length_bytes=length_bytes))

    def content(self, text: bool) -> bytes:
        source = self.source
        kind = source.below(8)
        if kind < 3:
            data = source.bytes(40)
        elif kind < 7:
            data = b"".join(source.pick(WORDS) for _ in range(source.below(12))) * (1 + source.below(30))
        else:
            data = source.pick(WORDS) * length_near_edge(source)
        return data.decode(errors="ignore").encode() if text else data

    def compress(self, data: bytes, *, start: bool, fin: bool) -> bytes:
        assert self.deflate is not None
        if start and self.deflate.remote_no_context_takeover:
            self.stream = self.new_stream()
        if fin and self.source.one_in(16):
            # A final block, RFC 7692 7.2.3.5: the next message begins a new stream.
            data = self.stream.compress(data) + self.stream.flush(zlib.Z_FINISH)
            self.stream = self.new_stream()
            return data + b"\x00"
        data = self.stream.compress(data) + self.stream.flush(zlib.Z_SYNC_FLUSH)
        return data.removesuffix(TAIL) if fin else data

    def send_message(self) -> None:
        source = self.source
        text = source.one_in(2)
        data = self.content(text)
        compressed = self.deflate is not None and not source.one_in(3)
        places = sorted(source.below(len(data) + 1) for _ in range(source.pick((0, 0, 0, 0, 1, 1, 2, 5))))
        if not places and not compressed:
            self.send(TEXT if text else BINARY, data, shortest=not source.one_in(16))
            return
        starts, ends = [0, *places], [*places, len(data)]
        for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
            fin = i == len(places)
            part = self.compress(data[start:end], start=i == 0, fin=fin) if compressed else data[start:end]
            self.send(CONT if i else TEXT if text else BINARY, part, fin=fin, rsv=4 if compressed and i == 0 else 0)
            if not fin and source.one_in(4):
                self.send_control()

    def send_run(self) -> None:
        """Many small messages, as a feed sends them."""
        text = self.source.one_in(2)
        data = self.content(text)[:200]
        compressed = self.deflate is not None and self.source.one_in(2)
        for _ in range(self.source.below(300)):
            if compressed:
                self.send(TEXT if text else BINARY, self.compress(data, start=True, fin=True), rsv=4)
            else:
                self.send(TEXT if text else BINARY, data)

    def send_control(self) -> None:
        self.send(self.source.pick((PING, PONG)), self.source.pick((b"", b"ping", bytes(125))))

    def send_close(self) -> None:
        self.send(CLOSE, self.source.pick((b"", b"\x03\xe8", b"\x03\xe8bye", b"\x00", b"\x03\xef", bytes(125))))

    # From here on, what no peer should do.

    def send_fragment(self) -> None:
        opcode = self.source.pick((CONT, TEXT, BINARY))
        rsv = 4 if self.deflate is not None and opcode and self.source.one_in(3) else 0
        self.send(opcode, self.content(False), fin=self.source.one_in(2), rsv=rsv)

    def send_frame(self) -> None:
        source = self.source
        payload = self.content(False)
        if source.one_in(4):
            self.masks = not self.masks
        opcode = source.pick((CONT, TEXT, BINARY, CLOSE, PING, PONG, 3, 11))
        self.send(opcode, payload, fin=not source.one_in(4), rsv=source.below(8) if source.one_in(4) else 0)

    def send_header(self) -> None:
        """A header that promises a great deal."""
        length = self.source.pick((2**63 - 1, 2**63, 2**64 - 1, 2**40, 2**32, 1 << 20, 70_000))
        mask = 0x80 if self.masks else 0
        self.put(bytes((0x82, mask | 127)) + length.to_bytes(8) + (self.key() or b""))

    def send_bomb(self) -> None:
        """A little that inflates to much, followed by what may not be DEFLATE."""
        if self.deflate is None:
            return self.send_frame()
        data = self.compress(bytes(1 << self.source.below(21)), start=True, fin=True)
        self.send(self.source.pick((TEXT, BINARY)), data + self.source.bytes(4), rsv=4)

    def send_not_deflate(self) -> None:
        if self.deflate is None:
            return self.send_frame()
        self.send(self.source.pick((TEXT, BINARY)), self.source.bytes(30), fin=not self.source.one_in(3), rsv=4)

    def send_noise(self) -> None:
        self.put(self.source.bytes(60))

    def mutate(self) -> None:
        """Change what was sent and not delivered yet."""
        if not self.wire:
            return
        source = self.source
        place = source.below(len(self.wire))
        kind = source.below(6)
        if kind == 0:
            self.wire[place] ^= 1 << source.below(8)
        elif kind == 1:
            self.wire[place] = source.byte()
        elif kind == 2:
            del self.wire[place : place + 1 + source.below(4)]
        elif kind == 3:
            self.wire[place:place] = source.bytes(4)
        elif kind == 4:
            del self.wire[place:]
        else:
            self.wire[place:place] = self.wire[place : place + source.below(300)]


VALID: tuple[Callable[[Peer], None], ...] = (
    *[Peer.send_message] * 8,
    *[Peer.send_run] * 3,
    *[Peer.send_control] * 2,
)
FAULTS: tuple[Callable[[Peer], None], ...] = (
    *[Peer.mutate] * 4,
    *[Peer.send_fragment] * 4,
    *[Peer.send_not_deflate] * 2,
    *[Peer.send_bomb] * 2,
    Peer.send_frame,
    Peer.send_header,
    Peer.send_noise,
    Peer.send_close,
)

DELIVERIES = ("feed", "buffer", "feed", "buffer", "buffer hint", "buffer lent")
SIZES: tuple[int | None, ...] = (None, None, None, 0, 1, 2, 3, 10, 100, 600, 5_000, 33_000, 70_000)

# Of the actions, those that end everything are drawn rarely.
FINAL_ACTIONS = ("clear", "discard", "drop", "end_of_stream")
PLAIN_ACTIONS = tuple(name for name in ACTIONS if name not in FINAL_ACTIONS)
BATCH_ACTIONS = (
    "hold",
    "hold",
    "hold",
    "check",
    "slice",
    "slice",
    "view",
    "view",
    "pickle",
    "iterate",
    "search",
    "compare",
    "forget",
    "forget",
    "forget views",
)
OTHER_ACTIONS = ("anext", "anext", "anext", "busy", "not busy", "lend", "unlend", "overrun", "take 0")


def deflate_of(source: Source, faulty: bool) -> Deflate | None:
    if source.one_in(2):
        return None
    # A peer that reaches further back than it agreed to is refused or not as zlib's buffers lie: with faults, only the
    # largest window makes that certain.
    bits = 15 if faulty else source.pick((15, 15, 12, 9, 8))
    return Deflate(remote_no_context_takeover=source.one_in(2), remote_max_window_bits=bits)


def options_of(source: Source) -> dict[str, Any]:
    options: dict[str, Any] = {"max_queue": None, "max_queue_bytes": None}
    limits: dict[str, tuple[Any, ...]] = {
        "max_size": (None, 1 << 20, 1 << 20, 1000, 100, 0, (None, 50), (200, None), (300, 100), 70_000),
        "max_queue": (None, None, 0, 1, 3, 16, (5, 0), (8, 8), (None, 1), (1, 0)),
        "max_queue_bytes": (None, None, 0, 1, 100, 1000, 33_000, 1 << 20),
        # 0 is left out: the reference refuses messages of one frame, too.
        "max_fragments": (1024, 1024, 1, 2, 3),
    }
    for name, values in limits.items():
        options[name] = source.pick(values)
    return options


def action_of(source: Source) -> tuple[str, Any]:
    kind = source.below(8)
    if kind < 3:
        return source.pick(PLAIN_ACTIONS), None
    if kind < 6:
        name = source.pick(BATCH_ACTIONS)
        if name == "hold":
            return name, source.pick((None, None, 1, 2, 7, 100))
        if name == "slice":
            start, stop = (None if source.one_in(3) else source.below(41) - 20 for _ in range(2))
            return name, (source.byte(), slice(start, stop, source.pick((None, 1, 2, -1, -3))))
        return name, (source.byte(), source.byte())
    if kind < 7:
        return source.pick(OTHER_ACTIONS), None
    return (source.pick(FINAL_ACTIONS) if source.one_in(6) else "resume"), None


def scenario_of(source: Source) -> Scenario:
    """Derive a scenario from the bytes that are left."""
    role = source.pick(("client", "server"))
    faulty = source.one_in(2)
    options = options_of(source)
    options["deflate"] = deflate_of(source, faulty)
    turn = {"max_messages": source.pick((1024, 1, 2, 10)), "max_ns": 10**15}
    peer = Peer(source, role, options["deflate"])
    steps: list[tuple[str, Any]] = []
    while source.left and len(steps) < MOST_STEPS:
        kind = source.below(8)
        if kind < 3:
            source.pick(VALID)(peer)
        elif kind == 3 and faulty:
            source.pick(FAULTS)(peer)
        elif kind < 6:
            size = source.pick(SIZES)
            size = len(peer.wire) if size is None else size
            steps.append((source.pick(DELIVERIES), bytes(peer.wire[:size])))
            del peer.wire[:size]
        else:
            steps.append(action_of(source))
    if source.one_in(2):
        peer.send_close()
    steps.append(("feed", bytes(peer.wire)))
    return Scenario(role, options, turn, steps)


def describe(scenario: Scenario) -> str:
    """The scenario as text, payloads shortened."""
    lines = [f"FrameDecoder({scenario.role!r}, **{scenario.options!r})", f"Turn(decoder, **{scenario.turn!r})"]
    for number, (name, argument) in enumerate(scenario.steps):
        if isinstance(argument, bytes):
            shown = argument.hex() if len(argument) <= 200 else f"{argument[:100].hex()}… ({len(argument)} bytes)"
        else:
            shown = "" if argument is None else repr(argument)
        lines.append(f"{number:4} {name} {shown}")
    return "\n".join(lines)


assert set(PLAIN_ACTIONS) <= set(ACTIONS), "the differential tests have other actions"
assert Opcode.CLOSE == CLOSE
