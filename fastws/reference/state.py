"""What a decoder is made of, and what it tells of itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from ..deflate import Deflate
from ..overflow import Block, ExchangeTime, Inspect, Key, Lost, Policy, Reply
from ..wire import (
    DEFAULT_MAX_FRAGMENTS,
    DEFAULT_MAX_QUEUE_BYTES,
    DEFAULT_MAX_SIZE,
    Opcode,
)
from .admission import Admission
from .backlog import Backlog
from .header import Header
from .inbox import Inbox, Limit, limit_pair
from .inflate import Inflater
from .losses import Losses, Notices
from .utf8 import Utf8Validator

__all__ = ["DecoderState", "Reception"]


class Reception:
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


class DecoderState:
    """The part of `FrameDecoder` that does nothing: see there for the arguments."""

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
        if max_fragments < 1:
            raise ValueError(f"max_fragments is {max_fragments}, must be 1 or more")
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
        self._controls: list[tuple[int, bytes, int]] = []

        self._unparsed = bytearray()
        self._scanned = 0  # Bytes of `_unparsed`, always whole frames, whose pings and pongs were reported.
        self._reception: Reception | None = None  # Not None within a fragmented message.
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
    def _must_stop(self) -> bool:
        # A consumer that waits for a whole message and a decoder that waits for the consumer would wait for ever.
        too_much = self._admission is None and self._inbox.over_limit
        return too_much and not self._consumer_starves and not self._dropping

    @property
    def _consumer_starves(self) -> bool:
        return self._want_message and self._inbox.messages == 0

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
