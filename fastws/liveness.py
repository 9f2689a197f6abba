"""How to tell that a feed is alive, as plain values. Vocabulary: imports nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Heartbeat", "Staleness"]


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A heartbeat made of messages, as many venues want it besides, or instead of, pings.

    If nothing comes in time although we were reading, the connection is failed with close code 1011.

    Args:
        every: Seconds between two heartbeats.
        send: The heartbeat, a text message.
        expect: Strings (or numbers, as written) that the answer has at these JSON Pointers; all of them. A str is the
            whole answer, which needn't be JSON: ``"pong"``. None takes any message for an answer: the feed's own will
            do.
        timeout: Seconds in which the answer must come; None is ``every``.
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
