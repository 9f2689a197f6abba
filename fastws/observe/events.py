"""What can happen to a feed, as plain values: given to ``on_event=`` and by ``connection.events()``.

Events come ahead of the messages that wait.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from ..overflow import Lost

if TYPE_CHECKING:
    from .stats import Stats

__all__ = ["Closed", "Event", "EventsLost", "Gap", "MessagesLost", "PeerGone", "ResyncNeeded", "SlowConsumer", "Stale"]


@dataclass(frozen=True, slots=True)
class SlowConsumer:
    """The consumer falls behind, or has caught up again; one pair of events for each episode.

    Attributes:
        phase: "started" or "cleared".
        what: Which threshold: "messages", "bytes" or "age".
        value: Messages, bytes or seconds at that moment.
        threshold: What it was compared with: the high mark when it starts, the low mark when it clears.
        stats: All figures at that moment.
        lasted_s: How long the episode has lasted; 0.0 when it starts.
    """

    phase: Literal["started", "cleared"]
    what: Literal["messages", "bytes", "age"]
    value: float
    threshold: float
    stats: Stats
    lasted_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Gap:
    """A message doesn't follow its predecessor: something was lost before it came to us, or came twice.

    Attributes:
        key: Of which key; None for the connection.
        expected: The number that should have come.
        got: The number that came; less than expected is a repetition or a restart.
    """

    key: str | None
    expected: int
    got: int


@dataclass(frozen=True, slots=True)
class ResyncNeeded:
    """A delta of ``key`` was lost: call ``connection.resynced(key)``, then get a snapshot.

    Comes at once, once for each key, and again only after ``resynced(key)``: so as many times as there are keys, and as
    you call that. ``connection.given_up`` has all keys for which it holds.
    """

    key: str


@dataclass(frozen=True, slots=True)
class MessagesLost:
    """A policy has dropped or conflated messages; at most one such event a second, while it goes on.

    Attributes:
        lost: How many in which way, since the event before.
    """

    lost: Lost


@dataclass(frozen=True, slots=True)
class Stale:
    """Nothing has come for too long, although the connection is alive.

    Attributes:
        key: Of which key; None for the whole connection.
        silent_s: Seconds since its last message.
        phase: "started" or "cleared".
    """

    key: str | None
    silent_s: float
    phase: Literal["started", "cleared"] = "started"


@dataclass(frozen=True, slots=True)
class PeerGone:
    """The peer has ended or reset the stream; what was read before may still wait.

    Attributes:
        queued_messages: Messages that wait.
        oldest_s: Age of the oldest of them.
    """

    queued_messages: int
    oldest_s: float


@dataclass(frozen=True, slots=True)
class Closed:
    """The connection is closed.

    Attributes:
        code: Close code, 1006 if there was none.
        reason: Close reason.
        queued_messages: Messages that wait; they stay receivable.
    """

    code: int
    reason: str
    queued_messages: int


@dataclass(frozen=True, slots=True)
class EventsLost:
    """There were more events than were kept for whoever iterates on them; these came before the next one.

    Attributes:
        count: How many.
    """

    count: int


Event: TypeAlias = SlowConsumer | Gap | MessagesLost | ResyncNeeded | Stale | PeerGone | Closed | EventsLost
