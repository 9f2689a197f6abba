"""Messages in numbers: whole queues that change hands with the memory they are in, however they are taken."""

from __future__ import annotations

import contextlib
import gc
import itertools
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from .streams import BINARY, TEXT, frame

SIZES = (1, 2, 100, 255, 256, 257, 300, 1000, 1025, 4096, 5000)
"""Around the sizes of the ring: 256 at least, then powers of two; above 4,096 it isn't kept."""

STEPS_MAX = 10
BYTES_TO = [0, *itertools.accumulate(len(str(number)) for number in range(SIZES[-1] * STEPS_MAX))]
"""Of all numbers below one."""


@pytest.fixture(params=["FrameDecoder", "PumpedDecoder"], scope="session")
def make_decoder(request, impl):
    if request.param == "FrameDecoder":
        return impl.FrameDecoder
    if impl.name == "reference":
        pytest.skip("receive threads are in the compiled core only")
    from fastws._pumped import PumpedDecoder

    return PumpedDecoder


def numbers(first, count):
    return b"".join(frame(TEXT, b"%d" % number) for number in range(first, first + count))


def texts(first, count):
    return [str(number) for number in range(first, first + count)]


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("feed"), st.sampled_from(SIZES)),
        st.tuples(st.just("pop"), st.sampled_from(SIZES)),
        st.tuples(st.just("take"), st.one_of(st.none(), st.sampled_from(SIZES))),
        st.tuples(st.just("fragment"), st.just(1)),
        st.tuples(st.just("clear"), st.just(0)),
    ),
    max_size=STEPS_MAX,
)


@given(STEPS)
def test_order(make_decoder, steps):
    """Against two numbers: the next one sent, the next one due. Batches stay what they were."""
    decoder = make_decoder("client", max_queue_bytes=None)
    sent = due = lost = 0
    batches = []
    for action, count in steps:
        if action == "feed":
            decoder.feed(numbers(sent, count))
            sent += count
        elif action == "pop":
            for _ in range(count):
                message = decoder.pop()
                assert message == (str(due) if due < sent else None)
                due += message is not None
        elif action == "take":
            batch = decoder.take(count)
            assert len(batch) == (sent - due if count is None else min(count, sent - due))
            batches.append((due, batch))
            due += len(batch)
        elif action == "fragment":
            assert decoder.pop_fragment() == ((TEXT, True, b"%d" % due) if due < sent else None)
            due += due < sent
        else:
            decoder.clear()
            lost, due = lost + sent - due, sent
        assert decoder.queued_messages == sent - due
        assert decoder.queued_bytes == BYTES_TO[sent] - BYTES_TO[due]
    batches.append((due, decoder.take()))
    for first, batch in batches:
        assert list(batch) == texts(first, len(batch))
        assert list(batch[1::3]) == texts(first, len(batch))[1::3]
        assert list(pickle.loads(pickle.dumps(batch))) == list(batch)
    assert decoder.lost.discarded == lost


@pytest.mark.parametrize("popped", [0, 1, 128, 129, 255])
def test_rest_of_a_run(make_decoder, popped):
    """Batches take over where single messages ended, and the other way round."""
    decoder = make_decoder("client")
    decoder.feed(numbers(0, 600))
    assert [decoder.pop() for _ in range(popped)] == texts(0, popped)
    batch = decoder.take(150)
    assert list(batch) == texts(popped, 150)
    assert batch.view(149) == b"%d" % (popped + 149)
    decoder.feed(numbers(600, 700))
    rest = decoder.take()
    assert list(rest) == texts(popped + 150, 1300 - popped - 150)
    assert list(batch) == texts(popped, 150)
    decoder.feed(numbers(1300, 1))
    assert decoder.pop() == "1300"
    assert decoder.pop() is None


@pytest.mark.parametrize("popped", [0, 1, 200, 600])
def test_rest_of_a_run_as_one_batch(make_decoder, popped):
    """It may take over the memory that the run was in, or copy what is left; the decoder goes on either way."""
    decoder = make_decoder("client")
    batches = []
    for first in range(0, 5000, 1000):
        decoder.feed(numbers(first, 1000))
        assert [decoder.pop() for _ in range(popped)] == texts(first, popped)
        batches.append(decoder.take())
        assert (decoder.queued_messages, decoder.queued_bytes) == (0, 0)
    for i, batch in enumerate(batches):
        assert list(batch) == texts(1000 * i + popped, 1000 - popped)


def test_memory_for_large_queues_is_kept_within_bounds(impl, make_decoder):
    if impl.name == "reference":
        pytest.skip("pools are in the compiled core only")
    from fastws._segment import pooled_bytes

    decoders = [make_decoder("client", max_queue_bytes=None) for _ in range(6)]
    for decoder in decoders:
        decoder.feed(numbers(0, 70_000))
    kept = [decoder.take() for decoder in decoders]
    assert all(len(batch) == 70_000 and batch[-1] == "69999" for batch in kept)
    del kept, decoder, decoders
    # Six rings of 4 MiB were given back, and those that they grew from.
    assert pooled_bytes() <= (2 + 2 + 8 + 16) * 2**20


def test_most_that_waited(make_decoder):
    """Of what a consumer holds, only what it hasn't got to counts."""
    decoder = make_decoder("client")
    decoder.feed(numbers(0, 1000))
    for number in range(1000):
        assert decoder.pop() == str(number)
    decoder.feed(numbers(1000, 900))
    assert decoder.queued_messages_max == 1000
    assert decoder.queued_bytes_max == 900 * len("1000")
    for number in range(1000, 1500):
        assert decoder.pop() == str(number)
    decoder.feed(numbers(1900, 700))
    assert decoder.queued_messages_max == 400 + 700
    assert decoder.queued_bytes_max == (400 + 700) * len("1000")


class Finalized:
    """Garbage that calls something when it is collected."""

    def __init__(self, call):
        self.itself = self
        self.call = call

    def __del__(self):
        # A decoder that is at work may refuse.
        with contextlib.suppress(RuntimeError):
            self.call()


def collected_meanwhile(call, work):
    """The result of ``work``, in which the garbage collector runs ``call`` as soon as it can."""
    thresholds = gc.get_threshold()
    gc.collect()
    gc.disable()
    try:
        Finalized(call)
        gc.set_threshold(1, 1000, 1000)
        gc.enable()
        return work()
    finally:
        gc.set_threshold(*thresholds)
        gc.enable()
        gc.collect()


@pytest.mark.parametrize("count", [1, 2, 3, 300])
@pytest.mark.parametrize("way", ["fragment", "undecodable"])
def test_what_a_finalizer_throws_away(impl, make_decoder, count, way):
    """Nothing is taken or thrown away twice, whether it comes before a message is taken or while that is made."""
    if impl.name == "reference":
        pytest.skip("of memory that is given back; the reference has none, and no step of it is one")
    decoder = make_decoder("client")
    decoder.feed(frame(TEXT, b"first") + count * frame(BINARY, b"\xff"))
    assert decoder.pop() == "first"
    try:
        work = decoder.pop_fragment if way == "fragment" else lambda: decoder.pop(True)
        result = collected_meanwhile(decoder.clear, work)
    except UnicodeDecodeError:
        taken = way == "undecodable"
    else:
        assert result in (None, (BINARY, True, b"\xff"))
        taken = result is not None
    decoder.clear()
    assert decoder.queued_messages == decoder.queued_bytes == 0
    assert (decoder.delivered, decoder.lost.discarded) == (1 + taken, count - taken)
    decoder.feed(numbers(0, 1000))
    assert list(decoder.take()) == texts(0, 1000)
