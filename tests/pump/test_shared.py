"""A pump, its sockets, hubs and decoders in the hands of several threads, with a GIL and without one."""

from __future__ import annotations

import gc
import random
import socket
import threading
import time

import pytest
from core.streams import TEXT, UNLIMITED, frame
from core.test_shared import check_shares, switching, texts, together, wire

from fastws import core

if core.Pump.__module__ != "fastws._pump":
    pytest.skip("the compiled core has pumps", allow_module_level=True)

from fastws._pump import Hub, Pump, PumpSocket
from fastws._pumped import PumpedDecoder
from fastws._segment import live_segments

__all__ = ["switching"]

MESSAGES = 4000
ROUNDS = 60


@pytest.mark.parametrize("how", ["pop", "take", "all", "fragments", "mixed"])
def test_threads_that_consume(how):
    decoder = PumpedDecoder("client", **UNLIMITED)
    ours, theirs = socket.socketpair()
    messages = texts(MESSAGES)
    with theirs:
        with ours:
            line = Pump().adopt(ours.fileno(), decoder)
        line.pause(False)

        def send():
            theirs.sendall(wire(messages))
            theirs.shutdown(socket.SHUT_WR)

        def one(how=how):
            if how == "mixed":
                # What one has begun in a run, or with the ring of a long queue, another goes on with.
                return one(random.choice(["pop", "take", "all", "fragments"]))
            if how in ("take", "all"):
                return list(decoder.take(7 if how == "take" else None))
            if how == "fragments":
                fragment = decoder.pop_fragment()
                return [] if fragment is None else [fragment[2].decode()]
            message = decoder.pop()
            return [] if message is None else [message]

        def consume():
            share = []
            while True:
                over = decoder.is_over or decoder.messages_received == MESSAGES
                some = one()
                share += some
                if over and not some:
                    return share
                if not some:
                    decoder.wait(0.001)

        def look():
            while decoder.messages_received != MESSAGES:
                figures = decoder.figures()
                # What a consumer has in its hands isn't counted exactly while it works.
                assert figures.messages_received <= MESSAGES
                assert decoder.oldest_ns >= 0

        _, _, *shares = together(send, look, consume, consume)
        line.abort()
    check_shares(shares, messages)


def test_sockets_come_and_go():
    """Whoever takes reports, purges or lets go of a socket does so while others do the same."""
    gc.collect()
    before = live_segments()
    pump, hub = Pump(), Hub()
    done = threading.Event()
    told = []

    def connect():
        for number in range(ROUNDS):
            ours, theirs = socket.socketpair()
            decoder = PumpedDecoder("client")
            with theirs:
                with ours:
                    line = pump.adopt(ours.fileno(), decoder, hub)
                line.pause(False)
                theirs.sendall(frame(TEXT, b"hello"))
                assert decoder.wait(30)
                assert decoder.pop() == "hello"
                line.write(frame(TEXT, b"answer"))
                assert theirs.recv(100) == frame(TEXT, b"answer")
                line.abort()
                if number % 2:
                    # Nobody but the pump keeps it now.
                    del line, decoder
                else:
                    until_over(decoder)

    def until_over(decoder):
        deadline = time.monotonic() + 30
        while not decoder.is_over:
            assert time.monotonic() < deadline
            time.sleep(0)

    def take():
        while not done.is_set() or pump.connections:
            for line, report in hub.take():
                assert isinstance(line, PumpSocket)
                assert report
                told.append(report & Hub.GONE)

    def purge():
        while not done.is_set():
            pump.purge()

    helpers = [threading.Thread(target=work) for work in (take, take, purge, purge)]
    for helper in helpers:
        helper.start()
    try:
        together(connect, connect, connect)
    finally:
        done.set()
        for helper in helpers:
            helper.join()
    assert any(told)
    hub.take()
    pump.purge()
    assert pump.connections == 0
    gc.collect()
    assert live_segments() <= before
