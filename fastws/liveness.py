"""How to tell that a feed is alive, as plain values. Vocabulary: imports nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Heartbeat", "Staleness"]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A heartbeat made of messages, as many venues want it besides, or instead of, pings.

    They are sent by the event loop, or by the receive thread (``receive="thread"``), and then in time also while the
    loop, or all of Python, is blocked. None is sent between the fragments of a message (RFC 6455 5.4): one follows the
    last, however many were due. None is sent either while more than 1 MiB waits for a peer that doesn't read:
    ``stats.withheld`` counts it, and an answer is due all the same. If no answer comes in time although we were reading
    and the loop wasn't blocked, the connection is failed with close code 1011.

    Cost: some microseconds for each; nothing for connections without.

    Args:
        every: Seconds between two heartbeats, whether they are answered or not; a receive thread makes it at least one
            millisecond.
        send: The heartbeat, a text message.
        expect: Strings (or numbers, as written) that the answer has at these JSON Pointers; all of them. A str is the
            whole answer, which needn't be JSON: ``"pong"``. None takes any message for an answer: the feed's own will
            do.
        timeout: Seconds in which an answer must come; it counts for all heartbeats before it. None is ``every``.
        deliver: Whether the consumer gets the answers that ``expect`` describes, too.

    Raises:
        ValueError: If a time isn't positive, or ``expect`` is empty.
    """

    every: float
    send: str
    expect: Mapping[str, str] | str | None = None
    timeout: float | None = None
    deliver: bool = False

    def __post_init__(self) -> None:
        for name, seconds in (("every", self.every), ("timeout", self.timeout)):
            if seconds is not None and not seconds > 0:
                raise ValueError(f"{name} is {seconds}, must be positive")
        if self.expect is not None and not self.expect:
            raise ValueError("expect needs at least one JSON Pointer to compare, or a text, or None for any message")


@dataclass(frozen=True, slots=True)
class Staleness:
    """How long a feed may be silent.

    Args:
        seconds: Longest time without a message, of the connection and of each key that has had one.
        key: Where the key of a message is, a `Key` of ``fastws.overflow``; None looks at the connection only.

    Raises:
        ValueError: If the time isn't positive.
    """

    seconds: float
    key: object = None

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise ValueError(f"seconds is {self.seconds}, must be positive")
