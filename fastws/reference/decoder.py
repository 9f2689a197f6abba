"""Bytes in; messages, batches and control frames out: RFC 6455 sections 5 and 6.2, RFC 7692 section 6.2.

What is decoded and when:

- A header is checked as soon as the bytes are there that show what is wrong; a payload once the frame is complete.
- Text is validated frame by frame, so a message can be refused before it is complete.
- When the queue reaches a limit, decoding stops *between two frames*, whatever is left of the read. Nothing behind
  that place is looked at, except for pings and pongs: their answers must not wait for a slow consumer.
- Where a policy, a key or a number is to be looked at, fragmented messages are joined first, and `admission` decides
  what becomes of each message; else frames are queued as they come, and the decoder blocks when there are too many.
- After a close frame, a violation or ``discard()`` the decoder is finished: it counts further input and ignores it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..overflow import Figures
from ..wire import Status, Violation
from .batch import Batch, Record
from .decoding import Decoding
from .header import BrokenRuleError
from .losses import Loss

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["FrameDecoder"]

_READ_BYTES = 64 * 1024
_RECORD_BYTES_MAX = 16 * 1024  # Plaintext of one TLS record, RFC 8446 5.1.
_HINT_MAX = 1024 * 1024


class FrameDecoder(Decoding):
    """Bytes in; messages, batches and control frames out. Knows no socket.

    Feed it with ``feed(data)``, or by ``get_buffer()`` and ``buffer_updated(n)``. Each step returns a `Status` that
    tells what to look at. Messages wait in a queue that is bounded in count and bytes: at a limit the decoder stops in
    the middle of a chunk, says ``BLOCKED``, and goes on at ``resume()``.

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

    # Bytes in.

    def feed(self, data: Buffer, /) -> Status:
        """Take ``data`` (any length, copied) from the network and decode it."""
        return self._receive(memoryview(data).tobytes())

    def get_buffer(self, sizehint: int = -1, /) -> memoryview:
        """Writable memory for the next read, never empty.

        Args:
            sizehint: Ignored unless `honors_sizehint` is set: then room for more than that, at most 1 MiB.
        """
        wanted = _READ_BYTES
        if self._honors_sizehint:
            wanted = max(wanted, min(sizehint + _RECORD_BYTES_MAX, _HINT_MAX))
        if len(self._lent) < wanted:
            self._lent = bytearray(wanted)
        self._lent_bytes = len(self._lent)
        return memoryview(self._lent)

    def buffer_updated(self, nbytes: int, /) -> Status:
        """Decode ``nbytes`` that were written to the start of the memory that ``get_buffer`` returned last.

        Raises:
            ValueError: If ``nbytes`` is negative or more than was lent.
        """
        if not 0 <= nbytes <= self._lent_bytes:
            raise ValueError(f"nbytes is {nbytes}, must be 0 to {self._lent_bytes}, which is what was lent")
        self._lent_bytes = 0
        return self._receive(bytes(memoryview(self._lent)[:nbytes]))

    def resume(self) -> Status:
        """Go on decoding what is left, if the queue is at or below its low-water marks; else still ``BLOCKED``."""
        if self.resumable:
            self._blocked = False
        return self._step()

    def end_of_stream(self) -> Status:
        """Nothing more will come.

        A close frame behind the place where decoding stopped is found now, as nobody may be left to answer it later;
        the messages before it stay receivable.
        """
        self._at_end = True
        return self._step()

    # Messages out.

    def pop(self, decode: bool | None = None, /) -> str | bytes | None:
        """Take the next complete message; None if there is none.

        Args:
            decode: None gives str for text and bytes for binary; False always bytes; True always str.

        Raises:
            UnicodeDecodeError: If ``decode`` is True and a binary message isn't UTF-8; the message is consumed.
        """
        fragments = self._next_fragments()
        if fragments > self._max_fragments:
            self._refuse_head(fragments)
            return None
        if fragments == 0:
            return None
        record = self._inbox.pop_message(fragments)
        self._delivered += 1
        if decode is None:
            return record.message
        return record.payload.decode() if decode else record.payload

    def pop_fragment(self) -> tuple[int, bool, bytes] | None:
        """Take the next data frame as (opcode, fin, payload), decompressed; None if there is none."""
        self._expire()
        frame = self._inbox.pop()
        if frame is None:
            return None
        self._delivered += frame.fin
        return frame.opcode, frame.fin, frame.payload

    def take(self, max_messages: int | None = None, /) -> Batch:
        """Take all complete messages, or the first ``max_messages`` (>= 1); the batch is empty if there are none.

        Raises:
            ValueError: If ``max_messages`` is less than 1.
        """
        if max_messages is not None and max_messages < 1:
            raise ValueError(f"max_messages is {max_messages}, must be 1 or more")
        records: list[Record] = []
        while len(records) != max_messages and (fragments := self._next_fragments()):
            if fragments > self._max_fragments:
                if not records:
                    self._refuse_head(fragments)
                break
            records.append(self._inbox.pop_message(fragments))
        self._delivered += len(records)
        return Batch(records, self._losses.report()) if records else Batch()

    def _next_fragments(self) -> int:
        self._expire()
        return self._inbox.head_fragments()

    def _expire(self) -> None:
        if self._admission is not None:
            self._admission.expire_head()

    def _refuse_head(self, fragments: int) -> None:
        self._inbox.pop_message(fragments)
        self._losses.add(Loss.DISCARDED)
        self._fail(BrokenRuleError(Violation.TOO_MANY_FRAGMENTS, fragments, self._max_fragments))

    def controls(self) -> list[tuple[int, bytes]]:
        """Take the control frames that came since the last call, as (opcode, payload), in their order.

        Close frames come as they are; check their payload with ``websockets.frames.Close.parse``.
        """
        return [(opcode, payload) for opcode, payload, _ in self.timed_controls()]

    def timed_controls(self) -> list[tuple[int, bytes, int]]:
        """`controls` with ``time.monotonic_ns()`` of the read that brought each: (opcode, payload, received_ns)."""
        controls, self._controls = self._controls, []
        return controls

    def unlogged(self) -> list[tuple[int, bool, bytes]]:
        """The queued data frames that came since the last call, as `pop_fragment` gives them; they stay queued."""
        return [(frame.opcode, frame.fin, frame.payload) for frame in self._inbox.unseen()]

    def figures(self) -> Figures:
        """All of them that add up, of one moment."""
        return Figures(
            self.messages_received,
            self.bytes_received,
            self.delivered,
            self.answered,
            self.queued_messages,
            self.queued_messages_max,
            self.queued_bytes,
            self.queued_bytes_max,
            self.lost,
            self.gaps,
            self.exchange_lag_ns,
        )

    def clear(self) -> None:
        """Throw away the queued messages."""
        self._losses.add(Loss.DISCARDED, messages=self._inbox.messages)
        self._inbox.clear()
