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

import time
import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from ..deflate import Deflate
from ..overflow import Block, ExchangeTime, Inspect, Key, Lost, Policy, Reply
from ..wire import (
    DEFAULT_MAX_FRAGMENTS,
    DEFAULT_MAX_QUEUE_BYTES,
    DEFAULT_MAX_SIZE,
    Opcode,
    Status,
    Violation,
)
from .admission import Admission, Verdict
from .backlog import Backlog
from .batch import Batch, Record
from .header import MAX_LENGTH, BrokenRuleError, Header, apply_mask
from .inbox import DataFrame, Inbox, Limit, limit_pair
from .inflate import InflatedTooBigError, Inflater
from .losses import Loss, Losses, Notices
from .utf8 import Utf8Validator

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["FrameDecoder"]

_READ_BYTES = 64 * 1024
_RECORD_BYTES_MAX = 16 * 1024  # Plaintext of one TLS record, RFC 8446 5.1.
_HINT_MAX = 1024 * 1024


class _Reception:
    """The message under reception: what one frame leaves behind for the next.

    Attributes:
        opcode: TEXT or BINARY.
        compressed: Whether its first frame had rsv1 set.
        text: Validates it; None for a binary message.
        size: Payload bytes so far, inflated.
        fragments: Frames so far.
        parts: Their payloads, where they aren't queued one by one.
    """

    def __init__(self, header: Header) -> None:
        self.opcode = header.opcode
        self.compressed = header.rsv1
        self.text = Utf8Validator() if header.opcode == Opcode.TEXT else None
        self.size = 0
        self.fragments = 0
        self.parts: list[bytes] = []


class FrameDecoder:
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

    def __init__(
        self,
        role: Literal["client", "server"],
        *,
        max_size: Limit = DEFAULT_MAX_SIZE,
        max_queue: Limit = None,
        max_queue_bytes: int | None = DEFAULT_MAX_QUEUE_BYTES,
        max_fragments: int = DEFAULT_MAX_FRAGMENTS,
        deflate: Deflate | None = None,
        overflow: Policy | None = None,
        max_queue_age: float | None = None,
        inspect: Inspect | None = None,
        exchange_time: ExchangeTime | None = None,
        replies: Sequence[Reply] = (),
        track: Key | None = None,
    ) -> None:
        if role not in ("client", "server"):
            raise ValueError(f"role is {role!r}, must be 'client' or 'server'")
        if max_fragments < 0:
            raise ValueError(f"max_fragments is {max_fragments}, must be 0 or more")
        self._peer_masks = role == "server"
        self._max_message_size, self._max_fragment_size = limit_pair("max_size", max_size)
        self._max_fragments = max_fragments
        self._inflater = None if deflate is None else Inflater(deflate)
        self._losses = Losses()
        self._notices = Notices()
        self._admission: Admission | None = None  # None where nothing is to be looked at.
        looks = any(option is not None for option in (max_queue_age, inspect, exchange_time, track)) or replies
        if looks or not (overflow is None or isinstance(overflow, Block)):
            backlog = Backlog(max_queue, max_queue_bytes)
            self._inbox: Inbox = backlog
            self._admission = Admission(
                backlog,
                self._losses,
                self._notices,
                overflow=overflow,
                max_queue_age=max_queue_age,
                inspect=inspect,
                exchange_time=exchange_time,
                replies=replies,
                track=track,
            )
        else:
            self._inbox = Inbox(max_queue, max_queue_bytes)
        self._arrivals = 0  # How often something was queued.
        self._delivered = 0
        self._controls: list[tuple[int, bytes]] = []

        self._unparsed = bytearray()
        self._scanned = 0  # Bytes of `_unparsed`, always whole frames, whose pings and pongs were reported.
        self._reception: _Reception | None = None  # Not None within a fragmented message.
        self._want_message = False
        self._dropping = False
        self._at_end = False
        self._close_seen = False  # Behind the place where decoding stopped.
        self._honors_sizehint = False
        self._blocked = False
        self._finished = False
        self._violation: tuple[int, int, int] | None = None

        self._lent = bytearray()
        self._lent_bytes = 0
        self._received_ns = 0
        self._received_wall_ns = 0
        self._bytes_received = 0
        self._messages_received = 0

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

    def discard(self) -> None:
        """Ignore all further input and what isn't decoded yet. Queued messages stay."""
        self._finished = True
        self._blocked = False
        self._unparsed.clear()
        self._scanned = 0

    # Decoding.

    def _receive(self, data: bytes) -> Status:
        self._received_ns = time.monotonic_ns()
        self._received_wall_ns = time.time_ns()
        self._bytes_received += len(data)
        if not self._finished:
            self._unparsed += data
        return self._step()

    def _step(self) -> Status:
        """Decode as far as possible and say what it brought."""
        arrivals = self._arrivals
        try:
            while not (self._finished or self._blocked) and self._decode_frame():
                pass
        except BrokenRuleError as broken:
            self._fail(broken)
        if self._blocked:
            self._scan_ahead()
        return (
            (Status.MESSAGE if self._arrivals > arrivals else Status(0))
            | (Status.CONTROL if self._controls else Status(0))
            | (Status.VIOLATION if self._violation is not None else Status(0))
            | (Status.BLOCKED if self._blocked else Status(0))
            | (Status.NOTICE if self._notices else Status(0))
        )

    def _decode_frame(self) -> bool:
        """Decode the next frame; False if it isn't complete, or must wait."""
        header = Header.parse(self._unparsed)
        if header is None:
            return False
        header.check(masked=self._peer_masks, deflate=self._inflater is not None)
        self._check_continuation(header)
        length = header.payload_length(self._unparsed)
        if length is None:
            return False
        self._check_length(header, length)
        end = header.size + length
        if len(self._unparsed) < end:
            return False
        if not header.is_control and self._must_stop:
            self._blocked = True
            return False

        payload = self._payload(header, end)
        reported = self._scanned > 0
        del self._unparsed[:end]
        self._scanned = max(0, self._scanned - end)
        if header.is_control:
            self._take_control(header.opcode, payload, reported)
        elif self._dropping:
            self._drop_data(header)
        else:
            self._take_data(header, payload)
        return True

    def _check_continuation(self, header: Header) -> None:
        """Fragments of a message follow each other, with only control frames between them (RFC 6455 5.4)."""
        if header.opcode == Opcode.CONT:
            if self._reception is None:
                raise BrokenRuleError(Violation.UNEXPECTED_CONTINUATION, 0, 0)
        elif not header.is_control and self._reception is not None:
            raise BrokenRuleError(Violation.EXPECTED_CONTINUATION, header.opcode, 0)

    def _check_length(self, header: Header, length: int) -> None:
        """Refuse a payload that is too long before any of it is stored (RFC 6455 5.2, 10.4)."""
        if length > MAX_LENGTH:
            raise BrokenRuleError(Violation.LENGTH_TOO_LARGE, length, MAX_LENGTH)
        if header.is_control:
            return
        size = (self.current_size or 0) + length
        if self._max_message_size is not None and size > self._max_message_size:
            raise BrokenRuleError(Violation.MESSAGE_TOO_BIG, size, self._max_message_size)
        if self._max_fragment_size is not None and length > self._max_fragment_size:
            raise BrokenRuleError(Violation.FRAGMENT_TOO_BIG, length, self._max_fragment_size)

    @property
    def _must_stop(self) -> bool:
        # A consumer that waits for a whole message and a decoder that waits for the consumer would wait for ever.
        too_much = self._admission is None and self._inbox.over_limit
        return too_much and not self._consumer_starves and not self._dropping

    @property
    def _consumer_starves(self) -> bool:
        return self._want_message and self._inbox.messages == 0

    def _payload(self, header: Header, end: int, offset: int = 0) -> bytes:
        """The unmasked payload of the complete frame that starts at ``offset`` and ends at ``end``."""
        key = header.masking_key(self._unparsed, offset)
        payload = bytes(memoryview(self._unparsed)[offset + header.size : end])
        return payload if key is None else apply_mask(payload, key)

    def _take_control(self, opcode: int, payload: bytes, reported: bool) -> None:
        if not reported:
            self._controls.append((opcode, payload))
        if opcode == Opcode.CLOSE:  # "a peer discards any further data received", RFC 6455 1.4
            self.discard()

    def _take_data(self, header: Header, payload: bytes) -> None:
        reception = self._reception
        if reception is None:
            reception = _Reception(header)
            if reception.compressed and self._inflater is not None:
                self._inflater.start_message()
        if reception.compressed:
            payload = self._inflate(payload, header.fin, reception.size)
        flaw = None if reception.text is None else reception.text.feed(payload, header.fin)
        if flaw is not None:
            raise BrokenRuleError(Violation.INVALID_UTF8, flaw.position, flaw.reason)
        if self._admission is not None and reception.fragments >= self._max_fragments:
            raise BrokenRuleError(Violation.TOO_MANY_FRAGMENTS, reception.fragments + 1, self._max_fragments)
        reception.size += len(payload)
        reception.fragments += 1
        self._reception = None if header.fin else reception
        if self._admission is None:
            self._queue(header, payload, reception)
        else:
            self._join(header, payload, reception)

    def _queue(self, header: Header, payload: bytes, reception: _Reception) -> None:
        """Queue a frame as it is."""
        self._inbox.push(DataFrame(header.opcode, header.fin, payload, self._received_ns))
        self._arrivals += 1
        if header.fin:
            self._complete()
        if self._consumer_starves and reception.fragments > self._max_fragments:
            raise BrokenRuleError(Violation.TOO_MANY_FRAGMENTS, reception.fragments, self._max_fragments)
        self._blocked = self._must_stop

    def _join(self, header: Header, payload: bytes, reception: _Reception) -> None:
        """Keep a frame until its message is complete; then the message is admitted, or not."""
        assert self._admission is not None
        reception.parts.append(payload)
        if not header.fin:
            return
        self._complete()
        message = DataFrame(reception.opcode, True, b"".join(reception.parts), self._received_ns)
        verdict = self._admission.admit(message, self._received_wall_ns)
        self._arrivals += verdict in (Verdict.QUEUED, Verdict.FULL)
        self._blocked = verdict is Verdict.FULL
        if verdict is Verdict.DEAD:
            self.discard()

    def _complete(self) -> None:
        self._messages_received += 1
        self._want_message = False

    def _drop_data(self, header: Header) -> None:
        """Throw a frame away; its message was received, and is lost."""
        self._reception = None if header.fin else self._reception or _Reception(header)
        if header.fin:
            self._messages_received += 1
            self._losses.add(Loss.DISCARDED)

    def _inflate(self, payload: bytes, fin: bool, size: int) -> bytes:
        """Inflate a payload within what the message, ``size`` bytes so far, and the fragment may still have."""
        assert self._inflater is not None  # rsv1 was refused otherwise.
        limits = []
        if self._max_message_size is not None:
            limits.append(self._max_message_size - size)
        if self._max_fragment_size is not None:
            limits.append(self._max_fragment_size)
        limit = min(limits, default=None)
        try:
            return self._inflater.inflate(payload, fin, limit)
        except InflatedTooBigError:
            assert limit is not None
            raise BrokenRuleError(Violation.INFLATED_TOO_BIG, 0, limit) from None
        except zlib.error:
            raise BrokenRuleError(Violation.INFLATE_FAILED, 0, 0) from None

    def _fail(self, broken: BrokenRuleError) -> None:
        if self._violation is None:
            self._violation = broken.violation
        self.discard()

    def _scan_ahead(self) -> None:
        """Report the pings and pongs that are complete behind the place where decoding stopped.

        Stops at a header that is wrong in itself and at a close frame: what they mean is said in their turn. At the
        end of the stream, the close frame is reported, too.
        """
        while not self._close_seen and (header := Header.parse(self._unparsed, self._scanned)) is not None:
            try:
                header.check(masked=self._peer_masks, deflate=self._inflater is not None)
            except BrokenRuleError:
                return
            length = header.payload_length(self._unparsed, self._scanned)
            if length is None or length > MAX_LENGTH or (header.opcode == Opcode.CLOSE and not self._at_end):
                return
            end = self._scanned + header.size + length
            if len(self._unparsed) < end:
                return
            if header.is_control:
                self._controls.append((header.opcode, self._payload(header, end, self._scanned)))
            self._scanned = end
            self._close_seen = header.opcode == Opcode.CLOSE

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
        controls, self._controls = self._controls, []
        return controls

    def unlogged(self) -> list[tuple[int, bool, bytes]]:
        """The queued data frames that came since the last call, as `pop_fragment` gives them; they stay queued."""
        return [(frame.opcode, frame.fin, frame.payload) for frame in self._inbox.unseen()]

    def clear(self) -> None:
        """Throw away the queued messages."""
        self._losses.add(Loss.DISCARDED, messages=self._inbox.messages)
        self._inbox.clear()

    # What the control plane must know.

    def notices(self) -> list[tuple[int, str | None, int, int]]:
        """Take what happened since the last call, see `Notice`; at most NOTICES_MAX, the others are counted."""
        return self._notices.take()

    def given_up(self) -> list[str]:
        """Keys that `Resync` has given up, in alphabetical order."""
        return [] if self._admission is None else self._admission.given_up

    def resynced(self, key: str) -> None:
        """Admit messages of a key again that `Resync` gave up; nothing happens if it didn't."""
        if self._admission is not None:
            self._admission.resynced(key)

    @property
    def lost(self) -> Lost:
        """Messages lost since the beginning."""
        return self._losses.total

    def lost_by_key(self, limit: int = 10, /) -> list[tuple[str, int, int]]:
        """(key, dropped, conflated) of the ``limit`` keys that lost most, in this order."""
        return self._losses.by_key(limit)

    def last_seen(self) -> dict[str, int]:
        """``received_ns`` of the last message of each key that is tracked."""
        return {} if self._admission is None else dict(self._admission.last_seen)

    @property
    def gaps(self) -> int:
        """Messages whose sequence number doesn't follow the one before."""
        return 0 if self._admission is None else self._admission.gaps

    @property
    def exchange_lag_ns(self) -> int | None:
        """Wall clock at the read, less the exchange's time, of the last message that has it; None before."""
        return None if self._admission is None else self._admission.exchange_lag_ns

    # State.

    @property
    def violation(self) -> tuple[int, int, int] | None:
        """(`Violation`, value, limit) once the peer broke a rule, else None."""
        return self._violation

    @property
    def blocked(self) -> bool:
        """Whether decoding stopped at a queue limit."""
        return self._blocked

    @property
    def resumable(self) -> bool:
        """Whether it is blocked and the queue is at or below its low-water marks: call ``resume()``."""
        caught_up = self._inbox.at_low_water if self._admission is None else self._admission.may_go_on
        return self._blocked and (caught_up or self._consumer_starves or self._dropping)

    @property
    def want_message(self) -> bool:
        """Set by a consumer that waits for a whole message; cleared when a message completes.

        While it is set and no complete message is queued, queue limits don't apply; ``max_fragments`` does.
        """
        return self._want_message

    @want_message.setter
    def want_message(self, value: bool) -> None:
        self._want_message = bool(value)

    @property
    def honors_sizehint(self) -> bool:
        """Set where ``sizehint`` is what waits in the transport, as asyncio's TLS does.

        What it read before the end of the stream must fit into one buffer, or the rest is lost.
        """
        return self._honors_sizehint

    @honors_sizehint.setter
    def honors_sizehint(self, value: bool) -> None:
        self._honors_sizehint = bool(value)

    @property
    def dropping(self) -> bool:
        """Set when a closing handshake must not wait behind data: from then on data frames are thrown away.

        Their payload isn't looked at, and no queue limit applies. Queued messages stay.
        """
        return self._dropping

    @dropping.setter
    def dropping(self, value: bool) -> None:
        self._dropping = bool(value)

    @property
    def queued_messages(self) -> int:
        """Complete messages that wait."""
        return self._inbox.messages

    @property
    def queued_frames(self) -> int:
        """Data frames that wait, those of incomplete messages included."""
        return len(self._inbox)

    @property
    def queued_bytes(self) -> int:
        """Payload bytes that wait, those of incomplete messages included."""
        return self._inbox.payload_bytes

    @property
    def queued_messages_max(self) -> int:
        """Most complete messages that ever waited."""
        return self._inbox.messages_max

    @property
    def queued_bytes_max(self) -> int:
        """Most payload bytes that ever waited."""
        return self._inbox.payload_bytes_max

    @property
    def oldest_ns(self) -> int:
        """``received_ns`` of the first complete message that waits; 0 if there is none."""
        return self._inbox.oldest_ns()

    @property
    def current_size(self) -> int | None:
        """Bytes of the fragmented message that is being received; None outside of one."""
        return None if self._reception is None else self._reception.size

    @property
    def partial_frame(self) -> tuple[int, int]:
        """(bytes received, bytes expected) of a frame that isn't complete; (0, 0) at a frame boundary.

        While its header isn't complete, the expected number is that of the header so far known (at least 2). While
        it is blocked, the decoder stands at a frame boundary.
        """
        received = len(self._unparsed)
        if received == 0 or self._blocked:
            return 0, 0
        header = Header.parse(self._unparsed)
        if header is None:
            return received, 2
        if received < header.size:
            return received, header.size
        return received, header.size + (header.payload_length(self._unparsed) or 0)

    @property
    def messages_received(self) -> int:
        """Complete messages so far, whatever became of them."""
        return self._messages_received

    @property
    def delivered(self) -> int:
        """Messages taken by the consumer."""
        return self._delivered

    @property
    def answered(self) -> int:
        """Messages that a `Reply` took."""
        return 0 if self._admission is None else self._admission.answered

    @property
    def bytes_received(self) -> int:
        """Bytes taken from the network so far."""
        return self._bytes_received
