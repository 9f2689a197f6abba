"""Whatever arrives and however it is consumed: what each policy promises, and both implementations alike.

More examples, other ones each time: FASTWS_HYPOTHESIS=long python -m pytest tests/core/test_overflow_properties.py
"""

from __future__ import annotations

import dataclasses
import json
import re
from fnmatch import fnmatchcase
from typing import Any

from hypothesis import event, example, given
from hypothesis import strategies as st

from fastws.deflate import Deflate
from fastws.overflow import (
    Between,
    Block,
    Conflate,
    Disconnect,
    DropNewest,
    DropOldest,
    ExchangeTime,
    Inspect,
    Lost,
    Reply,
    Resync,
    Route,
)
from fastws.wire import RECORD_BYTES, Notice, Status

from .streams import BINARY, CONT, TEXT, WAYS, deflate, frame, key_for
from .test_differential import ACTIONS as PLAIN_ACTIONS
from .test_differential import describe_batch, state_of

# Promises: numbered messages of few keys, consumed at any pace.

KEY = Between(b"<", b">")


@dataclasses.dataclass
class Run:
    """What a consumer saw.

    Attributes:
        decoder: At the end, empty.
        sent: (key, number) of all that was decoded, in their order.
        got: The same of what was delivered.
        queued: After each step, what waits.
        notices: All of them.
    """

    decoder: Any
    sent: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    got: list[tuple[str, int]] = dataclasses.field(default_factory=list)
    queued: list[int] = dataclasses.field(default_factory=list)
    notices: list[Any] = dataclasses.field(default_factory=list)


STEPS = st.lists(
    st.one_of(
        st.lists(st.sampled_from(["a", "b", "c", ""]), min_size=1, max_size=6),  # Arrive, in one read.
        st.integers(1, 4),  # Are consumed.
        st.sampled_from(["a", "b", "c"]),  # Is resynchronised.
    ),
    max_size=30,
)
LIMITS = st.one_of(
    st.fixed_dictionaries({"max_queue": st.integers(0, 6)}),
    st.fixed_dictionaries({"max_queue_bytes": st.integers(1, 300)}),
    st.fixed_dictionaries({"max_queue": st.tuples(st.integers(2, 6), st.integers(0, 2))}),
)


def parse(message: str) -> tuple[str, int]:
    key, number = re.fullmatch(r"(?:<(\w)>)?(\d+)x*", message).groups()
    return key or "", int(number)


def run(impl: Any, overflow: Any, limits: dict[str, Any], steps: list[Any]) -> Run:
    decoder = impl.FrameDecoder("client", overflow=overflow, **limits)
    result = Run(decoder)

    def consume(count: int | None) -> None:
        batch = decoder.take(count)
        result.got += [parse(message) for message in batch]
        if decoder.resumable:
            decoder.resume()

    def look() -> None:
        result.queued.append(decoder.queued_messages)
        result.notices += decoder.notices()
        assert decoder.messages_received == len(result.got) + decoder.queued_messages + decoder.lost.total
        assert decoder.delivered == len(result.got)

    given_up: set[str] = set()
    for step in steps:
        if isinstance(step, list):
            data = b""
            for key in step:
                number = len(result.sent)
                result.sent.append((key, number))
                data += frame(TEXT, (f"<{key}>" if key else "").encode() + b"%d" % number + b"x" * (number % 40))
            decoder.feed(data)
        elif isinstance(step, int):
            consume(step)
        else:
            decoder.resynced(step)
            given_up.discard(step)
        told = len(result.notices)
        look()
        given_up |= {key for kind, key, *_ in result.notices[told:] if kind == Notice.RESYNC}
        assert decoder.given_up() == sorted(given_up)
    while decoder.queued_messages:
        consume(None)
        look()
    assert not decoder.blocked
    return result


def is_subsequence(part: list[Any], whole: list[Any]) -> bool:
    rest = iter(whole)
    return all(item in rest for item in part)


@given(limits=LIMITS, steps=STEPS)
def test_block(impl, limits, steps):
    """Nothing is lost, duplicated or reordered."""
    result = run(impl, Conflate(lambda message: None), limits, steps)
    assert result.got == result.sent
    assert not result.decoder.lost


@given(limits=LIMITS, steps=STEPS)
def test_drop_oldest(impl, limits, steps):
    """Order is kept; what is lost is older than what waited then."""
    result = run(impl, DropOldest(), limits, steps)
    assert is_subsequence(result.got, result.sent)
    assert result.decoder.lost == Lost(dropped_oldest=len(result.sent) - len(result.got))
    if result.sent and isinstance(steps[-1], list):
        assert result.got[-1] == result.sent[-1]
    if isinstance(limits.get("max_queue"), int):
        assert max(result.queued, default=0) <= max(1, limits["max_queue"])


@given(limits=LIMITS, steps=STEPS)
def test_drop_newest(impl, limits, steps):
    """Order is kept; the first always finds room."""
    result = run(impl, DropNewest(), limits, steps)
    assert is_subsequence(result.got, result.sent)
    assert result.got[:1] == result.sent[:1]
    assert result.decoder.lost == Lost(dropped_newest=len(result.sent) - len(result.got))


@given(limits=LIMITS, steps=STEPS)
def test_disconnect(impl, limits, steps):
    """All up to the first without room; nothing after it."""
    result = run(impl, Disconnect(4000, "slow"), limits, steps)
    assert result.got == result.sent[: len(result.got)]
    if len(result.got) < len(result.sent):
        assert result.notices == [(Notice.DISCONNECT, "slow", 4000, 0)]
        assert result.decoder.lost == Lost(discarded=1)
        assert result.decoder.messages_received == len(result.got) + 1
    else:
        assert result.notices == []
        assert not result.decoder.lost


@given(steps=STEPS)
def test_conflate(impl, steps):
    """A model: a dict keeps the place of a key whose value changes."""
    waiting: dict[Any, tuple[str, int]] = {}
    expected, number = [], 0
    for step in [*steps, 10**6]:
        if isinstance(step, list):
            for key in step:
                waiting[key or number] = (key, number)
                number += 1
        elif isinstance(step, int):
            expected += [waiting.pop(place) for place in list(waiting)[:step]]
    result = run(impl, Conflate(KEY), {"max_queue": None, "max_queue_bytes": None}, steps)
    assert result.got == expected
    assert result.decoder.lost == Lost(conflated=len(result.sent) - len(expected))


@given(limits=LIMITS, steps=STEPS, otherwise=st.sampled_from([Block(), DropOldest(), DropNewest()]))
def test_conflate_without_room(impl, limits, steps, otherwise):
    """The newest of each key that is known gets through, in its order; with Block, no message without key is lost."""
    result = run(impl, Conflate(KEY, otherwise), limits, steps)
    assert len(set(result.got)) == len(result.got)
    for key in "abc":
        numbers = [number for got, number in result.got if got == key]
        assert numbers == sorted(numbers)
    if otherwise == Block():
        assert [item for item in result.got if not item[0]] == [item for item in result.sent if not item[0]]
        lost = result.decoder.lost
        assert lost == Lost(conflated=lost.conflated)
        newest = {key: number for key, number in result.sent if key}
        assert {key: number for key, number in result.got if key} == newest


@given(
    sizes=st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 200)), max_size=30),
    limit=st.integers(1, 700),
    otherwise=st.sampled_from([Block(), DropOldest(), DropNewest()]),
)
def test_conflated_bytes_are_bounded(impl, sizes, limit, otherwise):
    """However values grow: by the limit, by the only message that waits, or by reading that pauses."""
    decoder = impl.FrameDecoder("client", overflow=Conflate(KEY, otherwise), max_queue_bytes=limit)
    waiting: dict[str, int] = {}
    for key, size in sizes:
        cost, messages = decoder.queued_bytes + RECORD_BYTES * decoder.queued_messages, decoder.queued_messages
        decoder.feed(frame(TEXT, b"<%s>" % key.encode() + b"x" * size))
        if decoder.blocked:
            assert otherwise == Block()
            assert cost < limit or messages == 1
            assert [len(message) - 3 for message in decoder.take() if message[1] == key] == [size]
            decoder.resume()
            waiting.clear()
            continue
        cost = decoder.queued_bytes + RECORD_BYTES * decoder.queued_messages
        assert cost < limit or decoder.queued_messages == 1
        waiting[key] = size
    # A value that waits is the newest of its key: what is out of date isn't kept.
    for message in decoder.take():
        assert len(message) - 3 == waiting[message[1]]


@given(limits=LIMITS, steps=STEPS)
def test_resync(impl, limits, steps):
    """Between two resynchronisations, what is delivered of a key has no gap: it stops somewhere."""
    result = run(impl, Resync(KEY, otherwise=DropNewest()), limits, steps)
    assert is_subsequence(result.got, result.sent)
    assert result.decoder.lost.resync + result.decoder.lost.dropped_newest == len(result.sent) - len(result.got)
    for key in "abc":
        sent = [number for sent, number in result.sent if sent == key]
        got = [number for got, number in result.got if got == key]
        if key not in steps:  # Never resynchronised.
            assert got == sent[: len(got)]
            told = [notice for notice in result.notices if notice[1] == key]
            assert told == ([(Notice.RESYNC, key, 0, 0)] if len(got) < len(sent) else [])


# Differential: the same bytes in the same cuts, and the same consumer.

STREAMS = ["a@trade", "b@trade", "a@book", "b@book", "c@ticker", "d", ""]
WORDS = st.sampled_from(STREAMS)


@st.composite
def contents(draw) -> bytes:
    """What a venue may send: JSON that is compact, spaced or escaped, or something else."""
    fields: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from("skpnmto"), max_size=6)):
        fields[name] = draw(
            st.one_of(
                WORDS,
                WORDS,
                st.integers(-2, 6),
                st.sampled_from([None, True, 1.5, 2**63 - 1, 2**63, "7", "x" * 300, "ü<k>", [1], {"s": "a"}]),
            )
        )
    value = draw(st.sampled_from([fields, fields, fields, {"d": fields}, [fields, 1]]))
    text = json.dumps(
        value,
        ensure_ascii=draw(st.booleans()),
        indent=draw(st.sampled_from([None, None, None, 1])),
        separators=draw(st.sampled_from([(",", ":"), (", ", ": ")])),
    ).encode()
    kind = draw(st.integers(0, 11))
    if kind == 0:
        return text[: draw(st.integers(0, len(text)))]
    if kind == 1:
        return draw(st.sampled_from([b"", b"<k>", b"<a@book>", b"ping", b"\n[", b"<", b"{"]))
    return text + b" " * draw(st.sampled_from([0, 0, 0, 1, 70]))


KEYS = st.sampled_from(
    [
        "/s",
        "/k",
        "/d/s",
        "/0/s",
        ("/s", "/k"),
        ("/s",),
        Between(b'"s":"', b'"'),
        Between(b"<", b">"),
    ]
)
SIMPLE = st.sampled_from([Block(), DropOldest(), DropNewest(), Disconnect(4001, "slow")])
PATTERNS = st.one_of(WORDS, st.sampled_from(["*", "*@book", "a@*", "?@trade", "[ab]*", "[!a]*", "*@*o*"]))


def keyed(keys: Any) -> Any:
    return st.one_of(st.builds(Conflate, keys, SIMPLE), st.builds(Resync, keys, SIMPLE))


POLICIES = st.one_of(
    SIMPLE,
    keyed(KEYS),
    st.builds(
        Route, KEYS, st.dictionaries(PATTERNS, st.one_of(SIMPLE, keyed(st.one_of(st.none(), KEYS))), max_size=4), SIMPLE
    ),
)
POINTERS = st.sampled_from(["/n", "/m", "/d/n", "/0/n", "/p"])
OPTIONS = st.fixed_dictionaries(
    {"overflow": POLICIES},
    optional={
        "max_queue": st.one_of(st.integers(0, 6), st.tuples(st.integers(2, 6), st.integers(0, 2))),
        "max_queue_bytes": st.integers(1, 600),
        "max_fragments": st.integers(1, 4),
        "max_size": st.integers(0, 200),
        "inspect": st.builds(
            Inspect,
            POINTERS,
            st.one_of(st.none(), KEYS),
            st.none() | POINTERS,
            st.sampled_from([None, None, "/p"]),
            st.none() | st.dictionaries(st.sampled_from(["/o", "/s"]), WORDS, min_size=1),
        ),
        "exchange_time": st.builds(ExchangeTime, POINTERS, st.sampled_from(["s", "ms", "us", "ns"])),
        "replies": st.lists(
            st.builds(
                Reply,
                st.one_of(
                    st.dictionaries(
                        st.sampled_from(["/s", "/k", "/o", "/d/s"]),
                        st.one_of(WORDS, st.sampled_from("12")),
                        min_size=1,
                        max_size=2,
                    ),
                    st.sampled_from(["ping", "<k>", "{", "{}"]),
                ),
                st.just(""),
                st.booleans(),
            )
            | st.builds(Reply, st.sampled_from(["ping", "[", '{"s": "d"}']), st.none()),
            max_size=2,
        ),
        "track": KEYS,
    },
)


@st.composite
def streams(draw) -> tuple[str, Deflate | None, bytes]:
    """(our role, deflate, bytes): valid frames. What is in them may be broken only in ways that both must see."""
    role = draw(st.sampled_from(["client", "server"]))
    compressed = draw(st.integers(0, 3)) == 0
    key = key_for(role)
    data = b""
    for content in draw(st.lists(contents(), max_size=25)):
        opcode = draw(st.sampled_from([TEXT, TEXT, TEXT, BINARY]))
        rsv = 0
        if compressed and draw(st.booleans()):
            content, rsv = deflate(content), 4
        if draw(st.integers(0, 4)) == 0:
            place = draw(st.integers(0, len(content)))
            data += frame(opcode, content[:place], rsv=rsv, key=key, fin=False) + frame(CONT, content[place:], key=key)
        else:
            data += frame(opcode, content, rsv=rsv, key=key)
    return role, Deflate(remote_no_context_takeover=True) if compressed else None, data


def take(decoder: Any, count: int | None = None) -> tuple[Any, Lost]:
    batch = decoder.take(count)
    return describe_batch(batch), batch.lost


ACTIONS = {
    **PLAIN_ACTIONS,
    "take": take,
    "take 1": lambda decoder: take(decoder, 1),
    "take 2": lambda decoder: take(decoder, 2),
    "notices": lambda decoder: decoder.notices(),
    "lost by key": lambda decoder: decoder.lost_by_key(),
    **{f"resynced {key}": lambda decoder, key=key: decoder.resynced(key) for key in STREAMS},
}
OFTEN = [
    "pop",
    "take 1",
    "take 2",
    "take",
    "resume",
    "notices",
    "resynced a@book",
    "resynced a@trade",
    "resynced c@ticker",
]
RARELY = [
    "pop bytes",
    "pop_fragment",
    "unlogged",
    "want",
    "clear",
    "lost by key",
    *(f"resynced {key}" for key in STREAMS),
]


@st.composite
def scripts(draw) -> list[tuple[str, int]]:
    sizes = st.one_of(st.integers(0, 10), st.integers(0, 300), st.integers(100, 2000))
    feeding = st.tuples(st.sampled_from(["feed", "buffer"]), sizes)
    acting = st.tuples(st.sampled_from(OFTEN * 3 + RARELY), st.just(0))
    script = draw(st.lists(st.one_of(feeding, feeding, acting), max_size=40))
    if draw(st.integers(0, 9)) == 0:
        script.append((draw(st.sampled_from(["drop", "discard"])), 0))
    return script


def figures_of(decoder: Any) -> dict[str, Any]:
    """All that can be seen without changing anything, but for times."""
    names = ("lost", "delivered", "answered", "gaps", "queued_messages_max", "queued_bytes_max")
    return {
        **state_of(decoder),
        **{name: getattr(decoder, name) for name in names},
        "has oldest": decoder.oldest_ns > 0,
        "has lag": decoder.exchange_lag_ns is not None,
        "tracked": set(decoder.last_seen()),
    }


def play(decoder: Any, data: bytes, script: list[tuple[str, int]]) -> list[Any]:
    """Play a script, then the rest of the data, then empty the decoder; the record of all that could be seen."""
    record: list[Any] = []
    by_feed, by_buffer = WAYS
    ending = [("feed", len(data)), *[("take 2", 0), ("resume", 0)] * 30, ("notices", 0), ("lost by key", 0)]
    for action, size in [*script, *ending]:
        if action in ("feed", "buffer"):
            chunk, data = data[:size], data[size:]
            result = (by_feed if action == "feed" else by_buffer)(decoder, chunk)
        else:
            result = ACTIONS[action](decoder)
        record.append((action, size, result, figures_of(decoder)))
    return record


@given(case=streams(), options=OPTIONS, script=scripts())
@example(  # The place of a conflated message moves when those before it are lost.
    case=(
        "client",
        None,
        b"".join(frame(TEXT, b'{"s":"%s"}' % key) for key in (b"d", b"a@book", b"d", b"a@book", b"d")),
    ),
    options={"overflow": Route("/s", {"a*": Conflate()}, DropOldest()), "max_queue": 2},
    script=[("feed", 1000), ("unlogged", 0)],
)
@example(
    case=("client", None, frame(TEXT, b"<k>", fin=False) + frame(CONT, b"1") + frame(TEXT, b"<k>2")),
    options={"overflow": Conflate(Between(b"<", b">"))},
    script=[("feed", 8), ("clear", 0), ("unlogged", 0), ("feed", 1), ("buffer", 100), ("unlogged", 0)],
)
@example(  # What is under reception stays what it was when the message is refused.
    case=("client", None, frame(TEXT, b"ab", fin=False) + frame(CONT, b"c")),
    options={"track": "/k", "max_fragments": 1},
    script=[],
)
def test_compiled_against_reference(compiled, reference, case, options, script):
    role, negotiated, data = case
    options = {"max_queue": None, "max_queue_bytes": None, "deflate": negotiated, **options}
    expected = play(reference.FrameDecoder(role, **options), data, script)
    last = expected[-1][3]
    for name in ("dropped_oldest", "dropped_newest", "conflated", "resync", "discarded"):
        event(f"{name}: {getattr(last['lost'], name) > 0}")
    event(f"blocked: {any(state['blocked'] for *_, state in expected)}")
    event(f"violation: {last['violation'] is not None}")
    event(f"gaps: {last['gaps'] > 0}")
    event(f"answered: {last['answered'] > 0}")
    assert_sum(expected)
    got = play(compiled.FrameDecoder(role, **options), data, script)
    for number, (mine, theirs) in enumerate(zip(got, expected, strict=True)):
        assert mine == theirs, f"step {number} of {data!r} as {role} with {options}"


@given(case=streams(), options=OPTIONS, script=scripts())
def test_the_sum(impl, case, options, script):
    """Of all that arrived; and the limits hold for what isn't conflated."""
    role, negotiated, data = case
    options = {"max_queue": None, "max_queue_bytes": None, "deflate": negotiated, **options}
    record = play(impl.FrameDecoder(role, **options), data, script)
    assert_sum(record)
    batches = Lost()
    for _, _, result, _ in record:
        if isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Lost):
            batches = Lost(**{f: n + getattr(result[1], f) for f, n in dataclasses.asdict(batches).items()})
    assert batches.total <= record[-1][3]["lost"].total
    high = options["max_queue"][0] if isinstance(options["max_queue"], tuple) else options["max_queue"]
    if high is not None:
        assert record[-1][3]["queued_messages_max"] <= high + 1


def assert_sum(record: list[Any]) -> None:
    for action, size, _, state in record:
        parts = state["delivered"], state["queued_messages"], state["lost"].total, state["answered"]
        assert state["messages_received"] == sum(parts), (action, size, state)


@given(case=streams(), options=OPTIONS, cuts=st.lists(st.integers(0, 2000), max_size=12), way=st.sampled_from(WAYS))
def test_cuts_make_no_difference(impl, case, options, cuts, way):
    """What is lost doesn't depend on how the bytes arrive."""
    role, negotiated, data = case
    options = {"max_queue": None, "max_queue_bytes": None, "deflate": negotiated, **options}
    outcomes = []
    for places in ([], sorted(min(cut, len(data)) for cut in cuts)):
        decoder = impl.FrameDecoder(role, **options)
        status = Status(0)
        for start, end in zip([0, *places], [*places, len(data)], strict=True):
            status |= way(decoder, data[start:end])
        figures = {name: value for name, value in figures_of(decoder).items() if name != "partial_frame"}
        outcomes.append((figures, status, decoder.notices(), decoder.lost_by_key(), take(decoder)))
    assert outcomes[0] == outcomes[1]


@given(
    pattern=st.text("ab[]!-*?", max_size=8),
    keys=st.lists(st.text("ab[]!-*?ü", max_size=6), max_size=4),
)
def test_globs(impl, pattern, keys):
    """As in the standard library; and a pattern is a key as well."""
    decoder = impl.FrameDecoder("client", overflow=Route("/k", {pattern: Conflate()}))
    for key in keys:
        before = decoder.lost.conflated
        decoder.feed(frame(TEXT, json.dumps({"k": key}).encode()) * 2)
        matches = key == pattern or fnmatchcase(key, pattern)
        assert decoder.lost.conflated - before == matches, key
        decoder.take()


@given(sizes=st.lists(st.integers(0, 200), max_size=30), limit=st.integers(1, 500))
def test_bytes_are_bounded(impl, sizes, limit):
    """By the limit, or by the only message that waits."""
    for overflow in (DropOldest(), DropNewest(), Resync(Between(b"<", b">"), DropOldest())):
        decoder = impl.FrameDecoder("client", overflow=overflow, max_queue_bytes=limit)
        for size in sizes:
            decoder.feed(frame(BINARY, bytes(size)))
            cost = decoder.queued_bytes + RECORD_BYTES * decoder.queued_messages
            assert cost < limit or decoder.queued_messages == 1
