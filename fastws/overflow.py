"""What happens to messages that arrive faster than they are consumed: policies, keys and checks, as plain values.

Vocabulary: imports nothing of ours. *State* (a best price) may be conflated, *events* (a trade) never, and of *deltas*
(changes of an order book) none may be missing; so the policy may depend on the message, by `Route`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias

__all__ = [
    "KEYS_MAX",
    "KEY_BYTES_MAX",
    "KEY_SEPARATOR",
    "Between",
    "Block",
    "Conflate",
    "Disconnect",
    "DropNewest",
    "DropOldest",
    "ExchangeTime",
    "Figures",
    "Inspect",
    "Key",
    "Lost",
    "Policy",
    "Reply",
    "Resync",
    "Route",
    "SimplePolicy",
]

KEYS_MAX = 65_536
"""Most keys that one connection tells apart, for each use of keys; messages of further keys count as having none."""

KEY_BYTES_MAX = 256
"""Longest key in bytes of UTF-8; a longer one counts as none."""


@dataclass(frozen=True, slots=True)
class Between:
    """A key that lies between two byte strings: the first ``before``, and the first ``after`` behind it.

    Cheaper than a JSON Pointer, and as exact as the markers are: ``Between(b'"s":"', b'"')``.

    Raises:
        ValueError: If a marker is empty.
    """

    before: bytes
    after: bytes

    def __post_init__(self) -> None:
        if not self.before or not self.after:
            raise ValueError("both markers must have at least one byte")


Key: TypeAlias = str | tuple[str, ...] | Between | Callable[[str | bytes], str | None]
"""Where the key of a message is.

- a JSON Pointer (RFC 6901): ``"/stream"``, ``"/data/s"``; several are joined: ``("/arg/channel", "/arg/instId")``. A
  string, number or boolean there is the key; a message that isn't JSON, or has something else there, has none.
- `Between` two markers
- a callable that takes the message and returns its key or None: slow, as it needs the GIL and a Python object

The key of several pointers is their values joined by ``KEY_SEPARATOR``.
"""

KEY_SEPARATOR = "|"


@dataclass(frozen=True, slots=True)
class Block:
    """Reading pauses; nothing is lost, and messages grow old. The default."""


@dataclass(frozen=True, slots=True)
class DropOldest:
    """The oldest messages of this policy make room.

    Set ``max_queue`` or ``max_queue_age``: without them there is room until ``max_queue_bytes``, 16 MiB by default.
    """


@dataclass(frozen=True, slots=True)
class DropNewest:
    """Messages that arrive while there is no room are dropped.

    Set ``max_queue`` or ``max_queue_age``: without them there is room until ``max_queue_bytes``, 16 MiB by default.
    """


@dataclass(frozen=True, slots=True)
class Disconnect:
    """Rather dead than stale: fail the connection when a message arrives while there is no room.

    Args:
        code: Close code, RFC 6455 7.4.
        reason: Reason that the peer gets; at most 123 bytes of UTF-8.

    Raises:
        ValueError: If the code may not be sent, or the reason is too long.
    """

    code: int = 1008
    reason: str = "slow consumer"

    def __post_init__(self) -> None:
        if not (
            self.code in {1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014}
            or 3000 <= self.code < 5000
        ):
            raise ValueError(f"close code {self.code} may not be sent (RFC 6455 7.4)")
        if len(self.reason.encode()) > 123:
            raise ValueError(f"reason has {len(self.reason.encode())} bytes > 123 (RFC 6455 5.5)")


SimplePolicy: TypeAlias = Block | DropOldest | DropNewest | Disconnect
"""Policies that don't look at messages."""


@dataclass(frozen=True, slots=True)
class Conflate:
    """At most one message waits for each key, the newest, in the place in the queue that its predecessor had.

    Always on, not only when the queue is full. Give each key room: ``max_queue`` less than the number of keys lets
    ``otherwise`` decide, and `Block` pauses reading, which is logged once.

    Args:
        key: Where the key is; within a `Route`, None is the key of the route.
        otherwise: Policy of messages that have no key; when there is no room, also of first messages of a key, and of
            those that are longer than what they replace. If such a one is dropped, its predecessor, out of date, goes
            with it.
    """

    key: Key | None = None
    otherwise: SimplePolicy = field(default_factory=Block)


@dataclass(frozen=True, slots=True)
class Resync:
    """For deltas: once a message of a key is lost, all messages of that key are dropped until it was resynchronised.

    When there is no room, the key of the oldest queued message of this policy is given up: what waits of it is
    dropped, and a `ResyncNeeded` event tells. Without ``max_queue`` and ``max_queue_age`` there is room until
    ``max_queue_bytes``, 16 MiB by default. Call ``connection.resynced(key)``, then get a new snapshot: the other way
    round, what comes in between would be missing.

    Args:
        key: Where the key is; within a `Route`, None is the key of the route.
        otherwise: Policy of messages that have no key.
    """

    key: Key | None = None
    otherwise: SimplePolicy = field(default_factory=Block)


RoutedPolicy: TypeAlias = SimplePolicy | Conflate | Resync


@dataclass(frozen=True, slots=True)
class Route:
    """A policy for each message, by its key.

    Args:
        key: Where the key is.
        rules: Policies by pattern: a key, or a glob with ``*``, ``?`` and ``[...]`` (case matters). The first that
            matches is taken.
        default: Policy of messages that no rule matches, or that have no key.
    """

    key: Key
    rules: Mapping[str, RoutedPolicy]
    default: SimplePolicy = field(default_factory=Block)

    def __post_init__(self) -> None:
        for pattern, policy in self.rules.items():
            if isinstance(policy, Route):
                raise TypeError(f"the policy of {pattern!r} is a Route: routes don't nest")


Policy: TypeAlias = RoutedPolicy | Route


@dataclass(frozen=True, slots=True)
class Inspect:
    """A look at each message's sequence number as it arrives, before anything is shed.

    So a gap made by the network isn't confused with one made by us. A message follows its predecessor of the same key
    if ``previous`` is its predecessor's ``sequence``, where given; else if ``first``, or ``sequence`` itself, is one
    more than that. Messages without the numbers are passed over.

    A message that meets ``restart`` begins anew, whatever its number, and needs neither ``first`` nor ``previous``;
    what comes next must follow it. So does one whose ``previous`` is negative.

    Args:
        sequence: JSON Pointer to a message's (last) number, an integer from 0 to 2**63 - 1.
        key: Numbers count for each key; None counts for the connection.
        first: JSON Pointer to the first number of a message that covers several.
        previous: JSON Pointer to the number of the message before.
        restart: Strings (or numbers, as written) that a message which begins anew has at these JSON Pointers; all of
            them: ``{"/type": "snapshot"}``. None is never.

    Raises:
        ValueError: If ``restart`` is empty.
    """

    sequence: str
    key: Key | None = None
    first: str | None = None
    previous: str | None = None
    restart: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.restart is not None and not self.restart:
            raise ValueError("restart needs at least one JSON Pointer to compare, or None for never")


@dataclass(frozen=True, slots=True)
class ExchangeTime:
    """Where a message says when the exchange made it.

    Args:
        pointer: JSON Pointer to a number (or a string of digits) since 1970.
        unit: Its unit.
    """

    pointer: str
    unit: Literal["s", "ms", "us", "ns"] = "ms"


@dataclass(frozen=True, slots=True)
class Reply:
    """An automatic answer: sent as soon as a matching message was read, however far behind the consumer is.

    With ``receive="thread"`` the receive thread sends it, also while the event loop is blocked. None is sent while more
    than 1 MiB waits for a peer that doesn't read: ``stats.withheld`` counts it.

    Args:
        when: Strings (or numbers, as written) that a matching message has at these JSON Pointers; all of them. A str is
            the whole message, which needn't be JSON: ``"pong"``.
        send: The answer, a text message; None sends nothing, for messages that the consumer has no use for.
        deliver: Whether the consumer gets the matching message, too.

    Raises:
        ValueError: If ``when`` is empty, the reply neither sends anything nor keeps the message back, or the answer
            can't be encoded to UTF-8.
    """

    when: Mapping[str, str] | str
    send: str | None
    deliver: bool = False

    def __post_init__(self) -> None:
        if not self.when:
            raise ValueError("a reply needs at least one JSON Pointer to compare, or the text of a message")
        if self.send is None and self.deliver:
            raise ValueError("a reply that sends nothing and delivers the message does nothing")
        if self.send is not None:
            self.send.encode()


@dataclass(frozen=True, slots=True)
class Lost:
    """Messages that the consumer won't get, since the last report.

    ``connection.stats.lost`` counts from the beginning, ``batch.lost`` since the batch before. False if nothing
    was lost.

    Attributes:
        dropped_oldest: Dropped to make room for newer ones.
        dropped_newest: Dropped as there was no room for them.
        expired: Dropped as they had become older than ``max_queue_age``.
        conflated: Replaced by a newer message of the same key.
        resync: Dropped as a message of their key was lost before.
        discarded: Not read any more as the connection was closing, or thrown away unread.
    """

    dropped_oldest: int = 0
    dropped_newest: int = 0
    expired: int = 0
    conflated: int = 0
    resync: int = 0
    discarded: int = 0

    @property
    def total(self) -> int:
        """Messages lost in all ways."""
        return self.dropped_oldest + self.dropped_newest + self.expired + self.conflated + self.resync + self.discarded

    def __bool__(self) -> bool:
        return self.total > 0

    def since(self, earlier: Lost) -> Lost:
        """What was lost between ``earlier`` and this."""
        return Lost(*(getattr(self, name) - getattr(earlier, name) for name in self.__slots__))


class Figures(NamedTuple):
    """What became of the messages that a decoder has received.

    ``messages_received == delivered + answered + queued_messages + lost.total``.
    """

    messages_received: int
    bytes_received: int
    delivered: int
    answered: int
    queued_messages: int
    queued_messages_max: int
    queued_bytes: int
    queued_bytes_max: int
    lost: Lost
    gaps: int
    exchange_lag_ns: int | None
