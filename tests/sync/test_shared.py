"""A connection of ``fastws.sync`` in the hands of several threads."""

from __future__ import annotations

import threading

import pytest
from core.test_shared import check_shares, switching, together
from websockets.exceptions import ConcurrencyError

import fastws

from .net import served
from .test_drop_in import echo

if fastws.IMPLEMENTATION == "pure":
    pytest.skip("receive threads are in the compiled core only", allow_module_level=True)

import fastws.sync

__all__ = ["switching"]

MESSAGES = 1000


@pytest.mark.parametrize("compression", [None, "deflate"])
def test_send_receive_and_look(compression):
    """Three threads send, two receive in turn, one looks."""
    done = threading.Event()
    count = threading.Lock()
    left = [3 * MESSAGES]

    with served(echo) as uri, fastws.sync.connect(uri, compression=compression) as connection:

        def send(letter):
            for number in range(MESSAGES):
                connection.send(f"{letter}{number:06d}")

        def receive():
            share = []
            while True:
                try:
                    some = [connection.recv(timeout=0.02)] if len(share) % 2 else list(connection.recv_batch(3, 0.02))
                except (ConcurrencyError, TimeoutError):
                    some = []
                with count:
                    left[0] -= len(some)
                    over = left[0] == 0
                share += some
                if over:
                    done.set()
                    return share

        def look():
            while not done.is_set():
                stats = connection.stats
                assert stats.delivered <= stats.messages_in <= 3 * MESSAGES
                assert stats.messages_out <= 3 * MESSAGES

        *_, first, second, _ = together(
            *(lambda letter=letter: send(letter) for letter in "abc"), receive, receive, look
        )
    for letter in "abc":
        shares = [[message for message in share if message[0] == letter] for share in (first, second)]
        check_shares(shares, [f"{letter}{number:06d}" for number in range(MESSAGES)])
