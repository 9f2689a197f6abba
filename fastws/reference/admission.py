"""What becomes of a complete message, when somebody looks: answered, queued, put in another's place, or lost.

`Admission.admit` is the order of events; each step is one method.
"""

from __future__ import annotations

import enum
import math
import time
from collections.abc import Sequence

from ..overflow import (
    Block,
    Conflate,
    Disconnect,
    DropNewest,
    DropOldest,
    ExchangeTime,
    Inspect,
    Key,
    Policy,
    Reply,
    Resync,
)
from ..wire import Notice, Opcode
from .backlog import Backlog
from .inbox import DataFrame
from .inspection import ExchangeClock, Replies, SequenceCheck
from .keys import KeySpace, KeySpaces, Message
from .losses import Loss, Losses, Notices
from .policies import Class, Policies, Slot

__all__ = ["Admission", "Verdict"]


class Verdict(enum.Enum):
    """What became of a message."""

    GONE = enum.auto()
    """Answered or lost."""
    QUEUED = enum.auto()
    """It waits, perhaps in the place of its predecessor."""
    FULL = enum.auto()
    """It waits, and nothing more must be decoded for now."""
    DEAD = enum.auto()
    """It is lost, and so is the connection."""


class Admission:
    """Decides about messages, one after the other.

    Args:
        inbox: Where messages wait.
        losses: Counts the lost.
        notices: Gets what the control plane must know.
        overflow: Policy; None is Block.
        max_queue_age: Seconds that a message may wait.
        inspect: Sequence numbers to look at.
        exchange_time: Times to look at.
        replies: Automatic answers.
        track: Key whose last messages are remembered.

    Raises:
        ValueError: If a value is wrong.
        TypeError: If something is of the wrong type.
    """

    def __init__(
        self,
        inbox: Backlog,
        losses: Losses,
        notices: Notices,
        *,
        overflow: Policy | None,
        max_queue_age: float | None,
        inspect: Inspect | None,
        exchange_time: ExchangeTime | None,
        replies: Sequence[Reply],
        track: Key | None,
    ) -> None:
        self._inbox = inbox
        self._losses = losses
        self._notices = notices
        self._spaces = KeySpaces()
        self._policies = Policies(Block() if overflow is None else overflow, self._spaces)
        self._max_age_ns = None if max_queue_age is None else _age_ns(max_queue_age)
        self._horizon_ns = 0  # What was received before it is too old. Of one clock reading for one decision.
        self._sequence_check = None if inspect is None else SequenceCheck(inspect, self._spaces, notices)
        self._exchange_clock = None if exchange_time is None else ExchangeClock(exchange_time)
        self._replies = Replies(replies)
        self._track = None if track is None else self._spaces.of(track)
        self._given_up: set[Slot] = set()
        self._full_by_limit = False
        self._full_by_age = False
        self._told_no_room = False
        self.answered = 0
        """Messages that a reply took."""
        self.last_seen: dict[str, int] = {}
        """When the last message of each tracked key was received."""

    @property
    def gaps(self) -> int:
        """Messages that didn't follow the one before."""
        return 0 if self._sequence_check is None else self._sequence_check.gaps

    @property
    def exchange_lag_ns(self) -> int | None:
        """How old the last message that has the exchange's time was when it was read."""
        return None if self._exchange_clock is None else self._exchange_clock.lag_ns

    @property
    def may_go_on(self) -> bool:
        """Whether what made the queue full is over: a limit at the low-water marks, age once the head is younger."""
        self._set_horizon()
        return not (self._full_by_limit and not self._inbox.at_low_water) and not (
            self._full_by_age and self._is_stale(self._inbox.head)
        )

    def admit(self, message: DataFrame, wall_ns: int) -> Verdict:
        """Decide about the next message, which was read at ``wall_ns`` since 1970."""
        self._set_horizon()
        content = Message(message.opcode == Opcode.TEXT, message.payload)
        keys = self._spaces.keys_of(content)
        if self._answer(content):
            return Verdict.GONE
        self._look(message, content, keys, wall_ns)
        kind = self._policies.classify(keys)
        slot, policy = kind.slot, kind.policy
        if isinstance(policy, Resync) and slot in self._given_up:
            return self._lose(Loss.RESYNC, kind)
        if isinstance(policy, Conflate) and slot is not None and self._inbox.state(slot) is not None:
            return self._replace(message, kind, slot, policy)
        self._expire_droppable()
        self._make_room(len(message.payload), kind)
        if isinstance(policy, Resync) and slot in self._given_up:
            return self._lose(Loss.RESYNC, kind)
        by_limit = not self._inbox.has_room(len(message.payload))
        by_age = self._is_stale(self._inbox.head)
        if by_limit or by_age:
            return self._without_room(message, kind, by_limit, by_age)
        return self._queue(message, kind)

    # What is looked at, whatever becomes of the message.

    def _answer(self, content: Message) -> bool:
        """True if the consumer isn't to get the message."""
        match = self._replies.match(content)
        if match is None:
            return False
        index, reply = match
        if reply.send is not None:
            self._notices.add(Notice.REPLY, None, index)
        self.answered += not reply.deliver
        return not reply.deliver

    def _look(self, message: DataFrame, content: Message, keys: dict[KeySpace, str | None], wall_ns: int) -> None:
        if self._track is not None and (key := keys[self._track]) is not None:
            self.last_seen[key] = message.received_ns
        if self._sequence_check is not None:
            self._sequence_check.look(content, keys)
        if self._exchange_clock is not None:
            self._exchange_clock.look(content, wall_ns)

    # Room.

    def _replace(self, message: DataFrame, kind: Class, slot: Slot, policy: Conflate) -> Verdict:
        """Put a message in the place of its predecessor; what is longer needs room."""
        predecessor = self._inbox.state(slot)
        assert predecessor is not None
        growth = len(message.payload) - len(predecessor.payload)
        while not self._inbox.has_room_to_grow(growth) and (oldest := self._inbox.oldest_evictable()) is not None:
            self._evict(oldest)
        full = not self._inbox.has_room_to_grow(growth)
        if full and isinstance(policy.otherwise, Disconnect):
            return self._disconnect(policy.otherwise)
        if full and not isinstance(policy.otherwise, Block):
            # Neither: the older one is out of date.
            self._inbox.drop_state(slot)
            self._losses.add(Loss.CONFLATED, kind.key)
            by_age = isinstance(policy.otherwise, DropOldest)
            return self._lose(Loss.DROPPED_OLDEST if by_age else Loss.DROPPED_NEWEST, kind)
        if full:
            self._tell_no_room(kind)
            self._full_by_limit, self._full_by_age = True, False
        self._inbox.replace_state(slot, message)
        self._losses.add(Loss.CONFLATED, kind.key)
        return Verdict.FULL if full else Verdict.QUEUED

    def _make_room(self, payload_bytes: int, kind: Class) -> None:
        """The oldest of DropOldest and Resync go, until there is room, or until the message's own key has gone."""
        while (oldest := self._next_to_go(payload_bytes)) is not None:
            self._evict(oldest)
            if isinstance(kind.policy, Resync) and isinstance(oldest.policy, Resync) and oldest.slot == kind.slot:
                return

    def _evict(self, oldest: Class) -> None:
        """The oldest of DropOldest goes, or the key of the oldest of Resync, whichever it is."""
        if isinstance(oldest.policy, Resync) and oldest.slot is not None:
            self._give_up(oldest.slot)
        else:
            self._losses.add(Loss.DROPPED_OLDEST, self._inbox.drop_oldest().key)

    def _next_to_go(self, payload_bytes: int) -> Class | None:
        if not self._inbox.has_room(payload_bytes):
            return self._inbox.oldest_evictable()
        # Only the head itself: the queue gets no younger by the loss of what is behind it.
        head = self._inbox.head_class()
        if self._is_stale(self._inbox.head) and head is not None and isinstance(head.policy, Resync):
            return head
        return None

    def _without_room(self, message: DataFrame, kind: Class, by_limit: bool, by_age: bool) -> Verdict:
        policy = kind.policy.otherwise if isinstance(kind.policy, Conflate) else kind.policy
        if isinstance(policy, Block):
            if by_limit and isinstance(kind.policy, Conflate):
                self._tell_no_room(kind)
            return self._queue(message, kind, by_age=by_age, block=True)
        if isinstance(policy, DropOldest):
            # It makes nothing younger if the newest goes.
            return self._lose(Loss.DROPPED_OLDEST, kind) if by_limit else self._queue(message, kind)
        if isinstance(policy, DropNewest):
            return self._lose(Loss.DROPPED_NEWEST, kind)
        if isinstance(policy, Disconnect):
            return self._disconnect(policy)
        assert kind.slot is not None  # Resync has its key, or it would be its `otherwise`.
        self._give_up(kind.slot)
        return self._lose(Loss.RESYNC, kind)

    def _disconnect(self, policy: Disconnect) -> Verdict:
        self._losses.add(Loss.DISCARDED)
        self._notices.add(Notice.DISCONNECT, policy.reason, policy.code)
        return Verdict.DEAD

    def _tell_no_room(self, kind: Class) -> None:
        if not self._told_no_room:
            self._told_no_room = True
            self._notices.add(Notice.NO_ROOM, kind.key, self._inbox.messages)

    def _queue(self, message: DataFrame, kind: Class, *, by_age: bool = False, block: bool = False) -> Verdict:
        self._inbox.add(message, kind)
        block = block or isinstance(kind.policy, Block)
        self._full_by_limit = block and self._inbox.over_limit
        self._full_by_age = by_age
        return Verdict.FULL if self._full_by_limit or self._full_by_age else Verdict.QUEUED

    def _lose(self, loss: Loss, kind: Class) -> Verdict:
        self._losses.add(loss, kind.key)
        return Verdict.GONE

    def _give_up(self, slot: Slot) -> None:
        self._given_up.add(slot)
        self._losses.add(Loss.RESYNC, slot[1], self._inbox.give_up(slot))
        self._notices.add(Notice.RESYNC, slot[1])

    @property
    def given_up(self) -> list[str]:
        """Keys whose messages are dropped, in alphabetical order."""
        return sorted({key for _, key in self._given_up})

    def resynced(self, key: str) -> None:
        """Admit messages of a key again."""
        self._given_up = {slot for slot in self._given_up if slot[1] != key}

    # Age.

    def _set_horizon(self) -> None:
        if self._max_age_ns is not None:
            self._horizon_ns = time.monotonic_ns() - self._max_age_ns

    def _is_stale(self, message: DataFrame | None) -> bool:
        return message is not None and self._max_age_ns is not None and message.received_ns < self._horizon_ns

    def _expire_droppable(self) -> None:
        while self._is_stale(self._inbox.oldest_droppable()):
            self._losses.add(Loss.EXPIRED, self._inbox.drop_oldest().key)

    def expire_head(self) -> None:
        """Before the consumer takes a message: what is too old at the head of the queue goes, if it may be dropped."""
        self._set_horizon()
        while self._is_stale(self._inbox.head):
            head = self._inbox.head_class()
            if head is None or not isinstance(head.policy, DropOldest):
                return
            self._losses.add(Loss.EXPIRED, self._inbox.drop_oldest().key)


def _age_ns(seconds: float) -> int:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise TypeError(f"max_queue_age is {seconds!r}, must be a number of seconds")
    if not (math.isfinite(seconds) and seconds > 0):
        raise ValueError(f"max_queue_age is {seconds}, must be finite and more than 0")
    return round(seconds * 1e9)
