from collections.abc import Sequence
from typing import Literal

from typing_extensions import disjoint_base

from .deflate import Deflate
from .overflow import ExchangeTime, Figures, Inspect, Key, Lost, Policy, Reply

@disjoint_base
class DecoderState:
    """The part of `FrameDecoder` that does nothing: see there for the arguments."""

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
    def discard(self) -> None:
        """Ignore all further input and what isn't decoded yet. Queued messages stay."""
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
