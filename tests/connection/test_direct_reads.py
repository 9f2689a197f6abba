"""asyncio's own transports have their socket read by the compiled intake; what is rare is left to them."""

from __future__ import annotations

import asyncio
import sys

import pytest
from core.streams import PING, TEXT

import fastws

from .net import against_peer, on_asyncio, until

pytestmark = [
    pytest.mark.loop_receives,
    pytest.mark.skipif(fastws.IMPLEMENTATION != "compiled", reason="plain Python would save nothing"),
    pytest.mark.skipif(sys.platform == "win32", reason="its loop hands out what was read"),
]


def reads_directly(ws):
    transport = ws.transport
    return transport._read_ready_cb == transport.get_protocol().read_ready


@on_asyncio
async def test_plain_sockets_are_read_directly(side):
    """If this fails on a new CPython, asyncio has changed: things work as before, and slower."""
    async with against_peer(side) as (ws, peer):
        assert reads_directly(ws)
        await peer.send(TEXT, b"x")
        assert await ws.recv() == "x"


@on_asyncio
async def test_other_transports_are_not(monkeypatch, side):
    monkeypatch.setattr("fastws.sending._PLAIN_TRANSPORTS", ())
    async with against_peer(side) as (ws, peer):
        assert not reads_directly(ws)
        await peer.send(TEXT, b"x")
        assert await ws.recv() == "x"


@on_asyncio
async def test_nothing_to_read(side):
    """A loop may say so without a cause."""
    async with against_peer(side) as (ws, peer):
        ws.transport._read_ready()
        await peer.send(TEXT, b"x")
        assert await ws.recv() == "x"


@on_asyncio
async def test_errors_are_told_as_ever(side):
    async with against_peer(side) as (ws, peer):
        peer.vanish()
        with pytest.raises(fastws.ConnectionClosedError) as caught:
            await ws.recv()
        assert isinstance(caught.value.__cause__, ConnectionResetError)
        assert "Connection reset by peer" in str(caught.value.__cause__)


@on_asyncio
async def test_a_step_that_fails(monkeypatch, side):
    """A bug of ours ends the connection, as with any protocol."""
    contexts = []
    async with against_peer(side) as (ws, peer):
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: contexts.append(context))

        def fail(status):
            raise ValueError("a bug")

        monkeypatch.setattr(ws, "_step", fail)
        peer.write(peer.frame(PING, b"x"))
        await until(lambda: contexts)
        await until(lambda: ws._lost)
    (context,) = contexts
    assert "buffer_updated() call failed" in context["message"]
    assert str(context["exception"]) == "a bug"
