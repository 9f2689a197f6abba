"""What threads take messages with, in both implementations."""

from __future__ import annotations

import pytest

from .streams import TEXT, frame


@pytest.fixture
def decoder(impl):
    return impl.FrameDecoder("client", max_queue=(3, 1))


def test_take(impl, decoder):
    """Messages while there are any, unless somebody else receives."""
    turn = impl.Turn(decoder)
    assert turn.take() is None
    decoder.feed(frame(TEXT, b"a") + frame(2, b"b") + frame(2, b"\xff"))
    assert turn.claim()
    assert not turn.claim()
    assert turn.take() is None
    turn.busy = False
    assert (turn.take(False), turn.take(True)) == (b"a", "b")
    with pytest.raises(UnicodeDecodeError):
        turn.take(True)
    assert not turn.busy
    assert turn.take() is None


def test_take_reads_on(impl, decoder):
    """At the low-water mark, what was not decoded for want of room is."""
    turn = impl.Turn(decoder)
    decoder.feed(b"".join(frame(TEXT, b"%d" % number) for number in range(100)))
    assert decoder.blocked
    assert [turn.take() for _ in range(101)] == [*map(str, range(100)), None]


def test_more_than_a_turn(impl):
    decoder = impl.FrameDecoder("client")
    decoder.feed(frame(TEXT, b"x") * 5000)
    turn = impl.Turn(decoder)
    assert sum(turn.take() == "x" for _ in range(5000)) == 5000
    assert turn.wait[0] > 0


def test_iterator(impl, decoder):
    """It waits when nothing is there, and ends when that ends or it is closed."""
    turn = impl.Turn(decoder)
    waited = iter(["from", "waiting"])
    iterator = impl.BlockingIterator(turn, lambda: next(waited))
    assert iter(iterator) is iterator
    decoder.feed(frame(TEXT, b"queued"))
    assert list(iterator) == ["queued", "from", "waiting"]
    decoder.feed(frame(TEXT, b"more"))
    assert next(iterator) == "more"
    iterator.close()
    decoder.feed(frame(TEXT, b"last"))
    assert list(iterator) == []
    assert turn.take() == "last"
