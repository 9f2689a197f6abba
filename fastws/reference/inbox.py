"""The bounded queue between the decoder and the consumer."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from typing import NamedTuple, TypeAlias

from ..wire import RECORD_BYTES, Opcode
from .batch import Record

__all__ = ["DataFrame", "Inbox", "Limit", "limit_pair"]

Limit: TypeAlias = int | tuple[int | None, int | None] | None


def limit_pair(name: str, limit: Limit) -> tuple[int | None, int | None]:
    """Take a limit apart that is given as a number or as a pair.

    Raises:
        ValueError: If a number is negative.
    """
    first, second = limit if isinstance(limit, tuple) else (limit, None)
    for value in (first, second):
        if value is not None and value < 0:
            raise ValueError(f"{name} is {value}, must be 0 or more")
    return first, second


class DataFrame(NamedTuple):
    """A data frame that waits, its payload unmasked and inflated.

    Attributes:
        opcode: TEXT or BINARY for the first fragment of a message, CONT for the others.
        fin: Whether it is the final fragment.
        payload: Its bytes.
        received_ns: ``time.monotonic_ns()`` of the read that completed it.
    """

    opcode: int
    fin: bool
    payload: bytes
    received_ns: int


class Inbox:
    """Data frames in their order, with the limits that tell when to stop and when to go on.

    Each frame has a place, a number that grows from one to the next.

    Args:
        max_queue: Messages that may wait: (high, low), where either follows from the other as high = 4 * low, or only
            high. None is no limit.
        max_queue_bytes: Payload bytes, plus ``RECORD_BYTES`` for each frame, that may wait. None is no limit.

    Raises:
        ValueError: If a limit is negative, or low > high.
    """

    def __init__(self, max_queue: Limit, max_queue_bytes: int | None) -> None:
        self._high, self._low = limit_pair("max_queue", max_queue)
        if self._high is None and self._low is not None:
            self._high = self._low * 4
        if self._high is not None:
            self._low = self._high // 4 if self._low is None else self._low
            if self._low > self._high:
                raise ValueError(f"max_queue has low {self._low} > high {self._high}")
        self._max_bytes, _ = limit_pair("max_queue_bytes", max_queue_bytes)
        self._frames: OrderedDict[int, DataFrame] = OrderedDict()  # Unlike a dict's, its head is found at once.
        self._places = itertools.count()
        self._unseen: set[int] = set()
        self.payload_bytes = 0
        """Payload bytes that wait."""
        self.messages = 0
        """Messages whose final fragment waits."""
        self.payload_bytes_max = 0
        """Most payload bytes that ever waited."""
        self.messages_max = 0
        """Most messages that ever waited."""

    def __len__(self) -> int:
        """Frames that wait."""
        return len(self._frames)

    @property
    def head(self) -> DataFrame | None:
        """The first frame; None if there is none."""
        return next(iter(self._frames.values()), None)

    @property
    def cost(self) -> int:
        """Bytes that count towards ``max_queue_bytes``."""
        return self.payload_bytes + RECORD_BYTES * len(self._frames)

    @property
    def over_limit(self) -> bool:
        """Whether no further data frame may be queued. An empty queue never is, or nothing would ever move."""
        return len(self._frames) > 0 and self._exceeds(self.messages, self.cost)

    def has_room(self, payload_bytes: int) -> bool:
        """Whether a whole message of that size would leave the queue within its limits; an empty queue has room."""
        return not self._frames or not self._exceeds(self.messages + 1, self.cost + payload_bytes + RECORD_BYTES)

    def _exceeds(self, messages: int, cost: int) -> bool:
        too_many = self._high is not None and messages > self._high
        too_big = self._max_bytes is not None and cost >= self._max_bytes
        return too_many or too_big

    @property
    def at_low_water(self) -> bool:
        """Whether the consumer has caught up: at or below every low-water mark."""
        few = self._high is None or self._low is None or self.messages <= self._low
        small = self._max_bytes is None or self.cost <= self._max_bytes // 4
        return few and small

    def push(self, frame: DataFrame) -> int:
        """Put a frame behind the others; returns its place."""
        place = next(self._places)
        self._set(place, frame)
        return place

    def _set(self, place: int, frame: DataFrame) -> None:
        self._frames[place] = frame
        self._unseen.add(place)
        self.payload_bytes += len(frame.payload)
        self.messages += frame.fin
        self.payload_bytes_max = max(self.payload_bytes_max, self.payload_bytes)
        self.messages_max = max(self.messages_max, self.messages)

    def remove(self, place: int) -> DataFrame:
        """Take the frame at a place out."""
        frame = self._frames.pop(place)
        self._unseen.discard(place)
        self.payload_bytes -= len(frame.payload)
        self.messages -= frame.fin
        return frame

    def pop(self) -> DataFrame | None:
        """Take the first frame; None if there is none."""
        return self.remove(next(iter(self._frames))) if self._frames else None

    def unseen(self) -> list[DataFrame]:
        """Show the frames that were put there since the last call; they stay."""
        frames = [self._frames[place] for place in sorted(self._unseen)]
        self._unseen.clear()
        return frames

    def head_fragments(self) -> int:
        """Count the fragments of the first message; 0 unless it is there from its first fragment to its final one."""
        if self.messages == 0 or self.head is None or self.head.opcode == Opcode.CONT:
            return 0
        return next(count for count, frame in enumerate(self._frames.values(), 1) if frame.fin)

    def oldest_ns(self) -> int:
        """Say when the first complete message was received; 0 if there is none."""
        return next((frame.received_ns for frame in self._frames.values() if frame.fin), 0)

    def pop_message(self, fragments: int) -> Record:
        """Take the first message, whose ``head_fragments()`` are ``fragments`` (at least 1), and join them."""
        frames = [self.remove(place) for place in list(itertools.islice(self._frames, fragments))]
        payload = frames[0].payload if fragments == 1 else b"".join(frame.payload for frame in frames)
        return Record(frames[0].opcode == Opcode.TEXT, payload, frames[-1].received_ns)

    def clear(self) -> None:
        """Throw everything away."""
        for place in list(self._frames):
            self.remove(place)
