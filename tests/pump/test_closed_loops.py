"""Event loops that are closed under open connections: all is given back, nobody waits for ever."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import sys
import threading
import time
import warnings
from pathlib import Path

import pytest
from connection.net import loop_factory, port_of

import fastws
from fastws import Pump

if fastws.IMPLEMENTATION == "pure":
    pytest.skip("receive threads are in the compiled core only", allow_module_level=True)

from fastws._segment import live_segments

DESCRIPTORS = Path("/proc/self/fd")


@pytest.fixture(autouse=True)
def _unraisable_ignored(monkeypatch):
    """Tasks that are destroyed have something to say, and pytest would keep it, with all that it is about."""
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: None)


@contextlib.contextmanager
def closed_under(loop_name, connecting):
    """What a coroutine returns after its loop was closed, with all that was left on it."""
    caught = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        # Without what they are about, which would be kept.
        warnings.showwarning = lambda message, *rest: caught.append(str(message))
        loop = loop_factory(loop_name)()
        kept = [loop.run_until_complete(connecting)]
        tasks = asyncio.all_tasks(loop)
        loop.close()
        for task in tasks:
            # In CPython 3.11, the collector may crash on a coroutine that has the last reference to its task.
            with contextlib.suppress(RuntimeError):
                task.get_coro().close()
        del loop, tasks, task
        yield kept
    assert any("unclosed transport <PumpTransport" in text for text in caught)


async def opened(link, pump):
    """A client whose server has sent something that nobody took, and never ends."""

    async def handler(ws):
        await ws.send("x" * 10_000)
        await ws.wait_closed()

    server = await fastws.serve(handler, "127.0.0.1", 0, receive=pump, **link.server)
    ws = await fastws.connect(link.uri(port_of(server)), receive=pump, **link.client)
    while not ws.stats.queued_messages:  # noqa: ASYNC110
        await asyncio.sleep(0.001)
    assert pump.connections == 2
    return ws, server


@pytest.mark.skipif(not DESCRIPTORS.exists(), reason="descriptors are listed on Linux only")
@pytest.mark.crosswise
@pytest.mark.parametrize("loop_name", ["asyncio", "uvloop"])
def test_all_is_given_back(link, loop_name):
    """Also if no connection is made afterwards."""

    def left():
        return len(os.listdir(DESCRIPTORS)), live_segments()

    def settled(expected, seconds=10.0):
        deadline = time.monotonic() + seconds
        while (now := left()) != expected and time.monotonic() < deadline:
            gc.collect()
            time.sleep(0.01)
        return now

    pump = Pump(name="left")
    # What a first one leaves for all.
    with closed_under(loop_name, opened(link, pump)) as kept:
        kept.clear()
        settled(None, 0.3)
    before = left()
    for _ in range(2):
        with closed_under(loop_name, opened(link, pump)) as kept:
            kept.clear()
            assert settled(before) == before


@pytest.mark.parametrize("waits", [False, True], ids=["before", "after"])
def test_a_thread_that_receives_is_told(link, waits, monkeypatch):
    """It gets what there is; then waiting makes no sense any more."""
    monkeypatch.setattr("fastws.blocking._LOOK_S", 0.05)
    pump = Pump(name="left")
    seen = []

    def receive(ws):
        try:
            for batch in ws.iter_batches():
                seen.extend(batch)
        except RuntimeError as exc:
            seen.append(str(exc))

    async def connect():
        ws, server = await opened(link, pump)
        thread = threading.Thread(target=receive, args=(ws,))
        if waits:
            thread.start()
            while not seen:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        return ws, server, thread

    with closed_under("asyncio", connect()) as kept:
        thread = kept[0][2]
        kept.clear()
        if not waits:
            thread.start()
        thread.join(10)
        assert not thread.is_alive()
        assert seen == ["x" * 10_000, "the event loop of this connection is closed"]
        del thread
        gc.collect()
