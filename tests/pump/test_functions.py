"""Functions that give keys, which the pump's thread calls."""

from __future__ import annotations

import threading
import weakref

import pytest
from connection.net import against_peer, until
from core.streams import TEXT

import fastws
from fastws import Conflate, Pump

pytestmark = pytest.mark.skipif(fastws.IMPLEMENTATION == "pure", reason="receive threads are in the compiled core only")


class Kept:
    """What belongs to a thread."""


@pytest.mark.parametrize("side", ["client", "server"])
async def test_a_thread_state_for_the_life_of_the_thread(side):
    """It isn't made for each message, which takes long, and with it goes what belongs to the thread."""
    local = threading.local()
    threads = []
    made = []

    def key(message):
        threads.append(threading.get_native_id())
        if not hasattr(local, "kept"):
            local.kept = Kept()
            made.append(weakref.ref(local.kept))
        return message

    pump = Pump()
    options = {"receive": pump, "overflow": Conflate(key)}
    async with against_peer(side, **options) as (ws, peer):
        for number in range(3):
            await peer.send(TEXT, b"%d" % number)
            await peer.through()
            assert await ws.recv() == str(number)
        assert len(threads) == 3
        assert {*threads} == {threads[0]} != {threading.get_native_id()}
        assert len(made) == 1
        assert made[0]() is not None
    await until(lambda: not pump.running)
    assert made[0]() is None
    # Its next thread has a state of its own.
    async with against_peer(side, **options) as (ws, peer):
        await peer.send(TEXT, b"more")
        assert await ws.recv() == "more"
        assert len(made) == 2
        assert made[1]() is not None
    await until(lambda: not pump.running)
    assert made[1]() is None
