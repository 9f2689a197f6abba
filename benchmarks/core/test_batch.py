"""What is done with a batch of 10,000 messages of 150 bytes.

A regression in iterating is paid for each message by whoever looks at all of them; counting and slicing must not
depend on the number of messages, or the promise of batches is broken: no Python object until asked.
"""

from __future__ import annotations

import pickle
from typing import Any

import pytest

from benchmarks.core.cases import CASES, Timed, core

CASE = CASES["150 B"]


@pytest.fixture(params=["compiled", "reference"])
def batch(request: pytest.FixtureRequest, built: None) -> Any:
    decoder = core(request.param).FrameDecoder("client", max_size=None, max_queue_bytes=None)
    for chunk in CASE.chunks:
        decoder.feed(chunk)
    return decoder.take()


def iterate(batch: Any) -> int:
    count = 0
    for _ in batch:
        count += 1
    return count


def views(batch: Any) -> int:
    return sum([len(batch.view(index)) for index in range(len(batch))])


def test_iterate(timed: Timed, batch: Any) -> None:
    assert list(batch) == CASE.messages
    assert timed("iterate to str", CASE.nbytes, iterate, batch) == len(CASE.messages)


def test_count(timed: Timed, batch: Any) -> None:
    assert timed("count", CASE.nbytes, len, batch) == len(CASE.messages)


def test_slice(timed: Timed, batch: Any) -> None:
    half = timed("slice", CASE.nbytes // 2, batch.__getitem__, slice(0, len(batch) // 2))
    assert list(half) == CASE.messages[: len(CASE.messages) // 2]


def test_views(timed: Timed, batch: Any) -> None:
    assert timed("view each", CASE.nbytes, views, batch) == CASE.nbytes


def test_nbytes(timed: Timed, batch: Any) -> None:
    assert timed("nbytes", CASE.nbytes, lambda: batch.nbytes) == CASE.nbytes


def test_pickle(timed: Timed, batch: Any) -> None:
    travelled = timed("pickle and back", CASE.nbytes, lambda: pickle.loads(pickle.dumps(batch, 5)))
    assert list(travelled) == CASE.messages
