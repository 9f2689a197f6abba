from typing_extensions import Buffer

from ._batch import Batch
from ._decoding import Decoding
from .wire import Status

class FrameDecoder(Decoding):
    """Bytes in; messages, batches and control frames out (RFC 6455 section 5 and 6.2, RFC 7692). Knows no socket.

    Feed it with ``feed(data)``, or without a copy by ``get_buffer()`` and ``buffer_updated(n)``. Each step returns a
    `Status` that tells what to look at. Messages wait in a queue that is bounded in count and bytes: at a limit
    the decoder stops in the middle of a chunk, says ``BLOCKED``, and goes on at ``resume()``. Pings and pongs behind
    the place where it stopped are still found.

    Args:
        role: Our side. A server demands masked frames, a client unmasked ones (RFC 6455 5.1).
        max_size: Largest message in bytes, or ``(largest message, largest fragment)``; None is no limit.
        max_queue: Messages that may wait: blocks when there are *more* than high, and may go on when there
            are low or fewer. An int is high, with low = high // 4; a pair is (high, low). None is no limit.
        max_queue_bytes: Blocks when queued payloads plus ``RECORD_BYTES`` for each queued frame reach it, and may go
            on at a quarter of it. None is no limit.
        max_fragments: Most fragments of a message received whole.
        deflate: permessage-deflate as negotiated; None if it wasn't.
        overflow: What becomes of messages when there is no room; None is `Block`.
        max_queue_age: Seconds that a message may wait; None is no limit. There is no room while the first message that
            waits is older; messages of `DropOldest` that are older expire.
        inspect: Sequence numbers to look at; what doesn't follow is told by ``notices()``.
        exchange_time: Where messages say when they were made, for `exchange_lag_ns`.
        replies: Messages to answer automatically; ``notices()`` says which came.
        track: Key whose last messages are remembered, for ``last_seen()``.

    With any of these but `Block`, fragmented messages are joined before they are queued.

    Raises:
        ValueError: If a limit is negative, low > high, role is neither, a key or a pointer is wrong or missing.
        TypeError: If something is of the wrong type.
    """

    def feed(self, data: Buffer, /) -> Status:
        """Take ``data`` (any length, copied) from the network and decode it."""
    def get_buffer(self, sizehint: int = -1, /) -> memoryview:
        """Writable memory for the next read, never empty, at most 256 KiB; its size follows what reads have brought.

        Calling it again without ``buffer_updated`` is harmless; the earlier memoryview must not be written to any more.

        Args:
            sizehint: Ignored unless `honors_sizehint` is set: then room for more than that, at most 1 MiB.
        """
    def buffer_updated(self, nbytes: int, /) -> Status:
        """Decode ``nbytes`` that were written to the start of the memory that ``get_buffer`` returned last.

        Raises:
            ValueError: If ``nbytes`` is negative or more than was lent.
        """
    def resume(self) -> Status:
        """Go on decoding what is left, if the queue is at or below its low-water marks; else still ``BLOCKED``."""
    def end_of_stream(self) -> Status:
        """Nothing more will come. A close frame behind the place where decoding stopped is found now, as nobody may be
        left to answer it later; the messages before it stay receivable."""
    def pop(self, decode: bool | None = None, /) -> str | bytes | None:
        """Take the next complete message; None if there is none.

        Args:
            decode: None gives str for text and bytes for binary; False always bytes; True always str.

        Raises:
            UnicodeDecodeError: If ``decode`` is True and a binary message isn't UTF-8; the message is consumed.
        """
    def pop_fragment(self) -> tuple[int, bool, bytes] | None:
        """Take the next data frame as (opcode, fin, payload), decompressed; None if there is none. Where fragmented
        messages are joined, it is a whole message."""
    def take(self, max_messages: int | None = None, /) -> Batch:
        """Take all complete messages, or the first ``max_messages`` (>= 1); the batch is empty if there are none. Its
        ``lost`` says what was lost since the last batch that wasn't empty."""
    def controls(self) -> list[tuple[int, bytes]]:
        """Take the control frames that came since the last call, as (opcode, payload), in their order. Close
        frames come as they are; check their payload with ``websockets.frames.Close.parse``. After a close
        frame the decoder ignores all further input (RFC 6455 1.4)."""
    def timed_controls(self) -> list[tuple[int, bytes, int]]:
        """`controls` with ``time.monotonic_ns()`` of the read that brought each: (opcode, payload, received_ns)."""
    def unlogged(self) -> list[tuple[int, bool, bytes]]:
        """The queued data frames that came since the last call, as `pop_fragment` gives them; they stay queued."""
    def clear(self) -> None:
        """Throw away the queued messages; they count as discarded."""
