"""The fuzz target: one scenario on the compiled core and on the plain-Python reference, with the same outcome."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

from fastws import _segment
from fastws.deflate import Deflate
from fastws.wire import Opcode, Status
from tests.core.conftest import Implementation, load
from tests.core.streams import BINARY, CLOSE, CONT, TEXT, UNLIMITED, outcome_of
from tests.core.test_differential import describe_batch

from .player import Difference, Player
from .scenario import Scenario, scenario_of
from .source import Source

COMPILED = load("compiled")
REFERENCE = load("reference")


def played(implementation: Implementation, scenario: Scenario) -> list[Any]:
    player = Player(implementation, scenario)
    player.play(scenario.steps)
    player.finish()
    return player.record


def compare_decoders(scenario: Scenario) -> frozenset[Any]:
    """Play on both; return what was reached, as features.

    Raises:
        Difference: If the records differ.
    """
    expected = played(REFERENCE, scenario)
    got = played(COMPILED, scenario)
    for number, (mine, theirs) in enumerate(zip(got, expected, strict=True)):
        if mine != theirs:
            differing = [
                f"{label}: {left!r:.1000} instead of {right!r:.1000}"
                for label, left, right in parts_of(mine, theirs)
                if left != right
            ]
            raise Difference(f"step {number} ({mine[0]}): " + "; ".join(differing))
    return frozenset(features_of(scenario, expected))


def parts_of(mine: tuple[Any, ...], theirs: tuple[Any, ...]) -> Iterable[tuple[str, Any, Any]]:
    if len(mine) == 2:
        yield mine[0], mine[1], theirs[1]
        return
    yield "result", mine[1], theirs[1]
    for name in mine[2]:
        yield name, mine[2][name], theirs[2][name]


def features_of(scenario: Scenario, record: list[Any]) -> Iterable[Any]:
    """What makes an input worth keeping: combinations of step, status, and state that were never seen before."""
    before = "start"
    compressed = scenario.options["deflate"] is not None
    for name, result, *states in record:
        if not states:
            continue
        state = states[0]
        size = state["queued_frames"].bit_length()
        kind = result if isinstance(result, (Status, str, bool)) else type(result).__name__
        broken = state["violation"] and state["violation"][0]
        yield (
            name,
            str(kind)[:20],
            broken,
            state["blocked"],
            state["resumable"],
            size,
            state["current_size"] is not None,
        )
        yield before, name, broken, compressed
        yield name, state["partial_frame"][1].bit_length(), state["partial_frame"][0].bit_length(), compressed
        before = name


# The encoder, and functions that need no scenario.


def encoded(implementation: Implementation, role: str, deflate: Deflate | None, jobs: list[Any]) -> list[bytes | str]:
    encoder = implementation.FrameEncoder(role, deflate=deflate)
    frames: list[bytes | str] = []
    for name, arguments in jobs:
        try:
            frames.append(getattr(encoder, name)(*arguments))
        except (ValueError, TypeError, BufferError) as error:
            frames.append(type(error).__name__)
    return frames


def content_of(source: Source) -> Any:
    """Something to send; rarely what can't be sent."""
    data = source.bytes(200) * source.pick((1, 1, 1, 3, 700))
    match source.below(8):
        case 0 | 1 | 2:
            return data
        case 3 | 4:
            return data.decode(errors="replace")
        case 5:
            return memoryview(bytearray(data))[:: source.pick((1, 2, -1))]
        case 6:
            # With lone surrogates, which UTF-8 can't hold, or without.
            return "".join(map(chr, data)) + ("\ud800" if source.one_in(4) else "")
        case _:
            return None if source.one_in(4) else bytearray(data)


def compare_encoders(source: Source) -> frozenset[Any]:
    """Both must refuse the same; what they send must be the same to both decoders.

    Raises:
        Difference: If it isn't.
    """
    role = source.pick(("client", "server"))
    deflate = None
    if source.one_in(2):
        deflate = Deflate(
            local_no_context_takeover=source.one_in(2),
            local_max_window_bits=source.pick((15, 9, 12)),
            level=source.pick((-1, 0, 1, 9)),
            mem_level=source.pick((8, 1, 9)),
            strategy=source.below(5),
        )
    jobs: list[tuple[str, tuple[Any, ...]]] = []
    while source.left and len(jobs) < 30:
        if source.one_in(3):
            messages = [content_of(source) for _ in range(source.below(6))]
            jobs.append(("encode_batch", (messages, source.pick((None, True, False)))))
        else:
            opcode = source.pick((TEXT, BINARY, CONT, TEXT, BINARY, CLOSE, Opcode.PING, Opcode.PONG, 3, -1, 16))
            jobs.append(("encode", (opcode, content_of(source), not source.one_in(4))))
    made = {each.name: encoded(each, role, deflate, jobs) for each in (COMPILED, REFERENCE)}
    peer = "server" if role == "client" else "client"
    theirs = (
        None
        if deflate is None
        else Deflate(
            remote_no_context_takeover=deflate.local_no_context_takeover,
            remote_max_window_bits=deflate.local_max_window_bits,
        )
    )
    features = set()
    for job, mine, other in zip(jobs, made["compiled"], made["reference"], strict=True):
        features.add((job[0], mine if isinstance(mine, str) else len(mine).bit_length(), role, deflate is None))
        if isinstance(mine, str) or isinstance(other, str):
            if mine != other:
                raise Difference(f"{job}: {mine!r:.300} instead of {other!r:.300}")
        elif deflate is None and len(mine) != len(other):
            raise Difference(f"{job}: {len(mine)} bytes instead of {len(other)}")
    outcomes = []
    for (maker, frames), decoding in itertools.product(made.items(), (COMPILED, REFERENCE)):
        decoder = decoding.FrameDecoder(peer, deflate=theirs, **UNLIMITED)
        decoder.feed(b"".join(frame for frame in frames if isinstance(frame, bytes)))
        outcomes.append((f"{maker} encoder, {decoding.name} decoder", outcome_of(decoder)))
    for name, outcome in outcomes:
        if outcome != outcomes[-1][1]:
            raise Difference(f"{name}: {outcome!r:.1000} instead of {outcomes[-1][1]!r:.1000}")
    return frozenset(features)


def compare_functions(source: Source) -> frozenset[Any]:
    """Masking, and batches made of parts that may not fit together.

    Raises:
        Difference: If the implementations disagree.
    """
    data, key = source.bytes(200) * source.pick((1, 1, 40)), source.bytes(4) if source.one_in(4) else b"\x01\x80\xffk"
    position = source.below(1 << 16) - 100
    counts = [source.pick((0, 1, 2, 5, 60, 1 << 32, (1 << 64) - 1, (1 << 63) - 1)) for _ in range(source.below(6))]
    payload = bytes(sum(count for count in counts if count < 100)) if source.one_in(2) else source.bytes(200)
    lengths = b"".join(count.to_bytes(8, "little") for count in counts)
    kinds = source.bytes(5) if source.one_in(4) else bytes(source.below(2) for _ in counts)
    times = bytes(8 * len(counts)) if not source.one_in(8) else source.bytes(20)
    results = []
    for each in (COMPILED, REFERENCE):
        result: list[Any] = []
        for function in (
            lambda each=each: each.apply_mask(data, key, position),
            lambda each=each: describe_batch(each.rebuild_batch(payload, lengths, kinds, times)),
        ):
            try:
                result.append(function())
            except ValueError:
                result.append("ValueError")
        results.append(result)
    if results[0] != results[1]:
        raise Difference(f"{results[0]!r:.1000} instead of {results[1]!r:.1000}")
    return frozenset(("function", str(result)[:10]) for result in results[0])


def run(data: bytes) -> frozenset[Any]:
    """Try one input.

    Returns:
        Features, for telling whether the input reached something new.

    Raises:
        Difference: If the implementations disagree.
    """
    source = Source(data)
    segments = _segment.live_segments()
    kind = source.below(16)
    if kind == 14:
        features = compare_encoders(source)
    elif kind == 15:
        features = compare_functions(source)
    else:
        features = compare_decoders(scenario_of(source))
    if _segment.live_segments() != segments:
        raise Difference(f"{_segment.live_segments() - segments} segments of receive memory were never given back")
    return features


def scenario_in(data: bytes) -> Scenario | None:
    """The scenario of an input, None if it is about something else."""
    source = Source(data)
    return scenario_of(source) if source.below(16) < 14 else None


def one_input(data: bytes) -> None:
    """The fuzz target: `run`, as fuzzing engines want it."""
    run(data)
