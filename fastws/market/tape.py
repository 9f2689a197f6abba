"""A tape: the messages of a feed and when they came, ready to be sent again and again."""

from __future__ import annotations

import dataclasses
import itertools
import os
import re
from collections.abc import Iterator
from typing import Self

from .exchange import simulate
from .recordings import RecordingError, read_recording

__all__ = ["Tape"]

_STAMPS = re.compile(rb'"[ET]":([0-9]{16})(?=[,}])')
_STAMP_DIGITS = 16
"""Of microseconds since the epoch, from 2001 to 2286."""

Stamps = tuple[tuple[int, int], ...]
"""Where times stand in a message, in bytes, and by how many microseconds each is before the latest of them."""


@dataclasses.dataclass(frozen=True, slots=True)
class Tape:
    """Messages of a feed, with their times.

    Attributes:
        messages: Payloads of text messages, in UTF-8.
        times_ns: When each came, in nanoseconds from the first; never less than the one before.
        stamps: For each message, the times in it that `stamp` renews; None if messages are to stay as they are.
        complete: Whether all of a recording is here; False if it was longer than the limit.
    """

    messages: list[bytes]
    times_ns: list[int]
    stamps: list[Stamps] | None = None
    complete: bool = True

    @classmethod
    def simulated(cls, count: int, seed: int = 0) -> Self:
        """The first ``count`` messages of the simulated exchange.

        Args:
            count: Messages, 1 or more.
            seed: See `simulate`.
        """
        published = list(itertools.islice(simulate(seed), count))
        start = published[0].time_us
        messages = [message.encode() for _, message in published]
        times_ns = [(time_us - start) * 1000 for time_us, _ in published]
        return cls(messages, times_ns, [_stamps(message) for message in messages])

    @classmethod
    def recorded(cls, path: str | os.PathLike[str], max_bytes: int = 64 * 2**20) -> Self:
        """What was received in a recording.

        Args:
            path: The file.
            max_bytes: Where to stop, in bytes of messages; at least one message is taken.

        Raises:
            OSError: If the file can't be read.
            RecordingError: If it breaks its format, or nothing was received in it.
        """
        messages: list[bytes] = []
        times: list[int] = []
        size, start, complete = 0, 0, True
        for entry in read_recording(path):
            if entry.kind != "received":
                continue
            message = entry.message.encode()
            size += len(message)
            if messages and size > max_bytes:
                complete = False
                break
            # Wall clocks are set back now and then.
            start = start or entry.time_ns
            times.append(max(entry.time_ns - start, times[-1] if times else 0))
            messages.append(message)
        if not messages:
            raise RecordingError(os.fspath(path), None, "no received message in it")
        return cls(messages, times, complete=complete)

    def schedule(self, rate: float) -> Iterator[tuple[int, int]]:
        """Play the tape over and over, faster or slower, so that it has ``rate`` messages per second on average.

        The groups in which messages came stay groups.

        Args:
            rate: Messages per second, above 0.

        Yields:
            (due in nanoseconds from the start, index of the message).
        """
        count = len(self.messages)
        lap_ns = count / rate * 1e9
        # Between the last message and the first of the next lap lies an average gap.
        span = self.times_ns[-1] * count / (count - 1) if count > 1 else 0.0
        if span:
            due = [time_ns / span * lap_ns for time_ns in self.times_ns]
        else:
            due = [index / rate * 1e9 for index in range(count)]
        for lap in itertools.count():
            start = lap * lap_ns
            for index, offset in enumerate(due):
                yield int(start + offset), index

    def stamp(self, index: int, time_us: int) -> bytes:
        """Message ``index`` as if it were published at ``time_us``; recorded messages stay as they were recorded.

        Args:
            index: Of the message.
            time_us: In microseconds since the epoch. "E" becomes this time; "T" stays as long before it as it was.
        """
        message = self.messages[index]
        if self.stamps is None:
            return message
        stamped = bytearray(message)
        for position, before_us in self.stamps[index]:
            stamped[position : position + _STAMP_DIGITS] = b"%d" % (time_us - before_us)
        return bytes(stamped)

    def blocks(self, block_bytes: int) -> Iterator[list[bytes]]:
        """The messages in order, cut into lists of at least ``block_bytes`` (but for the last)."""
        block: list[bytes] = []
        size = 0
        for message in self.messages:
            block.append(message)
            size += len(message)
            if size >= block_bytes:
                yield block
                block, size = [], 0
        if block:
            yield block


def _stamps(message: bytes) -> Stamps:
    found = [(match.start(1), int(match[1])) for match in _STAMPS.finditer(message)]
    latest = max((time_us for _, time_us in found), default=0)
    return tuple((position, latest - time_us) for position, time_us in found)
