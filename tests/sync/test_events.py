"""``for event in connection.events()``, in a thread of its own."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import Any

import pytest
from core.streams import TEXT, frame

import fastws
from fastws import Closed, EventsLost, Gap, Inspect
from fastws.observe.bus import BlockingEventIterator, EventBus

from .net import raw_peer, served, until_eof
from .test_drop_in import closes

if fastws.IMPLEMENTATION == "pure":
    pytest.skip("receive threads are in the compiled core only", allow_module_level=True)

import fastws.sync

QUIET: dict[str, Any] = {"ping_interval": None, "close_timeout": 0.2, "inspect": Inspect("/u")}


def numbers(*numbers: int) -> bytes:
    return b"".join(frame(TEXT, b'{"u":%d}' % number) for number in numbers)


def gaps(events: Any) -> list[tuple[int, int]]:
    return [(event.expected, event.got) for event in events if isinstance(event, Gap)]


def test_until_the_connection_is_closed():
    """A thread that waits for events gets them all, and then comes to an end."""
    got: list[Any] = []
    with served(closes(1000, "enough", '{"u":1}', '{"u":3}', '{"u":7}')) as uri:
        with fastws.sync.connect(uri, **QUIET) as ws:
            thread = threading.Thread(target=lambda: got.extend(ws.events()))
            thread.start()
            assert len(list(ws)) == 3
            thread.join(10)
            assert not thread.is_alive()
    assert gaps(got) == [(2, 3), (4, 7)]
    assert [(event.code, event.reason) for event in got if isinstance(event, Closed)] == [(1000, "enough")]


def test_what_came_with_the_handshake():
    with raw_peer(until_eof, behind=numbers(1, 3)) as uri, fastws.sync.connect(uri, **QUIET) as ws:
        events = ws.events(timeout=10)
        assert gaps([next(events)]) == [(2, 3)]


def test_nothing_in_time():
    """The iteration may go on."""
    go = threading.Event()

    def work(sock):
        assert go.wait(10)
        sock.sendall(numbers(3))
        until_eof(sock)

    with raw_peer(work, behind=numbers(1)) as uri, fastws.sync.connect(uri, **QUIET) as ws:
        events = ws.events(timeout=0.02)
        with pytest.raises(TimeoutError, match=r"no event in 0\.02 s"):
            next(events)
        go.set()
        got: list[Any] = []
        while not got:
            with contextlib.suppress(TimeoutError):
                got.append(next(events))
        assert gaps(got) == [(2, 3)]


def test_too_many_wait():
    with served(closes(1000, "", *[json.dumps({"u": 2 * number}) for number in range(10)])) as uri:
        with fastws.sync.connect(uri, **QUIET) as ws:
            events = ws.events(max_events=2)
            assert len(list(ws)) == 10
            ws.wait_closed(10)
            lost, *rest = events
    # Nine gaps and the end.
    assert lost == EventsLost(8)
    assert gaps(rest) == [(17, 18)]
    assert isinstance(rest[-1], Closed)


def test_after_the_end():
    """Of a connection whose events nobody took: those since its beginning, and then none."""
    with served(closes(1000, "", '{"u":1}', '{"u":3}')) as uri:
        with fastws.sync.connect(uri, **QUIET) as ws:
            list(ws)
        assert ws.wait_closed(10)
        got = list(ws.events())
        assert gaps(got) == [(2, 3)]
        assert isinstance(got[-1], Closed)


def test_wrong_calls():
    caught: list[Any] = []

    def on_event(ws, event):
        try:
            ws.events()
        except RuntimeError as exc:
            caught.append(str(exc))

    with raw_peer(until_eof, behind=numbers(1, 3)) as uri:
        with fastws.sync.connect(uri, on_event=on_event, **QUIET) as ws:
            with pytest.raises(ValueError, match="max_events is 0"):
                ws.events(0)
            with pytest.raises(ValueError, match="timeout is -1"):
                ws.events(timeout=-1)
            assert ws.recv(10) == '{"u":1}'
    assert caught
    assert set(caught) == {"events() would wait for the thread that it is called by"}


def test_many_threads_take_each_event_once():
    """One iterator, shared."""
    bus = EventBus(None)
    events = bus.subscribe(lambda ended: BlockingEventIterator(10_000, ended))
    taken: list[list[Any]] = [[] for _ in range(4)]
    threads = [threading.Thread(target=one.extend, args=(events,)) for one in taken]
    for thread in threads:
        thread.start()
    made = [Gap("", number, number) for number in range(5000)]
    for event in made:
        bus.emit(None, event)
    bus.end()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert sorted((event for one in taken for event in one), key=lambda gap: gap.expected) == made
