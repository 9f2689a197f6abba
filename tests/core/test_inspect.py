"""What is looked at in each message as it arrives: gaps in sequence numbers, answers, times, last messages."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastws.overflow import Between, Conflate, DropNewest, DropOldest, ExchangeTime, Inspect, Reply, Resync
from fastws.wire import NOTICES_MAX, Notice, Status

from .streams import BINARY, CONT, TEXT, frame


def message(**fields):
    return frame(TEXT, json.dumps(fields).encode())


def gaps(impl, inspect, *messages, **options):
    """(key, expected, got) of the gaps."""
    decoder = impl.FrameDecoder("client", inspect=inspect, **options)
    status = Status(0)
    for fields in messages:
        status |= decoder.feed(message(**fields))
    notices = decoder.notices()
    assert {kind for kind, *_ in notices} <= {Notice.GAP}
    assert decoder.gaps == len(notices)
    assert bool(status & Status.NOTICE) == bool(notices)
    assert decoder.queued_messages == len(messages)
    return [rest for _, *rest in notices]


class TestGaps:
    def test_consecutive(self, impl):
        inspect = Inspect("/n")
        assert gaps(impl, inspect, *[{"n": n} for n in (5, 6, 7)]) == []
        assert gaps(impl, inspect, *[{"n": n} for n in (5, 7, 8, 8, 3, 4)]) == [
            [None, 6, 7],
            [None, 9, 8],
            [None, 9, 3],
        ]

    def test_binance_spot(self, impl):
        """U is the first, u the last update of an event."""
        inspect = Inspect("/u", key="/s", first="/U")
        assert (
            gaps(impl, inspect, {"s": "A", "U": 1, "u": 4}, {"s": "A", "U": 5, "u": 5}, {"s": "A", "U": 6, "u": 9})
            == []
        )
        assert gaps(
            impl, inspect, {"s": "A", "U": 1, "u": 4}, {"s": "A", "U": 6, "u": 9}, {"s": "A", "U": 10, "u": 10}
        ) == [["A", 5, 6]]
        assert (
            gaps(impl, inspect, {"s": "A", "U": 1, "u": 4}, {"s": "B", "U": 9, "u": 9}, {"s": "A", "U": 5, "u": 6})
            == []
        )

    def test_binance_futures(self, impl):
        """pu is the u of the event before; U says nothing."""
        inspect = Inspect("/u", key="/s", previous="/pu")
        assert gaps(impl, inspect, {"s": "A", "u": 10, "pu": 3}, {"s": "A", "u": 25, "pu": 10}) == []
        assert gaps(
            impl, inspect, {"s": "A", "u": 10, "pu": 3}, {"s": "A", "u": 25, "pu": 11}, {"s": "A", "u": 26, "pu": 25}
        ) == [["A", 10, 11]]

    def test_bybit(self, impl):
        inspect = Inspect("/data/u", key="/topic")
        books = [{"topic": topic, "data": {"u": u}} for topic, u in [("a", 1), ("b", 7), ("a", 2), ("b", 9), ("a", 3)]]
        assert gaps(impl, inspect, *books) == [["b", 8, 9]]

    def test_okx(self, impl):
        """prevSeqId is -1 in a snapshot, and a seqId may repeat or go back after a restart."""
        inspect = Inspect("/data/0/seqId", key=("/arg/channel", "/arg/instId"), previous="/data/0/prevSeqId")

        def book(sequence, previous, instrument="BTC-USDT"):
            arg = {"channel": "books", "instId": instrument}
            return {"arg": arg, "data": [{"prevSeqId": previous, "seqId": sequence}]}

        assert gaps(impl, inspect, book(10, -1), book(15, 10), book(15, 15), book(3, 15), book(5, 3)) == []
        assert gaps(impl, inspect, book(10, -1), book(15, 10), book(700, -1), book(702, 700)) == []
        assert gaps(impl, inspect, book(10, -1), book(15, 12), book(700, -1), book(702, 15)) == [
            ["books|BTC-USDT", 10, 12],
            ["books|BTC-USDT", 700, 15],
        ]
        assert gaps(impl, inspect, book(10, -1), book(4, -1, "ETH-USDT"), book(15, 10), book(5, 4, "ETH-USDT")) == []

    def test_bybit_restarts(self, impl):
        """A snapshot begins anew: after a restart u is 1, and level 1 repeats it."""
        inspect = Inspect("/data/u", key="/topic", restart={"/type": "snapshot"})

        def book(u, kind="delta", topic="a"):
            return {"topic": topic, "type": kind, "data": {"u": u}}

        steps = [book(7, "snapshot"), book(8), book(1, "snapshot"), book(2), book(1, "snapshot"), book(1, "snapshot")]
        assert gaps(impl, inspect, *steps, book(2)) == []
        assert gaps(impl, inspect, *steps, book(3), book(9, topic="b"), book(11, topic="b")) == [
            ["a", 2, 3],
            ["b", 10, 11],
        ]

    def test_deribit(self, impl):
        """A snapshot has no prev_change_id; what follows must be its successor."""
        inspect = Inspect("/id", key="/c", previous="/prev", restart={"/type": "snapshot"})
        snapshot = {"c": "a", "type": "snapshot", "id": 40}
        before = [{"c": "a", "type": "change", "id": 9, "prev": 8}, snapshot]
        assert gaps(impl, inspect, *before, {"c": "a", "type": "change", "id": 45, "prev": 40}) == []
        assert gaps(impl, inspect, *before, {"c": "a", "type": "change", "id": 46, "prev": 45}) == [["a", 40, 45]]
        # Without numbers, as a change, or of another channel it begins nothing.
        for other in ({"c": "a", "type": "snapshot"}, {"c": "a", "type": "change", "id": 41}, snapshot | {"c": "b"}):
            assert gaps(impl, inspect, *before, other, {"c": "a", "type": "change", "id": 45, "prev": 40}) == []

    def test_restart_needs_all_of_its_values(self, impl):
        inspect = Inspect("/n", first="/f", restart={"/a": "1", "/b": "x"})
        assert gaps(impl, inspect, {"n": 1, "f": 1}, {"n": 9, "a": 1, "b": "x"}, {"n": 11, "f": 10}) == []
        assert gaps(impl, inspect, {"n": 1, "f": 1}, {"n": 9, "f": 9, "a": 1, "b": "y"}) == [[None, 2, 9]]
        assert gaps(impl, inspect, {"n": 1, "f": 1}, {"n": 9, "f": 9, "b": "x"}) == [[None, 2, 9]]
        # The last number is all that it needs.
        assert gaps(impl, inspect, {"n": 1, "f": 1}, {"n": -9, "a": 1, "b": "x"}, {"n": 2, "f": 2}) == []

    @given(
        steps=st.lists(
            st.fixed_dictionaries(
                {"k": st.sampled_from("ab")},
                optional={
                    "n": st.integers(-1, 5),
                    "f": st.integers(-1, 5),
                    "p": st.integers(-1, 5),
                    "t": st.sampled_from(["snapshot", "delta", 1]),
                },
            ),
            max_size=30,
        ),
        first=st.sampled_from([None, "/f"]),
        previous=st.sampled_from([None, "/p"]),
        restart=st.sampled_from([None, {"/t": "snapshot"}, {"/t": "1"}, {"/t": "delta", "/k": "a"}]),
        key=st.sampled_from([None, "/k"]),
    )
    def test_as_the_rules_say(self, impl, steps, first, previous, restart, key):
        """A model of what `Inspect` promises."""
        expected, last = [], {}
        for fields in steps:
            begins = restart is not None and all(str(fields.get(at[1:])) == text for at, text in restart.items())
            n, f, p = fields.get("n", -1), fields.get("f", -1), fields.get("p")
            lacks = (first is not None and f < 0) or (previous is not None and p is None)
            if n < 0 or (lacks and not begins):
                continue
            name = fields["k"] if key else None
            if name in last and not begins:
                if previous is None:
                    wanted, got = last[name] + 1, n if first is None else f
                else:
                    wanted, got = last[name], last[name] if p < 0 else p
                if wanted != got:
                    expected.append([name, wanted, got])
            last[name] = n
        assert gaps(impl, Inspect("/n", key, first, previous, restart), *steps) == expected

    def test_coinbase_advanced(self, impl):
        """One count for all channels of a connection."""
        inspect = Inspect("/sequence_num")
        messages = [{"channel": channel, "sequence_num": n} for n, channel in enumerate(["l2_data", "heartbeats"] * 3)]
        assert gaps(impl, inspect, *messages) == []
        del messages[2]
        assert gaps(impl, inspect, *messages) == [[None, 2, 3]]

    def test_strings_of_digits(self, impl):
        assert gaps(impl, Inspect("/n"), {"n": "1"}, {"n": 2}, {"n": "3"}, {"n": "0005"}) == [[None, 4, 5]]

    def test_the_largest(self, impl):
        assert gaps(impl, Inspect("/n"), {"n": 2**63 - 2}, {"n": 2**63 - 1}) == []
        assert gaps(impl, Inspect("/n"), {"n": 2**63 - 3}, {"n": 2**63 - 1}) == [[None, 2**63 - 2, 2**63 - 1]]

    @pytest.mark.parametrize(
        "value", [None, True, -1, 2**63, 10**30, 1.0, 1.5, 1e3, "", "x", "-1", "+1", " 1", "1 ", "1.0", "٣", [2], {}]
    )
    def test_passed_over(self, impl, value):
        assert gaps(impl, Inspect("/n"), {"n": 1}, {"n": value}, {"m": 1}, {"n": 2}) == []
        for name in ("first", "previous"):
            inspect = Inspect("/n", **{name: "/m"})
            before = {"n": 1, "m": 1}
            after = {"n": 2, "m": 2 if name == "first" else 1}
            if name == "previous" and value == -1:
                continue  # Starts afresh.
            assert gaps(impl, inspect, before, {"n": 9, "m": value}, {"n": 9}, {"m": 9}, after) == []

    @pytest.mark.parametrize("previous", ["-1", -(2**63) - 1, -1.0])
    def test_what_is_not_a_negative_integer(self, impl, previous):
        messages = [{"n": 1, "p": 0}, {"n": 9, "p": previous}, {"n": 2, "p": 1}]
        assert gaps(impl, Inspect("/n", previous="/p"), *messages) == []

    @pytest.mark.parametrize("previous", [-1, -2, -(2**63)])
    def test_negative_previous(self, impl, previous):
        messages = [{"n": 1, "p": 0}, {"n": 9, "p": previous}, {"n": 12, "p": 9}]
        assert gaps(impl, Inspect("/n", previous="/p"), *messages) == []

    def test_first_and_previous(self, impl):
        """Both must be there; the previous one is what is compared."""
        inspect = Inspect("/u", first="/U", previous="/pu")
        messages = [{"u": 1, "U": 1, "pu": 0}, {"u": 5, "U": 4, "pu": 1}, {"u": 9, "pu": 5}, {"u": 9, "U": 6}]
        assert gaps(impl, inspect, *messages, {"u": 6, "U": 6, "pu": 5}) == []

    def test_without_the_key(self, impl):
        assert gaps(impl, Inspect("/n", key="/k"), {"n": 1}, {"n": 5}, {"n": 1, "k": None}, {"n": 5, "k": None}) == []

    def test_other_kinds_of_keys(self, impl):
        messages = [{"k": "a", "n": 1}, {"k": "b", "n": 1}, {"k": "a", "n": 3}]
        for key in (Between(b'"k": "', b'"'), lambda text: json.loads(text)["k"]):
            assert gaps(impl, Inspect("/n", key=key), *messages) == [["a", 2, 3]]

    def test_before_anything_is_shed(self, impl):
        """A message that finds no room was received all the same: no gap."""
        for overflow in (DropNewest(), DropOldest(), Conflate("/k"), Resync("/k")):
            decoder = impl.FrameDecoder("client", inspect=Inspect("/n"), overflow=overflow, max_queue=1)
            for n in range(10):
                decoder.feed(message(n=n, k="k"))
            assert decoder.gaps == 0
            assert decoder.lost
            decoder.feed(message(n=11, k="k"))
            assert decoder.gaps == 1

    def test_fragmented(self, impl):
        decoder = impl.FrameDecoder("client", inspect=Inspect("/n"))
        decoder.feed(frame(TEXT, b'{"n"', fin=False) + frame(CONT, b":1", fin=False) + frame(CONT, b"}"))
        decoder.feed(frame(BINARY, b'{"n":3}'))
        assert decoder.notices() == [(Notice.GAP, None, 2, 3)]

    def test_arrays(self, impl):
        """Kraken's and Bitfinex' messages aren't objects."""
        decoder = impl.FrameDecoder("client", inspect=Inspect("/1/2", key="/0"))
        for payload in (b"[7,[0,0,1]]", b"[8,[0,0,1]]", b"[7,[0,0,2]]", b"[8,[0,0,3]]"):
            decoder.feed(frame(TEXT, payload))
        assert decoder.notices() == [(Notice.GAP, "8", 2, 3)]


class TestNotices:
    def test_taken_once(self, impl):
        decoder = impl.FrameDecoder("client", inspect=Inspect("/n"))
        assert decoder.notices() == []
        assert decoder.feed(message(n=1) + message(n=3)) == Status.MESSAGE | Status.NOTICE
        # As with `controls()`: said until it is taken.
        assert decoder.feed(b"") == Status.NOTICE
        assert decoder.notices() == [(Notice.GAP, None, 2, 3)]
        assert decoder.notices() == []
        assert decoder.feed(message(n=4)) == Status.MESSAGE

    def test_at_most_so_many(self, impl):
        decoder = impl.FrameDecoder("client", inspect=Inspect("/n"))
        decoder.feed(b"".join(message(n=2 * n) for n in range(NOTICES_MAX + 6)))
        notices = decoder.notices()
        assert len(notices) == NOTICES_MAX + 1
        assert notices[0] == (Notice.GAP, None, 1, 2)
        assert notices[-2] == (Notice.GAP, None, 2 * NOTICES_MAX - 1, 2 * NOTICES_MAX)
        assert notices[-1] == (Notice.NOTICES_LOST, None, 5, 0)
        assert decoder.gaps == NOTICES_MAX + 5
        decoder.feed(message(n=0))
        assert decoder.notices() == [(Notice.GAP, None, 2 * NOTICES_MAX + 11, 0)]

    def test_exactly_so_many(self, impl):
        decoder = impl.FrameDecoder("client", inspect=Inspect("/n"))
        decoder.feed(b"".join(message(n=2 * n) for n in range(NOTICES_MAX + 1)))
        assert len(decoder.notices()) == NOTICES_MAX
        assert decoder.notices() == []


class TestReplies:
    PING = Reply({"/op": "ping"}, '{"op":"pong"}')
    SEEN = Reply({"/type": "heartbeat"}, "seen", deliver=True)

    def test_not_delivered(self, impl):
        decoder = impl.FrameDecoder("client", replies=[self.PING])
        assert decoder.feed(message(op="ping")) == Status.NOTICE
        assert decoder.notices() == [(Notice.REPLY, None, 0, 0)]
        assert decoder.queued_messages == 0
        assert decoder.feed(message(op="data")) == Status.MESSAGE
        assert (decoder.messages_received, decoder.answered) == (2, 1)
        assert not decoder.lost

    def test_delivered(self, impl):
        decoder = impl.FrameDecoder("client", replies=[self.PING, self.SEEN])
        assert decoder.feed(message(type="heartbeat")) == Status.MESSAGE | Status.NOTICE
        assert decoder.notices() == [(Notice.REPLY, None, 1, 0)]
        assert decoder.answered == 0
        assert decoder.pop() == '{"type": "heartbeat"}'

    def test_the_first_that_matches(self, impl):
        replies = [Reply({"/a": "1", "/b": "2"}, ""), Reply({"/a": "1"}, "", deliver=True), Reply({"/b": "2"}, "")]
        decoder = impl.FrameDecoder("client", replies=replies)
        for fields in ({"a": 1, "b": 2}, {"a": 1, "b": 3}, {"b": "2"}, {"a": 2, "b": 1}, {"a": "1"}):
            decoder.feed(message(**fields))
        assert [index for _, _, index, _ in decoder.notices()] == [0, 1, 2, 1]
        assert decoder.answered == 2
        assert decoder.queued_messages == 3

    @pytest.mark.parametrize(
        ("payload", "text", "matches"),
        [
            (b'{"a":"ping"}', "ping", True),
            (b'{"a":"p\\u0069ng"}', "ping", True),
            (b'{"a":"pings"}', "ping", False),
            (b'{"a":"pin"}', "ping", False),
            (b'{"a":"Ping"}', "ping", False),
            (b'{"a":""}', "", True),
            (b'{"a":true}', "true", True),
            (b'{"a":"true"}', "true", True),
            (b'{"a":1.0}', "1.0", True),
            (b'{"a":1.0}', "1", False),
            (b'{"a":null}', "null", False),
            (b'{"a":null}', "", False),
            (b'{"a":[]}', "", False),
            (b'{"a":{"b":"ping"}}', "ping", False),
            (b"{}", "", False),
            (b"ping", "ping", False),
            ('{"a":"grün"}'.encode(), "grün", True),
        ],
    )
    def test_comparison(self, impl, payload, text, matches):
        decoder = impl.FrameDecoder("client", replies=(Reply({"/a": text}, ""),))
        decoder.feed(frame(TEXT, payload))
        assert decoder.answered == matches

    @pytest.mark.parametrize("opcode", [TEXT, BINARY])
    def test_a_whole_message(self, impl, opcode):
        """Bare text, that isn't JSON: all of the message, and nothing else."""
        decoder = impl.FrameDecoder("client", replies=[Reply("pong", "seen"), Reply("grüße", "", deliver=True)])
        others = [b"", b"pon", b"pongs", b"Pong", b"pong ", b'"pong"', b'{"op":"pong"}', "grüß".encode()]
        for payload in others:
            decoder.feed(frame(opcode, payload))
        assert decoder.notices() == []
        assert decoder.answered == 0
        assert decoder.feed(frame(opcode, b"po", fin=False) + frame(CONT, b"ng")) == Status.NOTICE
        assert decoder.feed(frame(opcode, "grüße".encode())) == Status.MESSAGE | Status.NOTICE
        assert decoder.notices() == [(Notice.REPLY, None, 0, 0), (Notice.REPLY, None, 1, 0)]
        assert (decoder.answered, decoder.queued_messages) == (1, len(others) + 1)

    def test_beside_others(self, impl):
        """In their order, also where pointers are looked for."""
        replies = [Reply("1", ""), Reply({"/a": "1"}, ""), Reply('{"a": 1}', ""), Reply('{"a": 2}', "")]
        decoder = impl.FrameDecoder("client", replies=replies)
        decoder.feed(frame(TEXT, b"1") + message(a=2) + message(a=1) + message(a=3))
        assert [index for _, _, index, _ in decoder.notices()] == [0, 3, 1]

    @pytest.mark.parametrize("when", ["pong", {"/op": "pong"}])
    def test_nothing_is_sent(self, impl, when):
        """Then there is nothing to tell either, however many come."""
        decoder = impl.FrameDecoder("client", replies=[Reply(when, None)])
        taken = frame(TEXT, b"pong") if when == "pong" else message(op="pong")
        assert decoder.feed(taken * (NOTICES_MAX + 1)) == Status(0)
        assert decoder.notices() == []
        assert (decoder.answered, decoder.queued_messages) == (NOTICES_MAX + 1, 0)
        assert decoder.feed(frame(TEXT, b"ping")) == Status.MESSAGE

    def test_while_the_queue_is_full(self, impl):
        """That's what they are for; unless the decoder is blocked."""
        decoder = impl.FrameDecoder("client", replies=[self.PING], overflow=DropNewest(), max_queue=1)
        decoder.feed(message(n=1) * 5 + message(op="ping"))
        assert decoder.notices() == [(Notice.REPLY, None, 0, 0)]
        assert decoder.answered == 1
        assert decoder.lost.dropped_newest == 4

    def test_a_gap_is_not_looked_for(self, impl):
        """A message that is answered and gone isn't inspected; one that is delivered is."""
        replies = [self.PING, Reply({"/op": "note"}, "", deliver=True)]
        decoder = impl.FrameDecoder("client", replies=replies, inspect=Inspect("/n"), track="/op")
        decoder.feed(message(op="", n=1) + message(op="ping", n=5) + message(op="", n=2) + message(op="note", n=4))
        assert decoder.notices() == [(Notice.REPLY, None, 0, 0), (Notice.REPLY, None, 1, 0), (Notice.GAP, None, 3, 4)]
        assert decoder.last_seen().keys() == {"", "note"}

    def test_none(self, impl):
        """No reply is no reason to join fragments."""
        decoder = impl.FrameDecoder("client", replies=[])
        decoder.feed(frame(TEXT, b"a", fin=False))
        assert decoder.queued_frames == 1


class TestExchangeTime:
    @pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)])
    @pytest.mark.parametrize("kind", [int, str])
    def test_units(self, impl, unit, per_second, kind):
        decoder = impl.FrameDecoder("client", exchange_time=ExchangeTime("/E", unit))
        assert decoder.exchange_lag_ns is None
        made = int((time.time() - 100) * per_second)
        before = time.time_ns()
        decoder.feed(message(E=kind(made)))
        after = time.time_ns()
        made_ns = made * 10**9 // per_second
        assert before - made_ns <= decoder.exchange_lag_ns <= after - made_ns

    def test_default_unit(self, impl):
        decoder = impl.FrameDecoder("client", exchange_time=ExchangeTime("/E"))
        decoder.feed(message(E=int(time.time() * 1000)))
        assert -(10**7) < decoder.exchange_lag_ns < 60 * 10**9

    @pytest.mark.parametrize("text", ['"1700000000.123456789"', "1700000000.123456789", "1700000000.1234567891"])
    def test_fraction(self, impl, text):
        decoder = impl.FrameDecoder("client", exchange_time=ExchangeTime("/E", "s"))
        before = time.time_ns()
        decoder.feed(frame(TEXT, b'{"E":%s}' % text.encode()))
        after = time.time_ns()
        # Not all of its digits must count, but those that matter: milliseconds.
        assert before - 1700000000_124000000 <= decoder.exchange_lag_ns <= after - 1700000000_123000000

    def test_in_the_future(self, impl):
        decoder = impl.FrameDecoder("client", exchange_time=ExchangeTime("/E", "s"))
        decoder.feed(message(E=int(time.time()) + 1000))
        assert -1000 * 10**9 <= decoder.exchange_lag_ns < -900 * 10**9

    def test_of_the_last_message_that_has_it(self, impl):
        decoder = impl.FrameDecoder("client", exchange_time=ExchangeTime("/E", "s"), overflow=DropNewest(), max_queue=1)
        decoder.feed(message(E=1))
        first = decoder.exchange_lag_ns
        for value in (None, True, "x", "", -1, 10**19, [1], "1.", ".5", "1970-01-01T00:00:00Z"):
            decoder.feed(message(E=value))
            assert decoder.exchange_lag_ns == first, value
        decoder.feed(frame(TEXT, b"no JSON"))
        assert decoder.exchange_lag_ns == first
        decoder.feed(message(E=1000))  # Lost, but looked at.
        assert decoder.lost
        assert first - 1000 * 10**9 < decoder.exchange_lag_ns < first - 900 * 10**9

    def test_when_it_was_read(self, impl):
        """Not when it was decoded: time in the queue isn't the network's."""
        options = {"exchange_time": ExchangeTime("/E", "ns"), "max_queue": 0}
        decoder = impl.FrameDecoder("client", **options)
        decoder.feed(message(E=0) * 2)
        assert decoder.blocked
        first = decoder.exchange_lag_ns
        time.sleep(0.01)
        decoder.pop()
        decoder.resume()
        assert decoder.messages_received == 2
        assert decoder.exchange_lag_ns == first


class TestTrack:
    def test_last_seen(self, impl):
        decoder = impl.FrameDecoder("client", track="/k")
        assert decoder.last_seen() == {}
        before = time.monotonic_ns()
        decoder.feed(message(k="a") + message(k=5) + message(n=1))
        between = time.monotonic_ns()
        first = decoder.last_seen()
        assert first.keys() == {"a", "5"}
        assert all(before <= seen <= between for seen in first.values())
        time.sleep(0.001)
        decoder.feed(message(k="a"))
        assert decoder.last_seen()["a"] > between
        assert decoder.last_seen()["5"] == first["5"]

    def test_whatever_becomes_of_the_message(self, impl):
        decoder = impl.FrameDecoder("client", track="/k", overflow=DropNewest(), max_queue=0)
        decoder.feed(message(k="a") + message(k="b"))
        assert decoder.lost.dropped_newest == 1
        assert decoder.last_seen().keys() == {"a", "b"}

    def test_not_while_dropping(self, impl):
        decoder = impl.FrameDecoder("client", track="/k")
        decoder.dropping = True
        decoder.feed(message(k="a"))
        assert decoder.last_seen() == {}

    def test_a_copy(self, impl):
        decoder = impl.FrameDecoder("client", track="/k")
        decoder.feed(message(k="a"))
        decoder.last_seen().clear()
        assert decoder.last_seen().keys() == {"a"}

    def test_without(self, impl):
        decoder = impl.FrameDecoder("client")
        decoder.feed(message(k="a"))
        assert decoder.last_seen() == {}
        assert decoder.exchange_lag_ns is None
        assert decoder.gaps == 0
        assert decoder.notices() == []


def test_a_condition_must_say_something():
    with pytest.raises(ValueError, match="at least one JSON Pointer"):
        Inspect("/n", restart={})
    for when in ({}, ""):
        with pytest.raises(ValueError, match="at least one JSON Pointer"):
            Reply(when, "")
    with pytest.raises(ValueError, match="does nothing"):
        Reply("pong", None, deliver=True)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"inspect": Inspect("n")}, ValueError),
        ({"inspect": Inspect("/n", first="n")}, ValueError),
        ({"inspect": Inspect("/n", previous="")}, ValueError),
        ({"inspect": Inspect("/n", key="k")}, ValueError),
        ({"inspect": Inspect("/n", restart={"t": "x"})}, ValueError),
        ({"inspect": Inspect("/n", restart={"/t": 5})}, TypeError),
        ({"inspect": Inspect("/n", restart="snapshot")}, TypeError),
        ({"inspect": Inspect(5)}, TypeError),
        ({"inspect": "/n"}, TypeError),
        ({"exchange_time": ExchangeTime("E")}, ValueError),
        ({"exchange_time": ExchangeTime("/E", "minutes")}, ValueError),
        ({"exchange_time": "/E"}, TypeError),
        ({"replies": [Reply({"a": "x"}, "")]}, ValueError),
        ({"replies": [Reply({"/a": 5}, "")]}, TypeError),
        ({"replies": [Reply(5, "")]}, TypeError),
        ({"replies": [Reply([("/a", "x")], "")]}, TypeError),
        ({"replies": ["/a"]}, TypeError),
        ({"replies": Reply({"/a": "x"}, "")}, TypeError),
        ({"track": ""}, ValueError),
        ({"track": 5}, TypeError),
    ],
)
def test_wrong_configuration(impl, options, error):
    with pytest.raises(error):
        impl.FrameDecoder("client", **options)
