"""Receiving without an event loop: any thread may wait for batches, without the GIL."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from websockets.exceptions import ConcurrencyError, ConnectionClosedOK

from .core import Batch, PumpedDecoder
from .receiving import Receiving

__all__ = ["BatchIterator", "Blocking", "deadline_after"]

_LOOK_S = 1.0
"""Between two looks of a thread that waits: whether there still is an event loop to tell how the connection ends."""


def deadline_after(timeout: float | None) -> float | None:
    """The time of ``time.monotonic()`` until which to wait; None is no limit.

    Args:
        timeout: Seconds; less than 0 is 0.

    Raises:
        TypeError: If it isn't a number.
        ValueError: If it is NaN.
    """
    if timeout is None:
        return None
    if timeout != timeout:
        raise ValueError(f"timeout is {timeout}, must be a number of seconds")
    return time.monotonic() + max(0.0, timeout)


class BatchIterator(Iterator[Batch]):
    """What ``iter_batches()`` of connections gives; it can be continued after a `TimeoutError`.

    Raises:
        ValueError: If ``max_messages`` is less than 1, or ``timeout`` negative or NaN.
    """

    def __init__(
        self,
        receive: Callable[[int | None, float | None], Batch],
        max_messages: int | None,
        timeout: float | None,
    ) -> None:
        if max_messages is not None and max_messages < 1:
            raise ValueError(f"max_messages is {max_messages}, must be 1 or more")
        if timeout is not None and not timeout >= 0.0:
            raise ValueError(f"timeout is {timeout}, must be positive or zero")
        self._receive = receive
        self._max_messages = max_messages
        self._timeout = timeout

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> Batch:
        try:
            return self._receive(self._max_messages, self._timeout)
        except ConnectionClosedOK:
            raise StopIteration from None


class Blocking(Receiving):
    """The part of `Connection` that gives messages to other threads."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._ended = threading.Event()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._ended.set()

    def iter_batches(self, *, max_messages: int | None = None, timeout: float | None = None) -> BatchIterator:
        """Iterate on batches of incoming messages in any thread, with ``receive="thread"``.

        Waiting needs neither the GIL nor an event loop in that thread. It ends and raises as ``async for message in
        connection`` does. One thread or coroutine may receive at a time.

        Args:
            max_messages: Most messages in a batch, 1 or more; None is no limit.
            timeout: Seconds to wait for a batch before `TimeoutError`, after which the iteration may go on; None is no
                limit.

        Raises:
            RuntimeError: If the event loop receives: use `batches` then. While iterating, if the event loop of the
                connection was closed before the connection, and all messages that are there were received.
            ValueError: If ``max_messages`` is less than 1, or ``timeout`` negative or NaN.
        """
        batches = BatchIterator(self._next_batch, max_messages, timeout)
        if not isinstance(self._decoder, PumpedDecoder):
            raise RuntimeError('iter_batches() needs a connection with receive="thread"; here the event loop receives')
        return batches

    def _next_batch(self, max_messages: int | None, timeout: float | None) -> Batch:
        decoder, turn = self._decoder, self._turn
        assert isinstance(decoder, PumpedDecoder)
        assert turn is not None
        deadline = deadline_after(timeout)
        if not turn.claim():
            raise ConcurrencyError("cannot call iter_batches while another thread or coroutine is already receiving")
        try:
            turn.busy = True
            while True:
                left = _LOOK_S if deadline is None else min(_LOOK_S, max(0.0, deadline - time.monotonic()))
                if not decoder.wait(left):
                    self._go_on_waiting(deadline, f"no message within {timeout} s")
                    continue
                if decoder.resumable:
                    decoder.resume()
                batch = decoder.take(max_messages)
                if decoder.resumable:
                    decoder.resume()
                if batch:
                    turn.renew()
                    turn.took(batch)
                    return batch
                # At the end, the loop says why; and what wasn't decoded for want of room has come by then.
                if decoder.is_over and not self._ended.wait(left):
                    self._go_on_waiting(
                        deadline, f"the connection is lost, and its event loop didn't look within {timeout} s"
                    )
                if self._ended.is_set() and not decoder.queued_messages and not decoder.resumable:
                    raise self.close_exc
        finally:
            turn.busy = False

    def _go_on_waiting(self, deadline: float | None, late: str) -> None:
        """Nothing has happened so far: raise if it makes no sense to wait, or for too long already."""
        if self.loop.is_closed():
            raise RuntimeError("the event loop of this connection is closed")
        if deadline is not None and time.monotonic() >= deadline:
            raise TimeoutError(late)
