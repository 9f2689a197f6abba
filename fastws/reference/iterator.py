"""``async for message in connection``, without starving the event loop."""

from __future__ import annotations

import time
import types
import weakref
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Self

from .batch import Batch
from .decoder import FrameDecoder
from .histogram import Histogram

__all__ = ["BlockingIterator", "MessageIterator", "Turn"]

_MAX_STRIDE = 16
"""Most messages between two readings of the clock: how late a consumer that turns slow can be noticed."""


class Turn:
    """How long a consumer may go on without giving the event loop its turn.

    A turn ends after ``max_ns``, or after ``max_messages`` or what was queued when it began, whichever is more.
    The clock is read rarely while messages are handled quickly, and at each message while they aren't.

    Args:
        decoder: Where the messages wait.
        max_messages: Messages in one turn, if fewer are queued when it begins.
        max_ns: Nanoseconds in one turn.

    The same looks at the clock tell how long messages waited and how long the consumer took for them; all messages
    between two looks count alike.

    Attributes:
        waiter: The future of the coroutine that waits for a message.
        consumer: Weak reference to the task that received last.
        burst: Bytes read since whoever waited was woken, or since the loop ran its other callbacks.
    """

    def __init__(self, decoder: FrameDecoder, *, max_messages: int = 1024, max_ns: int = 5_000_000) -> None:
        self.waiter: Any = None
        self.consumer: weakref.ref[Any] | None = None
        self.burst = 0
        self._busy = False
        self._waits = Histogram()
        self._processings = Histogram()
        self._handed_ns = 0  # Of the last look while the consumer is at work.
        self._handed = 0  # Messages of the last batch; 0 for single ones.
        self._unread = 0  # Messages since the clock was read.
        self._decoder = decoder
        self._max_messages = max_messages
        self._max_ns = max_ns
        self.renew()

    def renew(self) -> None:
        """A new turn begins: the loop has run."""
        self._left = max(self._max_messages, self._decoder.queued_messages)
        self._end_ns = 0  # Until the first message is handed out, which every turn has.
        self._read_ns = 0
        self._stop()
        self._unread = 0
        self._stride = 1

    def claim(self) -> bool:
        """Set ``busy`` for a thread that receives; False if it was set already."""
        busy, self._busy = self._busy, True
        return not busy

    def take(self, decode: bool | None = None, /) -> str | bytes | None:
        """The next message for a thread that has no loop; None if none is there, or somebody is receiving.

        Raises:
            UnicodeDecodeError: If ``decode`` is True and it isn't UTF-8; it is lost.
        """
        if not self.claim():
            return None
        try:
            if not self._decoder.queued_messages:
                return None
            if self.spend():
                self.renew()
            message = self._decoder.pop(decode)
            if message is not None and self._decoder.resumable:
                self._decoder.resume()
            return message
        finally:
            self._busy = False

    def _stop(self) -> None:
        """The consumer waits, or the loop has its turn: that isn't processing."""
        if self._handed_ns:
            self._processed(time.monotonic_ns(), self._unread + 1)
            self._handed_ns = 0

    def _processed(self, now: int, messages: int) -> None:
        """The consumer has come back for more, after so many messages, unless they were a batch."""
        messages = self._handed or messages
        if self._handed_ns:
            self._processings.add((now - self._handed_ns) // messages, messages)
        self._handed = 0

    def wake(self) -> bool:
        """Wake who waits for a message. False if nobody does."""
        if self.waiter is None:
            return False
        if not self.waiter.done():
            self.waiter.set_result(None)
        return True

    def note_consumer(self, task: Any, /) -> None:
        """This task receives."""
        self.consumer = None if task is None else weakref.ref(task)

    @property
    def busy(self) -> bool:
        """Whether a coroutine is receiving; others must not. Set by the connection, respected by the iterator."""
        return self._busy

    @busy.setter
    def busy(self, value: bool) -> None:
        if value:
            self._stop()
        self._busy = value

    @property
    def wait(self) -> tuple[int, int, int, int, int]:
        """How long messages waited in the queue, in nanoseconds: (count, median, p99, p99.9, largest)."""
        return self._waits.quantiles()

    @property
    def processing(self) -> tuple[int, int, int, int, int]:
        """How long the consumer took for a message, in nanoseconds: (count, median, p99, p99.9, largest)."""
        return self._processings.quantiles()

    def took(self, batch: Batch, /) -> None:
        """Count the messages of a batch that was handed out, after ``spend()`` for the first one."""
        now = time.monotonic_ns()
        for index in range(1, len(batch)):
            self._waits.add(now - batch.received_ns_at(index))
        self._left -= len(batch) - 1
        self._handed_ns, self._handed = now, len(batch)
        self._unread = 0
        self._stride = 1

    def spend(self, messages: int = 1, /) -> bool:
        """Count messages handed out; True if it's the loop's turn now (the caller then suspends and renews).

        Once it is True, it stays so until the turn is renewed.
        """
        self._left -= messages
        if self._left < 0:
            self._stop()
            return True
        self._unread += messages
        if self._unread < self._stride:
            return False
        now = time.monotonic_ns()
        self._processed(now, self._unread)
        if self._end_ns and now >= self._end_ns:
            self._left = self._handed_ns = 0
            return True
        self._handed_ns = now
        if self._decoder.queued_messages:
            self._waits.add(now - self._decoder.oldest_ns, self._unread)
        if self._end_ns == 0:
            self._read_ns = now
            self._end_ns = now + self._max_ns
            self._unread = 0
            return False
        # Read again when, at the present pace, half of the time left is over.
        pace = max(1, (now - self._read_ns) // self._unread)
        self._stride = min(_MAX_STRIDE, max(1, (self._end_ns - now) // (2 * pace)))
        self._read_ns = now
        self._unread = 0
        return False


class BlockingIterator:
    """``for message in connection``.

    Args:
        turn: Of the connection.
        wait: Called when no message is there; returns the next one, or raises StopIteration at the end.
    """

    def __init__(self, turn: Turn, wait: Callable[[], str | bytes]) -> None:
        self._turn: Turn | None = turn
        self._wait = wait

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> str | bytes:
        if self._turn is None:
            raise StopIteration
        message = self._turn.take()
        return self._wait() if message is None else message

    def close(self) -> None:
        """End the iteration, as ``close()`` of a generator does; the connection stays open."""
        self._turn = None


class MessageIterator:
    """``async for message in connection``: completes without suspending while messages are queued.

    Args:
        decoder: Where the messages wait.
        turn: Fairness; at the end of a turn the iterator yields to the loop once.
        wait: Called when no message is queued; returns a coroutine that gives the next message, or raises
            StopAsyncIteration at the end. It counts in ``turn`` and resumes the decoder by itself.
        resume: Called after a message was taken that left the decoder ``resumable``.
    """

    def __init__(
        self,
        decoder: FrameDecoder,
        turn: Turn,
        wait: Callable[[], Coroutine[Any, Any, str | bytes]],
        resume: Callable[[], None],
    ) -> None:
        self._decoder = decoder
        self._turn = turn
        self._wait = wait
        self._resume = resume
        self._closed = False

    def __aiter__(self) -> Self:
        return self

    async def aclose(self) -> None:
        """End the iteration, as ``aclose()`` of an asynchronous generator does; the connection stays open."""
        self._closed = True

    async def __anext__(self) -> str | bytes:
        if self._closed:
            raise StopAsyncIteration
        while self._decoder.queued_messages and not self._turn.busy:
            # Before a message is taken, never after: cancelling while suspended must not lose one.
            if self._turn.spend():
                # Who is cancelled meanwhile has given the loop its turn, too.
                self._turn.renew()
                await _let_loop_run()
                continue
            message = self._decoder.pop()
            if message is None:
                break
            if self._decoder.resumable:
                self._resume()
            return message
        return await self._wait()


@types.coroutine
def _let_loop_run() -> Generator[None, None, None]:
    yield
