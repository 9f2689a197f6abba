"""Keys of messages: found where they are, and nowhere else."""

from __future__ import annotations

import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.overflow import KEY_BYTES_MAX, KEY_SEPARATOR, KEYS_MAX, Between, Conflate, Reply, Resync, Route

from .streams import BINARY, TEXT, WAYS, frame

VENUES = [
    (b'{"stream":"btcusdt@depth","data":{"e":"depthUpdate","E":1,"s":"BTCUSDT"}}', "/stream", "btcusdt@depth"),
    (b'{"stream":"btcusdt@depth","data":{"e":"depthUpdate","E":1,"s":"BTCUSDT"}}', "/data/s", "BTCUSDT"),
    (b'{"arg":{"channel":"books","instId":"BTC-USDT"},"data":[]}', ("/arg/channel", "/arg/instId"), "books|BTC-USDT"),
    (b'{"topic":"orderbook.50.BTCUSDT","type":"delta"}', "/topic", "orderbook.50.BTCUSDT"),
    (b'{"channel":"l2_data","events":[{"product_id":"BTC-USD"}]}', "/events/0/product_id", "BTC-USD"),
    (b'[42,{"b":["1"]},"book-10","XBT/USD"]', "/3", "XBT/USD"),
    (b'{"T":"q","S":"AAPL","bp":1.5}', Between(b'"S":"', b'"'), "AAPL"),
]


def seen(impl, key, *payloads, opcode=TEXT):
    """The keys that are found, in their order."""
    decoder = impl.FrameDecoder("client", track=key)
    keys = []
    for payload in payloads:
        before = decoder.last_seen().keys()
        decoder.feed(frame(opcode, payload))
        keys += decoder.last_seen().keys() - before
    assert decoder.queued_messages == len(payloads)
    return keys


def key_of(impl, key, payload, opcode=TEXT):
    """The key of one message, None if it has none."""
    found = seen(impl, key, payload, opcode=opcode)
    assert len(found) <= 1
    return found[0] if found else None


@pytest.mark.parametrize(("payload", "key", "expected"), VENUES)
def test_of_venues(impl, payload, key, expected):
    assert key_of(impl, key, payload) == expected
    assert key_of(impl, key, payload, opcode=BINARY) == expected


@pytest.mark.parametrize(
    ("payload", "pointer", "expected"),
    [
        (b'{"a":"x"}', "/a", "x"),
        (b'{"a":""}', "/a", ""),
        (b'{"":"x"}', "/", "x"),
        (b'{"":{"":"x"}}', "//", "x"),
        (b'{"a/b":"x"}', "/a~1b", "x"),
        (b'{"a~b":"x"}', "/a~0b", "x"),
        (b'{"~1":"x","/":"y"}', "/~01", "x"),
        (b'{"a b":"x"}', "/a b", "x"),
        (b'{"a":{"b":{"c":"x"}}}', "/a/b/c", "x"),
        (b'{"a":[["u","v"],["w","x"]]}', "/a/1/1", "x"),
        (b'["x"]', "/0", "x"),
        (b'[0,1,2,3,4,5,6,7,8,9,"x"]', "/10", "x"),
        (b'{"0":"x"}', "/0", "x"),
        (b'{"-":"x"}', "/-", "x"),
        (b'{"b":"n","a":"x"}', "/a", "x"),
        (b'{"b":{"a":"n"},"a":"x"}', "/a", "x"),
        (b'{"b":["a","n"],"a":"x"}', "/a", "x"),
        (b'{"b":"\\",\\"a\\":\\"n","a":"x"}', "/a", "x"),
        (b' \r\n\t{ "a" \n:\t"x" } \r\n', "/a", "x"),
        (b'{"a":"x","a":"y"}', "/a", "x"),
        (b'{"\\u0061":"x"}', "/a", "x"),
        (b'{"\\"":"x"}', '/"', "x"),
        (b'{"\\\\":"x"}', "/\\", "x"),
        ('{"schlüssel":"x"}'.encode(), "/schlüssel", "x"),
        (b'{"schl\\u00fcssel":"x"}', "/schlüssel", "x"),
        ('{"a":"grün"}'.encode(), "/a", "grün"),
        (b'{"a":"gr\\u00fcn"}', "/a", "grün"),
        (b'{"a":"\\ud83d\\ude00"}', "/a", "😀"),
        ('{"a":"😀"}'.encode(), "/a", "😀"),
        (b'{"a":"\\"\\\\\\/\\b\\f\\n\\r\\t"}', "/a", '"\\/\b\f\n\r\t'),
        (b'{"a":"\\u0000"}', "/a", "\0"),
        (b'{"a":1}', "/a", "1"),
        (b'{"a":-0}', "/a", "-0"),
        (b'{"a":1.50}', "/a", "1.50"),
        (b'{"a":1E+05}', "/a", "1E+05"),
        (b'{"a":123456789012345678901234567890}', "/a", "123456789012345678901234567890"),
        (b'{"a":1e400}', "/a", "1e400"),
        (b'{"a":true}', "/a", "true"),
        (b'{"a":false}', "/a", "false"),
        (b'{"a":true ,"b":1}', "/a", "true"),
        (b'{"a": 12 }', "/a", "12"),
    ],
)
def test_pointers(impl, payload, pointer, expected):
    assert key_of(impl, pointer, payload) == expected
    assert key_of(impl, (pointer,), payload) == expected


@pytest.mark.parametrize(
    ("payload", "pointer"),
    [
        (b'{"a":null}', "/a"),
        (b'{"a":{}}', "/a"),
        (b'{"a":[]}', "/a"),
        (b'{"a":["x"]}', "/a"),
        (b'{"a":"x"}', "/b"),
        (b'{"a":"x"}', "/a/b"),
        (b'{"a":"x"}', "/a/0"),
        (b'{"a":"x"}', "/"),
        (b'{"A":"x"}', "/a"),
        (b'{"aa":"x"}', "/a"),
        (b'{"b":{"a":"x"}}', "/a"),
        (b'["x"]', "/1"),
        (b'["x"]', "/00"),
        (b'["x"]', "/-"),
        (b'["x"]', "/-1"),
        (b'["x","y"]', "/01"),
        (b'["x"]', "/18446744073709551616"),
        (b'["x"]', "/" + "9" * 5000),
        (b'["x"]', "/0x0"),
        (b'["x"]', "/"),
        (b'["x"]', "/\u0660"),
        (b"[]", "/0"),
        (b"{}", "/a"),
        (b'"x"', "/a"),
        (b"17", "/0"),
        (b"null", "/a"),
        (b'{"a":"\\ud800"}', "/a"),
        (b'{"a":"\\udc00x"}', "/a"),
        (b'{"a":"\\ud800\\u0041"}', "/a"),
    ],
)
def test_nothing_there(impl, payload, pointer):
    assert key_of(impl, pointer, payload) is None


BROKEN = [
    b"",
    b" ",
    b"\n",
    b"\n[",
    b"\n{",
    b"[",
    b"{",
    b"]",
    b"}",
    b",",
    b":",
    b'"',
    b"\\",
    b"\0",
    b"ping",
    b"nul",
    b"tru",
    b"-",
    b'{"a"',
    b'{"a":',
    b'{"a":"x',
    b'{"a":"x"',
    b'{"a":"x",',
    b'{"a":"x"]',
    b'{"a":x}',
    b'{"a" "x"}',
    b'{"a":"x"}}',
    b'{"a":"x"} "y"',
    b'{"a":"\\x"}',
    b'{"a":"\\u12"}',
    b'{"a":01}',
    b'{"a":+1}',
    b'{"a":1.}',
    b'{"a":.5}',
    b'{"a":1e}',
    b'{"a":NaN}',
    b'{"a":Infinity}',
    b'{"a":-Infinity}',
    b'{"a":True}',
    b"{'a':'x'}",
    b'{a:"x"}',
    b'{"a":"x"\0',
    b'{"b":,"a":"x"}',
    b'{"b"::"a":"x"}',
    b'{"b":],"a":"x"}',
    b'{"b":},"a":"x"}',
    b'{"b":x,"a":"y"}',
    b'{"a":"x","b":,}',
    b'[,{"a":"x"}]',
    b'{,"a":"x"}',
    b'{"a":"x" "b":1}',
    b'{":"a":"x"}',
    b'\xef\xbb\xbf{"a":"x"}',
]


@pytest.mark.parametrize("payload", BROKEN)
def test_broken(impl, payload):
    """No key, and no harm: the messages behind it have theirs."""
    assert key_of(impl, "/a", payload) is None
    assert seen(impl, "/a", payload, b'{"a":"1"}', payload, b'{"a":"2"}') == ["1", "2"]


@pytest.mark.parametrize("payload", [b'{"a":"\xff"}', '{"a":"x"}'.encode("utf-16"), b"\xff\xfe", bytes(64), b'"' * 65])
def test_binary_that_is_not_json(impl, payload):
    assert key_of(impl, "/a", payload, opcode=BINARY) is None


@pytest.mark.parametrize(("payload", "key", "expected"), VENUES[:-1])
def test_every_truncation(impl, payload, key, expected):
    for end in range(len(payload)):
        assert key_of(impl, key, payload[:end]) is None, payload[:end]


def test_every_byte_changed(impl):
    """Whatever it becomes, the decoder lives, and what is valid JSON has its key."""
    payload = b'{"s":"BTC\\u0041","k":[1,{"x":null}],"a":{"b":"x"}}'
    for place in range(len(payload)):
        for byte in b'\0"\\{}[],:x1 ':
            changed = payload[:place] + bytes([byte]) + payload[place + 1 :]
            key = key_of(impl, "/a/b", changed, opcode=BINARY)
            try:
                value = json.loads(changed)
            except ValueError:
                continue
            try:
                expected = value["a"]["b"]
            except (KeyError, TypeError):
                expected = None
            assert key == (expected if isinstance(expected, str) else None), changed


@pytest.mark.parametrize("depth", [10, 100, 1000, 100_000])
@pytest.mark.parametrize("brackets", [("[", "]"), ('{"b":', "}")])
def test_deep_nesting(impl, depth, brackets):
    """It may count as not JSON, but only so."""
    opening, closing = brackets
    deep = opening * depth + "0" + closing * depth
    for payload in (f'{{"a":"x","b":{deep}}}', f'{{"b":{deep},"a":"x"}}', deep):
        key = key_of(impl, "/a", payload.encode())
        assert key == ("x" if "a" in payload else None) or (depth >= 1000 and key is None)
    assert key_of(impl, "/a", (opening * depth).encode()) is None


def test_long_keys(impl):
    for pointer, text in (("/a", '{"a":"%s"}'), (Between(b'"a":"', b'"'), '{"a":"%s"}')):
        longest = "x" * KEY_BYTES_MAX
        assert key_of(impl, pointer, (text % longest).encode()) == longest
        assert key_of(impl, pointer, (text % (longest + "x")).encode()) is None
        assert key_of(impl, pointer, (text % ("ü" * (KEY_BYTES_MAX // 2))).encode()) == "ü" * (KEY_BYTES_MAX // 2)
        assert key_of(impl, pointer, (text % ("ü" * (KEY_BYTES_MAX // 2) + "x")).encode()) is None
        assert key_of(impl, pointer, (text % ("x" * 70_000)).encode()) is None


def test_long_keys_of_several_parts_and_of_callables(impl):
    half = "x" * (KEY_BYTES_MAX // 2)
    payload = json.dumps({"a": half, "b": half[1:]}).encode()
    assert key_of(impl, ("/a", "/b"), payload) == half + KEY_SEPARATOR + half[1:]
    assert key_of(impl, ("/a", "/b"), json.dumps({"a": half, "b": half}).encode()) is None
    assert key_of(impl, len_key, b"x" * KEY_BYTES_MAX) == "x" * KEY_BYTES_MAX
    assert key_of(impl, len_key, b"x" * (KEY_BYTES_MAX + 1)) is None


def len_key(message):
    return message if isinstance(message, str) else message.decode()


def test_several_pointers(impl):
    pointers = ("/a", "/b/0", "/c")
    assert key_of(impl, pointers, b'{"c":true,"b":[1.0],"a":"x"}') == "x|1.0|true"
    assert key_of(impl, pointers, b'{"c":"","b":[""],"a":""}') == "||"
    for payload in (b'{"b":[1],"a":"x"}', b'{"c":null,"b":[1],"a":"x"}', b'{"c":1,"b":[],"a":"x"}'):
        assert key_of(impl, pointers, payload) is None
    assert key_of(impl, ("/a", "/a"), b'{"a":"x"}') == "x|x"
    assert key_of(impl, ("/a/b", "/a"), b'{"a":{"b":"x"}}') is None


def test_a_pointer_that_is_the_beginning_of_another(impl):
    """Both values are found, whichever the message has."""
    decoder = impl.FrameDecoder("client", track="/a", replies=[Reply({"/a/b": "x"}, "")])
    decoder.feed(frame(TEXT, b'{"a":{"b":"x"}}') + frame(TEXT, b'{"a":"y"}'))
    assert decoder.answered == 1
    assert decoder.last_seen().keys() == {"y"}


def test_names_that_begin_alike(impl):
    """Shorter, as long as, and longer than a machine word; those that aren't asked for stand in front."""
    name = "abcdefghijklmnopq"
    for length in range(len(name) + 1):
        asked = name[:length]
        others = [name[:other] for other in range(len(name) + 1) if other != length]
        others += [asked + "\0", asked[:-1] + "x", asked + "x"]
        fields = {other: "n" for other in others if other != asked} | {asked: "x"}
        assert key_of(impl, f"/{asked}", json.dumps(fields).encode()) == "x"
        del fields[asked]
        assert key_of(impl, f"/{asked}", json.dumps(fields).encode()) is None
    payload = json.dumps({name[:length]: str(length) for length in range(1, len(name) + 1)}).encode()
    pointers = tuple(f"/{name[:length]}" for length in range(1, len(name) + 1))
    assert key_of(impl, pointers, payload) == "|".join(map(str, range(1, len(name) + 1)))


def test_wide(impl):
    """Many pointers, many fields."""
    payload = json.dumps({f"f{i}": [{"v": str(i)}] for i in range(1000)}).encode()
    for i in (0, 500, 999):
        assert key_of(impl, f"/f{i}/0/v", payload) == str(i)
    pointers = tuple(f"/f{i}/0/v" for i in range(60))
    assert key_of(impl, pointers, payload) == "|".join(map(str, range(60)))


@pytest.mark.parametrize(
    ("payload", "key", "expected"),
    [
        (b"a=1;b=2;", Between(b"b=", b";"), "2"),
        (b"b=1;b=2;", Between(b"b=", b";"), "1"),
        (b"b=;", Between(b"b=", b";"), ""),
        (b"b=1", Between(b"b=", b";"), None),
        (b";b=1", Between(b"b=", b";"), None),
        (b"b", Between(b"b=", b";"), None),
        (b"", Between(b"b=", b";"), None),
        (b"xx", Between(b"x", b"x"), ""),
        (b"x", Between(b"x", b"x"), None),
        (b"aaab", Between(b"aab", b"b"), None),
        (b"aaab.b", Between(b"aab", b"b"), "."),
        (b"<<k>>>", Between(b"<<", b">>>"), "k"),
        (b"<<k>>", Between(b"<<", b">>>"), None),
        ("<grün>".encode(), Between(b"<", b">"), "grün"),
    ],
)
def test_between(impl, payload, key, expected):
    assert key_of(impl, key, payload) == expected
    assert key_of(impl, key, payload, opcode=BINARY) == expected


MARKER = st.binary(min_size=1, max_size=20) | st.text('ab":', min_size=1, max_size=4).map(str.encode)


PARTS = st.lists(st.text('ab":', max_size=20).map(str.encode), min_size=1, max_size=4)


@given(before=MARKER, after=MARKER, parts=PARTS)
def test_between_as_the_standard_library_finds(impl, before, after, parts):
    """Wherever the markers are, whole or in part, however long the message."""
    for payload in (before.join(parts), before[1:].join(parts) + before + parts[0] + after, b"".join(parts)):
        _, found, rest = payload.partition(before)
        key, end, _ = rest.partition(after)
        expected = key.decode(errors="backslashreplace") if found and end else None
        assert key_of(impl, Between(before, after), payload, opcode=BINARY) == expected


def test_between_bytes_that_are_not_utf8(impl):
    assert key_of(impl, Between(b"<", b">"), b"<\xff\xc3>", opcode=BINARY) == "\\xff\\xc3"
    # Counted as they came, not as they are shown.
    longest = b"\xff" * KEY_BYTES_MAX
    assert key_of(impl, Between(b"<", b">"), b"<" + longest + b">", opcode=BINARY) == "\\xff" * KEY_BYTES_MAX
    assert key_of(impl, Between(b"<", b">"), b"<\xff" + longest + b">", opcode=BINARY) is None


def test_resynced_by_the_name_that_is_shown(impl):
    key = Between(b"<", b">")
    decoder = impl.FrameDecoder("client", overflow=Resync(key), max_queue=1)
    delta = frame(BINARY, b"<k>")
    decoder.feed(delta * 2)
    assert decoder.queued_messages == 0
    decoder.resynced("k")
    decoder.feed(delta)
    assert decoder.queued_messages == 1


class TestCallables:
    def test_gets_what_the_consumer_gets(self, impl):
        got = []

        def key(message):
            got.append(message)
            return None if message == b"b" else "k"

        decoder = impl.FrameDecoder("client", track=key)
        data = frame(TEXT, "grün".encode()) + frame(BINARY, b"b") + frame(TEXT, b"1", fin=False) + frame(0, b"2")
        decoder.feed(data)
        assert got == ["grün", b"b", "12"]
        assert list(decoder.last_seen()) == ["k"]

    def test_called_once_however_often_it_is_used(self, impl):
        calls = []

        def key(message):
            calls.append(message)
            return "k"

        decoder = impl.FrameDecoder("client", track=key, overflow=Route(key, {"k": Conflate()}))
        decoder.feed(frame(TEXT, b"a") + frame(TEXT, b"b"))
        assert calls == ["a", "b"]
        assert decoder.lost.conflated == 1

    @pytest.mark.parametrize("result", [5, b"bytes", "\ud800", ["k"]])
    def test_wrong_result(self, impl, monkeypatch, result):
        ignored = []
        monkeypatch.setattr(sys, "unraisablehook", lambda hooked: ignored.append(hooked.exc_type))
        assert key_of(impl, lambda message: result, b"x") is None
        assert len(ignored) == 1

    def test_that_raises(self, impl, monkeypatch):
        ignored = []
        monkeypatch.setattr(sys, "unraisablehook", lambda hooked: ignored.append(str(hooked.exc_value)))

        def key(message):
            if message != "good":
                raise ValueError(f"what is {message}?")
            return message

        decoder = impl.FrameDecoder("client", overflow=Conflate(key))
        decoder.feed(frame(TEXT, b"bad") + frame(TEXT, b"good") * 2 + frame(TEXT, b"worse"))
        assert ignored == ["what is bad?", "what is worse?"]
        assert list(decoder.take()) == ["bad", "good", "worse"]

    def test_that_raises_is_seen_by_default(self, impl, monkeypatch, capsys):
        monkeypatch.setattr(sys, "unraisablehook", sys.__unraisablehook__)
        assert key_of(impl, lambda message: 1 / 0, b"x") is None
        assert "ZeroDivisionError: division by zero" in capsys.readouterr().err


class TestSpaces:
    def test_at_most_so_many_keys(self, impl):
        decoder = impl.FrameDecoder("client", overflow=Conflate(Between(b"<", b">")), track=Between(b"[", b"]"))
        for i in range(KEYS_MAX + 2):
            decoder.feed(frame(TEXT, b"<%d>" % i))
        assert decoder.queued_messages == KEYS_MAX + 2
        # A key that is known stays so, a new one is none; other uses have their own.
        decoder.feed(frame(TEXT, b"<0>") + frame(TEXT, b"<%d>" % (KEYS_MAX + 1)) + frame(TEXT, b"[new]"))
        assert decoder.queued_messages == KEYS_MAX + 4
        assert decoder.lost.conflated == 1
        assert decoder.last_seen().keys() == {"new"}

    def test_the_same_key_used_twice(self, impl):
        """Conflates messages of different rules with each other, as they have the same key in the same space."""
        route = Route("/kind", {"a": Conflate("/key"), "b": Conflate("/key"), "c": Conflate("/other")})
        decoder = impl.FrameDecoder("client", overflow=route)
        for kind in "abc":
            decoder.feed(frame(TEXT, json.dumps({"kind": kind, "key": "k", "other": "k"}).encode()))
        assert [json.loads(message)["kind"] for message in decoder.take()] == ["b", "c"]

    def test_not_twice_the_same(self, impl):
        """Equal strings of different origin are different keys."""
        route = Route("/kind", {"a": Resync("/x"), "b": Conflate("/y")})
        decoder = impl.FrameDecoder("client", overflow=route, max_queue=2)
        for kind in "aab":
            decoder.feed(frame(TEXT, json.dumps({"kind": kind, "x": "k", "y": "k"}).encode()))
        assert [json.loads(message)["kind"] for message in decoder.take()] == ["b"]
        assert decoder.lost_by_key() == [("k", 2, 0)]


@pytest.mark.parametrize("way", WAYS)
def test_at_the_end_of_received_memory(impl, way):
    """The key is the last thing that was received."""
    payload = b'{"a":"' + b"k" * 100 + b'"}'
    data = frame(TEXT, payload)
    for cut in range(0, len(data), 7):
        decoder = impl.FrameDecoder("client", track="/a")
        way(decoder, data[:cut])
        way(decoder, data[cut:])
        assert decoder.last_seen().keys() == {"k" * 100}


@pytest.mark.parametrize("pointer", ["", "a", "a/b", "/~", "/~2", "/a~", "/a/~x", " /a", "/a" * 33])
def test_wrong_pointers(impl, pointer):
    for key in (pointer, (pointer,), ("/a", pointer)):
        with pytest.raises(ValueError, match="JSON Pointer"):
            impl.FrameDecoder("client", track=key)
        with pytest.raises(ValueError, match="JSON Pointer"):
            impl.FrameDecoder("client", overflow=Conflate(key))
    with pytest.raises(ValueError, match="JSON Pointer"):
        impl.FrameDecoder("client", replies=[Reply({pointer: "x"}, "")])


@pytest.mark.parametrize("key", [5, b"/a", ["/a"], ("/a", 5), 1.5, object()])
def test_wrong_types(impl, key):
    with pytest.raises(TypeError):
        impl.FrameDecoder("client", track=key)
    with pytest.raises(TypeError):
        impl.FrameDecoder("client", overflow=Conflate(key))


def test_no_pointers(impl):
    with pytest.raises(ValueError, match="JSON Pointer"):
        impl.FrameDecoder("client", track=())


# Differential.

NAMES = st.sampled_from(["a", "b", "", "0", "1", "a/b", "~", "ü", '"'])
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(allow_nan=False, allow_infinity=False),
        st.text(st.characters(codec="utf-8"), max_size=8),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(NAMES, inner, max_size=4)),
    max_leaves=12,
)


def escaped(name):
    return name.replace("~", "~0").replace("/", "~1")


POINTERS = st.lists(NAMES, min_size=1, max_size=3).map(lambda names: "".join("/" + escaped(name) for name in names))


@given(
    values=st.lists(VALUES, max_size=4),
    keys=st.one_of(POINTERS, st.lists(POINTERS, min_size=1, max_size=3).map(tuple)),
    ascii_only=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
)
def test_as_json_says(impl, values, keys, ascii_only, indent):
    decoder = impl.FrameDecoder("client", track=keys)
    expected = set()
    for value in values:
        payload = json.dumps(value, ensure_ascii=ascii_only, indent=indent).encode()
        decoder.feed(frame(TEXT, payload))
        parts = [part_of(value, pointer) for pointer in ((keys,) if isinstance(keys, str) else keys)]
        if None not in parts and len("|".join(parts).encode()) <= KEY_BYTES_MAX:
            expected.add("|".join(parts))
    assert decoder.last_seen().keys() == expected


def part_of(value, pointer):
    for token in pointer[1:].split("/"):
        name = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            if name not in value:
                return None
            value = value[name]
        elif isinstance(value, list):
            if name not in ("0", "1") or int(name) >= len(value):
                return None
            value = value[int(name)]
        else:
            return None
    if value is None or isinstance(value, dict | list):
        return None
    return value if isinstance(value, str) else json.dumps(value)


@given(
    data=st.one_of(
        st.binary(max_size=80), st.text('{}[],:"\\ab01.-e tfn\n', max_size=60).map(str.encode), VALUES.map(json.dumps)
    )
)
def test_noise(impl, data):
    """Nothing breaks, and what is JSON has its key."""
    payload = data.encode() if isinstance(data, str) else data
    for key in ("/a", ("/a", "/0/b"), Between(b"{", b"}")):
        seen(impl, key, payload, payload, opcode=BINARY)
