"""What is looked at in a message before it is admitted or shed: answers, sequence numbers, times."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from ..overflow import ExchangeTime, Inspect, Reply
from ..wire import Notice
from .keys import INTEGER_MAX, KeySpace, KeySpaces, Message, Pointer, integer_of, text_of
from .losses import Notices

__all__ = ["ExchangeClock", "Replies", "SequenceCheck"]

_TIME = re.compile(r"([0-9]{1,19})(?:\.([0-9]+))?", re.ASCII)
_UNITS_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}


class Condition:
    """Strings that a message must have at JSON Pointers; all of them.

    Args:
        where: What it is part of, for errors.
        pairs: By JSON Pointer.

    Raises:
        TypeError: If it compares with something that isn't a string.
        ValueError: If a JSON Pointer is wrong.
    """

    def __init__(self, where: str, pairs: Mapping[str, str]) -> None:
        if not isinstance(pairs, Mapping):
            raise TypeError(f"{where} is {pairs!r}, must be a mapping of JSON Pointers to strings")
        for pointer, text in pairs.items():
            if not isinstance(text, str):
                raise TypeError(f"{where} compares {pointer} with {text!r}, must be a str")
        self._pairs = [(Pointer(pointer), text) for pointer, text in pairs.items()]

    def holds(self, message: Message) -> bool:
        """Whether a message meets it."""
        return all(text_of(pointer.find(message)) == text for pointer, text in self._pairs)


class Literal:
    """The whole text of a message.

    Args:
        text: As UTF-8 it must be all of the payload.
    """

    def __init__(self, text: str) -> None:
        self._payload = text.encode()

    def holds(self, message: Message) -> bool:
        """Whether a message is that."""
        return message.payload == self._payload


class Replies:
    """Finds the `Reply` that a message calls for.

    Args:
        replies: In the order in which they are tried.

    Raises:
        TypeError: If one isn't a `Reply`, or compares with something that isn't a string.
        ValueError: If a JSON Pointer is wrong.
    """

    def __init__(self, replies: Sequence[Reply]) -> None:
        self._replies: list[tuple[Condition | Literal, Reply]] = []
        for reply in replies:
            if not isinstance(reply, Reply):
                raise TypeError(f"replies has {reply!r}, must have Reply only")
            when = Literal(reply.when) if isinstance(reply.when, str) else Condition("a reply's when", reply.when)
            self._replies.append((when, reply))

    def match(self, message: Message) -> tuple[int, Reply] | None:
        """The first that matches, and its index; None if none does."""
        for index, (when, reply) in enumerate(self._replies):
            if when.holds(message):
                return index, reply
        return None


class SequenceCheck:
    """Sees whether each message follows the one before it of the same key.

    Args:
        inspect: Where the numbers are.
        spaces: Where the key's space is, or comes.
        notices: Gets a GAP for each message that doesn't follow.

    Raises:
        TypeError: If ``inspect`` isn't an `Inspect`, or ``restart`` compares with something that isn't a string.
        ValueError: If a JSON Pointer is wrong.
    """

    def __init__(self, inspect: Inspect, spaces: KeySpaces, notices: Notices) -> None:
        if not isinstance(inspect, Inspect):
            raise TypeError(f"inspect is {inspect!r}, must be an Inspect")
        self._sequence = Pointer(inspect.sequence)
        self._first = None if inspect.first is None else Pointer(inspect.first)
        self._previous = None if inspect.previous is None else Pointer(inspect.previous)
        self._restart = None if inspect.restart is None else Condition("restart", inspect.restart)
        self._space = None if inspect.key is None else spaces.of(inspect.key)
        self._notices = notices
        self._last: dict[str | None, int] = {}
        self.gaps = 0

    def look(self, message: Message, keys: dict[KeySpace, str | None]) -> None:
        """Look at the next message; one without key or numbers is passed over."""
        key = None if self._space is None else keys[self._space]
        if self._space is not None and key is None:
            return
        sequence = integer_of(self._sequence.find(message))
        first = sequence if self._first is None else integer_of(self._first.find(message))
        previous = None if self._previous is None else integer_of(self._previous.find(message), negative=True)
        restarts = self._restart is not None and self._restart.holds(message)
        numbered = first is not None and (self._previous is None or previous is not None)
        if sequence is None or not (numbered or restarts):
            return
        last = self._last.get(key)
        self._last[key] = sequence
        # A negative `previous` is how some venues say that this message begins anew.
        if last is None or first is None or restarts or (previous is not None and previous < 0):
            return
        expected, got = (last + 1, first) if previous is None else (last, previous)
        if got != expected:
            self.gaps += 1
            self._notices.add(Notice.GAP, key, expected, got)


class ExchangeClock:
    """Compares the exchange's time in messages with our clock.

    Args:
        exchange_time: Where the time is.

    Raises:
        TypeError: If it isn't an `ExchangeTime`.
        ValueError: If the JSON Pointer is wrong, or the unit unknown.
    """

    def __init__(self, exchange_time: ExchangeTime) -> None:
        if not isinstance(exchange_time, ExchangeTime):
            raise TypeError(f"exchange_time is {exchange_time!r}, must be an ExchangeTime")
        if exchange_time.unit not in _UNITS_NS:
            raise ValueError(f"unit is {exchange_time.unit!r}, must be one of {', '.join(_UNITS_NS)}")
        self._pointer = Pointer(exchange_time.pointer)
        self._unit_ns = _UNITS_NS[exchange_time.unit]
        self.lag_ns: int | None = None
        """Of the last message that had the time."""

    def look(self, message: Message, wall_ns: int) -> None:
        """Look at a message that was read at ``wall_ns`` since 1970."""
        value = self._pointer.find(message)
        match = _TIME.fullmatch(value) if isinstance(value, str) else None
        if match is None:
            return
        fraction = (match[2] or "")[:9].ljust(9, "0")
        made_ns = int(match[1]) * self._unit_ns + int(fraction) * self._unit_ns // 10**9
        if made_ns <= INTEGER_MAX:
            self.lag_ns = wall_ns - made_ns
