import weakref
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Self, final

from ._batch import Batch
from ._decoder import FrameDecoder

@final
class Turn:
    """How long a consumer may go on without giving the event loop its turn.

    A turn ends after ``max_ns``, or after ``max_messages`` or what was queued when it began, whichever is more.
    The clock is read rarely while messages are handled quickly, and at each message while they aren't.

    The same looks at the clock tell how long messages waited and how long the consumer took for them; all messages
    between two looks count alike.

    Attributes:
        waiter: The future of the coroutine that waits for a message.
        consumer: Weak reference to the task that received last.
        burst: Bytes read since whoever waited was woken, or since the loop ran its other callbacks.
    """

    waiter: Any
    burst: int
    @property
    def consumer(self) -> weakref.ref[Any] | None: ...
    def __init__(self, decoder: FrameDecoder, *, max_messages: int = 1024, max_ns: int = 5_000_000) -> None: ...
    def spend(self, messages: int = 1, /) -> bool:
        """Count messages handed out; True if it's the loop's turn now (the caller then suspends and renews)."""
    def took(self, batch: Batch, /) -> None:
        """Count the messages of a batch that was handed out, after ``spend()`` for the first one."""
    def wake(self) -> bool:
        """Wake who waits for a message. False if nobody does."""
    def note_consumer(self, task: Any, /) -> None:
        """This task receives."""
    def renew(self) -> None:
        """A new turn begins: the loop has run."""
    def claim(self) -> bool:
        """Set ``busy`` for a thread that receives; False if it was set already."""
    def take(self, decode: bool | None = None, /) -> str | bytes | None:
        """The next message for a thread that has no loop; None if none is there, or somebody is receiving.

        Raises:
            UnicodeDecodeError: If ``decode`` is True and it isn't UTF-8; it is lost.
        """
    @property
    def busy(self) -> bool:
        """Whether a coroutine is receiving; others must not. Set by the connection, respected by the iterator."""
    @busy.setter
    def busy(self, value: bool) -> None: ...
    @property
    def wait(self) -> tuple[int, int, int, int, int]:
        """How long messages waited in the queue, in nanoseconds: (count, median, p99, p99.9, largest)."""
    @property
    def processing(self) -> tuple[int, int, int, int, int]:
        """How long the consumer took for a message, in nanoseconds: (count, median, p99, p99.9, largest)."""

@final
class BlockingIterator:
    """``for message in connection``.

    Args:
        turn: Of the connection.
        wait: Called when no message is there; returns the next one, or raises StopIteration at the end.
    """

    def __init__(self, turn: Turn, wait: Callable[[], str | bytes]) -> None: ...
    def __iter__(self) -> Self: ...
    def __next__(self) -> str | bytes: ...
    def close(self) -> None:
        """End the iteration, as ``close()`` of a generator does; the connection stays open."""

@final
class MessageIterator:
    """``async for message in connection``: completes without suspending while messages are queued.

    Args:
        decoder: Where the messages wait.
        turn: Fairness; at the end of a turn the iterator yields to the loop once.
        wait: Called when no message is queued; returns a coroutine that gives the next message, or raises
            StopAsyncIteration at the end.
        resume: Called after a message was taken that left the decoder ``resumable``.
    """

    def __init__(
        self,
        decoder: FrameDecoder,
        turn: Turn,
        wait: Callable[[], Coroutine[Any, Any, str | bytes]],
        resume: Callable[[], None],
    ) -> None: ...
    def __aiter__(self) -> Self: ...
    def __anext__(self) -> Coroutine[Any, Any, str | bytes]: ...
    async def aclose(self) -> None:
        """End the iteration, as ``aclose()`` of an asynchronous generator does; the connection stays open."""

@final
class Message:
    """The awaitable that `MessageIterator` gives out: a coroutine in all but type."""

    def __await__(self) -> Generator[Any, None, str | bytes]: ...
    def __next__(self) -> Any: ...
    def send(self, value: Any, /) -> Any: ...
    def throw(self, typ: Any, val: Any = None, tb: Any = None, /) -> Any: ...
    def close(self) -> None: ...
