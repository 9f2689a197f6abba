"""Batches: sequences that make objects only of what is touched."""

from __future__ import annotations

import copy
import gc
import operator
import os
import pickle
import subprocess
import sys
from array import array
from collections.abc import Sequence

import pytest

from .streams import BINARY, CONT, TEXT, frame

MESSAGES = ["text", b"binary", "", b"", "Grüße", b"\xff\xfe", "x" * 1000, "a"]


def stream(messages):
    return b"".join(
        frame(TEXT, message.encode()) if isinstance(message, str) else frame(BINARY, message) for message in messages
    )


def make(impl, messages=MESSAGES):
    decoder = impl.FrameDecoder("client")
    decoder.feed(stream(messages))
    return decoder.take()


def test_is_a_sequence(impl):
    batch = make(impl)
    assert isinstance(batch, impl.Batch)
    assert isinstance(batch, Sequence)
    assert len(batch) == len(MESSAGES)
    assert list(batch) == MESSAGES
    assert [type(message) for message in batch] == [type(message) for message in MESSAGES]
    assert list(reversed(batch)) == MESSAGES[::-1]
    assert operator.length_hint(iter(batch)) in (0, len(MESSAGES))
    assert bool(batch)
    assert not make(impl, [])
    assert "Grüße" in batch
    assert b"\xff\xfe" in batch
    assert "binary" not in batch
    assert 5 not in batch
    assert batch.count("") == 1
    assert batch.index("") == 2
    assert batch.index(b"") == 3
    assert batch.index("a", 3) == 7
    assert batch.index("a", -2) == 7
    with pytest.raises(ValueError):  # noqa: PT011
        batch.index("nowhere")
    with pytest.raises(ValueError):  # noqa: PT011
        batch.index("text", 1)
    with pytest.raises(ValueError):  # noqa: PT011
        batch.index("a", 0, 7)


def test_index(impl):
    batch = make(impl)
    for index in range(-len(MESSAGES), len(MESSAGES)):
        assert batch[index] == MESSAGES[index]
        assert batch.is_text(index) is isinstance(MESSAGES[index], str)
        assert batch.received_ns_at(index) == batch.received_ns
    for method in (batch.__getitem__, batch.view, batch.is_text, batch.received_ns_at):
        for index in (len(MESSAGES), -len(MESSAGES) - 1, 10**6):
            with pytest.raises(IndexError):
                method(index)
    with pytest.raises(TypeError):
        batch["0"]


def test_slices(impl):
    batch = make(impl)
    bounds = [None, 0, 1, 3, 7, 8, 9, -1, -3, -8, -9]
    for start in bounds:
        for stop in bounds:
            for step in (None, 1, 2, 3, -1, -2):
                part = batch[start:stop:step]
                assert type(part) is impl.Batch
                assert list(part) == MESSAGES[start:stop:step]
                assert list(part[1:]) == MESSAGES[start:stop:step][1:]
                assert list(part[::-1]) == MESSAGES[start:stop:step][::-1]
    with pytest.raises(ValueError, match="zero"):
        batch[::0]


def test_a_slice_outlives_its_batch(impl):
    decoder = impl.FrameDecoder("client")
    decoder.feed(stream(MESSAGES))
    part = decoder.take()[2:][1:4]
    views = [part.view(i) for i in range(len(part))]
    for _ in range(50):
        decoder.feed(stream([b"other" * 100] * 100))
        decoder.take()
    del decoder
    gc.collect()
    assert list(part) == MESSAGES[3:6]
    del part
    gc.collect()
    assert [bytes(view) for view in views] == [b"", "Grüße".encode(), b"\xff\xfe"]


def test_a_batch_keeps_what_it_holds_while_the_decoder_goes_on(impl):
    """Memory that a batch still holds is not written to again."""
    decoder = impl.FrameDecoder("server")
    kept = []
    for round_ in range(200):
        messages = [b"%d-%d-" % (round_, i) * 20 for i in range(20)]
        data = b"".join(frame(BINARY, message, key=b"\x11\x22\x33\x44") for message in messages)
        cut = round_ * 37 % len(data)
        decoder.feed(data[:cut])
        decoder.feed(data[cut:])
        if round_ % 10 == 0:
            kept.append((decoder.take(), messages))
        else:
            decoder.take()
    for batch, messages in kept:
        assert list(batch) == messages


def test_views(impl):
    batch = make(impl)
    for index, message in enumerate(MESSAGES):
        view = batch.view(index)
        assert type(view) is memoryview
        assert view.readonly
        assert (view.format, view.ndim, view.itemsize) == ("B", 1, 1)
        assert bytes(view) == (message.encode() if isinstance(message, str) else message)
    with pytest.raises(TypeError):
        batch.view(1)[0] = 0


def test_nbytes(impl):
    batch = make(impl)
    assert batch.nbytes == sum(len(m.encode()) if isinstance(m, str) else len(m) for m in MESSAGES)
    assert batch[4:6].nbytes == len("Grüße".encode()) + 2
    assert batch[:0].nbytes == 0


def test_received_ns(impl):
    decoder = impl.FrameDecoder("client")
    decoder.feed(stream(["a"]))
    decoder.feed(stream(["b"]))
    batch = decoder.take()
    assert batch.received_ns == batch.received_ns_at(0) <= batch.received_ns_at(1)
    assert batch[1:].received_ns == batch.received_ns_at(1)
    assert batch[:0].received_ns == 0
    assert decoder.take().received_ns == 0


def test_fragmented_messages(impl):
    decoder = impl.FrameDecoder("client")
    decoder.feed(
        stream(["a"]) + frame(TEXT, "é".encode()[:1], fin=False) + frame(CONT, "é".encode()[1:]) + stream(["b"])
    )
    batch = decoder.take()
    assert list(batch) == ["a", "é", "b"]
    assert bytes(batch.view(1)) == "é".encode()
    assert batch.is_text(1)


def test_equality_and_hash(impl):
    one, two = make(impl), make(impl)
    assert one == two
    assert (one != two) is False
    assert one == one[:]
    assert make(impl, ["a"]) != make(impl, [b"a"])
    assert make(impl, ["a"]) != make(impl, ["b"])
    assert make(impl, ["a"]) != make(impl, ["a", "a"])
    assert make(impl, ["a", "b", "a"])[::2] == make(impl, ["a", "a"])
    assert one != MESSAGES
    assert one.__eq__(MESSAGES) is NotImplemented
    assert len({one, two}) == 2
    assert hash(one) == hash(one)


def test_is_immutable(impl):
    batch = make(impl)
    with pytest.raises(TypeError):
        batch[0] = "other"
    with pytest.raises(TypeError):
        del batch[0]
    for name in ("nbytes", "received_ns"):
        with pytest.raises(AttributeError):
            setattr(batch, name, 1)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("messages", [MESSAGES, [], ["a"], [b"\x00" * 100_000, "é" * 50_000]], ids=len)
def test_pickle(impl, protocol, messages):
    batch = make(impl, messages)
    again = pickle.loads(pickle.dumps(batch, protocol))
    assert list(again) == messages
    assert [again.is_text(i) for i in range(len(again))] == [isinstance(message, str) for message in messages]
    assert [again.received_ns_at(i) for i in range(len(again))] == [batch.received_ns] * len(messages)
    assert again.nbytes == batch.nbytes


def test_copies(impl):
    batch = make(impl)[1::2]
    assert list(copy.copy(batch)) == MESSAGES[1::2]
    assert list(copy.deepcopy(batch)) == MESSAGES[1::2]


@pytest.mark.parametrize("pure", ["0", "1"])
def test_travels_to_another_process(impl, pure):
    """Whichever implementation the other process uses."""
    if pure == "0" and impl.name == "reference":
        pytest.importorskip("fastws._batch", reason="the compiled core isn't built")
    script = (
        "import pickle, sys\n"
        f"sys.path[:] = {sys.path!r}\n"
        "batch = pickle.load(sys.stdin.buffer)\n"
        "from fastws.core import Batch\n"
        "assert type(batch) is Batch, type(batch)\n"
        "print(ascii(list(batch)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps(make(impl)),
        capture_output=True,
        check=False,
        env=os.environ | {"FASTWS_PURE": pure},
        timeout=60,
    )
    assert result.returncode == 0, result.stderr.decode()
    assert result.stdout.decode().strip() == ascii(MESSAGES)


def parts(messages):
    payloads = [message.encode() if isinstance(message, str) else message for message in messages]
    return (
        b"".join(payloads),
        array("Q", map(len, payloads)).tobytes(),
        bytes(isinstance(message, str) for message in messages),
        array("q", range(100, 100 + len(messages))).tobytes(),
    )


def test_rebuild_batch(impl):
    batch = impl.rebuild_batch(*parts(MESSAGES))
    assert type(batch) is impl.Batch
    assert list(batch) == MESSAGES
    assert [batch.received_ns_at(i) for i in range(len(batch))] == list(range(100, 108))
    assert len(impl.rebuild_batch(b"", b"", b"", b"")) == 0


def test_rebuild_batch_refuses_what_does_not_fit(impl):
    payload, lengths, kinds, times = parts(["ab", b"c"])
    huge = array("Q", [2**64 - 1, 4]).tobytes()
    for wrong in (
        (payload[:-1], lengths, kinds, times),
        (payload + b"x", lengths, kinds, times),
        (payload, lengths[:-1], kinds, times),
        (payload, lengths[:-8], kinds, times),
        (payload, lengths, kinds[:-1], times),
        (payload, lengths, kinds + b"\x01", times),
        (payload, lengths, kinds, times[:-8]),
        (payload, lengths, b"\x02\x00", times),
        (payload, huge, kinds, times),
        (b"\xff\xff\xff", lengths, kinds, times),
        (b"", b"", b"", b"\x00"),
        (b"x", b"", b"", b""),
    ):
        with pytest.raises(ValueError):  # noqa: PT011
            impl.rebuild_batch(*wrong)
