from collections.abc import Sequence
from typing import Literal

from typing_extensions import Buffer, disjoint_base

from ._batch import Batch
from .deflate import Deflate
from .overflow import ExchangeTime, Figures, Inspect, Key, Lost, Policy, Reply
from .wire import Status

@disjoint_base
class FrameDecoder:
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

    def __init__(
        self,
        role: Literal["client", "server"],
        *,
        max_size: int | tuple[int | None, int | None] | None = ...,
        max_queue: int | tuple[int | None, int | None] | None = None,
        max_queue_bytes: int | None = ...,
        max_fragments: int = ...,
        deflate: Deflate | None = None,
        overflow: Policy | None = None,
        max_queue_age: float | None = None,
        inspect: Inspect | None = None,
        exchange_time: ExchangeTime | None = None,
        replies: Sequence[Reply] = (),
        track: Key | None = None,
    ) -> None: ...
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
    def end_of_stream(self) -> Status:
        """Nothing more will come. A close frame behind the place where decoding stopped is found now, as nobody may be
        left to answer it later; the messages before it stay receivable."""
    def discard(self) -> None:
        """Ignore all further input and what isn't decoded yet. Queued messages stay."""
    def clear(self) -> None:
        """Throw away the queued messages; they count as discarded."""
    def notices(self) -> list[tuple[int, str | None, int, int]]:
        """Take what happened since the last call, see `Notice`. At most ``NOTICES_MAX`` wait; how many came beyond that
        is the last notice."""
    def given_up(self) -> list[str]:
        """Keys that the policy `Resync` has given up, in alphabetical order. Cost: grows with the keys ever seen."""
    def resynced(self, key: str) -> None:
        """Admit messages of ``key`` again that the policy `Resync` gave up; nothing happens if it didn't."""
    def lost_by_key(self, limit: int = 10, /) -> list[tuple[str, int, int]]:
        """(key, dropped, conflated) of the ``limit`` keys that lost most: most first, then by key. What was discarded
        isn't attributed to keys."""
    def last_seen(self) -> dict[str, int]:
        """``received_ns`` of the last message of each key, as far as ``track`` says where the key is."""
    @property
    def lost(self) -> Lost:
        """Messages lost since the beginning. Always ``messages_received == delivered + queued_messages + lost.total +
        answered``."""
    @property
    def delivered(self) -> int:
        """Messages taken by ``pop``, ``take``, ``pop_fragment`` (their final fragment) or the iterator."""
    @property
    def answered(self) -> int:
        """Messages that a `Reply` took and the consumer doesn't get."""
    @property
    def gaps(self) -> int:
        """Messages whose sequence number doesn't follow the one before, according to ``inspect``."""
    @property
    def exchange_lag_ns(self) -> int | None:
        """Wall clock at the read less the exchange's time in the message, of the last message that had one."""
    def figures(self) -> Figures:
        """All of them that add up, of one moment."""
    @property
    def violation(self) -> tuple[int, int, int] | None:
        """(`Violation`, value, limit) once the peer broke a rule, else None."""
    @property
    def blocked(self) -> bool:
        """Whether decoding stopped at a queue limit."""
    @property
    def resumable(self) -> bool:
        """Whether it is blocked and the queue is at or below its low-water marks: call ``resume()``."""
    @property
    def want_message(self) -> bool:
        """Set by a consumer that waits for a whole message: while no complete message is queued, queue limits
        don't apply (``max_size`` and ``max_fragments`` do), as they would wait for each other for ever. Cleared when a
        message completes."""
    @want_message.setter
    def want_message(self, value: bool) -> None: ...
    @property
    def dropping(self) -> bool:
        """Set when a closing handshake must not wait behind data: from then on data frames are thrown away, without a
        look at their payload, and no queue limit applies. Queued messages stay."""
    @dropping.setter
    def dropping(self, value: bool) -> None: ...
    @property
    def honors_sizehint(self) -> bool:
        """Set where ``sizehint`` is what waits in the transport, as asyncio's TLS does: what it read before the end of
        the stream must fit into one buffer, or the rest is lost."""
    @honors_sizehint.setter
    def honors_sizehint(self, value: bool) -> None: ...
    @property
    def queued_messages(self) -> int:
        """Complete messages that wait."""
    @property
    def queued_frames(self) -> int:
        """Data frames that wait, those of incomplete messages included."""
    @property
    def queued_bytes(self) -> int:
        """Payload bytes that wait, those of incomplete messages included."""
    @property
    def queued_messages_max(self) -> int:
        """Most complete messages that ever waited."""
    @property
    def queued_bytes_max(self) -> int:
        """Most payload bytes that ever waited."""
    @property
    def oldest_ns(self) -> int:
        """``received_ns`` of the first complete message that waits; 0 if there is none."""
    @property
    def current_size(self) -> int | None:
        """Bytes of the fragmented message that is being received; None outside of one."""
    @property
    def partial_frame(self) -> tuple[int, int]:
        """(bytes received, bytes expected) of a frame that isn't complete; (0, 0) at a frame boundary. While its
        header isn't complete, the expected number is that of the header so far known (at least 2)."""
    @property
    def messages_received(self) -> int:
        """Complete messages so far, whatever became of them."""
    @property
    def bytes_received(self) -> int:
        """Bytes taken from the network so far."""
